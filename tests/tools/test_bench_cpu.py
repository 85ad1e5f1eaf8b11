"""The table of speed on a CPU is whole, and tells what was reached."""

import pathlib

import numpy as np
import pytest

from grm_jax.models.variants import VARIANTS
from tools.bench import cpu, train
from tools.bench.cpu import Row

SMALL = ["--variant=tiny", "--batch=2", "--length=12", "--samples=1", "--prompts=2", "--prompt=6",
         "--new=3", "--repeats=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def keep_affinity(monkeypatch):
    """The benchmark takes cores away from its process; a test must not."""
    monkeypatch.setattr(cpu.os, "sched_setaffinity", lambda *_: None, raising=False)


def test_a_small_run_prints_every_row(capsys, monkeypatch):
    begun = []
    monkeypatch.setattr(cpu, "first_step_seconds", lambda *given: begun.append(given) or 12.0)
    rows = cpu.main([*SMALL, "--no-peers"])
    printed = capsys.readouterr().out
    assert [row.measure for row in rows] == [
        "--help of an experiment", "first step of small_world.py:demo, warm cache",
        "training step, 2 x 12 tokens", "1 samples of a prompt, 6 + 3 tokens",
        "2 prompts x 1 samples against one prompt",
    ]  # fmt: skip
    assert all(row.line() in printed for row in rows)
    assert [row.value is None for row in rows] == [False, False, True, True, False]
    assert rows[1].value == 12.0 and rows[1].line().endswith("| 12.00 s | ≤ 10 s | missed |")
    assert rows[4].value > 0
    # The first one fills the cache, and all have the same.
    assert len(begun) == 2 and len(set(begun)) == 1


def test_without_pytorch_the_others_are_measured(capsys, monkeypatch):
    monkeypatch.setitem(cpu.sys.modules, "torch", None)
    for name in ("starting", "decoding"):
        monkeypatch.setattr(cpu, name, lambda *_: [])
    (row,) = cpu.main(SMALL)
    assert row.theirs == "-" and row.value is None and row.ours != "-"
    assert "no PyTorch to compare with" in capsys.readouterr().out


def test_rows_tell_reached_from_missed():
    assert Row("x", "1", "2", 0.85, 0.85).line() == "| x | 1 | 2 | 0.85 × | ≤ 0.85 × | reached |"
    assert Row("x", "1", "2", 0.86, 0.85).line().endswith("missed |")
    assert Row("x", "1", "2", 3.4, 3.5, gain=True).line().endswith("| ≥ 3.5 × | missed |")
    assert Row("x", "1", "-", None, 1.5, "s").line() == "| x | 1 | - | - | ≤ 1.5 s | not measured |"
    assert cpu.seconds([3.0, 1.0, 2.0]) == "2.00 s (1.00)"
    assert cpu.rate(60, [3.0, 1.0, 2.0]) == "30 tokens/s (60)"
    assert cpu.faster([1.0, 2.0, 9.0], [4.0]) == 2.0


def test_programs_take_turns_and_the_first_round_is_left_out():
    calls = []
    runs = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "ab"}
    assert cpu.in_turn(runs, 2) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert calls == [*"ababab"]


def test_a_user_of_the_table_has_decided_nothing_about_caches():
    env = cpu.clean_environment(pathlib.Path("here"))
    assert not any("COMPILATION_CACHE" in name for name in env) and env["XDG_CACHE_HOME"] == "here"


@pytest.mark.slow
def test_the_first_step_is_waited_for_and_a_run_that_ends_before_is_an_error(tmp_path):
    assert cpu.first_step_seconds("configs/small_world.py:ci", tmp_path) > 0
    assert [*tmp_path.glob("grm_jax/xla/*/jit_sft_update-*")]
    with pytest.raises(ValueError, match="ended before a step"):
        cpu.first_step_seconds("configs/small_world.py:nosuch", tmp_path)


@pytest.mark.slow
def test_pytorch_trains_the_same_shape():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    batch = train.sft_batch(VARIANTS["tiny"], 2, 8, 1)
    step = cpu.torch_step(VARIANTS["tiny"], batch, 1)
    assert step() > 0 and step() > 0
    runs = cpu.sampling.generate_runs(VARIANTS["tiny"], np.arange(4, 10), 2, threads=1)
    assert [*runs] == ["dynamic", "static"] and all(run(2) > 0 for run in runs.values())


def test_sizes_are_checked(capsys):
    with pytest.raises(SystemExit):
        cpu.parse(["--repeats=0"])
    assert "--repeats must be at least 1" in capsys.readouterr().err
