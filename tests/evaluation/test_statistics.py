"""Statistics against scipy, closed forms and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from grm_jax.evaluation import statistics as st


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_interval_of_a_mean_matches_scipy_and_the_normal_form(rng):
    values = rng.random(200) ** 2
    got = st.bootstrap_mean(values, num_resamples=20_000)
    want = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert got.value == pytest.approx(values.mean())
    width = got.high - got.low
    assert abs(got.low - want.low) < 0.04 * width and abs(got.high - want.high) < 0.04 * width
    # The bootstrap variance is the population variance / I.
    normal = 1.96 * values.std() / math.sqrt(200)
    assert got.half_width == pytest.approx(normal, rel=0.03)


def test_equal_seeds_give_equal_intervals_and_others_do_not(rng):
    values = rng.random(50)
    assert st.bootstrap_mean(values) == st.bootstrap_mean(values)
    assert st.bootstrap_mean(values) != st.bootstrap_mean(values, rng_seed=1)


def test_chunks_do_not_change_the_width(monkeypatch, rng):
    values = rng.random(30)
    whole = st.bootstrap_mean(values)
    monkeypatch.setattr(st, "CHUNK_ENTRIES", 30 * 7)
    assert st.bootstrap_mean(values).half_width == pytest.approx(whole.half_width, rel=0.05)


def test_clusters_are_resampled_whole(rng):
    # 40 clusters of 5 equal items are 40 items, not 200.
    per_cluster = rng.random(40)
    clustered = st.bootstrap_mean(np.repeat(per_cluster, 5), clusters=np.repeat(np.arange(40), 5))
    assert clustered.value == pytest.approx(per_cluster.mean())
    assert clustered.half_width == pytest.approx(1.96 * per_cluster.std() / math.sqrt(40), rel=0.04)
    # Unequal sizes: the statistic stays the mean over items.
    uneven = st.bootstrap_mean([1, 1, 1, 0], clusters=["a", "a", "a", "b"])
    assert uneven.value == 0.75 and uneven.low == 0.0 and uneven.high == 1.0


def test_paired_difference_uses_the_pairing(rng):
    a = rng.random(300)
    b = a - 0.02 + 0.01 * rng.standard_normal(300)
    got = st.paired_difference(a, b)
    assert got.value == pytest.approx((a - b).mean())
    half_width = (got.high - got.low) / 2
    assert half_width == pytest.approx(1.96 * (a - b).std() / math.sqrt(300), rel=0.04)
    assert 0 < got.p_value < 0.001 and got.low > 0
    back = st.paired_difference(b, a)
    assert back.value == pytest.approx(-got.value) and back.p_value == got.p_value
    none = st.paired_difference(a, a)
    assert none == (0.0, 0.0, 0.0, 1.0)


def test_p_value_agrees_with_the_normal_test(rng):
    noise = rng.standard_normal(200)
    difference = (noise - noise.mean()) / noise.std() * math.sqrt(200) + 1.3  # z = 1.3 exactly
    got = st.paired_difference(difference, np.zeros(200), num_resamples=20_000)
    assert got.p_value == pytest.approx(2 * scipy.stats.norm.sf(1.3), rel=0.06)


def test_weighted_mean_of_strata_that_are_drawn_apart(rng):
    small, large = rng.random(20), rng.random(500)
    parts = [st.resample([values], rng_seed=(0, i)) for i, values in enumerate((small, large))]
    got = st.weighted_mean(parts, [3, 1]).interval(0)
    assert got.value == pytest.approx(0.75 * small.mean() + 0.25 * large.mean())
    variance = 9 / 16 * small.var() / 20 + 1 / 16 * large.var() / 500
    assert got.half_width == pytest.approx(1.96 * math.sqrt(variance), rel=0.04)
    for weights in ([1], [0, 0], [2, -1]):
        with pytest.raises(ValueError, match="weights"):
            st.weighted_mean(parts, weights)


def test_lines_on_the_same_resamples_are_what_they_are_alone(rng):
    a, b = rng.random(300), rng.random(300)
    clusters = np.arange(300) // 3
    both = st.resample([a, b], clusters=clusters)
    assert both.interval(0) == pytest.approx(st.bootstrap_mean(a, clusters=clusters))
    assert both.interval(1) == pytest.approx(st.bootstrap_mean(b, clusters=clusters))
    assert both.difference(0, 1) == pytest.approx(st.paired_difference(a, b, clusters=clusters))


def test_bootstrap_of_a_general_statistic(rng):
    values = rng.random(150)
    got = st.bootstrap_statistic(lambda index: values[index].mean(), 150, num_resamples=4000)
    want = st.bootstrap_mean(values)
    assert got.value == pytest.approx(want.value)
    assert got.half_width == pytest.approx(want.half_width, rel=0.06)
    with pytest.raises(ValueError, match="not defined"):
        st.bootstrap_statistic(lambda index: math.nan, 5)


def test_mcnemar_is_the_exact_binomial_test():
    a = [1] * 12 + [0] * 3 + [1] * 40 + [0] * 20
    b = [0] * 12 + [1] * 3 + [1] * 40 + [0] * 20
    tail = sum(math.comb(15, i) for i in range(4)) / 2**15
    assert st.mcnemar(a, b) == pytest.approx(2 * tail) == st.mcnemar(b, a)
    assert st.mcnemar([1, 0], [1, 0]) == 1.0
    with pytest.raises(ValueError, match="0 and 1"):
        st.mcnemar([0.5, 1], [0, 1])


def test_within_comparison_auc_ignores_difficulty():
    # Scores that only know which comparison is easy: overall AUC high, inside it is chance.
    correct = np.array([[1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    scores = np.array([[3.0] * 4, [1.0] * 4, [9.0] * 4])
    valid = np.ones((3, 4), bool)
    got = st.within_comparison_auc(scores, correct, valid)
    assert got == (0.5, 6, 2)
    right, wrong = scores[correct == 1], scores[correct == 0]
    assert scipy.stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong)) > 0.8
    # Weighted by pairs; padding is not looked at.
    scores = np.array([[2.0, 1.0, math.nan], [1.0, 2.0, 0.0]])
    correct = np.array([[1, 0, 0], [1, 0, 0]])
    valid = np.array([[True, True, False], [True, True, True]])
    got = st.within_comparison_auc(scores, correct, valid)
    assert got == (pytest.approx((1 + 1) / 3), 3, 2)
    none = st.within_comparison_auc([[1.0, 2.0]], [[1, 1]], [[True, True]])
    assert math.isnan(none.value) and none[1:] == (0, 0)
    with pytest.raises(ValueError, match="finite"):
        st.within_comparison_auc([[math.nan]], [[1]], [[True]])


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([1, math.nan], {}, "values: 1 values are not finite"),
        ([], {}, "non-empty"),
        ([1, 2], {"clusters": ["a"]}, "clusters"),
        ([1, 2], {"num_resamples": 0}, "num_resamples"),
    ],
)
def test_bad_arguments_are_named(values, settings, message):
    with pytest.raises(ValueError, match=message):
        st.bootstrap_mean(values, **settings)


def test_unpaired_inputs_are_an_error():
    with pytest.raises(ValueError, match="not paired"):
        st.paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="not paired"):
        st.mcnemar([1, 0], [1])


def test_over_seeds_is_the_t_test_where_seeds_have_their_own_items(rng):
    """Seeds have different numbers of items, and their clusters change nothing."""
    values = [rng.random((2, 30)), 0.3 + rng.random((2, 20)), 0.1 * rng.random((2, 40))]
    clusters = [np.arange(30) // 3, np.arange(20), np.arange(40)]
    got = st.over_seeds(values, clusters=clusters, same_items=False)
    means_R = [one.mean(axis=1) for one in values]
    for found, own in (
        (got.interval(1), [mean[1] for mean in means_R]),
        (got.difference(0, 1), [mean[0] - mean[1] for mean in means_R]),
    ):
        test = scipy.stats.ttest_1samp(own, 0.0)
        assert found.value == pytest.approx(np.mean(own))
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert getattr(found, "p_value", test.pvalue) == pytest.approx(test.pvalue)
    with pytest.raises(ValueError, match="as many lines of each seed"):
        st.over_seeds([values[0], values[1][:1]], clusters=clusters[:2], same_items=False)
    with pytest.raises(ValueError, match="at least one seed"):
        st.over_seeds([], clusters=[], same_items=False)
    with pytest.raises(ValueError, match="as many of them"):
        st.over_seeds(values, clusters=clusters, same_items=True)


def test_differences_that_all_seeds_share_have_no_p_value(rng):
    values = [rng.random((1, 20)) for _ in range(3)]
    shifted = [np.concatenate([one, one, one - 0.25, one - rng.random()]) for one in values]
    got = st.over_seeds(shifted, clusters=[np.arange(20)] * 3, same_items=False)
    equal, constant = got.difference(0, 1), got.difference(0, 2)
    assert equal == (0.0, 0.0, 0.0, 1.0)
    assert constant[:3] == pytest.approx((0.25, 0.25, 0.25)) and math.isnan(constant.p_value)
    # A p-value as good as zero is a number too.
    certain = [np.full((1, 4), 1 + 1e-9 * i) for i in range(5)]
    certain = [np.concatenate([one, 0 * one]) for one in certain]
    got = st.over_seeds(certain, clusters=[np.arange(4)] * 5, same_items=False).difference(0, 1)
    assert got.p_value == st.MIN_P


def test_a_single_seed_is_resampled(rng):
    values, clusters = rng.random((2, 60)), np.arange(60) // 2
    got = st.over_seeds([values], clusters=[clusters], same_items=True)
    want = st.paired_difference(values[0], values[1], clusters=clusters)
    assert got.difference(0, 1) == pytest.approx(want)


def test_the_same_items_are_no_new_evidence_for_every_seed(rng):
    values = rng.random((1, 400))
    alone = st.bootstrap_mean(values[0]).half_width

    def width(values, names, *, same_items=True):
        clusters = [names] * len(values)
        return st.over_seeds(values, clusters=clusters, same_items=same_items).interval(0)[2]

    mean, names = values.mean(), np.arange(400)
    assert width([values] * 4, names) - mean == pytest.approx(alone, rel=0.05)
    assert width([values] * 4, names, same_items=False) == pytest.approx(mean)
    # An item that is there four times, as one cluster, counts once; cluster sizes may differ.
    four = [np.repeat(values, 4, axis=1)] * 3
    once = width([values] * 3, names) - mean
    assert width(four, np.repeat(names, 4)) - mean == pytest.approx(once, rel=1e-6)
    assert width(four, np.arange(1600)) - mean == pytest.approx(once / 2, rel=0.01)
    uneven = np.sort(rng.integers(100, size=400))
    clustered = st.bootstrap_mean(values[0], clusters=uneven).half_width
    assert width([values] * 3, uneven) - mean == pytest.approx(clustered, rel=0.1)
    assert math.isfinite(width([values] * 3, np.zeros(400)))


@pytest.mark.parametrize("same_items", [False, True])
@pytest.mark.parametrize("spread", [0, 1, 4])
def test_intervals_over_seeds_cover_what_they_claim(rng, same_items, spread):
    """4,000 trials of 5 seeds; their standard deviation is `spread` standard errors of items."""
    trials, R, I = 4000, 5, 100  # noqa: E741
    items = rng.normal(0, 1, (trials, 1 if same_items else R, I))
    seeds = rng.normal(0, spread / math.sqrt(I), (trials, R, 1))
    values = items + seeds + same_items * rng.normal(0, 0.5, (trials, R, I))
    held = 0
    for own in values:
        low, high = st.over_seeds(
            list(own[:, None]), clusters=[np.arange(I)] * R, same_items=same_items
        ).interval(0)[1:]
        held += low <= 0 <= high
    assert 0.93 <= held / trials <= 0.97


def test_p_values_and_intervals_over_seeds_agree(rng):
    for same_items in (False, True):
        values = [rng.normal(0, 1, (1, 50)) for _ in range(5)]
        values = [np.concatenate([one + 0.3, 0 * one]) for one in values]
        got = st.over_seeds(values, clusters=[np.arange(50)] * 5, same_items=same_items)
        found = got.difference(0, 1)
        # Moved until the interval ends at zero, the p-value is 0.05.
        moved = [one - [[found.low], [0.0]] for one in values]
        got = st.over_seeds(moved, clusters=[np.arange(50)] * 5, same_items=same_items)
        assert got.difference(0, 1).p_value == pytest.approx(0.05, abs=1e-6)


def test_holm():
    # By hand, and a claim without a p-value counts among them.
    np.testing.assert_allclose(st.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(st.holm([0.02, math.nan, 0.4]), [0.06, 1.0, 0.8])
    assert st.holm([]).shape == (0,)
    # With all claims false, at most 5 % of the families have one that holds.
    rng = np.random.default_rng(0)
    p_values = rng.random((4000, 4))
    assert 0.03 < np.mean([st.holm(own).min() < 0.05 for own in p_values]) < 0.06
    assert np.mean(p_values.min(axis=1) < 0.05) > 0.15
