"""Effects of each step and each arm over all seeds of an ablation, next to those of the paper.

Everything is read from DIR/seed_S/results, so a report is made again in seconds.
"""

import fcntl
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from grm_jax.evaluation import paper, plots, statistics
from grm_jax.evaluation.differences import Pair, pairs
from grm_jax.evaluation.method import STAGES, Method
from grm_jax.evaluation.results import Result, read_results
from grm_jax.evaluation.statistics import Difference, OverSeeds, Resampled
from grm_jax.evaluation.tables import Cell, Column, Row, Table, to_terminal, write
from grm_jax.files import visible_files

SEVERAL = "95 % intervals and two-sided p: Student's t over seeds, paired; the seed is the unit"
OWN = ", and its comparisons are its own"
SHARED = "; all have the same comparisons, whose variance is added, those with one query as one"
ONE = "95 % intervals and two-sided p: bootstrap over comparisons; one seed says nothing of others"
HOLM = (
    "p, Holm: corrected for the number of differences that config.ablate.listed named in advance, "
    "{}; one holds where a > b and it is below 0.05, any falsely with a chance of at most 5 %. "
    "Intervals, and p of all others, are not corrected"
)
UNLISTED = "config.ablate.listed named no difference in advance: no p is corrected for their number"
PAPER = "paper: overall accuracy of the 27B model, Tables 2 to 4; seeds > 0: on how many a > b"


class Lines(NamedTuple):
    """The lines of a suite over R seeds; L lines.

    Attributes:
      at: place of a line by its method.
      credits_R: of each seed float64 [L, I], items that have right and wrong responses.
      means: over seeds, of all lines; of a single seed, resampled.
    """

    at: dict[Method, int]
    credits_R: list[np.ndarray]
    means: OverSeeds | Resampled

    def difference(self, a: Method, b: Method) -> Difference:
        """Line a minus line b."""
        return self.means.difference(self.at[a], self.at[b])

    def seeds_above(self, a: Method, b: Method) -> int:
        """Seeds on which line a is above line b."""
        i, j = self.at[a], self.at[b]
        return sum(float(c_LI[i].mean()) > float(c_LI[j].mean()) for c_LI in self.credits_R)


def over_seeds(results: Sequence[Result]) -> Lines:
    """The lines that all seeds have, of arms that are defined alike.

    Raises:
      ValueError: the seeds were not measured alike.
    """
    first = results[0]
    for result in results[1:]:
        if result.config != first.config:
            raise ValueError(f"{result.suite}: seeds were measured with other configs")
    keys = _shared(results)
    credits, clusters = [], []
    for result in results:
        all_LC = np.stack([result.lines[key].credits_C for key in keys])
        kept_C = np.isfinite(all_LC).all(axis=0)
        credits.append(all_LC[:, kept_C])
        clusters.append(np.asarray(result.clusters)[kept_C])
    same_items = _same_items(results)
    means = statistics.over_seeds(credits, clusters=clusters, same_items=same_items)
    return Lines({key: i for i, key in enumerate(keys)}, credits, means)


def _same_items(results: Sequence[Result]) -> bool:
    return all(result.uids == results[0].uids for result in results)


def _shared(results: Sequence[Result]) -> list[Method]:
    first = results[0]
    return [
        method for method in first.lines
        if all(
            _counts(result, method)
            and result.arms.get(method.section) == first.arms.get(method.section)
            for result in results
        )
    ]  # fmt: skip


def _counts(result: Result, method: Method) -> bool:
    line = result.lines.get(method)
    return line is not None and bool(np.isfinite(line.credits_C).any())


