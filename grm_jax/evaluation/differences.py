"""Which rows of a table are compared, and the table of their paired differences."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from grm_jax.evaluation.lines import CountingRules, Line, Suite
from grm_jax.evaluation.method import NAMES, Method, voter
from grm_jax.evaluation.statistics import Resampled
from grm_jax.evaluation.tables import Cell, Column, Row, Table

PAIRED = (
    "difference: 95 % bootstrap interval over comparisons; two-sided p-value of the bootstrap; "
    "neither is corrected for the number of differences"
)
# Trained baselines that the last stage is compared with.
RIVALS = (
    Method("llm_judge", kind="greedy"), Method("bradley_terry", kind="scalar"),
    Method("pairrm", kind="scalar"), Method("cloud", kind="greedy"),
)  # fmt: skip


class Pair(NamedTuple):
    """A difference of interest, a minus b.

    Attributes:
      section: "steps" of the run, or the loss of an arm or another rule, "full − kl 0".
      label: in its section.
      a, b: the methods.
    """

    section: str
    label: str
    a: Method
    b: Method


def pairs(ks: Sequence[int], methods: Collection[Method]) -> list[Pair]:
    """The differences of interest of which both methods were measured.

    Gains of votes over greedy, over one sample and over the baselines; of each stage over the one
    below it; of guiding; and losses of each arm and of each other rule.
    """
    listed = []
    ks, last = [k for k in ks if k > 1], voter(methods)

    def add(a: Method, b: Method, label: str = "") -> None:
        if a in methods and b in methods:
            label = label or f"{a.label(named=False)} − {b.label(named=False)}"
            listed.append(Pair("steps" if b.plain else f"full − {b.section}", label, a, b))

    voted = [8 if 8 in ks else ks[-1], ks[-1]] if last and ks else []
    if voted:
        middle, top = (Method(last, k=k) for k in voted)
        greedy = Method(last, kind="greedy")
        add(middle, greedy)
        add(middle, Method(last))
        if top != middle:
            add(top, middle)
        for other in RIVALS:
            add(greedy, other)
            add(middle, other)
    for after, before in (("rft", "cold_start"), ("grpo", "rft")):
        for shape in [("greedy", 1), ("voting", 1), *(("voting", k) for k in dict.fromkeys(voted))]:
            a, b = (Method(stage, "", *shape) for stage in (after, before))
            add(a, b, f"{NAMES[after]} − {b.label()}")
    for k in ks if last else ():
        add(Method(last, kind="guided", k=k), Method(last, k=k))
    for b in methods:
        if not b.plain:
            a = dataclasses.replace(b, arm="", rule="")
            add(a, b, a.label(named=False))
    return listed


def differences_table(suites: Sequence[Suite], counting: CountingRules) -> Table:
    """Paired differences, comparison by comparison."""
    columns, cells = [], {}
    for suite in suites:
        name = suite.name if len(suites) > 1 else ""
        at = suite.at
        for number in ("accuracy", suite.metric.headline):
            if not number or (number == "accuracy" and not suite.choice_C.any()):
                continue
            short = "" if number == "accuracy" else f"{number}, "
            columns.append(Column(f"{short}difference", signed=True, group=name))
            columns.append(Column(f"{short}p", "p_value", digits=3, group=name))
            for section, label, a, b in pairs(counting.ks, at):
                label = label if section == "steps" else f"{label}: {section}"
                cells.setdefault(label, []).extend(_difference(at[a], at[b], number))
    rows = [Row(label, tuple(row)) for label, row in cells.items()]
    parts = [f"{suite.name}: {suite.coverage}" for suite in suites if suite.coverage]
    return Table(
        "Paired differences of accuracy (points)", columns, rows, [PAIRED, *parts], "a − b"
    )


def _difference(a: Line, b: Line, column: str) -> tuple[Cell, Cell]:
    """The difference with its interval, and its p-value."""
    if column not in a.measured or column not in b.measured:
        return Cell(), Cell()
    first, second = a.measured[column], b.measured[column]
    both = Resampled(
        np.concatenate([first.values_L, second.values_L]),
        np.concatenate([first.draws_BL, second.draws_BL], axis=1),
    )
    difference = both.difference(0, 1)
    return Cell.of(difference), Cell(difference.p_value)
