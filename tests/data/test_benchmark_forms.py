"""The other suites and forms: made-up rows in the official formats, and the real files."""

import gzip
import json
import zipfile
from collections import Counter

import pytest

from grm_jax.data.benchmarks import SUITES, load_suite, realmistake, row_of
from grm_jax.data.comparison import FieldError
from grm_jax.text.prompts import (
    Message,
    grm_prompt,
    judge_prompt,
    meta_rm_prompt,
    principles_prompt,
)


def write(path, rows):
    """Rows in the format that the ending of the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)


def rewardbench_row(i, **changes):
    row = {"id": i, "prompt": f"Say {i}.", "chosen": f"{i}", "rejected": "no", "subset": "hep-go"}
    return {**row, **changes}


def rewardbench2_row(name, subset="Math", right=1, **changes):
    row = {
        "id": name, "prompt": "Name a colour.", "subset": subset,
        "chosen": [f"right {i}" for i in range(right)],
        "rejected": [f"wrong {i}" for i in range(3)],
    }  # fmt: skip
    return {**row, **changes}


def ppe_preference_row(i, winner="model_a", **changes):
    row = {
        "question_id": f"q{i}", "winner": winner, "prompt": "Hello?", "response_1": "one",
        "response_2": "two", "language": "English", "model_a": "x", "model_b": "y",
    }  # fmt: skip
    return {**row, **changes}


def ppe_correctness_row(i, **changes):
    row = {
        "question_id": f"q{i}", "prompt": f"Solve {i}.", "model_name": "m",
        "scores": [j % 4 == 0 for j in range(32)],
        "sampled_conflict_pairs": [[0, 1], [7, 4], [0, 1], [31, 28]],
        **{f"response_{j + 1}": f"answer {j}" for j in range(32)},
    }  # fmt: skip
    return {**row, **changes}


def rmb_pair_row(i, path="Pairwise_set/Harmlessness/S1", **changes):
    row = {
        "pair_uid": f"p{i}", "category_path": path,
        "conversation_input": [{"role": "user", "content": "Hello", "language": "English"}],
        "chosen": {"llm_name": "a", "answer": "good"},
        "reject": {"llm_name": "b", "answer": "bad"},
    }  # fmt: skip
    return {**row, **changes}


def rmb_list_row(i, path, losers):
    return {
        "bon_uid": f"l{i}", "category_path": path,
        "conversation_input": [{"role": "user", "content": "Hello", "language": "English"}],
        "bon_best": {"llm_name": "a", "answer": "best"},
        "loser_list": [{"llm_name": f"m{j}", "answer": f"loser {j}"} for j in range(losers)],
    }  # fmt: skip


def rmbench_row(i, **changes):
    row = {
        "id": i, "prompt": f"Say {i}.", "chosen": [f"c{j}" for j in range(3)],
        "rejected": [f"r{j}" for j in range(3)],
    }  # fmt: skip
    return {**row, **changes}


def realmistake_row(label="error", **changes):
    row = {"input": "A task.", "llm_response": "SECRET", "error_label": label,
           "error_categories": []}  # fmt: skip
    return {**row, **changes}


def autoj_row(label, **changes):
    row = {"scenario": "math", "label": label, "prompt": "1 + 1?", "response 1": "2",
           "response 2": "3"}  # fmt: skip
    return {**row, **changes}


def pandalm_row(i, votes=(1, 1, 0), **changes):
    row = {
        "idx": i, "motivation_app": "x", "instruction": "Translate.", "input": "Haus",
        "response1": "house", "response2": "mouse",
        **{f"annotator{a + 1}": vote for a, vote in enumerate(votes)},
    }  # fmt: skip
    return {**row, **changes}


def lock(path, subsets, method=zipfile.ZIP_STORED):
    """An archive as the official one, but without its encryption, which zipfile cannot write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for subset, rows in subsets.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            archive.writestr(f"data/{subset}.jsonl", lines)


@pytest.mark.parametrize(
    "name",
    ["filtered-00000-of-00001.parquet", "filtered.json", "filtered.jsonl", "filtered.jsonl.gz"],
)
def test_rewardbench_in_every_format(tmp_path, name):
    write(tmp_path / "rewardbench" / "data" / name, [rewardbench_row(i) for i in range(40)])
    rows = load_suite("rewardbench", tmp_path)
    assert load_suite("rewardbench", tmp_path / "rewardbench") == rows
    assert rows[3].uid == "rewardbench/hep-go/3" and rows[3].subset == "hep-go"
    assert rows[3].messages == (Message("user", "Say 3."),)
    assert all(row.responses[row.best] == str(i) for i, row in enumerate(rows))
    # Not always in the first place, as the file has it; nor always in the other.
    assert 8 < sum(row.best == 0 for row in rows) < 32
    assert SUITES["rewardbench"].coverage(rows) == "40 of 2985 rows"


