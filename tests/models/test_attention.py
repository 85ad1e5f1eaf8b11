"""Attention over blocks of keys, against a dense softmax in float64."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import equations

from grm_jax.models import attention
from grm_jax.models.attention import Keys
from grm_jax.models.config import YarnConfig

BATCH, QUERIES, KEYS, WIDTH = 2, 12, 20, 6


def make_case(num_heads, num_kv_heads, seed=0, v_width=WIDTH, gain=2.0):
    """Queries and one block of keys: two packed segments and padding, positions shuffled."""
    rng = np.random.default_rng(seed)

    def marks(length):
        segments = rng.integers(1, 3, (BATCH, length))
        segments[:, -2:] = 0
        positions = rng.integers(0, KEYS, (BATCH, length))
        return jnp.asarray(positions, jnp.int32), jnp.asarray(segments, jnp.int32)

    def normal(*shape):
        return jnp.asarray(gain * rng.normal(size=shape), jnp.float32)

    q = normal(BATCH, QUERIES, num_heads, WIDTH)
    keys = Keys(
        normal(BATCH, num_kv_heads, KEYS, WIDTH),
        normal(BATCH, num_kv_heads, KEYS, v_width),
        *marks(KEYS),
    )
    return q, keys, *marks(QUERIES)


def dense(q, keys, positions, segments, *, scale, cap, window):
    """The definition, one query at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, keys.k_BKSE, keys.v_BKSE))
    key_positions, key_segments = np.asarray(keys.positions_BS), np.asarray(keys.segment_ids_BS)
    positions, segments = np.asarray(positions), np.asarray(segments)
    group = q.shape[2] // k.shape[1]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, t, h in np.ndindex(*q.shape[:3]):
        back = positions[b, t] - key_positions[b]
        seen = (key_segments[b] == segments[b, t]) & (key_segments[b] != 0) & (back >= 0)
        if window is not None:
            seen &= back < window
        if seen.any():
            score = scale * k[b, h // group][seen] @ q[b, t, h]
            if cap is not None:
                score = cap * np.tanh(score / cap)
            weight = np.exp(score - score.max())
            out[b, t, h] = weight / weight.sum() @ v[b, h // group][seen]
    return out


def attend(q, blocks, positions, segments, *, scale=0.5, cap=None, window=None, chunk=1024):
    return attention.attend(
        q, blocks, positions, segments, scale=scale, cap=cap, window=window, chunk=chunk
    )


attend_jit = jax.jit(attend, static_argnames=("scale", "cap", "window", "chunk"))


def cut(keys, slots):
    """The block of some of the slots."""
    slots = np.asarray(slots)
    return Keys(keys.k_BKSE[:, :, slots], keys.v_BKSE[:, :, slots],
                keys.positions_BS[:, slots], keys.segment_ids_BS[:, slots])  # fmt: skip


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "cap", "window", "chunk"),
    [
        (4, 4, None, None, 1024),
        (4, 1, 1.5, 5, 1024),
        (6, 2, 1.5, 5, 7),
    ],
)
def test_attend_equals_the_dense_definition(num_heads, num_kv_heads, cap, window, chunk):
    q, keys, positions, segments = make_case(num_heads, num_kv_heads)
    options = {"scale": 0.3, "cap": cap, "window": window}
    want = dense(q, keys, positions, segments, **options)
    got = attend_jit(q, (keys,), positions, segments, chunk=chunk, **options)
    np.testing.assert_allclose(got, want, atol=5e-6)
    # Every option matters on these inputs, so that ignoring one cannot pass.
    for name, other in (("scale", 0.31), ("cap", None), ("window", None)):
        if options[name] is not None:
            changed = dense(q, keys, positions, segments, **{**options, name: other})
            assert np.abs(changed - want).max() > 1e-2, name


def test_window_counts_the_query_itself():
    q, keys, positions, segments = make_case(2, 2)
    same = jnp.broadcast_to(jnp.arange(QUERIES, dtype=jnp.int32)[None], positions.shape)
    keys = cut(keys, range(QUERIES))._replace(
        positions_BS=same, segment_ids_BS=jnp.ones_like(segments)
    )
    out = attend_jit(q, (keys,), same, jnp.ones_like(segments), window=1)
    np.testing.assert_allclose(out, jnp.swapaxes(keys.v_BKSE, 1, 2), rtol=1e-6)


def test_value_heads_may_have_another_width():
    q, keys, positions, segments = make_case(4, 2, v_width=3)
    want = dense(q, keys, positions, segments, scale=0.5, cap=None, window=None)
    for chunk in (1024, 7):
        got = attend_jit(q, (keys,), positions, segments, chunk=chunk)
        assert got.shape == (BATCH, QUERIES, 4, 3)
        np.testing.assert_allclose(got, want, atol=5e-6)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunk_never_changes_the_result(chunk):
    q, keys, positions, segments = make_case(4, 2)
    whole = attend_jit(q, (keys,), positions, segments, cap=3.0, window=6)
    got = attend_jit(q, (keys,), positions, segments, cap=3.0, window=6, chunk=chunk)
    np.testing.assert_allclose(got, whole, atol=3e-6)


