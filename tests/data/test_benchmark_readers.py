"""Readers of the public benchmarks: synthetic rows of the same schemas, and the real files."""

import json
from collections import Counter

import pytest

from grm_jax.data.benchmarks import SUITES, evenly, judgebench, load_suite
from grm_jax.data.comparison import FieldError
from grm_jax.text.prompts import Message

NAMES = ("judgebench", "llmbar", "rmb_bon")
LLMBAR = ("Natural", *(f"Adversarial/{s}" for s in ("Neighbor", "GPTInst", "GPTOut", "Manual")))


def judgebench_row(i, **changes):
    sources = ["mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"]
    row = {
        "pair_id": f"pair-{i}",
        "original_id": i if i % 4 == 0 else None,
        "source": sources[i % 4],
        "question": f"What is {i} + {i}?",
        "response_model": "a-model",
        "response_A": f"It is {2 * i}.",
        "response_B": f"It is {2 * i + 1}.",
        "label": "A>B" if i % 3 else "B>A",
    }
    return {**row, **changes}


def llmbar_row(i, **changes):
    row = {"input": f"Say {i}.", "output_1": f"{i}", "output_2": f"not {i}", "label": 1 + i % 2}
    return {**row, **changes}


def rmb_row(i, path, losers=2, **changes):
    row = {
        "bon_uid": f"list-{path}-{i}",
        "conversation_input": [
            {"role": "user", "content": f"Hello {i}", "language": "English"},
            {"role": "assistant", "content": "Hello.", "language": None},
            {"role": "user", "content": "Count!", "language": "English"},
        ],
        "bon_best": {"llm_name": "best-model", "answer": f"one two {i}"},
        "loser_list": [{"llm_name": f"m{j}", "answer": f"{j} no"} for j in range(losers)],
        "category_path": path,
    }
    return {**row, **changes}


def put(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "judgebench" / judgebench.FILE, [judgebench_row(i) for i in range(8)])
    for name in LLMBAR:
        rows = [llmbar_row(i) for i in range(3)]
        put(tmp_path / "llmbar" / "LLMBar" / name / "dataset.json", rows)
    for name in ("Helpfulness/Open QA/Factual", "Harmlessness/S1", "Harmlessness/multi"):
        rows = [rmb_row(i, f"BoN_set/{name}", losers=2 + i) for i in range(4)]
        put(tmp_path / "rmb" / "BoN_set" / f"{name}.json", rows)
    return tmp_path


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
    assert Counter(row.subset for row in rows) == dict.fromkeys(SUITES["llmbar"].subset_rows, 3)
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
    put(folder / "rmb" / f"{path}.json", [rmb_row(0, path, loser_list=[twin, twin])])
    (row,) = (row for row in load_suite("rmb_bon", folder) if "/S1-" in row.uid)
    assert row.responses == ("one two 0",) * 3 and sorted(row.rewards) == [0.0, 0.0, 1.0]
    assert row.meta["llm_names"][row.best] == "best-model"


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_of_a_suite_serves_as_well(folder, name):
    inner = {"rmb_bon": "rmb"}.get(name, name)
    assert load_suite(name, folder / inner) == load_suite(name, folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_is_named_with_what_was_expected(tmp_path, name):
    expected = {"judgebench": judgebench.FILE, "llmbar": "LLMBar", "rmb_bon": "BoN_set"}[name]
    with pytest.raises(ValueError, match=f"^{name}: expected the f") as caught:
        load_suite(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and expected in str(caught.value)


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
    put(goal / ".Trash" / "Factual.json", ["no row"])
    assert load_suite("rmb_bon", folder) == wanted


@pytest.mark.parametrize(
    ("suite", "row", "name"),
    [
        ("judgebench", judgebench_row(9, label="A=B"), "label"),
        ("judgebench", judgebench_row(9, source="gsm8k"), "source"),
        ("judgebench", judgebench_row(9, response_B=None), "response_B"),
        ("judgebench", judgebench_row(9, question=None), "question"),
        ("judgebench", judgebench_row(9, original_id=[1]), "original_id"),
        ("judgebench", judgebench_row(0), "uid"),
        ("judgebench", {"pair_id": "x"}, "source"),
        ("llmbar", llmbar_row(9, label=0), "label"),
        ("llmbar", llmbar_row(9, label=True), "label"),
        ("llmbar", llmbar_row(9, label="1"), "label"),
        ("llmbar", llmbar_row(9, output_1=3), "output_1"),
        ("llmbar", llmbar_row(9, input=3), "input"),
        ("rmb_bon", {"category_path": "BoN_set/Harmlessness/S2"}, "category_path"),
        ("rmb_bon", {"loser_list": []}, "loser_list"),
        ("rmb_bon", {"loser_list": [{"llm_name": "m", "text": ""}]}, "loser_list[0].answer"),
        ("rmb_bon", {"bon_best": {"llm_name": 1, "answer": ""}}, "bon_best.llm_name"),
        ("rmb_bon", {"bon_best": None}, "bon_best"),
        ("rmb_bon", {"bon_uid": 7}, "bon_uid"),
        ("rmb_bon", {"conversation_input": []}, "conversation_input"),
        ("rmb_bon", {"conversation_input": ["hi"]}, "conversation_input[0]"),
        (
            "rmb_bon",
            {"conversation_input": [{"role": "bot", "content": "hi"}]},
            "conversation_input[0].role",
        ),
    ],
)
def test_a_bad_row_is_named(folder, suite, row, name):
    path, rows, place = {
        "judgebench": (
            folder / "judgebench" / judgebench.FILE,
            [judgebench_row(0), row],
            "{}:2",
        ),
        "llmbar": (folder / "llmbar/LLMBar/Natural/dataset.json", [llmbar_row(0), row], "{}[1]"),
        "rmb_bon": (
            folder / "rmb/BoN_set/Harmlessness/S1.json",
            [rmb_row(i, "BoN_set/Harmlessness/S1", **(row if i else {})) for i in range(2)],
            "{}[1]",
        ),
    }[suite]
    put(path, rows)
    with pytest.raises(FieldError) as caught:
        load_suite(suite, folder)
    assert str(caught.value).startswith(f"{place.format(path)}: field {name!r}: ")


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
    assert [row.subset for row in some] == list(SUITES["llmbar"].subset_rows)
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
        for i in range(suite.subset_rows[name])
    ]
    put(path, whole)
    assert suite.is_complete(load_suite("judgebench", folder))
    assert not suite.is_complete(load_suite("judgebench", folder, limit=349))
    put(path, [*whole, judgebench_row(0)])
    with pytest.raises(ValueError, match="155 rows of subset 'Knowledge'.* have 154"):
        load_suite("judgebench", folder)


def test_an_unknown_suite_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'mtbench'.*rewardbench, .*rmb_bon"):
        load_suite("mtbench", tmp_path)


@pytest.mark.parametrize(
    ("name", "rows"), [("judgebench", 350), ("llmbar", 419), ("rmb_bon", 3786)]
)
def test_the_real_files(shared_data, name, rows):
    comparisons = load_suite(name, shared_data)
    suite = SUITES[name]
    assert suite.expected_rows == rows == len(comparisons)
    assert suite.is_complete(comparisons)
    assert suite.coverage(comparisons) == f"{rows} of {rows} rows"
    assert len({comparison.uid for comparison in comparisons}) == rows
    assert len({c.subset for c in evenly(comparisons, 50)}) == len(suite.subset_rows)
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
