"""The sampling kernels: prefill each prompt once, then decode all its samples together.

A prompt is one (comparison, order). Its keys and values are computed once, stored once, and read
by all S samples: the decode step is written for one sample and vmapped over S with the prefix
unmapped, so that attention to the prefix is one matrix product over the queries of all samples.
The loop is outside of the vmap; the cache of the samples is written by one
`dynamic_update_slice` at the shared loop counter. That cache is laid out as the scan over groups
of layers reads it under vmap, [J, S, I, P, K, U, E]: in any other order of these axes XLA
transposes the whole cache at every step. Stacks of layers that are scanned apart have caches of
their own, because cutting one cache in two would copy it.

The last token of the prompt is not part of the prefix: decoding starts by feeding it to every
sample. So every logit comes from the decode step, and prefill never meets the vocabulary.

A sample depends on its prompt and its key only: not on its neighbours, on S, on the padding of
prompt or buffer, or on the sharding (up to float32 near-ties).

Letters: P prompts, T prompt tokens, S samples of a prompt, U generated tokens, V vocabulary, L
layers (J groups of I), K key/value heads, E head width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.models import heads, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.models.transformer import KVBlock
from grm_jax.parallel import sharding

_TOP_P_STEPS = 40  # halvings of the probability threshold


class DecodeState(NamedTuple):
    """Everything the decode loop carries."""

    step: jax.Array  # int32 scalar, tokens generated so far
    last_PS: jax.Array  # int32, the token to feed next
    done_PS: jax.Array  # bool, samples that stopped; absent samples are done from the start
    lengths_PS: jax.Array  # int32, tokens generated, the stop token included
    tokens_PSU: jax.Array  # int32; pad after the end
    logprobs_PSU: jax.Array  # float32 log pi, untempered, of the whole vocabulary; 0 after the end
    # float32 log-prob under the tempered nucleus that was sampled from; 0 when greedy
    sampling_logprobs_PSU: jax.Array
    k_JSIPKUE: tuple[jax.Array, ...]  # cache of each stack; slot u holds the token fed at step u
    v_JSIPKUE: tuple[jax.Array, ...]


class Samples(NamedTuple):
    """The drawn samples: arrays as in `DecodeState`, and whether a stop token ended each."""

    tokens_PSU: jax.Array
    logprobs_PSU: jax.Array
    sampling_logprobs_PSU: jax.Array
    lengths_PS: jax.Array
    stopped_PS: jax.Array


@functools.partial(jax.jit, static_argnames="config")
def prefill(
    config: ModelConfig, params: dict, tokens_PT: jax.Array, lengths_P: jax.Array
) -> KVBlock:
    """Keys and values of all but the last token of each prompt.

    Prompts are padded on the right to T; `lengths_P` are their true lengths, at least 1.
    """
    positions_PT = jnp.broadcast_to(
        jnp.arange(tokens_PT.shape[1], dtype=jnp.int32)[None, :], tokens_PT.shape
    )
    segment_ids_PT = (positions_PT < lengths_P[:, None] - 1).astype(jnp.int32)
    _, block = transformer.apply(config, params, tokens_PT, positions_PT, segment_ids_PT)
    return constrain_prefix(config, block)


def _cache_heads(config: ModelConfig) -> str | None:
    """Logical axis of K in a cache; latents are shared by all heads and never split."""
    return "kv_heads" if config.mla is None else None


def constrain_prefix(config: ModelConfig, prefix: KVBlock) -> KVBlock:
    """Fixes how a prefix is split over the mesh: by prompts and key/value heads."""
    kv_axes = (None, "batch", _cache_heads(config), None, None)
    return KVBlock(*(
        sharding.constrain(config.compute.rules, x, axes, f"prefix {name}")
        for name, x, axes in zip(
            KVBlock._fields, prefix, (kv_axes, kv_axes, ("batch", None), ("batch", None)),
            strict=True,
        )
    ))  # fmt: skip


def constrain_caches(config: ModelConfig, state: DecodeState) -> DecodeState:
    """Fixes how the caches of a state are split over the mesh: like the prefix."""
    axes = (None, None, None, "batch", _cache_heads(config), None, None)
    k_cache, v_cache = (
        tuple(sharding.constrain(config.compute.rules, x, axes, "cache") for x in caches)
        for caches in (state.k_JSIPKUE, state.v_JSIPKUE)
    )
    return state._replace(k_JSIPKUE=k_cache, v_JSIPKUE=v_cache)


@functools.partial(jax.jit, static_argnames=("config", "buffer", "pad_id"))
def begin(
    config: ModelConfig,
    tokens_PT: jax.Array,
    lengths_P: jax.Array,
    active_PS: jax.Array,
    *,
    buffer: int,
    pad_id: int,
) -> DecodeState:
    """The state before the first token, with room for U = `buffer` tokens.

    The last token of each prompt is the first to be fed; absent samples are done.
    """
    last_P = jnp.take_along_axis(tokens_PT, lengths_P[:, None] - 1, axis=1)[:, 0]
    P, S = active_PS.shape
    k_cache, v_cache = (
        tuple(
            jnp.zeros(
                (stack.groups, S, len(stack.members), P, config.num_kv_heads, buffer, width),
                jnp.dtype(config.compute.dtype),
            )
            for stack in config.stacks
        )
        for width in config.cache_widths
    )
    zeros_PSU = jnp.zeros((P, S, buffer), jnp.float32)
    state = DecodeState(
        step=jnp.zeros((), jnp.int32),
        last_PS=jnp.broadcast_to(last_P[:, None], (P, S)).astype(jnp.int32),
        done_PS=~active_PS,
        lengths_PS=jnp.zeros((P, S), jnp.int32),
        tokens_PSU=jnp.full((P, S, buffer), pad_id, jnp.int32),
        logprobs_PSU=zeros_PSU,
        sampling_logprobs_PSU=zeros_PSU,
        k_JSIPKUE=k_cache,
        v_JSIPKUE=v_cache,
    )
    return constrain_caches(config, state)


def _by_stack(config: ModelConfig, x: jax.Array) -> tuple[jax.Array, ...]:
    """[L, ...] -> [J, I, ...] of each stack."""
    return tuple(
        x[stack.first : stack.last].reshape(stack.groups, len(stack.members), *x.shape[1:])
        for stack in config.stacks
    )


def _by_layer(stacks: tuple[jax.Array, ...]) -> jax.Array:
    """[J, I, ...] of each stack -> [L, ...]; the cuts of the decoder cancel this."""
    return jnp.concatenate([x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for x in stacks])


def truncate_top_p(logprobs: jax.Array, top_p: jax.Array) -> jax.Array:
    """Renormalised log-probs of the nucleus: the likeliest tokens that together reach top_p.

    The nucleus is found by bisection on a probability threshold, never by sorting [..., V].
    Tokens that tie with its least likely member belong to it.
    """
    probs = jnp.exp(logprobs)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        reaches = jnp.sum(jnp.where(probs >= middle, probs, 0.0), -1, keepdims=True) >= top_p
        return jnp.where(reaches, middle, low), jnp.where(reaches, high, middle)

    top = jnp.max(probs, axis=-1, keepdims=True)
    low, _ = jax.lax.fori_loop(0, _TOP_P_STEPS, halve, (jnp.zeros_like(top), top))
    kept = jnp.where(probs >= low, logprobs, -jnp.inf)
    return jax.nn.log_softmax(kept, axis=-1)


def _draw(logits_PSV, keys_PS, step, temperature, top_p):
    """Tokens and their log-probs under the sampling distribution, both [P, S]."""

    def gumbel(key):
        key = jax.random.fold_in(key, step)
        return jax.random.gumbel(key, logits_PSV.shape[-1:], jnp.float32)

    def greedy():
        tokens_PS = jnp.argmax(logits_PSV, axis=-1).astype(jnp.int32)
        return tokens_PS, jnp.zeros(tokens_PS.shape, jnp.float32)

    def sample():
        logprobs_PSV = jax.nn.log_softmax(logits_PSV / temperature, axis=-1)
        logprobs_PSV = jax.lax.cond(
            top_p < 1.0, lambda x: truncate_top_p(x, top_p), lambda x: x, logprobs_PSV
        )
        gumbel_PSV = jax.vmap(jax.vmap(gumbel))(keys_PS)
        tokens_PS = jnp.argmax(logprobs_PSV + gumbel_PSV, axis=-1).astype(jnp.int32)
        picked_PS1 = jnp.take_along_axis(logprobs_PSV, tokens_PS[..., None], axis=-1)
        return tokens_PS, picked_PS1[..., 0]

    return jax.lax.cond(temperature > 0, sample, greedy)


@functools.partial(
    jax.jit, static_argnames=("config", "stop_ids", "pad_id"), donate_argnames="state"
)
def decode(
    config: ModelConfig,
    params: dict,
    prefix: KVBlock,
    lengths_P: jax.Array,
    keys_PS: jax.Array,
    state: DecodeState,
    limit: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    *,
    stop_ids: tuple[int, ...],
    pad_id: int,
) -> DecodeState:
    """Generates until `limit` tokens exist or every sample is done; the state is donated.

    Args:
      config: shape of the model.
      params: decoder parameters.
      prefix: from `prefill`, shared by the samples of a prompt.
      lengths_P: int32 lengths of the prompts.
      keys_PS: typed keys; token t of a sample uses fold_in(key, t).
      state: where to go on.
      limit: int32 scalar, at most the buffer; traced, so that any limit is one program.
      temperature: float32 scalar; 0 is greedy.
      top_p: float32 scalar; 1 keeps everything.
      stop_ids: tokens that end a sample; they are recorded.
      pad_id: written after the end.
    """
    buffer = state.tokens_PSU.shape[-1]
    slots_1U = jnp.arange(buffer, dtype=jnp.int32)[None, :]
    first_P1 = lengths_P[:, None] - 1
    ones_P1 = jnp.ones_like(first_P1)

    # As the layers read it, so that nothing is left to rearrange inside the loop.
    prefix_k_JIPKTE = _by_stack(config, prefix.k_LBKTE)
    prefix_v_JIPKTE = _by_stack(config, prefix.v_LBKTE)

    def one_sample(last_P, k_JIPKUE, v_JIPKUE, step):
        filled_PU = jnp.broadcast_to(slots_1U < step, (last_P.shape[0], buffer))
        suffix = KVBlock(
            _by_layer(k_JIPKUE), _by_layer(v_JIPKUE), first_P1 + slots_1U,
            filled_PU.astype(jnp.int32),
        )  # fmt: skip
        shared = prefix._replace(
            k_LBKTE=_by_layer(prefix_k_JIPKTE), v_LBKTE=_by_layer(prefix_v_JIPKTE)
        )
        hidden_P1D, block = transformer.apply(
            config, params, last_P[:, None], first_P1 + step, ones_P1, (shared, suffix)
        )
        new_kv = (_by_stack(config, x) for x in (block.k_LBKTE, block.v_LBKTE))
        return hidden_P1D[:, 0], *new_kv

    all_samples = jax.vmap(one_sample, in_axes=(1, 1, 1, None), out_axes=(1, 1, 1))

    def more(state):
        return (state.step < limit) & ~jnp.all(state.done_PS)

    def generate(state):
        step = state.step
        hidden_PSD, k_JSIPK1E, v_JSIPK1E = all_samples(
            state.last_PS, state.k_JSIPKUE, state.v_JSIPKUE, step
        )
        logits_PSV = heads.logits(config, params, hidden_PSD)
        tokens_PS, sampling_PS = _draw(logits_PSV, keys_PS, step, temperature, top_p)
        picked_PS1 = jnp.take_along_axis(logits_PSV, tokens_PS[..., None], axis=-1)
        logprobs_PS = picked_PS1[..., 0] - jax.nn.logsumexp(logits_PSV, axis=-1)
        stops_PS = jnp.zeros_like(state.done_PS)
        for stop in stop_ids:
            stops_PS |= tokens_PS == stop

        def extend(caches, columns):
            return tuple(
                jax.lax.dynamic_update_slice_in_dim(*pair, step, axis=5)
                for pair in zip(caches, columns, strict=True)
            )

        def record(buffer_PSU, values_PS, empty):
            column_PS1 = jnp.where(state.done_PS, empty, values_PS)[..., None]
            return jax.lax.dynamic_update_slice_in_dim(buffer_PSU, column_PS1, step, axis=2)

        return DecodeState(
            step=step + 1,
            last_PS=tokens_PS,
            done_PS=state.done_PS | stops_PS,
            lengths_PS=state.lengths_PS + ~state.done_PS,
            tokens_PSU=record(state.tokens_PSU, tokens_PS, pad_id),
            logprobs_PSU=record(state.logprobs_PSU, logprobs_PS, 0.0),
            sampling_logprobs_PSU=record(state.sampling_logprobs_PSU, sampling_PS, 0.0),
            k_JSIPKUE=extend(state.k_JSIPKUE, k_JSIPK1E),
            v_JSIPKUE=extend(state.v_JSIPKUE, v_JSIPK1E),
        )

    return jax.lax.while_loop(more, generate, state)


def scalars(limit: int, temperature: float, top_p: float) -> tuple[jax.Array, ...]:
    """The traced scalars of `decode`, put on the device explicitly and strongly typed."""
    return sharding.put((np.int32(limit), np.float32(temperature), np.float32(top_p)))


def samples(state: DecodeState) -> Samples:
    """The results held by a state."""
    return Samples(
        state.tokens_PSU, state.logprobs_PSU, state.sampling_logprobs_PSU, state.lengths_PS,
        state.done_PS & state.lengths_PS.astype(bool),
    )  # fmt: skip
