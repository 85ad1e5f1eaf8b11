"""The paper's tables by name next to our values, and two runs compared item by item.

    python -m tools.tables --workdirs=W1,W2          # paired, then what is filled of the paper
    python -m tools.tables --workdirs=W1,W2 --suites=rmb_bon,judgebench
    python -m tools.tables --table=table2 --workdirs=W
    python -m tools.tables --list
    python -m tools.tables --workdirs=W --out=DIR          # all of them as md, csv, tex and json
    python -m tools.tables --export=rewardbench --line=Voting@32 --workdirs=W --out=DIR

A workdir is one of experiments.benchmark; its results/*.json are read. Where it has no value, the
command that makes one is printed. Rows of the 27B model are compared with models of any size, which
the heading names; rows of other sizes only with a model of that size.

The export is the file of accuracies by subset that RewardBench keeps for each model, in the form of
published ones; none of our runs was submitted.
"""

import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from grm_jax.benchmarks import rewardbench
from grm_jax.evaluation import paper, statistics
from grm_jax.evaluation.method import Method
from grm_jax.evaluation.paper import PaperTable
from grm_jax.evaluation.results import Result, read_results
from grm_jax.evaluation.statistics import Interval
from grm_jax.evaluation.tables import Cell, Column, Row, Table, to_terminal, write
from grm_jax.files import write_atomically
from grm_jax.ranges import split
from tools import make_parser, run_program, user_path

SIZE_TOLERANCE = 0.15  # of the number of parameters, for rows of one size
RANKED = ("LLM-as-a-Judge", "BTRM-27B", "CLoud", "PairRM-27B", "GRM-27B-RFT", "GRM-27B")
COMPARED = "compare"
EXTRA = ("ranks", "spread")


class Workdir(NamedTuple):
    """A workdir and its results by suite."""

    name: str
    results: dict[str, Result]

    @property
    def billions(self) -> float | None:
        """Parameters of its policy, in billions."""
        known = [r.parameters for r in self.results.values() if r.parameters]
        return known[0] / 1e9 if known else None

    @property
    def title(self) -> str:
        """Name and size, for headings."""
        size = self.billions
        return self.name if size is None else f"{self.name} ({size:.3g}B)"


def read(name: str, path: pathlib.Path, suites: Sequence[str] = ()) -> Workdir:
    """The results of a workdir, of these suites; all of them where none is named.

    Raises:
      ValueError: it has no results of one of them, or none at all.
    """
    results = read_results(path)
    if lacking := [suite for suite in suites if suite not in results]:
        raise ValueError(f"--suites: {name} has results on {sorted(results)}, not on {lacking}")
    return Workdir(name, {s: results[s] for s in suites} if suites else results)


def our_value(column: paper.Column, row: paper.Row, workdir: Workdir) -> Interval | None:
    """The value of a workdir for a cell; the interval of a mean takes its parts as independent.

    None unless it has all of the parts, and a model of the size that the row is about.
    """
    size = workdir.billions
    if row.size != 27 and (size is None or abs(size / row.size - 1) > SIZE_TOLERANCE):
        return None
    parts, weights = [], []
    for suite, name, weight in column.parts:
        part = _part(workdir.results.get(suite), name, row.ours, column.tokens)
        if part is None:
            return None
        parts.append(part)
        weights.append(weight)
    shares = np.array(weights) / np.sum(weights)
    value = float(shares @ [part.value for part in parts])
    half = math.hypot(*(share * part.half_width for share, part in zip(shares, parts, strict=True)))
    return parts[0] if len(parts) == 1 else Interval(value, value - half, value + half)


def _part(
    result: Result | None, name: str, ours: Sequence[Method], tokens: bool
) -> Interval | None:
    if result is None:
        return None
    for line in (result.lines[method] for method in ours if method in result.lines):
        if tokens:
            return _tokens(result, line.tokens, name)
        if name in line.columns:
            return line.columns[name]
    return None


def _tokens(result: Result, tokens: dict[str, float], section: str) -> Interval | None:
    """Mean over the rows of a section of RewardBench; without an interval of its own."""
    rows = [tokens[s] for s in result.subsets if s in rewardbench.SECTIONS[section] and s in tokens]
    return None if not rows else Interval(*[float(np.mean(rows))] * 3)


