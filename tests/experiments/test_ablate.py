"""The command: two arms on two seeds, once, and then at once."""

import json
import pathlib
import shutil
import subprocess
import sys
import time
import types

import pytest
from builders import read_table

from configs import small_world
from experiments import ablation

ROOT = pathlib.Path(__file__).parents[2]
# At the least size, and the second arm compiles nothing of its own: GRPO at once, without RFT.
FIELDS = {
    "ablate.only": "without_principles,without_rejective_sampling", "ablate.seeds": "21,22",
    "base.optimizer.steps": 2, "cold_start.optimizer.steps": 2, "rft.data.comparisons": 4,
    "grpo.optimizer.steps": 1, "benchmark.split": "test", "benchmark.meta_rm": False,
    "benchmark.limit": 4, "benchmark.ks": "1,2", "benchmark.draw.k": 2, "benchmark.arm_k": 2,
}  # fmt: skip


@pytest.mark.slow
def test_two_arms_on_two_seeds(tmp_path, monkeypatch):
    command = [
        sys.executable, "-m", "experiments.ablate", "--config=configs/small_world.py:ci",
        *(f"--config.{name}={value}" for name, value in FIELDS.items()), f"--workdir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 of 2 seeds are finished" in done.stdout

    table = read_table(tmp_path / "tables/ablation.json")
    found = {(row.section, row.label) for row in table.rows}
    assert {("steps", "GRPO − RFT, one sample"),
            ("full − without rejective sampling", "Voting@2"),
            ("full − without principles", "RFT, greedy")} <= found  # fmt: skip
    assert ("full − without rejective sampling", "RFT, greedy") not in found  # it has no such stage
    assert (tmp_path / "figures/ablation.png").stat().st_size > 0
    seeds = read_table(tmp_path / "tables/seeds.json")
    assert [column.name for column in seeds.columns] == ["mean", "seed 21", "seed 22"]
    for seed in (21, 22):
        stages = {path.name for path in (tmp_path / f"seed_{seed}/params").iterdir()}
        assert {"grpo", "grpo_without_rejective_sampling", "grpo_without_principles"} <= stages
        assert "rft_without_rejective_sampling" not in stages
        assert "cold_start_without_rejective_sampling" not in stages  # that of the run itself
        own = json.loads((tmp_path / f"seed_{seed}/config.json").read_text())
        assert own["seed"] == own["small_world"]["world_seed"] == seed

    # A report is made again from what is on disk, at once, and is the same.
    config = small_world.get_config("ci")
    config.update_from_flattened_dict(FIELDS)
    before = (tmp_path / "tables/ablation.md").read_bytes()
    began = time.monotonic()
    alone = tmp_path / "alone"
    for seed in (21, 22):
        results = alone / f"seed_{seed}/results"
        shutil.copytree(tmp_path / f"seed_{seed}/results", results)
    ablation.run(config, alone, report=True)
    assert time.monotonic() - began < 20
    assert (alone / "tables/ablation.md").read_bytes() == before
    assert not (alone / "seed_21/params").exists()

    # The seeds are opened: another measurement of them is refused before anything is drawn.
    config.benchmark.draw.temperature = 0.9
    monkeypatch.setattr(ablation, "carry_out", lambda *_: pytest.fail("a seed was begun"))
    with pytest.raises(ValueError, match=r"seed 21 was opened on .*temperature"):
        ablation.run(config, tmp_path)


def test_a_development_seed_is_no_held_out_seed():
    config = small_world.get_config("ci")
    config.benchmark.split = "test"
    config.ablate.seeds = "3"
    with pytest.raises(ValueError, match="development_seeds: seed 3 is in seeds already"):
        ablation.seeds(config)


def test_arms_that_were_measured_before_stay_if_they_are_the_same(tmp_path, monkeypatch):
    config = small_world.get_config("ci")
    config.ablate.only = "kl_0_32"
    assert ablation.measured_arms(config, tmp_path) == []
    (tmp_path / "results").mkdir()
    (tmp_path / "results/small_world.json").touch()
    before = {"kl 0": "grpo.kl_coef=0.0", "kl 0 02": "grpo.kl_coef=7.0", "gone": "grpo.kl_coef=8.0"}
    result = types.SimpleNamespace(arms=before)
    monkeypatch.setattr(ablation.results, "read_results", lambda folder: {"small_world": result})
    found = ablation.measured_arms(config, tmp_path)
    assert found == ["kl_0"]
    assert ablation.of_seed(config, 21, found).benchmark.arms == "kl_0_32,kl_0"
    config.ablate.only = "kl_0"
    assert ablation.of_seed(config, 21, found).benchmark.arms == "kl_0"


def test_a_mistake_in_an_arm_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "carry_out", lambda *_: pytest.fail("a seed was begun"))
    config = small_world.get_config("ci")
    config.ablate.arms.kl_0 = "grpo.kl_coeff=0.0"
    with pytest.raises(ValueError, match=r"^config\.ablate\.arms\.kl_0: .*kl_coeff"):
        ablation.run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_report_of_nothing_is_an_error(tmp_path):
    config = small_world.get_config("ci")
    with pytest.raises(ValueError, match="there is no folder"):
        ablation.run(config, tmp_path / "new", report=True)
    with pytest.raises(ValueError, match="no seed of .* was measured with this config"):
        ablation.run(config, tmp_path, report=True)


@pytest.mark.parametrize("problem", [ValueError("bad data"), FloatingPointError("loss is nan")])
def test_a_seed_that_fails_does_not_take_the_others_with_it(tmp_path, monkeypatch, problem):
    config = small_world.get_config("ci")
    config.ablate.development_seeds, config.ablate.opened = "3,4", ""
    done = []

    def carry_out(experiment, own, folder):
        done.append(folder.name)
        if own.seed == 3:
            raise problem

    monkeypatch.setattr(ablation, "carry_out", carry_out)
    with pytest.raises(ValueError, match=f"seed 3: {problem}"):
        ablation.run(config, tmp_path)
    assert done == ["seed_3", "seed_4"]
