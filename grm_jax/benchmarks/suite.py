"""The records of a benchmark: its rows, its numbers, and where its files come from.

A `Metric` turns the outcome of a line of a table on the comparisons of a suite into values of
*items* (a pair, a row of several pairs, a prompt), and columns into means of items by subset with
the benchmark's own weights. Numpy only; `grm_jax.evaluation.official` resamples the items.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from grm_jax.benchmarks.rules import numbered
from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import Placed
from grm_jax.data.source import Source

Values = Mapping[str, np.ndarray]  # by part, [I]


class Outcome(NamedTuple):
    """Measurement of the C comparisons of a suite by one line of a table.

    Attributes:
      credits_C: chance to be right by the named policies; NaN where there is no choice.
      totals_MCN: score of each response in each of M subsets of samples; NaN without a verdict.
      games: verdict shares [C, 4] of the samples in the order of the data, and in the other.
    """

    credits_C: np.ndarray
    totals_MCN: np.ndarray | None = None
    games: tuple[np.ndarray, np.ndarray] | None = None


class Items(NamedTuple):
    """Units of averages: [I] the subset of each item, and a number shared by items of one query."""

    subsets: np.ndarray
    clusters: np.ndarray


@dataclass(frozen=True)
class Column:
    """A number of a benchmark; it is not given where one of its subsets is missing.

    Attributes:
      name: heading.
      weights: of the subsets.
      part: which values of the items are averaged.
      combine: if given, maps the means of all parts [..., P] (in their order) to the number.
    """

    name: str
    weights: Mapping[str, float]
    part: str = ""
    combine: Callable[[np.ndarray], np.ndarray] | None = None


def each_subset(rows: Mapping[str, int]) -> tuple[Column, ...]:
    """One column for each subset."""
    return tuple(Column(subset, {subset: 1.0}) for subset in rows)


def mean_of_sections(sections: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Weights of subsets for the unweighted mean of section means."""
    return {
        subset: weight / sum(weights.values())
        for weights in sections.values()
        for subset, weight in weights.items()
    }


def row_of(comparison: Comparison) -> str:
    """Name of the row of the files that a comparison belongs to: several may be made of one."""
    return comparison.meta.get("row", comparison.uid)


def each_comparison(comparisons: Sequence[Comparison]) -> list[list[int]]:
    """Indices of the comparisons of each item, where every comparison is an item."""
    return [[c] for c in range(len(comparisons))]


def each_row(comparisons: Sequence[Comparison]) -> list[list[int]]:
    """Indices of the comparisons of each item, where every row of the files is an item."""
    members: dict[str, list[int]] = {}
    for c, comparison in enumerate(comparisons):
        members.setdefault(row_of(comparison), []).append(c)
    return list(members.values())


def credits_alone(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    """The credits of the comparisons as they are."""
    return {"": outcome.credits_C}


@dataclass(frozen=True)
class Metric:
    """How a suite is scored.

    Attributes:
      columns: its numbers.
      headline: the name of the one that is the benchmark's score; "" where that is the mean over
        comparisons, which every suite has.
      parts: values of the items from an outcome; empty where the outcome does not tell.
      members: the comparisons of each item.
      needs: fields of `Outcome` besides `credits_C` that `parts` reads.
      note: what a reader of the table must know.
    """

    columns: tuple[Column, ...] = ()
    headline: str = ""
    parts: Callable[[Sequence[Comparison], Outcome], Values] = credits_alone
    members: Callable[[Sequence[Comparison]], list[list[int]]] = each_comparison
    needs: tuple[str, ...] = ()
    note: str = ""

    def items(self, comparisons: Sequence[Comparison]) -> Items:
        """Subsets, and clusters of items with one and the same query."""
        firsts = [comparisons[item[0]] for item in self.members(comparisons)]
        return Items(np.array([c.subset for c in firsts]), numbered([c.messages for c in firsts]))


@dataclass(frozen=True)
class Suite:
    """A benchmark in one of its forms.

    Attributes:
      name: of the suite.
      read: its reader: from the folder of the user's files to comparisons, each after the place
        that an error names. It raises MissingFiles if the files are not there, and ValueError for
        damaged files and bad rows, ``path:line: field 'x': ...`` or ``path[row]: ...``.
      rows: the official number of rows (see `row_of`) of each subset; None for a user's own
        data, of which nobody else knows the size.
      metric: its numbers; without columns where accuracy is all that the benchmark reports.
      sources: where its files are, by the name under which `tools.download` fetches them.
      ties_judged: a tie that people stated is a verdict to be found, or is only counted.
      private: its texts must stay off pages and out of logs.
    """

    name: str
    read: Callable[[Path], Placed]
    rows: Mapping[str, int] | None
    metric: Metric = Metric()
    sources: Mapping[str, Source] = field(default_factory=dict)
    ties_judged: bool = False
    private: bool = False

    @property
    def expected_rows(self) -> int | None:
        """Official number of rows of the whole suite."""
        return None if self.rows is None else sum(self.rows.values())

    def is_complete(self, comparisons: Sequence[Comparison]) -> bool:
        """Whether these are as many rows of every subset as the official ones.

        Numbers on anything less must not be called the score of the benchmark.
        """
        return self.rows is None or count_rows(comparisons) == Counter(self.rows)

    def coverage(self, comparisons: Sequence[Comparison]) -> str:
        """``'k of N rows'``, for every table; ``'k rows'`` where N is not known."""
        rows = count_rows(comparisons).total()
        of = "" if self.rows is None else f" of {self.expected_rows}"
        return f"{rows}{of} rows"

    def judged(self, comparisons: Sequence[Comparison]) -> list[Comparison]:
        """Those that are worth a verdict: without ties of people, unless `ties_judged`."""
        return [c for c in comparisons if c.n == 1 or self.ties_judged or len(c.winners) < c.n]


def count_rows(comparisons: Sequence[Comparison]) -> Counter[str]:
    """Number of rows of each subset."""
    return Counter(dict((row_of(c), c.subset) for c in comparisons).values())
