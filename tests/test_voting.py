"""Voting against the vectors of the paper and against loops in plain Python."""

from __future__ import annotations

import functools
import itertools
import math
import random
import statistics
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax import voting
from grm_jax.voting import Ballots

KEY = jax.random.key(7)


def make_ballots(comparisons, *, S=None, N=None, first_id=0) -> Ballots:
    """comparisons: lists of samples (scores in presented order or None, order, meta)."""
    S = S or max(len(samples) for samples in comparisons)
    N = N or max(len(samples[0][1]) for samples in comparisons)
    C = len(comparisons)
    out = Ballots(
        np.full((C, S, N), 99, np.int32),  # padding must never be counted
        np.tile(np.arange(N, dtype=np.int32), (C, S, 1)),
        np.zeros((C, S), bool),
        np.zeros((C, S), bool),
        np.array([len(samples[0][1]) for samples in comparisons], np.int32),
        np.zeros((C, S), np.int32),
        np.arange(first_id, first_id + C, dtype=np.uint32),
        np.zeros((C, S), np.float32),
    )
    for c, samples in enumerate(comparisons):
        orders = sorted({order for _, order, _ in samples})
        for s, (scores, order, meta) in enumerate(samples):
            n = len(order)
            if scores is not None:
                out.scores_CSN[c, s, :n] = scores
            out.orders_CSN[c, s, :n] = order
            out.parsed_CS[c, s] = scores is not None
            out.drawn_CS[c, s] = True
            out.order_ids_CS[c, s] = orders.index(order)
            out.meta_CS[c, s] = meta
    return out


def random_comparisons(seed, count, *, sizes=(2, 3, 4), samples=(1, 9), high=4):
    """Few distinct scores and meta scores, so that ties are common; a third is not parsed."""
    rng = random.Random(seed)
    comparisons = []
    for _ in range(count):
        n = rng.choice(sizes)
        orders = list(itertools.permutations(range(n)))
        comparisons.append(
            [
                (
                    tuple(rng.randint(1, high) for _ in range(n)) if rng.random() < 0.67 else None,
                    rng.choice(orders),
                    rng.choice([-1.5, 0.0, 0.25, 3.0]),
                )
                for _ in range(rng.randint(*samples))
            ]
        )
    return comparisons


# The loop in plain Python.


def naive_totals(samples):
    """Total by original response over parsed samples, or None."""
    votes = [(scores, order) for scores, order, _ in samples if scores is not None]
    if not votes:
        return None
    n = len(votes[0][1])
    sums = [Fraction(0)] * n
    for scores, order in votes:
        for position, original in enumerate(order):
            sums[original] += scores[position]
    return [sums[0] / len(votes)] if n == 1 else sums


def naive_guided(samples, k_meta):
    parsed = [(i, sample) for i, sample in enumerate(samples) if sample[0] is not None]
    parsed.sort(key=lambda pair: (-pair[1][2], pair[0]))
    return [sample for _, sample in parsed[:k_meta]]


def naive_aggregate(samples, aggregation):
    """Total by original response in exact fractions, or None; n >= 2."""
    rows = [
        [Fraction(scores[order.index(i)]) for i in range(len(order))]
        for scores, order, _ in samples
        if scores is not None
    ]
    if not rows:
        return None
    n = len(rows[0])
    if aggregation == "median":
        return [statistics.median(row[i] for row in rows) for i in range(n)]
    if aggregation == "majority":
        rows = [[Fraction(x == max(row), row.count(max(row))) for x in row] for row in rows]
    if aggregation == "borda":
        rows = [
            [sum(Fraction(1 + (x > y) - (x < y), 2) for y in row) - Fraction(1, 2) for x in row]
            for row in rows
        ]
    sums = [sum(row[i] for row in rows) for i in range(n)]
    return [total / len(rows) for total in sums] if aggregation == "mean" else sums


