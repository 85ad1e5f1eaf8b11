"""Comparisons of the user's own, in JSONL or Parquet.

A row is in the format of `grm_jax.data.comparison.read_jsonl`, or has `prompt` (a string or
messages), `chosen` and `rejected` (strings), as custom sets of the package rewardbench do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from grm_jax.data.benchmarks.files import find_tables, with_best
from grm_jax.data.comparison import (
    Comparison,
    collect,
    from_row,
    located,
    present,
    read_messages,
    read_objects,
    require,
)
from grm_jax.text.prompts import Message


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads every file of `data_dir`/own, or of `data_dir` itself, by name.

    A pair without a uid has ``own/<file>/<row>``, counted from 0, and its chosen response stands
    at a hashed place.

    Raises:
      ValueError: there is no file; or a bad row, as ``path:line: field 'x': ...``.
    """
    return collect(
        place for path in find_tables("own", data_dir, "own", "") for place in _rows(path)
    )


def _rows(path: Path) -> Iterator[tuple[str, Comparison]]:
    for number, (where, row) in enumerate(read_objects(path)):
        row = present(row)
        if "chosen" not in row:
            yield where, from_row(where, row)
            continue
        if isinstance(row.get("prompt"), list):
            messages = read_messages(where, row, "prompt", extra=())
        else:
            messages = (Message("user", require(where, row, "prompt", str)),)
        uid = require(where, row, "uid", str) if "uid" in row else f"own/{path.name}/{number}"
        subset = require(where, row, "subset", str) if "subset" in row else ""
        chosen, rejected = (require(where, row, name, str) for name in ("chosen", "rejected"))
        answers, rewards = with_best(uid, chosen, [rejected])
        yield where, located(where, uid, messages, answers, rewards, subset, query="prompt")
