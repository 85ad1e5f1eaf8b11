"""The public benchmarks by name. One file each: reader, subsets and official row counts.

Data sets are never part of this project: `data_dir` is a folder of the user's with the official
files, one sub-folder a benchmark (``judgebench/``, ``llmbar/``, ``rmb/``), or the folder of one.
What the rows are worth, and how they add up, is said in `grm_jax.evaluation.official`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grm_jax.data.benchmarks import (
    autoj,
    judgebench,
    llmbar,
    own,
    pandalm,
    ppe_correctness,
    ppe_preference,
    realmistake,
    rewardbench,
    rewardbench2,
    rmb,
    rmbench,
)
from grm_jax.data.comparison import Comparison


def row_of(comparison: Comparison) -> str:
    """Name of the row of the files that a comparison belongs to: several may be made of one."""
    return comparison.meta.get("row", comparison.uid)


@dataclass(frozen=True)
class Suite:
    """A benchmark in one of its forms.

    Attributes:
      name: of the suite.
      load: its reader.
      subset_rows: the official number of rows (see `row_of`) of each subset; None for a user's own
        data, of which nobody else knows the size.
      ties_judged: a tie that people stated is a verdict to be found, or is only counted.
      private: its texts must stay off pages and out of logs.
    """

    name: str
    load: Callable[[str | os.PathLike], list[Comparison]]
    subset_rows: Mapping[str, int] | None
    ties_judged: bool = False
    private: bool = False

    @property
    def expected_rows(self) -> int | None:
        """Official number of rows of the whole suite."""
        return None if self.subset_rows is None else sum(self.subset_rows.values())

    def is_complete(self, comparisons: Sequence[Comparison]) -> bool:
        """Whether these are as many rows of every subset as the official ones.

        Numbers on anything less must not be called the score of the benchmark.
        """
        return self.subset_rows is None or count_rows(comparisons) == Counter(self.subset_rows)

    def coverage(self, comparisons: Sequence[Comparison]) -> str:
        """``'k of N rows'``, for every table; ``'k rows'`` where N is not known."""
        rows = count_rows(comparisons).total()
        of = "" if self.subset_rows is None else f" of {self.expected_rows}"
        return f"{rows}{of} rows"

    def judged(self, comparisons: Sequence[Comparison]) -> list[Comparison]:
        """Those that are worth a verdict: without ties of people, unless `ties_judged`."""
        return [c for c in comparisons if c.n == 1 or self.ties_judged or len(c.winners) < c.n]


def count_rows(comparisons: Sequence[Comparison]) -> Counter[str]:
    """Number of rows of each subset."""
    return Counter(dict((row_of(c), c.subset) for c in comparisons).values())


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("rewardbench", rewardbench.load, rewardbench.ROWS),
        Suite("ppe_preference", ppe_preference.load, ppe_preference.ROWS),
        Suite("ppe_correctness", ppe_correctness.load_pairs, ppe_correctness.ROWS),
        Suite("ppe_best_of_k", ppe_correctness.load_lists, ppe_correctness.ROWS),
        Suite("rmb_pairwise", rmb.load_pairs, rmb.PAIR_ROWS),
        Suite("rmb_bon", rmb.load_lists, rmb.LIST_ROWS),
        Suite("rmb_pairs", rmb.load_list_pairs, rmb.LIST_ROWS),
        Suite("realmistake", realmistake.load, realmistake.ROWS, private=True),
        Suite("judgebench", judgebench.load, judgebench.ROWS),
        Suite("judgebench_claude", judgebench.load_claude, judgebench.CLAUDE_ROWS),
        Suite("rmbench", rmbench.load_pairs, rmbench.ROWS),
        Suite("rmbench_list", rmbench.load_lists, rmbench.ROWS),
        Suite("rewardbench2", rewardbench2.load, rewardbench2.ROWS),
        Suite("llmbar", llmbar.load, llmbar.ROWS),
        Suite("autoj", autoj.load, autoj.ROWS, ties_judged=True),
        Suite("pandalm", pandalm.load, pandalm.ROWS, ties_judged=True),
        Suite("own", own.load, None),
    )
}


def evenly(rows: Sequence, limit: int) -> list:
    """`limit` rows at equal distances, the middle of each of `limit` equal stretches.

    The rows of a suite come subset by subset, so every subset keeps about its share, and the same
    limit always gives the same rows.
    """
    limit = min(limit, len(rows))
    return [rows[(2 * i + 1) * len(rows) // (2 * limit)] for i in range(limit)]


def load_suite(
    name: str, data_dir: str | os.PathLike, limit: int | None = None
) -> list[Comparison]:
    """Reads a suite; with a limit, all comparisons of so many evenly spread rows (see `evenly`).

    A partial copy is read as it is: `Suite.coverage` and `Suite.is_complete` tell.

    Raises:
      ValueError: an unknown suite, a limit below 1, missing or bad files, or more rows in a
        subset than the official benchmark has.
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; the known ones are {', '.join(SUITES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"suite {name!r}: limit must be at least 1, got {limit}")
    suite, data_dir = SUITES[name], os.path.expanduser(data_dir)
    comparisons = suite.load(data_dir)
    if suite.subset_rows is not None:
        for subset, rows in count_rows(comparisons).items():
            if rows > suite.subset_rows[subset]:
                raise ValueError(
                    f"suite {name!r} in {data_dir}: {rows} rows of subset {subset!r}, "
                    f"but the official files have {suite.subset_rows[subset]}"
                )
    if limit is None:
        return comparisons
    by_row: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_row.setdefault(row_of(comparison), []).append(comparison)
    return [c for own_row in evenly(list(by_row.values()), limit) for c in own_row]
