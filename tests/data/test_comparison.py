"""Comparisons: what is refused, and that reading and writing lose nothing."""

import json
import math

import pytest
from builders import write_comparisons
from hypothesis import given
from hypothesis import strategies as st

from grm_jax.data.comparison import Comparison, ContentError, FieldError
from grm_jax.data.reading import read_jsonl
from grm_jax.text.prompts import Message

ASK = (Message("user", "Which soup?"),)
ROW = {"uid": "a", "prompt": "Which soup?", "responses": ["leek", "pea"], "best": 1}


def make(**changes) -> Comparison:
    fields = {"uid": "a", "messages": ASK, "responses": ("leek", "pea"), "rewards": (0.0, 1.0)}
    return Comparison(**{**fields, **changes})


def write(path, *rows) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def test_best_and_label():
    assert make(rewards=(-3, -1)).best == 1 and make(rewards=[2, 1]).rewards == (2.0, 1.0)
    single = make(responses=("leek",), rewards=(1,))
    assert (single.n, single.label) == (1, 1)
    with pytest.raises(ValueError, match="'a'"):
        _ = single.best
    with pytest.raises(ValueError, match="'a'"):
        _ = make().label


def test_another_order_moves_responses_and_rewards_together():
    rows = make(responses=("leek", "pea", "beet"), rewards=(0.0, 2.0, 1.0))
    moved = rows.in_order([1, 2, 0])
    assert moved.responses == ("pea", "beet", "leek") and moved.rewards == (2.0, 1.0, 0.0)
    assert (moved.uid, moved.messages, moved.content_hash()) == (
        rows.uid, rows.messages, rows.content_hash(),
    )  # fmt: skip


def test_empty_and_equal_texts_are_texts():
    assert make(responses=("", "pea")).n == 2
    assert make(responses=("", "")).best == 1
    turns = (*ASK, Message("assistant", ""), Message("user", " \n"))
    assert make(messages=turns).messages == turns


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": (*ASK, Message("assistant", "pea"))},
        {"rewards": (1.0, 1.0)},
        {"responses": ("\ud800", "pea")},
    ],
)
def test_contents_are_told_from_the_format(changes):
    with pytest.raises(ContentError):
        make(**changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("uid", {"uid": " "}),
        ("uid", {"uid": 3}),
        ("hint_note", {"hint_note": None}),
        ("principles", {"principles": 3}),
        ("reference", {"reference": None}),
        ("messages", {"messages": ()}),
        ("messages", {"messages": "Which soup?"}),
        ("messages", {"messages": (*ASK, Message("assistant", "pea"))}),
        ("messages[0]", {"messages": ("ab", *ASK)}),
        ("messages[0].role", {"messages": (Message("judge", "x"), *ASK)}),
        ("messages[0].content", {"messages": (Message("user", None), *ASK)}),
        ("responses", {"responses": (), "rewards": ()}),
        ("responses", {"responses": "pea"}),
        ("responses[1]", {"responses": ("leek", 7)}),
        ("responses[0]", {"responses": ("\ud800", "pea")}),
        ("rewards", {"rewards": None}),
        ("rewards", {"rewards": (1.0,)}),
        ("rewards", {"rewards": (1.0, 1.0)}),
        ("rewards", {"rewards": (0.0, math.nan)}),
        ("rewards", {"rewards": (0.0, math.inf)}),
        ("rewards", {"rewards": (0, 10**400)}),
        ("rewards[1]", {"rewards": (0.0, True)}),
        ("rewards[0]", {"rewards": ("1", 0)}),
        ("rewards", {"responses": ("leek",), "rewards": (0.5,)}),
        ("subset", {"subset": None}),
        ("meta", {"meta": {1: 2}}),
        ("meta", {"meta": [1]}),
    ],
)
def test_a_bad_field_is_named_with_the_uid(name, changes):
    with pytest.raises(FieldError) as caught:
        make(**changes)
    assert caught.value.name == name
    assert f"comparison {changes.get('uid', 'a')!r}: field {name!r}: " in str(caught.value)


def test_content_hash_sees_content_and_nothing_else():
    base = make()
    same = make(
        uid="b",
        messages=(Message("user", "  which\nSOUP?"),),
        responses=("Pea", "leek"),
        rewards=(1.0, 0.0),
        subset="s",
        meta={"k": 1},
    )
    assert same.content_hash() == base.content_hash()
    others = [
        make(responses=("leek", "pea pea")),
        make(messages=(Message("system", "Which soup?"), *ASK)),
        make(messages=(Message("user", "Which soup? leek"),), responses=("", "pea")),
        make(responses=("leek", "leek pea")),
        make(responses=("leek", "pea", "pea"), rewards=(0, 1, 2)),
    ]
    assert len({c.content_hash() for c in [base, *others]}) == 1 + len(others)


