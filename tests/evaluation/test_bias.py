"""Position, length and calibration against loops in plain Python."""

import itertools
import math

import numpy as np
import pytest

from grm_jax.evaluation import bias
from grm_jax.voting import Ballots


def ballots_of(comparisons):
    """comparisons: lists of (scores in presented order or None, order)."""
    C, S = len(comparisons), max(map(len, comparisons))
    N = max(len(samples[0][1]) for samples in comparisons)
    scores, orders = np.full((C, S, N), 99), np.tile(np.arange(N), (C, S, 1))
    parsed, drawn = np.zeros((C, S), bool), np.zeros((C, S), bool)
    for c, samples in enumerate(comparisons):
        for s, (given, order) in enumerate(samples):
            drawn[c, s], parsed[c, s] = True, given is not None
            orders[c, s, : len(order)] = order
            if given is not None:
                scores[c, s, : len(order)] = given
    sizes = np.array([len(samples[0][1]) for samples in comparisons])
    return Ballots(scores, orders, parsed, drawn, sizes, np.zeros((C, S)), np.arange(C))


def random_comparisons(seed, count, n, samples=6):
    rng = np.random.default_rng(seed)
    return [
        [
            (tuple(rng.integers(1, 5, size=n)) if rng.random() < 0.8 else None,
             tuple(rng.permutation(n)))
            for _ in range(rng.integers(1, samples + 1))
        ]
        for _ in range(count)
    ]  # fmt: skip


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def preferred(scores, order):
    """Original index of the response that a sample prefers, or None."""
    if scores is None or scores[0] == scores[1]:
        return None
    return order[0] if scores[0] > scores[1] else order[1]


def test_position_bias_of_pairs():
    comparisons = random_comparisons(0, 60, 2)
    # Another n in the same ballots must not be counted.
    got = bias.position_bias(ballots_of([*comparisons, *random_comparisons(9, 5, 3)]), 2)
    parsed = [[s for s in own if s[0] is not None] for own in comparisons]
    parsed = [own for own in parsed if own]
    for j in range(2):
        want = mean(mean(scores[j] for scores, _ in own) for own in parsed)
        assert got.score_by_position_N[j] == pytest.approx(want)
    shares = [[1.0 if a > b else 0.5 if a == b else 0.0 for (a, b), _ in own] for own in parsed]
    assert got.first_share == pytest.approx(mean(map(mean, shares)))
    flips, same = [], []
    for own in comparisons:
        by_order = {
            order: [p for p in (preferred(*s) for s in own if s[1] == order) if p is not None]
            for order in ((0, 1), (1, 0))
        }
        a, b = by_order.values()
        if a and b:
            flips.append(mean(x != y for x, y in itertools.product(a, b)))
        for p in (a, b):
            if len(p) > 1:
                same.append(mean(x != y for x, y in itertools.combinations(p, 2)))
    assert got.flip_rate == pytest.approx(mean(flips)) and flips
    assert got.same_order_rate == pytest.approx(mean(same)) and same


def test_a_judge_that_looks_at_places_only():
    always_first = [[((9, 1), (0, 1)), ((9, 1), (1, 0))] * 2] * 3
    got = bias.position_bias(ballots_of(always_first), 2)
    assert got[1:] == (1.0, 1.0, 0.0) and got.score_by_position_N.tolist() == [9.0, 1.0]
    fair = [[((9, 1), (0, 1)), ((1, 9), (1, 0))] * 2] * 3
    assert bias.position_bias(ballots_of(fair), 2)[1:] == (0.5, 0.0, 0.0)
    lists = bias.position_bias(ballots_of([[((3, 3, 1), (2, 0, 1))]]), 3)
    assert lists.first_share == 0.5 and math.isnan(lists.flip_rate)
    silent = bias.position_bias(ballots_of([[(None, (0, 1))]]), 2)
    assert math.isnan(silent.first_share)


def test_length_bias():
    rng = np.random.default_rng(1)
    C, N = 80, 4
    n = rng.integers(2, N + 1, size=C)
    real = np.arange(N) < n[:, None]
    lengths = np.where(real, rng.integers(1, 6, size=(C, N)) * 10, np.nan)
    totals = np.where(real, rng.integers(1, 5, size=(C, N)), np.nan)
    totals[:5] = np.nan
    gold = real & (np.arange(N) == rng.integers(0, n)[:, None])
    credits = rng.integers(0, 2, size=C).astype(float)
    got = bias.length_bias(totals, lengths, gold, credits)
    longer, shorter, share, xs, ys = [], [], [], [], []
    for c in range(C):
        own = list(lengths[c, : n[c]])
        longest = {i for i in range(n[c]) if own[i] == max(own)}
        right = {i for i in range(n[c]) if gold[c, i]}
        if longest <= right:
            longer.append(credits[c])
        elif not longest & right:
            shorter.append(credits[c])
        if c >= 5:
            scores = list(totals[c, : n[c]])
            tops = {i for i in range(n[c]) if scores[i] == max(scores)}
            share.append(len(tops & longest) / len(tops))
            logs = [math.log2(x) for x in own]
            xs += [x - mean(logs) for x in logs]
            ys += [y - mean(scores) for y in scores]
    assert got.longer_right == pytest.approx(mean(longer)) and len(longer) > 5
    assert got.shorter_right == pytest.approx(mean(shorter)) and len(shorter) > 5
    assert got.longer_share == pytest.approx(mean(share))
    assert got.slope == pytest.approx(np.polyfit(xs, ys, 1)[0])


def test_calibration_error():
    rng = np.random.default_rng(2)
    confidence, correct = rng.random(200), rng.integers(0, 2, size=200)
    confidence[0] = 1.0  # belongs to the last bin
    want = 0
    for b in range(10):
        inside = [i for i in range(200) if min(int(confidence[i] * 10), 9) == b]
        if inside:
            gap = mean(confidence[i] for i in inside) - mean(correct[i] for i in inside)
            want += abs(gap) * len(inside) / 200
    assert bias.calibration_error(confidence, correct) == pytest.approx(want)
    assert bias.calibration_error([0.75] * 4, [1, 1, 1, 0]) == 0
    for bad in (([1.5], [1]), ([0.5], [2]), ([0.5], [1, 0]), ([], [])):
        with pytest.raises(ValueError):
            bias.calibration_error(*bad)


def test_vote_share():
    comparisons = random_comparisons(3, 40, 3) + random_comparisons(4, 20, 2)
    got = bias.vote_share(ballots_of(comparisons))
    for share, samples in zip(got, comparisons, strict=True):
        votes = [[s[order.index(i)] for i in range(len(order))] for s, order in samples if s]
        if not votes:
            assert math.isnan(share)
            continue
        totals = [sum(column) for column in zip(*votes, strict=True)]
        winners = [i for i, total in enumerate(totals) if total == max(totals)]
        each = [
            mean((vote[i] == max(vote)) / vote.count(max(vote)) for vote in votes) for i in winners
        ]
        assert share == pytest.approx(mean(each))