@pytest.mark.parametrize(
    ("cuts", "chunk"),
    [
        ([range(0, KEYS, 2), range(1, KEYS, 2)], 1024),
        # Only the longest block exceeds the chunk.
        ([range(13, KEYS), range(0, 5), range(5, 13)], 7),
    ],
    ids=["interleaved", "three, last first"],
)
def test_blocks_are_merged_exactly(cuts, chunk):
    q, keys, positions, segments = make_case(4, 2, seed=1)
    whole = attend_jit(q, (keys,), positions, segments, cap=3.0, window=9)
    blocks = tuple(cut(keys, slots) for slots in cuts)
    got = attend_jit(q, blocks, positions, segments, cap=3.0, window=9, chunk=chunk)
    np.testing.assert_allclose(got, whole, atol=3e-6)


@pytest.mark.parametrize(("where", "chunk"), [("first", 1024), ("last", 1024), ("first", 3)])
@pytest.mark.parametrize("reason", ["empty", "future", "other segment", "outside the window"])
def test_a_fully_masked_block_adds_nothing(reason, where, chunk):
    q, keys, positions, segments = make_case(4, 2)
    marks = {
        "empty": (0, 0),
        "future": (10 * KEYS, 1),
        "other segment": (0, 7),
        "outside the window": (-KEYS, 1),
    }
    position, segment = marks[reason]
    shape = (BATCH, 4)
    useless = Keys(
        jnp.full((BATCH, 2, 4, WIDTH), 100.0),  # large, so that a leak cannot hide
        jnp.full((BATCH, 2, 4, WIDTH), 1e6),
        jnp.full(shape, position, jnp.int32),
        jnp.full(shape, segment, jnp.int32),
    )
    blocks = (useless, keys) if where == "first" else (keys, useless)
    options = {"window": KEYS, "chunk": chunk}
    want = attend_jit(q, (keys,), positions, segments, **options)
    got = attend_jit(q, blocks, positions, segments, **options)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [1024, 7])
def test_gradients_equal_those_of_a_dense_softmax(chunk):
    q, keys, positions, segments = make_case(4, 2, gain=1.0)
    weight = jnp.asarray(np.random.default_rng(5).normal(size=q.shape), jnp.float32)
    sees_nothing = np.ones(segments.shape, bool)
    for b, t in np.ndindex(*segments.shape):
        seen = np.asarray(keys.segment_ids_BS[b]) == segments[b, t]
        seen &= (np.asarray(keys.positions_BS[b]) <= positions[b, t]) & bool(segments[b, t])
        sees_nothing[b, t] = not seen.any()
    assert sees_nothing.any()  # their gradient must be finite as well
    weight = jnp.where(sees_nothing[:, :, None, None], 0.0, weight)

    def by_blocks(q, k, v):
        out = attend(q, (keys._replace(k_BKSE=k, v_BKSE=v),), positions, segments,
                     cap=2.0, chunk=chunk)  # fmt: skip
        return jnp.sum(out * weight)

    def by_softmax(q, k, v):
        k, v = (jnp.repeat(x, 2, axis=1) for x in (k, v))
        score = 2.0 * jnp.tanh(0.5 * jnp.einsum("bthe,bhse->bths", q, k) / 2.0)
        same = segments[:, :, None] == keys.segment_ids_BS[:, None]
        mask = same & (positions[:, :, None] >= keys.positions_BS[:, None])
        score = jnp.where(mask[:, :, None], score, -1e9)
        return jnp.sum(jnp.einsum("bths,bhse->bthe", jax.nn.softmax(score), v) * weight)

    arguments = (q, keys.k_BKSE, keys.v_BKSE)
    got = jax.jit(jax.grad(by_blocks, (0, 1, 2)))(*arguments)
    want = jax.jit(jax.grad(by_softmax, (0, 1, 2)))(*arguments)
    for g, w in zip(got, want, strict=True):
        assert np.abs(w).max() > 0.1
        np.testing.assert_allclose(g, w, atol=5e-6)


def test_padding_queries_yield_zero_and_finite_gradients():
    q, keys, positions, segments = make_case(4, 2)
    out = attend_jit(q, (keys,), positions, segments)
    padding = np.asarray(segments) == 0
    assert padding.any() and not np.asarray(out)[padding].any()
    assert np.asarray(out)[~padding].any()

    def loss(q, k):
        return jnp.sum(attend(q, (keys._replace(k_BKSE=k),), positions, segments))

    gradients = jax.jit(jax.grad(loss, (0, 1)))(q, keys.k_BKSE)
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)


