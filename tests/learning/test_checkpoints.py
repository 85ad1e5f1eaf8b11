"""Checkpoints come back bit for bit, and a kill never costs the previous one."""

import os
import signal
import subprocess
import sys
import textwrap

import absl.logging
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.learning.checkpoints import Checkpoints, load_params, save_params
from grm_jax.learning.state import OptimizerConfig, create_state, make_optimizer

OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-3, steps=10))


def make_state(seed=0):
    """A train state with two dtypes and a typed key."""
    key = jax.random.key(seed)
    params = {
        "dense": {"kernel": jax.random.normal(key, (3, 4))},
        "norm": {"scale": jnp.linspace(0, 1, 5).astype(jnp.bfloat16) + seed},
    }
    return create_state(params, OPTIMIZER, jax.random.key(seed + 7))


def pipeline():
    return iter(grain.MapDataset.range(40).seed(3).shuffle().batch(4).to_iter_dataset())


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_state_key_meta_and_iterator_round_trip(tmp_path):
    state, data = make_state(1), pipeline()
    meta = {"offsets": {"rft": 2**40 + 1}, "rollouts": [[1, 2.5, None, "é"]], "none": None}
    next(data), next(data)
    checkpoints = Checkpoints(tmp_path / "grpo")
    checkpoints.save(3, state, meta, data)
    expected = [next(data) for _ in range(3)]

    resumed = pipeline()
    restored, found = Checkpoints(tmp_path / "grpo").restore(
        jax.eval_shape(make_state), data_iterator=resumed
    )
    assert_equal(restored, state)
    assert found == meta
    for want in expected:
        np.testing.assert_array_equal(next(resumed), want)
    # The key is a working typed key, and the iterator may be left aside.
    assert jax.random.uniform(restored.key) == jax.random.uniform(state.key)
    again, _ = checkpoints.restore(jax.eval_shape(make_state))
    assert_equal(again, state)


def test_latest_keeps_the_last_two_and_restores_by_step(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.restore(jax.eval_shape(make_state))
    for step in (2, 5, 9):
        checkpoints.save(step, make_state(step), {"step": step})
    reopened = Checkpoints(tmp_path, keep=2)
    assert (reopened.latest(), reopened.steps()) == (9, [5, 9])
    state, meta = reopened.restore(jax.eval_shape(make_state), step=5)
    assert meta == {"step": 5}
    assert_equal(state, make_state(5))
    with pytest.raises(FileNotFoundError, match="step 2"):
        reopened.restore(jax.eval_shape(make_state), step=2)
    for step in (5, 9):
        with pytest.raises(ValueError, match="not beyond the latest, 9"):
            reopened.save(step, make_state(), {})


def test_a_saved_state_of_another_shape_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": jnp.ones(3)}, {})
    for wrong in ({"a": jnp.ones(4)}, {"a": jnp.ones(3), "b": jnp.ones(1)}, {"c": jnp.ones(3)}):
        with pytest.raises(ValueError, match="shape|structures"):
            checkpoints.restore(wrong)


def test_restored_arrays_do_not_compile_a_program_again(tmp_path, compilation_counter):
    @jax.jit
    def program(state):
        return jax.tree.map(lambda x: x + 1, state.params), jax.random.bits(state.key)

    state = make_state()
    Checkpoints(tmp_path / "c").save(1, state, {})
    save_params(tmp_path / "p", state.params)
    restored, _ = Checkpoints(tmp_path / "c").restore(jax.eval_shape(make_state))
    params = load_params(tmp_path / "p", jax.eval_shape(make_state).params)
    with compilation_counter() as compiled:
        program(state)
        program(restored)
        program(state.replace(params=params))
    assert compiled.count("program") == 1


def test_nothing_is_said(tmp_path, capfd, caplog):
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.INFO)  # as absl.app does
    try:
        checkpoints = Checkpoints(tmp_path / "c")
        checkpoints.save(1, make_state(), {}, pipeline())
        checkpoints.restore(jax.eval_shape(make_state), data_iterator=pipeline())
        checkpoints.close()
        save_params(tmp_path / "p", make_state().params)
        load_params(tmp_path / "p", jax.eval_shape(make_state).params)
        assert caplog.messages == []
        assert capfd.readouterr() == ("", "")
        assert absl.logging.get_verbosity() == absl.logging.INFO
    finally:
        absl.logging.set_verbosity(before)


