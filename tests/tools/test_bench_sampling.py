"""The benchmark of sampling runs, and its figures say what they claim."""

import jax
import numpy as np
import pytest

from grm_jax.models import transformer
from grm_jax.models.config import VARIANTS
from tools import bench_sampling
from tools.bench_sampling import Row

# One prompt, one sample, equal lengths: all measurements share one program.
SMALL = ["--variant=tiny", "--samples=1", "--long_prompt=6", "--short_prompt=6", "--new=3",
         "--repeats=1", "--bandwidth_gbs=10"]  # fmt: skip


@pytest.fixture(autouse=True)
def keep_affinity(monkeypatch):
    """The benchmark takes cores away from its process; a test must not."""
    monkeypatch.setattr(bench_sampling.os, "sched_setaffinity", lambda *_: None, raising=False)


def test_a_small_run_prints_all_measurements(capsys):
    rows = bench_sampling.main([*SMALL, "--no-transformers"])
    printed = capsys.readouterr().out
    assert [row.name for row in rows] == [
        "(b) grm_jax", "(a) shared prefix", "(a) repeated prompts"
    ]  # fmt: skip
    for row in rows:
        assert row.name in printed
        assert (row.tokens, row.steps) == (3, 3)
        assert row.prefill > 0 and row.decode > 0
    assert "target 3.0x" in printed
    assert "10.0 GB/s" in printed
    weights = sum(
        4 * x.size for x in jax.tree.leaves(transformer.abstract_params(VARIANTS["tiny"]))
    )
    # keys and values: 2 layers, 2 heads of width 8; positions and segments of the prefix
    cache = 2 * 2 * 2 * 8 * 4
    assert rows[0].step_bytes == weights + 6 * (cache + 8) + 3 * cache // 2


def test_rows_compute_rates():
    row = Row("x", tokens=640, steps=20, prefill=1.0, decode=3.0, step_bytes=300)
    assert row.total == 4.0
    assert row.tokens_per_second == 160.0
    # 20 steps of 300 bytes in 3 seconds are 2000 bytes per second
    assert row.roofline(8000.0) == pytest.approx(0.25)
    assert row._replace(prefill=None).total == 3.0
    printed = bench_sampling.line(row, 8000.0).split()
    assert printed == ["x", "1.00", "3.00", "4.00", "160.0", "150.0", "0.0", "25.0%"]


def test_ratios_tell_met_from_missed():
    assert bench_sampling.ratio("x", 1.0, 3.0, 3.0) == "x: 3.00x (target 3.0x: met)"
    assert bench_sampling.ratio("x", 1.0, 2.9, 3.0) == "x: 2.90x (target 3.0x: missed)"


def test_the_bandwidth_is_plausible():
    assert 1e8 < bench_sampling.measure_bandwidth(2, megabytes=16) < 1e13


def test_sizes_are_checked(capsys):
    with pytest.raises(SystemExit):
        bench_sampling.parse(["--samples=0"])
    assert "--samples must be at least 1" in capsys.readouterr().err


def test_transformers_is_measured_on_the_same_shape():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    prompt = np.arange(4, 10)
    rows = list(
        bench_sampling.theirs(VARIANTS["tiny"], prompt, 2, 3, 1, threads=1, step_bytes=5)
    )
    assert [row.name for row in rows] == [
        "(b) transformers, dynamic cache", "(b) transformers, static cache"
    ]  # fmt: skip
    assert all(row.tokens == 6 and row.prefill is None and row.decode > 0 for row in rows)
