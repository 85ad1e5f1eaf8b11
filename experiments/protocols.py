"""One set of samples counted in every way: how much of a number is the counting."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from experiments import counting
from experiments.counting import CountingRules, Line, Suite
from grm_jax import voting
from grm_jax.evaluation.ballots import from_trajectories
from grm_jax.evaluation.tables import Cell, Column, Row, Table
from grm_jax.voting import Ballots

PARSERS = ("strict", "lenient")


def table(suites: Sequence[Suite], config: CountingRules, notes: Sequence[str]) -> Table:
    """Mean credit of all samples of the last sampled stage, by suite, parser and aggregation.

    A column for each tie policy, and the share of the samples that the parser gave no scores.
    """
    rows = [row for suite in suites if suite.choice_C.any() for row in _rows(suite, config)]
    columns = [Column(policy) for policy in voting.TIE_POLICIES] + [Column("unparsed")]
    title = "Accuracy (%) of the vote of all samples, by parser, aggregation and tie policy"
    return Table(title, columns, rows, notes, "parser, aggregation")


def lines(suite: Suite, config: CountingRules) -> list[Line]:
    """The votes by every other aggregation and k_meta, as lines of sections of their own.

    Of the last sampled stage, at k = 8 and the largest; nothing is measured in them yet.
    """
    drawn = counting.last_sampled(suite)
    ballots = counting.ballots_of(suite, drawn, config)
    most = min(map(len, drawn.groups))
    ks = [k for k in config.ks if 1 < k <= most]
    ks = sorted({8 if 8 in ks else ks[-1], ks[-1]}) if ks else []
    by_k = dict(zip(config.ks, config.k_metas, strict=True))

    def tally(
        section: str, k_metas: Sequence[int], aggregation: str, of: Ballots = ballots
    ) -> list[Line]:
        rules = dataclasses.replace(
            config, ks=tuple(ks), k_metas=tuple(k_metas), aggregation=aggregation
        )
        return counting.tally(
            suite, of, rules, section, lambda k, kind: counting.label(drawn, k, kind, ""),
            most=most, facts={},
        )  # fmt: skip

    found = []
    for name in voting.AGGREGATIONS if ks else ():
        if name != config.aggregation:
            found += tally(f"aggregation: {name}", [by_k[k] for k in ks], name)
    if drawn.meta is not None and ks:
        own = [by_k[k] for k in ks]
        weighed = tally("meta RM: weights", own, "sum", voting.weigh(ballots))
        found += [line._replace(label=line.label.replace("Voting", "MetaRM")) for line in weighed]
        for name, k_meta in (("1", lambda k: 1), ("k/4", lambda k: max(1, k // 4)),
                             ("k/2", voting.half), ("k", lambda k: k)):  # fmt: skip
            own = list(map(k_meta, ks))
            if own != [by_k[k] for k in ks]:
                guided = tally(f"k_meta: {name}", own, config.aggregation)
                found += [line for line in guided if line.label.startswith("MetaRM")]
    return found


def _rows(suite: Suite, config: CountingRules) -> list[Row]:
    drawn = counting.last_sampled(suite)
    sizes = [comparison.n for comparison in suite.comparisons]
    stage, k = counting.STAGE_NAMES[drawn.stage], max(map(len, drawn.groups))
    coverage = f", {suite.coverage}" if suite.coverage else ""
    section = f"{suite.name}: {stage}, k = {k}{coverage}"
    found = []
    for parser in PARSERS:
        ballots = from_trajectories(drawn.groups, sizes, lenient=parser == "lenient")
        unparsed = 1 - ballots.parsed_CS.sum() / ballots.drawn_CS.sum()
        for aggregation in voting.AGGREGATIONS:
            verdicts = voting.totals(ballots, ballots.drawn_CS, aggregation)
            cells = []
            for policy in voting.TIE_POLICIES:
                credits = voting.credits(
                    ballots, verdicts, suite.gold_CN, jax.random.key(config.seed),
                    tie_policy=policy, parse_policy=config.parse_policy,
                )  # fmt: skip
                cells.append(Cell(np.mean(np.asarray(credits, np.float64)[suite.choice_C])))
            label = f"{parser}, {aggregation}"
            found.append(Row(label, (*cells, Cell(unparsed)), section))
    return found
