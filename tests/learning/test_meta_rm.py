"""The meta RM: what it is trained on, its loss, and that it reads the last real token."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from builders import trajectory

from grm_jax.learning import meta_rm
from grm_jax.learning.state import OptimizerConfig, create_state, make_optimizer
from grm_jax.models import heads, transformer
from grm_jax.models.variants import VARIANTS

TINY = VARIANTS["tiny"]
DESCENT = optax.sgd(1.0)


# ---- selection ----


def single(uid, sample, correct, stage="rft", hinted=False):
    """A trajectory about one response."""
    return trajectory(uid, sample, (1,), stage=stage, correct=correct, hinted=hinted)


DRAWN = [
    single("a", 0, True),
    single("a", 1, False),
    single("a", 0, True, stage="grpo"),
    single("a", 1, True, stage="grpo"),
    single("a", 0, True, hinted=True),
    single("b", 0, True),
    single("b", 1, True),
    single("c", 0, False),
    single("c", 0, True, stage="grpo"),
    single("c", 1, False, stage="grpo"),
    single("c", 2, False, stage="grpo"),
    single("d", 0, None),
    # A hinted trajectory does not make a comparison mixed.
    single("e", 0, False),
    single("e", 0, True, hinted=True),
]


@pytest.mark.parametrize(
    ("options", "used", "weights"),
    [
        ({}, [0, 1, 8, 9, 10], [1, 1, 3 / 2, 3 / 4, 3 / 4]),
        ({"balance": "none"}, [0, 1, 8, 9, 10], [1] * 5),
        ({"only_mixed": False}, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 12],
         [1, 1, 1, 1, 1, 1, 1, 3 / 2, 3 / 4, 3 / 4, 1]),
    ],
)  # fmt: skip
def test_selection(options, used, weights):
    examples, counts = meta_rm.select(DRAWN, meta_rm.MetaRMConfig(**options))
    assert [example.trajectory for example in examples] == [DRAWN[i] for i in used]
    assert [example.label for example in examples] == [float(DRAWN[i].correct) for i in used]
    assert [example.weight for example in examples] == pytest.approx(weights)
    right = sum(bool(DRAWN[i].correct) for i in used)
    assert counts == {
        "used_correct": right,
        "used_incorrect": len(used) - right,
        "hinted": 2,
        "unknown": 1,
        "not_mixed": 11 - len(used),
    }
    assert sum(counts.values()) == len(DRAWN)


def test_balanced_weights_give_both_classes_the_same_sum():
    examples, _ = meta_rm.select(DRAWN, meta_rm.MetaRMConfig())
    for uid, size in (("a", 2), ("c", 3)):
        own = [example for example in examples if example.trajectory.uid == uid]
        assert sum(example.weight for example in own) == pytest.approx(size)
        assert sum(e.weight for e in own if e.label) == pytest.approx(size / 2)


def test_who_wrote_a_trajectory_does_not_predict_its_label():
    rng = np.random.default_rng(0)
    drawn = [
        single(f"u{i}", sample, bool(rng.random() < right), stage=stage)
        for i in range(200)
        for stage, count, right in (("rft", 3, 0.5), ("meta_rm", 8, 0.7))
        for sample in range(count)
    ]
    examples, _ = meta_rm.select(drawn, meta_rm.MetaRMConfig())
    for stage in ("rft", "meta_rm"):
        own = [example for example in examples if example.trajectory.stage == stage]
        right = sum(e.weight for e in own if e.label) / sum(e.weight for e in own)
        assert right == pytest.approx(0.5)


def test_bad_choices_and_batches():
    with pytest.raises(ValueError, match=r"balance: must be one of .*'comparison'.*'all'"):
        meta_rm.MetaRMConfig(balance="all")
    with pytest.raises(ValueError, match=r"micro_batches: must be at least 1"):
        meta_rm.MetaRMConfig(micro_batches=0)
    for sequences, match in (
        ([[1], []], "sequence 1: 0 tokens"),
        ([[1] * 9], "sequence 0: 9 tokens, expected 1 to 8"),
        ([], "0 sequences"),
        ([[1]] * 5, "5 sequences"),
    ):
        with pytest.raises(ValueError, match=match):
            meta_rm.make_batch(sequences, length=8, batch_size=4)
    with pytest.raises(ValueError, match="2 sequences, but 1 labels"):
        meta_rm.make_batch([[1], [2]], length=8, labels=[1])


# ---- loss ----


def test_binary_cross_entropy_equals_numpy():
    logits = np.array([-40.0, -2.0, -0.1, 0.0, 0.3, 5.0, 40.0])
    for label in (0.0, 1.0):
        found = meta_rm.binary_cross_entropy(jnp.asarray(logits), jnp.full(7, label))
        signed = logits if label else -logits
        expected = [math.log1p(math.exp(-x)) if x > -30 else -x for x in signed]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


@pytest.fixture(scope="module")
def world():
    decoder = jax.jit(lambda key: transformer.init(TINY, key))(jax.random.key(0))
    params = meta_rm.init(TINY, decoder, jax.random.key(1))
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, TINY.vocab_size, size=n).tolist() for n in (3, 11, 1, 12, 7, 5)]
    labels = [1, 0, 0, 1, 1, 0]
    weights = [0.5, 2.0, 1.0, 1.5, 0.25, 0.75]
    return params, sequences, labels, weights


@jax.jit
def score_of_one(params, ids_1T, segment_ids_1T, last):
    positions_1T = jnp.arange(ids_1T.shape[1])[None]
    hidden, _ = transformer.apply(TINY, params["decoder"], ids_1T, positions_1T, segment_ids_1T)
    return heads.scalar_apply(params["head"], hidden[:, last])[0]


def naive_scores(params, sequences):
    """One row at a time. What comes after the last token is other text of the same segment."""
    return jnp.stack(
        [
            score_of_one(
                params,
                jnp.asarray([ids + [7] * (12 - len(ids))]),
                jnp.ones((1, 12), jnp.int32),
                len(ids) - 1,
            )
            for ids in sequences
        ]
    )


def test_scores_read_the_last_real_token(world):
    params, sequences, _, _ = world
    batch = meta_rm.make_batch(sequences, length=12, batch_size=8, pad_id=3)
    found = meta_rm.make_score_fn(TINY)(params, batch)
    assert found.shape == (8,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found[:6], naive_scores(params, sequences), atol=1e-5)
    assert np.isfinite(found).all()
    assert batch.last_B.tolist() == [2, 10, 0, 11, 6, 4, 0, 0]
    assert batch.weights_B.tolist() == [1] * 6 + [0] * 2


def train_step(world, config, optimizer=DESCENT):
    params, sequences, labels, weights = world
    batch = meta_rm.make_batch(sequences, length=12, batch_size=8, labels=labels, weights=weights)
    # Absent rows may hold anything.
    batch.labels_B[6:], batch.tokens_BT[7], batch.segment_ids_BT[7] = 1, 5, 1
    state = create_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0))
    new, metrics = meta_rm.make_train_step(TINY, config, optimizer)(state, {}, batch)
    grads = jax.tree.map(lambda a, b: a - b, params, new.params)
    return grads, jax.device_get(metrics)


def assert_close(a, b, atol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0)


def test_loss_gradient_and_metrics_of_micro_batches_equal_numpy(world):
    params, sequences, labels, weights = world
    logits, vjp = jax.vjp(lambda p: naive_scores(p, sequences), params)
    z, y, w = (np.asarray(x, np.float64) for x in (logits, labels, weights))
    losses = -(y * np.log(1 / (1 + np.exp(-z))) + (1 - y) * np.log(1 / (1 + np.exp(z))))
    slope = w / w.sum() * (1 / (1 + np.exp(-z)) - y)
    (expected,) = vjp(jnp.asarray(slope, jnp.float32))
    right = (z > 0) == (y > 0)
    grads, metrics = train_step(world, meta_rm.MetaRMConfig(micro_batches=4))
    assert_close(grads, expected, atol=2e-6)
    assert metrics == {
        "loss": pytest.approx(np.sum(w * losses) / w.sum(), abs=1e-6),
        "accuracy": pytest.approx(right.mean()),
        "weighted_accuracy": pytest.approx(np.sum(w * right) / w.sum(), rel=1e-6),
        "logit_correct": pytest.approx(z[y > 0].mean(), rel=1e-4),
        "logit_incorrect": pytest.approx(z[y == 0].mean(), rel=1e-4),
        "correct_share": 0.5,
        "rows": 6,
        "grad_norm": pytest.approx(float(optax.tree.norm(expected)), rel=1e-4),
        "update_norm": pytest.approx(float(optax.tree.norm(expected)), rel=1e-4),
    }
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected)) > 1e-2


def test_training_separates_the_classes_in_one_compilation(world, compilation_counter):
    params, sequences, labels, _ = world
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, steps=12, schedule="constant"))
    state = create_state(meta_rm.init(TINY, params["decoder"], jax.random.key(3)), optimizer,
                         jax.random.key(0))  # fmt: skip
    step = meta_rm.make_train_step(TINY, meta_rm.MetaRMConfig(), optimizer)
    batch = jax.device_put(meta_rm.make_batch(sequences, length=12, labels=labels))
    with compilation_counter() as compiled:
        for i in range(12):
            before = state
            with jax.transfer_guard("disallow" if i else "allow"):
                state, metrics = step(before, {}, batch)
            assert all(x.is_deleted() for x in jax.tree.leaves(before.params))
    assert compiled.count("meta_rm_update") == 1
    assert metrics["accuracy"] == 1.0
    assert metrics["loss"] < 0.3
    # The decoder it started from is still there.
    assert not any(x.is_deleted() for x in jax.tree.leaves(params))


def test_rows_that_do_not_divide_name_the_field(world):
    with pytest.raises(ValueError, match=r"meta_rm\.micro_batches \(3\).*8 rows"):
        train_step(world, dataclasses.replace(meta_rm.MetaRMConfig(), micro_batches=3))
