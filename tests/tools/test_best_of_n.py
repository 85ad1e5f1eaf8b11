"""Best of n: lines come back ranked, a stopped run goes on, and bad lines are named."""

import json

import pytest
from scripted_engine import ScriptedEngine
from tiny_release import write_release

from grm_jax.reward.judging import GRMReward
from grm_jax.sampling.config import DrawConfig
from grm_jax.text.chat_templates import load_tokenizer
from tools import best_of_n

ROWS = [{"prompt": f"q{i}", "responses": ["good 1", "good 8", "good 4"], "id": i} for i in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "policy"
    write_release(path)
    return path


@pytest.fixture
def reward(folder):
    draw = DrawConfig(k=2, max_new_tokens=64, form="compact", binary_singles=False)
    return GRMReward(ScriptedEngine(), load_tokenizer(folder), draw)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rank(reward, data, out, **changes):
    return best_of_n.rank(reward, data, out, **{"seed": 0, "batch": 2, "samples": False} | changes)


def test_lines_come_back_with_their_fields_and_a_ranking(reward, tmp_path):
    data, out = write(tmp_path / "data.jsonl", ROWS), tmp_path / "new" / "out.jsonl"
    assert rank(reward, data, out, samples=True) == (5, 0)
    rows = read(out)
    assert [{k: v for k, v in row.items() if k != "judgement"} for row in rows] == ROWS
    told = rows[0]["judgement"]
    assert (told["line"], told["ranking"], told["verdict"]) == (1, [1, 2, 0], 1)
    assert told["low"][1] <= told["scores"][1] <= told["high"][1]
    assert (told["shares"], told["votes"], told["parsed"]) == ([0, 1, 0], 2, {"ok": 2})
    assert [len(sample["scores"]) for sample in told["samples"]] == [3, 3]
    assert told["samples"][0]["critique"].startswith("Analysis:")


def test_a_stopped_run_goes_on_to_the_same_bytes(reward, tmp_path):
    data = write(tmp_path / "data.jsonl", ROWS)
    rank(reward, data, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        out = tmp_path / "out.jsonl"
        out.write_bytes(whole[:cut])
        assert rank(reward, data, out, batch=3) == (5, 0)
        assert out.read_bytes() == whole
    asked = len(reward.engine.prompts)
    rank(reward, data, out)
    assert len(reward.engine.prompts) == asked  # nothing is judged again


def test_what_another_run_wrote_is_not_appended_to(reward, tmp_path):
    data, out = write(tmp_path / "data.jsonl", ROWS), tmp_path / "out.jsonl"
    rank(reward, data, out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"out.jsonl:1: field 'fingerprint': '\w+' is not one of"):
        rank(reward, data, out, seed=1)
    write(data, [ROWS[0] | {"prompt": "another"}, *ROWS[1:]])
    with pytest.raises(ValueError, match="out.jsonl:1: field 'line': line 1 of .* is another one"):
        rank(reward, data, out)
    write(data, ROWS)
    assert out.read_bytes() == before
    write(out, [{"id": 1}])
    with pytest.raises(ValueError, match="out.jsonl:1: field 'judgement': is missing"):
        rank(reward, data, out)


def test_bad_lines_are_named_skipped_and_counted(reward, tmp_path, capsys):
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    lines = [
        json.dumps(ROWS[0]), "", "{broken", "[1]", '{"prompt": "q"}',
        '{"prompt": "q", "messages": [], "responses": ["a"]}',
        '{"prompt": "q", "responses": ["good 1", null]}', '{"prompt": 1, "responses": ["good 1"]}',
        '{"prompt": "q", "responses": ["good 1"], "judgement": {}}',
        '{"prompt": "q", "responses": ["good 1"], "principles": 3}',
        '{"prompt": "q", "responses": ["silent 1", "good 2"]}',
    ]  # fmt: skip
    data.write_text("\n".join(lines) + "\n")
    assert rank(reward, data, out) == (2, 8)
    named = capsys.readouterr().err.splitlines()
    for line, problem in zip(
        named,
        ["3: damaged, not JSON", "4: expected a JSON object", "5: field 'responses': is missing",
         "6: field 'messages': give exactly one", r"7: field 'responses[1]': expected a string",
         "8: field 'prompt': expected str", "9: field 'judgement': is there already",
         "10: field 'principles': expected a string"],
        strict=True,
    ):  # fmt: skip
        assert line.startswith(f"skipped: {data}:{problem}"), line
    silent = read(out)[1]["judgement"]
    assert silent["line"] == 11 and silent["scores"] is silent["ranking"] is silent["low"] is None
    assert silent["reason"].startswith("no sample has scores")
    assert rank(reward, data, out) == (2, 8)
    assert capsys.readouterr().err == ""  # named once


def test_the_command_ranks_with_a_folder(folder, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", ROWS[:1])
    argv = [f"--data={data}", f"--model={folder}", f"--out={tmp_path / 'out.jsonl'}", "--k=2"]
    argv += [
        "--max_new_tokens=4",
        "--prompt_lengths=1024",
        "--form=compact",
        "--samples_per_unit=1",
    ]
    best_of_n.main(argv)
    assert "1 lines ranked, 0 bad lines skipped" in capsys.readouterr().out
    (row,) = read(tmp_path / "out.jsonl")
    assert row["judgement"]["scores"] is None and row["judgement"]["tokens"] > 0
    with pytest.raises(ValueError, match="batch: must be at least 1"):
        best_of_n.main([*argv, "--batch=0"])
    with pytest.raises(ValueError, match="is the data itself"):
        best_of_n.main([*argv, f"--out={data}"])
