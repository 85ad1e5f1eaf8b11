"""Confidence intervals, tests and ranking measures. Numpy and scipy, float64, seeded.

The item of every interval of one run is the comparison: random subsets of samples, or the samples
of one comparison, are never resampled as if they were new evidence. Over training seeds the unit is
the seed. Shape letters: R training seeds, I items, C comparisons, S samples, M subsets,
B resamples, L lines of a table, G clusters.

scipy is imported inside the functions: it is slow to import, and training needs none of it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Resampling works on [chunk, I] count matrices of about this many entries at a time.
CHUNK_ENTRIES = 4_000_000
MIN_P = 1e-12  # smaller p-values are not distinguished


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


def bootstrap_mean(values: ArrayLike, **options) -> Interval:
    """Percentile bootstrap of the mean over items [I]; options and errors as `resample`."""
    return resample(_finite("values", values, dims=(1,))[None], **options).interval(0)


def paired_difference(a: ArrayLike, b: ArrayLike, **options) -> Difference:
    """Bootstrap of mean(a - b), item by item; options as `resample`.

    The p-value is twice the smaller share of resamples on either side of zero (zero counts on
    both sides), with one added to each count: it is never 0, and 1 for equal inputs.

    Raises:
        ValueError: as `resample`, or different shapes.
    """
    a, b = _finite("a", a, dims=(1,)), _finite("b", b, dims=(1,))
    if a.shape != b.shape:
        raise ValueError(f"a, b: shapes {a.shape} and {b.shape} are not paired")
    means = resample((a - b)[None], **options)
    return _difference(float(means.values_L[0]), means.draws_BL[:, 0])


class Resampled(NamedTuple):
    """L means on the same B resamples of the items, so that any two of them are paired.

    Attributes:
        values_L: float64, on the items themselves.
        draws_BL: float64, on each resample.
    """

    values_L: np.ndarray
    draws_BL: np.ndarray

    def interval(self, line: int) -> Interval:
        """Percentile interval of one line."""
        ends = _percentiles(self.draws_BL[:, line])
        return Interval(float(self.values_L[line]), *ends)

    def difference(self, a: int, b: int) -> Difference:
        """Line a minus line b, with the p-value of `paired_difference`."""
        draws_B = self.draws_BL[:, a] - self.draws_BL[:, b]
        return _difference(float(self.values_L[a] - self.values_L[b]), draws_B)


def resample(
    values: ArrayLike,
    *,
    clusters: Sequence | None = None,
    num_resamples: int = 10_000,
    rng_seed: int | tuple[int, ...] = 0,
) -> Resampled:
    """Bootstrap of the mean of each row of values [L, I], all on the same resamples.

    Args:
        values: [L, I].
        clusters: [I] names; items of one cluster (say, one query) are resampled together and
            the statistic stays the mean over items.
        num_resamples: B.
        rng_seed: of the resamples.

    Raises:
        ValueError: naming the argument: a value that is not finite, no items, a wrong shape.
    """
    values_LI = _finite("values", values, dims=(2,))
    rng = np.random.default_rng(rng_seed)
    draws = _resampled_means(values_LI, clusters, num_resamples, rng)
    return Resampled(values_LI.mean(axis=1), np.concatenate(list(draws)))


class OverSeeds(NamedTuple):
    """L lines on R > 1 training seeds: 95 % intervals and tests by Student's t over seeds.

    The seed is the unit: if its comparisons are its own, they vary with it. Comparisons that all
    seeds share have a variance that seeds do not show. It is estimated from the two-way table of
    seeds and comparisons, and its part of the squared half width is added, which covers 95 % where
    either part decides and rather more between (about 96 % for 5 seeds, 98 % for 2).

    Attributes:
        values_R: of each seed float64 [L, I].
        clusters: [I] names of items that all seeds share; None where each seed has its own.
    """

    values_R: list[np.ndarray]
    clusters: Sequence | None

    def interval(self, line: int) -> Interval:
        """Interval of one line."""
        value, half_width = self._student([v_LI[line] for v_LI in self.values_R])
        return Interval(value, value - half_width(0.05), value + half_width(0.05))

    def difference(self, a: int, b: int) -> Difference:
        """Line a minus line b; no p-value (NaN) where it is not 0 and the same on all seeds."""
        from scipy.optimize import brentq

        value, half_width = self._student([v_LI[a] - v_LI[b] for v_LI in self.values_R])
        half, size = half_width(0.05), abs(value)
        # Differences such as 0.1 + 0.2 - 0.3 must not turn an exact tie into a sign.
        if size < 1e-12 or half < 1e-12:
            p_value = 1.0 if size < 1e-12 else math.nan
        elif half_width(MIN_P) <= size:
            p_value = MIN_P
        else:
            p_value = brentq(lambda p: half_width(p) - size, MIN_P, 1.0)
        return Difference(value, value - half, value + half, p_value)

    def _student(self, values_R: Sequence[np.ndarray]) -> tuple[float, Callable[[float], float]]:
        """The mean, and the half width of its interval for a two-sided p-value."""
        from scipy.stats import t

        means_R = np.array([values_I.mean() for values_I in values_R])
        value, R = float(means_R.mean()), len(means_R)
        variances, freedom = [means_R.var(ddof=1) / R], [R - 1]
        if self.clusters is not None:
            _, group_I, sizes_G = np.unique(
                np.asarray(self.clusters), return_inverse=True, return_counts=True
            )
            G = len(sizes_G)
            # Means of clusters, if these are equal; in any case a row has the mean of its seed.
            sums_RG = np.stack([np.bincount(group_I, weights=values_I) for values_I in values_R])
            table_RG = value + (sums_RG - value * sizes_G) * G / len(group_I)
            means_G = table_RG.mean(axis=0)
            noise_RG = table_RG - means_R[:, None] - means_G + value
            noise = (noise_RG**2).sum() / max(1, (R - 1) * (G - 1)) / R
            variances.append(max(0.0, means_G.var(ddof=min(1, G - 1)) - noise) / G)
            freedom.append(max(1, G - 1))

        def half_width(p_value: float) -> float:
            return math.sqrt(t.isf(p_value / 2, freedom) ** 2 @ variances)

        return value, half_width


def over_seeds(
    values: Sequence[ArrayLike], *, clusters: Sequence[Sequence], same_items: bool
) -> OverSeeds | Resampled:
    """Means over R training seeds; a single seed is one of which items are resampled.

    Args:
        values: of each seed [L, I].
        clusters: of each seed [I] names.
        same_items: the items of all seeds are the same ones, in the same order; otherwise each seed
            has its own, and their number may differ.

    Raises:
        ValueError: as `resample`, no seed, seeds of unequal L, or, for `same_items`, of
            unequal items.
    """
    values_R = [_finite("values", seed_values, dims=(2,)) for seed_values in values]
    if not values_R or len({len(seed_values) for seed_values in values_R}) > 1:
        raise ValueError("values: needs as many lines of each seed, and at least one seed")
    if len(values_R) == 1:
        return resample(values_R[0], clusters=clusters[0])
    if same_items and len({seed_values.shape for seed_values in values_R}) > 1:
        raise ValueError("values: seeds with the same items have as many of them")
    return OverSeeds(values_R, clusters[0] if same_items else None)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values of claims listed in advance (Scand. J. Statist. 6:65, 1979).

    Where each is compared with 0.05, the chance of any false claim is at most 0.05. NaN, a claim
    that has no p-value, counts as 1.
    """
    p_values = np.nan_to_num(np.asarray(p_values, np.float64), nan=1.0)
    order, adjusted = np.argsort(p_values), np.empty_like(p_values)
    steps = np.arange(p_values.size, 0, -1) * p_values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


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
        sum(share * stratum.values_L for share, stratum in zip(shares_G, strata, strict=True)),
        sum(share * stratum.draws_BL for share, stratum in zip(shares_G, strata, strict=True)),
    )


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    num_items: int,
    *,
    num_resamples: int = 1_000,
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
    return Interval(value, *_percentiles(defined))


