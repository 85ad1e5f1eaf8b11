"""Shapes, masks, caches and gradients of the decoder."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import equations

from grm_jax.models import heads, transformer
from grm_jax.models.config import REMATS, ModelConfig
from grm_jax.models.transformer import KVBlock
from grm_jax.models.variants import PUBLISHED_PARAMETERS, VARIANTS
from tests import programs

# A window shorter than the sequences, and a cap that the scores reach.
CONFIG = dataclasses.replace(VARIANTS["tiny"], sliding_window=5, attn_softcap=3.0)
BATCH, LENGTH, PREFIX = 2, 14, 6
SUFFIX = LENGTH - PREFIX
TOLERANCE = {"rtol": 0, "atol": 1e-5}  # hidden states have unit size


@pytest.fixture(scope="module")
def params():
    return programs.random_params(CONFIG)


@jax.jit
def forward(params, tokens, positions, segment_ids):
    return transformer.apply(CONFIG, params, tokens, positions, segment_ids)


def step_of_decode(params, tokens, positions, segment_ids, past):
    return transformer.apply(CONFIG, params, tokens, positions, segment_ids, past)


decode = jax.jit(step_of_decode)


def row(*values):
    return jnp.asarray(np.array(values), jnp.int32)


def tokens_and_marks(seed=0, length=LENGTH):
    tokens = np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (BATCH, length))
    positions = np.broadcast_to(np.arange(length), (BATCH, length))
    return tuple(jnp.asarray(x, jnp.int32) for x in (tokens, positions, np.ones_like(tokens)))


@pytest.fixture(scope="module")
def full(params):
    """Hidden states and the block of one plain forward pass over all tokens."""
    return forward(params, *tokens_and_marks())


def empty_block(shape_before, slots):
    """Slots of no token: keys and values hold rubbish, which nobody may read."""
    *lead, heads, width = shape_before
    kv = (CONFIG.num_layers, *lead, heads, slots, width)
    # With a type: a weakly typed 50.0 would be traced apart from the block that a step returns.
    rubbish = jnp.full(kv, 50.0, jnp.float32)
    none = jnp.zeros((*lead, slots), jnp.int32)
    return KVBlock(rubbish, rubbish, none, none)


def write(block, new, slot):
    """The block with the keys and values of one token at a slot."""
    return KVBlock(*(
        jax.lax.dynamic_update_slice_in_dim(whole, part, slot, axis)
        for whole, part, axis in zip(block, new, (-2, -2, -1, -1), strict=True)
    ))  # fmt: skip


def part(arrays, start, stop):
    return tuple(x[:, start:stop] for x in arrays)


# Configs.


@pytest.mark.parametrize(("variant", "count"), PUBLISHED_PARAMETERS.items())
def test_published_sizes(variant, count):
    shapes = jax.tree.leaves_with_path(transformer.abstract_params(VARIANTS[variant]))
    assert sum(math.prod(leaf.shape) for _, leaf in shapes) == count
    types = {leaf.dtype for path, leaf in shapes if path[-1].key != "router_bias"}
    assert types == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in (
            "vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim",
            "ffn_dim", "sliding_window", "attention_chunk",
        )),
        ("vocab_size", -1),
        ("global_every", 1),
        ("num_kv_heads", 3),
        ("head_dim", 7),
    ],
)  # fmt: skip
def test_impossible_shapes_are_named(field, value):
    with pytest.raises(ValueError, match=rf"^num_\w+: .*{field} = {value}|^{field}: .*{value}"):
        CONFIG.replace(**{field: value})


def test_equal_configs_share_a_trace():
    assert dataclasses.replace(CONFIG) == CONFIG
    assert hash(dataclasses.replace(CONFIG)) == hash(CONFIG)
    assert CONFIG.replace(remat="full") != CONFIG


def test_fields_of_the_shape_and_of_compute_are_given_side_by_side():
    config = VARIANTS["tiny_deepseek"].replace(remat="full", num_layers=4)
    assert (config.compute.remat, config.num_layers) == ("full", 4)
    fields = dataclasses.asdict(config)
    fields |= fields.pop("compute")
    assert ModelConfig.of(fields) == config


# Parameters.


def test_init():
    config = CONFIG.replace(embed_dim=64, param_dtype="bfloat16")
    init = jax.jit(transformer.init, static_argnums=0)
    key = jax.random.key(0, impl="rbg")  # compiles in half the time of the default
    params = init(config, key)
    assert type(params) is dict
    assert jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params) == (
        transformer.abstract_params(config)
    )
    fan_in = {"q": 64, "k": 64, "v": 64, "o": 32, "gate": 64, "up": 64, "down": 64, "embedding": 64}
    for path, leaf in jax.tree.leaves_with_path(params):
        leaf = np.asarray(leaf, np.float32)
        if path[-1].key == "scale":
            assert not leaf.any()
        else:
            assert leaf.std() == pytest.approx(fan_in[path[-1].key] ** -0.5, rel=0.1)
    local, others = params["layers"]["local"], params["layers"]["global"]
    assert np.any(local["attention"]["q"] != others["attention"]["q"])
    again, other = init(config, key), init(config, jax.random.key(1, impl="rbg"))
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), params, again)))
    assert np.any(params["embedding"] != other["embedding"])


def test_logical_axes_match_the_parameters():
    config = dataclasses.replace(CONFIG, vocab_size=96, num_layers=6)
    axes = transformer.logical_axes(config)
    shapes = transformer.abstract_params(config)
    is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)  # noqa: E731
    assert jax.tree.structure(axes, is_leaf=is_spec) == jax.tree.structure(shapes)
    size = {
        "layers": config.num_layers // 2, "vocab": config.vocab_size, "embed": config.embed_dim,
        "heads": config.num_heads, "kv_heads": config.num_kv_heads, "head_dim": config.head_dim,
        "mlp": config.ffn_dim,
    }  # fmt: skip
    assert len(set(size.values())) == len(size)  # so that sizes tell the axes apart
    specs = jax.tree.leaves(axes, is_leaf=is_spec)
    for spec, leaf in zip(specs, jax.tree.leaves(shapes), strict=True):
        assert tuple(size[name] for name in spec) == leaf.shape
    assert axes["layers"]["local"]["attention"]["q"] == jax.sharding.PartitionSpec(
        "layers", "embed", "heads", "head_dim"
    )


def test_types():
    config = CONFIG.replace(dtype="bfloat16")
    shapes = transformer.abstract_params(config)
    marks = tokens_and_marks()
    hidden, block = jax.eval_shape(lambda p: transformer.apply(config, p, *marks), shapes)
    kv_shape = (config.num_layers, BATCH, config.num_kv_heads, LENGTH, config.head_dim)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert (hidden.shape, hidden.dtype) == ((BATCH, LENGTH, config.embed_dim), jnp.bfloat16)
    for kv in (block.k_LBKTE, block.v_LBKTE):
        assert (kv.shape, kv.dtype) == (kv_shape, jnp.bfloat16)
    assert block.positions_BT.shape == block.segment_ids_BT.shape == (BATCH, LENGTH)


# What a token sees.


def test_local_layers_come_first_and_see_the_window_alone(params, full):
    hidden, block = full
    tokens, *marks = tokens_and_marks()
    other_hidden, other = forward(params, tokens.at[:, 0].add(1), *marks)
    # Keys of layer 0 are made of the embeddings, those of layer 1 of the output of the local
    # layer, and the hidden states of the output of the global layer.
    changed = [np.abs(a - b).max(axis=(0, 2)) > 0 for a, b in (
        (block.k_LBKTE[0].swapaxes(1, 2).reshape(BATCH, LENGTH, -1),
         other.k_LBKTE[0].swapaxes(1, 2).reshape(BATCH, LENGTH, -1)),
        (block.k_LBKTE[1].swapaxes(1, 2).reshape(BATCH, LENGTH, -1),
         other.k_LBKTE[1].swapaxes(1, 2).reshape(BATCH, LENGTH, -1)),
        (hidden, other_hidden),
    )]  # fmt: skip
    assert changed[0].tolist() == [t == 0 for t in range(LENGTH)]
    assert changed[1].tolist() == [t < CONFIG.sliding_window for t in range(LENGTH)]
    assert changed[2].all()


def test_no_token_sees_a_later_one(params, full):
    tokens, *marks = tokens_and_marks()
    other, _ = forward(params, tokens.at[:, 9].add(1), *marks)
    np.testing.assert_array_equal(other[:, :9], full[0][:, :9])
    assert np.all(np.abs(other[:, 9:] - full[0][:, 9:]).max(axis=(0, 2)) > 1e-4)


def test_packed_segments_equal_separate_rows(params):
    first, second = 8, 5
    tokens = np.random.default_rng(3).integers(0, CONFIG.vocab_size, LENGTH)
    packed = (
        row(tokens, tokens),
        row([*range(first), *range(second), 0], [*range(first), *range(second), 0]),
        # Interleaved ids must do no harm either: only equality counts.
        row([1] * first + [2] * second + [0], [5] * first + [3] * second + [0]),
    )
    apart = np.zeros((2, LENGTH), np.int64)
    apart[0, :first], apart[1, :second] = tokens[:first], tokens[first : first + second]
    separate = (
        row(*apart),
        row(range(LENGTH), range(LENGTH)),
        row([1] * first + [0] * (LENGTH - first), [1] * second + [0] * (LENGTH - second)),
    )
    got, want = forward(params, *packed)[0], forward(params, *separate)[0]
    for b in range(2):
        np.testing.assert_allclose(got[b, :first], want[0, :first], **TOLERANCE)
        np.testing.assert_allclose(got[b, first : first + second], want[1, :second], **TOLERANCE)


def test_padding_has_no_influence(params, full):
    tokens, positions, segment_ids = tokens_and_marks()
    padding = row([0, 1] + [0] * 12, [0] * 11 + [1] * 3).astype(bool)
    segment_ids = jnp.where(padding, 0, segment_ids)
    want = np.asarray(forward(params, tokens, positions, segment_ids)[0])
    other_tokens = jnp.where(padding, 63 - tokens, tokens)
    other_positions = jnp.where(padding, 2, positions)
    got = np.asarray(forward(params, other_tokens, other_positions, segment_ids)[0])
    real = ~np.asarray(padding)
    np.testing.assert_array_equal(got[real], want[real])
    assert np.any(got[~real] != want[~real])
    # And what is left is as if the padding had never been there.
    np.testing.assert_allclose(want[1, :11], full[0][1, :11], **TOLERANCE)


def test_only_distances_between_positions_matter(params, full):
    tokens, positions, segment_ids = tokens_and_marks()
    shifted, block = forward(params, tokens, positions + 100, segment_ids)
    np.testing.assert_allclose(shifted, full[0], rtol=0, atol=2e-4)
    assert np.abs(block.k_LBKTE - full[1].k_LBKTE).max() > 0.1
    stretched, _ = forward(params, tokens, 2 * positions, segment_ids)
    assert np.abs(stretched - full[0]).max() > 1e-2


# Past blocks.


def test_prefill_and_decode_equal_the_full_forward(params, full, compilation_counter):
    marks = tokens_and_marks()
    with compilation_counter() as compiled:
        hidden, prefix = decode(params, *part(marks, 0, PREFIX), ())
        np.testing.assert_allclose(hidden, full[0][:, :PREFIX], **TOLERANCE)
        suffix = empty_block((BATCH, CONFIG.num_kv_heads, CONFIG.head_dim), SUFFIX)
        for slot in range(SUFFIX):
            t = PREFIX + slot
            hidden, own = decode(params, *part(marks, t, t + 1), (prefix, suffix))
            np.testing.assert_allclose(hidden, full[0][:, t : t + 1], **TOLERANCE)
            suffix = write(suffix, own, slot)
    assert compiled.count("step_of_decode") <= 2  # prefill and one step: no trace a token
    for name in KVBlock._fields[:2]:
        joined = np.concatenate([getattr(prefix, name), getattr(suffix, name)], axis=3)
        np.testing.assert_allclose(joined, getattr(full[1], name), **TOLERANCE)


def test_prompts_of_different_lengths_are_decoded_together(params):
    # Row 0 has 6 prompt tokens and row 1 has 4, followed by padding; positions go on from there.
    lengths = np.array([[PREFIX], [4]])
    tokens, positions, _ = tokens_and_marks(seed=4)
    real = row(*(np.arange(PREFIX) < lengths))
    _, prefix = decode(params, tokens[:, :PREFIX], positions[:, :PREFIX], real, ())
    suffix = empty_block((BATCH, CONFIG.num_kv_heads, CONFIG.head_dim), SUFFIX)
    got = []
    for slot in range(SUFFIX):
        own_tokens = tokens[:, PREFIX + slot :][:, :1]
        at = row(*(lengths + slot))
        hidden, own = decode(params, own_tokens, at, jnp.ones_like(at), (prefix, suffix))
        got.append(hidden[:, 0])
        suffix = write(suffix, own, slot)
    for b, length in enumerate((PREFIX, 4)):
        joined = np.concatenate([tokens[b, :length], tokens[b, PREFIX:]])
        joined = np.pad(joined, (0, LENGTH - len(joined)))
        want, _ = forward(params, row(joined, joined), *tokens_and_marks()[1:])
        for slot in range(SUFFIX):
            np.testing.assert_allclose(got[slot][b], want[b, length + slot], **TOLERANCE)


def test_decode_mapped_over_samples_equals_a_loop(params):
    """Samples share the prefix; theirs are the suffix and the own token."""
    prompts, samples, slots = BATCH, 3, SUFFIX
    _, prefix = decode(params, *part(tokens_and_marks(), 0, PREFIX), ())
    block = empty_block((prompts, samples, CONFIG.num_kv_heads, CONFIG.head_dim), slots)
    axes = KVBlock(2, 2, 1, 1)

    def step(tokens, positions, suffix):
        ones = jnp.ones_like(positions)
        return step_of_decode(params, tokens, positions, ones, (prefix, suffix))

    mapped = jax.jit(jax.vmap(step, in_axes=(1, None, axes), out_axes=(1, axes)))
    tokens = np.random.default_rng(5).integers(0, 64, (prompts, samples, slots))
    tokens = jnp.asarray(tokens, jnp.int32)
    for slot in range(2):
        at = jnp.full((prompts, 1), PREFIX + slot, jnp.int32)
        hidden, own = mapped(tokens[:, :, slot : slot + 1], at, block)
        for s in range(samples):
            alone = KVBlock(*(jnp.take(x, s, axis) for x, axis in zip(block, axes, strict=True)))
            want, want_own = decode(
                params, tokens[:, s, slot : slot + 1], at, jnp.ones_like(at), (prefix, alone)
            )
            np.testing.assert_allclose(hidden[:, s], want, **TOLERANCE)
            np.testing.assert_allclose(own.k_LBKTE[:, :, s], want_own.k_LBKTE, **TOLERANCE)
        block = write(block, own, slot)
    assert np.abs(hidden[:, 0] - hidden[:, 1]).max() > 1e-2


def test_a_decode_step_copies_no_cache(params):
    """No block is concatenated, scattered or written: it is sliced layer by layer and read."""
    heads, width, slots = CONFIG.num_kv_heads, CONFIG.head_dim, 50
    past = tuple(empty_block((BATCH, heads, width), slots) for _ in range(2))
    one = jnp.ones((BATCH, 1), jnp.int32)
    jaxpr = jax.make_jaxpr(step_of_decode)(params, one, one, one, past).jaxpr
    of_one_layer = BATCH * heads * slots * width
    large = {e.primitive.name for e in equations(jaxpr)
             if any(math.prod(v.aval.shape) >= of_one_layer for v in e.outvars)}  # fmt: skip
    assert large <= {
        "reshape",
        "slice",
        "squeeze",
        "dynamic_slice",
        "gather",
        "transpose",
        "jit",
    }  # a function, whose equations are counted too
    assert large  # the measure sees the blocks


# Memory against time.


@pytest.mark.parametrize("chunk", [1, 5])  # 5 leaves a remainder
def test_attention_chunk_never_changes_the_result(params, full, chunk):
    config = CONFIG.replace(attention_chunk=chunk)
    run = jax.jit(lambda p, *marks: transformer.apply(config, p, *marks))
    hidden, block = run(params, *tokens_and_marks())
    np.testing.assert_allclose(hidden, full[0], **TOLERANCE)
    np.testing.assert_allclose(block.v_LBKTE, full[1].v_LBKTE, **TOLERANCE)


def test_remat_changes_memory_and_not_gradients(params):
    *marks, segment_ids = tokens_and_marks()
    segment_ids = segment_ids.at[1, 9:].set(0)  # padding must not spoil gradients
    weight = np.random.default_rng(6).normal(size=(BATCH, LENGTH, CONFIG.embed_dim))
    weight = jnp.asarray(weight, jnp.float32)

    def loss(config):
        def value(params):
            hidden, _ = transformer.apply(config, params, *marks, segment_ids)
            return jnp.sum(jnp.where(segment_ids[..., None] > 0, hidden * weight, 0.0))

        return value

    def remats(function):
        jaxpr = jax.make_jaxpr(function)(params).jaxpr
        return sum(e.primitive.name.startswith(("remat", "checkpoint")) for e in equations(jaxpr))

    def saved(function):
        residuals = jax.eval_shape(lambda p: jax.vjp(function, p)[1], params)
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(residuals))

    plain, products, full = (loss(CONFIG.replace(remat=name)) for name in REMATS)
    # The gate of a feed-forward layer is always computed again, a group of layers only if asked.
    assert remats(products) == remats(full) == remats(plain) + len(CONFIG.stacks)
    own = sum(x.size for x in jax.tree.leaves(params))
    assert saved(products) - own < 0.8 * (saved(plain) - own)
    assert saved(full) - own < 0.5 * (saved(products) - own)
    want = jax.jit(jax.grad(plain))(params)
    for got in (jax.jit(jax.grad(function))(params) for function in (products, full)):
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert np.isfinite(w).all() and np.abs(w).max() > 1e-3
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5 * float(np.abs(w).max()))


@pytest.mark.parametrize("name", ["tiny", "tiny_deepseek"])
def test_parameters_cast_once_give_the_same_bits(name):
    config = VARIANTS[name].replace(dtype="bfloat16")
    rng = np.random.default_rng(0)
    shapes = transformer.abstract_params(config)
    params = jax.tree.map(lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype), shapes)
    cast = jax.tree.map(lambda x, d: x.astype(d), params, transformer.frozen_dtypes(config))
    halved = sum(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(cast))
    assert halved > 5 and jax.tree.leaves(params)[0].dtype == jnp.float32
    tokens = jnp.asarray(rng.integers(1, 64, (2, 9)), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32)[None], (2, 9))

    @jax.jit
    def logits(params):
        hidden, _ = transformer.apply(config, params, tokens, positions, jnp.ones_like(tokens))
        return heads.logits(config, params, hidden)

    np.testing.assert_array_equal(logits(params), logits(cast))
