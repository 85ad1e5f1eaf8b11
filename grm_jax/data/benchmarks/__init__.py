"""The public benchmarks by name. One file each: reader, categories and official row counts.

Data sets are never part of this project: `data_dir` is a folder of the user's with the official
files, one sub-folder a suite (``judgebench/``, ``llmbar/``, ``rmb/``), or the folder of one suite.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grm_jax.data.benchmarks import judgebench, llmbar, rmb_bon
from grm_jax.data.comparison import Comparison


@dataclass(frozen=True)
class Suite:
    """A benchmark: its reader, and the official number of rows of each subset."""

    name: str
    load: Callable[[str | os.PathLike], list[Comparison]]
    subset_rows: Mapping[str, int]

    @property
    def expected_rows(self) -> int:
        """Official number of rows of the whole suite."""
        return sum(self.subset_rows.values())

    def is_complete(self, comparisons: Sequence[Comparison]) -> bool:
        """Whether these are as many rows of every subset as the official ones.

        Numbers on anything less must not be called the score of the benchmark.
        """
        return Counter(c.subset for c in comparisons) == Counter(self.subset_rows)

    def coverage(self, comparisons: Sequence[Comparison]) -> str:
        """``'k of N rows'``, for the head of a table."""
        return f"{len(comparisons)} of {self.expected_rows} rows"


SUITES: Mapping[str, Suite] = {
    name: Suite(name, reader.load, reader.ROWS)
    for name, reader in (("judgebench", judgebench), ("llmbar", llmbar), ("rmb_bon", rmb_bon))
}


def evenly(rows: Sequence[Comparison], limit: int) -> list[Comparison]:
    """`limit` rows at equal distances, the middle of each of `limit` equal stretches.

    The rows of a suite come subset by subset, so every subset keeps about its share, and the same
    limit always gives the same rows.
    """
    limit = min(limit, len(rows))
    return [rows[(2 * i + 1) * len(rows) // (2 * limit)] for i in range(limit)]


def load_suite(
    name: str, data_dir: str | os.PathLike, limit: int | None = None
) -> list[Comparison]:
    """Reads a suite; with a limit, an evenly spread subset of so many rows (see `evenly`).

    A partial copy is read as it is: `Suite.coverage` and `Suite.is_complete` tell.

    Raises:
      ValueError: an unknown suite, a limit below 1, missing or bad files, or more rows in a
        subset than the official benchmark has.
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; the known ones are {', '.join(SUITES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"suite {name!r}: limit must be at least 1, got {limit}")
    suite = SUITES[name]
    comparisons = suite.load(data_dir)
    for subset, rows in Counter(c.subset for c in comparisons).items():
        if rows > suite.subset_rows[subset]:
            raise ValueError(
                f"suite {name!r} in {os.fspath(data_dir)}: {rows} rows of subset {subset!r}, "
                f"but the official files have {suite.subset_rows[subset]}"
            )
    return comparisons if limit is None else evenly(comparisons, limit)
