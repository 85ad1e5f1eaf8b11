"""Supervised fine-tuning: loss, packing, micro-batches, schedules."""

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grm_jax.data import pipeline
from grm_jax.learning import sft, state
from grm_jax.models import heads, transformer
from grm_jax.models.variants import VARIANTS

CONFIG = dataclasses.replace(VARIANTS["tiny"], sliding_window=6)
OPTIMIZER = state.OptimizerConfig(learning_rate=1e-2, steps=20, warmup_steps=2)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: transformer.init(CONFIG, key))(jax.random.key(0))


def examples(count=24):
    rng = np.random.default_rng(0)
    return [
        pipeline.Example(tuple(int(x) for x in rng.integers(1, 64, n)), int(n // 2))
        for n in rng.integers(4, 15, count)
    ]


def packed(batch_size=4):
    config = pipeline.PackingConfig(row_length=32, batch_size=batch_size, bins=4)
    return next(pipeline.packed_batches(examples(), config, seed=0))


def start(params):
    optimizer = state.make_optimizer(OPTIMIZER)
    copy = jax.tree.map(jnp.copy, params)
    return optimizer, state.create_state(copy, optimizer, jax.random.key(1))


def test_packed_loss_equals_the_loss_of_separate_sequences(params):
    config = pipeline.PackingConfig(row_length=64, batch_size=1, bins=1)
    own = examples(4)
    batch = next(pipeline.packed_batches(own, config, seed=0))
    segments = set(np.unique(batch["segment_ids"])) - {0}
    assert len(segments) > 1
    packed_loss, _ = sft.loss_fn(CONFIG, params, batch)
    expected = 0.0
    for segment in segments:
        (where,) = np.nonzero(batch["segment_ids"][0] == segment)
        tokens = batch["tokens"][:, where]
        hidden, _ = transformer.apply(
            CONFIG, params, tokens, np.arange(len(where), dtype=np.int32)[None],
            np.ones_like(tokens),
        )  # fmt: skip
        dense = jax.nn.log_softmax(heads.logits(CONFIG, params, hidden))[0]
        targets = batch["targets"][0, where]
        expected -= np.sum(
            np.asarray(dense)[np.arange(len(where)), targets] * batch["weights"][0, where]
        )
    np.testing.assert_allclose(packed_loss, expected, rtol=1e-5)


def test_prompts_carry_no_weight():
    (example,) = examples(1)
    batch = next(
        pipeline.packed_batches(
            [example], pipeline.PackingConfig(row_length=16, batch_size=1, bins=1), seed=0
        )
    )
    first = batch["segment_ids"][0] == 1
    weights = batch["weights"][0, first]
    np.testing.assert_array_equal(np.nonzero(weights)[0][0], example.prompt_length - 1)
    assert weights.sum() == len(example.token_ids) - example.prompt_length
    np.testing.assert_array_equal(batch["targets"][0, first][:-1], batch["tokens"][0, first][1:])


def test_micro_batched_step_equals_the_whole_one(params):
    batch, results = packed(), []
    for pieces in (1, 2, 4):
        optimizer, before = start(params)
        step = sft.make_train_step(CONFIG, optimizer, micro_batches=pieces)
        after, metrics = step(before, {}, batch)
        results.append((after.params, {k: float(v) for k, v in metrics.items()}))
    for other, metrics in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), other, results[0][0])
        for name, value in results[0][1].items():
            assert metrics[name] == pytest.approx(value, rel=1e-4), name


def test_training_lowers_the_loss_with_one_program_for_all_schedules(params, compilation_counter):
    batch = jax.device_put(packed())
    with compilation_counter() as counter:
        for config in (OPTIMIZER, dataclasses.replace(OPTIMIZER, learning_rate=2e-2, steps=9)):
            optimizer = state.make_optimizer(config)
            own = jax.tree.map(jnp.copy, state.create_state(params, optimizer, jax.random.key(1)))
            step = sft.make_train_step(CONFIG, optimizer, micro_batches=2)
            losses = []
            own, metrics = step(own, {}, batch)
            with jax.transfer_guard("disallow"):
                for _ in range(5):
                    losses.append(metrics["loss"])
                    own, metrics = step(own, {}, batch)
            assert float(metrics["loss"]) < float(losses[0]) - 0.2
    assert counter.count("sft_update") <= 1  # 0 if an earlier test compiled it