def test_rewardbench2_keeps_both_halves_of_a_tied_prompt_together(tmp_path):
    rows = [rewardbench2_row(f"m{i}") for i in range(8)]
    for i in range(4):
        rows.append(rewardbench2_row(f"ref:{i}", "Ties"))
        rows.append(rewardbench2_row(f"tied:{i}", "Ties", right=5))
    write(tmp_path / "rewardbench2" / "test.jsonl", rows)
    found = load_suite("rewardbench2", tmp_path)
    sizes = [(c.n, len(c.winners)) for c in found[6:12]]
    assert sizes == [(4, 1), (4, 1), (4, 1), (8, 5), (4, 1), (8, 5)]
    assert {c.best for c in found[:8]} != {0}
    for comparison in found:
        right = [comparison.responses[i] for i in comparison.winners]
        wrong = [text for text in comparison.responses if text not in right]
        assert right == [f"right {i}" for i in range(len(right))]
        assert wrong == [f"wrong {i}" for i in range(3)]
    assert found[9].meta == {"half": "tied", "prompt": "0", "row": "rewardbench2/Ties/0"}
    some = load_suite("rewardbench2", tmp_path, limit=6)  # 8 rows and 4 pairs of halves
    assert Counter(c.meta["prompt"] for c in some if c.subset == "Ties") == {"1": 2, "3": 2}


def test_ppe_preference_counts_ties_and_judges_the_rest(tmp_path):
    winners = ["model_a", "model_b", "tie", "tie (bothbad)"]
    rows = [ppe_preference_row(i, winner) for i, winner in enumerate(winners)]
    write(tmp_path / "ppe" / "preference" / "test-00000-of-00001.jsonl", rows)
    suite, found = SUITES["ppe_preference"], load_suite("ppe_preference", tmp_path)
    assert suite.coverage(found) == "4 of 16038 rows"
    assert [c.best for c in suite.judged(found)] == [0, 1]
    with pytest.raises(ValueError, match="several responses are best"):
        _ = found[2].best


def test_ppe_correctness_counts_pairs_from_0_and_columns_from_1(tmp_path):
    rows = [ppe_correctness_row(i) for i in range(2)]
    write(tmp_path / "ppe" / "mbpp_plus" / "train.jsonl", rows)
    pairs = load_suite("ppe_correctness", tmp_path)
    assert [c.uid.rpartition("/")[2] for c in pairs] == ["0-1", "7-4", "31-28"] * 2
    assert pairs[1].responses == ("answer 7", "answer 4") and pairs[1].best == 1
    assert pairs[0].best == 0 and pairs[0].subset == "MBPP-Plus"
    assert row_of(pairs[0]) == row_of(pairs[2]) == "ppe_correctness/MBPP-Plus/q0"
    assert SUITES["ppe_correctness"].coverage(pairs) == "2 of 2555 rows"
    assert len(load_suite("ppe_correctness", tmp_path, limit=1)) == 3
    lists = load_suite("ppe_best_of_k", tmp_path)
    assert [c.n for c in lists] == [32, 32] and lists[0].winners == tuple(range(0, 32, 4))
    assert lists[0].responses[31] == "answer 31"


def test_rmb_pairs_of_a_list_are_one_row(tmp_path):
    for goal in ("Helpfulness/Code/Documentation", "Harmlessness/S1"):
        rows = [rmb_list_row(f"{goal}{i}", f"BoN_set/{goal}", 2 + i) for i in range(2)]
        write(tmp_path / "rmb" / "BoN_set" / f"{goal}.json", rows)
        rows = [rmb_pair_row(f"{goal}{i}", f"Pairwise_set/{goal}") for i in range(3)]
        write(tmp_path / "rmb" / "Pairwise_set" / f"{goal}.json", rows)
    pairs = load_suite("rmb_pairs", tmp_path)
    sizes = list(Counter(map(row_of, pairs)).values())
    assert sizes == [2, 3, 2, 3] and all(c.n == 2 for c in pairs)
    assert all(c.responses[c.best] == "best" for c in pairs)
    assert [c.responses[1 - c.best] for c in pairs[2:5]] == ["loser 0", "loser 1", "loser 2"]
    assert pairs[0].meta["llm_names"][pairs[0].best] == "a"
    assert SUITES["rmb_pairs"].coverage(pairs) == "4 of 3786 rows"
    single = load_suite("rmb_pairwise", tmp_path)
    assert [c.responses[c.best] for c in single] == ["good"] * 6
    assert SUITES["rmb_pairwise"].coverage(single) == "6 of 17131 rows"


