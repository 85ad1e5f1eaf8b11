"""Confidence intervals, tests and ranking measures. Numpy and scipy, float64, seeded.

The item of every interval is the comparison: random subsets of samples, or the samples of one
comparison, are never resampled as if they were new evidence. Shape letters: R training seeds,
I items, C comparisons, S samples, M subsets, B resamples, L lines of a table, G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

# Resampling works on [chunk, I] count matrices of about this many entries at a time.
CHUNK_ENTRIES = 4_000_000


class Interval(NamedTuple):
    """A value and the ends of its confidence interval, in the unit of the data."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval: the number behind the sign ±."""
        return (self.high - self.low) / 2


class Difference(NamedTuple):
    """A paired difference a - b: value, interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


class WithinAUC(NamedTuple):
    """AUC inside comparisons; NaN where no comparison had mixed outcomes.

    Attributes:
        value: chance that a correct sample is ranked above a wrong one of the same comparison.
        pairs: the number of such pairs.
        comparisons: the number of comparisons that had any.
    """

    value: float
    pairs: int
    comparisons: int


def bootstrap_mean(
    values: ArrayLike,
    *,
    clusters: Sequence | None = None,
    num_resamples: int = 10_000,
    level: float = 0.95,
    rng_seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean over items.

    Args:
        values: [I].
        clusters: [I] names; items of one cluster (say, one query) are resampled together and
            the statistic stays the mean over items.
        level: coverage.

    Raises:
        ValueError: naming the argument: a value that is not finite, no items, a wrong shape.
    """
    value, means_B = _bootstrap_means(values, clusters, num_resamples, rng_seed)
    return Interval(value, *_percentiles(means_B, level))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Sequence | None = None,
    num_resamples: int = 10_000,
    level: float = 0.95,
    rng_seed: int = 0,
) -> Difference:
    """Bootstrap of mean(a - b), item by item; arguments as `bootstrap_mean`.

    The p-value is twice the smaller share of resamples on either side of zero (zero counts on
    both sides), with one added to each count: it is never 0, and 1 for equal inputs.

    Raises:
        ValueError: as `bootstrap_mean`, or different shapes.
    """
    a, b = _finite("a", a, dims=(1,)), _finite("b", b, dims=(1,))
    if a.shape != b.shape:
        raise ValueError(f"a, b: shapes {a.shape} and {b.shape} are not paired")
    value, means_B = _bootstrap_means(a - b, clusters, num_resamples, rng_seed)
    return _difference(value, means_B, level)


class Resampled(NamedTuple):
    """L means on the same B resamples of the items, so that any two of them are paired.

    Attributes:
        values_L: float64, on the items themselves.
        draws_BL: float64, on each resample.
    """

    values_L: np.ndarray
    draws_BL: np.ndarray

    def interval(self, line: int, level: float = 0.95) -> Interval:
        """Percentile interval of one line."""
        ends = _percentiles(self.draws_BL[:, line], level)
        return Interval(float(self.values_L[line]), *ends)

    def difference(self, a: int, b: int, level: float = 0.95) -> Difference:
        """Line a minus line b, with the p-value of `paired_difference`."""
        draws_B = self.draws_BL[:, a] - self.draws_BL[:, b]
        return _difference(float(self.values_L[a] - self.values_L[b]), draws_B, level)


def resample(
    values: ArrayLike,
    *,
    clusters: Sequence | None = None,
    num_resamples: int = 10_000,
    rng_seed: int | tuple[int, ...] = 0,
) -> Resampled:
    """`bootstrap_mean` of each row of values [L, I], all on the same resamples.

    Raises:
        ValueError: as `bootstrap_mean`.
    """
    values_LI = _finite("values", values, dims=(2,))
    rng = np.random.default_rng(rng_seed)
    draws = _resampled_means(values_LI, clusters, num_resamples, rng)
    return Resampled(values_LI.mean(axis=1), np.concatenate(list(draws)))


