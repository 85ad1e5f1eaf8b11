"""JudgeBench (ScalerLab/JudgeBench): pairs of responses where one is objectively correct.

The suite is the file of the 350 gpt-4o pairs; the file of the 270 claude pairs is another suite.
Columns read: `pair_id`, `original_id`, `source`, `question`, `response_model`, `response_A`,
`response_B`, `label` ("A>B" or "B>A"). The categories are the official ones, told by the prefix
of `source`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from grm_jax.data.benchmarks.files import find_file, one_of
from grm_jax.data.comparison import Comparison, FieldError, collect, located, read_objects, require
from grm_jax.text.prompts import Message

FILE = "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl"
CLAUDE_FILE = "dataset=judgebench,response_model=claude-3-5-sonnet-20240620.jsonl"
CATEGORIES = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
ROWS: Mapping[str, int] = {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42}
CLAUDE_ROWS: Mapping[str, int] = {"Knowledge": 154, "Reasoning": 51, "Math": 34, "Coding": 31}
REWARDS = {"A>B": (1.0, 0.0), "B>A": (0.0, 1.0)}


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the pairs of `data_dir`/judgebench, or of `data_dir` itself, in the order of the file.

    Each has uid ``judgebench/<pair_id>``, responses (A, B), the category as subset, and `source`,
    `original_id` and `response_model` in meta.

    Raises:
      ValueError: the file is missing; or a bad row, as ``path:line: field 'x': ...``.
    """
    return collect(_rows("judgebench", find_file("judgebench", data_dir, "judgebench", FILE)))


def load_claude(data_dir: str | os.PathLike) -> list[Comparison]:
    """As `load`, the file of the claude pairs; uids start with ``judgebench_claude/``."""
    path = find_file("judgebench_claude", data_dir, "judgebench", CLAUDE_FILE)
    return collect(_rows("judgebench_claude", path))


def _rows(suite: str, path: Path) -> Iterator[tuple[str, Comparison]]:
    for where, row in read_objects(path):
        source = require(where, row, "source", str)
        subset = next((name for key, name in CATEGORIES.items() if source.startswith(key)), None)
        if subset is None:
            problem = f"{source!r} starts with none of {tuple(CATEGORIES)}"
            raise FieldError(where, "source", problem)
        label = one_of(where, row, "label", tuple(REWARDS))
        original_id = row.get("original_id")
        if type(original_id) not in (int, str, type(None)):
            problem = f"expected int, str or null, got {type(original_id).__name__}"
            raise FieldError(where, "original_id", problem)
        comparison = located(
            where,
            f"{suite}/{require(where, row, 'pair_id', str)}",
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
