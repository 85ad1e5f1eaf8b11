"""Checkpoints come back bit for bit, and a kill never costs the previous one."""

import contextlib
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import absl.logging
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.learning.checkpoints import Checkpoints, load_params, params_digest, save_params
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
    checkpoints.wait()

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
    assert (checkpoints.latest(), checkpoints.steps()) == (9, [5, 9])
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


def test_the_best_checkpoint_stays_with_the_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.best() is None
    checkpoints.save(1, make_state(1), {})
    assert checkpoints.best() is None  # it was not measured
    for step, score in ((2, 0.6), (3, 0.8), (4, None), (5, 0.8), (6, 0.7), (7, None)):
        checkpoints.save(step, make_state(step), {}, score=score)
        assert checkpoints.best() == {2: 2, 3: 3, 4: 3}.get(step, 5)
    assert checkpoints.steps() == [5, 7]
    reopened = Checkpoints(tmp_path, keep=1)
    assert (reopened.best(), reopened.latest()) == (5, 7)
    assert_equal(reopened.restore(jax.eval_shape(make_state), step=5)[0], make_state(5))
    reopened.save(8, make_state(8), {}, score=0.9)
    assert (reopened.best(), reopened.steps()) == (8, [8])


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
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, state, {})
    save_params(tmp_path / "p", state.params)
    restored, _ = checkpoints.restore(jax.eval_shape(make_state))
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


@pytest.fixture
def held_writes():
    """Holds every folder that another thread makes, and so the write into it, until it is set."""
    release, in_use = threading.Event(), True

    def hold(event, args):
        in_background = threading.current_thread() is not threading.main_thread()
        if in_use and event == "os.mkdir" and in_background:
            assert release.wait(60)

    sys.addaudithook(hold)  # for the rest of the process: there is no way to take it back
    yield release
    in_use = False
    release.set()


def test_a_save_holds_the_values_of_its_call(tmp_path, held_writes):
    def step(state):
        return jax.tree.map(lambda x: x if x.dtype == state.key.dtype else x + 1, state)

    step = jax.jit(step, donate_argnums=0)
    state = step(make_state())
    expected, meta = jax.tree.map(jnp.copy, state), {"offset": 7, "rollouts": [1]}
    data = pipeline()
    next(data)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, meta, data)
    batches = [next(data) for _ in range(3)]
    # Nothing is on disk yet, and everything that was saved moves on.
    for _ in range(3):
        state = step(state)
    jax.block_until_ready(state)
    meta["offset"] = 8
    meta["rollouts"].append(2)
    assert not list(tmp_path.glob("*/*/*")), "the write did not wait for the test"
    held_writes.set()
    resumed = pipeline()
    restored, found = checkpoints.restore(jax.eval_shape(make_state), data_iterator=resumed)
    assert found == {"offset": 7, "rollouts": [1]}
    for batch in batches:
        np.testing.assert_array_equal(next(resumed), batch)
    assert_equal(restored, expected)
    assert restored.step == 1 and state.step == 4


def test_a_save_waits_for_the_one_before(tmp_path, held_writes):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1), {})
    second = threading.Thread(target=lambda: checkpoints.save(2, make_state(2), {}))
    second.start()
    second.join(0.3)
    assert second.is_alive() and not (tmp_path / "1").exists()
    held_writes.set()
    second.join()
    assert (tmp_path / "1").exists()
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1, 2]


def flip(path):
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def largest(checkpoint):
    """The file that holds the largest array; orbax reads another bit of it without a word."""
    return max(checkpoint.glob("*/**/d/*"), key=lambda path: path.stat().st_size)


def half_copied(checkpoint):
    shutil.rmtree(checkpoint / "state")
    (checkpoint / "SHA256SUMS").unlink()


def without_a_sum(checkpoint):
    path = checkpoint / "SHA256SUMS"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


DAMAGE = {
    "a bit": (lambda c: flip(largest(c)), "is not what was written"),
    "cut short": (lambda c: os.truncate(largest(c), 100), "is not what was written"),
    "a file": (lambda c: (c / "meta/metadata").unlink(), "meta/metadata is missing"),
    "half copied": (half_copied, "not complete or not readable"),
    "checksums": (lambda c: (c / "SHA256SUMS").write_bytes(b"\xff\n"), "not complete or not read"),
    "no checksums": (lambda c: (c / "SHA256SUMS").write_bytes(b""), "SHA256SUMS lists nothing"),
    "a checksum": (without_a_sum, "is missing in SHA256SUMS"),
}