# Dies by SIGKILL when a save reaches a given file operation: event of the audit hook, name of the
# file. One process imports jax, which is most of the cost, and forks before a backend exists.
CHILD = """
    import os, signal, sys
    import jax, jax.numpy as jnp
    from grm_jax.learning import checkpoints

    def save(kind, folder, event, name):
        value = {"a": jnp.full(1000, 2.0)}
        if kind == "manager":
            value["key"] = jax.random.key(2)
            store = checkpoints.Checkpoints(folder, keep=1)

        def watch(happened, args):
            if happened == event and args and os.path.basename(str(args[0])) == name:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        if kind == "manager":
            store.save(2, value, {"step": 2})
        else:
            checkpoints.save_params(folder, value)

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            save(*line.split())
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
# Amid the arrays; complete but not yet committed; committed, while the previous one is removed.
MANAGER_KILLS = {
    ("open", "_METADATA"): 1,
    ("os.rename", "2.orbax-checkpoint-tmp"): 1,
    ("shutil.rmtree", "1"): 2,
}
# Amid the arrays; after the old tree was put aside; while the old tree is removed.
PARAMS_KILLS = {
    ("open", "_METADATA"): 1.0,
    ("os.rename", "x.new"): 1.0,
    ("shutil.rmtree", "x.old"): 2.0,
}


def test_sigkill_leaves_the_previous_one_usable(tmp_path, repo_root):
    jobs = []
    for i, ((event, name), expected) in enumerate(MANAGER_KILLS.items()):
        folder = tmp_path / f"manager{i}"
        before = Checkpoints(folder)
        before.save(1, {"a": jnp.ones(1000), "key": jax.random.key(1)}, {"step": 1})
        before.close()
        jobs.append(("manager", folder, event, name, expected))
    for i, ((event, name), expected) in enumerate(PARAMS_KILLS.items()):
        folder = tmp_path / f"params{i}" / "x"
        save_params(folder, {"a": jnp.ones(1000)})
        jobs.append(("params", folder, event, name, expected))

    child = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-c", textwrap.dedent(CHILD)],
        env={**os.environ, "PYTHONPATH": str(repo_root), "JAX_PLATFORMS": "cpu"},
        input="".join(" ".join(map(str, job[:4])) + "\n" for job in jobs),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    assert child.stdout.split() == [str(-signal.SIGKILL)] * len(jobs), "a save was not killed"

    abstract = jax.eval_shape(lambda: {"a": jnp.ones(1000), "key": jax.random.key(0)})
    for kind, folder, _, _, expected in jobs:
        if kind == "manager":
            store = Checkpoints(folder)
            assert store.latest() == expected
            assert not list(folder.glob("*tmp*"))
            state, meta = store.restore(abstract)
            assert meta == {"step": expected}
            want = {"a": jnp.full(1000, float(expected)), "key": jax.random.key(expected)}
            assert_equal(state, want)
            # What was half written is in nobody's way.
            store.save(3, state, {"step": 3})
            assert store.latest() == 3
        else:
            only_a = {"a": abstract["a"]}
            found = load_params(folder, only_a)
            assert_equal(found, {"a": jnp.full(1000, expected)})
            save_params(folder, {"a": jnp.full(1000, 3.0)})
            assert load_params(folder, only_a)["a"][0] == 3.0
            assert [path.name for path in folder.parent.iterdir()] == ["x"]


def test_absent_parameters_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_params(tmp_path / "nowhere", {"a": jnp.ones(1)})
