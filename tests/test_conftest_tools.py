"""The tools of conftest.py do what the tests that use them assume."""

import os
import warnings

import conftest
import jax
import jax.numpy as jnp
import pytest


def test_counter_sees_each_shape_and_static_argument_once(compilation_counter):
    def program(x, times):
        return x * times

    jitted = jax.jit(program, static_argnames="times")
    three, four = jnp.ones(3), jnp.ones(4)
    with compilation_counter() as compiled:
        jitted(three, times=2)
        jitted(three, times=2)
        assert compiled.names == ["program"]
        jitted(four, times=2)
        jitted(four, times=5)
        jitted(four, times=5)
    assert compiled.count("program") == 3
    assert compiled.count("other") == 0


def test_counter_is_deaf_after_the_block_and_counters_nest(compilation_counter):
    @jax.jit
    def inside(x):
        return x + 1

    @jax.jit
    def outside(x):
        return x + 2

    x = jnp.ones(5)
    with compilation_counter() as outer:
        with compilation_counter() as inner:
            inside(x)
        outside(x)
    jax.jit(lambda y: y - 1)(x)
    assert inner.names == ["inside"]
    assert outer.names == ["inside", "outside"]


def test_counter_stops_listening_when_the_block_raises(compilation_counter):
    x = jnp.ones(6)
    with pytest.raises(KeyError), compilation_counter() as compiled:
        raise KeyError("on purpose")
    jax.jit(lambda y: y * 3)(x)
    assert compiled.names == []


def test_counter_sees_ahead_of_time_compilation(compilation_counter):
    def ahead(x):
        return x / 2

    with compilation_counter() as compiled:
        jax.jit(ahead).lower(jax.ShapeDtypeStruct((7,), jnp.float32)).compile()
    assert compiled.count("ahead") == 1


def test_rank_promotion_is_an_error():
    with pytest.raises(ValueError, match="rank"):
        _ = jnp.ones((2, 3)) + jnp.ones(3)


def test_deprecation_warnings_are_errors():
    with pytest.raises(DeprecationWarning):
        warnings.warn("on purpose", DeprecationWarning, stacklevel=1)


@pytest.mark.skipif(os.environ["JAX_PLATFORMS"] != "cpu", reason="another platform was asked for")
def test_platform_is_cpu_by_default():
    assert jax.default_backend() == "cpu"


def test_repo_root_is_the_clone(repo_root):
    assert (repo_root / "setup.cfg").is_file()
    assert (repo_root / "grm_jax" / "__init__.py").is_file()


def test_shared_data_is_found_by_name_or_beside_the_clone(tmp_path):
    beside = tmp_path / "shared" / "data"
    beside.mkdir(parents=True)
    named = tmp_path / "elsewhere"
    named.mkdir()
    assert conftest.find_shared_data(None, tmp_path / "clone") == beside
    assert conftest.find_shared_data(str(named), tmp_path / "clone") == named


def test_absent_shared_data_skips_and_a_wrong_name_fails(tmp_path):
    with pytest.raises(pytest.skip.Exception, match="GRM_JAX_SHARED_DATA"):
        conftest.find_shared_data(None, tmp_path / "clone")
    with pytest.raises(pytest.fail.Exception, match="no such folder: missing"):
        conftest.find_shared_data("missing")
