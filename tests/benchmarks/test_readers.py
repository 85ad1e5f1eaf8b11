"""Readers of the public benchmarks: made-up rows of the official formats, and the real files."""

import hashlib
import pathlib
import shutil
import zipfile
from collections import Counter

import pytest
from rows import (
    asked,
    autoj_row,
    evouna_row,
    judgebench_row,
    llmbar_row,
    lock,
    own_row,
    pandalm_row,
    ppe_correctness_row,
    ppe_preference_row,
    qa_feedback_row,
    realmistake_row,
    rewardbench2_row,
    rewardbench_row,
    rmb_list_row,
    rmb_pair_row,
    rmbench_row,
    write,
)

from grm_jax import benchmarks
from grm_jax.benchmarks import SUITES, evenly, judgebench, load_suite, realmistake
from grm_jax.benchmarks.suite import row_of
from grm_jax.data.comparison import FieldError
from grm_jax.text.prompts import (
    Message,
    grm_prompt,
    judge_prompt,
    meta_rm_prompt,
    principles_prompt,
)
from tools.download import download

LLMBAR = ("Natural", *(f"Adversarial/{s}" for s in ("Neighbor", "GPTInst", "GPTOut", "Manual")))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "judgebench" / judgebench.FILE, [judgebench_row(i) for i in range(8)])
    for name in LLMBAR:
        rows = [llmbar_row(i) for i in range(3)]
        write(tmp_path / "llmbar" / "LLMBar" / name / "dataset.json", rows)
    for name in ("Helpfulness/Open QA/Factual", "Harmlessness/S1", "Harmlessness/multi"):
        rows = [rmb_list_row(i, f"BoN_set/{name}", losers=2 + i) for i in range(4)]
        write(tmp_path / "rmb" / "BoN_set" / f"{name}.json", rows)
    return tmp_path


def test_every_file_of_a_benchmark_is_among_the_suites():
    shared = {"__init__", "files", "rules", "suite"}
    files = {path.stem for path in pathlib.Path(benchmarks.__file__).parent.glob("*.py")}
    modules = [getattr(benchmarks, name) for name in sorted(files - shared)]
    assert sorted(SUITES) == sorted(s.name for module in modules for s in module.SUITES)


def test_judgebench(folder):
    rows = load_suite("judgebench", folder)
    assert rows[1].uid == "judgebench/pair-1"
    assert rows[1].messages == (Message("user", "What is 1 + 1?"),)
    assert rows[1].responses == ("It is 2.", "It is 3.")
    assert [row.best for row in rows] == [1, 0, 0, 1, 0, 0, 1, 0]
    assert [row.subset for row in rows[:4]] == ["Knowledge", "Reasoning", "Math", "Coding"]
    meta = {"source": "mmlu-pro-law", "original_id": 4, "response_model": "a-model"}
    assert rows[4].meta == meta


def test_llmbar(folder):
    rows = load_suite("llmbar", folder)
    assert Counter(row.subset for row in rows) == dict.fromkeys(SUITES["llmbar"].rows, 3)
    assert rows[4].uid == "llmbar/Neighbor/1" and rows[4].best == 1
    assert rows[4].messages == (Message("user", "Say 1."),)
    assert rows[4].responses == ("1", "not 1") and rows[4].meta == {"part": "Adversarial"}
    assert rows[0].best == 0 and rows[0].meta == {"part": "Natural"}


def test_rmb_lists_keep_every_answer_and_hide_the_best(folder):
    rows = load_suite("rmb_bon", folder)
    assert Counter(row.subset for row in rows) == {"Helpfulness": 4, "Harmlessness": 8}
    for i, row in enumerate(rows):
        i %= 4
        assert row.n == 3 + i
        assert row.responses[row.best] == f"one two {i}"
        assert row.meta["llm_names"][row.best] == "best-model"
        losers = [text for j, text in enumerate(row.responses) if j != row.best]
        assert losers == [f"{j} no" for j in range(2 + i)]
        assert [message.role for message in row.messages] == ["user", "assistant", "user"]
    assert len({row.best for row in rows}) > 1
    assert [row.best for row in load_suite("rmb_bon", folder)] == [row.best for row in rows]
    assert rows[0].uid == "rmb_bon/list-BoN_set/Helpfulness/Open QA/Factual-0"
    assert rows[0].meta["category_path"] == "BoN_set/Helpfulness/Open QA/Factual"


