"""Which numbers a benchmark reports, and how they come from comparisons.

A `Metric` turns what a line of a table found out about the comparisons of a suite into values of
*items* (a pair, a row of several pairs, a prompt), and columns into means of items by subset with
the benchmark's own weights. A column with a subset that is not there has no number.

Sources are named at each suite; facts and golden numbers: tests/evaluation/test_official.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from grm_jax.data.benchmarks import (
    judgebench,
    llmbar,
    ppe_correctness,
    rewardbench,
    rewardbench2,
    rmb,
    rmbench,
    row_of,
)
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import rules
from grm_jax.evaluation.statistics import Resampled, resample, weighted_mean

Values = Mapping[str, np.ndarray]  # by part, [I]


class Outcome(NamedTuple):
    """What one line of a table found out about the C comparisons of a suite.

    Attributes:
        credits_C: chance to be right by the named policies; NaN where there is no choice.
        totals_MCN: score of each response in each of M subsets of samples; NaN without a verdict.
        games: verdict shares [C, 4] of the samples in the order of the data, and in the other.
    """

    credits_C: np.ndarray
    totals_MCN: np.ndarray | None = None
    games: tuple[np.ndarray, np.ndarray] | None = None


class Items(NamedTuple):
    """What is averaged: [I] the subset of each item, and a number that items of one query share."""

    subsets: np.ndarray
    clusters: np.ndarray


@dataclasses.dataclass(frozen=True)
class Column:
    """A number of a benchmark.

    Attributes:
        name: heading.
        weights: of the subsets.
        part: which values of the items are averaged.
        combine: if given, maps the means of all parts [..., P] (in their order) to the number.
    """

    name: str
    weights: Mapping[str, float]
    part: str = ""
    combine: Callable[[np.ndarray], np.ndarray] | None = None


def _each(comparisons: Sequence[Comparison]) -> list[list[int]]:
    return [[c] for c in range(len(comparisons))]


def _by_row(comparisons: Sequence[Comparison]) -> list[list[int]]:
    names, row_C = rules.of_rows([row_of(c) for c in comparisons])
    members: list[list[int]] = [[] for _ in names]
    for c, row in enumerate(row_C):
        members[row].append(c)
    return members


def _credits(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    return {"": outcome.credits_C}


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a suite is scored.

    Attributes:
        columns: its numbers.
        headline: the name of the one that is the benchmark's score; "" where that is the mean over
            comparisons, which every suite has.
        parts: values of the items from an outcome; empty where the outcome does not tell.
        members: the comparisons of each item.
        needs: fields of `Outcome` beside `credits_C` that `parts` reads.
        note: what a reader of the table must know.
    """

    columns: tuple[Column, ...] = ()
    headline: str = ""
    parts: Callable[[Sequence[Comparison], Outcome], Values] = _credits
    members: Callable[[Sequence[Comparison]], list[list[int]]] = _each
    needs: tuple[str, ...] = ()
    note: str = ""

    def items(self, comparisons: Sequence[Comparison]) -> Items:
        """Subsets, and clusters of items with one and the same query."""
        firsts = [comparisons[own[0]] for own in self.members(comparisons)]
        queries: dict[tuple, int] = {}
        clusters = [queries.setdefault(c.messages, len(queries)) for c in firsts]
        return Items(np.array([c.subset for c in firsts]), np.array(clusters))


def measure(
    columns: Sequence[Column], items: Items, lines: Sequence[Values], *, num_resamples: int = 10_000
) -> dict[str, dict[int, Resampled]]:
    """Every column of every line that has the values for it, all on the same resamples.

    Returns:
        By name of the column, by index of the line: a `Resampled` of this one line. Differences of
        lines are paired: `Resampled` of one column share their draws.
    """
    keys = [(line, part) for line, values in enumerate(lines) for part in values]
    found: dict[str, dict[int, Resampled]] = {column.name: {} for column in columns}
    if not keys or not columns:
        return found
    strata = {}
    for i, subset in enumerate(sorted(set(items.subsets))):
        at_I = items.subsets == subset
        values = [lines[line][part][at_I] for line, part in keys]
        strata[subset] = resample(
            values, clusters=items.clusters[at_I], num_resamples=num_resamples, rng_seed=(0, i)
        )
    for column in columns:
        if not column.weights.keys() <= strata.keys():
            continue
        mean = weighted_mean([strata[s] for s in column.weights], list(column.weights.values()))
        for line, values in enumerate(lines):
            if column.combine is None and column.part in values:
                at = keys.index((line, column.part))
                one = Resampled(mean.values_L[[at]], mean.draws_BL[:, [at]])
            elif column.combine is not None and values:
                at = [keys.index((line, part)) for part in values]
                one = Resampled(
                    np.atleast_1d(column.combine(mean.values_L[at])),
                    column.combine(mean.draws_BL[:, at])[:, None],
                )
            else:
                continue
            found[column.name][line] = one
    return found


