"""The benchmark of sampling runs, and its figures say what they claim."""

import numpy as np
import pytest

from grm_jax.models import cost
from grm_jax.models.variants import VARIANTS
from tools.bench import sampling
from tools.bench.peaks import Peaks
from tools.bench.sampling import Row

# One prompt, one sample, equal lengths: all measurements share one program.
SMALL = ["--variant=tiny", "--samples=1", "--long_prompt=6", "--short_prompt=6", "--new=3",
         "--repeats=1", "--peak-gbps=10", "--peak-tflops=2"]  # fmt: skip


@pytest.fixture(autouse=True)
def keep_affinity(monkeypatch):
    """The benchmark takes cores away from its process; a test must not."""
    monkeypatch.setattr(sampling.os, "sched_setaffinity", lambda *_: None, raising=False)


def test_a_small_run_prints_all_measurements(capsys):
    rows = sampling.main([*SMALL, "--no-transformers"])
    printed = capsys.readouterr().out
    assert [row.name for row in rows] == [
        "(b) grm_jax", "(a) shared prefix", "(a) repeated prompts"
    ]  # fmt: skip
    for row in rows:
        assert row.name in printed
        assert (row.tokens, row.steps) == (3, 3)
        assert row.prefill > 0 and row.decode > 0
    assert "target 3.0x" in printed
    assert "2 TFLOP/s, 10 GB/s" in printed
    # Three steps: weights, 5 tokens of the prefix, 0 to 2 of the suffix, one written. A token has
    # keys and values of 2 layers, 2 heads of width 8; the window of 8 tokens holds all of them.
    token = 2 * 2 * 2 * 8 * 4
    weights = 4 * cost.num_params(VARIANTS["tiny"])
    assert rows[0].decode_bytes == 3 * weights + token * (3 * 5 + (0 + 1 + 2) + 3)
    # Five tokens that never meet the vocabulary, and 1 + ... + 5 pairs in 2 layers of 4 heads.
    products = cost.num_product_params(VARIANTS["tiny"], output=False)
    assert rows[0].prefill_flops == 5 * 2 * products + 15 * 2 * 4 * 4 * 8


def test_rows_compute_rates():
    row = Row("x", 640, 20, 1.0, 3.0, prefill_flops=400, decode_flops=300, decode_bytes=6000)
    assert row.total == 4.0
    assert row.tokens_per_second == 160.0
    assert row._replace(prefill=None).total == 3.0
    # 400 FLOPs of a second that could do 1,000, then 100 of them; 2,000 of 8,000 bytes per second
    printed = sampling.line(row, Peaks(1000.0, 8000.0, "given")).split()
    rates = ["4.00", "160.0", "150.0", "0.0"]
    assert printed == ["x", "1.00", "40.0%", "3.00", *rates, "25.0%", "10.0%"]
    printed = sampling.line(row._replace(prefill=None), Peaks(None, None, "")).split()
    assert printed == ["x", "-", "-", "3.00", "3.00", "213.3", "150.0", "0.0", "-", "-"]


def test_ratios_tell_met_from_missed():
    assert sampling.ratio("x", 1.0, 3.0, 3.0) == "x: 3.00x (target 3.0x: met)"
    assert sampling.ratio("x", 1.0, 2.9, 3.0) == "x: 2.90x (target 3.0x: missed)"


def test_sizes_are_checked(capsys):
    with pytest.raises(SystemExit):
        sampling.parse(["--samples=0"])
    assert "--samples must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sampling.parse(["--layers=-1"])
    assert "num_layers: must be" in capsys.readouterr().err
    expected = VARIANTS["gemma2_48m"].replace(num_layers=2, dtype="bfloat16")
    assert sampling.parse(["--layers=2", "--dtype=bfloat16"])[1] == expected


def test_transformers_is_measured_on_the_same_shape():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    prompt = np.arange(4, 10)
    rows = list(sampling.theirs(VARIANTS["tiny"], prompt, 2, 3, 1, threads=1))
    assert [row.name for row in rows] == [
        "(b) transformers, dynamic cache", "(b) transformers, static cache"
    ]  # fmt: skip
    assert all(row.tokens == 6 and row.prefill is None and row.decode > 0 for row in rows)
    # They get the same needs as our own row, or the shares would not compare.
    assert all(
        row._asdict().items() >= sampling.needed(VARIANTS["tiny"], 6, 1, 2, 3).items()
        for row in rows
    )
    with pytest.raises(ValueError, match="latent attention"):
        next(sampling.theirs(VARIANTS["tiny_deepseek"], prompt, 2, 3, 1, threads=1))