def test_rmb_keeps_a_loser_equal_to_the_best(folder):
    twin = {"llm_name": "twin", "answer": "one two 0"}
    path = "BoN_set/Harmlessness/S1"
    write(folder / "rmb" / f"{path}.json", [rmb_list_row(0, path, loser_list=[twin, twin])])
    (row,) = (row for row in load_suite("rmb_bon", folder) if "/S1-" in row.uid)
    assert row.responses == ("one two 0",) * 3 and sorted(row.rewards) == [0.0, 0.0, 1.0]
    assert row.meta["llm_names"][row.best] == "best-model"


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
        rows = [rmb_list_row(i, f"BoN_set/{goal}", 2 + i) for i in range(2)]
        write(tmp_path / "rmb" / "BoN_set" / f"{goal}.json", rows)
        rows = [rmb_pair_row(f"{goal}{i}", f"Pairwise_set/{goal}") for i in range(3)]
        write(tmp_path / "rmb" / "Pairwise_set" / f"{goal}.json", rows)
    pairs = load_suite("rmb_pairs", tmp_path)
    sizes = list(Counter(map(row_of, pairs)).values())
    assert sizes == [2, 3, 2, 3] and all(c.n == 2 for c in pairs)
    assert [c.responses[c.best] for c in pairs[1:4]] == ["one two 0", "one two 1", "one two 1"]
    assert all(c.responses[c.best].startswith("one two") for c in pairs)
    assert [c.responses[1 - c.best] for c in pairs[2:5]] == ["0 no", "1 no", "2 no"]
    assert pairs[0].meta["llm_names"][pairs[0].best] == "best-model"
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


def test_evouna_in_three_forms(tmp_path):
    absent = {"answer_gpt4": None, "judge_newbing": None}
    rows = [evouna_row(0), evouna_row(1, improper=True), evouna_row(2, **absent),
            evouna_row(3, right=[1] * 5), evouna_row(4, question=asked(4, "train"))]  # fmt: skip
    write(tmp_path / "evouna" / "NQ.json", rows)
    pairs = load_suite("evouna_pairs", tmp_path)
    assert Counter(map(row_of, pairs)) == {"evouna_pairs/0": 6, "evouna_pairs/2": 2}
    for c in pairs:
        assert "leek" in c.responses[c.best] and "pea" in c.responses[1 - c.best]
        assert c.reference == "Leek soup/leek" and c.messages == asked_of(rows, c)
        assert c.uid == f"{c.meta['row']}/{'-'.join(c.meta['systems'])}"
    assert len({c.best for c in pairs}) == 2
    lists = load_suite("evouna_lists", tmp_path)
    assert [(c.n, len(c.winners)) for c in lists] == [(5, 2), (3, 2), (5, 5)]
    assert len({tuple(c.meta["systems"]) for c in lists}) == 3  # the place tells no system
    assert len(SUITES["evouna_lists"].judged(lists)) == 2
    singles = load_suite("evouna_singles", tmp_path)
    assert Counter(c.subset for c in singles) == {
        "fid": 3, "gpt35": 3, "chatgpt": 3, "gpt4": 2, "newbing": 2
    }  # fmt: skip
    assert all(c.label == ("leek" in c.responses[0]) for c in singles)
    assert SUITES["evouna_singles"].coverage(singles) == "13 of 4560 rows"


def asked_of(rows, comparison):
    return (Message("user", rows[int(comparison.uid.split("/")[1])]["question"]),)