def test_bfloat16_is_accumulated_in_float32():
    size = 257
    ones = jnp.ones((1, size), jnp.int32)
    v = jnp.ones((1, 1, size, 2), jnp.bfloat16)
    keys = Keys(jnp.zeros((1, 1, size, 2), jnp.bfloat16), v, 0 * ones, ones)
    q = jnp.zeros((1, 1, 1, 2), jnp.bfloat16)
    arguments = (q, (keys,), ones[:, :1], ones[:, :1])
    out = attend_jit(*arguments, chunk=100)
    assert out.dtype == jnp.bfloat16
    # The sum of 257 ones is 256 in bfloat16, and the mean would not be 1.
    np.testing.assert_array_equal(out.astype(jnp.float32), 1.0)
    # XLA may keep more precision than it was asked for, so look at what it was asked for.
    products = [e for e in equations(jax.make_jaxpr(attend)(*arguments).jaxpr)
                if e.primitive.name == "dot_general"]  # fmt: skip
    assert len(products) == 2
    assert all(e.outvars[0].aval.dtype == jnp.float32 for e in products)


def test_a_chunked_gradient_never_holds_all_scores():
    queries, keys_, heads, width, chunk = 16, 96, 2, 4, 8
    abstract = jax.ShapeDtypeStruct
    q = abstract((1, queries, heads, width), jnp.float32)
    kv = abstract((1, heads, keys_, width), jnp.float32)
    marks = abstract((1, keys_), jnp.int32)

    def largest(chunk):
        def loss(q, k, v, marks):
            out = attend(q, (Keys(k, v, marks, marks),), marks[:, :queries], marks[:, :queries],
                         chunk=chunk)  # fmt: skip
            return jnp.sum(out * out)

        jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, kv, kv, marks)
        return max(math.prod(v.aval.shape) for e in equations(jaxpr.jaxpr) for v in e.outvars)

    scores = heads * queries * keys_
    assert largest(keys_) >= scores  # the measure sees them where they do exist
    # What remains is the running output, saved once a chunk: width / chunk of the scores.
    assert largest(chunk) <= scores * width // chunk


def test_rope_rotates_halves():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 2, 8))
    positions = np.array([[0, 3, 1000]])
    angle = positions[0, :, None] * 10_000.0 ** (-np.arange(4) / 4)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angle)[None, :, None, :]
    rotations = attention.rope_frequencies(8, 10_000.0, None)
    got = attention.rope(jnp.asarray(x, jnp.float32), jnp.asarray(positions), rotations)
    np.testing.assert_allclose(got[..., :4], turned.real, atol=2e-4)
    np.testing.assert_allclose(got[..., 4:], turned.imag, atol=2e-4)
    np.testing.assert_array_equal(got[:, 0], x[:, 0].astype(np.float32))  # position 0 stays


def test_rope_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(i, j, theta):
        at_i, at_j = (jnp.full((1, 1), p, jnp.int32) for p in (i, j))
        rotations = attention.rope_frequencies(8, theta, None)
        turned = (attention.rope(x, at, rotations) for x, at in ((q, at_i), (k, at_j)))
        return float(jnp.sum(math.prod(turned)))

    assert product(7, 3, 100.0) == pytest.approx(product(104, 100, 100.0), abs=1e-4)
    assert abs(product(7, 3, 100.0) - product(7, 4, 100.0)) > 1e-2
    assert abs(product(7, 3, 100.0) - product(7, 3, 50.0)) > 1e-3


def test_yarn_keeps_fast_frequencies_divides_slow_ones_and_blends_between():
    """DeepSeek-V2-Lite: of 32 frequencies indices 0 to 10 stay, 23 to 31 are divided."""
    yarn = YarnConfig(40.0, 4096, mscale=0.707, mscale_all_dim=0.707)
    plain = attention.rope_frequencies(64, 10_000.0, None).frequencies
    stretched = attention.rope_frequencies(64, 10_000.0, yarn)
    ratio = stretched.frequencies / plain
    np.testing.assert_allclose(ratio[:11], 1.0, rtol=1e-6)
    np.testing.assert_allclose(ratio[23:], 1 / 40, rtol=1e-6)
    np.testing.assert_allclose(ratio[10:24], 1 - np.arange(14) / 13 * (1 - 1 / 40), rtol=1e-5)
    assert stretched.factor == 1.0
    uneven = dataclasses.replace(yarn, mscale=1.0)
    assert attention.rope_frequencies(64, 10_000.0, uneven).factor == pytest.approx(
        (0.1 * math.log(40) + 1) / (0.0707 * math.log(40) + 1)
    )
    doubled = stretched._replace(factor=2.0)
    x, at = jnp.ones((1, 1, 1, 64)), jnp.full((1, 1), 9, jnp.int32)
    np.testing.assert_allclose(
        attention.rope(x, at, doubled), 2 * attention.rope(x, at, stretched), rtol=1e-5
    )


def test_softcap():
    x = jnp.asarray([-1e4, -3.0, 0.0, 1e-3, 3.0, 1e4])
    np.testing.assert_array_equal(attention.softcap(x, None), x)
    capped = attention.softcap(x, 5.0)
    np.testing.assert_allclose(capped, 5 * np.tanh(np.asarray(x) / 5), rtol=1e-6)
    assert float(jnp.abs(capped).max()) <= 5.0
    assert float(jax.grad(lambda v: attention.softcap(v, 5.0))(0.0)) == pytest.approx(1.0)
