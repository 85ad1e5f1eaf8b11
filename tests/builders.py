"""Comparisons, trajectories and runs for tests, which name only the fields that they are about."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import OPTIONAL
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation.tables import Cell, Column, Row, Table
from grm_jax.text.prompts import Message


def comparison(
    uid: str = "c", n: int = 2, *, query: str = "q", best: int = 0, **fields: Any
) -> Comparison:
    """A comparison of n short responses, one of them right; `fields` are those of the record."""
    filled = {
        "messages": (Message("user", query),),
        "responses": tuple(f"{uid} {i}" for i in range(n)),
        "rewards": tuple(float(i == best) for i in range(n)),
    }
    return Comparison(uid, **(filled | fields))


def trajectory(
    uid: str = "c",
    sample: int = 0,
    scores: tuple[int, ...] | None = (7, 3),
    *,
    token_ids: tuple[int, ...] = (5, 6),
    **fields: Any,
) -> Trajectory:
    """A trajectory with these scores, or without a box if they are None; right if the first wins.

    `fields` are those of the record; `order` has to be given for unparsed ones of other than two
    responses.
    """
    filled = {
        "fingerprint": "f0",
        "stage": "grpo",
        "step": 0,
        "seed": (0, 1),
        "order": tuple(range(2 if scores is None else len(scores))),
        "logprobs": (-0.5,) * len(token_ids),
        "sampling_logprobs": (-0.5,) * len(token_ids),
        "text": "text",
        "parse_reason": "no_box" if scores is None else "ok",
        "lenient_scores": scores,
        "finish": "stop",
        "correct": scores is not None and scores[0] > max(scores[1:], default=0),
    }
    return Trajectory(
        uid=uid, sample=sample, scores=scores, token_ids=token_ids, **(filled | fields)
    )


def write_comparisons(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Writes the format of `reading.read_jsonl`."""
    rows = [
        {"uid": c.uid, "messages": [message._asdict() for message in c.messages],
         "responses": c.responses, "rewards": c.rewards}
        | {name: value for name in OPTIONAL if (value := getattr(c, name))}
        for c in comparisons
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(**fields: Any):
    """A run that has these fields only, and touches no device."""
    from experiments.run import Run  # slow, and few tests need it

    return Run(**{field.name: None for field in dataclasses.fields(Run)} | fields)


def read_table(path: Path) -> Table:
    """The table of a JSON file that `tables.write` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    columns = [Column(**column) for column in record["columns"]]
    rows = [
        Row(row["label"], tuple(Cell(**cell) for cell in row["cells"]), row["section"])
        for row in record["rows"]
    ]
    return Table(record["title"], columns, rows, record["notes"], record["corner"])
