"""A release is verified by what its files say, and each thing that can be wrong fails its check."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from tiny_release import write_release

import grm_jax
from experiments import measurement
from grm_jax.models import hub
from grm_jax.models.hub import names
from grm_jax.models.variants import PUBLISHED_PARAMETERS, VARIANTS
from grm_jax.text.prompts import Message, grm_prompt
from tools import errors_in_one_line, outputs, verify_release

ROW = re.compile(r"(.{22}) (ok|FAILED|near-tie|skipped|-) +(.*)")
PROMPT = grm_prompt([Message("user", "Count!")], ["1, 2.", "2, 1."], form="compact")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A policy, a reward model, and a record of each."""
    root = tmp_path_factory.mktemp("releases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_release, "PROMPT", PROMPT)
        for name in ("policy", "judge"):
            write_release(root / name, reward=name == "judge")
            record = f"--record={root / name}.json"
            verify_release.main([f"--checkpoint={root / name}", record, "--tokens=6"])
    return root


@pytest.fixture
def verify(capsys):
    """Runs the tool; the exit code, and the result and the finding of each check."""

    def run(folder, *flags):
        code = verify_release.main([f"--checkpoint={folder}", *flags])
        rows = filter(None, map(ROW.fullmatch, capsys.readouterr().out.splitlines()))
        return code, {row[1].strip(): (row[2], row[3]) for row in rows}

    return run


def read(root, name="policy"):
    return json.loads((root / f"{name}.json").read_text())


def against(path, record, **changes):
    path.write_text(json.dumps(record | changes))
    return f"--against={path}"


def failed(rows):
    return [check for check, (result, _) in rows.items() if result == "FAILED"]


@pytest.mark.parametrize("name", ["policy", "judge"])
def test_a_release_agrees_with_its_own_record(root, verify, name):
    record, reward = read(root, name), name == "judge"
    params = hub.load(root / name).params
    assert record["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert record["versions"] == {"jax": jax.__version__, "grm_jax": grm_jax.__version__}
    assert len(record["tokens"]) == len(record["logprobs"]) == (0 if reward else 6)
    assert (record["reward"] is not None) is reward
    assert record["prompt"] == PROMPT and record["prompt_ids"][0] == 2
    assert not [path for path in root.iterdir() if path.name.startswith(".")]

    code, rows = verify(root / name, f"--against={root / name}.json")
    assert code == 0
    golden = "reward" if reward else "greedy tokens"
    assert {check: result for check, (result, _) in rows.items()} == {
        "variant": "-", "elements in the files": "ok", "parameters": "ok",
        "tokenizer": "ok", "tokenizer_rules": "ok",
        "chat_template": "ok", "prompt_ids": "ok", golden: "ok", "RMB best-of-N": "skipped",
    }  # fmt: skip
    assert rows["variant"][1] == "no published variant has these shapes"
    assert rows["parameters"][1] == f"{record['parameters']:,}"
    assert rows["tokenizer"][1] == record["tokenizer"] != record["chat_template"]


@pytest.mark.parametrize(
    ("name", "field", "change", "check"),
    [
        ("policy", "parameters", lambda x: x + 1, "parameters"),
        ("policy", "tokenizer", lambda x: x[::-1], "tokenizer"),
        ("policy", "chat_template", lambda x: x[::-1], "chat_template"),
        ("policy", "prompt_ids", lambda x: [*x[:5], x[5] ^ 1, *x[6:]], "prompt_ids"),
        ("policy", "tokens", lambda x: [*x[:2], x[2] ^ 1, *x[3:]], "greedy tokens"),
        ("judge", "reward", lambda x: x + 3e-4, "reward"),
        ("judge", "reward", lambda x: x - 5e-5, None),
    ],
)
def test_each_recorded_fact_is_compared(root, verify, tmp_path, name, field, change, check):
    record = read(root, name)
    changed = change(record[field])
    flag = against(tmp_path / "r.json", record, **{field: changed})
    code, rows = verify(root / name, flag)
    assert failed(rows) == ([check] if check else []) and code == len(failed(rows))
    if field == "parameters":
        assert rows[field][1] == f"{record[field]:,}, expected {changed:,}"
    if field == "prompt_ids":
        assert rows[field][1].endswith(" ids, expected others from position 5 on")
    if field == "tokens":
        here, there = record["tokens"][2], changed[2]
        tokens = np.asarray([record["prompt_ids"] + record["tokens"][:2]])
        checkpoint = outputs.load(root / name, "float32")
        logits = outputs.outputs(checkpoint, tokens, np.ones_like(tokens))[0, -1]
        gap = logits[here] - logits[there]
        start = f"first difference at position 2: {here}, recorded {there}, log-prob gap {gap:.1e}"
        assert rows["greedy tokens"][1].startswith(start)


def test_other_weights_fail_and_a_tie_does_not(root, verify, tmp_path):
    record = read(root)
    first = record["tokens"][0]
    twin = min({*range(400)} - {*record["prompt_ids"], *record["tokens"]})

    def copy(name, change):
        config, params, _ = hub.load(root / "policy")
        params["embedding"] = change(params["embedding"])
        hub.save(tmp_path / name, config, params)
        hub.copy_small_files(root / "policy", tmp_path / name)
        return tmp_path / name

    code, rows = verify(copy("other", lambda x: -x), f"--against={root / 'policy.json'}")
    assert code == 1 and failed(rows) == ["greedy tokens"]
    # A token that nobody wrote gets the row of the first one, so that both have one log-prob.
    tie = copy("tie", lambda x: x.at[twin].set(x[first]))
    tokens = [max(first, twin)] * 6  # of two equal ones the smaller id is drawn
    code, rows = verify(tie, against(tmp_path / "r.json", record, tokens=tokens))
    assert code == 0 and rows["greedy tokens"][0] == "near-tie"
    assert "position 0" in rows["greedy tokens"][1] and "gap 0.0e+00" in rows["greedy tokens"][1]


@pytest.mark.parametrize(
    ("dtype", "gap", "apart", "result"),
    [
        ("float32", 9e-5, 9e-5, "near-tie"),
        ("float32", 2e-4, 0.0, "FAILED"),
        ("float32", 0.0, 2e-4, "FAILED"),
        ("bfloat16", 0.0, 0.0, "FAILED"),
        ("float32", np.nan, 0.0, "FAILED"),
    ],
)
def test_only_close_log_probs_make_a_near_tie(dtype, gap, apart, result):
    facts = {"dtype": dtype, "tokens": [4, 5, 6], "logprobs": [-1.0, -2.0, -3.0]}
    record = {"tokens": [4, 5, 7], "logprobs": [-1.0, -2.0 - apart, -9.0]}
    asked = []

    def after(*tokens):
        asked.append(tokens)
        return np.asarray([0, 0, 0, 0, 0, 0, 1, 1 - gap])

    check, found, text = verify_release.tokens_row(facts, record, after)
    assert (check, found, asked) == ("greedy tokens", result, [(4, 5)])
    assert f"log-probs before within {apart:.1e}" in text


def test_an_earlier_stop_fails():
    facts = {"dtype": "float32", "tokens": [4, 5], "logprobs": [-1.0, -2.0]}
    record = {"tokens": [4, 5, 7], "logprobs": [-1.0, -2.0, -9.0]}
    row = verify_release.tokens_row(facts, record, lambda *tokens: None)
    assert row == ("greedy tokens", "FAILED", "they stop after 2, 3 are recorded")


def test_weights_that_are_not_finite_are_not_recorded(root, verify, tmp_path, monkeypatch):
    monkeypatch.setattr(verify_release, "PROMPT", PROMPT)
    config, params, _ = hub.load(root / "policy")
    params["final_norm"]["scale"] = params["final_norm"]["scale"] * np.nan
    hub.save(tmp_path / "model", config, params)
    hub.copy_small_files(root / "policy", tmp_path / "model")
    path = tmp_path / "new.json"
    code, rows = verify(tmp_path / "model", f"--record={path}", "--tokens=6")
    assert code == 1 and rows["greedy tokens"] == ("FAILED", "their log-probs are not finite")
    assert "record" not in rows and not path.exists()


# Counts.


@pytest.mark.parametrize(
    ("variant", "reward"), [("tiny", False), ("tiny_deepseek", False), ("tiny_deepseek", True)]
)
def test_counts_and_settings_against_the_published_ones(variant, reward, tmp_path, monkeypatch):
    params, _ = write_release(tmp_path / "model", variant, reward=reward)
    config = hub.read_config(tmp_path / "model")
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    monkeypatch.setitem(VARIANTS, "it", config.replace(remat="full"))
    monkeypatch.setitem(PUBLISHED_PARAMETERS, "it", total)
    gone = params["lm_head"].size if reward else 0

    def rows():
        count, rows = verify_release.shape_rows(tmp_path / "model", config, reward)
        assert count == total - gone
        return {check: (result, found) for check, result, found in rows}

    shown = f"{total - gone:,}"
    assert rows() == {
        "variant": ("ok", "it"), "published parameters": ("ok", shown),
        "elements in the files": ("ok", shown),
    }  # fmt: skip
    monkeypatch.setitem(PUBLISHED_PARAMETERS, "it", total + 1)
    expected = f"{shown}, expected {total - gone + 1:,}"
    assert rows()["published parameters"] == ("FAILED", expected)
    monkeypatch.setitem(VARIANTS, "it", dataclasses.replace(config, rope_theta=5.0))
    assert rows()["variant"] == ("FAILED", "it.rope_theta: 5.0 there, 10000.0 now")


def test_files_that_lack_a_tensor_fail_before_they_are_read(root, tmp_path, capsys):
    shutil.copytree(root / "policy", tmp_path / "model")
    config, params, _ = hub.load(root / "policy")
    shutil.rmtree(tmp_path / "model")
    hub.save(tmp_path / "model", config, params, max_shard_bytes=20_000)
    hub.copy_small_files(root / "policy", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    gone = index["weight_map"].pop(names.EMBEDDING)
    assert gone not in index["weight_map"].values()
    path.write_text(json.dumps(index))
    message = f"error: (.|\n)*{names.EMBEDDING}: .*missing"
    with pytest.raises(SystemExit, match=message), errors_in_one_line():
        verify_release.main([f"--checkpoint={tmp_path / 'model'}"])
    rest = f"{read(root)['parameters'] - params['embedding'].size:,}"
    assert f"elements in the files  FAILED    {rest}, expected" in capsys.readouterr().out


# Rows of RMB.


@pytest.fixture(scope="module")
def rmb(tmp_path_factory):
    """Best-of-N lists as the official files have them: three helpful ones, one harmless."""
    folder = tmp_path_factory.mktemp("data")
    for path, rows in (("Helpfulness/Chat", 3), ("Harmlessness/S1", 1)):
        lists = [
            {
                "bon_uid": f"{path}-{i}", "category_path": f"BoN_set/{path}",
                "conversation_input": [{"role": "user", "content": "Hi", "language": None}],
                "bon_best": {"llm_name": "a", "answer": f"Hello {i}."},
                "loser_list": [{"llm_name": "b", "answer": f"No {j}."} for j in range(i + 1)],
            }
            for i in range(rows)
        ]  # fmt: skip
        file = folder / "rmb" / "BoN_set" / f"{path}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(lists))
    return folder


def test_rows_of_rmb_are_drawn_and_counted_by_the_benchmark(root, rmb, tmp_path):
    flags = [f"--checkpoint={root / 'policy'}", f"--data_dir={rmb}", f"--workdir={tmp_path / 'w'}"]
    run = verify_release.rmb_run(verify_release.parse([*flags, "--runlocal"]), "float32")
    comparisons = measurement.load_comparisons(run, measurement.read_config(run))

    # Nothing parses, so a list of n responses earns 1 / n: 1/2, 1/3, 1/4 and 1/2.
    check, result, found = verify_release.rmb_row(run, comparisons, None)
    assert (check, result) == ("RMB best-of-N", "-")
    start = "4 of 3786 rows: 39.6 (29.2 to 50.0), 100% of answers unparsed; "
    assert found == f"{start}no published value for these shapes"
    paths = list((tmp_path / "w" / "trajectories").iterdir())
    assert [path.name for path in paths] == ["benchmark_rmb_bon_released_greedy.jsonl"]
    drawn = paths[0].read_bytes()
    inside, outside = "published 35.0, inside the interval", "published 65.0, outside"
    for helpful, result, verdict in ((40.0, "ok", inside), (80.0, "FAILED", outside)):
        paper = {"Helpfulness": helpful, "Harmlessness": 20.0}
        row = verify_release.rmb_row(run, comparisons, paper)
        assert row == (check, result, start + verdict)
    assert paths[0].read_bytes() == drawn


def test_real_rows_of_rmb(root, shared_data, verify, tmp_path):
    code, rows = verify(
        root / "policy", f"--against={root / 'policy.json'}", f"--data_dir={shared_data}",
        "--rows=2", "--runlocal", f"--workdir={tmp_path / 'w'}",
    )  # fmt: skip
    assert code == 0 and rows["RMB best-of-N"][0] == "-"
    assert rows["RMB best-of-N"][1].startswith("2 of 3786 rows: ")


def test_the_published_values_are_those_of_the_variant():
    assert set(verify_release.PAPER_RMB) <= set(PUBLISHED_PARAMETERS)
    for words in ("62.3 on Helpfulness", "57.0 on\n  Harmlessness", "Table 10"):
        assert words in verify_release.__doc__


# Bad input.


@pytest.mark.parametrize(
    ("flags", "change", "message"),
    [
        (["--checkpoint=nowhere"], None, "nowhere"),
        (["--data_dir=nowhere"], None, "rmb_bon: expected the folder nowhere"),
        (["--data_dir={rmb}", "--rows=0"], None, "limit: must be at least 1"),
        (["--against=nowhere.json"], None, "nowhere.json"),
        (["--against={judge}"], None, "not what --record writes for such a model"),
        ([], "[", "not what --record writes"),
        ([], "[1]", "not what --record writes"),
        ([], {"prompt_ids": [999]}, "not what --record writes"),
        ([], {"tokens": []}, "not what --record writes"),
        ([], {"tokens": [], "logprobs": []}, "not what --record writes"),
        ([], {"dtype": "int8"}, "not what --record writes"),
        ([], {"versions": None}, "not what --record writes"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    root, rmb, flags, change, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [f"--checkpoint={root / 'policy'}"]
    arguments += [flag.format(rmb=rmb, judge=root / "judge.json") for flag in flags]
    if change is not None:
        (tmp_path / "r.json").write_text(change if isinstance(change, str) else "")
        arguments.append("--against=r.json")
        if isinstance(change, dict):
            against(tmp_path / "r.json", read(root), **change)
    with pytest.raises(SystemExit) as stopped, errors_in_one_line():
        verify_release.main(arguments)
    text = str(stopped.value.code)
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--record={record}"], "policy.json exists and is not replaced"),
        (["--against={record}", "--tokens=3"], "--against takes --tokens and --dtype from"),
        (["--against={record}", "--record=new.json"], "and writes none"),
        (["--tokens=0"], "--tokens must be at least 1, got 0"),
    ],
)
def test_flags_that_contradict_each_other(root, flags, message, capsys):
    flags = [flag.format(record=root / "policy.json") for flag in flags]
    with pytest.raises(SystemExit) as stopped:
        verify_release.main([f"--checkpoint={root / 'policy'}", *flags])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