def mcnemar(a_correct: ArrayLike, b_correct: ArrayLike) -> float:
    """Exact two-sided McNemar test: p-value of equal accuracy on paired 0/1 outcomes.

    Raises:
        ValueError: outcomes other than 0 and 1 (shared credit has no such test), or not paired.
    """
    from scipy.stats import binomtest

    a, b = _finite("a_correct", a_correct, dims=(1,)), _finite("b_correct", b_correct, dims=(1,))
    if a.shape != b.shape:
        raise ValueError(f"a_correct, b_correct: shapes {a.shape} and {b.shape} are not paired")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("a_correct, b_correct: McNemar's test needs outcomes 0 and 1")
    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


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


def _finite(name: str, values: ArrayLike, dims: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim not in dims or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty array of {dims} dimensions: {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} values are not finite")
    return array


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % interval."""
    low, high = np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return float(low), float(high)


def _difference(value: float, means_B: np.ndarray) -> Difference:
    # Differences such as 0.1 + 0.2 - 0.3 must not turn an exact tie into a sign.
    means_B = np.where(np.abs(means_B) < 1e-12, 0.0, means_B)
    smaller = min(np.sum(means_B <= 0), np.sum(means_B >= 0))
    p_value = min(1.0, 2 * (int(smaller) + 1) / (len(means_B) + 1))
    return Difference(value, *_percentiles(means_B), p_value)


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
