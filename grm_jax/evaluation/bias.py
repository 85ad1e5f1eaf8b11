"""Biases of a judge towards position and length, and the calibration of its votes.

Numpy, float64. Shape letters: C comparisons, S samples, N responses. Samples of one comparison are
averaged before comparisons are, so that every comparison counts once.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from grm_jax import voting
from grm_jax.benchmarks import rules
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite, ballots_of
from grm_jax.evaluation.method import title
from grm_jax.evaluation.tables import Cell, Column, Row, Table
from grm_jax.voting import Ballots

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


class PositionBias(NamedTuple):
    """Position bias over comparisons of one n; NaN where it is not defined.

    Attributes:
        score_by_position_N: the mean score of what was shown at each position.
        first_share: how often the response shown first is at the top of a sample, ties shared; a
            judge without bias has 1 / n, if every response is shown first equally often.
        flip_rate: of the comparisons with n = 2 that were judged in both orders, the chance that
            two samples, one in each order, prefer different responses (ties and samples without
            scores left out). Samples in one order differ too: compare `same_order_rate`.
        same_order_rate: the same for two samples in one order, where an order has two.
    """

    score_by_position_N: np.ndarray
    first_share: float
    flip_rate: float
    same_order_rate: float


def position_bias(ballots: Ballots, n: int) -> PositionBias:
    """`PositionBias` of the comparisons with n responses, from scores in presented order."""
    at_C = np.asarray(ballots.num_responses_C) == n
    scores = np.asarray(ballots.scores_CSN, np.float64)[at_C, :, :n]
    valid = (np.asarray(ballots.parsed_CS) & np.asarray(ballots.drawn_CS))[at_C]
    orders = np.asarray(ballots.orders_CSN)[at_C, :, :n]
    scores[~valid] = np.nan
    tops = scores == np.max(scores, axis=2, keepdims=True)
    first = np.where(valid, tops[:, :, 0] / np.maximum(tops.sum(axis=2), 1), np.nan)
    flips, same = [], []
    if n == 2:
        swapped = orders[:, :, 0] == 1
        shown = rules.verdicts(scores)
        original = np.where(swapped & (shown < rules.TIE), 1 - shown, shown)
        for verdicts_S, turned in zip(original, swapped, strict=True):
            counts = [
                [np.sum((verdicts_S == v) & (turned == t)) for v in (rules.FIRST, rules.SECOND)]
                for t in (False, True)
            ]
            (a, b), (c, d) = counts
            if (a + b) and (c + d):
                flips.append((a * d + b * c) / ((a + b) * (c + d)))
            for x, y in counts:
                if x + y > 1:
                    same.append(x * y / math.comb(int(x + y), 2))
    by_position = [_mean_of_means(scores[:, :, j]) for j in range(n)]
    return PositionBias(np.array(by_position), _mean_of_means(first), _mean(flips), _mean(same))


class LengthBias(NamedTuple):
    """Length bias over comparisons with right and wrong responses; NaN where it is not defined.

    Attributes:
        longer_right, shorter_right: mean credit where the longest response is right, and where
            it is wrong (a tie in length that mixes both is in neither).
        longer_share: how often the longest response is at the top of the vote.
        slope: points of score for each doubling of length, within comparisons.
    """

    longer_right: float
    shorter_right: float
    longer_share: float
    slope: float


def length_bias(
    totals: ArrayLike, lengths: ArrayLike, gold: ArrayLike, credits: ArrayLike
) -> LengthBias:
    """`LengthBias` of a vote.

    Args:
        totals: [C, N] mean score of each response; NaN at padding and without a verdict.
        lengths: [C, N], in any one unit; NaN at padding.
        gold: [C, N] bool.
        credits: [C] in [0, 1].
    """
    totals_CN, credits_C = np.asarray(totals, np.float64), np.asarray(credits, np.float64)
    gold_CN = np.asarray(gold, bool)
    lengths_CN = np.asarray(lengths, np.float64)
    longest_CN = lengths_CN == np.nanmax(lengths_CN, axis=1, keepdims=True)
    right_C = (longest_CN & gold_CN).any(axis=1)
    wrong_C = (longest_CN & ~gold_CN).any(axis=1)
    judged_C = ~np.isnan(totals_CN).all(axis=1)
    judged = np.where(np.isnan(totals_CN), -np.inf, totals_CN)
    tops_CN = judged == np.max(judged, axis=1, keepdims=True)
    share_C = np.sum(tops_CN & longest_CN, axis=1) / np.sum(tops_CN, axis=1)
    known_CN = ~np.isnan(totals_CN)
    doublings = np.log2(np.maximum(lengths_CN, 1))
    x, y = _centred(doublings, known_CN), _centred(totals_CN, known_CN)
    return LengthBias(
        _mean(credits_C[right_C & ~wrong_C]),
        _mean(credits_C[wrong_C & ~right_C]),
        _mean(share_C[judged_C]),
        float(np.sum(x * y) / np.sum(x * x)) if np.any(x) else math.nan,
    )


def calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 10) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, over equal bins.

    Args:
        confidence: [C] in [0, 1], such as the share of the samples that vote for the winner.
        correct: [C] credits in [0, 1].

    Raises:
        ValueError: different shapes, nothing, or a value outside of [0, 1].
    """
    confidence_C, correct_C = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence_C.shape != correct_C.shape or confidence_C.ndim != 1 or not confidence_C.size:
        raise ValueError("confidence, correct: expected two arrays [C] with something in them")
    for name, values in (("confidence", confidence_C), ("correct", correct_C)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name}: values must be between 0 and 1")
    bin_C = np.minimum((confidence_C * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_C, weights=confidence_C - correct_C, minlength=bins)
    return float(np.abs(gaps).sum() / confidence_C.size)


def vote_share(ballots: Ballots) -> np.ndarray:
    """float64 [C]: the share of the parsed samples that have the winner of the vote at the top.

    Ties of a sample are shared, ties of the vote are averaged; NaN without a verdict. The vote is
    the sum of all drawn samples.
    """
    scores = np.asarray(ballots.scores_CSN, np.float64)
    orders = np.asarray(ballots.orders_CSN)
    back = np.take_along_axis(scores, np.argsort(orders, axis=2), axis=2)
    valid = np.asarray(ballots.parsed_CS) & np.asarray(ballots.drawn_CS)
    real_CN = np.arange(scores.shape[2]) < np.asarray(ballots.num_responses_C)[:, None]
    totals = np.where(real_CN, np.sum(back * valid[:, :, None], axis=1), -np.inf)
    winners = totals == np.max(totals, axis=1, keepdims=True)
    back = np.where(real_CN[:, None, :], back, -np.inf)
    tops = back == np.max(back, axis=2, keepdims=True)
    votes = np.sum(tops / tops.sum(axis=2, keepdims=True) * valid[:, :, None], axis=1)
    voters = valid.sum(axis=1)
    shares = np.sum(votes * winners, axis=1) / winners.sum(axis=1) / np.maximum(voters, 1)
    return np.where(voters > 0, shares, np.nan)


def _centred(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    counts = np.maximum(known.sum(axis=1, keepdims=True), 1)
    filled = np.where(known, values, 0.0)
    return np.where(known, filled - filled.sum(axis=1, keepdims=True) / counts, 0.0)


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _mean_of_means(values_CS: np.ndarray) -> float:
    """The mean over comparisons of the mean over their samples, NaN left out."""
    known = ~np.isnan(values_CS)
    counts = known.sum(axis=1)
    sums = np.where(known, values_CS, 0.0).sum(axis=1)
    return _mean(sums[counts > 0] / counts[counts > 0])


def table(suites: Sequence[Suite], counting: CountingRules, notes: Sequence[str]) -> Table:
    """Position, length and calibration of everything that was drawn, suite by suite.

    Positions are those of the comparisons of the commonest n >= 2.
    """
    rows = []
    for suite in suites:
        if suite.choice_C.any():
            n = Counter(c.n for c in suite.comparisons if c.n > 1).most_common(1)[0][0]
            for drawn in suite.drawn:
                label = drawn.method.label()
                if drawn.arm:
                    label = f"{label}, {title(drawn.arm)}"
                coverage = f", {suite.coverage}" if suite.coverage else ""
                section = f"{suite.name}, positions of n = {n}{coverage}"
                rows.append(Row(label, _cells(suite, drawn, counting, n), section))
    return Table("Place, length, calibration", COLUMNS, rows, [*NOTES, *notes], "trajectories of")


def _cells(suite: Suite, drawn: Drawn, counting: CountingRules, n: int) -> tuple[Cell, ...]:
    ballots = ballots_of(suite, drawn, counting)
    place = position_bias(ballots, n)
    verdicts = voting.totals(ballots, ballots.drawn_CS, counting.aggregation)
    credits_C = np.asarray(
        voting.credits(
            ballots, verdicts, suite.gold_CN, jax.random.key(counting.seed),
            tie_policy=counting.tie_policy, parse_policy=counting.parse_policy,
        ),
        np.float64,
    )  # fmt: skip
    means = voting.totals(ballots, ballots.drawn_CS, "mean")
    voted_C = np.asarray(means.voters_C) > 0
    means_CN = np.asarray(means.totals_CN, np.float64)
    means_CN = np.where(np.isfinite(means_CN) & voted_C[:, None], means_CN, np.nan)
    at_C = suite.choice_C
    length = length_bias(
        means_CN[at_C], suite.lengths_CN[at_C], suite.gold_CN[at_C], credits_C[at_C]
    )
    share_C = vote_share(ballots)
    known_C = at_C & ~np.isnan(share_C)
    error = math.nan
    if known_C.any() and not drawn.greedy:
        error = calibration_error(share_C[known_C], np.clip(credits_C[known_C], 0, 1))
    scores_N = place.score_by_position_N
    places = (scores_N[0], scores_N[-1], place.first_share, place.flip_rate, place.same_order_rate)
    values = (
        *(places if drawn.ordered else [math.nan] * len(places)),
        length.longer_share, length.longer_right, length.shorter_right, length.slope, error,
    )  # fmt: skip
    return tuple(Cell() if math.isnan(value) else Cell(value) for value in values)