# --- Weights ---------------------------------------------------------------------------------


def _mean_of(sections: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Weights of subsets for the unweighted mean of section means."""
    return {
        subset: weight / sum(own.values())
        for own in sections.values()
        for subset, weight in own.items()
    }


def _sections(
    sections: Mapping[str, Mapping[str, float]], headline: str, part: str = ""
) -> tuple[Column, ...]:
    own = tuple(Column(name, weights, part) for name, weights in sections.items())
    return (*own, Column(headline, _mean_of(sections), part))


def _alone(subsets: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {subset: {subset: 1.0} for subset in subsets}


# `rewardbench/constants.py`: EXAMPLE_COUNTS, SUBSET_MAPPING. math-prm has 447 rows and counts as
# much as the six programming languages together.
REWARDBENCH: Mapping[str, Mapping[str, float]] = {
    section: {s: 984 if s == "math-prm" else rewardbench.ROWS[s] for s in subsets}
    for section, subsets in {
        "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy",
                 "mt-bench-med"),
        "Chat Hard": ("mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor",
                      "llmbar-adver-GPTInst", "llmbar-adver-GPTOut", "llmbar-adver-manual"),
        "Safety": ("refusals-dangerous", "refusals-offensive", "xstest-should-refuse",
                   "xstest-should-respond", "donotanswer"),
        "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python",
                      "hep-rust"),
    }.items()
}  # fmt: skip
# RM-Bench `scripts/utils.py`: rows of both kinds of safety are pooled.
RMBENCH: Mapping[str, Mapping[str, float]] = {
    "chat": {"chat": 1}, "math": {"math": 1}, "code": {"code": 1},
    "safety": {s: rmbench.ROWS[s] for s in ("safety-refuse", "safety-response")},
}  # fmt: skip


# --- Rules -----------------------------------------------------------------------------------


def _golds(comparisons: Sequence[Comparison]) -> np.ndarray:
    """Gold verdicts of pairs."""
    return np.array([rules.TIE if len(c.winners) == 2 else c.winners[0] for c in comparisons])


def _whole_rows(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    _, row_C = rules.of_rows([row_of(c) for c in comparisons])
    return {"": rules.all_of_a_row(outcome.credits_C, row_C)}


def _styles(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    _, row_C = rules.of_rows([row_of(c) for c in comparisons])
    chosen, rejected = ([c.meta[name] for c in comparisons] for name in ("chosen", "rejected"))
    return rules.style_parts(rules.style_cells(outcome.credits_C, row_C, chosen, rejected))


def _styles_of_lists(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    if outcome.totals_MCN is None:
        return {}
    styles = [c.meta["styles"] for c in comparisons]
    scores = outcome.totals_MCN[..., : 2 * rules.STYLES]
    return rules.style_parts(rules.style_cells_of_lists(scores, styles).mean(axis=0))


def _both_orders(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    if outcome.games is None:
        return {}
    return {"": rules.chance_of(rules.right_in_sum, *outcome.games, _golds(comparisons))}


def _agreement(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    if outcome.games is None:
        return {}
    games, gold = outcome.games, _golds(comparisons)
    return {
        "agreement": rules.chance_of(rules.right_in_both, *games, gold),
        "consistency": rules.chance_of(rules.same_in_both, *games, gold),
    }


def _classes(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    if outcome.totals_MCN is None:
        return {}
    shares_C4 = rules.shares(rules.verdicts(outcome.totals_MCN[..., :2]))
    counts = rules.confusion(shares_C4, _golds(comparisons)).reshape(-1, 12)
    return {str(i): counts[:, i] for i in range(12)}


def _class_column(name: str, field: str) -> Column:
    def combine(means: np.ndarray) -> np.ndarray:
        return getattr(rules.class_scores(means.reshape(*means.shape[:-1], 3, 4)), field)

    return Column(name, {"": 1.0}, combine=combine)


def _best_of_four(comparisons: Sequence[Comparison], outcome: Outcome) -> Values:
    """Credits, and for a prompt of Ties the mean over subsets of what both of its halves earn."""
    members = _by_row(comparisons)
    values = np.array([outcome.credits_C[own[0]] for own in members])
    ties = [i for i, own in enumerate(members) if comparisons[own[0]].subset == "Ties"]
    if not ties:
        return {"": values}
    if outcome.totals_MCN is None:
        return {}
    for i in ties:
        half = {comparisons[c].meta["half"]: c for c in members[i]}
        if len(half) < 2:
            raise ValueError(f"rewardbench2: {row_of(comparisons[members[i][0]])!r} has one half")
        apart, spread = {}, {}
        for name, c in half.items():
            n = comparisons[c].n
            right = np.isin(np.arange(n), comparisons[c].winners)
            own = [rules.margins(scores_N[:n], right) for scores_N in outcome.totals_MCN[:, c]]
            apart[name], spread[name] = (np.array(x) for x in zip(*own, strict=True))
        values[i] = rules.ties_score(apart["ref"], apart["tied"], spread["tied"]).mean()
    return {"": values}


_RMB = _sections(_alone(rmb.LIST_ROWS), "mean")
_DOMAINS = _sections(_alone(ppe_correctness.ROWS), "mean")
_RMBENCH = (
    *_sections(RMBENCH, "RM-Bench", "all")[:-1],
    *(Column(part, _mean_of(RMBENCH), part) for part in ("easy", "normal", "hard")),
    Column("RM-Bench", _mean_of(RMBENCH), "all"),
)
_GAMES = (
    "judged once in the order of the data and once in the other; Voting@k has k samples in each. "
)
_JUDGEBENCH_NOTE = (
    f"both orders: {_GAMES}Right is +1, wrong -1, a tie or nothing 0; the pair is right if the "
    "sum is above 0"
)


def _judgebench(rows: Mapping[str, int]) -> Metric:
    columns = (*(Column(s, {s: 1.0}) for s in rows), Column("both orders", dict(rows)))
    return Metric(columns, "both orders", _both_orders, needs=("games",), note=_JUDGEBENCH_NOTE)


METRICS: Mapping[str, Metric] = {
    "rewardbench": Metric(
        _sections(REWARDBENCH, "RewardBench"), "RewardBench",
        note="RewardBench: mean of four sections, without prior sets; math-prm counts as 984 rows",
    ),
    "ppe_correctness": Metric(_DOMAINS, "mean", note="mean: of the five domains"),
    "ppe_best_of_k": Metric(
        _DOMAINS, "mean", note="one list of 32: right if the response at the top is right"
    ),
    "rmb_pairwise": Metric(_RMB, "mean"),
    "rmb_bon": Metric(_RMB, "mean", note="the best of the list, all responses in one prompt"),
    "rmb_pairs": Metric(
        _RMB, "mean", _whole_rows, _by_row,
        note="a list is right if the best is above every loser in n - 1 pairs; not comparable to "
        "rmb_bon, its floor is lower",
    ),
    "judgebench": _judgebench(judgebench.ROWS),
    "judgebench_claude": _judgebench(judgebench.CLAUDE_ROWS),
    "rmbench": Metric(
        _RMBENCH, "RM-Bench", _styles, _by_row,
        note="nine pairs a row; hard: plain chosen against fancy rejected, easy: the other way",
    ),
    "rmbench_list": Metric(
        _RMBENCH, "RM-Bench", _styles_of_lists, needs=("totals_MCN",),
        note="six responses in one prompt, each chosen one strictly above each rejected one; the "
        "benchmark compares pairs",
    ),
    "rewardbench2": Metric(
        _sections(_alone(rewardbench2.ROWS), "mean"), "mean", _best_of_four, _by_row,
        needs=("totals_MCN",),
        note="one list; Ties: by scores of both halves of a prompt; mean: of the six subsets",
    ),
    "llmbar": Metric(tuple(Column(s, {s: 1.0}) for s in llmbar.ROWS)),
    "autoj": Metric(
        (Column("consistency", {"": 1.0}, "consistency"),
         Column("agreement", {"": 1.0}, "agreement")),
        "agreement", _agreement, needs=("games",),
        note=f"agreement: right in both orders, a tie being a verdict to find; {_GAMES}"
        "accuracy is over the rows without a tie of people",
    ),
    "pandalm": Metric(
        (_class_column("three classes", "accuracy"), _class_column("precision", "precision"),
         _class_column("recall", "recall"), _class_column("F1", "f1")),
        "F1", _classes, needs=("totals_MCN",),
        note="first, second or tie against the majority of three people; precision, recall and F1 "
        "are means over the three classes; accuracy is over the rows without a tie of people",
    ),
}  # fmt: skip
DEFAULT = Metric()


def metric_of(suite: str) -> Metric:
    """The metric of a suite; one without columns for data that no benchmark defines."""
    return METRICS.get(suite, DEFAULT)