def test_a_checkpoint_of_nothing_is_none_and_hidden_files_are_no_damage(tmp_path):
    state = {"a": jax.numpy.arange(4.0)}
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state, {"step": step}, pipeline())
    checkpoints.close()
    item = next(path for path in (tmp_path / "2").iterdir() if path.is_dir())
    (item / "._left_by_a_desktop").write_bytes(b"x")
    _, meta = Checkpoints(tmp_path).restore(jax.eval_shape(lambda: state))
    assert meta == {"step": 2}
    shutil.rmtree(tmp_path / "2")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "SHA256SUMS").write_bytes(b"")
    assert Checkpoints(tmp_path)._damage(2) == "SHA256SUMS lists nothing"


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, how, caplog):
    def make_state(seed=0):
        return {"a": jax.random.normal(jax.random.key(seed), (10_000,))}

    damage, message = DAMAGE[how]
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 4, 5):
        checkpoints.save(step, make_state(step), {"step": step}, pipeline())
    checkpoints.close()
    damage(tmp_path / "5")
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}/5: damaged checkpoint: .*{message}"):
        checkpoints.restore(jax.eval_shape(make_state), step=5)
    state, meta = checkpoints.restore(jax.eval_shape(make_state), data_iterator=pipeline())
    assert_equal(state, make_state(4))
    assert meta == {"step": 4}
    (warning,) = caplog.messages
    assert f"{tmp_path}/5: " in warning and message in warning and "from step 4" in warning
    # The step can be saved again; what was damaged is kept, once.
    for again in range(2):
        checkpoints.save(5, make_state(6), {"step": 6})
        assert checkpoints.steps() == [4, 5]
        damage(tmp_path / "5")
        _, meta = checkpoints.restore(jax.eval_shape(make_state))
        assert meta == {"step": 4}, again
        assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5.damaged"]


def test_only_damaged_checkpoints_are_an_error_again_and_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {})
    checkpoints.close()
    for step in (1, 2):
        flip(largest(tmp_path / str(step)))
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path)
        assert checkpoints.latest() == 2
        with pytest.raises(ValueError, match=r"every checkpoint .*/2: state.*/1: state.* written"):
            checkpoints.restore(jax.eval_shape(make_state))


@contextlib.contextmanager
def files_up_to(size):
    """The kernel refuses to make a file larger than `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_and_leaves_the_previous_one(tmp_path):
    def state(seed):
        return {"a": jax.random.normal(jax.random.key(seed), (20_000,))}

    folder, params = tmp_path / "checkpoints", tmp_path / "params"
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(1, state(1), {"step": 1})
    checkpoints.wait()
    save_params(params, state(1))
    with files_up_to(20_000):
        checkpoints.save(2, state(2), {"step": 2})
        with pytest.raises(OSError, match=f"{folder}/2: the checkpoint could not be written: .+"):
            checkpoints.save(3, state(3), {"step": 3})
        with pytest.raises(OSError, match=f"{params}: the parameters could not be written: .+"):
            save_params(params, state(2))
        assert [path.name for path in folder.iterdir()] == ["1"], "room is still taken"
    assert_equal(load_params(params, state(0)), state(1))
    restored, meta = Checkpoints(folder).restore(state(0))
    assert meta == {"step": 1}
    assert_equal(restored, state(1))
    save_params(params, state(2))
    assert_equal(load_params(params, state(0)), state(2))


# Saves, or restores and compares, on as many devices as the environment makes. `kernel` is cut in
# both axes, `bias` in one, `scale` is whole on every device.
MESHES = """
    import sys
    import jax, numpy as np
    from grm_jax.learning.checkpoints import Checkpoints

    mode, folder, rows, columns = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    P, auto = jax.P, jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((rows, columns), ("data", "model"), axis_types=(auto, auto))
    specs = {"kernel": P("data", "model"), "bias": P("model"), "scale": P(), "key": P()}
    shardings = {name: jax.sharding.NamedSharding(mesh, spec) for name, spec in specs.items()}
    rng = np.random.default_rng(0)
    state = {
        "kernel": rng.normal(size=(16, 8)).astype(np.float32),
        "bias": rng.normal(size=8).astype(jax.numpy.bfloat16),
        "scale": rng.normal(size=3).astype(np.float32),
        "key": jax.random.key(5),
    }
    assert jax.device_count() == rows * columns
    placed = jax.device_put(state, shardings)
    if mode == "save":
        checkpoints = Checkpoints(folder)
        checkpoints.save(1, placed, {})
        checkpoints.close()
    else:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed
        )
        restored, _ = Checkpoints(folder).restore(abstract)
        for name, x in restored.items():
            assert x.sharding == shardings[name], name
            data = jax.random.key_data if name == "key" else np.asarray
            assert np.asarray(data(x)).tobytes() == np.asarray(data(state[name])).tobytes(), name
        print("equal", x.sharding.mesh.size)
