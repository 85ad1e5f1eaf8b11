"""The report of a benchmark: tables, figures, results and pages."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.console

from grm_jax.data.comparison import Comparison
from grm_jax.data.small_world import Truth, read_trajectory
from grm_jax.evaluation import (
    bias,
    costs,
    critique_page,
    guiding,
    plots,
    protocols,
    results,
    samples_page,
)
from grm_jax.evaluation.differences import differences_table
from grm_jax.evaluation.lines import (
    CountingRules,
    Line,
    Suite,
    arms_in_figures,
    counted,
    last_sampled,
    single_auc,
)
from grm_jax.evaluation.method import CURVES, STAGES, Method, title
from grm_jax.evaluation.tables import Cell, Column, Row, Table, to_terminal, write
from grm_jax.files import write_atomically
from grm_jax.sampling.config import DrawConfig

# What the figure of the training shows, where a stage has it.
HEALTH = (
    "loss", "entropy", "grad_norm", "reward_mean", "zero_signal_share", "kl", "logprob_gap_max",
    "parse_failure_share", "accuracy", "development_auc",
)  # fmt: skip


class Place(NamedTuple):
    """The destination of a report, and its facts besides suites.

    Attributes:
      path: parts -> a path below the folder of the run.
      say: prints a line.
      console: whose width and colours printed tables have.
      draw: how samples were drawn.
      config, arms: see `results.Result`.
      truth: of a comparison of the small world; None without one.
    """

    path: Callable[..., pathlib.Path]
    say: Callable[[str], None]
    console: rich.console.Console
    draw: DrawConfig
    config: str
    arms: Mapping[str, str]
    truth: Callable[[Comparison], Truth] | None


def write_report(
    place: Place,
    suites: Sequence[Suite],
    counting: CountingRules,
    training: Sequence[Mapping[str, Any]] = (),
    *,
    count_all: bool = False,
) -> list[Suite]:
    """Writes and prints the report of everything that was drawn.

    Args:
      place: of the report.
      suites: without lines; they are returned with them.
      counting: the rules.
      training: records of metrics.jsonl of the stages of this run.
      count_all: also counts by other rules, and simulates meta RMs.
    """
    suites = counted(suites, counting)
    below = notes(suites, counting, place.draw)
    scaling_figure(
        place.path("figures", "scaling.png"), suites, counting,
        f"bands: 95 % over comparisons; ties: {counting.tie_policy}",
    )  # fmt: skip
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for record in training:
        stages.setdefault(record["stage"], []).append(record)
    if stages:
        plots.training(place.path("figures", "training.png"), stages, metrics=HEALTH)
    write_pages(place, suites, counting)
    tables = {}
    for suite in suites:
        if suite.name == "small_world":
            tables["diagnostics"] = diagnostics_table(place.truth, suite)
    tables["protocols"] = protocols.table(suites, counting, below)
    tables["bias"] = bias.table(suites, counting, below)
    tables["cost"] = costs.table(suites, counting)
    costs.figure(place.path("figures", "cost.png"), suites, counting)
    more = {}
    for suite in suites if count_all else ():
        more[suite.name] = protocols.lines(suite, counting)
        if guides := guiding.guides(suite, counting):
            tables[f"guiding_{suite.name}"] = guiding.table(suite, counting, guides)
            guiding.figure(place.path("figures", f"guiding_{suite.name}.png"), guides)
    write_lines(place, suites, counting, more, tables)
    written = ("tables", "figures", "results", "samples.md", "critiques.html")
    place.say(f"written: {', '.join(str(place.path(name)) for name in written)}")
    return suites


def stored_rules(place: Place, counting: CountingRules) -> dict:
    """The rules, and the kind of balanced orders: in old results they were not cyclic."""
    policies = "; ".join((f"order_policy={place.draw.order_policy}", *place.arms.values()))
    orders = {"orders": "cyclic"} if "order_policy=balanced" in policies else {}
    return dataclasses.asdict(counting) | orders


def write_lines(
    place: Place,
    suites: Sequence[Suite],
    counting: CountingRules,
    more: Mapping[str, Sequence[Line]] | None = None,
    tables: Mapping[str, Table] | None = None,
) -> None:
    """Writes results, tables and notes of lines, of a benchmark or of a baseline.

    `more` lines are in the results only, and `tables` are shown before those of the lines.
    """
    below = notes(suites, counting, place.draw)
    whole = [
        dataclasses.replace(s, lines=(*s.lines, *(more or {}).get(s.name, ()))) for s in suites
    ]
    rule = stored_rules(place, counting)
    results.write_results(place.path, whole, rule, config=place.config, arms=place.arms)
    tables = dict(tables or {})
    for suite in suites:
        if table := suite_table(suite, below):
            tables[f"suite_{suite.name}"] = table
    tables["differences"] = differences_table(suites, counting)
    tables["main"] = main_table(suites, below)
    show(tables, place.path("tables"), place.console)
    for text in failure_lines(suites):
        place.say(text)


def _single(line: Line, suite: Suite, *, by_subset: bool = False) -> Cell:
    if line.singles_MC is None:
        return Cell()
    subsets = [c.subset for c in suite.comparisons if c.n == 1] if by_subset else None
    return Cell.of(single_auc(line.singles_MC, suite.labels, subsets))


def main_table(suites: Sequence[Suite], notes: Sequence[str]) -> Table:
    """Accuracy of everything that was measured; one group of columns a suite."""
    several, thinking = len(suites) > 1, _some_think(suites)
    columns = []
    for suite in suites:
        name = suite.name if several else ""
        if suite.choice_C.any():
            columns.append(Column("accuracy", group=name))
        if suite.metric.headline:
            columns.append(Column(suite.metric.headline, group=name))
        if suite.single_C.any():
            columns.append(Column("n = 1: AUC", group=name))
        columns += [Column("unparsed", group=name), Column("cut", group=name)]
        columns += [Column("unclosed", group=name)] * thinking
    rows = []
    for i, line in enumerate(suites[0].lines):
        cells = []
        for suite in suites:
            suite_line = suite.lines[i]
            if suite.choice_C.any():
                cells.append(Cell.of(suite_line.interval("accuracy")))
            if suite.metric.headline:
                cells.append(Cell.of(suite_line.interval(suite.metric.headline)))
            if suite.single_C.any():
                cells.append(_single(suite_line, suite))
            cells += [Cell(suite_line.unparsed), Cell(suite_line.cut)]
            cells += [Cell(suite_line.unclosed)] * thinking
        rows.append(Row(line.label, tuple(cells), line.section))
    names = ", ".join(suite.name for suite in suites)
    return Table(f"Reward accuracy (%): {names}", columns, rows, notes, "method")


def _some_think(suites: Sequence[Suite]) -> bool:
    """Whether a sample never ends its thinking."""
    return any(line.unclosed for suite in suites for line in suite.lines)


def suite_table(suite: Suite, notes: Sequence[str]) -> Table | None:
    """Everything that one benchmark reports; None for a suite that reports one number."""
    names = [column.name for column in suite.metric.columns]
    columns = [Column(name) for name in names]
    several = suite.single_C.any() and len({c.subset for c in suite.comparisons}) > 1
    if several:
        columns += [Column("AUC, pooled"), Column("AUC, mean of subsets")]
    if not columns:
        return None
    rows = []
    for line in suite.lines:
        cells = [Cell.of(line.interval(name)) for name in names]
        if several:
            cells += [_single(line, suite), _single(line, suite, by_subset=True)]
        rows.append(Row(line.label, tuple(cells), line.section))
    own = [suite.metric.note] if suite.metric.note else []
    title = f"{suite.name} (%): {suite.coverage}" if suite.coverage else f"{suite.name} (%)"
    return Table(title, columns, rows, [*own, *notes], "method")


def notes(suites: Sequence[Suite], counting: CountingRules, draw: DrawConfig) -> list[str]:
    """Notes below a table: what was counted, how it was drawn, and what the columns are."""
    tie = {"strict": "0", "half": "1/2", "uniform": "1 / number tied",
           "shuffle_argmax": "a random pick"}[counting.tie_policy]  # fmt: skip
    one = "one sample an order" if draw.order_policy == "both" else "one random order a comparison"
    silent = "1 / n" if counting.parse_policy == "chance" else "0"
    guided = ""
    if any(drawn.meta is not None for suite in suites for drawn in suite.drawn):
        k_metas, ks = (", ".join(map(str, x[1:])) for x in (counting.k_metas, counting.ks))
        guided = f"; MetaRM@k: of those the k_meta best by the meta RM, {k_metas} for k = {ks}"
    notes = []
    for suite in suites:
        single = int(suite.single_C.sum())
        text = f"{suite.name}: {int(suite.choice_C.sum())} comparisons with n >= 2"
        if single:
            text += f", {single} with n = 1, reported apart"
        if tied := int((~suite.choice_C & ~suite.single_C).sum()):
            text += f", {tied} that people call a tie, which accuracy leaves out"
        if suite.coverage:
            whole = " of the benchmark" if " of " in suite.coverage else ""
            text += f"; {suite.coverage}{whole}"
        for drawn in suite.drawn:
            if drawn.meta is not None and (inside := guiding.within_auc(drawn)).pairs:
                text += f"; AUC of the meta RM inside comparisons {100 * inside.value:.1f}"
        cut = {t.uid for d in suite.drawn for own in d.groups for t in own if t.truncated}
        if cut:
            text += f"; texts of {len(cut)} comparisons shortened to fit the prompt"
        if unbalanced := draw.unbalanced(suite.comparisons):
            text += f"; {unbalanced}"
        notes.append(text)
    notes += [
        "accuracy: 95 % bootstrap interval over comparisons, those with one query together, never "
        f"over samples; aggregation {counting.aggregation!r}; tie policy {counting.tie_policy!r} "
        f"(a tie with the best earns {tie}); parser {counting.parse!r}; parse policy "
        f"{counting.parse_policy!r} (no verdict earns {silent})",
        f"greedy: temperature 0, {one}; samples: temperature "
        f"{draw.temperature:g}, order policy {draw.order_policy!r}",
        f"one sample and Voting@k: mean over {counting.num_subsets} random k-subsets of the "
        "samples drawn" + guided,
        "unparsed: share of samples without strict scores; cut: share that met the length limit"
        f" of {draw.max_new_tokens} tokens",
    ]
    if draw.judge is not None:
        notes.append(f"judge: {draw.judge.described()}")
    if _some_think(suites):
        notes.append("unclosed: share of samples that never end their thinking; they are unparsed")
    if any(suite.others for suite in suites):
        notes.append(
            "trained baselines: Bradley-Terry and CLoud score each response alone, PairRM each "
            "ordered pair, summed over opponents; the highest score decides a list. CLoud, "
            "Voting@k: k critiques of each response. LLM-as-a-Judge names one response, TokenProb "
            "adds up the probabilities of the names"
        )
    if any(suite.single_C.any() for suite in suites):
        middle = counting.single_middle
        notes.append(
            "n = 1: ROC-AUC of the mean score against the truth; unparsed counts "
            + ("the median of the scores" if middle is None else f"{middle:g}")
        )
    return notes


def diagnostics_table(truth: Callable[[Comparison], Truth], suite: Suite) -> Table:
    """Which part of a trajectory goes wrong, stage by stage; the small world knows the truth."""
    truths = [truth(comparison) for comparison in suite.comparisons]
    rows = []
    for drawn in suite.drawn:
        readings = [
            read_trajectory(t.text, known, t.order, principles=drawn.principles)
            for known, samples in zip(truths, drawn.groups, strict=True)
            for t in samples
        ]
        formed = [reading for reading in readings if reading.well_formed]
        cells = [Cell(len(formed) / len(readings))]
        for field in ("follows", "verdicts_right", "order_right"):
            values = [getattr(r, field) for r in formed if getattr(r, field) is not None]
            cells.append(Cell(float(np.mean(values))) if values else Cell())
        method = drawn.method
        rows.append(Row(method.label(), (*cells, Cell(len(readings))), method.section))
    names = ("well formed", "scores follow", "verdicts right", "principles right")
    columns = [*(Column(name) for name in names), Column("trajectories", "count")]
    note = (
        "well formed: share of trajectories; the rest: share of the well-formed ones. Scores "
        "follow from the stated principles and verdicts; principles are right if they are the "
        "audience's three, in its order"
    )
    return Table("What the trajectories say (%)", columns, rows, [note], "trajectories of")


def scaling_figure(
    path: pathlib.Path, suites: Sequence[Suite], counting: CountingRules, note: str
) -> None:
    """Accuracy against k: a curve for each kind of vote, a level for greedy decoding."""
    curves, levels = [], {}
    for suite in suites:
        at = {line.method: line for line in suite.lines if line.credits_C is not None}
        if len(suites) == 1:
            shown = [drawn.method for drawn in suite.drawn if drawn.greedy and not drawn.arm]
            levels = {m.label(): at[m].interval("accuracy") for m in shown if m in at}
        prefix = f"{suite.name}: " if len(suites) > 1 else ""
        last = {drawn.arm: drawn.stage for drawn in suite.drawn if not drawn.greedy}
        for arm in ("", *arms_in_figures(suite)):
            for kind, name in CURVES.items() if arm in last else ():
                points = {k: at.get(Method(last[arm], arm, kind, k)) for k in counting.ks}
                points = {k: p.interval("accuracy") for k, p in points.items() if p}
                if points:
                    label = prefix + (f"{name}, {title(arm)}" if arm else name)
                    curves.append(plots.Curve(label, list(points), list(points.values())))
    if curves:
        plots.scaling(path, curves, levels=levels, note=note)


def write_pages(place: Place, suites: Sequence[Suite], counting: CountingRules) -> None:
    """critiques.html and samples.md, of suites whose texts may be on pages."""
    shown = [suite for suite in suites if not suite.private]
    if not shown:
        return
    items, notes, few = [], [critique_page.legend(counting)], []
    for suite in shown:
        most = critique_page.MAX_TEXTS // len(shown)
        suite_items, text = critique_page.suite_items(suite, counting, most)
        items += suite_items
        notes.append(text)
        few += samples_page.few(suite_items, each=2 if len(suites) == 1 else 1)
    names = ", ".join(suite.name for suite in shown)
    page = critique_page.critique_page(items, title=f"Critiques: {names}", notes=notes)
    write_atomically(place.path("critiques.html"), page.encode())
    note = (
        f"Samples of {STAGES[last_sampled(shown[-1]).stage]}. Chosen by the verdict of voting over "
        "all samples: the first right ones and the first wrong ones of each suite, and the first "
        "single response. Equal numbers of right and wrong here say nothing about accuracy."
    )
    page = samples_page.samples_page(few, note=note, max_texts=4 if len(shown) == 1 else 2)
    write_atomically(place.path("samples.md"), page.encode())


def failure_lines(suites: Sequence[Suite]) -> list[str]:
    """The parse-failure rates in words, so that nobody takes chance for judgement."""
    texts, mostly = [], False
    for suite in suites:
        parts = []
        for line in suite.lines:
            if line.unparsed:
                mostly |= line.unparsed >= 0.5
                where = "" if line.method.plain else f" ({line.section})"
                why = f", {line.unclosed:.1%} in unclosed thinking" if line.unclosed else ""
                parts.append(f"{line.unparsed:.1%} of {line.label}{where}{why}")
        if parts:
            texts.append(f"{suite.name}: no scores in the samples (strict): {'; '.join(parts)}")
    if mostly:
        texts.append(
            "Where half of the samples or more have no scores, the accuracy is mostly what the "
            "parse policy gives for no verdict: it is not a judgement."
        )
    return texts


def show(tables: Mapping[str, Table], folder: pathlib.Path, console: rich.console.Console) -> None:
    """Writes tables in all formats by their names, and prints them once all are written."""
    for name, table in tables.items():
        write(table, folder, name)
    for table in tables.values():
        width = max(console.width, 60 + 14 * len(table.columns))
        print(to_terminal(table, width=width, color=console.is_terminal), flush=True)