def naive_credit(sums, n, gold, tie_policy, parse_policy):
    gold = {gold} if isinstance(gold, int) else set(gold)
    if sums is None:
        return {"wrong": 0.0, "chance": len(gold) / n}[parse_policy]
    tied = {i for i in range(n) if sums[i] == max(sums)}
    if not tied & gold:
        return 0.0
    if tied <= gold:
        return 1.0
    share = len(tied & gold) / len(tied)
    return {"strict": 0.0, "half": 0.5, "uniform": share}[tie_policy]


@functools.partial(jax.jit, static_argnames=("num_subsets", "stratified"))
def positions(ballots, num_subsets, stratified=False):
    """[C, M, S]: the orderings that accuracy_curve uses, drawn again outside of it."""

    def draw(ident, drawn_S, order_ids_S, subset):
        key = jax.random.fold_in(jax.random.fold_in(KEY, ident), subset)
        bits_S = jax.random.bits(key, (max(ballots.scores_CSN.shape[1:]), 2))[: drawn_S.shape[0], 0]
        return voting.subset_positions(bits_S, drawn_S, order_ids_S, stratified=stratified)

    over_subsets = jax.vmap(draw, in_axes=(None, None, None, 0))
    over_comparisons = jax.vmap(over_subsets, in_axes=(0, 0, 0, None))
    subsets_M = jnp.arange(num_subsets)
    return over_comparisons(ballots.ids_C, ballots.drawn_CS, ballots.order_ids_CS, subsets_M)


def device_curve(ballots, best, **changes):
    """best: index of the right response of each comparison, a set of them, or bool [C, N]."""
    settings = {"ks": (1,), "num_subsets": 4, "key": KEY, "tie_policy": "strict"}
    settings |= {"aggregation": "sum", "parse_policy": "wrong", "stratified": False} | changes
    if isinstance(best, list):
        N = ballots.scores_CSN.shape[2]
        sets = [{one} if isinstance(one, int) else one for one in best]
        best = np.array([[i in right for i in range(N)] for right in sets])
    return voting.accuracy_curve(ballots, best, **settings)


def curve(ballots, best, **changes):
    return jax.tree.map(np.asarray, device_curve(ballots, best, **changes))


# Vectors of the paper.

FIGURE_3 = [
    ((1, 5), (0, 1), 2.0), ((5, 6), (0, 1), -1.0), ((4, 8), (0, 1), 1.0), ((7, 6), (0, 1), -2.0),
]  # fmt: skip
TABLE_17 = [
    ((8, 8), (0, 1), -15.7781),
    ((9, 5), (1, 0), 1.3126),
    ((10, 7), (1, 0), 1.6739),
]


def test_figure_3_voting_and_guided_voting():
    ballots = make_ballots([FIGURE_3])
    everyone = np.ones((1, 4), bool)
    plain = voting.totals(ballots, everyone)
    assert plain.totals_CN.tolist() == [[17.0, 25.0]]
    assert plain.voters_C.tolist() == [4]
    keep = voting.select_guided(ballots, everyone, 2)
    assert keep.tolist() == [[True, False, True, False]]
    guided = voting.totals(ballots, keep)
    assert guided.totals_CN.tolist() == [[5.0, 13.0]]
    assert guided.tops_CN.tolist() == [[False, True]]


def test_table_17_reversed_input_order():
    ballots = make_ballots([TABLE_17])
    verdict = voting.totals(ballots, np.ones((1, 3), bool))
    assert verdict.totals_CN.tolist() == [[20.0, 27.0]]
    assert verdict.tops_CN.tolist() == [[False, True]]
    curves = curve(ballots, [1], ks=(3,), k_meta=voting.half)
    assert curves.voting.tolist() == [[1.0]]
    assert curves.guided.tolist() == [[1.0]]  # keeps sample 3 alone: (7, 10)


def test_undo_order_is_the_inverse_for_cycles_too():
    # A 3-cycle: a swap is its own inverse and would hide a wrong direction.
    scores = np.array([[[10, 20, 30]]], np.int32)
    orders = np.array([[[1, 2, 0]]], np.int32)
    assert voting.undo_order(scores, orders).tolist() == [[[30, 10, 20]]]


