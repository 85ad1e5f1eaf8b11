"""OffsetBias (NCSOFT/offsetbias): pairs whose worse response has what judges wrongly like.

Columns, by "Data Fields" of the card: `instruction`, `output_1`, `output_2` and `label`, the number
of the better output, 1 or 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grm_jax.data.comparison import Comparison, FieldError
from grm_jax.data.reading import require
from grm_jax.data.training_sets.rows import comparison
from grm_jax.text.prompts import Message

FILES = ("train.jsonl",)


def read(where: str, uid: str, row: dict[str, Any]) -> Iterator[Comparison]:
    """One pair."""
    label = require(where, row, "label", int)
    if label not in (1, 2):
        raise FieldError(where, "label", f"is 1 or 2, got {label}")
    yield comparison(
        where, uid, (Message("user", require(where, row, "instruction", str)),),
        [require(where, row, name, str) for name in ("output_1", "output_2")],
        (1.0, 0.0) if label == 1 else (0.0, 1.0),
        query="instruction",
    )  # fmt: skip
