"""Rules, and the errors that stand where others fall back to whole copies in silence."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.learning import sft, state
from grm_jax.models import transformer
from grm_jax.models.variants import VARIANTS
from grm_jax.parallel import sharding
from grm_jax.parallel.mesh import RULES, MeshConfig, make_mesh

TINY = VARIANTS["tiny"]
SIZES = {"data": 1, "fsdp": 4, "tensor": 2, "expert": 1}


def test_a_config_changes_single_rules():
    config = MeshConfig(rules="kv_heads=, vocab=tensor+fsdp", rollout_rules="embed=")
    assert dict(config.table()) == {**dict(RULES), "kv_heads": (), "vocab": ("tensor", "fsdp")}
    assert dict(config.table(rollout=True))["embed"] == ()
    assert MeshConfig(data=2, fsdp=3, tensor=5).parts("batch") == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fsdp": 0}, "fsdp: must be at least 1, got 0"),
        ({"rules": "kv_head="}, "rules: 'kv_head=' must read name=axis"),
        ({"rules": "embed=model"}, "rules: 'embed=model' must read"),
        ({"rules": "embed"}, "rules: 'embed' must read"),
        ({"rollout_rules": "embed=fdsp"}, "rollout_rules: 'embed=fdsp' must read"),
    ],
)
def test_bad_mesh_configs(fields, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**fields)


def test_a_mesh_takes_all_devices():
    with pytest.raises(ValueError, match=r"data 3 \* fsdp 1 \* tensor 2 .* = 6 devices wanted, 8"):
        make_mesh(MeshConfig(data=3, tensor=2))


def test_spec():
    def spec(names, shape):
        return sharding.spec(SIZES, RULES, names, shape, "x")

    assert spec(("batch", None, "mlp"), (8, 3, 6)) == jax.P("fsdp", None, "tensor")
    assert spec(("embed", "experts"), (8, 3)) == jax.P("fsdp")  # an axis of size 1 splits nothing
    sizes = {**SIZES, "data": 2}
    assert sharding.spec(sizes, RULES, ("batch",), (8,), "x") == jax.P(("data", "fsdp"))
    with pytest.raises(ValueError, match="x: logical axis 'width' has no rule"):
        spec(("width",), (8,))
    with pytest.raises(ValueError, match="x: mesh axis 'fsdp' would split both 'batch'"):
        spec(("batch", "embed"), (8, 8))
    with pytest.raises(ValueError, match="x: 'embed' has size 6, which the 4 devices of mesh axis"):
        spec(("embed",), (6,))
    with pytest.raises(ValueError, match=r"x: 1 axis names for shape \(2, 2\)"):
        spec(("embed",), (2, 2))


def test_a_parameter_that_the_mesh_does_not_divide_is_named():
    config = dataclasses.replace(TINY, num_heads=6, num_kv_heads=2)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))
    with pytest.raises(ValueError, match="layers/global/attention/k: 'kv_heads' has size 2, which"):
        transformer.param_shardings(config, mesh)


@pytest.mark.parametrize(
    ("variant", "tensor", "message"),
    [
        ("smollm2_135m", 2, "layers/layer/attention/k: 'kv_heads' has size 3, which the 2 devices"),
        (
            "gemma3_1b",
            4,
            "last_layers/local_0/attention/k: 'kv_heads' has size 1, which the 4 devices",
        ),
        ("qwen2_5_7b", 8, "layers/layer/attention/k: 'kv_heads' has size 4, which the 8 devices"),
    ],
)
def test_heads_of_published_sizes_that_a_mesh_does_not_divide(variant, tensor, message):
    mesh = make_mesh(MeshConfig(tensor=tensor), jax.devices()[:tensor])
    with pytest.raises(ValueError, match=f"{message} of mesh axis tensor"):
        transformer.param_shardings(VARIANTS[variant], mesh)
    # Whole keys and values on every device are a change of one rule.
    rules = MeshConfig(rules="kv_heads=, heads=").table()
    transformer.param_shardings(VARIANTS[variant].replace(rules=rules), mesh)


def test_a_batch_that_the_mesh_does_not_divide_is_an_error():
    tokens = jnp.ones((3, 4), jnp.int32)
    with (
        jax.set_mesh(make_mesh(MeshConfig(data=8))),
        pytest.raises(ValueError, match="decoder: activation: 'batch' has size 3, which the 8"),
    ):
        jax.eval_shape(
            lambda p: transformer.apply(TINY, p, tokens, tokens, tokens),
            transformer.abstract_params(TINY),
        )


def lowered_update(config, mesh):
    """The text of a training step on a mesh, before it is compiled."""
    optimizer = state.make_optimizer(state.OptimizerConfig(learning_rate=1e-2, steps=4))
    shapes = transformer.abstract_params(config)
    with jax.set_mesh(mesh):
        first = jax.eval_shape(
            lambda p: state.create_state(p, optimizer, jax.random.key(0)), shapes
        )
        batch = {name: jax.ShapeDtypeStruct((16, 8), dtype) for name, dtype in (
            ("tokens", "int32"), ("targets", "int32"), ("weights", "float32"),
            ("positions", "int32"), ("segment_ids", "int32"),
        )}  # fmt: skip
        return sft.make_train_step(config, optimizer).lower(first, {}, batch).as_text()


# For each of the two layers of a scanned group: q, k, v, output of attention, hidden and output of
# the feed-forward layer. Each stands in the forward pass, in what the backward pass recomputes,
# and, transposed, in the backward pass itself.
PER_GROUP = 2 * 6
CONSTRAINT = re.compile(r"sharding_constraint %\S+ <@mesh")  # PRNG keys have one without a mesh
# Embedded tokens, the output matrix and logits, forward and backward.
REST = 3 + 3


def test_constraints_are_in_the_program():
    config = TINY.replace(remat="full")
    text = lowered_update(config, make_mesh(MeshConfig(fsdp=4, tensor=2)))
    leaves = len(jax.tree.leaves(transformer.abstract_params(config)))
    assert len(CONSTRAINT.findall(text)) == 3 * PER_GROUP + REST + leaves
    alone = lowered_update(config, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert not CONSTRAINT.findall(alone)


def test_resharding_is_one_program_and_leaves_alone_what_is_in_place(compilation_counter):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    place = lambda *axes: jax.NamedSharding(mesh, jax.P(*axes))  # noqa: E731
    values = {name: np.arange(64.0, dtype=np.float32).reshape(8, 8) for name in "abc"}
    tree = sharding.put(values, {"a": place("fsdp"), "b": place("fsdp", "tensor"), "c": place()})
    wanted = {"a": place("tensor"), "b": place(None, ("tensor", "fsdp")), "c": place(None, None)}
    with compilation_counter() as compiled:
        moved = sharding.reshard(tree, wanted)
    assert len(compiled.names) == 1
    assert moved["c"] is tree["c"]
    for name in "ab":
        assert moved[name].sharding == wanted[name]
    for name, value in values.items():
        np.testing.assert_array_equal(moved[name], value)
    cast = sharding.reshard(tree, wanted, {"a": jnp.float32, "b": jnp.float32, "c": jnp.bfloat16})
    assert cast["c"].dtype == jnp.bfloat16 and cast["a"].sharding == wanted["a"]


def test_a_state_is_split_as_its_parameters_and_shares_no_buffer_with_them():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    shardings = transformer.param_shardings(TINY, mesh)
    params = jax.jit(lambda: transformer.init(TINY, jax.random.key(0)), out_shardings=shardings)()
    optimizer = state.make_optimizer(state.OptimizerConfig(learning_rate=1e-2, steps=4))
    with jax.set_mesh(mesh):
        first = state.start_state(params, optimizer, jax.random.key(1))
        shapes = {
            "tokens": np.ones((8, 8), np.int32), "targets": np.ones((8, 8), np.int32),
            "weights": np.ones((8, 8), np.float32), "positions": np.ones((8, 8), np.int32),
            "segment_ids": np.ones((8, 8), np.int32),
        }  # fmt: skip
        batch = sharding.put(shapes, jax.NamedSharding(mesh, jax.P(("fsdp",))))
        before = jax.tree.map(lambda x: x.sharding, first)
        assert before.params == shardings
        moments = before.opt_state[0][1]
        assert moments.mu == shardings and moments.nu == shardings
        after, _ = sft.make_train_step(TINY, optimizer)(first, {}, batch)
    assert jax.tree.map(lambda x: x.sharding, after) == before
    np.asarray(params["embedding"])  # the donated state took no buffer of the parameters along
