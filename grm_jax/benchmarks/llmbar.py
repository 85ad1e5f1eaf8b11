"""LLMBar (princeton-nlp/LLMBar): pairs where one output follows the instruction and one does not.

The suite is the folder ``LLMBar``: Natural and four Adversarial sets, 419 pairs. Columns read:
`input`, `output_1`, `output_2`, `label` (1 or 2, the better output). Case studies and processed
sets of the same repository are other data and are not read.
"""

from pathlib import Path

from grm_jax.benchmarks.files import find_file
from grm_jax.benchmarks.suite import Metric, Suite, each_subset
from grm_jax.data.reading import Placed, located, one_of, one_turn, read_objects, strings
from grm_jax.data.source import Source

ROWS = {
    "Natural": 100, "Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46
}  # fmt: skip
SOURCES = {
    "llmbar": Source(
        "princeton-nlp/LLMBar", ("Dataset/LLMBar/*dataset.json",), "900616b",
        root="Dataset/", host="github",
    )
}  # fmt: skip


def read(data_dir: Path) -> Placed:
    """Reads the five sets of `data_dir`/llmbar/LLMBar, or of `data_dir`/LLMBar, in this order.

    Each pair has uid ``llmbar/<set>/<row>`` (rows counted from 0, for the files name none), the
    set as subset and the part (Natural or Adversarial) in meta.
    """
    folder = find_file(data_dir, "llmbar", "LLMBar", "folder")
    for subset in ROWS:
        part = "Natural" if subset == "Natural" else "Adversarial"
        path = folder / ("" if part == subset else part) / subset / "dataset.json"
        if not path.is_file():
            raise ValueError(f"llmbar: expected the file {path}")
        for number, (where, row) in enumerate(read_objects(path)):
            label = one_of(where, row, "label", (1, 2))
            rewards = (1.0, 0.0) if label == 1 else (0.0, 1.0)
            yield where, located(
                where, f"llmbar/{subset}/{number}", one_turn(where, row, "input"),
                strings(where, row, "output_1", "output_2"), rewards, subset, {"part": part},
                query="input",
            )  # fmt: skip


SUITES = (Suite("llmbar", read, ROWS, Metric(each_subset(ROWS)), SOURCES),)