"""


def test_a_sharded_state_is_restored_on_other_meshes(tmp_path, repo_root):
    def on_mesh(mode, *mesh):
        flags = f"--xla_force_host_platform_device_count={math.prod(map(int, mesh))}"
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(MESHES), mode, tmp_path, *mesh],
            env={**os.environ, "PYTHONPATH": str(repo_root), "JAX_PLATFORMS": "cpu",
                 "XLA_FLAGS": flags},
            stdout=subprocess.PIPE, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip

    on_mesh("save", "4", "2")
    assert on_mesh("restore", "2", "2") == "equal 4\n"
    assert on_mesh("restore", "1", "1") == "equal 1\n"


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
            store.wait()
        else:
            checkpoints.save_params(folder, value)

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            save(*line.split())
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
# Amid the arrays; while checksums are listed; complete but not yet committed; committed, while the
# previous one is removed.
MANAGER_KILLS = {
    ("open", "_METADATA"): 1,
    ("open", "SHA256SUMS"): 1,
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


@pytest.mark.parametrize("name", ["grpo/4", "rft/5"])
def test_a_checkpoint_of_another_stage_or_step_is_refused(tmp_path, name):
    with contextlib.closing(Checkpoints(tmp_path / "grpo")) as checkpoints:
        checkpoints.save(5, make_state(5), {})
    shutil.copytree(tmp_path / "grpo/5", tmp_path / name)
    path = tmp_path / name
    checkpoints = Checkpoints(path.parent)
    with pytest.raises(ValueError, match=f"^{path}: a checkpoint of grpo/5$"):
        checkpoints.restore(jax.eval_shape(make_state), step=int(path.name))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    """That has the same stage and step; one of before, which names no run, is read."""
    for run in ("one", "two", ""):
        with contextlib.closing(Checkpoints(tmp_path / run / "grpo", run=run)) as checkpoints:
            checkpoints.save(5, make_state(5), {"a": 1})
    path = tmp_path / "one/grpo/5"
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "two/grpo/5", path)
    abstract = jax.eval_shape(make_state)
    with pytest.raises(ValueError, match=f"^{path}: a checkpoint of grpo/5 of another seed or con"):
        Checkpoints(path.parent, run="one").restore(abstract)
    for folder, run in ((path.parent, "two"), (path.parent, ""), (tmp_path / "grpo", "one")):
        assert Checkpoints(folder, run=run).restore(abstract)[1] == {"a": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, value):
    """In parameters, in moments, in any type."""
    good = make_state()
    checkpoints = Checkpoints(tmp_path / "grpo")
    checkpoints.save(1, good, {})
    scale = good.params["norm"]["scale"].at[1].set(value)
    wrong = [good.replace(params={**good.params, "norm": {"scale": scale}}),
             good.replace(opt_state=jax.tree.map(lambda x: x + value, good.opt_state))]  # fmt: skip
    for state in wrong:
        with pytest.raises(FloatingPointError, match=f"^{tmp_path}/grpo/2: not all .* finite$"):
            checkpoints.save(2, state, {})
    assert checkpoints.steps() == [1]
    checkpoints.save(2, good, {})
    assert checkpoints.steps() == [1, 2]


def test_damaged_parameters_name_their_folder(tmp_path):
    params = {"a": jax.random.normal(jax.random.key(0), (10_000,)), "b": jnp.zeros(3)}
    folder = tmp_path / "params"
    save_params(folder, params)
    digest = params_digest(params)
    assert_equal(load_params(folder, params, digest), params)
    with pytest.raises(ValueError, match=f"^{folder}: damaged"):
        load_params(folder, params, "0" * 16)
    save_params(folder, {**params, "b": jnp.zeros(3).at[0].set(-0.0)})
    with pytest.raises(ValueError, match=f"^{folder}: damaged"):
        load_params(folder, params, digest)
    (folder / "_METADATA").write_bytes((folder / "_METADATA").read_bytes()[:50])
    with pytest.raises(ValueError, match=f"^{folder}: the parameters could not be read: "):
        load_params(folder, params)
