"""One set of samples counted by every rule: the part of a number that is due to counting."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from grm_jax import voting
from grm_jax.evaluation.ballots import from_trajectories
from grm_jax.evaluation.lines import CountingRules, Line, Suite, ballots_of, last_sampled, tally
from grm_jax.evaluation.method import STAGES
from grm_jax.evaluation.tables import Cell, Column, Row, Table
from grm_jax.voting import Ballots

PARSERS = ("strict", "lenient")


def table(suites: Sequence[Suite], counting: CountingRules, notes: Sequence[str]) -> Table:
    """Mean credit of all samples of the last sampled stage, by suite, parser and aggregation.

    A column for each tie policy, and the share of the samples that the parser gave no scores.
    """
    rows = [row for suite in suites if suite.choice_C.any() for row in _rows(suite, counting)]
    columns = [Column(policy) for policy in voting.TIE_POLICIES] + [Column("unparsed")]
    title = "Accuracy (%) of the vote of all samples, by parser, aggregation and tie policy"
    return Table(title, columns, rows, notes, "parser, aggregation")


def lines(suite: Suite, counting: CountingRules) -> list[Line]:
    """The votes by every other aggregation and k_meta, as lines of sections of their own.

    Of the last sampled stage, at k = 8 and the largest; nothing is measured in them yet.
    """
    drawn = last_sampled(suite)
    ballots = ballots_of(suite, drawn, counting)
    most = min(map(len, drawn.groups))
    ks = [k for k in counting.ks if 1 < k <= most]
    ks = sorted({8 if 8 in ks else ks[-1], ks[-1]}) if ks else []
    by_k = dict(zip(counting.ks, counting.k_metas, strict=True))

    def by_rule(
        rule: str, k_metas: Sequence[int], aggregation: str, of: Ballots = ballots
    ) -> list[Line]:
        own = dataclasses.replace(
            counting, ks=tuple(ks), k_metas=tuple(k_metas), aggregation=aggregation
        )
        method = dataclasses.replace(drawn.method, rule=rule)
        lines = tally(suite, of, own, method, most=most, facts={})
        return [line._replace(named=False) for line in lines]

    lines = []
    for name in voting.AGGREGATIONS if ks else ():
        if name != counting.aggregation:
            lines += by_rule(f"aggregation: {name}", [by_k[k] for k in ks], name)
    if drawn.meta is not None and ks:
        own = [by_k[k] for k in ks]
        for line in by_rule("meta RM: weights", own, "sum", voting.weigh(ballots)):
            lines.append(line._replace(method=dataclasses.replace(line.method, kind="guided")))
        for name, k_meta in (("1", lambda k: 1), ("k/4", lambda k: max(1, k // 4)),
                             ("k/2", voting.half), ("k", lambda k: k)):  # fmt: skip
            own = list(map(k_meta, ks))
            if own != [by_k[k] for k in ks]:
                both = by_rule(f"k_meta: {name}", own, counting.aggregation)
                lines += [line for line in both if line.method.kind == "guided"]
    return lines


def _rows(suite: Suite, counting: CountingRules) -> list[Row]:
    drawn = last_sampled(suite)
    sizes = [comparison.n for comparison in suite.comparisons]
    stage, k = STAGES[drawn.stage], max(map(len, drawn.groups))
    coverage = f", {suite.coverage}" if suite.coverage else ""
    section = f"{suite.name}: {stage}, k = {k}{coverage}"
    rows = []
    for parser in PARSERS:
        ballots = from_trajectories(drawn.groups, sizes, lenient=parser == "lenient")
        unparsed = 1 - ballots.parsed_CS.sum() / ballots.drawn_CS.sum()
        for aggregation in voting.AGGREGATIONS:
            verdicts = voting.totals(ballots, ballots.drawn_CS, aggregation)
            cells = []
            for policy in voting.TIE_POLICIES:
                credits = voting.credits(
                    ballots, verdicts, suite.gold_CN, jax.random.key(counting.seed),
                    tie_policy=policy, parse_policy=counting.parse_policy,
                )  # fmt: skip
                cells.append(Cell(np.mean(np.asarray(credits, np.float64)[suite.choice_C])))
            label = f"{parser}, {aggregation}"
            rows.append(Row(label, (*cells, Cell(unparsed)), section))
    return rows
