"""Keys and presentation orders depend on names alone."""

import collections
import itertools

import jax
import numpy as np
import pytest

from grm_jax.sampling import keys, orders


def words(key_array):
    return np.asarray(jax.random.key_data(key_array))


def test_stable_words_are_two_uint32_that_never_change():
    # Pinned: a change would silently re-seed every stored run.
    assert keys.stable_words("") == (0xE4A6A057, 0x7479B2B4)
    assert keys.stable_words("uid-1") != keys.stable_words("uid-2")
    assert all(0 <= word < 2**32 for word in keys.stable_words("ü" * 100))


def test_sample_keys_are_the_documented_path_of_fold_ins():
    base = jax.random.key(3)
    expected = base
    for word in keys.stable_words("rft"):
        expected = jax.random.fold_in(expected, np.uint32(word))
    expected = jax.random.fold_in(expected, np.uint32(7))
    stage = keys.stage_key(base, "rft", 7)
    np.testing.assert_array_equal(words(stage), words(expected))
    for word in keys.stable_words("b"):
        expected = jax.random.fold_in(expected, np.uint32(word))
    expected = jax.random.fold_in(expected, np.uint32(5))
    drawn = keys.sample_keys(stage, ["a", "b"], np.array([[0, 1, 2], [3, 4, 5]]))
    assert drawn.shape == (2, 3)
    np.testing.assert_array_equal(words(drawn[1, 2]), words(expected))


def test_sample_keys_do_not_depend_on_neighbours_or_shape():
    key = keys.stage_key(jax.random.key(0), "rft", 0)
    many = words(keys.sample_keys(key, ["a", "b"], np.arange(8).reshape(2, 4)))
    alone = words(keys.sample_keys(key, ["b"], np.array([[6]])))
    np.testing.assert_array_equal(alone[0, 0], many[1, 2])


def test_keys_differ_between_stages_steps_uids_and_samples():
    base, seen = jax.random.key(0), set()
    for stage, step in itertools.product(("rft", "rft/hinted"), (0, 1)):
        drawn = keys.sample_keys(
            keys.stage_key(base, stage, step), ["a", "b"], np.array([[0, 1], [0, 1]])
        )
        seen |= {tuple(row) for row in words(drawn).reshape(4, -1)}
    assert len(seen) == 16


@pytest.mark.parametrize("policy", orders.POLICIES)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_orders_for_gives_k_permutations_again_and_again(policy, n):
    drawn = orders.orders_for(policy, n, 9, uid="a", seed=1)
    assert len(drawn) == 9
    assert all(sorted(order) == list(range(n)) for order in drawn)
    assert drawn == orders.orders_for(policy, n, 9, uid="a", seed=1)


@pytest.mark.parametrize("policy", ["random", "balanced"])
def test_orders_of_more_samples_begin_with_those_of_fewer(policy):
    few = orders.orders_for(policy, 4, 5, uid="a", seed=1)
    many = orders.orders_for(policy, 4, 32, uid="a", seed=1)
    assert many[:5] == few


def test_random_orders_differ_between_samples_uids_and_seeds():
    base = orders.orders_for("random", 5, 16, uid="a", seed=1)
    assert len(set(base)) > 8
    assert orders.orders_for("random", 5, 16, uid="b", seed=1) != base
    assert orders.orders_for("random", 5, 16, uid="a", seed=2) != base


def test_random_orders_are_uniform():
    counts = collections.Counter(
        orders.orders_for("random", 3, 1, uid=f"u{i}", seed=0)[0] for i in range(1200)
    )
    assert len(counts) == 6
    # 200 expected of each, standard deviation 13
    assert max(abs(count - 200) for count in counts.values()) < 60


@pytest.mark.parametrize(
    ("n", "k", "max_orders", "distinct"),
    [(2, 8, 4, 2), (2, 7, 4, 2), (3, 8, 4, 3), (3, 12, 24, 3), (4, 32, 4, 4), (1, 4, 4, 1),
     (4, 3, 4, 3), (4, 8, 1, 1), (5, 8, 4, 4)],
)  # fmt: skip
def test_balanced_orders_are_spread_evenly_over_few_permutations(n, k, max_orders, distinct):
    drawn = orders.orders_for("balanced", n, k, uid="a", seed=1, max_orders=max_orders)
    counts = collections.Counter(drawn)
    assert len(drawn) == k
    assert len(counts) == distinct
    assert max(counts.values()) - min(counts.values()) <= 1


def test_balanced_orders_show_two_responses_both_ways():
    for uid in "abcdef":
        drawn = orders.orders_for("balanced", 2, 2, uid=uid, seed=0)
        assert sorted(drawn) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("n", range(1, 9))
def test_balanced_orders_put_each_response_equally_often_at_each_place(n):
    for uid, k in itertools.product("abc", range(1, 41)):
        drawn = np.array(orders.orders_for("balanced", n, k, uid=uid, seed=0, max_orders=8))
        counts = (drawn[:, :, None] == np.arange(n)).sum(axis=0)  # [place, response]
        assert counts.max() - counts.min() <= 1


def test_few_balanced_orders_are_far_apart():
    first, second = orders.orders_for("balanced", 6, 2, uid="a", seed=0, max_orders=2)
    assert second == first[3:] + first[:3]


def test_balanced_starts_with_either_direction():
    first = {orders.orders_for("balanced", 2, 1, uid=f"u{i}", seed=0)[0] for i in range(20)}
    assert first == {(0, 1), (1, 0)}


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="order policy.*'sorted'"):
        orders.orders_for("sorted", 2, 2, uid="a", seed=0)


def test_group_order_is_shared_and_differs_by_step():
    def group(uid="a", n=4, step=3):
        first, *others = orders.orders_for("group", n, 4, uid=uid, step=step, seed=0)
        assert others == [first] * 3
        return first

    assert group() == group()
    assert len({group(step=step) for step in range(20)}) > 8
    assert len({group(f"u{i}") for i in range(20)}) > 8
    assert group(n=1) == (0,)
