"""What decides verdicts beside content: place and length; and whether votes know their worth."""

import math
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from experiments import counting
from experiments.counting import CountingRules, Drawn, Suite
from grm_jax import voting
from grm_jax.evaluation import bias
from grm_jax.evaluation.tables import Cell, Column, Row, Table

COLUMNS = (
    Column("score, first", "plain", 2), Column("score, last", "plain", 2),
    Column("first on top"), Column("flips, swapped"), Column("flips, same order"),
    Column("longest on top"), Column("right: longest"), Column("right: not longest"),
    Column("points a doubling", "plain", 2, signed=True), Column("calibration error"),
)  # fmt: skip
NOTES = (
    "score: mean of what was shown first and last; first on top: how often the response shown "
    "first is at the top of a sample (without bias 1 / n)",
    "flips: of two samples of a pair, one in each order, or two in one order, how often they "
    "prefer different responses; the difference of the two is what the order does",
    "longest on top: how often the longest response (in characters) is at the top of the vote "
    "of all samples; right: accuracy where the right response is the longest, and where it is not; "
    "points a doubling: of mean score for a response twice as long, within comparisons",
    "calibration error: expected gap between the share of samples that agree with the vote and its "
    "accuracy, in ten bins",
)


def table(suites: Sequence[Suite], config: CountingRules, notes: Sequence[str]) -> Table:
    """Position, length and calibration of everything that was drawn, suite by suite.

    Positions are those of the comparisons of the commonest n >= 2.
    """
    rows = []
    for suite in suites:
        if suite.choice_C.any():
            n = Counter(c.n for c in suite.comparisons if c.n > 1).most_common(1)[0][0]
            for drawn in suite.drawn:
                name = counting.greedy if drawn.greedy else counting.one_sample
                label = name(drawn.stage)
                if drawn.arm:
                    label = f"{label}, {drawn.section}"
                coverage = f", {suite.coverage}" if suite.coverage else ""
                section = f"{suite.name}, positions of n = {n}{coverage}"
                rows.append(Row(label, _cells(suite, drawn, config, n), section))
    return Table("Place, length, calibration", COLUMNS, rows, [*NOTES, *notes], "trajectories of")


def _cells(suite: Suite, drawn: Drawn, config: CountingRules, n: int) -> tuple[Cell, ...]:
    ballots = counting.ballots_of(suite, drawn, config)
    place = bias.position_bias(ballots, n)
    verdicts = voting.totals(ballots, ballots.drawn_CS, config.aggregation)
    credits_C = np.asarray(
        voting.credits(
            ballots, verdicts, suite.gold_CN, jax.random.key(config.seed),
            tie_policy=config.tie_policy, parse_policy=config.parse_policy,
        ),
        np.float64,
    )  # fmt: skip
    means = voting.totals(ballots, ballots.drawn_CS, "mean")
    voted_C = np.asarray(means.voters_C) > 0
    means_CN = np.asarray(means.totals_CN, np.float64)
    means_CN = np.where(np.isfinite(means_CN) & voted_C[:, None], means_CN, np.nan)
    lengths_CN = np.full(means_CN.shape, -1)
    for c, comparison in enumerate(suite.comparisons):
        lengths_CN[c, : comparison.n] = [len(text) for text in comparison.responses]
    at_C = suite.choice_C
    length = bias.length_bias(
        means_CN[at_C], lengths_CN[at_C], suite.gold_CN[at_C], credits_C[at_C]
    )
    share_C = bias.vote_share(ballots)
    known_C = at_C & ~np.isnan(share_C)
    error = math.nan
    if known_C.any() and not drawn.greedy:
        error = bias.calibration_error(share_C[known_C], np.clip(credits_C[known_C], 0, 1))
    scores_N = place.score_by_position_N
    values = (
        scores_N[0], scores_N[-1], place.first_share, place.flip_rate, place.same_order_rate,
        length.longer_share, length.longer_right, length.shorter_right, length.slope, error,
    )  # fmt: skip
    return tuple(Cell() if math.isnan(value) else Cell(value) for value in values)
