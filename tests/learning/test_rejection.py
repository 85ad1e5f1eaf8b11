"""Rejective fine-tuning keeps what the paper keeps, and records the rest."""

import dataclasses
import json
import random

import pytest
from builders import trajectory

from grm_jax.learning.rejection import OUTCOMES, RejectionRules, easy_comparisons, reject

RIGHT, WRONG, UNPARSED, CUT = "right", "wrong", "unparsed", "cut"


def sampled(uid, sample, kind, hinted=False):
    """A trajectory of two responses; CUT is right but ended at the length limit."""
    return trajectory(
        uid, sample, None if kind == UNPARSED else (3, 7), stage="rft", order=(1, 0),
        finish="length" if kind == CUT else "stop", correct=kind in (RIGHT, CUT), hinted=hinted,
    )  # fmt: skip


def draw(uid, plain, hinted=None):
    drawn = [sampled(uid, i, kind) for i, kind in enumerate(plain)]
    if hinted is not None:
        drawn.append(sampled(uid, 0, hinted, hinted=True))
    return drawn


def outcomes(plain, hinted=None, **rules):
    result = reject(draw("u", plain, hinted), RejectionRules(**rules))
    return [decision.outcome for decision in result.decisions]


R, W, N, C = RIGHT, WRONG, UNPARSED, CUT
TABLE = [
    # three non-hinted, hinted, options, expected outcomes
    ((R, W, R), None, {}, ["kept", "incorrect", "kept"]),
    ((W, W, N), None, {}, ["incorrect", "incorrect", "unparsed"]),
    ((R, R, R), None, {}, ["too_easy"] * 3),
    ((R, R, R), R, {}, ["too_easy"] * 3 + ["kept"]),
    ((R, R, R), W, {}, ["too_easy"] * 3 + ["hinted_incorrect"]),
    ((R, R, R), R, {"hinted_of_too_easy": False}, ["too_easy"] * 3 + ["hinted_too_easy"]),
    ((R, R, W), R, {"hinted_of_too_easy": False}, ["kept", "kept", "incorrect", "kept"]),
    ((R, R, R), None, {"drop_too_easy": False}, ["kept"] * 3),
    ((W, W, W), R, {}, ["incorrect"] * 3 + ["kept"]),
    ((W, W, W), N, {}, ["incorrect"] * 3 + ["hinted_unparsed"]),
    ((W, W, W), C, {}, ["incorrect"] * 3 + ["hinted_unfinished"]),
    # A cut-off trajectory is no example, but it shows that the comparison is easy.
    ((R, C, W), None, {}, ["kept", "unfinished", "incorrect"]),
    ((R, C, R), None, {}, ["too_easy"] * 3),
    ((R, C, W), None, {"require_stop": False}, ["kept", "kept", "incorrect"]),
    # Ablations.
    ((R, W, R), R, {"use_hinted": False}, ["kept", "incorrect", "kept", "hinted_not_used"]),
    ((R, W, R), R, {"use_non_hinted": False}, ["not_used"] * 3 + ["kept"]),
    ((), R, {"use_non_hinted": False}, ["kept"]),
]


@pytest.mark.parametrize(("plain", "hinted", "rules", "expected"), TABLE)
def test_rules(plain, hinted, rules, expected):
    assert outcomes(plain, hinted, **rules) == expected
    assert set(expected) <= set(OUTCOMES)


def test_every_trajectory_is_on_record_whatever_the_order():
    drawn = draw("a", (R, W, N), R) + draw("b", (R, R, R), W) + draw("c", (W, W, W))
    random.Random(0).shuffle(drawn)
    result = reject(drawn, RejectionRules())
    assert [decision.trajectory for decision in result.decisions] == drawn
    assert {(t.uid, t.sample, t.hinted) for t in result.kept} == {("a", 0, False), ("a", 0, True)}
    assert {k: v for k, v in result.counts.items() if v} == {
        "kept": 2, "incorrect": 4, "unparsed": 1, "too_easy": 3, "hinted_incorrect": 1,
    }  # fmt: skip
    assert set(result.counts) == set(OUTCOMES)
    assert sum(result.counts.values()) == len(drawn)
    assert result.comparisons == {"total": 3, "too_easy": 1, "used": 1}


def test_decision_is_one_line_of_json():
    (decision, *_) = reject(draw("ü\n", (N, R, W)), RejectionRules()).decisions
    line = decision.to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "fingerprint": "f0", "stage": "rft", "step": 0, "uid": "ü\n", "sample": 0,
        "hinted": False, "outcome": "unparsed", "correct": False, "parse_reason": "no_box",
        "finish": "stop", "tokens": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("drawn", "match"),
    [
        (draw("u7", (R, W)), r"'u7'.*2 non-hinted.*rft\.num_samples"),
        (draw("u7", (R, W, R, W)), r"'u7'.*4 non-hinted"),
        (draw("u7", (R, W, R), R) + [sampled("u7", 1, R, True)], r"2 hinted.*rft\.num_hinted"),
        ([sampled("u7", 0, R)] * 3, r"'u7'.*twice"),
    ],
)
def test_a_wrong_number_of_samples_is_an_error(drawn, match):
    with pytest.raises(ValueError, match=match):
        reject(drawn, RejectionRules())


def test_unknown_correctness_is_an_error():
    drawn = draw("u7", (R, W, R))
    drawn[1] = dataclasses.replace(drawn[1], correct=None)
    with pytest.raises(ValueError, match=r"u7.*'correct'"):
        reject(drawn, RejectionRules())


def test_impossible_rules_name_the_field():
    with pytest.raises(ValueError, match=r"num_samples: must be at least 1"):
        RejectionRules(num_samples=0)
    with pytest.raises(ValueError, match=r"num_samples: .*drop_too_easy"):
        RejectionRules(num_samples=1)
    assert RejectionRules(num_samples=1, drop_too_easy=False).num_samples == 1


def test_comparisons_that_a_model_always_gets_right_are_easy():
    drawn = [
        *draw("easy", (R, R, C)), *draw("hard", (R, R, W)), *draw("unread", (R, N, R)),
        *draw("few", (R, R)), *draw("more", (R, R, R, R)), sampled("hinted", 0, R, True),
        *draw("told", (R, W, R), R),
    ]  # fmt: skip
    random.Random(0).shuffle(drawn)
    assert easy_comparisons(drawn, 3) == ({"easy", "more"}, 5)
    assert easy_comparisons(drawn, 4) == ({"more"}, 1)
    assert easy_comparisons(drawn, 2) == ({"easy", "more", "few"}, 6)
    assert easy_comparisons([], 3) == (set(), 0)
    other = dataclasses.replace(drawn[0], step=1, hinted=False)
    with pytest.raises(ValueError, match="several models"):
        easy_comparisons([*drawn, other], 3)
    with pytest.raises(ValueError, match="'correct' is unknown"):
        easy_comparisons([dataclasses.replace(sampled("a", 0, R), correct=None)], 3)