def test_read_jsonl_knows_every_way_to_say_query_and_gold(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Soup?"}]
    rows = [
        ROW,
        {"uid": "b", "messages": turns, "responses": ["x", "y", "z"], "rewards": [1, 5, -2]},
        "",
        {"uid": "c", "prompt": "line\u2028end", "responses": ["x"], "label": 0, "subset": "s"},
        {"uid": "d", "prompt": "q", "responses": ["x"], "rewards": [1], "meta": {"k": [1]}},
    ]
    path = tmp_path / "rows.jsonl"
    lines = [row if row == "" else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    a, b, c, d = read_jsonl(path)
    assert a == make() and a.rewards == (0.0, 1.0)
    assert b.messages == (Message("system", "Be brief."), Message("user", "Soup?"))
    assert b.rewards == (1.0, 5.0, -2.0) and b.best == 1
    assert c.messages[0].content == "line\u2028end" and c.label == 0 and c.subset == "s"
    assert d.label == 1 and d.meta == {"k": [1]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({**ROW, "best_of": 2}, "field 'best_of': unknown"),
        ({**ROW, "best": 2}, "field 'best': 2 is no index"),
        ({**ROW, "best": -1}, "field 'best'"),
        ({**ROW, "best": True}, "field 'best': expected int, got bool"),
        ({**ROW, "best": 0.5}, "field 'best': expected int, got float"),
        ({**ROW, "label": 1}, "field 'label': give exactly one"),
        ({**ROW, "messages": []}, "field 'messages': give exactly one"),
        ({**ROW, "prompt": 3}, "field 'prompt': expected str, got int"),
        ({**ROW, "prompt": None}, "field 'messages': give exactly one of"),
        ({**ROW, "responses": {"0": "x"}}, "field 'responses': expected list"),
        ({**ROW, "responses": ["x", 3]}, "field 'responses[1]': expected a string"),
        ({**ROW, "uid": 7}, "field 'uid': expected str, got int"),
        ({"uid": "z", "prompt": "q", "responses": ["x", "y"]}, "field 'rewards': give exactly"),
        ({"uid": "z", "prompt": "q", "responses": ["x", "y"], "label": 1}, "field 'label'"),
        ({"uid": "z", "prompt": "q", "responses": ["x"], "best": 0}, "field 'best'"),
        ({"uid": "z", "prompt": "q", "responses": ["x"], "label": 2}, "field 'label'"),
        ({"uid": "z", "prompt": "q", "label": 0}, "field 'responses': is missing"),
        ({"prompt": "q", "responses": ["x"], "label": 0}, "field 'uid': is missing"),
        ({"uid": "z", "responses": ["x"], "label": 0}, "field 'messages': give exactly one"),
        (
            {"uid": "z", "messages": [{"role": "user"}], "responses": ["x"], "label": 0},
            "field 'messages[0].content': is missing",
        ),
        (
            {"uid": "z", "messages": [{"role": "user", "text": ""}], "responses": ["x"]},
            "field 'messages[0].text': unknown",
        ),
        ('{"uid": "z", "prompt": "q", "responses": ["x"', "broken JSON"),
        ('{"uid": "z", "uid": "y"}', "field 'uid': is given twice"),
        ('{"uid":"z","prompt":"q","responses":["x","y"],"rewards":[0,NaN]}', "field 'rewards'"),
        ('{"uid":"z","prompt":"q","responses":["\\ud800"],"label":0}', "field 'responses[0]'"),
        ("[1]", "expected a JSON object, got list"),
        ({**ROW}, "field 'uid': 'a' was already used at "),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, message):
    path = tmp_path / "rows.jsonl"
    write(path, ROW, bad)
    with pytest.raises(ValueError) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


NULLS = [
    {**ROW, "label": None, "rewards": None, "subset": "s", "messages": None},
    {"uid": "b", "prompt": None, "messages": [{"role": "user", "content": "q", "name": None}],
     "responses": ["x"], "best": None, "label": 1, "rewards": None, "subset": None},
    {"uid": "c", "prompt": "q", "messages": None, "responses": ["x", "y", "z"], "best": None,
     "label": None, "rewards": [1.0, 2.0, 3.0], "subset": None},
]  # fmt: skip


def absent(value):
    """The value without its nulls, as a file would be written by hand."""
    if isinstance(value, dict):
        return {name: absent(one) for name, one in value.items() if one is not None}
    return [absent(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", ["null", "nan", "parquet", "floats"])
def test_empty_columns_of_a_table_are_absent(tmp_path, form):
    write(tmp_path / "plain.jsonl", *absent(NULLS))
    wanted = read_jsonl(tmp_path / "plain.jsonl")
    path = tmp_path / ("rows.parquet" if form == "parquet" else "rows.jsonl")
    if form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(NULLS), path)
    elif form == "nan":  # pandas, by way of to_dict
        write(path, *[{k: math.nan if v is None else v for k, v in row.items()} for row in NULLS])
    elif form == "floats":  # pandas has no integers in a column with empty places
        write(path, *[{k: float(v) if type(v) is int else v for k, v in row.items()}
                      for row in NULLS])  # fmt: skip
    else:
        write(path, *NULLS)
    assert read_jsonl(path) == wanted and wanted[0].best == 1 and wanted[1].label == 1


def test_lines_in_a_file_of_another_name_are_told(tmp_path):
    write(tmp_path / "rows.json", ROW, ROW)
    with pytest.raises(ValueError, match=r"rows\.json: expected one JSON array; .* end in \.jsonl"):
        read_jsonl(tmp_path / "rows.json")
    write(tmp_path / "joined.jsonl", ROW, "\ufeff" + json.dumps({**ROW, "uid": "b"}))
    assert [c.uid for c in read_jsonl(tmp_path / "joined.jsonl")] == ["a", "b"]
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(ValueError, match=r"deep\.jsonl:1: broken JSON"):
        read_jsonl(tmp_path / "deep.jsonl")


def test_a_line_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"uid": "\xff"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:2: not UTF-8"):
        read_jsonl(path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_blank_file_is_an_error(tmp_path, content):
    (tmp_path / "blank.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"blank.jsonl: the file holds no rows"):
        read_jsonl(tmp_path / "blank.jsonl")


def test_a_folder_is_read_by_name_and_an_empty_one_refused(tmp_path):
    with pytest.raises(ValueError, match=r"empty: the folder holds no"):
        (tmp_path / "empty").mkdir()
        read_jsonl(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"absent: no such file or folder"):
        read_jsonl(tmp_path / "absent")
    write(tmp_path / "2.jsonl", {**ROW, "uid": "second"})
    write(tmp_path / "1.jsonl", {**ROW, "uid": "first"})
    (tmp_path / "notes.txt").write_text("not rows")
    (tmp_path / "._1.jsonl").write_bytes(b"\x00\x05\x16\x07")
    assert [c.uid for c in read_jsonl(tmp_path)] == ["first", "second"]
    write(tmp_path / "3.jsonl", {**ROW, "uid": "first"})
    with pytest.raises(FieldError, match=r"3.jsonl:1: field 'uid': 'first' .*1.jsonl:1"):
        read_jsonl(tmp_path)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def comparisons(draw):
    n = draw(st.integers(1, 4))
    if n == 1:
        rewards = [draw(st.sampled_from([0.0, 1.0]))]
    else:
        numbers = st.floats(allow_nan=False, allow_infinity=False)
        rewards = draw(st.lists(numbers, min_size=n, max_size=n, unique=True))
    turns = draw(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts)))
    return Comparison(
        uid="u" + draw(texts),
        messages=(*(Message(*turn) for turn in turns), Message("user", "q" + draw(texts))),
        responses=draw(st.lists(texts, min_size=n, max_size=n)),
        rewards=rewards,
        subset=draw(texts),
        meta=draw(st.dictionaries(texts, st.one_of(texts, st.integers(), st.none()))),
        hint_note=draw(texts),
        principles=draw(texts),
        reference=draw(texts),
    )


@given(st.lists(comparisons(), min_size=1, max_size=3, unique_by=lambda c: c.uid))
def test_writing_and_reading_is_the_identity(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "identity.jsonl"
    write_comparisons(path, rows)
    assert read_jsonl(path) == rows


def test_several_best_only_where_it_is_said():
    fields = ("u", (Message("user", "q"),), ("a", "b", "c"), (1.0, 1.0, 0.0))
    with pytest.raises(FieldError, match="no single best response"):
        Comparison(*fields)
    tie = Comparison(*fields, several_best=True)
    assert tie.winners == (0, 1)
    with pytest.raises(ValueError, match="several responses are best"):
        _ = tie.best
