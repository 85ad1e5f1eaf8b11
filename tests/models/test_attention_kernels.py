"""Splash attention and tiles against the reference, and when they are chosen."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models import attention, attention_kernels, transformer
from grm_jax.models.attention import Keys
from grm_jax.models.variants import VARIANTS
from grm_jax.parallel.mesh import RULES, MeshConfig, make_mesh

BATCH, LENGTH = 2, 150
OPTIONS = {"scale": 0.1, "cap": 6.0, "window": 40}


def make_case(num_heads=4, num_kv_heads=2, width=128, v_width=128, batch=BATCH):
    """Rows of two packed segments; padding on the right of the first, on the left of the second."""
    rng = np.random.default_rng(0)
    sizes = [(0, 60, 70, 20), (30, 55, 65, 0)] * (batch // 2)
    positions = [np.concatenate([np.arange(n) for n in row]) for row in sizes]
    segments = [np.repeat([0, 1, 2, 0], row) for row in sizes]
    marks = [jnp.asarray(np.stack(x), jnp.int32) for x in (positions, segments)]

    def normal(*shape):
        return jnp.asarray(2 * rng.normal(size=shape), jnp.float32)

    q = normal(batch, LENGTH, num_heads, width)
    k, v = (normal(batch, num_kv_heads, LENGTH, w) for w in (width, v_width))
    return q, (Keys(k, v, *marks),), *marks


def reference(q, blocks, positions, segments, **options):
    return attention.attend(q, blocks, positions, segments, chunk=1024, **options)


splash = functools.partial(attention_kernels.splash, interpret=True)


def value_and_gradients(function, case, options):
    q, (own,), positions, segments = case
    weight = jnp.asarray(np.random.default_rng(1).normal(size=own.v_BKSE.shape[-1]), jnp.float32)

    @jax.jit
    def loss(q, k, v):
        out = function(q, (own._replace(k_BKSE=k, v_BKSE=v),), positions, segments, **options)
        return jnp.sum(out * weight[None, None, None, :]), out

    grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, own.k_BKSE, own.v_BKSE)
    return [out, *grads]


def test_splash_equals_the_reference():
    case = make_case()
    for got, want in zip(
        value_and_gradients(splash, case, OPTIONS),
        value_and_gradients(reference, case, OPTIONS),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, atol=2e-5 * float(np.abs(want).max()))
    # Each option is seen: without it the result is another.
    q, blocks, positions, segments = case
    want = reference(*case, **OPTIONS)
    for other in ({"cap": None}, {"window": None}, {"window": 39}, {"scale": 0.11}):
        assert np.abs(splash(*case, **{**OPTIONS, **other}) - want).max() > 1e-2, other
    merged = jnp.minimum(segments, 1)
    assert np.abs(splash(q, blocks, positions, merged, **OPTIONS) - want).max() > 1e-2
    assert not splash(*case, **OPTIONS)[segments == 0].any()


@pytest.mark.parametrize("window", [40, None, 3])
def test_tiles_equal_the_reference(window):
    options = {**OPTIONS, "window": window}
    case = make_case(width=16, v_width=24)
    tiled = functools.partial(attention_kernels.tiled, chunk=1024)
    for got, want in zip(
        value_and_gradients(tiled, case, options), value_and_gradients(reference, case, options),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(got, want, atol=2e-6 * float(np.abs(want).max()))
    # Keys before a tile that its window reaches are there, and long ones come in chunks.
    for got, want in zip(
        value_and_gradients(functools.partial(attention_kernels.tiled, chunk=16), case, options),
        value_and_gradients(reference, case, options), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(got, want, atol=2e-6 * float(np.abs(want).max()))


def test_tiles_leave_out_what_no_query_of_theirs_sees():
    """Of 150 in tiles of 64 queries: 64, 128 and 150 keys, or with a window 64, 103 and 61."""

    def products(window):
        text = str(jax.make_jaxpr(functools.partial(
            attention_kernels.tiled, chunk=1024, **{**OPTIONS, "window": window}
        ))(*make_case(width=16, v_width=16)))  # fmt: skip
        shapes = re.findall(r"f32\[2,2,(\d+),2,(\d+)\] = dot_general", text)
        return {(int(queries), int(keys)) for queries, keys in shapes} - {(64, 16), (22, 16)}

    assert products(None) == {(64, 64), (64, 128), (22, 150)}
    assert products(40) == {(64, 64), (64, 103), (22, 61)}


def test_heads_of_256_without_options():
    case = make_case(num_heads=2, num_kv_heads=1, width=256, v_width=256)
    options = {"scale": 0.05, "cap": None, "window": None}
    np.testing.assert_allclose(splash(*case, **options), reference(*case, **options), atol=1e-4)


def test_each_device_of_a_mesh_works_on_its_rows_and_heads():
    case = make_case(batch=4)
    want = reference(*case, **OPTIONS)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        got = jax.jit(lambda *case: splash(*case, **OPTIONS))(*case)
    assert got.sharding.spec == jax.P(("data", "fsdp"), None, "tensor")
    np.testing.assert_allclose(got, want, atol=1e-4)


def lowered(platform, kernel="auto", length=LENGTH, **shape):
    case = [x if x is None else x for x in make_case(**shape)]
    q, (own,), positions, segments = case
    cut = Keys(own.k_BKSE[:, :, :length], own.v_BKSE[:, :, :length],
               own.positions_BS[:, :length], own.segment_ids_BS[:, :length])  # fmt: skip

    def run(q, blocks, positions, segments):
        return attention_kernels.attend(
            q, blocks, positions, segments, kernel=kernel, rules=RULES, chunk=1024, **OPTIONS
        )

    traced = jax.jit(run).trace(q[:, :length], (cut,), positions[:, :length], segments[:, :length])
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_of_the_program_decides():
    assert "tpu_custom_call" in lowered("tpu")
    assert "tpu_custom_call" not in lowered("cpu")
    tiles = 2 * 3  # two products in each
    for case, count in ((("cpu",), tiles), (("cpu", "tiled"), tiles), (("cpu", "reference"), 2),
                        (("cuda",), 2), (("tpu", "tiled"), tiles)):  # fmt: skip
        assert lowered(*case).count("dot_general") == count, case
    assert "tpu_custom_call" not in lowered("tpu", "reference")
    assert "tpu_custom_call" in lowered("tpu", "splash", length=60)
    # Shapes that the kernel cannot compute, or that would be padding for the most part.
    assert "tpu_custom_call" not in lowered("tpu", width=192)
    assert "tpu_custom_call" not in lowered("tpu", length=60)


def test_a_kernel_that_is_asked_for_by_name_refuses():
    with pytest.raises(ValueError, match="heads of queries are 192 wide, and it needs multiples"):
        lowered("tpu", "splash", width=192)
    rules = tuple((name, () if name == "kv_heads" else axes) for name, axes in RULES)
    case = make_case()
    with (
        jax.set_mesh(make_mesh(MeshConfig(fsdp=4, tensor=2))),
        pytest.raises(ValueError, match=r"mesh axes \('tensor',\) split query heads and \(\) key"),
    ):
        attention_kernels.attend(*case, kernel="splash", rules=rules, chunk=1024, **OPTIONS)
    with pytest.raises(ValueError, match="attention_kernel: must be one of .*'flash'"):
        VARIANTS["tiny"].replace(attention_kernel="flash")


def test_a_decoder_uses_the_kernel_where_it_may():
    config = dataclasses.replace(VARIANTS["tiny"], head_dim=128)
    shapes = transformer.abstract_params(config)
    marks = jax.ShapeDtypeStruct((1, 128), jnp.int32)
    text = jax.jit(lambda p, *x: transformer.apply(config, p, *x)[0]).trace(
        shapes, marks, marks, marks
    ).lower(lowering_platforms=("tpu",)).as_text()  # fmt: skip
    assert text.count("tpu_custom_call") == 2  # a local and a global layer


@pytest.mark.slow
@pytest.mark.parametrize("width", [128, 256])
def test_gemma2_compiles_for_tpu(width):
    """Forward and backward at the published window and cap, by the compiler for v5e."""
    pytest.importorskip("libtpu", reason="needs libtpu: the extra 'tpu' installs it")
    script = f"""
        import jax, jax.numpy as jnp
        from jax.experimental import topologies
        from grm_jax.models import attention_kernels
        from grm_jax.models.attention import Keys
        from grm_jax.parallel.mesh import RULES
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
        place = jax.sharding.SingleDeviceSharding(topology.devices[0])
        def array(*shape, dtype=jnp.bfloat16):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        def loss(q, k, v, positions, segments):
            blocks = (Keys(k, v, positions, segments),)
            return jnp.sum(attention_kernels.attend(
                q, blocks, positions, segments, kernel="auto", rules=RULES, scale=1 / 12, cap=50.0,
                window=4096, chunk=1024).astype(jnp.float32))
        marks = array(1, 8192, dtype=jnp.int32)
        q, kv = array(1, 8192, 8, {width}), array(1, 4, 8192, {width})
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv, marks, marks).compile()
        print(compiled.as_text().count("tpu_custom_call") >= 3)
    """
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr
