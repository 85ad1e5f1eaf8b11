"""Patterns of users: those that may take long are refused, and the others are quick."""

import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grm_jax.text import patterns


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(a+)+b", "exponential"),
        (r"(a|a)*b", "exponential"),
        (r"((?:a?)b)+", "exponential"),
        (r"(?:x(a{1,3})){2,}", "exponential"),
        (r"(?i:(?:a+))+b", "exponential"),
        (r"(?s-i:a+)+b", "exponential"),
        (r"(?P<one>(?#why)a+)+b", "exponential"),
        (r"(?x) ( a+ ) * b (?P<winner>[AB])", "flag x"),
        (r"(?xi: ( a+ ) * ) b", "flag x"),
        (r".*?.*?.*?x(?P<winner>[AB])", "minutes"),
        (r".+(a)?a?[ab]{1,3}(a)+c", "minutes"),
        (r"(?:ab|ac|ad|ae|a|a.):.*?(?P<score_1>\d)", "minutes"),
        (r".*.*.*x", "minutes"),
        (r" * *\s*x", "minutes"),
        (r".{1,900}.{1,900}x", "minutes"),
        (r"\x61*a*[a]*b", "minutes"),
        (r"(?:ab)*(?:abab)*(?:ab)+c", "minutes"),
        (r"(?:a*|b)a*a*c", "minutes"),
        (r"(a*)\1*c(?:.*x)?.*y", "minutes"),
        (r"[\u0600-\u06ff]*[\u0600-\u06ff]*[\u0600-\u06ff]*x", "minutes"),
        ("[а-п]*[к-я]*[к-я]*x", "minutes"),
        ("a?" * 40 + "b", "minutes"),
        ("(?:a|a)" * 40 + "b", "minutes"),
    ],
)
def test_patterns_that_may_take_long_are_refused(pattern, said):
    re.compile(pattern)
    with pytest.raises(ValueError, match=said):
        patterns.check(pattern)


TAKEN = [
    r"\[RESULT\]\s*(?P<score_1>[1-5])",
    r"(?:\*\*)?Score(?:\*\*)?: *(?P<score_1>-?\d+(\.\d+)?)",
    r"[(]+[*)]\)(?P<score_1>[]+*)|]+)",
    r"(?:ab){3}(?P<score_1>\d)",
    r"(?i:win)+(?P<winner>[AB])",
    r"(?is)score.*?(?P<score_1>\d)",
    r"(?:Score|Rating|Grade|Mark|Points|Verdict): .*?(?P<score_1>\d)",
    r"boxed{ *(?P<score_1>[1-5]) *, *(?P<score_2>[1-5]) *}",
    r"[^0-9]*(?P<score_1>\d)[^0-9]*(?P<score_2>\d)",
    r"(?s).*\s*x",
    r"(?:a+b?)?a+c",
    r"(a*)b\1c",
]


@pytest.mark.parametrize("pattern", TAKEN)
def test_patterns_that_are_quick_are_taken(pattern):
    patterns.check(pattern)
    compiled = re.compile(pattern, re.IGNORECASE)
    for piece in ("a", " ", "1", "score: ", "[RESULT] ", "win", "(", "ab", "boxed{ 1 "):
        began = time.process_time()
        [*compiled.finditer(piece * (300 // len(piece)))]  # cubic at the most
        assert time.process_time() - began < 0.5


UNITS = st.sampled_from(["a", "b", ".", "[ab]", "(?:ab)", "(?:a|b)", "(a)"])
REPEATS = st.sampled_from(["", "", "*", "+?", "?", "{1,3}"])


@settings(deadline=None)
@given(st.lists(st.tuples(UNITS, REPEATS).map("".join), min_size=1, max_size=6).map("".join))
def test_patterns_that_are_taken_end_in_time(pattern):
    """Against the clock: a pattern that is taken is cubic at most, so short texts take no time."""
    try:
        patterns.check(pattern + "c")
    except ValueError:
        return
    compiled = re.compile(pattern + "c")
    for piece in itertools.chain("ab", ("ab",)):
        began = time.process_time()
        assert not compiled.search((piece * 100)[:100])
        assert time.process_time() - began < 0.5
