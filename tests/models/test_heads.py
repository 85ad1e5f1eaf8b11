"""Logits, token log-probs and the scalar head."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import equations

from grm_jax.models import heads
from grm_jax.models.variants import VARIANTS

CONFIG = dataclasses.replace(VARIANTS["tiny"], final_softcap=2.0)
BATCH, LENGTH = 2, 7
VOCAB, WIDTH = CONFIG.vocab_size, CONFIG.embed_dim


@pytest.fixture(scope="module")
def case():
    """Parameters, hidden states and targets; the soft cap bites."""
    rng = np.random.default_rng(0)
    params = {"embedding": jnp.asarray(0.4 * rng.normal(size=(VOCAB, WIDTH)), jnp.float32)}
    hidden = jnp.asarray(rng.normal(size=(BATCH, LENGTH, WIDTH)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, VOCAB, (BATCH, LENGTH)), jnp.int32)
    return params, hidden, targets


def dense(params, hidden, targets, config=CONFIG):
    """The definition with all logits at once."""
    logprobs = jax.nn.log_softmax(heads.logits(config, params, hidden))
    picked = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
    return picked, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


token_logprobs = jax.jit(heads.token_logprobs, static_argnums=0, static_argnames="chunk")


def test_logits_are_tied_and_capped(case):
    params, hidden, _ = case
    plain = np.asarray(hidden, np.float64) @ np.asarray(params["embedding"], np.float64).T
    assert np.abs(plain).max() > 2 * CONFIG.final_softcap
    got = heads.logits(CONFIG, params, hidden)
    assert got.shape == (BATCH, LENGTH, VOCAB) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, 2 * np.tanh(plain / 2), atol=2e-6)
    assert float(jnp.abs(got).max()) <= CONFIG.final_softcap
    uncapped = heads.logits(dataclasses.replace(CONFIG, final_softcap=None), params, hidden)
    np.testing.assert_allclose(uncapped, plain, atol=1e-5)


def test_logits_take_any_leading_axes(case):
    params, hidden, _ = case
    np.testing.assert_allclose(
        heads.logits(CONFIG, params, hidden[1, 3]),
        heads.logits(CONFIG, params, hidden)[1, 3],
        atol=1e-6,
    )


def test_logits_of_bfloat16_states_are_not_rounded_to_bfloat16(case):
    params, hidden, _ = case
    got = heads.logits(CONFIG, params, hidden.astype(jnp.bfloat16))
    assert got.dtype == jnp.float32
    assert np.any(got != got.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("chunk", [1, 4, 256])  # 4 leaves a remainder
def test_token_logprobs_equal_a_dense_log_softmax(case, chunk):
    want_logprobs, want_entropy = dense(*case)
    logprobs, entropy = token_logprobs(CONFIG, *case, chunk=chunk)
    assert logprobs.shape == entropy.shape == (BATCH, LENGTH)
    assert logprobs.dtype == entropy.dtype == jnp.float32
    np.testing.assert_allclose(logprobs, want_logprobs, atol=2e-6)
    np.testing.assert_allclose(entropy, want_entropy, atol=2e-6)


def test_token_logprobs_accept_bfloat16_states(case):
    params, hidden, targets = case
    rounded = hidden.astype(jnp.bfloat16)
    logprobs, entropy = token_logprobs(CONFIG, params, rounded, targets, chunk=4)
    assert logprobs.dtype == entropy.dtype == jnp.float32
    want_logprobs, want_entropy = dense(params, rounded, targets)
    np.testing.assert_allclose(logprobs, want_logprobs, atol=1e-5)
    np.testing.assert_allclose(entropy, want_entropy, atol=1e-5)


def test_entropy_of_extreme_predictions(case):
    params, hidden, targets = case
    _, entropy = token_logprobs(CONFIG, params, 0 * hidden, targets)
    np.testing.assert_allclose(entropy, math.log(VOCAB), rtol=1e-6)
    sharp = dataclasses.replace(CONFIG, final_softcap=None)
    logprobs, entropy = token_logprobs(sharp, params, 1e4 * hidden, targets)
    np.testing.assert_allclose(entropy, 0.0, atol=1e-2)  # float32 difference of 1e5s
    assert bool(jnp.isfinite(logprobs).all())


def test_gradients_equal_those_of_a_dense_log_softmax(case):
    params, hidden, targets = case
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(2, BATCH, LENGTH)), jnp.float32)

    def loss(logprobs, entropy):
        return jnp.sum(weight[0] * logprobs) + jnp.sum(weight[1] * entropy)

    got = jax.jit(jax.grad(
        lambda p, h: loss(*heads.token_logprobs(CONFIG, p, h, targets, chunk=4)), (0, 1)
    ))(params, hidden)  # fmt: skip
    want = jax.jit(jax.grad(lambda p, h: loss(*dense(p, h, targets)), (0, 1)))(params, hidden)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.abs(w).max() > 0.1
        np.testing.assert_allclose(g, w, atol=5e-6)


def rows_of_logits(shapes):
    """Largest number of predictions that one array with a vocabulary axis holds."""
    return max(math.prod(shape) // VOCAB for shape in shapes if VOCAB in shape)


def gradient_of(function):
    return jax.grad(lambda p, h, t: sum(jnp.sum(x) for x in function(p, h, t)), (0, 1))


@pytest.mark.parametrize("level", ["jaxpr", "hlo"])
def test_no_array_holds_all_logits(level):
    # 96 predictions, 8 at a time; the embedding (and its gradient) has WIDTH = 32 rows of logits.
    batch, length, chunk = 2, 48, 8
    arguments = (
        {"embedding": jax.ShapeDtypeStruct((VOCAB, WIDTH), jnp.float32)},
        jax.ShapeDtypeStruct((batch, length, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
    )

    def shapes(function):
        gradient = gradient_of(function)
        if level == "jaxpr":
            jaxpr = jax.make_jaxpr(gradient)(*arguments).jaxpr
            return [v.aval.shape for e in equations(jaxpr) for v in e.outvars]
        text = jax.jit(gradient).lower(*arguments).compile().as_text()
        found = re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", text)
        return [tuple(map(int, shape.split(","))) for shape in found]

    def chunked(params, hidden, targets):
        return heads.token_logprobs(CONFIG, params, hidden, targets, chunk=chunk)

    assert rows_of_logits(shapes(dense)) >= batch * length  # the measure sees them
    assert rows_of_logits(shapes(chunked)) <= max(chunk, WIDTH)


def test_scalar_head(case):
    _, hidden, _ = case
    params = heads.scalar_init(CONFIG, jax.random.key(0))
    assert {name: x.shape for name, x in params.items()} == {"kernel": (WIDTH,)}
    got = heads.scalar_apply(params, hidden[:, -1])
    assert got.shape == (BATCH,) and got.dtype == jnp.float32
    want = np.asarray(hidden[:, -1], np.float64) @ np.asarray(params["kernel"], np.float64)
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_scalar_head_is_made_in_the_parameter_type_and_read_in_float32(case):
    _, hidden, _ = case
    config = CONFIG.replace(param_dtype="bfloat16", embed_dim=4096)
    kernel = heads.scalar_init(config, jax.random.key(1))["kernel"]
    assert kernel.dtype == jnp.bfloat16
    assert float(jnp.std(kernel.astype(jnp.float32))) == pytest.approx(4096**-0.5, rel=0.1)
    got = heads.scalar_apply({"kernel": kernel[:WIDTH]}, hidden[:, 0].astype(jnp.bfloat16))
    assert got.dtype == jnp.float32
    want = hidden[:, 0].astype(jnp.bfloat16).astype(jnp.float32) @ kernel[:WIDTH].astype("float32")
    np.testing.assert_allclose(got, want, atol=1e-6)