def test_qa_feedback_counts_wins_of_pairs(tmp_path):
    rows = [qa_feedback_row(0), qa_feedback_row(1, (0, 2, 0, 1, 0, 1)), qa_feedback_row(2, [0] * 6),
            qa_feedback_row(3, question=asked(3, "development"))]  # fmt: skip
    write(tmp_path / "qa_feedback" / "dev_feedback.json", rows)
    lists = load_suite("qa_feedback", tmp_path)
    earned = [dict(zip(c.responses, c.rewards, strict=True)) for c in lists]
    assert earned[0] == {"text 1": 3.0, "text 2": 0.5, "text 3": 0.5, "text 4": 2.0}
    assert earned[1] == {"text 1": 1.0, "text 2": 2.0, "text 3": 2.0, "text 4": 1.0}
    assert [len(c.winners) for c in lists] == [1, 2, 4]
    assert all(c.reference == "Leek soup." for c in lists)
    assert len({c.responses for c in lists}) > 1
    pairs = load_suite("qa_feedback_pairs", tmp_path)
    assert SUITES["qa_feedback_pairs"].coverage(pairs) == "3 of 149 rows" and len(pairs) == 18
    won = [[c.responses[i] for i in c.winners] for c in pairs[:6]]
    assert won[:3] == [["text 1"]] * 3 and sorted(won[3]) == ["text 2", "text 3"]
    assert won[4:] == [["text 4"]] * 2
    assert len(SUITES["qa_feedback_pairs"].judged(pairs)) == 5 + 3


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


# The path of a file, a good row of it, and changes of which each makes a bad field. Changes of
# nothing make a second row with the first one's name; `...` takes a field away.
BAD_FIELDS = {
    "rewardbench": ("rewardbench/filtered.jsonl", rewardbench_row(0), [
        ({"subset": "?"}, "subset"), ({"id": 1.5}, "id"), ({}, "uid"), ({"chosen": 1}, "chosen"),
    ]),
    "rewardbench2": ("rewardbench2/test.jsonl", rewardbench2_row("a"), [
        ({"chosen": ["x", "y"]}, "chosen"), ({"rejected": []}, "rejected"),
        ({"subset": "Ties", "id": "tie:1"}, "id"),
    ]),
    "ppe_preference": ("ppe/preference/test.jsonl", ppe_preference_row(0), [
        ({"winner": "both"}, "winner"),
    ]),
    "ppe_correctness": ("ppe/gpqa/train.jsonl", ppe_correctness_row(0), [
        ({"sampled_conflict_pairs": [[0, 4]]}, "sampled_conflict_pairs[0]"),
        ({"sampled_conflict_pairs": [[0, 32]]}, "sampled_conflict_pairs[0]"),
    ]),
    "ppe_best_of_k": ("ppe/gpqa/train.jsonl", ppe_correctness_row(0), [
        ({"scores": [1] * 32}, "scores"),
    ]),
    "rmb_bon": (
        "rmb/BoN_set/Helpfulness/Chat.json", rmb_list_row(0, "BoN_set/Helpfulness/Chat"), [
            ({"category_path": "BoN_set/Harmlessness/S2"}, "category_path"),
            ({"loser_list": []}, "loser_list"),
            ({"loser_list": [{"llm_name": "m", "text": ""}]}, "loser_list[0].answer"),
            ({"bon_best": {"llm_name": 1, "answer": ""}}, "bon_best.llm_name"),
            ({"bon_best": None}, "bon_best"), ({"bon_uid": 7}, "bon_uid"),
            ({"conversation_input": []}, "conversation_input"),
            ({"conversation_input": ["hi"]}, "conversation_input[0]"),
            ({"conversation_input": [{"role": "bot", "content": "hi"}]},
             "conversation_input[0].role"),
        ],
    ),
    "judgebench": (f"judgebench/{judgebench.FILE}", judgebench_row(0), [
        ({"label": "A=B"}, "label"), ({"source": "gsm8k"}, "source"),
        ({"response_B": None}, "response_B"), ({"question": None}, "question"),
        ({"original_id": [1]}, "original_id"), ({}, "uid"), ({"source": ...}, "source"),
    ]),
    "rmbench": ("rmbench/chat_filtered.json", rmbench_row(0), [({"chosen": ["a"]}, "chosen")]),
    "rmbench_list": ("rmbench/chat_filtered.json", rmbench_row(0), [
        ({"rejected": ["a", "b", 3]}, "rejected[2]"),
    ]),
    "llmbar": ("llmbar/LLMBar/Natural/dataset.json", llmbar_row(0), [
        ({"label": 0}, "label"), ({"label": True}, "label"), ({"label": "1"}, "label"),
        ({"output_1": 3}, "output_1"), ({"input": 3}, "input"),
    ]),
    "autoj": ("autoj/testdata_pairwise.jsonl", autoj_row(0), [
        ({"label": 3}, "label"), ({"response 2": None}, "response 2"),
    ]),
    "pandalm": ("pandalm/testset-v1.json", pandalm_row(0), [
        ({"annotator2": 3}, "annotator2"), ({"annotator2": 2, "annotator3": 0}, "annotator1"),
        ({"response1": 3}, "response1"),
    ]),
    **dict.fromkeys(("evouna_pairs", "evouna_lists", "evouna_singles"), (
        "evouna/NQ.json", evouna_row(0), [
            ({"improper": None}, "improper"), ({"question": 3}, "question"),
            ({"golden_answer": None}, "golden_answer"), ({"judge_fid": 1}, "judge_fid"),
            ({"answer_gpt4": ...}, "answer_gpt4"), ({"judge_gpt4": ...}, "judge_gpt4"),
        ],
    )),
    **dict.fromkeys(("qa_feedback", "qa_feedback_pairs"), (
        "qa_feedback/dev_feedback.json", qa_feedback_row(0), [
            ({"preference": [1] * 5}, "preference"), ({"preference": [3] * 6}, "preference"),
            ({"preference": [True] * 6}, "preference"), ({"gold": None}, "gold"),
            ({"prediction 4": ...}, "prediction 4"), ({"question": None}, "question"),
        ],
    )),
    "own": ("own/a.jsonl", own_row(), [({"rejected": None}, "rejected")]),
}  # fmt: skip


