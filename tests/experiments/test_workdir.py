"""A workdir belongs to one process, and what a stage left in it is what the next one reads."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

from configs import small_world
from experiments import run as runs
from experiments import workdir as workdirs
from experiments.baselines import judge
from experiments.run import Run
from experiments.stages import baseline, drawing, grpo, order, rft
from experiments.workdir import Workdir
from grm_jax.learning.checkpoints import params_digest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def config():
    c = small_world.get_config("ci")
    c.mesh.data = 1
    c.base.optimizer.steps = c.cold_start.optimizer.steps = 4
    c.cold_start.data.demonstrations = 60
    c.grpo.loop.start = "cold_start"
    del c.ablate
    c.benchmark.arms = ""
    return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir in which base and cold start are finished."""
    path = tmp_path_factory.mktemp("finished")
    runs.carry_out(order.up_to("cold_start"), config(), path)
    return path


@pytest.fixture
def workdir(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    return tmp_path / "w"


def load(workdir, stage):
    found = []
    runs.carry_out(lambda run: found.append(run.load_params(stage)), config(), workdir)
    return found[0]


def flip_a_bit(folder):
    """In the middle of the largest file, which has the arrays."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# ---- what is in params/ ----


@pytest.mark.parametrize("part", ["", "params"])
def test_the_parameters_of_another_stage_are_refused(workdir, part):
    own, other = (workdir / "params" / name / part for name in ("cold_start", "base"))
    shutil.rmtree(own)
    shutil.copytree(other, own)
    with pytest.raises(ValueError) as caught:
        load(workdir, "cold_start")
    assert str(workdir / "params/cold_start") in str(caught.value)
    assert ("DONE.stage: 'base' there, 'cold_start' now" in str(caught.value)) == (part == "")
    load(workdir, "base")


def test_one_flipped_bit_is_refused(workdir):
    flip_a_bit(workdir / "params/base/params")
    with pytest.raises(ValueError, match=f"^{workdir}/params/base/params: "):
        load(workdir, "base")


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_rules"])
def test_another_tokenizer_than_at_training_is_refused(workdir, part):
    done = workdir / "params/base/DONE"
    done.write_text(json.dumps(json.loads(done.read_text()) | {part: "0" * 64}))
    with pytest.raises(ValueError, match=rf"params/base: not what .*DONE\.{part}: '0000"):
        load(workdir, "base")


def test_the_parameters_of_another_seed_are_refused(workdir, tmp_path):
    other = config()
    other.seed = 5
    (tmp_path / "other" / "params").mkdir(parents=True)
    shutil.copytree(workdir / "params/base", tmp_path / "other/params/base")
    shutil.copy(workdir / "tokenizer.model", tmp_path / "other")
    with pytest.raises(ValueError, match=r"params/base: not what .*DONE\.seed: 0 there, 5 now"):
        runs.carry_out(lambda run: run.load_params("base"), other, tmp_path / "other")


def test_stages_of_earlier_versions_are_compared_by_what_they_have(workdir):
    done = workdir / "params/base/DONE"
    whole = json.loads(done.read_text())
    digest = whole["fingerprint"]
    for part in ({"fingerprint": digest}, {**whole, "tokenizer_rules": None, "seed": None}):
        found = {name: value for name, value in part.items() if value is not None}
        done.write_text(json.dumps(found))
        load(workdir, "base")
    for other in ({"fingerprint": "0" * 16}, {}):
        done.write_text(json.dumps(other))
        with pytest.raises(ValueError, match="params/base/params: damaged"):
            load(workdir, "base")


def test_what_was_read_is_hashed_once(workdir, monkeypatch):
    """Hashing takes minutes for the largest models."""
    hashed = []
    sha256 = workdirs.checkpoints.hashlib.sha256

    def count(*data):
        if not data:  # all other hashes are of one text
            hashed.append(1)
        return sha256(*data)

    monkeypatch.setattr(workdirs.checkpoints.hashlib, "sha256", count)
    params = load(workdir, "base")
    done = json.loads((workdir / "params/base/DONE").read_text())
    assert params_digest(params) == done["fingerprint"] and len(hashed) == 1
    changed = jax.tree.map(lambda x: x, params)  # the same arrays in another tree
    assert params_digest(changed) == done["fingerprint"] and len(hashed) == 1
    assert params_digest({"a": params}) != done["fingerprint"] and len(hashed) == 2
    assert params_digest(jax.tree.map(lambda x: x + 1, params)) != done["fingerprint"]


# ---- values that are not finite ----


def too_fast(section):
    """The first update is finite, and what it leaves computes nothing that is."""
    c = config()
    c[section].optimizer.learning_rate = 1e15
    c[section].optimizer.warmup_steps = 0
    c[section].optimizer.steps = 8
    return c


STAGES = {
    "base": ("base", order.up_to("cold_start")),
    "cold_start": ("cold_start", order.up_to("cold_start")),
    "grpo": ("grpo", grpo.run_stage),
    "bradley_terry": ("baseline", baseline.run_stage),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "stopped"),
    [("base", False), ("base", True), ("cold_start", False), ("grpo", True),
     ("bradley_terry", False), ("bradley_terry", True)],
)  # fmt: skip
def test_values_that_are_not_finite_end_a_stage(workdir, monkeypatch, stage, stopped):
    """Between two records of the metrics too, and where a signal has a checkpoint written."""
    section, experiment = STAGES[stage]
    for name in ("config.json", *(f"{folder}/{stage}" for folder in ("params", "checkpoints"))):
        shutil.rmtree(workdir / name, ignore_errors=True)
        if (workdir / name).is_file():
            (workdir / name).unlink()
    shutil.rmtree(workdir / "stages")
    step = Run.stopping.fget
    asked = iter([False, True] if stopped else [])  # of the steps
    monkeypatch.setattr(Run, "stopping", property(lambda run: next(asked, step(run))))
    named = rf"stage {stage}, step 1: .*(not|be) finite|checkpoints/{stage}/2: not all .* finite"
    # What cannot be sampled from is a ValueError of its first trajectory.
    with pytest.raises(FloatingPointError if stage != "grpo" else ValueError, match=named):
        runs.carry_out(experiment, too_fast(section), workdir)
    assert not (workdir / "params" / stage / "DONE").exists()
    kept = {path.name for path in (workdir / "checkpoints" / stage).iterdir()}
    assert "2" not in kept, "the first step leaves what is finite"


def test_parameters_that_are_not_finite_are_not_saved(workdir):
    def save(run):
        params = run.load_params("base")
        leaves, structure = jax.tree.flatten(params)
        leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(float("inf"))
        run.save_params("rft", jax.tree.unflatten(structure, leaves))

    with pytest.raises(FloatingPointError, match="params/rft: not all values are finite"):
        runs.carry_out(save, config(), workdir)
    assert not (workdir / "params/rft").exists()


# ---- one process ----


def test_a_workdir_is_held_also_when_its_lock_file_is_removed(tmp_path):
    claim = Workdir(tmp_path)
    (tmp_path / ".lock").unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} is in use by another process"):
        Workdir(tmp_path)
    claim.close()
    Workdir(tmp_path).close()


# ---- what ends a stage, and what does not ----


@pytest.mark.parametrize("stage", ["rft", "llm_judge"])
def test_a_stage_that_keeps_nothing_is_no_finished_stage(workdir, monkeypatch, stage):
    """Not even where general data would be left to train on."""
    monkeypatch.setattr(drawing, "draw_stage", lambda *_, **__: [])
    monkeypatch.setattr(judge, "right_demonstrations", lambda *_: [])
    c = config()
    del c.rft.data.min_kept
    train = {"rft": rft.run_stage, "llm_judge": lambda run: judge.train(run, None)}[stage]
    (workdir / "config.json").unlink()
    with pytest.raises(ValueError, match=f"stage {stage}: 0 .*config.rft.data.min_kept is 1"):
        runs.carry_out(train, c, workdir)
    assert not (workdir / "params" / stage).exists()


def test_a_terminal_of_ascii_loses_nothing_and_a_tilde_is_expanded(tmp_path):
    code = (
        "import pathlib, rich.console\n"
        "from experiments import launch\n"
        "def program(config, workdir):\n"
        "    print('Voting@2 − greedy ≥ 1', workdir)\n"
        "    rich.console.Console().print('a − b')\n"
        "    (workdir / 'results').mkdir(parents=True)\n"
        "launch.start(program)\n"
    )
    config = f"--config={ROOT / 'configs/small_world.py'}:ci"
    for encoding in ("ascii", "latin-1"):
        done = subprocess.run(
            [sys.executable, "-c", code, config, f"--workdir=~/{encoding}"],
            env=os.environ | {"PYTHONIOENCODING": encoding, "HOME": str(tmp_path)},
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Voting@2 ? greedy ? 1" in done.stdout and "a ? b" in done.stdout
        assert (tmp_path / encoding / "results").is_dir()
