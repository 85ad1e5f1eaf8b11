"""A run that is killed and started again ends bitwise where an unbroken one does."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Small enough to be run five times; every stage up to GRPO is walked.
FAST = [
    "--config.cold_start.data.demonstrations=60",
    "--config.cold_start.optimizer.steps=4",
    "--config.cold_start.data.checkpoint_every=2",
    "--config.rft.data.comparisons=4",
    "--config.rft.buckets.samples_per_unit=8",
    "--config.rft.draw.max_new_tokens=12",
    "--config.grpo.draw.max_new_tokens=12",
    "--config.model.embed_dim=16",
    "--config.model.ffn_dim=16",
    "--config.model.head_dim=8",
    "--config.mesh.data=1",
]


def command(workdir):
    return [
        sys.executable, "-m", "experiments.grpo", "--config=configs/small_world.py:ci",
        f"--workdir={workdir}", *FAST,
    ]  # fmt: skip


def environment(cache):
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip


def run_to_end(workdir, cache):
    done = subprocess.run(
        command(workdir), cwd=ROOT, env=environment(cache), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def run_until(workdir, cache, moment):
    """Starts the run and kills it with SIGKILL as soon as `moment` holds of the workdir."""
    log = workdir.with_suffix(".log")
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command(workdir), cwd=ROOT, env=environment(cache), stdout=output, stderr=output
        )
    deadline = time.monotonic() + 240
    while process.poll() is None and not moment(workdir):
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed: " + log.read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()


def outcome(workdir):
    """Everything a run leaves that must be equal: metrics without times, logs, parameters."""
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for record in metrics:
        del record["time"]
    logs = {path.name: path.read_bytes() for path in (workdir / "trajectories").iterdir()}
    marks = {path.parent.name: path.read_text() for path in workdir.glob("params/*/DONE")}
    return metrics, logs, marks


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


MOMENTS = {
    "inside the cold start": lambda w: (w / "checkpoints/cold_start/2").exists(),
    "while RFT draws": lambda w: lines(w / "trajectories/rft.jsonl") > 5,
    "inside GRPO": lambda w: (w / "checkpoints/grpo/1").exists(),
    "between rollout and update": lambda w: lines(w / "trajectories/grpo.jsonl") > 2 * 18,
}


@pytest.mark.slow
def test_killed_three_times_equals_never_killed(tmp_path):
    cache = tmp_path / "cache"
    run_to_end(tmp_path / "whole", cache)
    expected = outcome(tmp_path / "whole")
    assert len(expected[0]) >= 5 and set(expected[2]) == {"base", "cold_start", "rft", "grpo"}
    for moment in MOMENTS.values():
        run_until(tmp_path / "killed", cache, moment)
    run_to_end(tmp_path / "killed", cache)
    actual = outcome(tmp_path / "killed")
    assert actual[0] == expected[0]
    assert actual[1] == expected[1]
    assert actual[2] == expected[2]


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 5}')
    done = subprocess.run(
        command(tmp_path), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "belongs to another config" in done.stderr and "config.seed: 5 there" in done.stderr
