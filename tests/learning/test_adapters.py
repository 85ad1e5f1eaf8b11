"""Training adapters: only they change, and the base serves the policy and the reference at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_grpo import (
    TINY,
    assert_close,
    by_row,
    config_of,
    differences,
    make_rollouts,
    naive_logprobs,
    numpy_loss,
)

from grm_jax.data import pipeline
from grm_jax.learning import grpo, meta_rm, sft
from grm_jax.learning.checkpoints import Checkpoints
from grm_jax.learning.rollouts import make_batch
from grm_jax.learning.state import OptimizerConfig, create_state, make_optimizer
from grm_jax.models import lora, transformer
from grm_jax.models.config import LoRAConfig

CONFIG = dataclasses.replace(TINY, lora=LoRAConfig(rank=2, alpha=3.0))
DESCENT = optax.sgd(1.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, steps=9, schedule="constant")


@pytest.fixture(scope="module")
def trees():
    """A base, and adapters that change it."""
    rng = np.random.default_rng(0)
    base, adapters = lora.split(transformer.abstract_params(CONFIG))
    fill = lambda scale: lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(fill(0.2), base), jax.tree.map(fill(0.3), adapters)


def fresh(adapters):
    """As they are at step 0: B is zero."""
    return jax.tree.map_with_path(lambda path, x: x * path[-1].key.endswith("_lora_a"), adapters)


def unchanged(tree, copies):
    """Whether the buffers are still there with the bits they had."""
    return all(
        np.asarray(x).tobytes() == y.tobytes()
        for x, y in zip(jax.tree.leaves(tree), copies, strict=True)
    )


def bits(tree):
    return [np.array(x) for x in jax.tree.leaves(tree)]


# Supervised.


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    examples = [
        pipeline.Example(tuple(rng.integers(1, 64, n).tolist()), int(n // 2))
        for n in rng.integers(4, 15, 24)
    ]
    packing = pipeline.PackingConfig(row_length=32, batch_size=4, bins=4)
    return next(pipeline.packed_batches(examples, packing, seed=0))


def test_sft_of_adapters_lowers_the_loss_and_leaves_the_base(trees, rows):
    base, adapters = trees
    before = bits(base)
    optimizer = make_optimizer(OPTIMIZER)
    state = create_state(fresh(adapters), optimizer, jax.random.key(0))
    shapes = {x.shape for x in jax.tree.leaves(base)}
    assert not shapes & {x.shape for x in jax.tree.leaves(state)} - {()}
    step = sft.make_train_step(CONFIG, optimizer, micro_batches=2)
    losses = []
    for _ in range(6):
        old = state
        state, metrics = step(old, base, rows)
        losses.append(float(metrics["loss"]))
        assert all(x.is_deleted() for x in jax.tree.leaves(old.params))
    assert unchanged(base, before)
    weights = rows["weights"] / rows["weights"].sum()
    plain = jax.jit(
        functools.partial(sft.loss_fn, lora.strip(CONFIG), batch={**rows, "weights": weights})
    )
    assert losses[0] == pytest.approx(float(plain(base)[0]), rel=1e-6)
    assert losses[-1] < losses[0] - 0.1
    # What the stage leaves is an ordinary model with the same loss.
    _, metrics = step(jax.tree.map(jnp.copy, state), base, rows)
    merged = lora.merge(CONFIG, lora.join(base, state.params))
    assert float(plain(merged)[0]) == pytest.approx(float(metrics["loss"]), rel=1e-5)


# GRPO.

SHAPE = {"group_size": 4, "length": 20, "completion_length": 8}


@pytest.fixture(scope="module")
def rollouts(trees):
    """Rollouts near the policy, its log-probs, those of the base, and the way back to adapters."""
    base, adapters = trees

    def of_policy(adapters):
        return naive_logprobs(lora.merge(CONFIG, lora.join(base, adapters)), rows)

    rows = make_rollouts()
    flat, vjp = jax.vjp(of_policy, adapters)
    sampled = by_row(flat + 0.2 * jax.random.normal(jax.random.key(2), flat.shape), rows)
    rows = [row._replace(logprobs=old) for row, old in zip(rows, sampled, strict=True)]
    return rows, flat, naive_logprobs(base, rows), vjp


def test_grpo_of_adapters_equals_numpy(trees, rollouts):
    base, adapters = trees
    rows, flat, ref, vjp = rollouts
    config = config_of("paper", micro_batches=2)
    before = bits(base)
    state = create_state(jax.tree.map(jnp.copy, adapters), DESCENT, jax.random.key(0))
    step = grpo.make_update_step(CONFIG, config, DESCENT)
    new, metrics = step(state, base, make_batch(rows, **SHAPE))
    assert unchanged(base, before)

    def reference(at):
        return numpy_loss(
            config, by_row(at, rows), [list(map(float, np.float32(row.logprobs))) for row in rows],
            by_row(ref, rows), [row.reward for row in rows], by_row(flat, rows),
        )  # fmt: skip

    at = np.asarray(flat, np.float64)
    (expected,) = vjp(jnp.asarray(differences(reference, at), jnp.float32))
    assert float(metrics["loss"]) == pytest.approx(reference(at), abs=5e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(expected)), rel=1e-4)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    assert largest > 1e-2
    grads = jax.tree.map(lambda a, b: a - b, adapters, new.params)
    assert_close(grads, expected, atol=2e-5 * max(largest, 1.0))
    # The reference is the base: KL and its estimate follow from the base's log-probs.
    d = np.asarray(ref, np.float64) - at
    assert float(metrics["kl"]) == pytest.approx(np.mean(np.expm1(d) - d), rel=1e-4)
    assert float(metrics["kl"]) > 1e-2


def test_fresh_adapters_are_the_reference(trees, rollouts):
    base, adapters = trees
    config = config_of("paper", micro_batches=2)
    state = create_state(fresh(adapters), DESCENT, jax.random.key(0))
    new, metrics = grpo.make_update_step(CONFIG, config, DESCENT)(
        state, base, make_batch(rollouts[0], **SHAPE)
    )
    assert float(metrics["kl"]) == 0.0
    # At B = 0 the gradient of A vanishes, and training starts with B.
    for (path, after), start in zip(
        jax.tree.leaves_with_path(new.params), jax.tree.leaves(adapters), strict=True
    ):
        if path[-1].key.endswith("_lora_a"):
            np.testing.assert_array_equal(after, start)
        else:
            assert np.abs(after).max() > 0, path


# Meta RM.


def test_meta_rm_trains_adapters_and_head(trees):
    base, adapters = trees
    config = CONFIG.replace(param_dtype="bfloat16")
    params = meta_rm.init(config, fresh(adapters), jax.random.key(1))
    head = jax.tree.map(jnp.copy, params["head"])
    assert head["kernel"].dtype == jnp.float32
    optimizer = make_optimizer(OPTIMIZER)
    state = create_state(params, optimizer, jax.random.key(0))
    frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    before = bits(frozen)
    step = meta_rm.make_train_step(config, meta_rm.MetaRMConfig(), optimizer)
    batch = meta_rm.make_batch([[5, 6, 7], [8, 9], [4, 3, 2, 1]], length=4, labels=[1, 0, 1])
    losses = []
    for _ in range(4):
        state, metrics = step(state, {"decoder": frozen}, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] and unchanged(frozen, before)
    trained = lora.join({"decoder": frozen}, state.params)
    done = meta_rm.finished(config, trained)
    assert {str(x.dtype) for x in jax.tree.leaves(done)} == {"bfloat16"}
    plain = lora.strip(config)
    assert jax.tree.structure(done) == jax.tree.structure(
        jax.eval_shape(
            lambda key: meta_rm.init(plain, transformer.init(plain, key), key), jax.random.key(0)
        )
    )
    # bfloat16 has 8 bits: near what was trained, and not what it started from.
    after, rounded, start = (
        meta_rm.make_score_fn(c)(p, batch)
        for c, p in ((config, trained), (plain, done),
                     (plain, {"decoder": frozen, "head": head}))
    )  # fmt: skip
    assert np.abs(rounded - after).max() < 0.2 * np.abs(start - after).max()


# Checkpoints.


def test_a_checkpoint_holds_adapters_alone_and_resumes(trees, rows, tmp_path):
    base, adapters = trees
    optimizer = make_optimizer(OPTIMIZER)
    step = sft.make_train_step(CONFIG, optimizer, micro_batches=2)
    state = create_state(fresh(adapters), optimizer, jax.random.key(0))
    state, _ = step(state, base, rows)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    expected, _ = step(state, base, rows)
    # It has this structure, or restoring would fail: adapters, their moments, and a few scalars.
    abstract = jax.eval_shape(
        lambda: create_state(lora.init_adapters(CONFIG, jax.random.key(0)), optimizer,
                             jax.random.key(0))
    )  # fmt: skip
    restored, _ = checkpoints.restore(abstract)
    checkpoints.close()
    resumed, _ = step(restored, base, rows)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, resumed.opt_state, expected.opt_state)