def filled(table: PaperTable, workdirs: Sequence[Workdir]) -> tuple[Table, int]:
    """A table of the paper with our values, and the number of our values."""
    columns, count = [], 0
    for column in table.columns:
        shared = {"unit": column.unit, "digits": column.digits, "group": column.name}
        columns.append(Column("paper", **shared))
        for workdir in workdirs:
            columns.append(Column(workdir.title, **shared))
            columns.append(Column(f"{workdir.name} − paper", signed=True, **shared))
    rows, notes, missing = [], [*table.notes], {}
    for row in table.rows:
        cells = []
        for column, stated in zip(table.columns, row.values, strict=True):
            scale = 100 if column.unit == "percent" else 1
            cells.append(Cell(None if stated is None else stated / scale))
            for workdir in workdirs:
                ours = our_value(column, row, workdir)
                count += ours is not None
                exact = ours is not None and ours.low == ours.high == ours.value
                gap = None if None in (ours, stated) else ours.value - stated / scale
                cells += [Cell(ours.value) if exact else Cell.of(ours), Cell(gap)]
        label = row.label
        if row.note:
            notes.append(f"{row.label}: {row.note}")
            label += " *"
        rows.append(Row(label, tuple(cells)))
        if row.filled_by != paper.THEIRS:
            missing.setdefault(row.filled_by, []).append(row.label)
    suites = dict.fromkeys(suite for column in table.columns for suite, *_ in column.parts)
    notes += [
        f"to fill {', '.join(labels)}: {command.replace('SUITES', ','.join(suites))}"
        for command, labels in missing.items()
    ]
    notes += [
        f"{workdir.name}, {name}: {workdir.results[name].coverage}"
        for workdir in workdirs for name in suites
        if name in workdir.results and " of " in workdir.results[name].coverage
    ]  # fmt: skip
    return Table(table.title, tuple(columns), tuple(rows), tuple(notes), "method"), count


def _by_row(table: PaperTable, workdir: Workdir | None) -> dict[str, list[float | None]]:
    """Values of every row in per cent: the paper's, or ours."""
    if workdir is None:
        return {row.label: [*row.values] for row in table.rows}
    intervals = {
        row.label: [our_value(column, row, workdir) for column in table.columns]
        for row in table.rows
    }
    return {label: [own and 100 * own.value for own in row] for label, row in intervals.items()}


def ranks(workdirs: Sequence[Workdir]) -> Table:
    """Mean rank over the four benchmarks of Table 2 among six methods, as the paper has it."""
    sources = {"paper": None} | {workdir.title: workdir for workdir in workdirs}
    cells: dict[str, list[Cell]] = {label: [] for label in RANKED}
    for workdir in sources.values():
        values = _by_row(paper.TABLES["table2"], workdir)
        rows = [values[label][:4] for label in RANKED]
        if any(value is None for row in rows for value in row):
            means = [Cell()] * len(RANKED)
        else:
            placed = scipy.stats.rankdata(-np.array(rows, float), axis=0)
            means = [Cell(mean) for mean in placed.mean(axis=1)]
        for label, cell in zip(RANKED, means, strict=True):
            cells[label].append(cell)
    rows = tuple(Row(label, tuple(row)) for label, row in cells.items())
    columns = tuple(Column(name, "plain", 2) for name in sources)
    note = "1 is the best; a run has ranks once it has all six methods on all four benchmarks"
    return Table("Average rank over the four benchmarks", columns, rows, (note,), "method")


def spread(workdirs: Sequence[Workdir]) -> Table:
    """How unevenly a method scores, which is what the paper means by severe bias."""
    sources = (
        ("benchmarks", "table2", slice(0, 4)), ("RewardBench sections", "table8", slice(0, 4)),
        ("PPE domains", "table9", slice(0, 5)), ("RMB parts", "table10", slice(0, 4)),
    )  # fmt: skip
    columns, rows = [], {}
    for name, table, part in sources:
        for workdir in (None, *workdirs):
            columns.append(Column("paper" if workdir is None else workdir.title, group=name))
            for label, values in _by_row(paper.TABLES[table], workdir).items():
                shown = values[part]
                cell = Cell()
                if not any(value is None for value in shown):
                    cell = Cell((max(shown) - min(shown)) / 100)
                rows.setdefault(label, {})[len(columns) - 1] = cell
    body = tuple(
        Row(label, tuple(cells.get(i, Cell()) for i in range(len(columns))))
        for label, cells in rows.items()
    )
    note = "largest minus smallest score, points: the paper's severe bias is one between domains"
    return Table("Spread over domains", tuple(columns), body, (note,), "method")