def over_seeds(
    values: Sequence[ArrayLike],
    *,
    clusters: Sequence[Sequence],
    same_items: bool,
    num_resamples: int = 10_000,
    rng_seed: int = 0,
) -> Resampled:
    """Means over R training seeds.

    A resample draws R seeds with replacement and then items (clusters) of each; the mean is over
    seeds. Few seeds resampled vary less than few seeds drawn anew: resamples are stretched about
    the mean by sqrt(R / (R - 1)) and by the quantile of Student's t with R - 1 degrees of freedom
    over that of the normal, which makes the 95 % interval that of the t-test where seeds decide it,
    and too wide where items do. A single seed is not resampled, only its items.

    Args:
        values: of each seed [L, I].
        clusters: of each seed [I] names.
        same_items: the items of all seeds are the same ones, in the same order, and are resampled
            together; otherwise each seed has its own, and their number may differ.

    Raises:
        ValueError: as `bootstrap_mean`, no seed, seeds of unequal L, or, for `same_items`, of
            unequal items.
    """
    values = [_finite("values", one, dims=(2,)) for one in values]
    if not values or len({len(one) for one in values}) > 1:
        raise ValueError("values: needs as many lines of each seed, and at least one seed")
    R, L = len(values), len(values[0])
    rng = np.random.default_rng(rng_seed)
    times_BR = rng.multinomial(R, np.full(R, 1 / R), size=num_resamples)
    draws_BL = np.zeros((num_resamples, L))
    if same_items:
        if len({one.shape for one in values}) > 1:
            raise ValueError("values: seeds with the same items have as many of them")
        stacked = np.concatenate(values)
        means = np.concatenate(list(_resampled_means(stacked, clusters[0], num_resamples, rng)))
        draws_BL = np.einsum("brl,br->bl", means.reshape(num_resamples, R, L), times_BR)
    else:
        for r, (own_LI, names) in enumerate(zip(values, clusters, strict=True)):
            # A seed that was drawn twice has its items resampled twice.
            where = np.repeat(np.arange(num_resamples), times_BR[:, r])
            means = np.concatenate(list(_resampled_means(own_LI, names, len(where), rng)))
            np.add.at(draws_BL, where, means)
    values_L = np.mean([one.mean(axis=1) for one in values], axis=0)
    stretch = 1.0
    if R > 1:
        student, normal = scipy.stats.t.ppf(0.975, R - 1), scipy.stats.norm.ppf(0.975)
        stretch = math.sqrt(R / (R - 1)) * student / normal
    return Resampled(values_L, values_L + stretch * (draws_BL / R - values_L))


def weighted_mean(strata: Sequence[Resampled], weights: Sequence[float]) -> Resampled:
    """The mean of the means of strata that were resampled apart: benchmarks fix their weights.

    Raises:
        ValueError: no stratum, or weights that are not as many, negative, or all zero.
    """
    weights_G = np.asarray(weights, np.float64)
    if not strata or weights_G.shape != (len(strata),):
        raise ValueError(f"weights: {len(weights)} for {len(strata)} strata")
    if (weights_G < 0).any() or not weights_G.sum() > 0:
        raise ValueError(f"weights: {tuple(weights)} are negative or all zero")
    shares_G = weights_G / weights_G.sum()
    return Resampled(
        sum(share * one.values_L for share, one in zip(shares_G, strata, strict=True)),
        sum(share * one.draws_BL for share, one in zip(shares_G, strata, strict=True)),
    )


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    num_items: int,
    *,
    num_resamples: int = 1_000,
    level: float = 0.95,
    rng_seed: int = 0,
) -> Interval:
    """Percentile bootstrap of any statistic of item indices, such as an AUC.

    Args:
        statistic: maps [I] item indices (with repetitions) to a number. NaN marks a resample on
            which it is not defined, such as an AUC with one class; those are left out.

    Raises:
        ValueError: the statistic is NaN on the items themselves or on over half of the resamples.
    """
    rng = np.random.default_rng(rng_seed)
    value = float(statistic(np.arange(num_items)))
    draws = np.array(
        [statistic(rng.integers(num_items, size=num_items)) for _ in range(num_resamples)]
    )
    defined = draws[~np.isnan(draws)]
    if math.isnan(value) or defined.size < num_resamples / 2:
        raise ValueError("statistic: not defined on these items or on most resamples of them")
    return Interval(value, *_percentiles(defined, level))


