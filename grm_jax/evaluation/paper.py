"""The tables and figures of the paper (arXiv 2504.02495), read from `paper.toml` in this folder.

Each row names our line to compare with, and the command that makes that line.
"""

import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import NamedTuple

from grm_jax.evaluation.method import BASELINES, Method

KS = (1, 2, 4, 8, 16, 32)  # of the curves
THEIRS = "published by others"
# Stages to compare with the model of the paper: the first that a run has.
_GRM = ("grpo", "released")


class Column(NamedTuple):
    """A column: its heading, and the numbers of our results that it is a mean of.

    Attributes:
      name: the heading.
      parts: (suite, column of its results, weight).
      unit, digits: see `tables.Column`.
      tokens: the numbers are mean lengths of trajectories in sections of the suite instead.
    """

    name: str
    parts: tuple[tuple[str, str, float], ...]
    unit: str = "percent"
    digits: int = 1
    tokens: bool = False


class Row(NamedTuple):
    """A row: its label, the values of the paper, and our line to compare with.

    Attributes:
      label, values: of the paper; None where it has none.
      ours: the first that a run has; () for models that are not ours to measure.
      size: billions of parameters; only rows of 27 are compared with a run of another size.
      filled_by: the command that makes our value, or who published theirs.
      note: footnote.
    """

    label: str
    values: tuple[float | None, ...]
    ours: tuple[Method, ...] = ()
    size: int = 27
    filled_by: str = THEIRS
    note: str = ""


class PaperTable(NamedTuple):
    """A table or figure of the paper."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def row(self, method: Method, size: int = 27) -> Row | None:
        """The first row that is compared with this method, if any."""
        return next((row for row in self.rows if row.size == size and method in row.ours), None)


def overall(method: Method) -> float | None:
    """Overall accuracy that the paper has where one of our lines would stand, in per cent."""
    rows = (TABLES[name].row(method) for name in ("table2", "table3", "table4"))
    return next((row.values[-1] for row in rows if row), None)


def _table(record: Mapping, table: Mapping) -> PaperTable:
    rows = [*table.get("rows", ())]
    for curve in table.get("curves", ()):
        for k, value in zip(KS, curve["values"], strict=False):
            kind = curve.get("kind", "voting") if k > 1 else "voting"
            label = f"{curve['label']}, k = {k}"
            rows.append({**curve, "label": label, "values": [value], "kind": kind, "k": k})
    columns = (
        Column(c, _parts(record["columns"][c])) if isinstance(c, str)
        else Column(**{**c, "parts": _parts(c["parts"])})
        for c in table["columns"]
    )  # fmt: skip
    notes = record["notes"]
    return PaperTable(
        table["name"], table["title"], tuple(columns), tuple(_row(record, row) for row in rows),
        tuple(notes.get(note, note) for note in table.get("notes", ())),
    )  # fmt: skip


def _parts(parts: list) -> tuple[tuple[str, str, float], ...]:
    return tuple(map(tuple, parts))


def _row(record: Mapping, row: Mapping) -> Row:
    note, stage = row.get("note", ""), row.get("stage")
    fields = {name: row[name] for name in ("arm", "kind", "k", "rule") if name in row}
    stages = _GRM if stage == "grm" else [stage] if stage else []
    size = row.get("size", 27)
    command, config = row.get("command"), row.get("config", "gemma2_27b")
    if command is None and stage:
        if "arm" in row or "rule" in row:
            command = "ablate"
        elif stage == "grm":
            command, config = "released", f"deepseek_grm_{size}b"
        else:
            command = "baseline" if stage in BASELINES else "train" if size == 27 else stage
    return Row(
        row["label"],
        tuple(None if value == "-" else value for value in row["values"]),
        tuple(Method(name, **fields) for name in stages),
        size,
        record["commands"][command].format(config=config) if command else THEIRS,
        record["notes"].get(note, note),
    )


_RECORD = tomllib.loads((importlib.resources.files(__package__) / "paper.toml").read_text("utf-8"))
TABLES = {table["name"]: _table(_RECORD, table) for table in _RECORD["table"]}
ALIASES = {"table6": "table3", "table7": "table4", "figure6": "figure1"}
