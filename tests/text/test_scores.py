import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grm_jax.text.scores import REASONS, is_correct, parse_lenient, parse_strict

# a busy machine is no failure
PATIENT = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow])
STRICT = [
    # real shapes of outputs
    ("Specific Criteria: ...\nScores: \\boxed{8, 9}", 2, (8, 9)),
    ("**Scores: \\boxed{8, 8}**", 2, (8, 8)),
    ("### Output:\n\\boxed{10, 7}", 2, (10, 7)),
    ("Response 1: \\boxed{3}\nResponse 2: \\boxed{4}\nScores: \\boxed{5, 6}", 2, (5, 6)),
    ("\\\\boxed{8,9}", 2, (8, 9)),
    ("\\boxed{ 8 ,\n\t9\r\n}", 2, (8, 9)),
    ("\\boxed {8}", 1, (8,)),
    ("\\boxed{10}", 1, (10,)),
    ("\\boxed{1, 2, 3, 4}", 4, (1, 2, 3, 4)),
    ("\\boxed{\\boxed{8, 9}}", 2, (8, 9)),
    ("\\boxed{ never closed, then \\boxed{8, 9}", 2, (8, 9)),
    # the extractor in circulation loses these to a later bracket
    ("Scores: \\boxed{8, 9}\nNote that a[i - 2] is out of bounds.", 2, (8, 9)),
    # no box
    ("", 2, "no_box"),
    ("Scores: 8, 9", 2, "no_box"),
    ("boxed{8, 9}", 2, "no_box"),
    ("\\Boxed{8, 9}", 2, "no_box"),
    ("\\boxed 8", 1, "no_box"),
    ("[[8, 9]]", 2, "no_box"),
    ("Scores: [8, 9]", 2, "no_box"),
    # a truncated trajectory is not scored by an intermediate box
    ("\\boxed{8, 9} and then \\boxed{7, 1", 2, "unclosed_box"),
    ("\\boxed{8, 9} and then \\boxed{", 2, "unclosed_box"),
    ("\\boxed{8, 9} and then \\boxed", 2, "unclosed_box"),
    ("\\boxed{8, {9}", 2, "unclosed_box"),
    # count
    ("\\boxed{}", 1, "count"),
    ("\\boxed{  }", 1, "count"),
    ("\\boxed{8}, \\boxed{9}", 2, "count"),
    ("\\boxed{8, 9, 7}", 2, "count"),
    ("\\boxed{8, 9,}", 2, "count"),
    ("\\boxed{8; 9}", 2, "count"),
    ("\\boxed{10}", 2, "count"),
    # not integers
    ("\\boxed{x, x}", 2, "not_integer"),
    ("\\boxed{[8, 9]}", 2, "not_integer"),
    ("\\boxed{8/10, 9/10}", 2, "not_integer"),
    ("\\boxed{8.0, 9}", 2, "not_integer"),
    ("\\boxed{{8}, 9}", 2, "not_integer"),
    ("\\boxed{\\text{8}, 9}", 2, "not_integer"),
    ("\\boxed{08, 9}", 2, "not_integer"),
    ("\\boxed{+8, 9}", 2, "not_integer"),
    ("\\boxed{-0, 9}", 2, "not_integer"),
    ("\\boxed{1e1, 9}", 2, "not_integer"),
    ("\\boxed{1_0, 9}", 2, "not_integer"),
    ("\\boxed{8, }", 2, "not_integer"),
    ("\\boxed{\u0668, 9}", 2, "not_integer"),  # Arabic-Indic eight
    ("\\boxed{\uff18, 9}", 2, "not_integer"),  # full-width eight
    ("\\boxed{\u00b2, 9}", 2, "not_integer"),  # superscript two
    ("\\boxed{\u00a08, 9}", 2, "not_integer"),  # no-break space
    # range
    ("\\boxed{0, 9}", 2, "out_of_range"),
    ("\\boxed{8, 11}", 2, "out_of_range"),
    ("\\boxed{-3, 9}", 2, "out_of_range"),
    ("\\boxed{" + "9" * 10_000 + "}", 1, "out_of_range"),
]


@pytest.mark.parametrize("text, n, expected", STRICT)
def test_strict(text, n, expected):
    parsed = parse_strict(text, n)
    if isinstance(expected, str):
        assert parsed == (None, expected)
        assert expected in REASONS
    else:
        assert parsed == (expected, "ok")


def test_every_reason_occurs_in_the_vectors():
    assert {parse_strict(text, n).reason for text, n, _ in STRICT} == set(REASONS)


def test_range_of_the_binary_form():
    assert parse_strict("\\boxed{0}", 1, 0, 1).scores == (0,)
    assert parse_strict("\\boxed{1}", 1, 0, 1).scores == (1,)
    assert parse_strict("\\boxed{2}", 1, 0, 1) == (None, "out_of_range")
    assert parse_lenient("\\boxed{1/1}", 1, 0, 1).scores == (1,)