def mcnemar(a_correct: ArrayLike, b_correct: ArrayLike) -> float:
    """Exact two-sided McNemar test: p-value of equal accuracy on paired 0/1 outcomes.

    Raises:
        ValueError: outcomes other than 0 and 1 (shared credit has no such test), or not paired.
    """
    a, b = _finite("a_correct", a_correct, dims=(1,)), _finite("b_correct", b_correct, dims=(1,))
    if a.shape != b.shape:
        raise ValueError(f"a_correct, b_correct: shapes {a.shape} and {b.shape} are not paired")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("a_correct, b_correct: McNemar's test needs outcomes 0 and 1")
    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    if only_a + only_b == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def within_comparison_auc(scores: ArrayLike, correct: ArrayLike, valid: ArrayLike) -> WithinAUC:
    """How well scores tell correct from wrong samples of the *same* comparison.

    The overall AUC of a meta RM mostly ranks comparisons by difficulty, which cannot help a vote;
    this one can. Comparisons with mixed outcomes are averaged with their numbers of
    (correct, wrong) pairs as weights; ties count one half.

    Args:
        scores: [C, S]; correct: [C, S] of 0 and 1; valid: [C, S] bool, False is padding.

    Raises:
        ValueError: different shapes, or a valid score that is not finite.
    """
    scores_CS, valid_CS = np.asarray(scores, np.float64), np.asarray(valid, bool)
    correct_CS = np.asarray(correct).astype(bool)
    if scores_CS.ndim != 2 or not scores_CS.shape == correct_CS.shape == valid_CS.shape:
        raise ValueError("scores, correct, valid: expected three arrays of one shape [C, S]")
    if not np.isfinite(scores_CS[valid_CS]).all():
        raise ValueError("scores: a valid score is not finite")
    won, pairs, comparisons = 0.0, 0, 0
    for scores_S, correct_S, valid_S in zip(scores_CS, correct_CS, valid_CS, strict=True):
        right, wrong = scores_S[valid_S & correct_S], scores_S[valid_S & ~correct_S]
        if right.size and wrong.size:
            won += np.sum(right[:, None] > wrong[None, :])
            won += np.sum(right[:, None] == wrong[None, :]) / 2
            pairs += right.size * wrong.size
            comparisons += 1
    return WithinAUC(float(won / pairs) if pairs else math.nan, pairs, comparisons)


def blind_credits(
    lengths: Sequence[Sequence[int]], right: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """What verdicts that read no content earn: float64 [C] for first, random, longest, shortest.

    Args:
        lengths: the length of each response of each comparison, in any one unit.
        right: indices of the right responses. Ties in length share the credit evenly.

    Raises:
        ValueError: naming the comparison of which none or all responses are right, or with an
            index out of range.
    """
    names = ("first", "random", "longest", "shortest")
    credits = {name: np.zeros(len(right)) for name in names}
    for c, (row, gold) in enumerate(zip(lengths, right, strict=True)):
        n, gold = len(row), set(gold)
        if not 0 < len(gold) < n or not gold <= set(range(n)):
            raise ValueError(f"comparison {c}: right ones {sorted(gold)} of {n} are no choice")
        credits["first"][c] = float(0 in gold)
        credits["random"][c] = len(gold) / n
        for name, extreme in (("longest", max(row)), ("shortest", min(row))):
            tied = {i for i, length in enumerate(row) if length == extreme}
            credits[name][c] = len(tied & gold) / len(tied)
    return credits


def _finite(name: str, values: ArrayLike, dims: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim not in dims or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty array of {dims} dimensions: {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} values are not finite")
    return array


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level: {level} must be between 0 and 1")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _difference(value: float, means_B: np.ndarray, level: float) -> Difference:
    # Differences such as 0.1 + 0.2 - 0.3 must not turn an exact tie into a sign.
    means_B = np.where(np.abs(means_B) < 1e-12, 0.0, means_B)
    smaller = min(np.sum(means_B <= 0), np.sum(means_B >= 0))
    p_value = min(1.0, 2 * (int(smaller) + 1) / (len(means_B) + 1))
    return Difference(value, *_percentiles(means_B, level), p_value)


def _bootstrap_means(values, clusters, num_resamples, rng_seed):
    """(mean, [B] bootstrap means) over items."""
    values_I = _finite("values", values, dims=(1,))
    rng = np.random.default_rng(rng_seed)
    draws = _resampled_means(values_I[None], clusters, num_resamples, rng)
    return float(values_I.mean()), np.concatenate([means_BL[:, 0] for means_BL in draws])


def _resampled_means(values_LI, clusters, num_resamples, rng):
    """[chunk, L] means, chunk by chunk: whole clusters, with replacement, as count weights."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples: {num_resamples} must be at least 1")
    I = values_LI.shape[1]  # noqa: E741
    if clusters is None:
        sums_LG, sizes_G = values_LI, np.ones(I)
    else:
        if len(clusters) != I:
            raise ValueError(f"clusters: {len(clusters)} names for {I} items")
        _, group_I = np.unique(np.asarray(clusters), return_inverse=True)
        sizes_G = np.bincount(group_I).astype(np.float64)
        sums_LG = np.stack([np.bincount(group_I, weights=row_I) for row_I in values_LI])
    G = sizes_G.size
    chunk = max(1, CHUNK_ENTRIES // G)
    for start in range(0, num_resamples, chunk):
        B = min(chunk, num_resamples - start)
        items_BG = rng.multinomial(G, np.full(G, 1 / G), size=B).astype(np.float64)
        yield (items_BG @ sums_LG.T) / (items_BG @ sizes_G)[:, None]
