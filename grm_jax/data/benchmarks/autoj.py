"""auto-j pairwise (GAIR-NLP/auto-j): pairs with the verdict of a person, ties among them.

The suite is ``testdata_pairwise.jsonl``, 1,392 rows. Keys read: `scenario`, `label` (0 and 1: the
first and the second response is better; 2: a tie), `prompt`, "response 1" and "response 2".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from grm_jax.data.benchmarks.files import find_file, one_of
from grm_jax.data.comparison import Comparison, collect, located, read_objects, require
from grm_jax.text.prompts import Message

FILE = "testdata_pairwise.jsonl"
ROWS: Mapping[str, int] = {"": 1392}
REWARDS = {0: (1.0, 0.0), 1: (0.0, 1.0), 2: (1.0, 1.0)}


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the file in `data_dir`/autoj, or in `data_dir` itself, in its order.

    Each row has uid ``autoj/<row>`` (counted from 0, for the file names none) and its `scenario`
    in meta. In a tie both responses are best.

    Raises:
      ValueError: the file is missing; or a bad row, as ``path:line: field 'x': ...``.
    """
    return collect(_rows(find_file("autoj", data_dir, "autoj", FILE)))


def _rows(path: Path) -> Iterator[tuple[str, Comparison]]:
    for number, (where, row) in enumerate(read_objects(path)):
        label = one_of(where, row, "label", tuple(REWARDS))
        yield where, located(
            where,
            f"autoj/{number}",
            (Message("user", require(where, row, "prompt", str)),),
            tuple(require(where, row, f"response {i}", str) for i in (1, 2)),
            REWARDS[label],
            "",
            {"scenario": require(where, row, "scenario", str)},
            several_best=label == 2,
            query="prompt",
        )
