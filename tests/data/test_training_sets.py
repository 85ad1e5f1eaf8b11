"""Readers of published training sets on rows made up here, and how sets are mixed."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from grm_jax.data import training_sets
from grm_jax.data.comparison import Comparison
from grm_jax.data.training_sets import Source, TrainingSet, mixture, parse_sources, read
from grm_jax.text.prompts import Message
from tools import make_training_data


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


ROWS = {
    "ultrafeedback": {
        "source": "s", "instruction": "q", "models": ["x"], "completions": [
            {"response": "a", "fine-grained_score": 3.25, "overall_score": 10.0},
            {"response": "b", "fine-grained_score": 4},
            {"response": "c", "fine-grained_score": 1.0},
        ],
    },
    "offsetbias": {"instruction": "q", "output_1": "a", "output_2": "b", "label": 2},
    "skywork": {"chosen": [user("q"), answer("b")], "rejected": [user("q"), answer("a")],
                "source": "s"},
    "helpsteer2": {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 2},
    "helpsteer3": {"domain": "s", "context": [user("p"), answer("o"), user("q")],
                   "response1": "a", "response2": "b", "overall_preference": -3},
    "math": {"problem": "q", "type": "s", "solution": r"so \boxed{\frac12}",
             "responses": [r"\boxed{3}", "no box", r"it is \boxed{0.5}", r"\boxed{1/2}"]},
}  # fmt: skip
QUERY = (Message("user", "q"),)


def comparison(uid, responses, rewards, subset="", meta=None, messages=QUERY):
    return Comparison(uid, messages, responses, rewards, subset, meta or {})


EXPECTED = {
    "ultrafeedback": [comparison("ultrafeedback/0", ("a", "b", "c"), (3.25, 4.0, 1.0), "s")],
    "offsetbias": [comparison("offsetbias/0", ("a", "b"), (0.0, 1.0))],
    "skywork": [comparison("skywork/0", ("b", "a"), (1.0, 0.0), "s")],
    "helpsteer2": [
        comparison(
            "helpsteer2/0", ("a", "b"), (0.0, 2.0), "", {"hint_note": "It is clearly better."}
        )
    ],
    "helpsteer3": [
        comparison(
            "helpsteer3/0", ("a", "b"), (3.0, 0.0), "s", {"hint_note": "It is much better."},
            (Message("user", "p"), Message("assistant", "o"), Message("user", "q")),
        )
    ],
    "math": [
        comparison("math/0/pair", (r"it is \boxed{0.5}", r"\boxed{3}"), (1.0, 0.0), "s"),
        comparison("math/0/wrong", (r"\boxed{3}",), (0.0,), "s"),
        comparison("math/0/right", (r"it is \boxed{0.5}",), (1.0,), "s"),
    ],
}  # fmt: skip


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("name", training_sets.READERS)
def test_a_row_of_each_set(name, suffix, tmp_path):
    write(tmp_path / "deep" / f"x.{suffix}", [ROWS[name]])
    found = read(Source(name, str(tmp_path)))
    assert found.comparisons == EXPECTED[name]
    assert all(str(tmp_path) in place for place in found.places)


DROPPED = [
    ("ultrafeedback", {"completions": ROWS["ultrafeedback"]["completions"][:1]}, "fewer than two"),
    ("ultrafeedback", {"completions": ROWS["ultrafeedback"]["completions"][:1] * 2}, "tie"),
    ("skywork", {"rejected": [user("other"), answer("a")]}, "different queries"),
    ("skywork", {"rejected": [user("q"), answer("b")]}, "equal responses"),
    ("helpsteer2", {"preference_strength": 0}, "tie"),
    ("helpsteer3", {"overall_preference": 0}, "tie"),
]


@pytest.mark.parametrize(("name", "change", "reason"), DROPPED)
def test_rows_without_a_comparison_are_counted(name, change, reason, tmp_path):
    write(tmp_path / "x.jsonl", [ROWS[name] | change, ROWS[name]])
    found = read(Source(name, str(tmp_path)))
    ((counted, number),) = found.dropped.items()
    assert counted.startswith(reason) and number == 1
    assert [c.uid for c in found.comparisons] == [f"{name}/1"]  # rows keep their numbers


def test_a_problem_that_all_or_none_solved_has_no_pair(tmp_path):
    rows = [ROWS["math"] | {"responses": [r"\boxed{3}"]},
            ROWS["math"] | {"answer": "3", "responses": [r"\boxed{3}"]}]  # fmt: skip
    write(tmp_path / "x.jsonl", rows)
    found = read(Source("math", str(tmp_path)))
    assert [c.uid for c in found.comparisons] == ["math/0/wrong", "math/1/right"]
    assert found.dropped == {"every response is wrong": 1, "every response is right": 1}


BROKEN = [
    ("ultrafeedback", {"completions": "x"}, "field 'completions': expected list"),
    ("ultrafeedback", {"completions": [{"response": "a"}]}, "field 'fine-grained_score'"),
    ("offsetbias", {"label": 3}, "field 'label': is 1 or 2, got 3"),
    ("offsetbias", {"output_2": None}, "field 'output_2': expected str"),
    ("skywork", {"chosen": [user("q")]}, "field 'chosen': expected a conversation"),
    ("helpsteer2", {"preference_strength": 4}, "field 'preference_strength': is -3 to 3, got 4"),
    ("helpsteer3", {"context": []}, "field 'messages': is empty"),
    ("math", {"solution": "none"}, r"field 'solution': has no \\boxed"),
    ("math", {"responses": [1]}, r"field 'responses\[0\]': expected a string"),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN)
def test_a_broken_row_is_named(name, change, message, tmp_path):
    write(tmp_path / "x.jsonl", [ROWS[name], ROWS[name] | change])
    with pytest.raises(ValueError, match=rf"x\.jsonl:2: .*{message}"):
        read(Source(name, str(tmp_path)))


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="no such file, or no file with one of"):
        read(Source("skywork", str(tmp_path / "absent")))
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.parquet: no Parquet file"):
        read(Source("skywork", str(tmp_path / "x.parquet")))
    write(tmp_path / "x.jsonl.gz", [ROWS["offsetbias"]])
    whole = (tmp_path / "x.jsonl.gz").read_bytes()
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"x\.jsonl\.gz: no whole gzip file"):
        read(Source("offsetbias", str(tmp_path / "x.jsonl.gz")))
    write(tmp_path / "ties.jsonl", [ROWS["helpsteer2"] | {"preference_strength": 0}])
    with pytest.raises(ValueError, match="no row gives a comparison; {'tie': 1}"):
        read(Source("helpsteer2", str(tmp_path / "ties.jsonl")))


def test_sources():
    assert parse_sources("skywork:a, math:b/c") == [Source("skywork", "a"), Source("math", "b/c")]
    assert parse_sources("jsonl:x:0.5") == [Source("jsonl", "x", 0.5)]
    assert parse_sources("jsonl:C:/x") == [Source("jsonl", "C:/x")]
    for text, message in (
        ("other:a", "NAME one of .*'other:a'"), ("skywork", "got 'skywork'"),
        ("skywork:a:0", "must be positive"), ("skywork:a:1,math:b", "either all sets"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            parse_sources(text)


def made(name, size, weight=None):
    comparisons = [comparison(f"{name}/{i}", ("a", "b"), (1.0, 0.0)) for i in range(size)]
    return TrainingSet(Source(name, "x", weight), comparisons, ["x"] * size, {})


def counts(drawn):
    names = [c.uid.split("/")[0] for c in drawn]
    return {name: names.count(name) for name in sorted(set(names))}


def test_mixtures():
    sets = [made("a", 60), made("b", 40)]
    drawn = mixture(sets, 50, seed=1)
    assert counts(drawn) == {"a": 30, "b": 20} and len({c.uid for c in drawn}) == 50
    assert drawn == mixture(sets, 50, seed=1) != mixture(sets, 50, seed=2)
    assert len(mixture(sets, 1000, seed=1)) == 100
    # Weights, and what is left of a share that a small set cannot fill.
    for size, expected in ((40, {"a": 10, "b": 30}), (10, {"a": 30, "b": 10})):
        sets = [made("a", 60, 1.0), made("b", size, 3.0)]
        assert counts(mixture(sets, 40, seed=0)) == expected
    assert len(mixture([made(n, 5) for n in "abc"], 10, seed=0)) == 10


def test_general_data(tmp_path):
    rows = [{"messages": [user("q"), answer("a")], "source": "s"}]
    write(tmp_path / "x.jsonl", rows)
    assert training_sets.read_general(tmp_path) == [(QUERY, "a")]
    write(tmp_path / "x.jsonl", [*rows, {"messages": [user("q")]}])
    with pytest.raises(ValueError, match=r"x\.jsonl:2: field 'messages': expected a last message"):
        training_sets.read_general(tmp_path)


def test_the_made_up_files_are_read(tmp_path):
    make_training_data.make(tmp_path / "data")
    for name in training_sets.READERS:
        assert len(read(Source(name, str(tmp_path / "data" / name))).comparisons) >= 6
    assert len(training_sets.read_general(tmp_path / "data" / "general")) == 12
