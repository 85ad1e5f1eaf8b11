"""The command: two arms on two seeds, once, and then at once."""

import json
import pathlib
import shutil
import subprocess
import sys
import time
import types

import pytest

from configs import small_world
from experiments import ablate
from grm_jax.evaluation.tables import read_json

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = (
    "--config=configs/small_world.py:ci", "--config.ablate.only=without_principles,kl_0",
    "--config.ablate.seeds=21,22", "--config.benchmark.split=test",
    "--config.benchmark.meta_rm=False", "--config.benchmark.limit=4", "--config.benchmark.ks=1,2",
    "--config.benchmark.draw.k=2", "--config.benchmark.arm_k=2", "--config.base.optimizer.steps=2",
    "--config.cold_start.optimizer.steps=2", "--config.rft.data.comparisons=4",
    "--config.grpo.optimizer.steps=1",
)  # fmt: skip


def run(workdir, *more):
    return subprocess.run(
        [sys.executable, "-m", "experiments.ablate", *FLAGS, f"--workdir={workdir}", *more],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_arms_on_two_seeds(tmp_path, tmp_path_factory, monkeypatch):
    # The programs of the second seed are those of the first.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 of 2 seeds are finished" in done.stdout

    table = read_json(tmp_path / "tables/ablation.json")
    found = {(row.section, row.label) for row in table.rows}
    assert {("steps", "GRPO − RFT, one sample"), ("full − kl 0", "Voting@2"),
            ("full − without principles", "RFT, greedy")} <= found  # fmt: skip
    assert ("full − kl 0", "RFT, greedy") not in found  # it shares that stage
    assert (tmp_path / "figures/ablation.png").stat().st_size > 0
    seeds = read_json(tmp_path / "tables/seeds.json")
    assert [column.name for column in seeds.columns] == ["mean", "seed 21", "seed 22"]
    for seed in (21, 22):
        stages = {path.name for path in (tmp_path / f"seed_{seed}/params").iterdir()}
        assert {"grpo", "grpo_kl_0", "grpo_without_principles"} <= stages
        assert "rft_kl_0" not in stages
        own = json.loads((tmp_path / f"seed_{seed}/config.json").read_text())
        assert own["seed"] == own["small_world"]["world_seed"] == seed

    # A report is made again from what is on disk, and is the same.
    before = (tmp_path / "tables/ablation.md").read_bytes()
    began = time.monotonic()
    alone = tmp_path / "alone"
    for seed in (21, 22):
        results = alone / f"seed_{seed}/results"
        shutil.copytree(tmp_path / f"seed_{seed}/results", results)
    assert run(alone, "--report").returncode == 0
    assert time.monotonic() - began < 20
    assert (alone / "tables/ablation.md").read_bytes() == before
    assert not (alone / "seed_21/params").exists()

    # The seeds are opened: another measurement of them is refused before anything is drawn.
    refused = run(tmp_path, "--config.benchmark.draw.temperature=0.9")
    assert refused.returncode == 1
    assert "seed 21 was opened on" in refused.stderr and "temperature" in refused.stderr


def test_a_development_seed_is_no_held_out_seed():
    config = small_world.get_config("ci")
    config.benchmark.split = "test"
    config.ablate.seeds = "3"
    with pytest.raises(ValueError, match="development_seeds: seed 3 is in seeds already"):
        ablate.seeds(config)


def flags(monkeypatch, *, report=False):
    monkeypatch.setattr(ablate, "_SHARD", types.SimpleNamespace(value="0/1"))
    monkeypatch.setattr(ablate, "_REPORT", types.SimpleNamespace(value=report))


def test_arms_that_were_measured_before_stay_if_they_are_the_same(tmp_path, monkeypatch):
    config = small_world.get_config("ci")
    config.ablate.only = "kl_0_32"
    assert ablate.measured_arms(config, tmp_path) == []
    (tmp_path / "results").mkdir()
    (tmp_path / "results/small_world.json").touch()
    before = {"kl 0": "grpo.kl_coef=0.0", "kl 0 02": "grpo.kl_coef=7.0", "gone": "grpo.kl_coef=8.0"}
    result = types.SimpleNamespace(arms=before)
    monkeypatch.setattr(ablate.results, "read_results", lambda folder: {"small_world": result})
    found = ablate.measured_arms(config, tmp_path)
    assert found == ["kl_0"]
    assert ablate.of_seed(config, 21, found).benchmark.arms == "kl_0_32,kl_0"
    config.ablate.only = "kl_0"
    assert ablate.of_seed(config, 21, found).benchmark.arms == "kl_0"


def test_a_mistake_in_an_arm_is_said_once(tmp_path, monkeypatch):
    flags(monkeypatch)
    monkeypatch.setattr(ablate.runs, "carry_out", lambda *_: pytest.fail("a seed was begun"))
    config = small_world.get_config("ci")
    config.ablate.arms.kl_0 = "grpo.kl_coeff=0.0"
    with pytest.raises(ValueError, match=r"^config\.ablate\.arms\.kl_0: .*kl_coeff"):
        ablate.main(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_report_of_nothing_is_an_error(tmp_path, monkeypatch):
    flags(monkeypatch, report=True)
    config = small_world.get_config("ci")
    with pytest.raises(ValueError, match="there is no folder"):
        ablate.main(config, tmp_path / "new")
    with pytest.raises(ValueError, match="no seed of .* was measured with this config"):
        ablate.main(config, tmp_path)


@pytest.mark.parametrize("problem", [ValueError("bad data"), FloatingPointError("loss is nan")])
def test_a_seed_that_fails_does_not_take_the_others_with_it(tmp_path, monkeypatch, problem):
    config = small_world.get_config("ci")
    config.ablate.development_seeds, config.ablate.opened = "3,4", ""
    done = []

    def carry_out(experiment, own, folder):
        done.append(folder.name)
        if own.seed == 3:
            raise problem

    flags(monkeypatch)
    monkeypatch.setattr(ablate.runs, "carry_out", carry_out)
    with pytest.raises(ValueError, match=f"seed 3: {problem}"):
        ablate.main(config, tmp_path)
    assert done == ["seed_3", "seed_4"]
