"""Trajectories in their parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grm_jax.text.parts import split_parts

PRINCIPLES, CRITIQUE = "Specific Criteria: polite 5\n", "Analysis:\nResponse 1: polite\n"
SCORES = "Scores: \\boxed{9, 1}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (PRINCIPLES + CRITIQUE + SCORES, (PRINCIPLES, CRITIQUE, SCORES)),
        (CRITIQUE + SCORES, ("", CRITIQUE, SCORES)),
        (PRINCIPLES, (PRINCIPLES, "", "")),
        (PRINCIPLES + "## **Analysis**:\nx", (PRINCIPLES, "## **Analysis**:\nx", "")),
        ("no heading at all", ("", "no heading at all", "")),
        ("so I think. " + SCORES, ("", "so I think. " + SCORES, "")),
        # A critique that speaks of scores before it gives them.
        (CRITIQUE + "Scores: later\n" + SCORES, ("", CRITIQUE + "Scores: later\n", SCORES)),
        (SCORES + "\n" + CRITIQUE, ("", "", SCORES + "\n" + CRITIQUE)),
    ],
)
def test_parts(text, parts):
    assert split_parts(text) == parts


@given(st.lists(st.sampled_from([PRINCIPLES, CRITIQUE, SCORES, "\n", "x: y", "\u2028"])))
def test_nothing_is_lost(pieces):
    assert "".join(split_parts("".join(pieces))) == "".join(pieces)
