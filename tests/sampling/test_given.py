"""Given principles: whose they are, and that shuffling leaves nobody its own."""

import dataclasses

import pytest

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.sampling import given
from grm_jax.text.prompts import Message


def comparison(uid, query, n=2, principles=""):
    rewards = (1.0,) if n == 1 else (1.0, *[0.0] * (n - 1))
    texts = tuple(f"{uid} {i}" for i in range(n))
    return Comparison(uid, (Message("user", query),), texts, rewards, principles=principles)


COMPARISONS = [
    comparison("a", "one", principles="mine"), comparison("b", "two"), comparison("c", "two"),
    comparison("d", "three", 3), comparison("s", "four", 1), comparison("t", "five", 1),
]  # fmt: skip


def drawing(asked, texts=None):
    """A judge that states its comparison's uid; remembers what it was asked."""

    def draw(comparisons, mode):
        asked.append((mode, [one.uid for one in comparisons]))
        return [
            Trajectory(
                "f", "s", 0, one.uid, 0, (0, 0), tuple(range(one.n)), (), (), (),
                (texts or {}).get(one.uid, f"Specific Criteria: of {one.uid}\nAnalysis: x"),
                None, "no box", None, "stop", None,
            )
            for one in comparisons
        ]  # fmt: skip

    return draw


def give(source, texts=None, comparisons=COMPARISONS, max_missing=0.0):
    asked = []
    found = given.give(source, comparisons, drawing(asked, texts), mode="self", seed=0,
                       max_missing=max_missing)  # fmt: skip
    assert [dataclasses.replace(one, principles="") for one in found] == [
        dataclasses.replace(one, principles="") for one in comparisons
    ]
    return [one.principles for one in found], asked


def test_own_are_those_of_the_greedy_sample():
    texts, asked = give("own")
    assert texts == [f"of {one.uid}" for one in COMPARISONS]
    assert asked == [("self", [one.uid for one in COMPARISONS])]


def test_shuffled_are_of_another_query_and_of_the_same_kind():
    texts, _ = give("shuffled")
    at = {f"of {one.uid}": one for one in COMPARISONS}
    for one, text in zip(COMPARISONS, texts, strict=True):
        assert at[text].messages != one.messages
        assert (at[text].n == 1) == (one.n == 1)
    assert give("shuffled")[0] == texts
    for seed in range(10):
        for one, i in zip(COMPARISONS, given.others(COMPARISONS, seed), strict=True):
            assert COMPARISONS[i].messages != one.messages
    with pytest.raises(given.NoPrinciples, match=r"shuffled: 1 of 5 .* \(first: 's'\)"):
        give("shuffled", comparisons=COMPARISONS[:5])
    assert give("shuffled", comparisons=COMPARISONS[:5], max_missing=0.5)[0][4] == ""


def test_query_asks_once_a_query_and_shares_the_answer():
    texts, asked = give("query")
    assert asked == [("query", asked[0][1])] and sorted(asked[0][1]) == ["a", "b", "d", "s", "t"]
    assert texts == ["of a", "of b", "of b", "of d", "of s", "of t"]


def test_who_has_none_is_counted():
    with pytest.raises(ValueError, match=r"principles=given: 5 of 6 .* \(first: 'b'\)"):
        give("given")
    assert give("given", max_missing=0.9)[0] == ["mine", *[""] * 5]
    with pytest.raises(ValueError, match="principles=own: 1 of 6"):
        give("own", texts={"c": "Analysis: at once"})