@pytest.mark.parametrize("schedule", state.SCHEDULES)
def test_learning_rate_equals_optax(schedule):
    config = state.OptimizerConfig(
        learning_rate=0.3, steps=11, schedule=schedule, warmup_steps=3, final_fraction=0.2
    )
    _, numbers = state.make_optimizer(config).init({"w": jnp.zeros(2)})
    decay = {
        "cosine": optax.cosine_decay_schedule(0.3, 8, 0.2),
        "constant": optax.constant_schedule(0.3),
    }[schedule]
    # No update has the rate 0: the first of three has a third of the peak.
    reference = optax.join_schedules([optax.linear_schedule(0.1, 0.3, 2), decay], [3])
    for count in range(14):
        actual = state.learning_rate(numbers._replace(count=jnp.asarray(count)))
        np.testing.assert_allclose(actual, reference(count), rtol=1e-5)


def test_updates_equal_adamw_of_optax():
    config = state.OptimizerConfig(learning_rate=0.1, steps=9, weight_decay=0.1, clip_norm=0.5)
    own = state.make_optimizer(config)
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(optax.cosine_decay_schedule(0.1, 9, 0.1), b2=0.98, weight_decay=0.1,
                    mask={"kernel": True, "scale": False}),
    )  # fmt: skip
    a = b = {"kernel": jnp.asarray([1.0, -2.0]), "scale": jnp.asarray([0.5])}
    state_a, state_b = own.init(a), reference.init(b)
    for i in range(4):
        grads = jax.tree.map(lambda x, i=i: jnp.sin(x * (i + 1)), a)
        updates, state_a = own.update(grads, state_a, a)
        a = optax.apply_updates(a, updates)
        updates, state_b = reference.update(grads, state_b, b)
        b = optax.apply_updates(b, updates)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="schedule: must be one of"):
        state.OptimizerConfig(learning_rate=1.0, steps=1, schedule="linear")
    with pytest.raises(ValueError, match="steps: must be at least 1"):
        state.OptimizerConfig(learning_rate=1.0, steps=0)
    with pytest.raises(ValueError, match="row_length=8"):
        pipeline.packed_batches(
            examples(), pipeline.PackingConfig(row_length=8, batch_size=1), seed=0
        )


def test_iterators_resume_exactly():
    config = pipeline.PackingConfig(row_length=32, batch_size=2, bins=3)
    whole = pipeline.packed_batches(examples(), config, seed=3)
    for _ in range(3):
        next(whole)
    saved = whole.get_state()
    expected = [next(whole) for _ in range(4)]
    resumed = pipeline.packed_batches(examples(), config, seed=3)
    resumed.set_state(saved)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, next(resumed), batch)
    prompts = pipeline.shuffled_batches(list(range(10)), 4, seed=1)
    first = [next(prompts) for _ in range(5)]
    assert sorted(first[0] + first[1])[0] >= 0 and len(set(sum(first[:2], []))) == 8
    again = pipeline.shuffled_batches(list(range(10)), 4, seed=1)
    next(again)
    state_after_one = again.get_state()
    third = pipeline.shuffled_batches(list(range(10)), 4, seed=1)
    third.set_state(state_after_one)
    assert next(third) == first[1]
    ones = pipeline.shuffled_batches(list(range(10)), 1, seed=1)
    assert sorted(next(ones)[0] for _ in range(10)) == list(range(10))


@pytest.mark.parametrize("count, size", [(10, 4), (7, 7), (9, 5), (6000, 96)])
def test_no_batch_holds_a_record_twice_over_epochs_and_a_resume(count, size):
    batches = pipeline.shuffled_batches(range(count), size, seed=3)
    per_epoch = count // size
    drawn, states = [], []
    for _ in range(5 * per_epoch):
        states.append(batches.get_state())
        drawn.append(next(batches))
    assert all(len(set(batch)) == size for batch in drawn)
    for epoch in range(5):
        own = sum(drawn[epoch * per_epoch : (epoch + 1) * per_epoch], [])
        assert len(set(own)) == per_epoch * size
    assert drawn[0] != drawn[per_epoch]  # every epoch has an order of its own
    for start in (0, per_epoch - 1, per_epoch, 3 * per_epoch):
        resumed = pipeline.shuffled_batches(range(count), size, seed=3)
        resumed.set_state(states[start])
        assert [next(resumed) for _ in range(per_epoch)] == drawn[start : start + per_epoch]


def test_the_first_epoch_of_batches_is_the_order_of_the_shuffle():
    order = [int(i) for i in grain.MapDataset.range(10).seed(1).shuffle()]
    batches = pipeline.shuffled_batches(range(10), 4, seed=1)
    assert next(batches) + next(batches) == order[:8]
    with pytest.raises(ValueError, match="a batch of 11 needs as many records, got 10"):
        pipeline.shuffled_batches(range(10), 11, seed=1)
