"""The public benchmarks by name. One file each: reader, official rows, metric, where to download.

Data sets are never part of this project: `data_dir` is a folder of the user's with the official
files, one sub-folder a benchmark (``judgebench/``, ``llmbar/``, ``rmb/``), or the folder of one.
A file of this folder has `SUITES`, one `Suite` for each form of its benchmark; a new file is
imported here and takes its place among the others.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from grm_jax.benchmarks import (
    autoj,
    evouna,
    judgebench,
    llmbar,
    own,
    pandalm,
    ppe_correctness,
    ppe_preference,
    qa_feedback,
    realmistake,
    rewardbench,
    rewardbench2,
    rmb,
    rmbench,
)
from grm_jax.benchmarks.files import MissingFiles
from grm_jax.benchmarks.suite import Metric, Suite, count_rows, each_row
from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import collect

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for benchmark in (
        rewardbench, ppe_preference, ppe_correctness, rmb, realmistake, judgebench, rmbench,
        rewardbench2, llmbar, autoj, pandalm, evouna, qa_feedback, own,
    )
    for suite in benchmark.SUITES
}  # fmt: skip


def metric_of(name: str) -> Metric:
    """The metric of a suite; one without columns for data that no benchmark defines."""
    return SUITES[name].metric if name in SUITES else Metric()


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

    A partial copy is accepted; `Suite.coverage` and `Suite.is_complete` report it.

    Raises:
      ValueError: an unknown suite, a limit below 1, missing or bad files, or more rows in a
        subset than the official benchmark has.
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; the known ones are {', '.join(SUITES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"suite {name!r}: limit must be at least 1, got {limit}")
    suite, data_dir = SUITES[name], Path(data_dir).expanduser()
    try:
        comparisons = collect(suite.read(data_dir))
    except MissingFiles as error:
        fetched = "".join(
            f"; python -m tools.download --suite={source} --out={data_dir} fetches them"
            for source in [*suite.sources][:1]
        )
        raise MissingFiles(f"{name}: {error}{fetched}") from None
    for subset, rows in count_rows(comparisons).items() if suite.rows is not None else ():
        if rows > suite.rows[subset]:
            raise ValueError(
                f"suite {name!r} in {data_dir}: {rows} rows of subset {subset!r}, "
                f"but the official files have {suite.rows[subset]}"
            )
    if limit is None:
        return comparisons
    return [comparisons[c] for row in evenly(each_row(comparisons), limit) for c in row]
