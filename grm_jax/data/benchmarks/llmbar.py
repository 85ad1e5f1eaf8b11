"""LLMBar (princeton-nlp/LLMBar): pairs where one output follows the instruction and one does not.

The suite is the folder ``LLMBar``: Natural and four Adversarial sets, 419 pairs. Columns read:
`input`, `output_1`, `output_2`, `label` (1 or 2, the better output). Case studies and processed
sets of the same repository are other data and are not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from grm_jax.data.benchmarks.files import find_folder, one_of
from grm_jax.data.comparison import Comparison, collect, located, read_objects, require
from grm_jax.text.prompts import Message

ROWS: Mapping[str, int] = {
    "Natural": 100, "Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46
}  # fmt: skip


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the five sets of `data_dir`/llmbar/LLMBar, or of `data_dir`/LLMBar, in this order.

    Each pair has uid ``llmbar/<set>/<row>`` (rows counted from 0, for the files name none), the
    set as subset and the part (Natural or Adversarial) in meta.

    Raises:
      ValueError: a folder or file is missing; or a bad row, as ``path[row]: field 'x': ...``.
    """
    folder = find_folder("llmbar", data_dir, "llmbar", "LLMBar")
    return collect(place for subset in ROWS for place in _rows(folder, subset))


def _rows(folder: Path, subset: str) -> Iterator[tuple[str, Comparison]]:
    part = "Natural" if subset == "Natural" else "Adversarial"
    path = folder / ("" if part == subset else part) / subset / "dataset.json"
    if not path.is_file():
        raise ValueError(f"llmbar: expected the file {path}")
    for number, (where, row) in enumerate(read_objects(path)):
        label = one_of(where, row, "label", (1, 2))
        comparison = located(
            where,
            f"llmbar/{subset}/{number}",
            (Message("user", require(where, row, "input", str)),),
            tuple(require(where, row, name, str) for name in ("output_1", "output_2")),
            (1.0, 0.0) if label == 1 else (0.0, 1.0),
            subset,
            {"part": part},
            query="input",
        )
        yield where, comparison
