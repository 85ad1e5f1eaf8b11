"""Grouped-query attention over blocks of keys, merged by log-sum-exp.

Keys come in blocks: a shared prefix, a private suffix, the tokens of the queries. Each block
contributes an unnormalised output with its running maximum and normaliser (the online softmax), and
the blocks are merged at the end. The same code therefore serves training (one block), prefill and
decode (three blocks), and nothing ever concatenates a cache.

Letters: B batch, T query tokens, S keys, K key/value heads, G query heads per key/value head,
E head width.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.models.config import Llama3RopeConfig, ModelConfig, YarnConfig, yarn_mscale

# Finite, so that a block that is masked out everywhere yields exp(0) * 0 and not nan.
_MASKED = -1e30


class Keys(NamedTuple):
    """One block of keys and values of one layer."""

    k_BKSE: jax.Array  # keys, rotated
    v_BKSE: jax.Array  # values
    positions_BS: jax.Array  # int32 absolute positions
    segment_ids_BS: jax.Array  # int32; 0 marks an empty slot


class _Partial(NamedTuple):
    out_BKTGE: jax.Array  # float32, sum of exp(logit - peak) * v
    peak_BKTG: jax.Array  # float32, largest logit; a constant to gradients
    norm_BKTG: jax.Array  # float32, sum of exp(logit - peak)


class Rotations(NamedTuple):
    """Angles of RoPE: angle = position * frequency, and a factor on the rotated vector."""

    frequencies: np.ndarray  # float32 [E / 2], radians a token
    factor: float


def rotations(config: ModelConfig, window: int | None) -> Rotations:
    """The rotations of a layer with this window."""
    width = config.head_dim if config.mla is None else config.mla.rope_dim
    if window is not None and config.local_rope_theta is not None:
        return rope_frequencies(width, config.local_rope_theta, None)
    stretch = config.yarn or config.llama3_rope or config.linear_rope
    return rope_frequencies(width, config.rope_theta, stretch)


def rope_frequencies(
    width: int, theta: float, stretch: YarnConfig | Llama3RopeConfig | float | None
) -> Rotations:
    """Frequencies theta^(-2i / width), stretched beyond the trained length.

    YaRN (arXiv 2309.00071, section 3) leaves frequencies that turn more than beta_fast times within
    the trained length, divides by `factor` those that turn less than beta_slow times, and blends
    linearly in i in between. Llama-3 blends linearly in the turns. A number divides all.
    """
    half = width // 2
    frequencies = theta ** (-np.arange(half) / half)
    if isinstance(stretch, YarnConfig):
        return _yarn(frequencies, width, theta, stretch)
    if isinstance(stretch, Llama3RopeConfig):
        turns = stretch.original_length * frequencies / (2 * np.pi)
        kept = (turns - stretch.low_turns) / (stretch.high_turns - stretch.low_turns)
        kept = np.clip(kept, 0, 1)
        frequencies = frequencies * (kept + (1 - kept) / stretch.factor)
    elif stretch is not None:
        frequencies = frequencies / stretch
    return Rotations(frequencies.astype(np.float32), 1.0)


def _yarn(frequencies: np.ndarray, width: int, theta: float, yarn: YarnConfig) -> Rotations:
    half = width // 2

    def index(turns):
        """The fractional i of the frequency that turns so often in the trained length."""
        return half * math.log(yarn.original_length / (turns * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(index(yarn.beta_fast)), 0)
    high = min(math.ceil(index(yarn.beta_slow)), width - 1)
    ramp = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0, 1)
    frequencies = frequencies * (1 - ramp) + frequencies / yarn.factor * ramp
    factor = yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim)
    return Rotations(frequencies.astype(np.float32), factor)


def rope(x_BTHE: jax.Array, positions_BT: jax.Array, rotations: Rotations) -> jax.Array:
    """Rotates the two halves of each head by position-dependent angles (half-split RoPE)."""
    half = x_BTHE.shape[-1] // 2
    frequencies = jnp.asarray(rotations.frequencies)[None, None, None, :]
    angles = positions_BT.astype(jnp.float32)[:, :, None, None] * frequencies
    sin, cos = ((rotations.factor * f(angles)).astype(x_BTHE.dtype) for f in (jnp.sin, jnp.cos))
    first, second = x_BTHE[..., :half], x_BTHE[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softcap(logits: jax.Array, cap: float | None) -> jax.Array:
    """c * tanh(x / c): keeps logits inside (-c, c); the identity for None."""
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def _attend_block(q_BKTGE, block: Keys, positions_BT, segment_ids_BT, scale, cap, window):
    with jax.named_scope("attend_block"):
        # Heads lead and queries of a group share rows, so that both products are plain batched
        # matrix products and the [.., T, S] arrays are never transposed.
        logits = jnp.einsum(
            "bktge,bkse->bktgs", q_BKTGE, block.k_BKSE, preferred_element_type=jnp.float32
        )
        logits = softcap(logits * scale, cap)
        distance_BTS = positions_BT[:, :, None] - block.positions_BS[:, None, :]
        mask_BTS = (segment_ids_BT[:, :, None] == block.segment_ids_BS[:, None, :]) & (
            block.segment_ids_BS[:, None, :] > 0
        )
        mask_BTS &= distance_BTS >= 0
        if window is not None:
            mask_BTS &= distance_BTS < window
        logits = logits + jnp.where(mask_BTS, 0.0, _MASKED)[:, None, :, None, :]
        # The result does not depend on the peak, so no gradient needs to pass through it. The
        # bound makes exp() vanish in rows where everything is masked.
        peak = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=-1), _MASKED / 10))
        weights = jnp.exp(logits - peak[..., None])
        out = jnp.einsum(
            "bktgs,bkse->bktge",
            weights.astype(block.v_BKSE.dtype),
            block.v_BKSE,
            preferred_element_type=jnp.float32,
        )
        return _Partial(out, peak, jnp.sum(weights, axis=-1))


def _merge(a: _Partial, b: _Partial) -> _Partial:
    peak = jnp.maximum(a.peak_BKTG, b.peak_BKTG)
    scale_a, scale_b = jnp.exp(a.peak_BKTG - peak), jnp.exp(b.peak_BKTG - peak)
    return _Partial(
        a.out_BKTGE * scale_a[..., None] + b.out_BKTGE * scale_b[..., None],
        peak,
        a.norm_BKTG * scale_a + b.norm_BKTG * scale_b,
    )


def _split(block: Keys, chunk: int) -> Keys:
    """Moves the key axis of a block to a leading axis of chunks, padding with empty slots."""
    size = block.positions_BS.shape[1]
    count = -(-size // chunk)

    def cut(x, axis):
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, count * chunk - size)
        x = jnp.pad(x, padding)
        shape = (*x.shape[:axis], count, chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return Keys(cut(block.k_BKSE, 2), cut(block.v_BKSE, 2), cut(block.positions_BS, 1),
                cut(block.segment_ids_BS, 1))  # fmt: skip


def attend(
    q_BTHE: jax.Array,
    blocks: tuple[Keys, ...],
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    scale: float,
    cap: float | None,
    window: int | None,
    chunk: int,
) -> jax.Array:
    """Causal attention of queries over blocks of keys. This is the reference path.

    A query sees a key of its own segment at its own or an earlier position, and, when `window` is
    given, fewer than `window` positions back. Blocks longer than `chunk` are scanned with an
    online softmax under remat, so memory grows with T x chunk and not with T x S.

    Args:
      q_BTHE: rotated queries; heads H = K * G, query head h reads key head h // G.
      blocks: keys and values, each block in any order of positions.
      positions_BT: int32 absolute positions of the queries.
      segment_ids_BT: int32; 0 marks padding, whose output is zero.
      scale: factor on q.k, before the cap.
      cap: soft cap on the scaled logits, or None.
      window: width of the sliding window, or None.
      chunk: largest number of keys handled at once.

    Returns:
      [B, T, H, E] in the dtype of the values.
    """
    batch, length, num_heads, width = q_BTHE.shape
    num_kv_heads = blocks[0].k_BKSE.shape[1]
    q_BKTGE = jnp.moveaxis(
        q_BTHE.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, width), 1, 2
    )

    def block_partial(block):
        return _attend_block(q_BKTGE, block, positions_BT, segment_ids_BT, scale, cap, window)

    total = None
    for block in blocks:
        if block.positions_BS.shape[1] <= chunk:
            part = block_partial(block)
        else:

            def step(carry, piece):
                return _merge(carry, block_partial(piece)), None

            empty = _Partial(
                jnp.zeros(q_BKTGE.shape[:-1] + (block.v_BKSE.shape[-1],), jnp.float32),
                jnp.full(q_BKTGE.shape[:-1], _MASKED, jnp.float32),
                jnp.zeros(q_BKTGE.shape[:-1], jnp.float32),
            )
            part, _ = jax.lax.scan(jax.checkpoint(step), empty, _split(block, chunk))
        total = part if total is None else _merge(total, part)
    out_BKTGE = total.out_BKTGE / jnp.maximum(total.norm_BKTG, 1e-6)[..., None]
    out_BTHE = jnp.moveaxis(out_BKTGE, 2, 1).reshape(batch, length, num_heads, -1)
    return out_BTHE.astype(blocks[0].v_BKSE.dtype)
