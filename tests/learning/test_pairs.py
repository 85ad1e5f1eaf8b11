"""The Bradley-Terry loss of pairs: against numpy, in its gradient, and in a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grm_jax.learning import meta_rm, pairs
from grm_jax.learning.state import OptimizerConfig, create_state, make_optimizer
from grm_jax.models import transformer
from grm_jax.models.variants import VARIANTS

TINY = VARIANTS["tiny"]


def test_pair_loss_and_its_slope_equal_numpy():
    better = np.array([0.0, 3.0, -2.0, 40.0, -40.0])
    worse = np.array([0.0, 1.0, 2.5, -40.0, 40.0])
    gap = better - worse
    expected = [np.log1p(np.exp(-x)) if x > -30 else -x for x in gap]
    np.testing.assert_allclose(pairs.pair_loss(better, worse), expected, rtol=1e-6, atol=1e-12)
    slopes = jax.grad(lambda b, w: pairs.pair_loss(b, w).sum(), (0, 1))(
        jnp.asarray(better), jnp.asarray(worse)
    )
    np.testing.assert_allclose(slopes[0], -1 / (1 + np.exp(gap)), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(slopes[1], 1 / (1 + np.exp(gap)), rtol=1e-5, atol=1e-12)


@pytest.fixture(scope="module")
def world():
    decoder = jax.jit(lambda key: transformer.init(TINY, key))(jax.random.key(0))
    params = meta_rm.init(TINY, decoder, jax.random.key(1))
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, TINY.vocab_size, size=n).tolist() for n in (3, 11, 1, 12, 7, 5, 9, 2)]
    return params, list(zip(rows[::2], rows[1::2], strict=True))


def test_a_batch_keeps_both_rows_of_a_pair_together(world):
    batch = pairs.make_batch(world[1], length=12, pad_id=3)
    assert batch.tokens_BT.shape == (4, 2, 12) and batch.last_B.shape == (4, 2)
    assert batch.last_B.tolist() == [[2, 10], [0, 11], [6, 4], [8, 1]]
    assert batch.tokens_BT[2, 1].tolist() == world[1][2][1] + [3] * 7
    with pytest.raises(ValueError, match="sequence 3: 12 tokens, expected 1 to 11"):
        pairs.make_batch(world[1], length=11)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_update_equals_the_gradient_of_the_numpy_loss(world, micro_batches):
    params, own = world
    flat = meta_rm.make_batch([row for pair in own for row in pair], length=12)
    logits, vjp = jax.vjp(lambda p: meta_rm.scores(TINY, p, flat), params)
    better, worse = np.asarray(logits, np.float64).reshape(-1, 2).T
    slope = 1 / (1 + np.exp(better - worse)) / len(own)
    (expected,) = vjp(jnp.asarray(np.stack([-slope, slope], axis=1).ravel(), jnp.float32))

    optimizer = optax.sgd(1.0)
    state = create_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0))
    step = pairs.make_train_step(TINY, optimizer, micro_batches=micro_batches)
    new, metrics = step(state, {}, pairs.make_batch(own, length=12))
    for before, after, grad in zip(
        *map(jax.tree.leaves, (params, new.params, expected)), strict=True
    ):
        np.testing.assert_allclose(before - after, grad, atol=2e-6, rtol=0)
    assert jax.device_get(metrics) == {
        "loss": pytest.approx(np.mean(np.log1p(np.exp(worse - better))), abs=1e-6),
        "accuracy": pytest.approx(np.mean(better > worse)),
        "margin": pytest.approx(np.mean(better - worse), abs=1e-6),
        "grad_norm": pytest.approx(float(optax.tree.norm(expected)), rel=1e-4),
        "update_norm": pytest.approx(float(optax.tree.norm(expected)), rel=1e-4),
    }
    assert float(optax.tree.norm(expected)) > 1e-2


def test_training_orders_the_pairs(world):
    params, own = world
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, steps=12, schedule="constant"))
    state = create_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0))
    step = pairs.make_train_step(TINY, optimizer)
    batch = pairs.make_batch(own, length=12)
    for _ in range(12):
        state, metrics = step(state, {}, batch)
    assert metrics["accuracy"] == 1.0
    assert metrics["loss"] < 0.3


def test_pairs_that_do_not_divide_name_the_field(world):
    params, own = world
    optimizer = optax.sgd(1.0)
    state = create_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0))
    step = pairs.make_train_step(TINY, optimizer, micro_batches=3)
    with pytest.raises(ValueError, match=r"baseline\.micro_batches \(3\).*4 pairs"):
        step(state, {}, pairs.make_batch(own, length=12))
