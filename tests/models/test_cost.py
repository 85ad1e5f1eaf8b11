"""Counts of parameters, FLOPs and bytes against brute force, published figures and XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models import cost, heads, transformer
from grm_jax.models.config import DTYPES, MLAConfig
from grm_jax.models.variants import VARIANTS, deepseek
from grm_jax.sampling import sampler

TINY, DEEPSEEK = VARIANTS["tiny"], VARIANTS["tiny_deepseek"]


def entries(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_of_the_abstract_tree(variant):
    config = VARIANTS[variant]
    params = transformer.abstract_params(config)
    assert cost.num_params(config) == entries(params)
    assert type(cost.num_params(config)) is int
    # What is multiplied: every array that is no scale, bias or looked-up table, experts in part.
    products = 0
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [part.key for part in path]
        if names[-1] == "scale" or names[-1].endswith("_bias") or names == ["lm_head"]:
            continue
        routed = config.moe and names[-2:-1] == ["mlp"] and leaf.ndim == 4  # layers, X, D, F
        chosen = config.moe.experts_per_token if routed else 1
        products += leaf.size * chosen // (config.moe.num_experts if routed else 1)
    assert cost.num_product_params(config) == products
    table = config.vocab_size * config.embed_dim
    assert cost.num_product_params(config, output=False) == products - table


@pytest.mark.parametrize(
    ("variant", "total", "active"),
    [
        ("gemma2_2b", "2.6", "2.6"), ("gemma2_9b", "9.2", "9.2"), ("gemma2_27b", "27.2", "27.2"),
        ("deepseek_v2_lite_16b", "15.7", "2.7"), ("deepseek_v2_236b", "235.7", "21.4"),
        ("deepseek_v3_671b", "671.0", "37.6"),
    ],
)  # fmt: skip
def test_published_sizes(variant, total, active):
    config = VARIANTS[variant]
    assert f"{cost.num_params(config) / 1e9:.1f}" == total
    assert f"{cost.num_active_params(config) / 1e9:.1f}" == active


def visible(queries, window):
    """(query, key) pairs of a causal layer, one by one."""
    return [(q, k) for q in queries for k in range(q + 1) if window is None or q - k < window]


@pytest.mark.parametrize("window", [None, 1, 3, 7, 100])
def test_pairs_are_the_entries_of_the_mask(window):
    for past in range(9):
        for length in range(9):
            pairs = visible(range(past, past + length), window)
            assert cost.attended_pairs(length, window, past) == len(pairs)


MLA_ONLY = dataclasses.replace(DEEPSEEK, moe=None)


@pytest.mark.parametrize(
    ("config", "expanded", "absorbed"),
    # Widths of a key and a value: heads, or latents with the rotated part and latents.
    [(TINY, 8 + 8, 8 + 8), (MLA_ONLY, 8 + 4 + 6, 12 + 4 + 12)],
    ids=["gemma2", "latent"],
)
def test_attention_counts_both_products_of_each_visible_pair(config, expanded, absorbed):
    for past, length in ((0, 20), (5, 1), (17, 4)):
        pairs = sum(
            len(visible(range(past, past + length), config.windows[i % len(config.windows)]))
            for i in range(config.num_layers)
        )
        for widths, flag in ((expanded, False), (absorbed, True)):
            flops = cost.attention_flops(config, length, past, absorbed=flag)
            assert flops == pairs * config.num_heads * widths * 2


def test_passes_are_sums_of_products_and_attention():
    matrices = cost.num_product_params(TINY, output=False)
    table = TINY.vocab_size * TINY.embed_dim
    attention = cost.attention_flops(TINY, 20) + cost.attention_flops(TINY, 12)
    forward = cost.forward_flops(TINY, [20, 12])
    assert forward == 2 * 32 * (matrices + table) + attention
    assert cost.forward_flops(TINY, [20, 12], output_tokens=5) == (
        2 * (32 * matrices + 5 * table) + attention
    )
    # Packed documents do not see each other.
    assert cost.forward_flops(TINY, [32]) > forward
    assert cost.train_flops(TINY, [20, 12]) == 6 * 32 * (matrices + table) + 3 * attention
    assert cost.train_flops(TINY, [20, 12], frozen=True) == (
        4 * 32 * (matrices + table) + 3 * attention
    )


# Wide against its length, so that matrix products are nearly all there is; one turn of the scan,
# because XLA counts a loop once; no cap, whose tanh counts as many operations.
WIDE = TINY.replace(
    vocab_size=512, embed_dim=256, head_dim=64, ffn_dim=1024, sliding_window=48,
    attn_softcap=None, final_softcap=None, num_heads=8, num_kv_heads=4,
    attention_kernel="reference",
)  # fmt: skip
WIDE_MLA = deepseek(
    vocab_size=512, num_layers=1, embed_dim=256, num_heads=4, ffn_dim=1024,
    mla=MLAConfig(kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32, query_rank=96), moe=None,
    yarn=None,
)  # fmt: skip


@pytest.mark.parametrize("config", [WIDE, WIDE_MLA], ids=["gemma2", "latent"])
def test_xla_counts_as_many_flops(config):
    length = 128
    row = jnp.ones((1, length), jnp.int32)
    positions = jnp.arange(length)[None, :]

    def loss(params):
        hidden, _ = transformer.apply(config, params, row, positions, row)
        return jnp.sum(jnp.square(heads.logits(config, params, hidden)))

    def frozen_loss(scales, params):
        return loss(jax.tree.map(lambda s, p: p if s is None else s, scales, params,
                                 is_leaf=lambda x: x is None))  # fmt: skip

    params = transformer.abstract_params(config)
    scales = jax.tree_util.tree_map_with_path(
        lambda path, x: x if path[-1].key == "scale" else None, params
    )

    def counted(function, *args):
        return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]

    # The reference multiplies what the mask then removes; nothing else should differ by design.
    all_pairs = config.num_layers * length**2
    masked = all_pairs - sum(
        cost.attended_pairs(length, config.windows[i % len(config.windows)])
        for i in range(config.num_layers)
    )
    widths = 2 * config.head_dim if config.mla is None else 32 + 16 + 32
    masked *= 2 * config.num_heads * widths
    assert counted(loss, params) == pytest.approx(
        cost.forward_flops(config, [length]) + masked, rel=0.02
    )
    assert counted(jax.value_and_grad(loss), params) == pytest.approx(
        cost.train_flops(config, [length]) + 3 * masked, rel=0.02
    )
    # Only norms get a gradient: as under adapters, it passes through every matrix.
    assert counted(jax.value_and_grad(frozen_loss), scales, params) == pytest.approx(
        cost.train_flops(config, [length], frozen=True) + 3 * masked, rel=0.02
    )


def test_experts_that_tokens_are_expected_to_need():
    assert cost.expected_experts(8, 3, 1) == pytest.approx(3)
    assert cost.expected_experts(8, 3, 10_000) == pytest.approx(8)
    rng = np.random.default_rng(0)
    drawn = [
        len({x for _ in range(4) for x in rng.choice(8, 3, replace=False)}) for _ in range(4000)
    ]
    assert cost.expected_experts(8, 3, 4) == pytest.approx(np.mean(drawn), abs=0.05)


def test_weights_are_read_once_and_tables_by_rows():
    assert cost.weight_bytes(TINY, 7) == 4 * cost.num_params(TINY)
    table = TINY.vocab_size * TINY.embed_dim
    rows = 7 * TINY.embed_dim
    assert cost.weight_bytes(TINY, 7, output=False) == 4 * (cost.num_params(TINY) - table + rows)
    half = TINY.replace(param_dtype="bfloat16")
    assert cost.weight_bytes(half, 7) == 2 * cost.num_params(TINY)
    # Untied: one table is multiplied, of the other rows are looked up. One token: its own experts.
    table = DEEPSEEK.vocab_size * DEEPSEEK.embed_dim
    assert cost.weight_bytes(DEEPSEEK, 1) == 4 * (
        cost.num_active_params(DEEPSEEK) - table + DEEPSEEK.embed_dim
    )
    assert cost.weight_bytes(DEEPSEEK, 10_000) == 4 * cost.num_params(DEEPSEEK)


def test_training_moves_weights_gradients_and_moments():
    weights = 4 * cost.num_params(TINY)
    # Read twice, a gradient; then parameter, gradient, two moments in and three of them out.
    assert cost.optimizer_state_bytes(TINY) == 2 * weights
    assert cost.train_bytes(TINY, 64) == (2 + 1 + 7) * weights
    # Three micro-batches: each reads twice and writes a gradient, two of them read the sum.
    assert cost.train_bytes(TINY, 96, 3) == (6 + 3 + 2 + 7) * weights
    assert cost.train_bytes(TINY, 96, 3, frozen=True) == 6 * weights


def test_cache_bytes_are_those_that_the_sampler_keeps():
    for config in (TINY, DEEPSEEK):
        prompts = jax.ShapeDtypeStruct((3, 10), jnp.int32)
        lengths = jax.ShapeDtypeStruct((3,), jnp.int32)
        block = jax.eval_shape(
            lambda *args, config=config: sampler.prefill(config, *args),
            transformer.abstract_params(config), prompts, lengths,
        )  # fmt: skip
        kept = sum(x.size * x.dtype.itemsize for x in (block.k_LBKTE, block.v_LBKTE))
        assert 3 * 10 * cost.cache_bytes_per_token(config) == kept
    assert cost.cache_bytes_per_token(VARIANTS["deepseek_v2_lite_16b"]) == 31_104
    assert cost.cache_bytes_per_token(VARIANTS["gemma2_27b"]) == 368 * 1024


@pytest.mark.parametrize("prompt_length", [1, 4, 30])
def test_decode_reads_what_each_step_can_see(prompt_length):
    P, S, new, window = 2, 3, 13, 8
    past = prompt_length - 1
    token = 2 * 2 * 8 * 4  # keys and values of 2 heads in one layer
    prefix, suffix, pairs = set(), set(), 0
    for step in range(new):
        for layer in range(TINY.num_layers):
            keys = {k for _, k in visible([past + step], window if layer % 2 == 0 else None)}
            pairs += P * S * len(keys)
            for p in range(P):
                prefix |= {(step, layer, p, k) for k in keys if k < past}
                for s in range(S):
                    own = {k for k in keys if past <= k < past + step}
                    suffix |= {(step, layer, p, s, k) for k in own}
    counted = cost.decode_cost(TINY, prompts=P, samples=S, prompt_length=prompt_length, new=new)
    assert counted.prefix == token * len(prefix)
    assert counted.suffix == token * len(suffix)
    assert counted.written == P * S * new * 2 * token
    assert counted.weights == new * cost.weight_bytes(TINY, P * S)
    assert counted.bytes == sum(counted[:4])
    products = 2 * cost.num_product_params(TINY) * P * S * new
    assert counted.flops == products + pairs * 2 * 4 * 16


def test_latent_cache_is_read_once_for_keys_and_values():
    counted = cost.decode_cost(DEEPSEEK, prompts=1, samples=5, prompt_length=21, new=1)
    assert counted.prefix == 20 * 3 * (12 + 4) * 4
    assert counted.suffix == 0


def test_types_without_a_size_are_refused():
    with pytest.raises(ValueError, match="param_dtype: must be one of .*'int8'"):
        DEEPSEEK.replace(param_dtype="int8")
    assert [cost.dtype_bytes(name) for name in DTYPES] == [4, 2, 2]
