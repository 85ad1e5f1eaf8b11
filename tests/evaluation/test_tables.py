"""Tables: identical numbers in every format, byte-identical files, exact round trips."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
from builders import read_table

from grm_jax.evaluation import tables
from grm_jax.evaluation.tables import Cell, Column, Row, Table


def example() -> Table:
    columns = (
        Column("greedy", group="ours"),
        Column("Voting@8", group="ours"),
        Column("Δ", signed=True),
        Column("p", unit="p_value", digits=3),
        Column("items", unit="count"),
        Column("RB", group="paper"),
    )
    rows = (
        Row(
            "GRPO",
            (
                Cell(0.77549, 0.7391, 0.8013), Cell(0.819), Cell(0.0441, 0.025, 0.063),
                Cell(0.00004), Cell(500), Cell(0.86),
            ),
        ),
        Row(
            "RFT | 50% & $x_1$",
            (Cell(0.7661), Cell(), Cell(-0.00001), Cell(0.25), Cell(np.float32(12)), Cell()),
        ),
        Row("longest", (Cell(0.3601), Cell(), Cell(), Cell(), Cell(500), Cell()), "content-blind"),
    )  # fmt: skip
    notes = ("ties: uniform; no verdict: wrong", "± is half the 95 % interval over comparisons")
    return Table("Small world", columns, rows, notes, corner="model")


def test_markdown():
    assert tables.to_markdown(example()) == (
        "### Small world\n"
        "\n"
        "| model | ours: greedy | ours: Voting@8 | Δ | p | items | paper: RB |\n"
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| GRPO | 77.5 ± 3.1 | 81.9 | +4.4 ± 1.9 | &lt;0.001 | 500 | 86.0 |\n"
        "| RFT \\| 50% & $x_1$ | 76.6 | – | 0.0 | 0.250 | 12 | – |\n"
        "| **content-blind** | | | | | | |\n"
        "| longest | 36.0 | – | – | – | 500 | – |\n"
        "\n"
        "- ties: uniform; no verdict: wrong\n"
        "- ± is half the 95 % interval over comparisons\n"
    )


def test_latex():
    text = tables.to_latex(example())
    assert r"GRPO & 77.5 $\pm$ 3.1 & 81.9 & +4.4 $\pm$ 1.9 & $<$0.001 & 500 & 86.0 \\" in text
    assert r"RFT | 50\% \& \$x\_1\$ & 76.6 & -- & 0.0 & 0.250 & 12 & -- \\" in text
    assert r"\multicolumn{2}{c}{ours}" in text and r"\cmidrule(lr){2-3}\cmidrule(lr){7-7}" in text
    assert r"\multicolumn{7}{l}{\textit{content-blind}} \\" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    for line in body.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == 6


def test_csv_has_the_interval_in_columns():
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(example()))))
    assert [row["model"] for row in rows] == ["GRPO", "RFT | 50% & $x_1$", "longest"]
    first = rows[0]
    names = ("ours: greedy", "ours: greedy low", "ours: greedy high")
    assert [first[name] for name in names] == ["77.5", "73.9", "80.1"]
    assert rows[1]["ours: Voting@8"] == "" and rows[2]["section"] == "content-blind"


def test_every_format_shows_the_same_numbers(tmp_path):
    table = example()
    shown = [text for row in table.rows for text in tables._texts(row, table)]
    numbers = [re.findall(r"[-+]?\d+\.?\d*", text) for text in shown]
    terminal = tables.to_terminal(table)
    for text in (tables.to_markdown(table), tables.to_latex(table), terminal):
        position = 0
        for number in [n for cell in numbers for n in cell]:
            position = text.index(number, position) + len(number)
    written = tables.to_json(table)
    assert all(f'"{text}"' in written for text in shown)


def test_terminal_prints_labels_and_notes_as_they_are():
    text = tables.to_terminal(
        Table("a [b]", (Column("x"),), (Row("[red]k", (Cell(0.5),)),), ("n",))
    )
    assert "a [b]" in text and "[red]k" in text and "50.0" in text and "\x1b" not in text
    assert "\x1b" in tables.to_terminal(example(), color=True)


def test_round_trip_and_equal_bytes(tmp_path):
    table = example()
    paths = tables.write(table, tmp_path / "a", "main")
    assert [path.name for path in paths] == ["main.md", "main.csv", "main.tex", "main.json"]
    again = read_table(paths[3])
    assert again == table
    for one, other in zip(paths, tables.write(again, tmp_path / "b", "main"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in paths)


@pytest.mark.parametrize(
    ("number", "column", "text"),
    [
        (0.775, Column("x"), "77.5"),
        (-0.0004, Column("x"), "0.0"),
        (-0.0004, Column("x", signed=True), "0.0"),
        (0.0441, Column("x", signed=True), "+4.4"),
        (-0.0441, Column("x", signed=True), "-4.4"),
        (1.23456, Column("x", unit="plain", digits=3), "1.235"),
        (31_999.0, Column("x", unit="count"), "31999"),
        (0.0009, Column("x", unit="p_value", digits=3), "<0.001"),
        (1.0, Column("x", unit="p_value", digits=3), "1.000"),
        (None, Column("x"), "–"),
    ],
)
def test_format_number(number, column, text):
    assert tables.format_number(number, column) == text


def test_bad_records_are_errors():
    with pytest.raises(ValueError, match="row 'a': 1 cells for 2 columns"):
        Table("t", (Column("x"), Column("y")), (Row("a", (Cell(1),)),))
    with pytest.raises(ValueError, match="two columns"):
        Table("t", (Column("x"), Column("x")), ())
    with pytest.raises(ValueError, match="value is nan"):
        Cell(float("nan"))
    with pytest.raises(ValueError, match="low and high"):
        Cell(1.0, low=0.5)
    with pytest.raises(ValueError, match="needs a value"):
        Cell(None, 0.1, 0.2)
    with pytest.raises(ValueError, match="unit"):
        Column("x", unit="%")