def missing(results: Mapping[int, Result]) -> list[str]:
    """Sections that only some seeds have, and these seeds; arms that are not the same on all."""
    of_seed = {
        seed: {method.section for method in result.lines if _counts(result, method)}
        for seed, result in results.items()
    }
    sections_left_out = []
    for section in sorted(set().union(*of_seed.values())):
        having = [seed for seed, sections in of_seed.items() if section in sections]
        if len(having) < len(results):
            sections_left_out.append(f"{section} (seeds {', '.join(map(str, having))} only)")
        elif len({result.arms.get(section) for result in results.values()}) > 1:
            sections_left_out.append(f"{section} (not the same arm on every seed)")
    return sections_left_out


def _pairs(lines: Lines, ks: Sequence[int]) -> list[Pair]:
    """The steps of the run, then what each arm loses: of its votes, those of most samples."""
    every = pairs(ks, lines.at)
    most = {b.section: b for *_, b in every if b.kind == "voting"}
    return [
        pair for pair in every
        if pair.b.plain or not (pair.b.kind == "voting" and pair.b.votes)
        or pair.b == most[pair.b.section]
    ]  # fmt: skip


def ablation_table(
    suite: str, results: Sequence[Result], notes: Sequence[str], listed: Sequence[str] = ()
) -> tuple[Table, list]:
    """Paired differences next to those of the paper, and the effects that the figure shows.

    The `notes` come first below the table; `listed` is that of `AblateConfig`.
    """
    lines = over_seeds(results)
    rows = {
        pair.label if pair.b.plain else f"{pair.section}: {pair.label}": pair
        for pair in _pairs(lines, results[0].rules["ks"])
    }
    differences = {name: lines.difference(pair.a, pair.b) for name, pair in rows.items()}
    p_values = [differences[name].p_value if name in differences else math.nan for name in listed]
    corrected = dict(zip(listed, statistics.holm(p_values), strict=True))
    body, effects = [], []
    greedy = [method.stage for method in lines.at if method.kind == "greedy"]
    last = [stage for stage in greedy if stage in STAGES][-1:]
    for name, (section, label, a, b) in rows.items():
        difference = differences[name]
        p_value = None if math.isnan(difference.p_value) else difference.p_value
        values = [lines.means.interval(lines.at[method]).value for method in (a, b)]
        theirs = [paper.overall(method) for method in (a, b)]
        gap = None if None in theirs else round(theirs[0] - theirs[1], 1) / 100
        cells = (
            *map(Cell, values), Cell.of(difference), Cell(difference.low),
            Cell(p_value), Cell(corrected.get(name)), Cell(lines.seeds_above(a, b)),
            *(Cell(None if value is None else value / 100) for value in theirs), Cell(gap),
        )  # fmt: skip
        body.append(Row(label, cells, section))
        shown = a.votes if a.kind == "voting" else a.kind == "greedy" and a.stage in last
        if b.plain or shown:
            effects.append(plots.Effect(name, difference, gap))
    columns = [
        Column("a"), Column("b"), Column("a − b", signed=True),
        Column("lower end", signed=True), Column("p", "p_value", 3),
        Column("p, Holm", "p_value", 3), Column("seeds > 0", "count"),
        Column("a", group="paper"), Column("b", group="paper"),
        Column("a − b", signed=True, group="paper"),
    ]  # fmt: skip
    title = f"Steps and arms, accuracy (%): {suite}"
    sections = dict.fromkeys(method.section for method in lines.at)
    changes = [f"{name}: {results[0].arms[name]}" for name in sections if name in results[0].arms]
    below = [*notes, HOLM.format(len(listed)) if listed else UNLISTED]
    if lacking := [name for name in listed if name not in differences]:
        below.append(f"listed and not measured, with p counted as 1: {'; '.join(lacking)}")
    return Table(title, columns, body, [*below, PAPER, *changes], "a − b"), effects


