"""Programs come out of the cache as they were compiled; what is wrong with it costs one line."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from experiments import compilation_cache
from grm_jax.parallel import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A training step of a tiny decoder: its gradients and its loss, and what came out of the cache.
PROGRAM = """
import json, sys
import jax
from experiments import compilation_cache
from grm_jax.models import transformer
from grm_jax.models.variants import VARIANTS

compilation_cache.enable()
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event == "/jax/compilation_cache/cache_hits" else None
)
config = VARIANTS["tiny"]
params = jax.jit(lambda key: transformer.init(config, key))(jax.random.key(0))
tokens = jax.numpy.arange(16).reshape(2, 8)

@jax.jit
def step(params):
    def loss(params):
        hidden, _ = transformer.apply(config, params, tokens, tokens, jax.numpy.ones_like(tokens))
        return (hidden**2).sum()
    return jax.value_and_grad(loss)(params)

leaves = jax.tree.leaves(step(params))
digest = [jax.device_get(leaf).tobytes().hex() for leaf in leaves]
print(json.dumps({"digest": hash(tuple(digest)), "hits": len(hits)}))
"""


@pytest.fixture
def undecided(monkeypatch, tmp_path):
    """A user who has decided nothing about the cache; yields the folder of his caches."""
    of_tests = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "grm_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", of_tests)


def run(cache: pathlib.Path) -> tuple[dict, str]:
    """What the program prints in a process of its own, and its stderr."""
    env = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    env |= {"XDG_CACHE_HOME": str(cache), "PYTHONHASHSEED": "0",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_warm_run_computes_the_same_bits_and_a_damaged_entry_is_replaced(tmp_path):
    cold, said = run(tmp_path)
    assert cold["hits"] == 0 and said == ""
    folder = tmp_path / "grm_jax" / "xla" / compilation_cache.fingerprint()
    assert folder.stat().st_mode & 0o777 == 0o700
    (entry,) = folder.glob("jit_step-*")
    whole = entry.read_bytes()

    warm, said = run(tmp_path)
    assert warm["hits"] >= 2 and said == ""
    assert warm["digest"] == cold["digest"]

    entry.write_bytes(whole[: len(whole) // 2])  # a run was killed as it wrote
    damaged, said = run(tmp_path)
    assert damaged == {"digest": cold["digest"], "hits": warm["hits"] - 1}
    (line,) = said.splitlines()
    assert line.startswith("compiled anew: ") and "jit_step" in line
    assert len(entry.read_bytes()) > len(whole) // 2
    assert run(tmp_path) == (warm, "")


def test_a_folder_that_cannot_be_used_costs_one_line(undecided, tmp_path, capsys, monkeypatch):
    undecided.parent.write_text("a file")
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no compilation cache, programs are compiled anew: ")
    assert str(undecided) in line

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/do/not/count")
    monkeypatch.setattr(pathlib.Path, "home", homeless)
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
    assert "home directory" in capsys.readouterr().err


def test_what_the_user_decided_stays(undecided, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "mine")
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == "mine"

    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.enable()
    jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None

    monkeypatch.setattr(processes, "several", lambda: True)
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
    assert not undecided.exists()


def test_another_machine_or_jax_has_another_folder(monkeypatch):
    digests = {compilation_cache.fingerprint()}
    monkeypatch.setattr(processes, "cores", lambda: 1000)
    digests.add(compilation_cache.fingerprint())
    monkeypatch.setattr(compilation_cache.jax, "__version__", "0.0.1")
    digests.add(compilation_cache.fingerprint())
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self: "flags\t\t: fpu vme\n")
    digests.add(compilation_cache.fingerprint())
    assert len(digests) == 4


def test_entries_that_were_not_used_for_long_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", 25)
    for age, name in enumerate(("new/a", "new/b", "old/c", "old/d")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10))
        os.utime(path, (1e9 - age, 1e9 - age))
    compilation_cache._remove_oldest(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("?")) == ["a", "b"]
