"""A run that is killed or stopped and started again ends bitwise where an unbroken one does."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import builders
import jax
import numpy as np
import pytest

from experiments.progress import Metrics
from grm_jax.learning.checkpoints import save_params
from tests.harness import check_resume
from tests.harness.check_resume import LATER, RESTORED, ROLLOUT, TABLE, Kill, Runner

# In the order in which a run comes to them. Stopped by SIGTERM in a step and in a work unit, killed
# inside writes, between rollout and update, and while it resumes.
KILLS = [
    Kill("base", 1, "before the arrays of a checkpoint"),  # the first, and a record was written
    Kill("rft: drawing", 8, LATER, signal=signal.SIGTERM),
    Kill("grpo", 1, "before a checkpoint has its name"),
    Kill("grpo", 4, ROLLOUT),
    Kill("grpo", 4, RESTORED),  # of step 2 at least: what was killed had waited for it
    Kill("grpo", 4, LATER, signal=signal.SIGTERM),  # after step 5, where no checkpoint is due
    Kill("meta_rm", 3, "while an old checkpoint is removed"),
    Kill("meta_rm", 5, LATER, signal=signal.SIGTERM),
    Kill("benchmark_small_world_grpo_sampled: drawing", 8, LATER),
    Kill("meta RM", 0, TABLE),
]


@pytest.fixture(scope="module")
def runner():
    return Runner("benchmark", check_resume.TINY)


@pytest.fixture(scope="module")
def whole(runner, tmp_path_factory):
    """Workdir of an unbroken run."""
    folder = tmp_path_factory.mktemp("resume") / "whole"
    before = dict(os.environ)
    check_resume.environment(folder.with_name("cache"))
    runner.run(folder, fresh=True)
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
def test_killed_and_stopped_equals_unbroken(runner, whole):
    killed = whole.with_name("killed")
    deaths = check_resume.run_killed(runner, killed, KILLS)
    # Each came where it was meant to, and not at the end of its stage for want of the moment.
    assert deaths == [str(kill) for kill in KILLS]
    differences = dict(check_resume.compare(whole, killed))
    assert {name: text for name, text in differences.items() if text} == {}
    for name in ("params/meta_rm/params", "checkpoints/grpo/8/state", "trajectories/grpo.jsonl",
                 "checkpoints/base/8/data/metadata", "tables/main.json", "samples.md",
                 "critiques.html",
                 "trajectories/benchmark_small_world_grpo_sampled.jsonl",
                 "meta_scores/benchmark_small_world_grpo_sampled.jsonl"):  # fmt: skip
        assert name in differences
    # A run in which nothing is learnt would be equal to anything.
    last = [record for record in Metrics(whole).read() if record["stage"] == "grpo"][-1]
    assert last["kl"] > 1e-3 and last["grad_norm"] > 1e-3
    # Who stopped it is told what is safe, and that is where it went on.
    log = killed.with_suffix(".log").read_text().replace("\n", " ")
    assert "stopped, the last unit of rft is on disk; the same command goes on from there" in log
    stops = re.findall(r"stopped, step (\d) of (\w+) is on disk", log)
    assert [stage for _, stage in stops] == ["grpo", "meta_rm"]
    for step, stage in stops:
        assert re.search(rf" {stage}: [^:]*, from {step} ", log), (stage, step)


def test_a_second_signal_is_not_waited_for():
    run = builders.run(stop_asked=threading.Event())
    before = signal.signal(signal.SIGTERM, run.ask_to_stop)
    try:
        assert not run.stopping
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.stopping
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def flip_bit(folder):
    """Changes the last bit of the last array of a folder of arrays, and says which one it is."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(check_resume.read(folder))
    floats = [i for i, (_, leaf) in enumerate(leaves) if leaf.dtype == np.float32 and leaf.ndim]
    arrays = [leaf for _, leaf in leaves]
    changed = np.array(arrays[floats[-1]])
    changed.view(np.uint32).flat[-1] ^= 1
    arrays[floats[-1]] = changed
    shutil.rmtree(folder)
    save_params(folder, jax.tree.unflatten(structure, arrays))
    return jax.tree_util.keystr(leaves[floats[-1]][0])


