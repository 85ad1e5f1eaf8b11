"""Verdicts of judges: each kind in both ways of reading, and texts that are no verdicts."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grm_jax.text import scores, verdicts
from grm_jax.text.verdicts import parse_kind

LAST = "last_number:-9-99"
FIRST, SECOND, TIE = (1, 0), (0, 1), (0.5, 0.5)
NUMBER = r"regex:Score: (?P<score_1>\S+)"
TWO = r"regex:(?P<score_1>\S+) vs (?P<score_2>\S+)"
WINNER = r"regex:Winner: (?P<winner>\S+)"

# kind, mode, n, text, strict scores or the reason, lenient scores or the reason ("" for the same)
CASES = [
    ("boxed", "pair", 2, "\\boxed{7, 9}", (7, 9), ""),
    ("boxed", "list", 3, "\\boxed{7, 9}", "count", ""),
    ("boxed", "single", 1, "\\boxed{7/10}", "not_integer", (7,)),
    ("letters", "pair", 2, "B is vague.\n[[A]]", FIRST, ""),
    ("letters", "pair", 2, "My verdict is [[B]].\n", SECOND, ""),
    ("letters", "pair", 2, "<answer>[[C]]</answer>", TIE, ""),
    ("letters", "list", 4, "[[D]]", (0, 0, 0, 1), ""),
    ("letters", "list", 3, "[[C]]", (0, 0, 1), ""),
    ("letters", "list", 2, "[[C]]", "unknown_name", ""),
    ("letters", "list", 1, "[[A]]", "unknown_name", ""),
    ("letters", "pair", 2, "I say [[A]] or [[B]].", "several_verdicts", SECOND),
    ("letters", "pair", 2, "I was told to end with [[A]] or [[B]].\nSo:\n[[A]]", FIRST, ""),
    ("letters", "pair", 2, "[[A]]\nbecause it is short", "no_verdict", FIRST),
    ("letters", "pair", 2, "[[a]]", "unknown_name", FIRST),
    ("letters", "pair", 2, "[[**Assistant B**]]", "unknown_name", SECOND),
    ("letters", "pair", 2, "[[A>B]]", "unknown_name", ""),
    ("letters", "pair", 2, "[[1]]", "unknown_name", FIRST),
    ("letters", "pair", 2, "[[Response B]]", "unknown_name", SECOND),
    ("letters", "pair", 2, "[A]", "no_verdict", ""),
    ("letters", "pair", 2, "", "no_verdict", ""),
    (LAST, "single", 1, "Feedback: 3 errors. So the overall score is 4", (4,), ""),
    (LAST, "single", 1, "<score>7.5</score>\n", (7.5,), ""),
    (LAST, "single", 1, "**Rating:** **-2**.", (-2,), ""),
    (LAST, "single", 1, "Score: 8/10", "no_verdict", (8,)),
    (LAST, "single", 1, "Score: 8 out of 10", "no_verdict", (8,)),
    (LAST, "single", 1, "Rating: 4 (scale 1-5)", "no_verdict", (4,)),
    (LAST, "single", 1, "On a scale of 1 to 10: good", "no_verdict", ""),
    (LAST, "single", 1, "score 4 of GPT4", "no_verdict", (4,)),
    (LAST, "single", 1, "08", "no_verdict", (8,)),
    (LAST, "single", 1, "It is good.", "no_verdict", ""),
    (LAST, "single", 1, "Better than the one from\n1994", "out_of_range", ""),
    (LAST, "single", 1, "Score: 1e8", "no_verdict", ""),
    (LAST, "single", 1, "Score: 10^2", "no_verdict", ""),
    (LAST, "single", 1, "Score: 10 ^ 2", "no_verdict", ""),
    (LAST, "single", 1, "Score: 10**2", "no_verdict", ""),
    (LAST, "single", 1, "Score: 4\u20445", "no_verdict", (4,)),
    (LAST, "single", 1, "Score: 4 \u2044 5", "no_verdict", (4,)),
    (LAST, "single", 1, "Score: \u22122", "no_verdict", ""),
    (LAST, "single", 1, "Score: **4**", (4,), ""),
    ("last_number:0.5-1.5", "single", 1, "0.5", (0.5,), ""),
    ("last_number:-2--1", "single", 1, "-3", "out_of_range", ""),
    ("json:1-5:a:b", "single", 1, '{"a:b": 5}', (5,), ""),
    ("json:1-5:s", "single", 1, '{"s": 1e8}', "out_of_range", ""),
    ("json:1-5:s", "pair", 2, '{"s": [5, 6]}', "out_of_range", ""),
    ("json:1-5:s", "pair", 2, '{"s": "B"}', SECOND, ""),
    ("json:1-5", "single", 1, '{"1-5": 7}', (7,), ""),
    (r"regex:1-5:Score: (?P<score_1>\S+)", "single", 1, "Score: 6", "out_of_range", ""),
    (r"regex:1-5:Score: (?P<score_1>\S+)", "single", 1, "Score: 5/6", "not_a_number", (5,)),
    (r"regex:Score 1-5: (?P<score_1>\S+)", "single", 1, "Score 1-5: 6", (6,), ""),
    ("json:score", "single", 1, 'So:\n```json\n{"why": "ok", "score": 4}\n```', (4,), ""),
    ("json:score", "single", 1, '{\n  "score": 0.25,\n  "why": {"a": 1}\n}', (0.25,), ""),
    ("json:score", "single", 1, '{"score": 4} I think', "no_verdict", (4,)),
    ("json:score", "single", 1, '{"score": "4/5"}', "not_a_number", (4,)),
    ("json:score", "single", 1, '{"score": "4"}', (4,), ""),
    ("json:score", "single", 1, '{"score": true}', "not_a_number", ""),
    ("json:score", "single", 1, '{"score": NaN}', "not_a_number", ""),
    ("json:score", "single", 1, '{"score": null}', "not_a_number", ""),
    ("json:score", "single", 1, '{"score": 1e400}', "not_a_number", ""),
    ("json:score", "single", 1, '{"why": "\\"score\\": 1", "score": 4} so', "no_verdict", (4,)),
    ("json:scores", "list", 3, '{"scores": [1, 2.5, 3]}', (1, 2.5, 3), ""),
    ("json:scores", "list", 2, '{"scores": [1, 2, 3]}', "count", ""),
    ("json:scores", "pair", 2, '{"scores": 7}', "unknown_name", ""),
    ("json:scores", "pair", 2, '{"scores": 7.5}', "count", ""),
    ("json:best", "list", 4, '{"best": 3}', (0, 0, 1, 0), ""),
    ("json:best", "list", 4, '{"best": "Response2", "why": [{"best": 1}]}', (0, 1, 0, 0), ""),
    ("json:best", "pair", 2, '{"best": "Assistant A"}', FIRST, ""),
    ("json:best", "pair", 2, '{"best": true}', "count", ""),
    ("json:better", "pair", 2, '{"better": "B"}', SECOND, ""),
    ("json:better", "pair", 2, '{"better": "tie"}', "unknown_name", TIE),
    ("json:better", "pair", 2, '{"better": "C"}', TIE, ""),
    ("json:d'", "pair", 2, '{"d\'": "A"}', FIRST, ""),
    ("json:gut\u00e9", "pair", 2, '{"gut\u00e9": "A"} so', "no_verdict", FIRST),
    (NUMBER, "single", 1, "Score: 2\nno:\nScore: 3", (3,), ""),
    (NUMBER, "single", 1, "score: 8/10", "no_verdict", (8,)),
    (NUMBER, "single", 1, "Score: good", "not_a_number", ""),
    (TWO, "pair", 2, "3 vs 4.5", (3, 4.5), ""),
    (TWO, "list", 3, "3 vs 4", "count", ""),
    (r"regex:(?P<score_1>\d) (?P<score_2>\d)( (?P<score_3>\d))?", "list", 2, "1 2", (1, 2), ""),
    (WINNER, "pair", 2, "Winner: A", FIRST, ""),
    (WINNER, "pair", 2, "Winner: 2", SECOND, ""),
    (WINNER, "pair", 2, "Winner: C", TIE, ""),
    (WINNER, "pair", 2, "winner: response_b.", "no_verdict", SECOND),
    (WINNER, "list", 3, "Winner: 4", "unknown_name", ""),
]  # fmt: skip


def read(kind, mode, n, text, lenient=False):
    return parse_kind(kind, mode).read(text, n, pair=mode == "pair", lenient=lenient)


@pytest.mark.parametrize(("kind", "mode", "n", "text", "strict", "lenient"), CASES)
def test_verdicts_are_read_in_both_ways(kind, mode, n, text, strict, lenient):
    for wanted, patient in ((strict, False), (lenient or strict, True)):
        found, reason = read(kind, mode, n, text, patient)
        assert (reason if found is None else found) == wanted
        assert [type(x) for x in found or ()] == [type(x) for x in wanted if found]


def test_every_reason_has_a_case():
    reasons = {case[4] for case in CASES if isinstance(case[4], str)} | {"ok"}
    assert reasons == {*verdicts.REASONS, "not_integer"}


KINDS = [
    ("boxed", "list"), ("boxed", "single"), ("letters", "pair"), ("letters", "list"),
    (LAST, "single"), ("json:s", "single"), ("json:s", "pair"), ("json:s", "list"),
    (NUMBER, "single"), (TWO, "pair"), (WINNER, "pair"), (WINNER, "list"),
]  # fmt: skip
PIECES = st.sampled_from(
    ["[[", "]]", "A", "b", "C", "\\boxed{", "}", "{", '"s"', ":", " ", "\n", "1", "10", "/", "-",
     ".", ",", "vs", "Winner: ", "Score: ", "[", "]", "```", "\\", '"', "tie", "\u00b2", "\u0663"]
)  # fmt: skip
TEXTS = st.text(max_size=30) | st.lists(PIECES, max_size=14).map("".join)


@given(st.sampled_from(KINDS), st.integers(1, 4), TEXTS)
def test_no_text_raises_and_lenient_contains_strict(kind, n, text):
    n = {"pair": 2, "single": 1, "list": n}[kind[1]]
    strict, lenient = read(*kind, n, text), read(*kind, n, text, True)
    for found in (strict, lenient):
        assert (found.scores is None) == (found.reason != "ok")
        assert found.reason in (*verdicts.REASONS, *scores.REASONS)
        if found.scores is not None:
            assert len(found.scores) == n and all(abs(x) < 1e9 for x in found.scores)
    if strict.scores is not None:
        assert lenient == strict


@given(st.floats(-999_999, 999_999), st.booleans())
@example(30340.999969659606, False)  # near an integer by its size, and not by our nine places
def test_numbers_of_json_are_read_as_they_are(number, alone):
    value = number if alone else [number, 1]
    found = read(
        "json:s", "single" if alone else "pair", 1 if alone else 2, json.dumps({"s": value})
    )
    assert found.scores[0] == pytest.approx(number, abs=1e-9)


def test_a_pattern_sees_the_end_of_the_text():
    far = "Score: 3" + " " * verdicts.WINDOW
    assert read(NUMBER, "single", 1, far).reason == "no_verdict"
    assert read(NUMBER, "single", 1, far + "Score: 4").scores == (4,)


@pytest.mark.parametrize(
    ("kind", "mode", "said"),
    [
        ("grades", "pair", "expected boxed, letters"),
        ("boxed:7", "pair", "expected boxed"),
        ("boxed:", "pair", "expected boxed"),
        ("letters:1-5", "pair", "expected boxed"),
        ("last_number", "single", "last_number:LOW-HIGH (such as last_number:1-10)"),
        ("last_number:5", "single", "last_number:LOW-HIGH"),
        ("last_number:1-5:x", "single", "last_number:LOW-HIGH"),
        ("last_number:5-5", "single", "the range '5-5' is empty"),
        ("json:5-1:s", "single", "the range '5-1' is empty"),
        (r"regex:1-5:(?P<winner>\w)", "pair", "names a winner"),
        ("json", "pair", "expected boxed"),
        ("json:", "pair", "expected boxed"),
        ("letters", "single", "letters name the best"),
        (LAST, "pair", "last_number is the score of one"),
        (LAST, "list", "last_number is the score of one"),
        ("regex:(", "single", "does not compile"),
        ("regex:Score", "single", "score_1, and 'Score' has none"),
        ("regex:(?P<score>.)", "single", "has score"),
        ("regex:(?P<winner>.)", "single", "named groups score_1"),
        ("regex:(?P<score_1>.)", "pair", "score_1, score_2"),
        ("regex:(?P<score_1>.)(?P<score_3>.)", "list", "score_1, score_2 and so on"),
        ("regex:(?P<winner>.)(?P<score_1>.)", "list", "has score_1, winner"),
        ("regex:(a+)+(?P<score_1>.)", "single", "exponential"),
        ("regex:.*.*(?P<score_1>.)", "single", "may take minutes"),
    ],
)  # fmt: skip
def test_kinds_that_say_nothing_are_refused(kind, mode, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_kind(kind, mode)