def compared(a: Workdir, b: Workdir) -> dict[str, Table]:
    """The paired comparison of every line that two workdirs share, by suite.

    Raises:
      ValueError: naming suite and uid where they did not measure the same comparisons, or if they
        share no suite.
    """
    shared = [name for name in a.results if name in b.results]
    if not shared:
        raise ValueError(
            f"{a.name} has results on {sorted(a.results)}, {b.name} on {sorted(b.results)}"
        )
    tables = {}
    for name in shared:
        first, second = a.results[name], b.results[name]
        _require_same(name, a, b)
        rows = []
        for method in [method for method in first.lines if method in second.lines]:
            x, y = first.lines[method].credits_C, second.lines[method].credits_C
            counted = ~np.isnan(x)
            if not counted.any() or np.isnan(y).all():
                continue
            clusters = np.array(first.clusters)[counted]
            difference = statistics.paired_difference(x[counted], y[counted], clusters=clusters)
            whole = np.isin(x[counted], (0, 1)).all() and np.isin(y[counted], (0, 1)).all()
            exact = statistics.mcnemar(x[counted], y[counted]) if whole else None
            cells = (Cell(x[counted].mean()), Cell(y[counted].mean()),
                     Cell.of(difference), Cell(difference.p_value), Cell(exact))  # fmt: skip
            rows.append(Row(first.lines[method].label, cells, method.section))
        columns = (Column(a.title), Column(b.title), Column("difference", signed=True),
                   Column("p", "p_value", 3), Column("McNemar p", "p_value", 3))  # fmt: skip
        notes = [
            "95 % interval and p: paired bootstrap over comparisons, those with one query "
            "together; McNemar: exact, where every credit is 0 or 1 (no shared ties, one sample "
            "or all). No p-value is corrected for their number"
        ]
        notes += [
            f"rules differ: {rule} {first.rules.get(rule)!r} and {second.rules.get(rule)!r}"
            for rule in sorted({*first.rules, *second.rules})
            if first.rules.get(rule) != second.rules.get(rule)
        ]
        coverage = f", {first.coverage}" if first.coverage else ""
        title = f"{a.name} − {b.name}: {name}{coverage} (accuracy, %)"
        tables[name] = Table(title, columns, tuple(rows), tuple(notes), "method")
    return tables


def _require_same(suite: str, a: Workdir, b: Workdir) -> None:
    first, second = (w.results[suite] for w in (a, b))
    if first.uids == second.uids:
        return
    both_ways = (first, second, (a.name, b.name)), (second, first, (b.name, a.name))
    for mine, theirs, names in both_ways:
        only = [uid for uid in mine.uids if uid not in set(theirs.uids)]
        if only:
            raise ValueError(
                f"suite {suite}: {len(only)} comparisons, such as {only[0]!r}, are in {names[0]} "
                f"and not in {names[1]}; measure both with equal data, limit and split, or name "
                "other suites with --suites"
            )
    raise ValueError(f"suite {suite}: {a.name} and {b.name} have the comparisons in other orders")


def leaderboard(workdir: Workdir, label: str) -> dict:
    """Accuracy by subset of RewardBench, in the form of its result files.

    Raises:
      ValueError: if the workdir has no such suite or line, or not all of its rows.
    """
    result = workdir.results.get("rewardbench")
    if result is None:
        raise ValueError(f"{workdir.name} has no results on rewardbench")
    if " of " in result.coverage and len({*result.coverage.split(" rows")[0].split(" of ")}) > 1:
        raise ValueError(f"{workdir.name}: rewardbench is not whole ({result.coverage})")
    lines = {line.label: line for method, line in result.lines.items() if method.plain}
    if label not in lines:
        raise ValueError(f"--line: {label!r} is none of {sorted(lines)}")
    subsets = np.array(result.subsets)
    accuracy = {
        subset: float(np.nanmean(lines[label].credits_C[subsets == subset]))
        for subset in sorted(set(result.subsets))
    }
    about = {"model": workdir.name, "model_type": "Generative RM", "chat_template": None}
    return about | accuracy


