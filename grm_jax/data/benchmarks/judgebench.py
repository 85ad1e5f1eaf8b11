"""JudgeBench (ScalerLab/JudgeBench): pairs of responses where one is objectively correct.

The suite is the file of the 350 gpt-4o pairs. Columns read: `pair_id`, `original_id`, `source`,
`question`, `response_model`, `response_A`, `response_B`, `label` ("A>B" or "B>A"). The categories
are the official ones, told by the prefix of `source`; the official number judges every pair in
both orders and is micro-averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from grm_jax.data.comparison import (
    Comparison,
    FieldError,
    collect,
    located,
    read_objects,
    require,
)
from grm_jax.text.prompts import Message

FILE = "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl"
CATEGORIES = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
ROWS: Mapping[str, int] = {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42}
REWARDS = {"A>B": (1.0, 0.0), "B>A": (0.0, 1.0)}


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the pairs of `data_dir`/judgebench, or of `data_dir` itself, in the order of the file.

    Each has uid ``judgebench/<pair_id>``, responses (A, B), the category as subset, and `source`,
    `original_id` and `response_model` in meta.

    Raises:
      ValueError: the file is missing; or a bad row, as ``path:line: field 'x': ...``.
    """
    paths = [Path(data_dir) / "judgebench" / FILE, Path(data_dir) / FILE]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(f"judgebench: expected the file {paths[0]} (or {paths[1]})")
    return collect(_rows(path))


def _rows(path: Path) -> Iterator[tuple[str, Comparison]]:
    for where, row in read_objects(path):
        source = require(where, row, "source", str)
        subset = next((name for key, name in CATEGORIES.items() if source.startswith(key)), None)
        if subset is None:
            problem = f"{source!r} starts with none of {tuple(CATEGORIES)}"
            raise FieldError(where, "source", problem)
        label = require(where, row, "label", str)
        if label not in REWARDS:
            raise FieldError(where, "label", f"{label!r} is not one of {tuple(REWARDS)}")
        original_id = row.get("original_id")
        if type(original_id) not in (int, str, type(None)):
            problem = f"expected int, str or null, got {type(original_id).__name__}"
            raise FieldError(where, "original_id", problem)
        comparison = located(
            where,
            f"judgebench/{require(where, row, 'pair_id', str)}",
            (Message("user", require(where, row, "question", str)),),
            tuple(require(where, row, name, str) for name in ("response_A", "response_B")),
            REWARDS[label],
            subset,
            {
                "source": source,
                "original_id": original_id,
                "response_model": require(where, row, "response_model", str),
            },
            query="question",
        )
        yield where, comparison