def test_rmbench_as_nine_pairs_and_as_one_list(tmp_path):
    write(tmp_path / "rmbench" / "chat_filtered.json", [rmbench_row(i) for i in range(6)])
    write(tmp_path / "rmbench" / "safety-refuse_filtered.json", [rmbench_row(0)])
    pairs = load_suite("rmbench", tmp_path)
    assert len(pairs) == 63 and {len(c.responses) for c in pairs} == {2}
    cells = {(c.meta["chosen"], c.meta["rejected"]) for c in pairs[:9]}
    assert cells == {(i, j) for i in range(3) for j in range(3)}
    for c in pairs:
        assert c.responses[c.best] == f"c{c.meta['chosen']}"
        assert c.responses[1 - c.best] == f"r{c.meta['rejected']}"
    assert SUITES["rmbench"].coverage(pairs) == "7 of 1327 rows"
    assert len({row_of(c) for c in load_suite("rmbench", tmp_path, limit=3)}) == 3
    lists = load_suite("rmbench_list", tmp_path)
    assert len({c.meta["styles"][0] for c in lists}) > 1
    for c in lists:
        names = [*(f"c{j}" for j in range(3)), *(f"r{j}" for j in range(3))]
        assert [names[style] for style in c.meta["styles"]] == list(c.responses)
        assert all(text.startswith("c") for i, text in enumerate(c.responses) if i in c.winners)
        assert len(c.winners) == 3


