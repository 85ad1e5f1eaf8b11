"""Every mesh gives the loss, the gradient and the tokens of a single device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grm_jax.learning import grpo, sft, state
from grm_jax.learning.rollouts import Rollout, make_batch
from grm_jax.models import lora, transformer
from grm_jax.models.config import Compute, Llama3RopeConfig, LoRAConfig, MoEConfig
from grm_jax.models.variants import VARIANTS, llama
from grm_jax.parallel import sharding
from grm_jax.parallel.mesh import MeshConfig, make_mesh
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import JittedEngine
from grm_jax.sampling.prompt import Prompt
from grm_jax.sampling.scheduler import Buckets, Request, plan_units

MODELS = {
    "gemma2": VARIANTS["tiny"].replace(sliding_window=6, remat="full"),
    "deepseek": VARIANTS["tiny_deepseek"].replace(remat="full"),
    # As in SmolLM2, three key heads, which "three" splits and no even mesh axis does.
    "llama": llama(
        vocab_size=66, num_layers=2, embed_dim=32, num_heads=9, num_kv_heads=3, head_dim=4,
        ffn_dim=48, qkv_bias=True, tied_embeddings=True, rope_theta=100.0,
        llama3_rope=Llama3RopeConfig(8.0, 40)),
    # One key head, which is whole on every device, and a local layer after the last group.
    "gemma3": dataclasses.replace(
        VARIANTS["tiny"], num_layers=3, num_kv_heads=1, attn_softcap=None,
        final_softcap=None, qk_norm=True, local_rope_theta=10.0, sliding_window=6,
        compute=Compute(rules=MeshConfig(rules="kv_heads=").table())),
    "qwen3_moe": llama(
        vocab_size=64, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8,
        ffn_dim=64, qk_norm=True, moe=MoEConfig(8, 3, 16, normalize=True)),
}  # fmt: skip
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(fsdp=8),
    "fsdp x tensor": MeshConfig(fsdp=4, tensor=2),
    "fsdp x expert": MeshConfig(fsdp=4, expert=2),
    "all": MeshConfig(fsdp=2, tensor=2, expert=2),
    "three": MeshConfig(fsdp=2, tensor=3),
}
# What "all" splits as well is not split alone; compiling takes up to a minute a pair.
PAIRS = [("gemma2", "data"), ("gemma2", "fsdp"), ("gemma2", "fsdp x tensor"),
         ("deepseek", "data"), ("deepseek", "fsdp x expert"), ("deepseek", "all")]  # fmt: skip
QUICK = (("gemma2", "fsdp x tensor"), ("deepseek", "all"))  # of `make test`; every axis is in one
SCALE = 0.25  # of random parameters: attention and experts matter, and nothing overflows


@functools.cache
def params_of(model):
    rng = np.random.default_rng(0)
    shapes = transformer.abstract_params(MODELS[model])
    return jax.tree.map(lambda x: SCALE * rng.normal(size=x.shape).astype(np.float32), shapes)


def mesh_of(name):
    config = MESHES[name]
    return make_mesh(config, jax.devices()[: config.size])


def placed(model, mesh, tree):
    return sharding.put(tree, transformer.param_shardings(MODELS[model], mesh))


def split(mesh, tree):
    return sharding.put(tree, jax.NamedSharding(mesh, jax.P(("data", "fsdp", "expert"))))


def sft_batch():
    rng = np.random.default_rng(1)
    shape = (16, 24)
    segments = np.repeat([[1] * 9 + [2] * 11 + [0] * 4], 16, axis=0).astype(np.int32)
    positions = np.repeat([[*range(9), *range(11), *range(4)]], 16, axis=0).astype(np.int32)
    return {
        "tokens": rng.integers(1, 64, shape).astype(np.int32),
        "targets": rng.integers(1, 64, shape).astype(np.int32),
        "weights": (rng.random(shape) < 0.7).astype(np.float32) * (segments > 0),
        "positions": positions,
        "segment_ids": segments,
    }


def grpo_batch():
    rng = np.random.default_rng(2)
    prompts = [tuple(rng.integers(1, 64, length).tolist()) for length in rng.integers(3, 9, 8)]
    rollouts = [
        Rollout(
            prompts[i // 2],
            tuple(rng.integers(1, 64, length).tolist()),
            tuple(-rng.random(length)),
            float(rng.choice([-1, 1])),
        )
        for i, length in enumerate(rng.integers(2, 9, 16))
    ]
    return make_batch(
        rollouts, group_size=2, length=16, completion_length=8, num_groups=8, pad_id=0
    )


# Adds the gradient to the parameters, so that it can be read off a step.
ASCENT = optax.GradientTransformation(lambda params: (), lambda grads, none, params: (grads, none))
GRPO = grpo.GRPOConfig(group_size=2, kl_coef=0.3, micro_batches=2)


def gradient(step, params, *inputs):
    """Loss and gradient of one step whose update adds the gradient."""
    before = jax.tree.map(np.asarray, params)
    first = state.TrainState(params, (), jnp.zeros((), jnp.int32), jax.random.key(0))
    after, metrics = step(first, *inputs)
    grads = jax.tree.map(lambda a, b: np.asarray(a) - b, after.params, before)
    return metrics["loss"], grads, after.params


@functools.cache
def on_one_device(model):
    config, params = MODELS[model], params_of(model)
    own = jax.tree.map(jnp.asarray, params)
    reference = jax.tree.map(lambda x: jnp.asarray(0.9 * x), params)
    sft_step = sft.make_train_step(config, ASCENT)
    grpo_step = grpo.make_update_step(config, GRPO, ASCENT)
    return (
        gradient(sft_step, jax.tree.map(jnp.copy, own), {}, sft_batch())[:2],
        gradient(grpo_step, jax.tree.map(jnp.copy, own), reference, grpo_batch())[:2],
        completions(model, own, None, moves=False),
    )


def completions(model, params, sharding, *, moves):
    """Samples of 16 prompts; `moves`: stragglers go on in smaller shapes."""
    engine = JittedEngine(
        MODELS[model],
        Buckets(prompt_lengths=(12,), output_lengths=(16,), samples=(2, 4), samples_per_unit=64),
        stop_ids=tuple(range(3, 19)), pad_id=0, chunk=4 if moves else None, sharding=sharding,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    prompts = [tuple(rng.integers(4, 64, length).tolist()) for length in rng.integers(3, 12, 16)]
    requests = [Request(Prompt(f"c{i}", (0, 1), ids), (0, 1, 2)) for i, ids in enumerate(prompts)]
    (unit,) = plan_units(requests, engine.buckets, max_new_tokens=16)
    config = DrawConfig(k=3, top_p=0.95, max_new_tokens=16)
    drawn = engine.run(params, unit, config, jax.random.key(5))
    assert any(program[0] == "compact" for program in engine.programs) is moves
    return drawn


def assert_close(actual, expected):
    (loss, grads), (expected_loss, expected_grads) = actual, expected
    assert float(loss) == pytest.approx(float(expected_loss), abs=1e-5)
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(grads), jax.tree.leaves(expected_grads), strict=True
    ):
        np.testing.assert_allclose(leaf, other, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("model", "mesh"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in PAIRS],
    ids=lambda x: x,
)
def test_loss_gradient_and_tokens_equal_those_of_one_device(model, mesh):
    expected_sft, expected_grpo, expected_drawn = on_one_device(model)
    moves = mesh == "all"
    config, mesh = MODELS[model], mesh_of(mesh)
    with jax.set_mesh(mesh):
        shardings = transformer.param_shardings(config, mesh)
        reference = placed(model, mesh, jax.tree.map(lambda x: 0.9 * x, params_of(model)))
        sft_step = sft.make_train_step(config, ASCENT)
        loss, grads, after = gradient(
            sft_step, placed(model, mesh, params_of(model)), {}, split(mesh, sft_batch())
        )
        assert_close((loss, grads), expected_sft)
        assert jax.tree.map(lambda x: x.sharding, after) == shardings

        grpo_step = grpo.make_update_step(config, GRPO, ASCENT)
        loss, grads, after = gradient(
            grpo_step, placed(model, mesh, params_of(model)), reference, split(mesh, grpo_batch())
        )
        assert_close((loss, grads), expected_grpo)
        assert jax.tree.map(lambda x: x.sharding, after) == shardings

        batch = jax.NamedSharding(mesh, jax.P(("data", "fsdp", "expert")))
        drawn = completions(model, placed(model, mesh, params_of(model)), batch, moves=moves)
    for one, other in zip(drawn, expected_drawn, strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "mesh"), [("llama", "three"), ("gemma3", "fsdp x tensor"), ("qwen3_moe", "all")]
)
def test_shapes_of_other_families(model, mesh):
    """A step of SFT; and tokens where a key head is whole and a stack is left over."""
    config, mesh = MODELS[model], mesh_of(mesh)
    own = jax.tree.map(jnp.asarray, params_of(model))
    expected = gradient(sft.make_train_step(config, ASCENT), own, {}, sft_batch())
    sampled = model == "gemma3"
    expected_drawn = completions(model, params_of(model), None, moves=False) if sampled else []
    with jax.set_mesh(mesh):
        shardings = transformer.param_shardings(config, mesh)
        found = gradient(
            sft.make_train_step(config, ASCENT), placed(model, mesh, params_of(model)), {},
            split(mesh, sft_batch()),
        )  # fmt: skip
        batch = jax.NamedSharding(mesh, jax.P(("data", "fsdp", "expert")))
        params = placed(model, mesh, params_of(model))
        drawn = completions(model, params, batch, moves=False) if sampled else []
    assert_close(found[:2], expected[:2])
    assert jax.tree.map(lambda x: x.sharding, found[2]) == shardings
    for one, other in zip(drawn, expected_drawn, strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)


def test_adapters_get_the_gradient_of_one_device():
    config = dataclasses.replace(MODELS["gemma2"], lora=LoRAConfig(rank=4, alpha=8.0))
    rng = np.random.default_rng(4)
    base = params_of("gemma2")
    adapters = jax.tree.map(
        lambda x: SCALE * rng.normal(size=x.shape).astype(np.float32),
        lora.split(transformer.abstract_params(config))[1],
    )
    step = grpo.make_update_step(config, GRPO, ASCENT)
    expected = gradient(
        step, jax.tree.map(jnp.asarray, adapters), jax.tree.map(jnp.asarray, base), grpo_batch()
    )
    mesh = make_mesh(MESHES["fsdp x tensor"])
    with jax.set_mesh(mesh):
        shardings = lora.split(transformer.param_shardings(config, mesh))
        loss, grads, after = gradient(
            step, sharding.put(adapters, shardings[1]), sharding.put(base, shardings[0]),
            split(mesh, grpo_batch()),
        )  # fmt: skip
    assert_close((loss, grads), expected[:2])
    assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) > 1e-2
    assert jax.tree.map(lambda x: x.sharding, after) == shardings[1]