# Against the plain loops.


@pytest.mark.parametrize(
    ("tie_policy", "parse_policy"), [("strict", "chance"), ("half", "wrong"), ("uniform", "chance")]
)
def test_equals_plain_python_on_the_same_subsets(tie_policy, parse_policy):
    comparisons = random_comparisons(1, 40, samples=(5, 9))
    best = [random.Random(c).randrange(len(s[0][1])) for c, s in enumerate(comparisons)]
    ballots = make_ballots(comparisons)
    ks, num_subsets = (1, 2, 3, 5), 6
    got = curve(
        ballots, best, ks=ks, num_subsets=num_subsets, tie_policy=tie_policy,
        parse_policy=parse_policy, k_meta=voting.half,
    )  # fmt: skip
    position_CMS = np.asarray(positions(ballots, num_subsets))
    want = np.zeros((2, len(ks), len(comparisons)))
    for c, samples in enumerate(comparisons):
        n = len(samples[0][1])
        for subset in range(num_subsets):
            position = position_CMS[c, subset]
            for row, k in enumerate(ks):
                chosen = [sample for s, sample in enumerate(samples) if position[s] < k]
                assert len(chosen) == k
                guided = naive_guided(chosen, max(1, k // 2))
                for method, votes in enumerate((chosen, guided)):
                    credit = naive_credit(naive_totals(votes), n, best[c], tie_policy, parse_policy)
                    want[method, row, c] += credit / num_subsets
    assert np.allclose(got.voting, want[0], atol=1e-6)
    assert np.allclose(got.guided, want[1], atol=1e-6)
    assert not np.allclose(want[0], want[1])  # the case can tell the two methods apart


@pytest.mark.parametrize("aggregation", [a for a in voting.AGGREGATIONS if a != "sum"])
def test_aggregations_equal_plain_python_with_several_right_responses(aggregation):
    comparisons = random_comparisons(12, 40, sizes=(2, 3, 5), samples=(5, 7))
    rng = random.Random(13)
    gold = []
    for samples in comparisons:
        n = len(samples[0][1])
        gold.append(set(rng.sample(range(n), rng.randint(1, n - 1))))
    ballots = make_ballots(comparisons)
    ks, num_subsets = (1, 2, 5), 4
    settings = {"ks": ks, "num_subsets": num_subsets, "aggregation": aggregation}
    got = curve(
        ballots, gold, tie_policy="uniform", parse_policy="chance", k_meta=voting.half, **settings
    )
    scores = voting.score_curve(ballots, key=KEY, stratified=False, k_meta=voting.half, **settings)
    position_CMS = np.asarray(positions(ballots, num_subsets))
    want = np.zeros((2, len(ks), len(comparisons)))
    for c, samples in enumerate(comparisons):
        n = len(samples[0][1])
        for subset, (row, k) in itertools.product(range(num_subsets), enumerate(ks)):
            chosen = [s for i, s in enumerate(samples) if position_CMS[c, subset][i] < k]
            guided = naive_guided(chosen, max(1, k // 2))
            for method, votes in enumerate((chosen, guided)):
                totals = naive_aggregate(votes, aggregation)
                credit = naive_credit(totals, n, gold[c], "uniform", "chance")
                want[method, row, c] += credit / num_subsets
                stored = np.asarray(scores[method])[row, subset, c]
                assert np.isnan(stored[n:]).all()
                if totals is None:
                    assert np.isnan(stored).all()
                else:
                    assert np.allclose(stored[:n], [float(t) for t in totals], atol=2e-4)
    assert np.allclose(got.voting, want[0], atol=1e-6)
    assert np.allclose(got.guided, want[1], atol=1e-6)


def test_weights_of_the_meta_rm_multiply_scores():
    comparisons = random_comparisons(9, 12)
    ballots = make_ballots(comparisons)
    got = voting.totals(voting.weigh(ballots), ballots.drawn_CS, "sum")
    for c, samples in enumerate(comparisons):
        n = len(samples[0][1])
        want, voters = [0.0] * n, 0
        for scores, order, meta in samples:
            if scores is None:
                continue
            voters += 1
            for place, score in zip(order, scores, strict=True):
                want[place] += score / (1 + math.exp(-meta))
        assert int(got.voters_C[c]) == voters
        assert np.allclose(np.asarray(got.totals_CN)[c, :n], want, rtol=1e-5)
    with pytest.raises(ValueError, match="weights need the meta scores"):
        voting.weigh(ballots._replace(meta_CS=None))


def test_mean_over_subsets_approaches_all_subsets():
    comparisons = random_comparisons(2, 12, samples=(5, 5))
    best = [0] * 12
    draws = 4000
    got = curve(
        make_ballots(comparisons), best, ks=(2, 3), num_subsets=draws, tie_policy='uniform',
        parse_policy='chance', k_meta=[1, 2],
    )  # fmt: skip
    for row, (k, k_meta) in enumerate([(2, 1), (3, 2)]):
        for c, samples in enumerate(comparisons):
            n = len(samples[0][1])
            subsets = [list(subset) for subset in itertools.combinations(samples, k)]
            for got_KC, pick in (
                (got.voting, lambda votes: votes),
                (got.guided, lambda votes, m=k_meta: naive_guided(votes, m)),
            ):
                exact = np.mean(
                    [
                        naive_credit(naive_totals(pick(v)), n, 0, "uniform", "chance")
                        for v in subsets
                    ]
                )
                assert abs(got_KC[row, c] - exact) < 4.5 * 0.5 / draws**0.5


def test_k_equal_to_the_drawn_number_is_one_exact_evaluation():
    comparisons = random_comparisons(3, 60, samples=(1, 6))
    best = [0] * 60
    ballots = make_ballots(comparisons)
    ks = (1, 2, 3, 4, 5, 6)
    for subsets in (1, 6):
        got = curve(
            ballots, best, ks=ks, num_subsets=subsets, tie_policy='uniform', parse_policy='chance',
            k_meta=voting.half,
        )  # fmt: skip
        for c, samples in enumerate(comparisons):
            k, n = len(samples), len(samples[0][1])
            for got_KC, votes in (
                (got.voting, samples),
                (got.guided, naive_guided(samples, max(1, k // 2))),
            ):
                want = naive_credit(naive_totals(votes), n, 0, "uniform", "chance")
                assert got_KC[k - 1, c] == np.float32(want)
                assert np.isnan(got_KC[k:, c]).all()  # more than were drawn: no number
                assert np.isfinite(got_KC[:k, c]).all()


def test_shuffle_argmax_is_a_seeded_fair_pick_among_the_tied():
    tie = [((5, 5, 1), (0, 1, 2), 0.0)]
    clear = [((6, 5, 1), (2, 0, 1), 0.0)]
    count = 600
    ballots = make_ballots([tie] * count + [clear])
    picks = curve(ballots, [0] * count + [2], tie_policy="shuffle_argmax").voting[0]
    assert set(picks[:count].tolist()) == {0.0, 1.0}
    assert abs(picks[:count].mean() - 0.5) < 0.08
    assert picks[count] == 1.0
    again = curve(ballots, [0] * count + [2], tie_policy="shuffle_argmax").voting[0]
    assert (picks == again).all()
    # One winner exactly: the same draws must give the other response what this one lost.
    other = curve(ballots, [1] * count + [2], tie_policy="shuffle_argmax").voting[0]
    assert (picks[:count] + other[:count] == 1.0).all()
    third = curve(ballots, [2] * count + [2], tie_policy="shuffle_argmax").voting[0]
    assert (third[:count] == 0.0).all()


def test_tie_and_parse_policies_on_a_three_way_tie_and_on_silence():
    tie = [((5, 5, 5), (0, 1, 2), 0.0)]
    silent = [(None, (0, 1, 2), 9.0)]
    ballots = make_ballots([tie, silent])
    got = {
        (ties, parse): curve(ballots, [2, 2], tie_policy=ties, parse_policy=parse, k_meta=1).guided[
            0
        ]
        for ties, parse in (("strict", "wrong"), ("half", "chance"), ("uniform", "wrong"))
    }
    third = np.float32(1 / 3)
    assert {pair: row.tolist() for pair, row in got.items()} == {
        ("strict", "wrong"): [0.0, 0.0],
        ("half", "chance"): [0.5, third],
        ("uniform", "wrong"): [third, 0.0],
    }


def test_guided_selection_skips_unparsed_samples_and_breaks_ties_by_index():
    samples = [
        (None, (0, 1), 9.0),
        ((1, 2), (0, 1), 1.0),
        ((4, 3), (0, 1), 1.0),
        ((9, 1), (0, 1), 0.5),
    ]
    ballots = make_ballots([samples])
    everyone = np.ones((1, 4), bool)
    assert voting.select_guided(ballots, everyone, 1).tolist() == [[False, True, False, False]]
    assert voting.select_guided(ballots, everyone, 2).tolist() == [[False, True, True, False]]
    assert voting.select_guided(ballots, everyone, 4).tolist() == [[False, True, True, True]]


# Invariances.

POLICIES = [
    ("shuffle_argmax", "wrong", True),
]


@pytest.mark.parametrize(("tie_policy", "parse_policy", "stratified"), POLICIES)
def test_a_comparison_does_not_depend_on_its_batch(tie_policy, parse_policy, stratified):
    comparisons = random_comparisons(4, 9, samples=(4, 7))
    settings = {
        "ks": (1, 3, 4), "num_subsets": 5, "tie_policy": tie_policy, "parse_policy": parse_policy,
        "stratified": stratified, "k_meta": voting.half,
    }  # fmt: skip
    together = curve(make_ballots(comparisons), [1] * 9, **settings)
    for c in (0, 5, 8):
        # Alone, and padded to other sizes of S and N.
        alone = make_ballots([comparisons[c]], S=11, N=6, first_id=c)
        got = curve(alone, [1], **settings)
        assert (got.voting[:, 0] == together.voting[:, c]).all()
        assert (got.guided[:, 0] == together.guided[:, c]).all()


def test_presentation_order_and_names_of_responses_do_not_matter():
    comparisons = random_comparisons(5, 30, sizes=(4,), samples=(6, 6))
    rng = random.Random(6)
    shown_otherwise, renamed, best, new_best = [], [], [], []
    for samples in comparisons:
        shown_otherwise.append([])
        renaming = rng.sample(range(4), 4)
        for scores, order, meta in samples:
            turn = rng.sample(range(4), 4)
            moved = None if scores is None else tuple(scores[i] for i in turn)
            shown_otherwise[-1].append((moved, tuple(order[i] for i in turn), meta))
        renamed.append([(s, tuple(renaming[i] for i in o), m) for s, o, m in samples])
        best.append(rng.randrange(4))
        new_best.append(renaming[best[-1]])
    settings = {"ks": (1, 2, 6), "tie_policy": "half", "k_meta": voting.half}
    base = curve(make_ballots(comparisons), best, **settings)
    for other in (
        curve(make_ballots(shown_otherwise), best, **settings),
        curve(make_ballots(renamed), new_best, **settings),
    ):
        assert (base.voting == other.voting).all()
        assert (base.guided == other.guided).all()


def test_plain_curve_is_the_same_with_and_without_guided():
    ballots = make_ballots(random_comparisons(8, 20, samples=(6, 6)))
    settings = {"ks": (1, 2, 4, 6), "tie_policy": "half", "stratified": True}
    both = curve(ballots, [0] * 20, k_meta=(1, 1, 4, 3), **settings)
    plain = curve(ballots._replace(meta_CS=None), [0] * 20, **settings)
    assert plain.guided is None
    assert (both.voting == plain.voting).all()
    # k = 1 keeps its one sample, and k_meta = k keeps everything.
    same = [(both.guided[row] == both.voting[row]).all() for row in range(4)]
    assert same == [True, False, True, False]


# Stratification.


@pytest.mark.parametrize("stratified", [True, False])
def test_subsets_take_orders_evenly_and_samples_equally_often(stratified):
    sizes = (4, 4, 4)  # 3 orders, 4 samples each, in mixed places; 2 places were not drawn
    strata = np.array([0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 2, 1, 0, 0], np.int32)
    drawn = np.arange(14) < 12
    assert tuple(np.bincount(strata[drawn])) == sizes
    bits_MS = jax.random.bits(KEY, (2000, 14))
    draw = functools.partial(voting.subset_positions, stratified=stratified)
    draw = jax.jit(jax.vmap(draw, in_axes=(0, None, None)))
    positions = np.asarray(draw(bits_MS, drawn, strata))
    assert (np.sort(positions[:, drawn], axis=1) == np.arange(12)).all()
    assert (positions[:, ~drawn] == 14).all()
    spreads = []
    for k in range(1, 13):
        counts = np.stack(
            [((positions < k) & drawn & (strata == s)).sum(axis=1) for s in range(3)], axis=1
        )
        assert (counts.sum(axis=1) == k).all()
        spreads.append(np.ptp(counts, axis=1).max())
    if stratified:
        assert max(spreads) == 1 and spreads[2] == spreads[5] == spreads[11] == 0
    else:
        assert max(spreads) > 1
    often = (positions < 5)[:, drawn].mean(axis=0)
    assert np.abs(often - 5 / 12).max() < 4.5 * (0.25 / 2000) ** 0.5


def test_stratified_fills_up_when_an_order_runs_out():
    strata = np.array([0, 1, 1, 1, 1, 1], np.int32)
    ballots = make_ballots([[((1, 1), (0, 1), 0.0)] * 6])._replace(order_ids_CS=strata[None])
    position_MS = np.asarray(positions(ballots, 20, stratified=True))[0]
    assert (position_MS[:, 0] < 2).all()
    assert (np.sort(position_MS, axis=1) == np.arange(6)).all()


# n = 1.


def test_single_responses_get_their_mean_reward_and_no_accuracy():
    comparisons = [
        [((4,), (0,), 0.0), (None, (0,), 5.0), ((9,), (0,), 1.0), ((6,), (0,), 2.0)],
        [((4, 2), (0, 1), 0.0)] * 4,
        [(None, (0,), 0.0)] * 4,
        [((7,), (0,), 0.0)],
    ]
    ballots = make_ballots(comparisons)
    verdict = voting.totals(ballots, ballots.drawn_CS)
    assert np.allclose(verdict.totals_CN[0, 0], 19 / 3)  # the unparsed sample lowers nothing
    assert verdict.voters_C.tolist() == [3, 4, 0, 1]
    assert not verdict.tops_CN[2].any()
    ks, num_subsets = (1, 2, 4), 8
    settings = {"ks": ks, "num_subsets": num_subsets, "key": KEY, "stratified": False}
    scores, guided = jax.tree.map(
        lambda totals: np.asarray(totals)[..., 0],
        # Whatever adds up several responses, one response has its mean.
        voting.score_curve(ballots, k_meta=voting.half, aggregation="borda", **settings),
    )
    position_CMS = np.asarray(positions(ballots, num_subsets))
    assert scores.shape == guided.shape == (3, num_subsets, 4)
    for subset in range(num_subsets):
        position = position_CMS[0, subset]
        for row, k in enumerate(ks):
            chosen = [sample for s, sample in enumerate(comparisons[0]) if position[s] < k]
            for got, votes in ((scores, chosen), (guided, naive_guided(chosen, max(1, k // 2)))):
                want = naive_totals(votes)
                if want is None:
                    assert np.isnan(got[row, subset, 0])
                else:
                    assert np.isclose(got[row, subset, 0], float(want[0]))
    assert np.isnan(scores[:, :, 2]).all()  # nothing parsed
    assert (scores[0, :, 3] == 7).all() and np.isnan(scores[1:, :, 3]).all()
    credits = curve(ballots, [0] * 4, ks=ks).voting
    assert np.isnan(credits).tolist() == [
        [True, False, True, True], [True, False, True, True], [True, False, True, True],
    ]  # fmt: skip


def test_a_choice_that_cannot_fail_or_succeed_gives_no_number():
    ballots = make_ballots([FIGURE_3] * 4, N=3)
    credits = curve(ballots, [1, 2, set(), {0, 1}]).voting[0]
    assert np.isnan(credits).tolist() == [False, True, True, True]


def test_nine_thirds_of_a_majority_tie_with_three_votes():
    samples = [((5, 5, 5, 1), (0, 1, 2, 3), 0.0)] * 9 + [((1, 1, 1, 9), (0, 1, 2, 3), 0.0)] * 3
    ballots = make_ballots([samples])  # in float32 nine thirds are 2.9999998
    verdict = voting.totals(ballots, ballots.drawn_CS, "majority")
    assert verdict.tops_CN.tolist() == [[True] * 4]


# Bad arguments.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregation": "product"}, "aggregation"),
        ({"tie_policy": "first"}, "tie_policy"),
        ({"parse_policy": "drop"}, "parse_policy"),
        ({"ks": (5,)}, "ks"),
        ({"ks": (0,)}, "ks"),
        ({"ks": ()}, "ks"),
        ({"ks": (2, 2)}, "ks"),
        ({"num_subsets": 0}, "num_subsets"),
        ({"ks": (1, 2, 4), "k_meta": 2}, "k_meta: 2 must be between 1 and k = 1"),
        ({"ks": (4,), "k_meta": 0}, "k_meta"),
        ({"ks": (4,), "k_meta": (1, 2)}, "k_meta"),
        ({"ks": (4,), "k_meta": lambda k: k + 1}, "k_meta"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        curve(make_ballots([FIGURE_3]), [1], **changes)


def test_guided_without_meta_scores_is_an_error():
    ballots = make_ballots([FIGURE_3])._replace(meta_CS=None)
    with pytest.raises(ValueError, match="meta scores"):
        curve(ballots, [1], k_meta=voting.half)
    with pytest.raises(ValueError, match="meta scores"):
        voting.select_guided(ballots, np.ones((1, 4), bool), 2)


def test_half_is_the_default_of_the_paper():
    assert [voting.half(k) for k in (1, 2, 3, 5, 8, 32)] == [1, 1, 1, 2, 4, 16]
    assert voting.resolve_k_meta((1, 8, 32), voting.half) == (1, 4, 16)
    assert voting.resolve_k_meta((8, 32), 8) == (8, 8)


# What runs on the device.


def test_one_program_no_transfer_when_warm(compilation_counter):
    best = jax.device_put(np.eye(3, dtype=bool)[[0] * 6])
    first, second = (
        jax.device_put(make_ballots(random_comparisons(seed, 6, sizes=(3,), samples=(8, 8))))
        for seed in (10, 11)
    )
    other_key = jax.random.key(8)
    settings = {"ks": (1, 2, 4, 8), "num_subsets": 11, "k_meta": voting.half}
    with compilation_counter() as compiled:
        cold = device_curve(first, best, **settings)
        with jax.transfer_guard("disallow"):
            warm = device_curve(second, best, key=other_key, **settings)
            jax.block_until_ready(warm)
            with pytest.raises(Exception, match="Disallowed host-to-device"):  # the guard is awake
                device_curve(jax.tree.map(np.asarray, second), best, **settings)
    assert compiled.count("_accuracy_curve") == 1
    assert cold.voting.shape == warm.guided.shape == (4, 6)
    assert not np.array_equal(cold.voting, warm.voting)