@pytest.mark.parametrize("suite", BAD_FIELDS)
def test_a_bad_field_is_named(tmp_path, suite):
    path, good, cases = BAD_FIELDS[suite]
    path = tmp_path / path
    place = f"{path}[1]" if path.suffix == ".json" else f"{path}:2"
    for changes, name in cases:
        bad = {key: value for key, value in (good | changes).items() if value is not ...}
        write(path, [good, bad])
        with pytest.raises(FieldError) as caught:
            load_suite(suite, tmp_path)
        assert str(caught.value).startswith(f"{place}: field {name!r}: "), changes


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
    assert sum(SUITES[suite].rows is None or row_of(c) != "" for c in found) == len(found)
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
    write(tmp_path / "suites/own/a.jsonl", [own_row()])
    assert len(load_suite("own", "~/suites")) == 1


def test_hidden_files_are_no_data(tmp_path):
    write(tmp_path / "own/a.jsonl", [own_row()])
    for name in ("._a.jsonl", ".a.jsonl"):
        (tmp_path / "own" / name).write_bytes(b"\x00\x05\x16\x07")
    assert len(load_suite("own", tmp_path)) == 1


@pytest.mark.parametrize("name", ["judgebench", "llmbar", "rmb_bon"])
def test_the_folder_of_a_suite_serves_as_well(folder, name):
    inner = {"rmb_bon": "rmb"}.get(name, name)
    assert load_suite(name, folder / inner) == load_suite(name, folder)


