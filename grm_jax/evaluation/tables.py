"""Tables: one record, five renderings with identical numbers.

Every number of every rendering comes from `format_number`, so the terminal, Markdown, CSV, LaTeX
and JSON cannot disagree. Equal tables give byte-identical files: nothing here knows the time, the
host or the commit (those belong in fingerprint.json).
"""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Self

from grm_jax.files import write_atomically

UNITS = ("percent", "plain", "count", "p_value")
MISSING = "–"
FORMATS = ("md", "csv", "tex", "json")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        name: the heading.
        unit: 'percent' (stored as a fraction, shown times 100), 'plain', 'count', 'p_value'.
        digits: decimals that are shown; counts have none.
        signed: write the sign of positive values too, for differences.
        group: heading over neighbouring columns, such as 'ours' and 'paper'.
    """

    name: str
    unit: str = "percent"
    digits: int = 1
    signed: bool = False
    group: str = ""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"column {self.name!r}: unit: {self.unit!r} is not one of {UNITS}")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value in the unit of its column and the ends of its interval; None where there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name, number in (("value", self.value), ("low", self.low), ("high", self.high)):
            if number is not None:
                # numpy scalars would not survive a round trip through JSON.
                object.__setattr__(self, name, float(number))
                if not math.isfinite(number):
                    raise ValueError(f"cell: {name} is {number}; leave it out instead")
        if (self.low is None) != (self.high is None):
            raise ValueError("cell: low and high go together")
        if self.value is None and self.low is not None:
            raise ValueError("cell: an interval needs a value")

    @classmethod
    def of(cls, interval: Sequence[float] | None) -> Self:
        """The cell of an `Interval` or a `Difference`; an empty one for None."""
        return cls() if interval is None else cls(*interval[:3])


@dataclasses.dataclass(frozen=True)
class Row:
    """A label, one cell for each column, and the section that the row stands in."""

    label: str
    cells: tuple[Cell, ...]
    section: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: one line.
        columns, rows: neighbouring rows of one section stand together.
        notes: lines below the table: tie policy, parse policy, what the interval covers.
        corner: heading over the labels.

    Raises:
        ValueError: a row with another number of cells than there are columns, or two columns
            with the same group and name.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    corner: str = ""

    def __post_init__(self) -> None:
        for name in ("columns", "rows", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}, row {row.label!r}: {len(row.cells)} cells for "
                    f"{len(self.columns)} columns"
                )
        names = [(column.group, column.name) for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"table {self.title!r}: two columns have one name: {names}")


def format_number(number: float | None, column: Column, *, signed: bool | None = None) -> str:
    """The one place where numbers become text; '–' for None."""
    if number is None:
        return MISSING
    signed = column.signed if signed is None else signed
    if column.unit == "p_value" and number < 10**-column.digits:
        return f"<{10**-column.digits:.{column.digits}f}"
    digits = 0 if column.unit == "count" else column.digits
    text = f"{100 * number if column.unit == 'percent' else number:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")  # no negative zero, and no sign on a zero
    return f"+{text}" if signed and not text.startswith("-") else text


def format_cell(cell: Cell, column: Column) -> str:
    """Such as '77.5 ± 2.6': the value and half the length of its interval."""
    text = format_number(cell.value, column)
    if cell.low is None or cell.high is None:
        return text
    return f"{text} ± {format_number((cell.high - cell.low) / 2, column, signed=False)}"


def to_markdown(table: Table) -> str:
    """GitHub Markdown with a heading, sections as bold rows, and the notes as a list."""
    lines = [f"### {_md(table.title)}", ""]
    lines.append(_md_row([table.corner, *_headings(table)]))
    lines.append("|" + "|".join([" :--- ", *[" ---: "] * len(table.columns)]) + "|")
    for section, rows in groupby(table.rows, key=lambda row: row.section):
        if section:
            lines.append("|" + f" **{_md(section)}** |" + " |" * len(table.columns))
        lines.extend(_md_row([row.label, *_texts(row, table)]) for row in rows)
    if table.notes:
        lines += ["", *(f"- {_md(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """One row per row: section, label, and value, low, high of each column, in its shown unit.

    Title and notes are not data and are left to the other formats.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    headings = [h for name in _headings(table) for h in (name, f"{name} low", f"{name} high")]
    writer.writerow(["section", table.corner or "row", *headings])
    for row in table.rows:
        numbers = [
            "" if number is None else format_number(number, column)
            for cell, column in zip(row.cells, table.columns, strict=True)
            for number in (cell.value, cell.low, cell.high)
        ]
        writer.writerow([row.section, row.label, *numbers])
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A booktabs table environment (needs the package booktabs)."""
    width = len(table.columns) + 1
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    if any(column.group for column in table.columns):
        heads, rules, start = [""], [], 2
        for group, columns in groupby(table.columns, key=lambda column: column.group):
            span = len(list(columns))
            heads.append(rf"\multicolumn{{{span}}}{{c}}{{{_tex(group)}}}")
            if group:
                rules.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
        lines += [" & ".join(heads) + r" \\", "".join(rules)]
    names = [column.name for column in table.columns]
    lines += [" & ".join(map(_tex, [table.corner, *names])) + r" \\", r"\midrule"]
    for i, (section, rows) in enumerate(groupby(table.rows, key=lambda row: row.section)):
        if i:
            lines.append(r"\midrule")
        if section:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(section)}}}}} \\")
        for row in rows:
            lines.append(" & ".join(map(_tex, [row.label, *_texts(row, table)])) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip {{\footnotesize {_tex(note)}}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_json(table: Table) -> str:
    """The record itself in full precision, with the shown text of every cell."""
    record = dataclasses.asdict(table)
    for row, shown in zip(table.rows, record["rows"], strict=True):
        shown["text"] = _texts(row, table)
    return json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False) + "\n"


def to_terminal(table: Table, *, width: int = 120, color: bool = False) -> str:
    """A table drawn for a terminal; the same text at any time for the same width."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=Text(table.title), title_justify="left", header_style="bold")
    drawn.add_column(Text(table.corner), no_wrap=True)
    for column in table.columns:
        heading = f"{column.group}\n{column.name}" if column.group else column.name
        drawn.add_column(Text(heading), justify="right", no_wrap=True)
    for i, (section, rows) in enumerate(groupby(table.rows, key=lambda row: row.section)):
        if i:
            drawn.add_section()
        if section:
            drawn.add_row(Text(section, style="italic"))
        for row in rows:
            drawn.add_row(Text(row.label), *map(Text, _texts(row, table)))
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="standard" if color else None
    )
    console.print(drawn)
    for note in table.notes:
        console.print(Text(f"  {note}", style="dim"))
    return out.getvalue()


def write(table: Table, folder: str | os.PathLike, name: str) -> list[Path]:
    """Writes folder/name.{md,csv,tex,json}, each atomically; returns the paths."""
    texts = (to_markdown(table), to_csv(table), to_latex(table), to_json(table))
    paths = [Path(folder) / f"{name}.{suffix}" for suffix in FORMATS]
    for path, text in zip(paths, texts, strict=True):
        write_atomically(path, text.encode())
    return paths


def _headings(table: Table) -> list[str]:
    return [f"{c.group}: {c.name}" if c.group else c.name for c in table.columns]


def _texts(row: Row, table: Table) -> list[str]:
    return [format_cell(cell, c) for cell, c in zip(row.cells, table.columns, strict=True)]


def _md(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _md_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, texts)) + " |"


def _tex(text: str) -> str:
    special = {
        **{letter: rf"\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "−": "$-$", "≥": r"$\geq$",
        "≤": r"$\leq$", "\n": " ",
    }  # fmt: skip
    return "".join(special.get(letter, letter) for letter in text)
