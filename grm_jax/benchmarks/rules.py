"""Scoring rules that several benchmarks share: verdicts on pairs, and games in both orders.

Nothing here draws or votes: the arrays may come from trajectories, from a scalar reward model or
from a published result file. Shape letters: C comparisons, R rows of a benchmark, M subsets of
samples.

A *verdict* on two responses is FIRST, SECOND, TIE or NONE (nothing to read), of the responses as
the data name them, whatever the order they were shown in.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from grm_jax.data.comparison import Comparison

FIRST, SECOND, TIE, NONE = range(4)
# For the notes of benchmarks that judge a pair twice.
GAMES_NOTE = (
    "judged once in the order of the data and once in the other; Voting@k has k samples in each. "
)


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """int [C]: a number for each name, equal for equal ones, from 0 in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def verdicts(scores: ArrayLike) -> np.ndarray:
    """int [...]: the verdict of two scores [..., 2]; NONE where one is NaN."""
    scores = np.asarray(scores, np.float64)
    first, second = scores[..., 0], scores[..., 1]
    better = np.where(first > second, FIRST, np.where(second > first, SECOND, TIE))
    return np.where(np.isnan(first) | np.isnan(second), NONE, better)


def shares(verdicts: ArrayLike) -> np.ndarray:
    """float64 [C, 4]: how often each verdict was given, of verdicts [M, C]."""
    verdicts_MC = np.asarray(verdicts)
    return np.stack([(verdicts_MC == verdict).mean(axis=0) for verdict in range(4)], axis=-1)


def golds(comparisons: Sequence[Comparison]) -> np.ndarray:
    """int [C]: the gold verdicts of pairs, FIRST, SECOND or TIE."""
    return np.array([TIE if len(c.winners) == 2 else c.winners[0] for c in comparisons])


def chance_of(rule, shares_1: ArrayLike, shares_2: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """float64 [C]: the chance that a rule calls two games right that are judged apart.

    Args:
        rule: (verdict of a game, verdict of the other, gold verdict) -> bool, of any shapes that
            broadcast.
        shares_1, shares_2: [C, 4] of `shares`, one game an order.
        gold: verdicts [C].
    """
    table_C44 = rule(
        np.arange(4)[None, :, None], np.arange(4)[None, None, :], np.asarray(gold)[:, None, None]
    )
    return np.einsum("ci,cj,cij->c", shares_1, shares_2, table_C44.astype(np.float64))