def seeds_table(
    suite: str, results: Sequence[Result], seeds: Sequence[int], notes: Sequence[str]
) -> Table:
    """Every line: its mean over seeds, and each seed."""
    lines = over_seeds(results)
    rows = []
    for method, i in lines.at.items():
        by_seed = [Cell(float(credits[i].mean())) for credits in lines.credits_R]
        cells = (Cell.of(lines.means.interval(i)), *by_seed)
        rows.append(Row(results[0].lines[method].label, cells, method.section))
    columns = [Column("mean"), *(Column(f"seed {seed}") for seed in seeds)]
    return Table(f"Accuracy (%) by seed: {suite}", columns, rows, notes, "method")


def write_report(
    workdir: pathlib.Path, every: Sequence[int], config: str, listed: Sequence[str] = ()
) -> list[int]:
    """Writes and prints the tables and the figure over the seeds that are finished.

    Other processes may do the same: they take turns.

    Args:
      workdir: the folder of the ablation.
      every: its seeds; those in the report are returned.
      config: `arms.comparable` of the run; results of another one are left out.
      listed: see `AblateConfig`.
    """
    with open(workdir / ".report.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folders = {seed: workdir / f"seed_{seed}" for seed in every}
        of_seed = {
            seed: read_results(folder) for seed, folder in folders.items()
            if visible_files(folder / "results", "*.json")
        }  # fmt: skip
        suites = {suite: None for results in of_seed.values() for suite in results}
        reported = set()
        for suite in suites:
            by_seed = {
                seed: results[suite] for seed, results in of_seed.items() if suite in results
            }
            reported |= _write_suite(
                workdir, suite, by_seed, every, config, listed, len(suites) > 1
            )
    print(f"{len(reported)} of {len(every)} seeds are finished: {workdir}")
    return sorted(reported)


def _write_suite(
    workdir: pathlib.Path, suite: str, by_seed: dict[int, Result], every: Sequence[int],
    config: str, listed: Sequence[str], several: bool,
) -> set[int]:  # fmt: skip
    """Returns the seeds that were measured with the config."""
    other = [seed for seed, result in by_seed.items() if result.config != config]
    by_seed = {seed: result for seed, result in by_seed.items() if result.config == config}
    if not by_seed:
        print(f"{suite}: seeds {', '.join(map(str, other))} were measured with another config")
        return set()
    results, seeds = list(by_seed.values()), list(by_seed)
    counted = _shared(results)
    if not counted:
        return set(seeds)  # single responses only
    sizes = [int(np.isfinite(result.lines[counted[0]].credits_C).sum()) for result in results]
    notes = [
        f"seeds {', '.join(map(str, seeds))} ({len(seeds)} of {len(every)}); comparisons with "
        f"n >= 2: {', '.join(map(str, sizes))}",
        SEVERAL + (SHARED if _same_items(results) else OWN) if len(seeds) > 1 else ONE,
    ]
    if other:
        notes.append(f"left out, measured with another config: seeds {', '.join(map(str, other))}")
    kinds: dict[str, list[int]] = {}
    for seed, result in by_seed.items():
        kinds.setdefault(result.rules.get("orders", "of before or unknown"), []).append(seed)
    if len(kinds) > 1:
        named = (f"{kind} on seeds {', '.join(map(str, some))}" for kind, some in kinds.items())
        notes.append(f"averaged over balanced orders of several kinds: {'; '.join(named)}")
    if parts := missing(by_seed):
        notes.append(f"left out, not on every seed: {'; '.join(parts)}")
    table, effects = ablation_table(suite, results, notes, listed)
    suffix = f"_{suite}" if several else ""
    for shown, name in (
        (seeds_table(suite, results, seeds, notes), "seeds"), (table, "ablation")
    ):  # fmt: skip
        write(shown, workdir / "tables", name + suffix)
        print(to_terminal(shown, width=180), flush=True)
    if effects:
        plots.effects(
            workdir / "figures" / f"ablation{suffix}.png", effects,
            note=f"bars: 95 % over {len(seeds)} seeds by Student's t; {suite}" if len(seeds) > 1
            else f"bars: 95 % over the comparisons of one seed; {suite}",
        )  # fmt: skip
    return set(seeds)
