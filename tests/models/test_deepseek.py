"""DeepSeek's decoder: latents in the cache, the absorbed form against the expanded one, experts.

The parity with the published architecture is in test_parity_deepseek.py.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models import heads, transformer
from grm_jax.models.config import MLAConfig, YarnConfig
from grm_jax.models.transformer import KVBlock
from grm_jax.models.variants import VARIANTS, mla_query_scale
from grm_jax.sampling import keys, sampler
from tests import programs

TINY = VARIANTS["tiny_deepseek"]
LOW_RANK = dataclasses.replace(TINY, mla=dataclasses.replace(TINY.mla, query_rank=10))
# Four groups of experts, sigmoid scores, two dense layers first.
V3 = dataclasses.replace(
    LOW_RANK, num_layers=4,
    moe=dataclasses.replace(
        TINY.moe, first_dense=2, scoring="sigmoid", selection_bias=True, num_groups=4,
        top_groups=2, group_top=2, normalize=True, routed_scale=2.5,
    ),
)  # fmt: skip
CONFIGS = {"V2-Lite": TINY, "V2": LOW_RANK, "V3": V3}
BATCH, LENGTH, PREFIX = 2, 15, 7
TOLERANCE = {"rtol": 0, "atol": 2e-5}


def marks(seed=0, length=LENGTH):
    tokens = np.random.default_rng(seed).integers(0, TINY.vocab_size, (BATCH, length))
    positions = np.broadcast_to(np.arange(length), (BATCH, length))
    return tuple(jnp.asarray(x, jnp.int32) for x in (tokens, positions, np.ones_like(tokens)))


def part(arrays, start, stop):
    return tuple(x[:, start:stop] for x in arrays)


@functools.cache
def forward_of(config):
    return jax.jit(lambda params, *rest: transformer.apply(config, params, *rest))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_absorbed_form_equals_the_expanded_one(name):
    """A past is read in the absorbed form, a first pass in the expanded one."""
    config = CONFIGS[name]
    params, forward = programs.random_params(config), forward_of(config)
    want, whole = forward(params, *marks())
    _, prefix = forward(params, *part(marks(), 0, PREFIX))
    got, rest = forward(params, *part(marks(), PREFIX, LENGTH), (prefix,))
    assert float(jnp.abs(want).max()) > 1
    np.testing.assert_allclose(got, want[:, PREFIX:], **TOLERANCE)
    joined = np.concatenate([prefix.k_LBKTE, rest.k_LBKTE], axis=3)
    np.testing.assert_allclose(joined, whole.k_LBKTE, **TOLERANCE)
    # Small chunks take another path through the merge.
    chunked = forward_of(config.replace(attention_chunk=3))
    np.testing.assert_allclose(
        chunked(params, *part(marks(), PREFIX, LENGTH), (prefix,))[0], got, **TOLERANCE
    )


def test_the_cache_holds_one_latent_a_token_and_nothing_else():
    config = VARIANTS["deepseek_v2_lite_16b"]
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    _, block = jax.eval_shape(
        lambda p, t: transformer.apply(config, p, t, t, t),
        transformer.abstract_params(config), token,
    )  # fmt: skip
    held = sum(math.prod(x.shape) * x.dtype.itemsize for x in (block.k_LBKTE, block.v_LBKTE))
    assert held == 27 * (512 + 64) * 2 == 31_104
    cache = jax.eval_shape(
        lambda *x: sampler.begin(config, *x, buffer=8, pad_id=0),
        token, jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((1, 4), bool),
    )  # fmt: skip
    assert [x.shape[0] for x in cache.k_JSIPKUE] == [1, 26]  # the dense layer has its own
    assert sum(x.size for x in cache.k_JSIPKUE) * 2 == 4 * 8 * 31_104
    assert sum(x.size for x in cache.v_JSIPKUE) == 0


def test_packed_segments_equal_separate_rows():
    config = V3
    params, forward = programs.random_params(config), forward_of(config)
    first, second = 9, 6
    tokens, positions, ones = marks()
    packed = (
        tokens,
        jnp.asarray([[*range(first), *range(second)]] * BATCH, jnp.int32),
        jnp.asarray([[1] * first + [2] * second] * BATCH, jnp.int32),
    )
    got, _ = forward(params, *packed)
    alone, _ = forward(params, *part((tokens, positions, ones), 0, first))
    np.testing.assert_allclose(got[:, :first], alone, **TOLERANCE)
    alone, _ = forward(params, tokens[:, first:], positions[:, :second], ones[:, :second])
    np.testing.assert_allclose(got[:, first:], alone, **TOLERANCE)


def test_remat_changes_no_gradient_and_every_parameter_but_the_bias_has_one():
    params = programs.random_params(V3)
    weight = jnp.asarray(np.random.default_rng(6).normal(size=(BATCH, LENGTH, 32)), jnp.float32)

    def loss(config):
        def value(params):
            hidden, _ = transformer.apply(config, params, *marks())
            return jnp.sum(hidden * weight) + jnp.sum(heads.logits(config, params, hidden)) / 100

        return jax.jit(jax.grad(value))

    got, want = loss(V3.replace(remat="full"))(params), loss(V3)(params)
    for (path, w), g in zip(jax.tree.leaves_with_path(want), jax.tree.leaves(got), strict=True):
        assert bool(jnp.any(w != 0)) is (path[-1].key != "router_bias"), path
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * float(np.abs(w).max()) + 1e-12)


def test_every_axis_has_a_name():
    axes, shapes = transformer.logical_axes(V3), transformer.abstract_params(V3)
    is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)  # noqa: E731
    for spec, leaf in zip(
        jax.tree.leaves(axes, is_leaf=is_spec), jax.tree.leaves(shapes), strict=True
    ):
        assert len(spec) == len(leaf.shape) and None not in spec
    assert axes["layers"]["layer"]["mlp"]["gate"] == jax.sharding.PartitionSpec(
        "layers", "experts", "embed", "expert_mlp"
    )


def test_the_scale_of_queries_follows_yarn():
    mla = VARIANTS["deepseek_v2_lite_16b"].mla
    yarn = YarnConfig(40.0, 4096, mscale=0.707, mscale_all_dim=0.707)
    assert mla_query_scale(mla, yarn) == pytest.approx(0.114721, abs=1e-6)
    assert mla_query_scale(mla, None) == pytest.approx(192**-0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 4}, "num_kv_heads: must be 1 with latent attention, got 4"),
        ({"head_dim": 14}, r"head_dim: must be mla\.nope_dim \+ rope_dim = 12, got 14"),
        ({"mla": MLAConfig(12, 7, 5, 6)}, r"mla\.rope_dim: must be even for RoPE, got 5"),
        ({"moe": dataclasses.replace(TINY.moe, first_dense=3)}, r"moe\.first_dense: must be"),
        ({"sliding_window": 4, "num_layers": 4}, "sliding_window: must be None"),
        ({"activation": "relu"}, r"activation: must be one of .*'relu'"),
        ({"expert_path": "ragged"}, r"expert_path: must be one of .*'ragged'"),
    ],
)
def test_impossible_shapes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TINY.replace(**change)


# Sampling.

STOPS, SAMPLES, NEW = (3, 17), 3, 9


def sample(config, params, temperature):
    lengths = np.array([6, 11])
    prompts = np.random.default_rng(1).integers(4, 64, (2, 11))
    keys_PS = keys.sample_keys(
        jax.random.key(2), ["a", "b"], np.broadcast_to(np.arange(SAMPLES), (2, SAMPLES))
    )
    out = programs.sample(
        config, params, jnp.asarray(prompts, jnp.int32), jnp.asarray(lengths, jnp.int32), keys_PS,
        jnp.ones((2, SAMPLES), bool), temperature=temperature, limit=NEW,
        stop_ids=STOPS, buffer=NEW,
    )  # fmt: skip
    return prompts, lengths, keys_PS, out


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_equals_a_full_pass_for_each_token(name, temperature):
    config = CONFIGS[name]
    params, forward = programs.random_params(config), forward_of(config)
    prompts, lengths, keys_PS, out = sample(config, params, temperature)
    for p, s in np.ndindex(2, SAMPLES):
        tokens = list(prompts[p, : lengths[p]])
        for t in range(int(out.lengths_PS[p, s])):
            padded = np.zeros((BATCH, 20), np.int32)
            padded[0, : len(tokens)] = tokens
            positions = np.broadcast_to(np.arange(20, dtype=np.int32), (BATCH, 20))
            hidden, _ = forward(params, padded, positions, positions < len(tokens))
            logits = heads.logits(config, params, hidden[0, len(tokens) - 1])
            logprobs = np.asarray(jax.nn.log_softmax(logits))
            noise = jax.random.gumbel(jax.random.fold_in(keys_PS[p, s], t), (64,))
            token = int(np.argmax(logprobs + (np.asarray(noise) if temperature else 0)))
            assert token == int(out.tokens_PSU[p, s, t])
            assert abs(logprobs[token] - float(out.logprobs_PSU[p, s, t])) < 1e-4
            tokens.append(token)
        assert tokens[-1] in STOPS or len(tokens) == lengths[p] + NEW


def test_decode_copies_neither_cache_nor_experts():
    config = dataclasses.replace(TINY, num_layers=8)
    params = transformer.abstract_params(config)
    P, S, buffer = 2, 8, 128
    row = jax.ShapeDtypeStruct((P, 256), jnp.int32)
    state = jax.eval_shape(
        lambda *x: sampler.begin(config, *x, buffer=buffer, pad_id=0),
        row, jax.ShapeDtypeStruct((P,), jnp.int32), jax.ShapeDtypeStruct((P, S), bool),
    )  # fmt: skip
    _, prefix = jax.eval_shape(lambda p, t: transformer.apply(config, p, t, t, t), params, row)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    compiled = sampler.decode.lower(
        config, params, KVBlock(*prefix), jax.ShapeDtypeStruct((P,), jnp.int32),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (P, S))), state,
        jax.ShapeDtypeStruct((), jnp.int32), scalar, scalar, stop_ids=STOPS, pad_id=0,
    ).compile()  # fmt: skip
    whole = sum(x.size for x in state.k_JSIPKUE) * 4
    experts = 3 * math.prod(params["layers"]["layer"]["mlp"]["gate"].shape) * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole + experts / 2
