"""LLMBar (princeton-nlp/LLMBar): pairs where one output follows the instruction and one does not.

The suite is the folder ``LLMBar``: Natural and four Adversarial sets, 419 pairs. Columns read:
`input`, `output_1`, `output_2`, `label` (1 or 2, the better output). Case studies and processed
sets of the same repository are other data and are not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from grm_jax.benchmarks.files import find_folder, one_of, one_turn, strings
from grm_jax.benchmarks.suite import Metric, Suite, each_subset
from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import located, read_objects
from grm_jax.data.source import Source

ROWS: Mapping[str, int] = {
    "Natural": 100, "Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46
}  # fmt: skip
SOURCES = {
    "llmbar": Source(
        "princeton-nlp/LLMBar", ("Dataset/LLMBar/*dataset.json",), "900616b",
        root="Dataset/", host="github",
    )
}  # fmt: skip


def read(data_dir: str | os.PathLike) -> Iterator[tuple[str, Comparison]]:
    """Reads the five sets of `data_dir`/llmbar/LLMBar, or of `data_dir`/LLMBar, in this order.

    Each pair has uid ``llmbar/<set>/<row>`` (rows counted from 0, for the files name none), the
    set as subset and the part (Natural or Adversarial) in meta.

    Raises:
      ValueError: a folder or file is missing; or a bad row, as ``path[row]: field 'x': ...``.
    """
    folder = find_folder(data_dir, "llmbar", "LLMBar")
    for subset in ROWS:
        part = "Natural" if subset == "Natural" else "Adversarial"
        path = folder / ("" if part == subset else part) / subset / "dataset.json"
        if not path.is_file():
            raise ValueError(f"llmbar: expected the file {path}")
        for number, (where, row) in enumerate(read_objects(path)):
            label = one_of(where, row, "label", (1, 2))
            yield where, located(
                where,
                f"llmbar/{subset}/{number}",
                one_turn(where, row, "input"),
                strings(where, row, "output_1", "output_2"),
                (1.0, 0.0) if label == 1 else (0.0, 1.0),
                subset,
                {"part": part},
                query="input",
            )


SUITES = (Suite("llmbar", read, ROWS, Metric(each_subset(ROWS)), SOURCES),)