@pytest.mark.slow
def test_each_difference_is_found(whole, tmp_path):
    def found():
        return {name: text for name, text in check_resume.compare(whole, other) if text}

    other = tmp_path / "other"
    shutil.copytree(whole, other)
    metrics, log = other / "metrics.jsonl", other / "trajectories/grpo.jsonl"
    text = re.sub(r'"tokens_per_second": [\d.]+', '"tokens_per_second": 1', metrics.read_text())
    metrics.write_text(text)
    assert found() == {}, "a time is no difference"

    bits = {
        name: f"{flip_bit(other / name)} differs"
        for name in ("params/rft/params", "checkpoints/meta_rm/8/state")
    }
    metrics.write_text(text.replace('"loss": ', '"loss": 1', 1))
    log.write_bytes(log.read_bytes()[:-10])
    (other / "checkpoints/grpo/8").rename(other / "checkpoints/grpo/9")
    differences = found()
    assert differences.pop("metrics.jsonl without times").startswith("line 1 differs")
    assert re.match(r"line \d+ differs", differences.pop("trajectories/grpo.jsonl"))
    assert differences == bits | {
        f"checkpoints/grpo/8/{item}": "is missing"
        for item in ("state", "meta/metadata", "data/metadata")
    }


@pytest.mark.slow
def test_a_workdir_is_not_used_twice(runner, whole, tmp_path):
    """As two people would start it, from the command line."""
    folder = tmp_path / "twice"
    first = runner.start(folder)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)  # it may be done before the other has begun
        before = (folder / "config.json").read_bytes()
        second = subprocess.run(
            [sys.executable, "-m", "experiments.grpo", *check_resume.TINY, f"--workdir={folder}"],
            cwd=check_resume.ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        os.kill(first.pid, signal.SIGCONT)
        assert first.is_alive()
    finally:
        first.kill()
        first.join()
    assert second.returncode == 1
    # Plugins of jax may have written something before.
    last = second.stderr.strip().splitlines()[-1]
    assert last == f"error: {folder} is in use by another process"
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 5}')
    done = subprocess.run(
        [sys.executable, "-m", "experiments.grpo", *check_resume.TINY, f"--workdir={tmp_path}"],
        cwd=check_resume.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "belongs to another config" in done.stderr and "config.seed: 5 there" in done.stderr


@pytest.mark.slow
def test_a_flag_for_a_field_that_the_config_lacks_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.grpo", *check_resume.TINY, f"--workdir={tmp_path}/new",
         "--config.grpo.kl_coeff=0.1"],
        cwd=check_resume.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: --config.grpo.kl_coeff: no field or section 'kl_coeff'")
    assert 'did you mean "kl_coef"' in last
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config=configs/small_world.py:nope", "unknown variant 'nope'; known are"),
        ("--config.stages=base,cold_start", "config.rft: section is missing, or config.stages"),
        ("--config.stages=rft,grpo", "config.cold_start: is missing or off, and rft has no"),
        ("--config.grpo.loop.easy_for=grpo", "config.grpo.loop.easy_for: only 'rft' has"),
        ("--config.grpo.loop.easy_for=a/b", "config.grpo.loop.easy_for: no such file or folder"),
        ("--config.tokenizer.path=/a/b", "config.tokenizer.path: no such file or folder: '/a/b'"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_claims_a_workdir(flag, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.grpo", "--config=configs/small_world.py:ci", flag,
         f"--workdir={tmp_path}/new"],
        cwd=check_resume.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_interrupt_is_one_line(tmp_path):
    # A shell that starts pytest in the background lets it and its children ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(
        [sys.executable, "-m", "experiments.sft", *check_resume.TINY, f"--workdir={tmp_path}/w"],
        cwd=check_resume.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    while run.poll() is None and not (tmp_path / "w/tokenizer.model").exists():
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("interrupted; the same command goes on")
