"""Two processes over loopback do what one does, and fail together."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = pathlib.Path(__file__).parents[2]
FAST = [
    "--config.base.optimizer.steps=2",
    "--config.cold_start.data.demonstrations=20",
    "--config.cold_start.optimizer.steps=3",
    "--config.rft.data.comparisons=4",
    "--config.grpo.optimizer.learning_rate=0.01",
    "--config.mesh.fsdp=2",
]


def start(workdir, cache, *flags):
    """One process of a run; stdout and stderr go to a file that is its second attribute."""
    log = workdir.with_name(f"{workdir.name}_{'_'.join(flags)[-20:].replace('=', '_')}.log")
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.grpo", "--config=configs/small_world.py:ci",
             f"--workdir={workdir}", *FAST, *flags],
            cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache),
                 "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        )  # fmt: skip
    return process, log


def start_two(workdir, cache, *flags_of_second, both=()):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        start(workdir, cache, f"--coordinator=localhost:{port}", "--processes=2", f"--process={i}",
              *both, *(flags_of_second if i else ()))
        for i in range(2)
    ]  # fmt: skip


def finish(*started, code=0):
    """Output of each process, once all have ended with the exit code."""
    texts = []
    for process, log in started:
        try:
            process.wait(timeout=400)
        except subprocess.TimeoutExpired:
            process.kill()
        texts.append(log.read_text())
        assert process.returncode == code, texts[-1]
    return texts


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def final_params(workdir):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(workdir / "params/grpo/params")


def tokens_drawn(workdir):
    lines = (workdir / "trajectories/grpo.jsonl").read_text().splitlines()
    drawn = [json.loads(line) for line in lines]
    return [record["token_ids"] for record in drawn if "token_ids" in record]


@pytest.mark.slow
def test_two_processes_do_what_one_does_and_their_run_goes_on_in_one(tmp_path):
    cache = tmp_path / "cache"
    finish(start(tmp_path / "alone", cache))

    # One of the two is killed inside GRPO: the other ends too, and one process takes over.
    first, second = start_two(tmp_path / "two", cache)
    saved = tmp_path / "two/checkpoints/grpo/1"
    deadline = time.monotonic() + 300
    while not saved.exists():
        assert time.monotonic() < deadline and second[0].poll() is None, second[1].read_text()
        time.sleep(0.02)
    second[0].kill()
    first[0].wait(timeout=200)
    assert first[0].returncode != 0
    (after,) = finish(start(tmp_path / "two", cache))
    assert "grpo: 3 iterations" in after and (", from 1" in after or ", from 2" in after)

    expected, actual = records(tmp_path / "alone"), records(tmp_path / "two")
    assert [(r["stage"], r["step"]) for r in actual] == [(r["stage"], r["step"]) for r in expected]
    for one, other in zip(actual, expected, strict=True):
        numbers = {name: value for name, value in one.items() if name != "stage"}
        assert numbers == pytest.approx(
            {name: other[name] for name in numbers}, rel=1e-3, abs=1e-4
        ), other
    assert tokens_drawn(tmp_path / "two") == tokens_drawn(tmp_path / "alone") != []
    # The mesh is the same, so that nothing rounds otherwise: Adam would make whole steps of that.
    whole, resumed = final_params(tmp_path / "alone"), final_params(tmp_path / "two")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=0, atol=1e-6), whole, resumed)


@pytest.mark.slow
def test_a_failure_of_one_process_ends_all_with_its_reason(tmp_path):
    texts = finish(
        *start_two(tmp_path / "two", tmp_path / "cache", "--config.grpo.kl_coef=-1.0"), code=1
    )
    for text in texts:
        assert "process 1 of 2 failed: config.grpo.kl_coef: must be at least 0" in text


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    steps = ["--config.base.optimizer.steps=4000", "--config.base.data.checkpoint_every=2"]
    both = start_two(tmp_path / "two", tmp_path / "cache", both=steps)
    deadline = time.monotonic() + 300
    while not (tmp_path / "two/checkpoints/base/2").exists():
        assert time.monotonic() < deadline and both[1][0].poll() is None, both[1][1].read_text()
        time.sleep(0.02)
    both[1][0].send_signal(signal.SIGTERM)
    first, _ = finish(*both, code=143)
    (step,) = re.findall(r"stopped, step (\d+) of base is on disk", first)
    assert (tmp_path / "two/checkpoints/base" / step).exists()