def test_realmistake_is_read_from_the_archive_and_never_quoted(tmp_path):
    subsets = {subset: [realmistake_row("error"), realmistake_row("no_error")]
               for subset in realmistake.ROWS}  # fmt: skip
    path = tmp_path / "realmistake" / "data.zip"
    lock(path, subsets)
    rows = load_suite("realmistake", tmp_path)
    assert [c.label for c in rows] == [0, 1] * 6 and all(c.n == 1 for c in rows)
    assert rows[0].uid == "realmistake/math_word_problem_generation/gpt-4-0613/0"
    assert SUITES["realmistake"].private
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "realmistake", path]  # nothing unpacked
    for changes in ({"error_label": "SECRET?"}, {"llm_response": ["SECRET"]}, {"input": 3}):
        first = next(iter(subsets))
        lock(path, {**subsets, first: [realmistake_row(**changes)]})
        with pytest.raises(FieldError) as caught:
            load_suite("realmistake", tmp_path)
        assert str(caught.value).startswith(f"{path}/data/{first}.jsonl:1: field ")
        assert "SECRET" not in str(caught.value)
    lock(path, dict(list(subsets.items())[1:]))
    with pytest.raises(ValueError, match="expected the file data/math_word"):
        load_suite("realmistake", tmp_path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged"):
        load_suite("realmistake", tmp_path)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        lock(path, subsets, method)
        assert len(load_suite("realmistake", tmp_path)) == 12
        whole = bytearray(path.read_bytes())
        whole[120:150] = bytes(30)  # inside the first file
        path.write_bytes(whole)
        with pytest.raises(ValueError, match="data.zip.*damaged"):
            load_suite("realmistake", tmp_path)


def test_autoj_and_pandalm_have_ties_of_people(tmp_path):
    write(tmp_path / "autoj" / "testdata_pairwise.jsonl", [autoj_row(i) for i in (0, 1, 2)])
    rows = load_suite("autoj", tmp_path)
    assert [c.winners for c in rows] == [(0,), (1,), (0, 1)]
    assert rows[0].responses == ("2", "3") and rows[0].meta == {"scenario": "math"}
    assert SUITES["autoj"].judged(rows) == rows
    votes = [(1, 1, 0), (2, 0, 2), (0, 0, 1)]
    rows = [pandalm_row(i, three) for i, three in enumerate(votes)]
    write(tmp_path / "pandalm" / "testset-v1.json", rows)
    rows = load_suite("pandalm", tmp_path)
    assert [c.winners for c in rows] == [(0,), (1,), (0, 1)]
    assert rows[0].messages == (Message("user", "Translate.\n\nHaus"),)


def test_own_data_in_both_formats(tmp_path):
    write(tmp_path / "own" / "a.jsonl", [
        {"uid": "x", "prompt": "q", "responses": ["a", "b", "c"], "best": 2, "subset": "s"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "good", "rejected": "bad"},
    ])  # fmt: skip
    write(tmp_path / "own" / "b.jsonl.gz", [{"prompt": "q", "chosen": "yes", "rejected": "no"}])
    rows = load_suite("own", tmp_path)
    assert [c.uid for c in rows] == ["x", "own/a.jsonl/1", "own/b.jsonl.gz/0"]
    assert [c.responses[c.best] for c in rows] == ["c", "good", "yes"]
    suite = SUITES["own"]
    assert suite.coverage(rows) == "3 rows" and suite.is_complete(rows)


@pytest.mark.parametrize(
    ("suite", "path", "good", "changes", "name"),
    [
        ("rewardbench", "rewardbench/filtered.jsonl", rewardbench_row(0),
         {"subset": "?"}, "subset"),
        ("rewardbench", "rewardbench/filtered.jsonl", rewardbench_row(0), {"id": 1.5}, "id"),
        ("rewardbench", "rewardbench/filtered.jsonl", rewardbench_row(0), {}, "uid"),
        ("rewardbench", "rewardbench/filtered.jsonl", rewardbench_row(0), {"chosen": 1}, "chosen"),
        ("rewardbench2", "rewardbench2/test.jsonl", rewardbench2_row("a"),
         {"chosen": ["x", "y"]}, "chosen"),
        ("rewardbench2", "rewardbench2/test.jsonl", rewardbench2_row("a"),
         {"rejected": []}, "rejected"),
        ("rewardbench2", "rewardbench2/test.jsonl", rewardbench2_row("a"),
         {"subset": "Ties", "id": "tie:1"}, "id"),
        ("ppe_preference", "ppe/preference/test.jsonl", ppe_preference_row(0),
         {"winner": "both"}, "winner"),
        ("ppe_correctness", "ppe/gpqa/train.jsonl", ppe_correctness_row(0),
         {"sampled_conflict_pairs": [[0, 4]]}, "sampled_conflict_pairs[0]"),
        ("ppe_correctness", "ppe/gpqa/train.jsonl", ppe_correctness_row(0),
         {"sampled_conflict_pairs": [[0, 32]]}, "sampled_conflict_pairs[0]"),
        ("ppe_best_of_k", "ppe/gpqa/train.jsonl", ppe_correctness_row(0),
         {"scores": [1] * 32}, "scores"),
        ("rmbench", "rmbench/chat_filtered.json", rmbench_row(0), {"chosen": ["a"]}, "chosen"),
        ("rmbench_list", "rmbench/chat_filtered.json", rmbench_row(0),
         {"rejected": ["a", "b", 3]}, "rejected[2]"),
        ("autoj", "autoj/testdata_pairwise.jsonl", autoj_row(0), {"label": 3}, "label"),
        ("autoj", "autoj/testdata_pairwise.jsonl", autoj_row(0), {"response 2": None},
         "response 2"),
        ("pandalm", "pandalm/testset-v1.json", pandalm_row(0), {"annotator2": 3}, "annotator2"),
        ("pandalm", "pandalm/testset-v1.json", pandalm_row(0),
         {"annotator2": 2, "annotator3": 0}, "annotator1"),
        ("pandalm", "pandalm/testset-v1.json", pandalm_row(0), {"response1": 3}, "response1"),
        ("own", "own/a.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"},
         {"rejected": None}, "rejected"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path, suite, path, good, changes, name):
    path = tmp_path / path
    write(path, [good, {**good, **changes}])
    with pytest.raises(FieldError) as caught:
        load_suite(suite, tmp_path)
    place = f"{path}[1]" if path.suffix == ".json" else f"{path}:2"
    assert str(caught.value).startswith(f"{place}: field {name!r}: ")


PAIR = {"role": "user", "content": "Translate"}, {"role": "assistant", "content": "Done."}
ODD_ROWS = [
    # suite, file, row: what its rows may be, and real ones are
    ("rewardbench", "rewardbench/filtered.jsonl", rewardbench_row("7", prompt="")),
    ("rewardbench", "rewardbench/filtered.jsonl", rewardbench_row(7, chosen="", rejected="")),
    ("rewardbench2", "rewardbench2/test.jsonl", rewardbench2_row(7, prompt=" ")),
    ("rewardbench2", "rewardbench2/test.jsonl", rewardbench2_row("7", rejected=["", "", "x"])),
    ("ppe_preference", "ppe/preference/test.jsonl",
     ppe_preference_row(0, response_1="", response_2="", prompt="\n", language=None)),
    ("ppe_correctness", "ppe/gpqa/train.jsonl",
     ppe_correctness_row(0, response_1="", response_2="", model_name=None, canary_string=None)),
    ("ppe_best_of_k", "ppe/gpqa/train.jsonl", ppe_correctness_row(0, scores=[False] * 32)),
    ("rmb_pairwise", "rmb/Pairwise_set/Harmlessness/S1.json", rmb_pair_row(
        0, conversation_input=[*PAIR, {"role": "user", "content": "", "language": None}])),
    ("rmb_pairwise", "rmb/Pairwise_set/Harmlessness/S1.json", rmb_pair_row(
        0, chosen={"llm_name": "a", "answer": ""}, reject={"llm_name": "b", "answer": ""})),
    ("rmb_pairwise", "rmb/Pairwise_set/Harmlessness/S1.json", rmb_pair_row(
        0, conversation_input=[{"role": "system", "content": ""}, PAIR[0], PAIR[0], PAIR[0]])),
    ("rmbench", "rmbench/chat_filtered.json", rmbench_row(0, prompt="", chosen=["", "", ""])),
    ("rmbench_list", "rmbench/chat_filtered.json", rmbench_row(0, rejected=["c0", "", "c1"])),
    ("autoj", "autoj/testdata_pairwise.jsonl", autoj_row(2, prompt="", **{"response 1": "3"})),
    ("pandalm", "pandalm/testset-v1.json", pandalm_row(0, instruction="", input="", response1="")),
    ("own", "own/a.jsonl", {"prompt": "", "chosen": "x", "rejected": "x", "uid": None}),
    ("own", "own/a.jsonl", {"uid": "u", "prompt": "", "responses": ["", ""], "best": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("suite", "path", "row"), ODD_ROWS)
@pytest.mark.parametrize("form", ["full", "compact"])
def test_odd_rows_of_a_benchmark_are_judged_as_they_are(tmp_path, suite, path, row, form):
    write(tmp_path / path, [row])
    other = "Helpfulness/Chat/Discussion"
    if suite == "rmb_pairwise":
        write(
            tmp_path / f"rmb/Pairwise_set/{other}.json",
            [rmb_pair_row(1, f"Pairwise_set/{other}")],
        )
    found = load_suite(suite, tmp_path)
    assert sum(SUITES[suite].subset_rows is None or row_of(c) != "" for c in found) == len(found)
    assert len({row_of(c) for c in found}) == (2 if suite == "rmb_pairwise" else 1)
    for c in found:
        for text in (grm_prompt(c.messages, c.responses, form=form),
                     judge_prompt(c.messages, c.responses, form=form),
                     meta_rm_prompt(c.messages, c.responses, form=form)):  # fmt: skip
            assert f"[The Begin of Response {c.n}]" in text
        assert principles_prompt(c.messages, form=form)


def test_a_conflict_pair_in_both_directions_is_one_pair(tmp_path):
    pairs = [[0, 1], [1, 0], [4, 1]]
    write(tmp_path / "ppe/gpqa/train.jsonl", [ppe_correctness_row(0, sampled_conflict_pairs=pairs)])
    uids = [c.uid.rpartition("/")[2] for c in load_suite("ppe_correctness", tmp_path)]
    assert uids == ["0-1", "4-1"]


def test_the_home_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "suites/own/a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    assert len(load_suite("own", "~/suites")) == 1


def test_hidden_files_are_no_data(tmp_path):
    write(tmp_path / "own/a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    for name in ("._a.jsonl", ".a.jsonl"):
        (tmp_path / "own" / name).write_bytes(b"\x00\x05\x16\x07")
    assert len(load_suite("own", tmp_path)) == 1


@pytest.mark.parametrize("name", SUITES)
def test_missing_files_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"^{name}: expected the f") as caught:
        load_suite(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "folder", "rows", "comparisons"),
    [
        ("rewardbench", "rewardbench_partial", 1850, 1850),
        ("rmb_pairs", "", 3786, 8714),
        ("rmbench", "", 798, 7182),
        ("rmbench_list", "", 798, 798),
        ("realmistake", "", 900, 900),
        ("pandalm", "", 999, 999),
    ],
)
def test_the_real_files(shared_data, name, folder, rows, comparisons):
    suite, found = SUITES[name], load_suite(name, shared_data / folder)
    assert len(found) == comparisons == len({c.uid for c in found})
    assert suite.coverage(found) == f"{rows} of {suite.expected_rows} rows"
    assert suite.is_complete(found) == (rows == suite.expected_rows)
    if name == "pandalm":
        assert Counter(c.winners for c in found) == {(0,): 422, (1,): 472, (0, 1): 105}
    elif name == "realmistake":
        wrong = Counter(c.subset.partition("/")[2] for c in found if c.label == 0)
        assert wrong == {"gpt-4-0613": 262, "Llama-2-70b-chat-hf": 387}
