"""PandaLM (WeOpenML/PandaLM): pairs with the verdicts of three annotators, ties among them.

The suite is ``testset-v1.json``, 999 rows. Keys read: `idx`, `motivation_app`, `instruction`,
`input`, `response1`, `response2`, `annotator1` to `annotator3` (0: a tie; 1 and 2: the better
response). The gold is the verdict of the majority, which exists in every official row.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from grm_jax.data.benchmarks.files import find_file, one_of
from grm_jax.data.comparison import Comparison, FieldError, collect, located, read_objects, require
from grm_jax.text.prompts import Message

FILE = "testset-v1.json"
ROWS: Mapping[str, int] = {"": 999}
REWARDS = {0: (1.0, 1.0), 1: (1.0, 0.0), 2: (0.0, 1.0)}


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the file in `data_dir`/pandalm, or in `data_dir` itself, in its order.

    Each row has uid ``pandalm/<idx>``; the query is the instruction, and after an empty line the
    input if there is one. In a tie both responses are best. Meta has the three `annotators`.

    Raises:
      ValueError: the file is missing; or a bad row, as ``path[row]: field 'x': ...``.
    """
    return collect(_rows(find_file("pandalm", data_dir, "pandalm", FILE)))


def _rows(path: Path) -> Iterator[tuple[str, Comparison]]:
    for where, row in read_objects(path):
        votes = [one_of(where, row, f"annotator{i}", tuple(REWARDS)) for i in (1, 2, 3)]
        verdict, count = Counter(votes).most_common(1)[0]
        if count == 1:
            raise FieldError(where, "annotator1", f"the annotators {votes} have no majority")
        instruction, given = (require(where, row, name, str) for name in ("instruction", "input"))
        query = f"{instruction}\n\n{given}" if given.strip() else instruction
        yield where, located(
            where,
            f"pandalm/{require(where, row, 'idx', int)}",
            (Message("user", query),),
            tuple(_text(where, row, name) for name in ("response1", "response2")),
            REWARDS[verdict],
            "",
            {"annotators": votes},
            several_best=verdict == 0,
            query="instruction",
        )


def _text(where: str, row: dict, name: str) -> str:
    """A response. A few of the official file became JSON booleans on the way; "True" is meant."""
    if type(row.get(name)) is bool:
        return str(row[name])
    return require(where, row, name, str)