MISSING = {
    "judgebench": judgebench.FILE, "judgebench_claude": judgebench.CLAUDE_FILE,
    "llmbar": "LLMBar", "rmb_bon": "BoN_set", "rmb_pairs": "BoN_set",
    "rmb_pairwise": "Pairwise_set",
}  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_missing_files_are_named(tmp_path, name):
    with pytest.raises(benchmarks.MissingFiles, match=f"^{name}: expected the f") as caught:
        load_suite(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and MISSING.get(name, "") in str(caught.value)
    fetched = f"tools.download --suite={next(iter(SUITES[name].sources), 'none')} --out={tmp_path}"
    assert (fetched in str(caught.value)) == bool(SUITES[name].sources)


def test_a_missing_file_is_named(folder):
    (folder / "llmbar/LLMBar/Adversarial/GPTOut/dataset.json").unlink()
    with pytest.raises(ValueError, match=r"expected the file .*GPTOut/dataset.json"):
        load_suite("llmbar", folder)
    (folder / "rmb/BoN_set/Helpfulness/Open QA/Factual.json").unlink()
    with pytest.raises(ValueError, match=r"expected \*.json files under .*Helpfulness"):
        load_suite("rmb_bon", folder)


def test_linked_folders_of_rmb_are_read_and_hidden_files_are_not(folder, tmp_path_factory):
    wanted = load_suite("rmb_bon", folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    goal = folder / "rmb" / "BoN_set" / "Helpfulness"
    (goal / "Open QA").rename(elsewhere / "moved")
    (goal / "Open QA").symlink_to(elsewhere / "moved")
    (elsewhere / "moved" / "back").symlink_to(goal)  # a circle
    (elsewhere / "moved" / "._Factual.json").write_bytes(b"\x00\x05\x16\x07")
    write(goal / ".Trash" / "Factual.json", ["no row"])
    assert load_suite("rmb_bon", folder) == wanted


def test_broken_files_are_named(folder):
    path = folder / "llmbar/LLMBar/Natural/dataset.json"
    for content, message in [("[{", "broken JSON"), ("{}", "JSON array"), ("[]", "no rows")]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            load_suite("llmbar", folder)
        assert str(path) in str(caught.value)


def test_a_limit_takes_evenly_spread_rows(folder):
    rows = load_suite("llmbar", folder)
    some = load_suite("llmbar", folder, limit=5)
    assert some == rows[1::3]  # the middle of five stretches of three
    assert [row.subset for row in some] == list(SUITES["llmbar"].rows)
    assert load_suite("llmbar", folder, limit=15) == rows
    assert load_suite("llmbar", folder, limit=99) == rows
    for limit in range(1, 15):
        uids = [row.uid for row in load_suite("llmbar", folder, limit=limit)]
        assert len(set(uids)) == limit
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        load_suite("llmbar", folder, limit=0)


def test_a_part_is_told_from_the_whole(folder):
    suite = SUITES["judgebench"]
    rows = load_suite("judgebench", folder)
    assert suite.coverage(rows) == "8 of 350 rows" and not suite.is_complete(rows)
    path = folder / "judgebench" / judgebench.FILE
    whole = [
        judgebench_row(i, pair_id=f"{source}-{i}", source=source)
        for source, name in judgebench.CATEGORIES.items()
        for i in range(suite.rows[name])
    ]
    write(path, whole)
    assert suite.is_complete(load_suite("judgebench", folder))
    assert not suite.is_complete(load_suite("judgebench", folder, limit=349))
    write(path, [*whole, judgebench_row(0)])
    with pytest.raises(ValueError, match="155 rows of subset 'Knowledge'.* have 154"):
        load_suite("judgebench", folder)


def test_an_unknown_suite_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'mtbench'.*rewardbench, .*rmb_bon"):
        load_suite("mtbench", tmp_path)


class Repository:
    """A host of which every repository has the files of one folder."""

    def __init__(self, folder):
        self.folder = folder

    def commit(self, repository, revision):
        return revision or "a" * 40

    def files(self, repository, commit):
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {
            str(path.relative_to(self.folder)):
                f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
            for path in paths
        }  # fmt: skip

    def fetch(self, repository, commit, path, folder):
        return shutil.copy(self.folder / path, folder / "file")


RMB = ("Helpfulness/Chat/Discussion", "Harmlessness/S1")
# Paths in the official repositories; suites of one download share them.
PUBLISHED = {
    "autoj": {"data/test/testdata_pairwise.jsonl": [autoj_row(0)]},
    "evouna": {"EVOUNA/NQ.json": [evouna_row(0)]},
    "judgebench": {
        f"data/{file}": [judgebench_row(0)] for file in (judgebench.FILE, judgebench.CLAUDE_FILE)
    },
    "llmbar": {f"Dataset/LLMBar/{name}/dataset.json": [llmbar_row(0)] for name in LLMBAR},
    "pandalm": {"data/testset-v1.json": [pandalm_row(0)]},
    "ppe_preference": {"data/test-00000-of-00001.parquet": [ppe_preference_row(0)]},
    "ppe_gpqa": {"data/train-00000-of-00001.parquet": [ppe_correctness_row(0)]},
    "qa_feedback": {"tasks/qa_feedback/data/dev_feedback.json": [qa_feedback_row(0)]},
    "rewardbench": {"data/filtered-00000-of-00001.parquet": [rewardbench_row(0)]},
    "rewardbench2": {"data/test-00000-of-00001.parquet": [rewardbench2_row("a")]},
    "rmb": {
        f"RMB_dataset/{kind}/{name}.json": [row(0, f"{kind}/{name}", **{uid: name})]
        for kind, row, uid in (("BoN_set", rmb_list_row, "bon_uid"),
                               ("Pairwise_set", rmb_pair_row, "pair_uid"))
        for name in RMB
    },
    "rmbench": {"data/chat_filtered.json": [rmbench_row(0)]},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.sources])
def test_a_download_lands_where_the_reader_looks(tmp_path, name):
    sources = SUITES[name].sources
    if name == "realmistake":
        subsets = {subset: [realmistake_row()] for subset in realmistake.ROWS}
        lock(tmp_path / "there" / "data.zip", subsets)
    else:
        (files,) = (PUBLISHED[source] for source in sources if source in PUBLISHED)
        for path, rows in files.items():
            write(tmp_path / "there" / path, rows)
    (tmp_path / "there" / "README.md").write_text("no row")
    for key, source in sources.items():
        download(key, source, tmp_path / "here", Repository(tmp_path / "there"))
    assert load_suite(name, tmp_path / "here")
    assert not list((tmp_path / "here").rglob("README.md"))


@pytest.mark.parametrize(
    ("name", "folder", "rows", "comparisons"),
    [
        ("rewardbench", "rewardbench_partial", 1850, 1850),
        ("rmb_pairs", "", 3786, 8714),
        ("rmbench", "", 798, 7182),
        ("rmbench_list", "", 798, 798),
        ("realmistake", "", 900, 900),
        ("pandalm", "", 999, 999),
        ("evouna_pairs", "", 471, 2312),
        ("evouna_lists", "", 912, 912),
        ("evouna_singles", "", 4560, 4560),
        ("qa_feedback", "", 149, 149),
        ("qa_feedback_pairs", "", 149, 894),
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
    elif name in ("evouna_lists", "qa_feedback"):
        assert len(suite.judged(found)) == {"evouna_lists": 471, "qa_feedback": 144}[name]


@pytest.mark.parametrize(
    ("name", "rows"), [("judgebench", 350), ("llmbar", 419), ("rmb_bon", 3786)]
)
def test_the_real_files_of_whole_suites(shared_data, name, rows):
    comparisons = load_suite(name, shared_data)
    suite = SUITES[name]
    assert suite.expected_rows == rows == len(comparisons)
    assert suite.is_complete(comparisons)
    assert suite.coverage(comparisons) == f"{rows} of {rows} rows"
    assert len({comparison.uid for comparison in comparisons}) == rows
    assert len({c.subset for c in evenly(comparisons, 50)}) == len(suite.rows)
    best = Counter((comparison.n, comparison.best) for comparison in comparisons)
    if name == "judgebench":
        assert best == {(2, 0): 193, (2, 1): 157}
        knowledge = [c for c in comparisons if c.subset == "Knowledge"]
        assert all(isinstance(c.meta["original_id"], int) for c in knowledge)
    elif name == "llmbar":
        assert best == {(2, 0): 206, (2, 1): 213}
    else:
        sizes = Counter(comparison.n - 1 for comparison in comparisons)
        assert sizes == {2: 2878, 3: 712, 4: 165, 5: 24, 6: 7}
        assert sum(c.responses.count(c.responses[c.best]) > 1 for c in comparisons) == 6
        # A third each, within 4 standard deviations of a fair hash.
        assert all(abs(best[3, place] - 2878 / 3) < 101 for place in range(3))