def make(name: str, workdirs: Sequence[Workdir]) -> tuple[dict[str, Table], int]:
    """The tables of a name, by the names of their files, and the number of our values in them."""
    if name == COMPARED:
        if len(workdirs) != 2:
            raise ValueError(f"--workdirs: a comparison takes two, got {len(workdirs)}")
        tables = {f"{name}_{suite}": table for suite, table in compared(*workdirs).items()}
        return tables, sum(len(table.rows) for table in tables.values())
    if name in EXTRA:
        table = {"ranks": ranks, "spread": spread}[name](workdirs)
        ours = [cell for row in table.rows for cell, column in zip(row.cells, table.columns,
               strict=True) if column.name != "paper"]  # fmt: skip
        return {name: table}, sum(cell.value is not None for cell in ours)
    name = paper.ALIASES.get(name, name)
    if name not in paper.TABLES:
        known = ", ".join([COMPARED, *paper.TABLES, *paper.ALIASES, *EXTRA])
        raise ValueError(f"--table: {name!r} is none of {known}")
    table, count = filled(paper.TABLES[name], workdirs)
    return {name: table}, count


def open_workdirs(paths: Sequence[pathlib.Path], suites: Sequence[str]) -> list[Workdir]:
    """The workdirs, called by as much of the end of their paths as tells them apart.

    Raises:
      ValueError: one is named twice, or see `read`.
    """
    whole = [path.resolve() for path in paths]
    if twice := [str(path) for i, path in enumerate(paths) if whole[i] in whole[:i]]:
        raise ValueError(f"--workdirs: {twice[0]} is named twice")
    depth = 1
    while len({path.parts[-depth:] for path in whole}) < len(whole):
        depth += 1
    names = ["/".join(path.parts[-depth:]) for path in whole]
    return [read(name, path, suites) for name, path in zip(names, paths, strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints, and writes where --out says so."""
    parser = make_parser(__doc__, allow_abbrev=False)
    parser.add_argument("--workdirs", default="", help="comma-separated")
    parser.add_argument("--suites", default="", help="comma-separated; all if left out")
    parser.add_argument("--table", default="", help="comma-separated names; see --list")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--out", type=user_path, help="folder for md, csv, tex and json")
    parser.add_argument("--export", choices=("rewardbench",), help="write a leaderboard's file")
    parser.add_argument("--line", default="Voting@32", help="the line that is exported")
    args = parser.parse_args(argv)
    if args.list:
        for table in paper.TABLES.values():
            print(f"{table.name:10} {table.title}")
        print("ranks      average rank over the four benchmarks of Table 2\n"
              "spread     spread over domains\n"
              "compare    two workdirs, paired")  # fmt: skip
        return
    paths, suites = [user_path(part) for part in split(args.workdirs)], split(args.suites)
    if suites and not paths:
        raise ValueError("--suites: these are suites of workdirs; --workdirs is missing")
    workdirs = open_workdirs(paths, suites)
    if args.export:
        if len(workdirs) != 1 or args.out is None:
            raise ValueError("--export takes one workdir, and --out")
        record = leaderboard(workdirs[0], args.line)
        path = args.out / f"{workdirs[0].name}.json"
        write_atomically(path, (json.dumps(record, indent=4) + "\n").encode())
        print(f"written: {path}")
        return
    asked = split(args.table)
    wanted = asked or [*([COMPARED] if len(workdirs) == 2 else []), *paper.TABLES, *EXTRA]
    empty = []
    for name in wanted:
        tables, count = make(name, workdirs)
        for file, table in tables.items():
            if args.out:
                write(table, args.out, file)
            if asked or count:
                headings = [max(len(c.name), len(c.group), 11) + 3 for c in table.columns]
                width = max(60 + sum(headings), 100)
                print(to_terminal(table, width=width, color=sys.stdout.isatty()))
        if not count:
            empty.append(name)
    if empty and not asked:
        print(f"without a value of these workdirs: {', '.join(empty)} (--table=NAME prints one, "
              "with the command that fills each row)")  # fmt: skip
    if args.out:
        print(f"written: {args.out}")


if __name__ == "__main__":
    run_program(main)