@pytest.mark.parametrize(
    "text, n, expected",
    [
        ("[[8, 9]]", 2, (8, 9)),
        ("I saw [[1, 2]], so: [[8, 9]]", 2, (8, 9)),
        ("\\boxed{[8, 9]}", 2, (8, 9)),
        ("\\boxed{8/10, 9/10}", 2, (8, 9)),
        ("\\boxed{8}, \\boxed{9}", 2, (8, 9)),
        ("\\boxed{1}, \\boxed{2}; finally \\boxed{8} and \\boxed{9}", 2, (8, 9)),
        ("\\boxed{\\text{8}, {9}}", 2, (8, 9)),
        ("\\boxed{$8$, **9**}", 2, (8, 9)),
        ("\\boxed{8; 9}", 2, (8, 9)),
        ("\\boxed{8 and 9}", 2, (8, 9)),
        ("\\boxed{8\uff0c9}", 2, (8, 9)),
        ("\\boxed{8,\\ 9\\,/\\,10}", 2, (8, 9)),
        ("\\boxed{Response 1: 8, Response 2: 9}", 2, (8, 9)),
        ("\\boxed{8 points, 9 points.}", 2, (8, 9)),
        ("\\boxed{08, +9}", 2, (8, 9)),
        ("\\boxed{\u00a08, 9}", 2, (8, 9)),
        ("\\boxed{7.5, 8.4}", 2, (8, 8)),
        ("\\boxed{0, 11}", 2, (1, 10)),
        ("\\boxed{-3, 8.5}", 2, (1, 9)),
        ("Scores: [8, 9]", 2, "no_box"),
        ("8, 9", 2, "no_box"),
        ("\\boxed{8, 9} \\boxed{8, 1", 2, "unclosed_box"),
        ("[[8, 9]] \\boxed{8, 1", 2, "unclosed_box"),
        ("\\boxed{8}", 2, "count"),
        ("\\boxed{8, 9, 7}", 2, "count"),
        ("\\boxed{}", 1, "count"),
        ("\\boxed{8/9, 9/10}", 2, "not_integer"),
        ("\\boxed{x, x}", 2, "not_integer"),
        ("\\boxed{8:9, 7}", 2, "not_integer"),
        ("\\boxed{\uff18, 9}", 2, "not_integer"),
        ("\\boxed{" + "9" * 10_000 + "}", 1, "not_integer"),
    ],
)
def test_lenient(text, n, expected):
    parsed = parse_lenient(text, n)
    if isinstance(expected, str):
        assert parsed == (None, expected)
    else:
        assert parsed == (expected, "ok")


PIECES = ["\\boxed{", "\\boxed", "}", "{", ",", "8", "10", "11", " ", "[", "[[", "]]", "/10", "x"]


@settings(max_examples=100, **PATIENT)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map("".join))
def test_lenient_contains_strict_and_both_keep_their_promise(text):
    for n in (1, 2):
        strict, lenient = parse_strict(text, n), parse_lenient(text, n)
        for parsed in (strict, lenient):
            assert parsed.reason in REASONS and (parsed.scores is None) == (parsed.reason != "ok")
            if parsed.scores is not None:
                assert len(parsed.scores) == n and all(1 <= score <= 10 for score in parsed.scores)
        if strict.scores is not None:
            assert lenient == strict
        assert (strict.reason == "unclosed_box") == (lenient.reason == "unclosed_box")


@settings(max_examples=100, **PATIENT)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=6), st.text(max_size=20))
def test_a_written_box_is_read_back(scores, before):
    text = f"{before}\nScores: \\boxed{{{', '.join(map(str, scores))}}}"
    assert parse_strict(text, len(scores)).scores == tuple(scores)


@pytest.mark.parametrize(
    "scores, rewards, expected",
    [
        ((8, 5), (1, 0), True),
        ((5, 8), (1, 0), False),
        ((8, 8), (1, 0), False),  # a tie at the top is wrong
        ((4, 9, 4), (0.1, 0.9, 0.5), True),
        ((4, 9, 9), (0.1, 0.9, 0.5), False),
        ((7, 9, 1), (0.1, 0.9, 0.5), True),  # the order of the others is irrelevant
        ((1, 1, 2), (0, 0, 1), True),  # losers may tie in rewards and scores
        ((1,), (1,), True),
        ((1,), (0,), False),
        ((0,), (0.0,), True),
        (None, (1, 0), False),
        (None, (1,), False),
    ],
)
def test_is_correct(scores, rewards, expected):
    assert is_correct(scores, rewards) is expected


@pytest.mark.parametrize(
    "scores, rewards, message",
    [
        ((8, 5), (1, 1), "unique"),
        (None, (1, 1), "unique"),
        ((8, 5, 4), (1, 0), "expected 2, got 3"),
        ((8, 5), (1, float("nan")), "finite"),
        ((), (), "at least one"),
    ],
)
def test_is_correct_refuses(scores, rewards, message):
    with pytest.raises(ValueError, match=message):
        is_correct(scores, rewards)
