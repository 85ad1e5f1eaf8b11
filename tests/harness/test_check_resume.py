"""Where check_resume kills. What it compares is tested in tests/experiments/test_resume.py."""

import random

import pytest

from tests.harness import check_resume
from tests.harness.check_resume import LATER, RESTORED, ROLLOUT, STAGES, WRITES, plan, stage_of

LENGTHS = {"base": 8, "cold_start": 8, "rft: drawing": 24, "rft: hinted": 8, "rft": 8, "grpo": 8,
           "meta_rm: drawing": 16, "meta_rm": 8,
           "benchmark_small_world_cold_start_greedy: drawing": 24,
           "benchmark_small_world_grpo_sampled: drawing": 24, "meta RM": 24}  # fmt: skip


def journal():
    """Of an unbroken run with 0.1 s a step; units have 8 samples."""
    clock, records = 0.0, []
    for bar, length in LENGTHS.items():
        for done in range(0, length + 1, 1 if length == 8 and ": " not in bar else 8):
            clock += 0.1
            records.append({"bar": bar, "done": done, "time": clock})
    return records


@pytest.mark.parametrize("kills", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_moments_are_in_order_and_of_each_kind(kills, seed):
    found = plan(journal(), STAGES, kills, random.Random(seed))
    assert found == plan(journal(), STAGES, kills, random.Random(seed))
    order = [(list(LENGTHS).index(kill.bar), kill.done) for kill in found]
    assert order == sorted(order)
    for stage in STAGES:
        moments = [kill.moment for kill in found if stage_of(kill.bar) == stage]
        assert len(moments) == kills
        assert sum(moment in WRITES for moment in moments) >= max(1, kills // 3)
        assert (ROLLOUT in moments) == (stage == "grpo" and kills > 2)
        assert (RESTORED in moments) == (kills > 1 and stage != "benchmark")
    for kill in found:
        training = ": " not in kill.bar
        assert 0 <= kill.done < LENGTHS[kill.bar], "nothing comes after the last step"
        assert training or kill.moment in (LATER, RESTORED)
        assert 0 <= kill.seconds <= 0.1 + 1e-9


def test_a_bar_belongs_to_its_stage():
    assert [stage_of(bar) for bar in LENGTHS] == [
        "sft", "sft", "rft", "rft", "rft", "grpo", "meta_rm", "meta_rm", *["benchmark"] * 3
    ]  # fmt: skip


def test_seeds_differ():
    first, second = (plan(journal(), STAGES, 10, random.Random(seed)) for seed in (0, 1))
    assert first != second


def test_wrong_arguments_are_said(tmp_path, capsys):
    (tmp_path / "something").touch()
    for argv, message in (
        (["--kill=3"], "unknown arguments: --kill=3"),
        (["--kills=0"], "--kills must be at least 1, got 0"),
        (["--stage=tables"], "invalid choice"),
        ([f"--workdir={tmp_path}"], f"--workdir: {tmp_path} is not empty"),
    ):
        with pytest.raises(SystemExit):
            check_resume.main(argv)
        assert message in capsys.readouterr().err
