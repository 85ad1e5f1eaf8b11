"""Sources of principles that a judge is given instead of writing them.

With the same policy and the same form of answer, the source shows the worth of principles:

    own        the principles of the judge's greedy sample, for all samples
    shuffled   the principles of another comparison: the form without the content
    given      the principles of the comparison, from a user's file or true in the small world
    query      written from the query alone, once a query, so that no response can sway them
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.text.parts import split_parts
from grm_jax.text.prompts import PRINCIPLES_HEADING

SOURCES = ("own", "shuffled", "given", "query")


class NoPrinciples(ValueError):
    """Too many comparisons get no principles."""


# Draws one greedy trajectory of each comparison in a principle mode.
DrawGreedy = Callable[[Sequence[Comparison], str], list[Trajectory]]


def give(
    source: str,
    comparisons: Sequence[Comparison],
    draw: DrawGreedy,
    *,
    mode: str,
    seed: int,
    max_missing: float,
) -> list[Comparison]:
    """The comparisons with the principles of a source.

    Args:
      source: one of `SOURCES`.
      comparisons: at least two different queries for "shuffled".
      draw: draws greedy trajectories of the policy that will judge.
      mode: the principle mode that the policy was trained in.
      seed: of the shuffling.
      max_missing: share of comparisons that may get none, because a sample had none, or there is
        no other query to shuffle with; for these the judge writes its own.

    Raises:
      NoPrinciples: a larger share of comparisons gets none.
    """
    if source == "given":
        texts = [comparison.principles for comparison in comparisons]
    elif source == "query":
        first = {comparison.messages: comparison for comparison in reversed(comparisons)}
        drawn = {t.uid: t for t in draw(list(first.values()), "query")}
        texts = [_principles(drawn[first[c.messages].uid]) for c in comparisons]
    else:
        drawn = {t.uid: t for t in draw(comparisons, mode)}
        texts = [_principles(drawn[comparison.uid]) for comparison in comparisons]
        if source == "shuffled":
            texts = ["" if i is None else texts[i] for i in others(comparisons, seed)]
    without = [c.uid for c, text in zip(comparisons, texts, strict=True) if not text.strip()]
    if len(without) > max_missing * len(comparisons):
        raise NoPrinciples(
            f"config.benchmark.principles={source}: {len(without)} of {len(comparisons)} "
            f"comparisons have no principles (first: {without[0]!r})"
        )
    return [
        dataclasses.replace(comparison, principles=text)
        for comparison, text in zip(comparisons, texts, strict=True)
    ]


def others(comparisons: Sequence[Comparison], seed: int) -> list[int | None]:
    """The index of another comparison of the same kind, with another query, for each; or None.

    The kinds are single responses, which are judged 0 or 1, and several.
    """
    partners: list[int | None] = [None] * len(comparisons)
    for single in (False, True):
        kind = [i for i, comparison in enumerate(comparisons) if (comparison.n == 1) is single]
        cycle = np.random.default_rng((seed, int(single))).permutation(kind).tolist()
        for place, i in enumerate(cycle):
            for j in cycle[place + 1 :] + cycle[:place]:
                if comparisons[j].messages != comparisons[i].messages:
                    partners[i] = j
                    break
    return partners


def _principles(trajectory: Trajectory) -> str:
    """The text between the heading and the critique."""
    text = split_parts(trajectory.text).principles.strip()
    return text.removeprefix(PRINCIPLES_HEADING).strip()
