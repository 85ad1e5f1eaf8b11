"""Intervals of the numbers that a benchmark reports, from the values of its items.

Facts and golden numbers of every benchmark: tests/benchmarks/test_official_metrics.py.
"""

from collections.abc import Sequence

import numpy as np

from grm_jax.benchmarks.suite import Column, Items, Values
from grm_jax.evaluation.statistics import Resampled, resample, weighted_mean


def measure(
    columns: Sequence[Column], items: Items, lines: Sequence[Values], *, num_resamples: int = 10_000
) -> dict[str, dict[int, Resampled]]:
    """Every column of every line that has the values for it, all on the same resamples.

    Returns:
        By name of the column, by index of the line: a `Resampled` of this one line. Differences of
        lines are paired: `Resampled` of one column share their draws.
    """
    keys = [(line, part) for line, values in enumerate(lines) for part in values]
    measured: dict[str, dict[int, Resampled]] = {column.name: {} for column in columns}
    if not keys or not columns:
        return measured
    strata = {}
    for i, subset in enumerate(sorted(set(items.subsets))):
        at_I = items.subsets == subset
        values = [lines[line][part][at_I] for line, part in keys]
        strata[subset] = resample(
            values, clusters=items.clusters[at_I], num_resamples=num_resamples, rng_seed=(0, i)
        )
    for column in columns:
        if not column.weights.keys() <= strata.keys():
            continue
        mean = weighted_mean([strata[s] for s in column.weights], list(column.weights.values()))
        for line, values in enumerate(lines):
            if column.combine is None and column.part in values:
                at = keys.index((line, column.part))
                resampled = Resampled(mean.values_L[[at]], mean.draws_BL[:, [at]])
            elif column.combine is not None and values:
                at = [keys.index((line, part)) for part in values]
                resampled = Resampled(
                    np.atleast_1d(column.combine(mean.values_L[at])),
                    column.combine(mean.draws_BL[:, at])[:, None],
                )
            else:
                continue
            measured[column.name][line] = resampled
    return measured
