"""Cost of a verdict: tokens and FLOPs next to accuracy.

Work is counted by arithmetic on the shape of the model (`grm_jax.models.cost`), from the drawn
samples: each distinct order among the k samples is a prompt that is prefilled once, each sample
decodes its own tokens, and guided voting reads every sample once more.
"""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grm_jax.evaluation import paper, plots
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite, arms_in_figures, named
from grm_jax.evaluation.method import CURVES, NAMES, Method, title
from grm_jax.evaluation.statistics import Interval
from grm_jax.evaluation.tables import Cell, Column, Row, Table
from grm_jax.models import cost
from grm_jax.models.variants import VARIANTS

NOTE = (
    "of one verdict, means over comparisons: generated tokens of all k samples; prefilled tokens, "
    "a prompt for each distinct order among them (its length in the order of the first sample); "
    "model FLOPs of both, 2 a parameter and token and attention; for MetaRM@k also a forward pass "
    "of the meta RM over prompt and trajectory of each sample"
)


class Cost(NamedTuple):
    """Means over comparisons, of one verdict."""

    generated: float
    prefilled: float
    flops: float


def expected_orders(counts: Sequence[int], k: int, *, stratified: bool) -> float:
    """Expected number of distinct orders among k samples, of which `counts` were drawn of each.

    Stratified subsets take the orders in turn; others are uniformly random without replacement.
    """
    if stratified:
        return float(min(k, len(counts)))
    drawn = sum(counts)
    absent = sum(math.comb(drawn - count, k) for count in counts) / math.comb(drawn, k)
    return len(counts) - absent


def costs_of(drawn: Drawn, ks: Sequence[int], *, guided: bool, stratified: bool) -> list[Cost]:
    """Mean cost of a verdict of k samples, for each k."""
    rows_K: list[list[tuple[float, float, float]]] = [[] for _ in ks]
    for length, samples in zip(drawn.prompt_tokens, drawn.groups, strict=True):
        new = float(np.mean([len(t.token_ids) for t in samples]))
        counts = list(Counter(t.order for t in samples).values())
        # Attention grows with the square of the length; the mean length stands for the lengths.
        steps = max(1, round(new))
        prefill = cost.forward_flops(drawn.model, [length - 1], output_tokens=0)
        sample = cost.sample_flops(drawn.model, length, steps)
        if guided:
            sample += cost.forward_flops(drawn.meta_model, [length + steps], output_tokens=0)
        for rows, k in zip(rows_K, ks, strict=True):
            prompts = expected_orders(counts, k, stratified=stratified)
            rows.append((k * new, prompts * length, prompts * prefill + k * sample))
    return [Cost(*map(float, np.mean(rows, axis=0))) for rows in rows_K]


class Point(NamedTuple):
    """One line of a suite: its method, the curve that it is on, and its cost."""

    method: Method
    curve: str
    cost: Cost


def points(suite: Suite, counting: CountingRules) -> list[Point]:
    """Everything that was drawn on a suite by a model of known shape."""
    points = []
    for drawn in suite.drawn:
        if drawn.model is None:
            continue
        most = 1 if drawn.greedy else min(map(len, drawn.groups))
        for kind in CURVES if drawn.meta is not None else ("voting",):
            ks = [k for k in counting.ks if k <= most and not (kind == "guided" and k == 1)]
            curve = drawn.method.label()
            if not drawn.greedy:
                stage = f"{NAMES[drawn.stage]}, " if named(suite, drawn) else ""
                curve = f"{stage}{CURVES[kind]}"
            if drawn.arm:
                curve += f", {title(drawn.arm)}"
            spread = counting.stratified if drawn.stratified is None else drawn.stratified
            spent = costs_of(drawn, ks, guided=kind == "guided", stratified=spread)
            for k, cost_k in zip(ks, spent, strict=True):
                method = drawn.method
                if not drawn.greedy:
                    method = dataclasses.replace(method, kind=kind, k=k)
                points.append(Point(method, curve, cost_k))
    return points


def table(suites: Sequence[Suite], counting: CountingRules) -> Table:
    """Accuracy, tokens and TFLOPs of every line that was drawn, suite by suite."""
    rows = []
    for suite in suites:
        at = suite.at
        head = suite.name + (f", {suite.coverage}" if suite.coverage else "")
        for method, _, spent in points(suite, counting):
            line = at[method]
            cells = (spent.generated, spent.prefilled, spent.flops / 1e12)
            cells = (Cell.of(line.interval("accuracy")), *map(Cell, cells))
            name = f"{line.label}, {title(method.arm)}" if method.arm else line.label
            rows.append(Row(name, cells, head))
    columns = [Column("accuracy"), Column("generated tokens", "plain"),
               Column("prefilled tokens", "plain"), Column("TFLOPs", "plain", 4)]  # fmt: skip
    return Table("Cost of a verdict", columns, rows, [NOTE], "method")


def published(suite: Suite) -> list[plots.Curve]:
    """The paper's curves on a suite that it draws (Figure 4), at what they would cost here.

    FLOPs are those of its models on the prompts of this run, with as many tokens a sample as its
    Figure 7 has, and a prompt for each sample, since every one has an order of its own.
    """
    lengths = [length for drawn in suite.drawn for length in drawn.prompt_tokens]
    if suite.name != "rewardbench" or not lengths:
        return []
    length = round(float(np.mean(lengths)))
    tokens = paper.TABLES["figure7"].row(Method("grpo", kind="greedy")).values
    new = round(float(np.mean(tokens)))
    curves = []
    for kind, size, variant, readers in (
        ("voting", 27, "gemma2_27b", 1), ("guided", 27, "gemma2_27b", 2),
        ("voting", 16, "deepseek_v2_lite_16b", 1),
    ):  # fmt: skip
        model = VARIANTS[variant]
        sample = cost.forward_flops(model, [length - 1], output_tokens=0)
        sample += cost.sample_flops(model, length, new)
        sample += (readers - 1) * cost.forward_flops(model, [length + new], output_tokens=0)
        points = []
        for k in paper.KS:
            method = Method("grpo", kind=kind if k > 1 else "voting", k=k)
            if row := paper.TABLES["figure4"].row(method, size):
                points.append((k * sample, Interval(*[row.values[0] / 100] * 3)))
        flops, intervals = zip(*points, strict=True)
        name = f"paper: GRM-{size}B, {kind}"
        curves.append(plots.Curve(name, flops, intervals, published=True))
    return curves


def figure(path: str | os.PathLike, suites: Sequence[Suite], counting: CountingRules) -> None:
    """Accuracy against FLOPs: a curve for each kind of vote, a mark for greedy, and the paper's."""
    curves = []
    for suite in suites:
        at = suite.at
        by_name: dict[str, list] = {}
        shown = {"", *arms_in_figures(suite)}
        for method, curve, spent in points(suite, counting):
            interval = at[method].interval("accuracy")
            if interval is not None and method.arm in shown:
                name = f"{suite.name}: {curve}" if len(suites) > 1 else curve
                by_name.setdefault(name, []).append((max(spent.flops, 1.0), interval))
        for name, marks in by_name.items():
            flops, intervals = zip(*marks, strict=True)
            curves.append(plots.Curve(name, flops, intervals))
    if curves:
        curves += [curve for suite in suites for curve in published(suite)]
        plots.cost(path, curves, note="bands: 95 % over comparisons; prompts are prefilled once")
