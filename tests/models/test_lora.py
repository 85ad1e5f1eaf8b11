"""Adapters against kernels into which they are merged by numpy, on both architectures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import equations

from grm_jax.models import heads, hub, layers, lora, transformer
from grm_jax.models.config import LoRAConfig
from grm_jax.models.hub import config_file
from grm_jax.models.variants import VARIANTS
from grm_jax.parallel.mesh import MeshConfig, make_mesh
from tests import programs

LORA = LoRAConfig(rank=3, alpha=6.0)
GEMMA = dataclasses.replace(VARIANTS["tiny"], sliding_window=5, lora=LORA)
DEEPSEEK = dataclasses.replace(VARIANTS["tiny_deepseek"], lora=LORA)
V2 = dataclasses.replace(DEEPSEEK, mla=dataclasses.replace(DEEPSEEK.mla, query_rank=10))
# Experts take most of the time to compile; without them, the projection of V2-Lite's queries.
LATENT = dataclasses.replace(DEEPSEEK, moe=None)
CONFIGS = {"gemma2": GEMMA, "V2": V2, "latent": LATENT}
# Norms and biases of heads, and a layer after the last group; no family has all of them.
REST = dataclasses.replace(
    GEMMA, num_layers=3, qk_norm=True, qkv_bias=True, attn_softcap=None, local_rope_theta=10.0,
)  # fmt: skip
BATCH, LENGTH, PREFIX = 2, 12, 7

abstract = functools.cache(transformer.abstract_params)

random_params = functools.cache(programs.random_params)


def flat(tree):
    return {"/".join(part.key for part in path): x for path, x in jax.tree.leaves_with_path(tree)}


def merged_by_numpy(params):
    """W + 2 A B of every kernel, in float64, one layer after the other."""

    def walk(node):
        out = {}
        for name, value in node.items():
            if isinstance(value, dict):
                out[name] = walk(value)
            elif name + "_lora_a" in node:
                a, b = (np.asarray(node[name + end], np.float64) for end in ("_lora_a", "_lora_b"))
                products = [np.tensordot(*pair, 1) for pair in zip(a, b, strict=True)]
                out[name] = jnp.asarray(np.asarray(value, np.float64) + 2 * np.stack(products),
                                        value.dtype)  # fmt: skip
            elif "_lora_" not in name:
                out[name] = value
        return out

    return walk(params)


def marks(seed=0):
    tokens = np.random.default_rng(seed).integers(0, 64, (BATCH, LENGTH))
    positions = np.broadcast_to(np.arange(LENGTH), (BATCH, LENGTH))
    return tuple(jnp.asarray(x, jnp.int32) for x in (tokens, positions, np.ones_like(tokens)))


@functools.partial(jax.jit, static_argnums=0)
def hidden(config, params):
    """Tokens without a past, then some with one, as decode sees them."""
    cut = [tuple(x[:, span] for x in marks()) for span in (slice(PREFIX), slice(PREFIX, LENGTH))]
    first, past = transformer.apply(config, params, *cut[0])
    return first, transformer.apply(config, params, *cut[1], (past,))[0]


# What has an adapter.


@pytest.mark.parametrize(
    ("name", "root", "kernels"),
    [
        ("gemma2", "layers/local/", "attention/q k v o mlp/gate up down"),
        ("latent", "layers/layer/", "attention/q kv_a o mlp/gate up down"),
        ("V2", "dense_layers/layer/", "attention/q_a q_b kv_a o mlp/gate up down"),
        ("V2", "layers/layer/", "attention/q_a q_b kv_a o mlp/shared/gate up down"),
    ],
)
def test_adapted_kernels(name, root, kernels):
    folder, expected = "", []
    for word in kernels.split():
        folder, word = word.rsplit("/", 1) if "/" in word else (folder, word)
        expected += [f"{root}{folder}/{word}_lora_{end}" for end in "ab"]
    base, adapters = lora.split(abstract(CONFIGS[name]))
    assert sorted(path for path in flat(adapters) if path.startswith(root)) == sorted(expected)
    assert base == abstract(lora.strip(CONFIGS[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_have_the_axes_of_their_kernels_and_float32(name):
    config = CONFIGS[name].replace(param_dtype="bfloat16", dtype="bfloat16")
    shapes, axes = flat(abstract(config)), {
        "/".join(part.key for part in path): spec
        for path, spec in jax.tree.leaves_with_path(
            transformer.logical_axes(config), is_leaf=lambda x: isinstance(x, jax.P)
        )
    }  # fmt: skip
    for path, a in shapes.items():
        if not path.endswith("_lora_a"):
            continue
        kernel, b = path.removesuffix("_lora_a"), path[:-1] + "b"
        assert a.dtype == shapes[b].dtype == jnp.float32 and shapes[kernel].dtype == jnp.bfloat16
        assert (a.shape[-1], shapes[b].shape[1]) == (3, 3)
        assert a.shape[:-1] + shapes[b].shape[2:] == shapes[kernel].shape
        assert (axes[path][-1], axes[b][1]) == ("lora", "lora")
        assert axes[path][:-1] + axes[b][2:] == tuple(axes[kernel]) and axes[b][0] == "layers"
    # Products are in the type of the activations.
    first, _ = jax.eval_shape(lambda p: hidden(config, p), abstract(config))
    assert first.dtype == jnp.bfloat16


def test_fresh_adapters():
    config = dataclasses.replace(GEMMA, embed_dim=64, num_layers=4)
    key = jax.random.key(0, impl="rbg")  # compiles in half the time of the default
    adapters = lora.init_adapters(config, key)
    assert jax.tree.structure(adapters) == jax.tree.structure(lora.split(abstract(config))[1])
    for path, leaf in flat(adapters).items():
        if path.endswith("_lora_b"):
            assert not leaf.any()
        else:
            fan_in = 32 if path.endswith("/o_lora_a") else 64
            assert leaf.std() == pytest.approx(fan_in**-0.5, rel=0.2), path
            assert (leaf[0] != leaf[1]).any()


def test_fresh_adapters_are_made_without_a_base():
    config = dataclasses.replace(GEMMA, vocab_size=4096, embed_dim=128, ffn_dim=512)
    program = lora.init_adapters.lower(config, jax.random.key(0, impl="rbg")).compile()
    kernel_bytes = 4 * config.embed_dim * config.ffn_dim
    assert program.memory_analysis().temp_size_in_bytes < kernel_bytes


# What they compute.

SPECS = {
    "btd,dhe->bthe": ((2, 5, 6), (6, 3, 4), 1),
    "btd,dke->bkte": ((2, 5, 6), (6, 3, 4), 1),
    "bthe,hed->btd": ((2, 5, 3, 4), (3, 4, 6), 2),
    "btd,df->btf": ((2, 5, 6), (6, 7), 1),
}


@pytest.mark.parametrize("spec", SPECS)
def test_contract_equals_the_merged_weight(spec):
    shape, weight_shape, contracted = SPECS[spec]
    rng = np.random.default_rng(0)
    x, weight, a, b = (
        rng.normal(size=s).astype(np.float32)
        for s in (shape, weight_shape, (*weight_shape[:contracted], 2),
                  (2, *weight_shape[contracted:]))
    )  # fmt: skip
    call = jax.jit(functools.partial(layers.contract, spec))
    expected = np.einsum(spec, x, weight + 1.5 * np.tensordot(a, b, 1))
    np.testing.assert_allclose(call(x, layers.Kernel(weight, a, b, 1.5)), expected, atol=1e-4)
    # A fresh adapter changes no bit, under vmap neither.
    plain = call(x, layers.Kernel(weight))
    np.testing.assert_array_equal(call(x, layers.Kernel(weight, a, 0 * b, 1.5)), plain)
    mapped = jax.vmap(functools.partial(layers.contract, spec), in_axes=(0, None))
    np.testing.assert_allclose(
        mapped(x[:, None], layers.Kernel(weight, a, b, 1.5))[:, 0], expected, atol=1e-4
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_adapter_acts_as_if_it_were_merged(name):
    config = CONFIGS[name]
    base, adapters = lora.split(random_params(config))
    plain = hidden(lora.strip(config), base)
    names = {path[-1].key for path, _ in jax.tree.leaves_with_path(adapters)}
    kernels = sorted({name.rsplit("_lora_", 1)[0] for name in names})
    for kernel in [*kernels, ""]:  # one at a time, then all together
        some = jax.tree.map_with_path(
            lambda path, x, names=(kernel, kernel + "_lora_a", kernel + "_lora_b"): (
                x * (path[-1].key in names or not names[0])
            ),
            adapters,
        )
        params = lora.join(base, some)
        got, want = hidden(config, params), hidden(lora.strip(config), merged_by_numpy(params))
        for ours, theirs, without in zip(got, want, plain, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=3e-5, err_msg=kernel)
            assert np.abs(ours - without).max() > 1e-2, kernel


@pytest.mark.parametrize("name", CONFIGS)
def test_fresh_adapters_change_nothing(name):
    config = CONFIGS[name]
    base, adapters = lora.split(random_params(config))
    fresh = jax.tree.map_with_path(lambda path, x: x * path[-1].key.endswith("_lora_a"), adapters)
    for got, want in zip(
        hidden(config, lora.join(base, fresh)), hidden(lora.strip(config), base), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_adapters_beside_norms_and_biases_of_heads():
    params = random_params(REST)
    base, adapters = lora.split(params)
    assert not [path for path in flat(adapters) if "bias" in path or "norm" in path]
    plain = hidden(lora.strip(REST), base)
    got, want = hidden(REST, params), hidden(lora.strip(REST), merged_by_numpy(params))
    for ours, theirs, without in zip(got, want, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)
        assert np.abs(ours - without).max() > 1e-2
    fresh = jax.tree.map_with_path(lambda path, x: x * path[-1].key.endswith("_lora_a"), adapters)
    for ours, without in zip(hidden(REST, lora.join(base, fresh)), plain, strict=True):
        np.testing.assert_array_equal(ours, without)
    merged = lora.merge(REST, params)
    assert "last_layers" in merged and jax.tree.structure(merged) == jax.tree.structure(base)
    for path, leaf in flat(merged_by_numpy(params)).items():
        np.testing.assert_allclose(flat(merged)[path], leaf, atol=1e-6)


# Gradients, of adapters alone.


def loss(config, params):
    out, _ = transformer.apply(config, params, *marks())
    logprobs, _ = heads.token_logprobs(config, params, out, marks(1)[0])
    return -jnp.mean(logprobs)


@pytest.mark.parametrize(
    "config",
    [GEMMA.replace(remat="full"), dataclasses.replace(V2, moe=None)],
    ids=["gemma2", "V2 without experts"],
)
def test_gradients_follow_from_those_of_the_merged_kernels(config):
    """dA = scale dW B^T and dB = scale A^T dW, both of each layer."""
    params = random_params(config)
    base, adapters = lora.split(params)
    grads = flat(jax.jit(jax.grad(lambda own: loss(config, lora.join(base, own))))(adapters))
    dense = flat(
        jax.jit(jax.grad(functools.partial(loss, lora.strip(config))))(merged_by_numpy(params))
    )
    adapters = flat(adapters)
    for path in adapters:
        if not path.endswith("_lora_a"):
            continue
        other = path[:-1] + "b"
        rank = adapters[path].shape[-1]
        a = np.asarray(adapters[path]).reshape(len(adapters[path]), -1, rank)
        b = np.asarray(adapters[other]).reshape(len(a), rank, -1)
        slope = np.asarray(dense[path.removesuffix("_lora_a")]).reshape(len(a), a.shape[1], -1)
        expected = {
            path: 2 * np.einsum("lio,lro->lir", slope, b),
            other: 2 * np.einsum("lir,lio->lro", a, slope),
        }
        for key, want in expected.items():
            got = np.asarray(grads[key]).reshape(want.shape)
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
            assert np.abs(want).max() > 1e-5


def products(function, *args):
    """Shapes, sorted within themselves, of what matrix products make in a traced function."""
    return [
        tuple(sorted(equation.outvars[0].aval.shape))
        for equation in equations(jax.make_jaxpr(function)(*args).jaxpr)
        if equation.primitive.name == "dot_general"
    ]


# Sizes that no activation has by chance.
APART = GEMMA.replace(
    embed_dim=33, num_heads=5, num_kv_heads=5, head_dim=22, ffn_dim=71, remat="full"
)
FROZEN = {(5, 22, 33), (33, 71)}


def test_no_product_has_the_shape_of_a_frozen_kernel():
    base, adapters = lora.split(random_params(APART))
    dense = products(jax.grad(functools.partial(loss, lora.strip(APART))), base)
    assert set(dense) >= FROZEN
    ours = products(jax.grad(lambda own: loss(APART, lora.join(base, own))), adapters)
    assert FROZEN.isdisjoint(ours) and FROZEN.isdisjoint(
        products(lambda p: hidden.__wrapped__(APART, p), lora.join(base, adapters))
    )


def test_no_gradient_of_routed_experts_is_left_in_the_program():
    moe = dataclasses.replace(DEEPSEEK.moe, expert_dim=23, shared_dim=0, first_dense=0)
    config = dataclasses.replace(DEEPSEEK, moe=moe, num_layers=1)
    base, adapters = lora.split(abstract(config))
    ours = jax.jit(jax.grad(lambda own, base: loss(config, lora.join(base, own))))
    dense = jax.jit(jax.grad(functools.partial(loss, lora.strip(config))))
    written = [
        sum(
            "dynamic-update-slice(" in line and ("f32[8,32,23]" in line or "f32[8,23,32]" in line)
            for line in program.compile().as_text().splitlines()
        )
        for program in (ours.lower(adapters, base), dense.lower(base))
    ]
    assert written[0] == 0 < written[1]


# Trees.


def test_split_and_join():
    params = random_params(GEMMA)
    base, adapters = lora.split(params)
    joined = lora.join(base, adapters)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda x, y: x is y, joined, params))
    assert lora.join({}, params) is params and lora.join(params, {}) is params
    assert lora.split(base) == (base, {})
    with pytest.raises(ValueError, match="embedding is in both trees"):
        lora.join(params, {"embedding": base["embedding"]})
    with pytest.raises(ValueError, match="scale is in both trees"):
        lora.join(params, {"final_norm": base["final_norm"]})


def test_start():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    params, key = random_params(lora.strip(GEMMA)), jax.random.key(0, impl="rbg")
    base, trained = lora.start(lora.strip(GEMMA), params, key, mesh)
    assert base == {} and trained is params
    base, trained = lora.start(GEMMA, params, key, mesh)
    assert base is params and lora.split(trained) == ({}, trained)
    assert all(x.sharding.mesh == mesh for x in jax.tree.leaves(trained))


@pytest.mark.parametrize("name", CONFIGS)
def test_merge_rounds_once_and_copies_only_kernels(name):
    config = CONFIGS[name].replace(param_dtype="bfloat16")
    params = {"decoder": random_params(config), "head": {"kernel": jnp.ones(3)}}
    got, want = lora.merge(config, params), merged_by_numpy(params)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    plain = flat(params)
    for path, leaf in flat(got).items():
        assert leaf.dtype == plain[path].dtype
        if path + "_lora_a" not in plain:
            assert leaf is plain[path]
            continue
        # Where float32 is in doubt, bfloat16 may round to the other side.
        ours, theirs = (np.asarray(x, np.float32) for x in (leaf, flat(want)[path]))
        assert (ours != theirs).mean() < 1e-3
        np.testing.assert_allclose(ours, theirs, rtol=2**-7)
    assert lora.merge(lora.strip(config), params) is params


def test_parameters_with_adapters_need_a_config_with_them():
    params = random_params(GEMMA)
    with pytest.raises(ValueError, match=r"attention/q has an adapter, but model\.lora is None"):
        transformer.apply(lora.strip(GEMMA), params, *marks())


@pytest.mark.parametrize("fields", [{"rank": 0, "alpha": 1.0}, {"rank": 1, "alpha": 0.0}])
def test_impossible_adapters_are_named(fields):
    bad = next(name for name, value in fields.items() if not value)
    with pytest.raises(ValueError, match=rf"^{bad}: must be"):
        LoRAConfig(**fields)


def test_adapters_are_not_exported(tmp_path):
    for config in CONFIGS.values():
        with pytest.raises(ValueError, match=r"model\.lora: expected None"):
            config_file.write_config(config)
    params = random_params(GEMMA)
    with pytest.raises(ValueError, match="q_lora_a: expected nothing"):
        hub.save(tmp_path / "a", lora.strip(GEMMA), params)
    hub.save(tmp_path / "b", lora.strip(GEMMA), lora.merge(GEMMA, params))
    assert lora.split(hub.load(tmp_path / "b").params)[1] == {}
