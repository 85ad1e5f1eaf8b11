"""What each step and each arm is worth over all seeds of an ablation, beside the paper.

Everything is read from DIR/seed_S/results, so a report is made again in seconds. Intervals resample
seeds, and the comparisons of each seed.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import counting, report
from experiments.counting import Line
from experiments.results import Result, read_results
from grm_jax.evaluation import paper, plots, statistics
from grm_jax.evaluation.statistics import Difference, Resampled
from grm_jax.evaluation.tables import Cell, Column, Row, Table, to_terminal, write

INTERVALS = (
    "95 % bootstrap intervals: seeds are resampled, and of each seed its comparisons, those with "
    "one query together; with few seeds such an interval is somewhat too narrow. seeds > 0: on how "
    "many seeds the difference is positive"
)
PAPER = "paper: overall accuracy of the 27B model, Tables 2 and 4"


class Lines(NamedTuple):
    """The lines of a suite over R seeds; L lines.

    Attributes:
      at: place of a line by (section, label).
      credits_R: of each seed float64 [L, I], items that have right and wrong responses.
      means: over seeds, of all lines on the same resamples.
    """

    at: dict[tuple[str, str], int]
    credits_R: list[np.ndarray]
    means: Resampled

    def difference(self, a: tuple[str, str], b: tuple[str, str]) -> Difference:
        """Line a minus line b."""
        return self.means.difference(self.at[a], self.at[b])

    def seeds_above(self, a: tuple[str, str], b: tuple[str, str]) -> int:
        """Seeds on which line a is above line b."""
        a, b = self.at[a], self.at[b]
        return sum(float(own[a].mean()) > float(own[b].mean()) for own in self.credits_R)


def over_seeds(results: Sequence[Result]) -> Lines:
    """The lines that all seeds have.

    Raises:
      ValueError: seeds were counted by other rules.
    """
    first = results[0]
    for one in results[1:]:
        if {**one.rules, "seed": 0} != {**first.rules, "seed": 0}:
            raise ValueError(f"{one.suite}: seeds were counted by other rules")
    keys = [
        key for key in first.lines
        if all(key in one.lines and np.isfinite(one.lines[key].credits_C).any() for one in results)
    ]  # fmt: skip
    credits, clusters = [], []
    for one in results:
        all_LC = np.stack([one.lines[key].credits_C for key in keys])
        kept_C = np.isfinite(all_LC).all(axis=0)
        credits.append(all_LC[:, kept_C])
        clusters.append(np.asarray(one.clusters)[kept_C])
    means = statistics.over_seeds(credits, clusters=clusters)
    return Lines({key: i for i, key in enumerate(keys)}, credits, means)


def _pairs(result: Result, lines: Lines) -> list[tuple[str, str, Line, Line]]:
    """(section, label, a, b): the steps of the run, then what each arm loses."""
    own = [Line(section, label) for section, label in lines.at]
    ks = tuple(result.rules["ks"])
    found = []
    for label, a, b in report.pairs(ks, own):
        arm = b.section not in counting.SECTIONS
        found.append((f"full − {b.section}" if arm else "steps", a.label if arm else label, a, b))
    # Of the votes of an arm those of most samples.
    most = {b.section: b.label for *_, b in found if b.label.startswith("Voting@")}
    return [
        row for row in found
        if row[0] == "steps" or not row[3].label.startswith("Voting@")
        or most[row[3].section] == row[3].label
    ]  # fmt: skip


def ablation_table(suite: str, results: Sequence[Result], note: str) -> tuple[Table, list]:
    """Paired differences beside those of the paper; also what the figure shows of them."""
    lines = over_seeds(results)
    rows, effects = [], []
    last = [label for section, label in lines.at if section == counting.GREEDY][-1]
    for section, label, a, b in _pairs(results[0], lines):
        keys = (a.section, a.label), (b.section, b.label)
        difference = lines.difference(*keys)
        values = [lines.means.interval(lines.at[key]).value for key in keys]
        theirs = [paper.overall(key) for key in keys]
        gap = None if None in theirs else round(theirs[0] - theirs[1], 1) / 100
        cells = (
            *map(Cell, values),
            Cell(difference.value, difference.low, difference.high),
            Cell(difference.p_value), Cell(lines.seeds_above(*keys)),
            *(Cell(None if value is None else value / 100) for value in theirs), Cell(gap),
        )  # fmt: skip
        rows.append(Row(label, cells, section))
        if section == "steps":
            effects.append(plots.Effect(label, difference, gap))
        elif label == last or label.startswith("Voting@"):
            effects.append(plots.Effect(f"{section}: {label}", difference, gap))
    columns = [
        Column("a"), Column("b"), Column("a − b", signed=True), Column("p", "p_value", digits=3),
        Column("seeds > 0", "count"),
        Column("a", group="paper"), Column("b", group="paper"),
        Column("a − b", signed=True, group="paper"),
    ]  # fmt: skip
    title = f"Steps and arms, accuracy (%): {suite}"
    return Table(title, columns, rows, [note, INTERVALS, PAPER], "a − b"), effects


def seeds_table(
    suite: str, results: Sequence[Result], seeds: Sequence[int], note: str
) -> Table:
    """Every line: its mean over seeds, and each seed."""
    lines = over_seeds(results)
    rows = []
    for (section, label), i in lines.at.items():
        interval = lines.means.interval(i)
        own = [Cell(float(credits[i].mean())) for credits in lines.credits_R]
        rows.append(Row(label, (Cell(*interval), *own), section))
    columns = [Column("mean"), *(Column(f"seed {seed}") for seed in seeds)]
    return Table(f"Accuracy (%) by seed: {suite}", columns, rows, [note, INTERVALS], "method")


def write_report(workdir: pathlib.Path, every: Sequence[int]) -> None:
    """Writes and prints the tables and the figure over the seeds that are finished."""
    done = [seed for seed in every if (workdir / f"seed_{seed}" / "results").is_dir()]
    of_seed = [read_results(workdir / f"seed_{seed}") for seed in done]
    listed = ", ".join(map(str, done))
    for suite in of_seed[0] if of_seed else ():
        results = [own[suite] for own in of_seed if suite in own]
        if not any(np.isfinite(m.credits_C).any() for m in results[0].lines.values()):
            continue  # single responses only
        sizes = ", ".join(
            str(int(np.isfinite(next(iter(one.lines.values())).credits_C).sum()))
            for one in results
        )
        note = f"seeds {listed} ({len(done)} of {len(every)}); comparisons with n >= 2: {sizes}"
        table, effects = ablation_table(suite, results, note)
        suffix = "" if len(of_seed[0]) == 1 else f"_{suite}"
        for one, name in ((seeds_table(suite, results, done, note), "seeds"), (table, "ablation")):
            write(one, workdir / "tables", name + suffix)
            print(to_terminal(one, width=180), flush=True)
        plots.effects(
            workdir / "figures" / f"ablation{suffix}.png", effects,
            note=f"bars: 95 % over {len(done)} seeds and their comparisons; {suite}",
        )  # fmt: skip
    print(f"{len(done)} of {len(every)} seeds are finished; tables and figures: {workdir}")
