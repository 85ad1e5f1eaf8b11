"""The benchmark of training steps runs, and its figures say what they claim."""

import json
import math

import jax
import numpy as np
import pytest

from grm_jax.models import cost, transformer
from grm_jax.models.config import REMATS
from grm_jax.models.variants import VARIANTS
from grm_jax.parallel.mesh import MeshConfig, make_mesh
from tools import random_model
from tools.bench import train
from tools.bench.peaks import Peaks
from tools.bench.train import Row

SMALL = ["--variant=tiny", "--batch=4", "--length=12", "--steps=2", "--warmup=1",
         "--peak-tflops=2", "--peak-gbps=10"]  # fmt: skip


def test_a_small_run_measures_both_programs(tmp_path, capsys):
    file, trace = tmp_path / "new" / "out.json", tmp_path / "trace"
    rows = train.main(
        [*SMALL, "--documents=2", "--completion=5", f"--json={file}", f"--trace={trace}"]
    )
    printed = capsys.readouterr().out
    assert "2 TFLOP/s, 10 GB/s" in printed and "sft: step 2 of 2" in printed
    report = json.loads(file.read_text())
    assert report["flags"]["variant"] == "tiny" and report["peak_flops"] == 2e12
    config, lengths = VARIANTS["tiny"], [12] * 4
    expected = {
        "sft": cost.train_flops(config, [6] * 8),
        "grpo": cost.train_flops(config, lengths, output_tokens=20)
        + cost.forward_flops(config, lengths, output_tokens=20),
    }
    assert [row.program for row in rows] == list(expected)
    for row, figures in zip(rows, report["rows"], strict=True):
        assert row.program == figures["program"] and f"\n{row.program} " in printed
        assert (row.tokens, row.flops) == (48, expected[row.program])
        assert len(row.steps_s) == 2
        numbers = (
            "compile_s", "bytes", "plan_bytes", "median_s", "min_s", "tokens_per_s",
            "tflops_per_s", "mfu", "roofline",
        )  # fmt: skip
        assert all(figures[name] > 0 and math.isfinite(figures[name]) for name in numbers)
        assert figures["bound"] == "memory"
        # The state alone: weights and two moments.
        assert row.plan_bytes > 3 * 4 * cost.num_params(config)
        assert list((trace / row.program).rglob("*.xplane.pb"))
    # The update reads the reference as well.
    assert rows[1].bytes - rows[0].bytes == cost.weight_bytes(config, 48)


def test_a_mesh_with_micro_batches_remat_and_bfloat16(capsys):
    (row,) = train.main(
        [*SMALL, "--program=sft", "--micro_batches=2", "--fsdp=2", "--dtype=bfloat16",
         "--remat=full"]
    )  # fmt: skip
    assert row.bytes == cost.train_bytes(VARIANTS["tiny"], 48, 2)
    printed = capsys.readouterr().out
    assert "activations in bfloat16" in printed and "fsdp 2" in printed
    assert "4 TFLOP/s, 20 GB/s" in printed  # of two devices


@pytest.mark.slow
def test_adapters_beside_frozen_weights(capsys):
    rows = train.main([*SMALL, "--lora_rank=2", "--param_dtype=bfloat16"])
    config, lengths = VARIANTS["tiny"], [12] * 4
    config = config.replace(param_dtype="bfloat16")
    assert rows[0].flops == cost.train_flops(config, lengths, frozen=True)
    assert rows[0].bytes == 2 * cost.weight_bytes(config, 48)
    assert rows[1].bytes - rows[0].bytes == cost.weight_bytes(config, 48)
    assert "frozen, with adapters of rank 2" in capsys.readouterr().out


def test_rows_compute_rates():
    row = Row("sft", 100, 7.0, [4.0, 1.0, 2.0], 1000, 600, 3_000_000_000, None)
    assert (row.median_s, row.rate) == (2.0, 500.0)
    # At 1,000 FLOP/s and 1,200 bytes/s it takes 1 s and 0.5 s at least.
    peak = Peaks(1000.0, 1200.0, "given")
    assert row.bound(peak) == ("compute", 0.5)
    assert row.bound(peak._replace(bandwidth=400.0)) == ("memory", 0.75)
    assert row.bound(peak._replace(bandwidth=None)) is None
    assert train.line(row, peak).split() == [
        "sft", "100", "7.0", "2.000", "1.000", "50", "0.000", "50.0%", "compute", "50.0%", "3.00",
        "-",
    ]  # fmt: skip
    unknown = train.line(row, Peaks(None, None, "")).split()
    assert unknown[7:10] == ["-", "-", "-"]
    figures = row.figures(Peaks(None, None, ""))
    assert figures["mfu"] is figures["bound"] is figures["roofline"] is None


def test_rows_are_packed_with_documents():
    assert train.document_lengths(10, 3) == [3, 3, 4]
    batch = train.sft_batch(VARIANTS["tiny"], 2, 10, 3)
    assert batch["positions"][1].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
    assert batch["segment_ids"][1].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert (batch["tokens"][:, 1:] == batch["targets"][:, :-1]).all()
    assert (batch["weights"] == 1).all()


def test_rollouts_fill_their_rows_and_carry_a_signal():
    batch = train.grpo_batch(VARIANTS["tiny"], 8, 10, 4, 4)
    assert (batch.segment_ids_BT == 1).all() and (batch.completion_mask_BU == 1).all()
    assert (batch.prompt_lengths_B == 6).all()
    assert (batch.rewards_B.reshape(2, 4).sum(axis=1) == 0).all()


def test_flags_change_the_variant():
    config = VARIANTS["tiny"]
    assert train.parse(SMALL)[1] == config
    for policy in REMATS:
        args, changed = train.parse(
            [*SMALL, f"--remat={policy}", "--layers=4", "--param_dtype=bfloat16"]
        )
        assert changed == config.replace(num_layers=4, param_dtype="bfloat16", remat=policy)
        assert args.completion == 6  # half of a row


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch=0"], "--batch must be at least 1"),
        (["--warmup=-1"], "--warmup must not be negative"),
        (["--documents=13"], "--documents must be at most --length"),
        (["--completion=12"], "--completion must be less than --length"),
        (["--micro_batches=3"], "--micro_batches must divide --batch"),
        (["--group_size=3"], "--group_size must be at least 2 and divide --batch"),
        (["--layers=-1"], "num_layers: "),
        (["--lora_rank=0"], "--lora_rank must be at least 1"),
    ],
)
def test_impossible_flags_end_by_name(flags, message, capsys):
    with pytest.raises(SystemExit):
        train.parse([*SMALL, *flags])
    assert message in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_no_measurement(monkeypatch):
    def broken(config, mesh):
        return jax.tree.map(lambda x: x * np.nan, random_params(config, mesh))

    random_params = random_model.random_params
    monkeypatch.setattr(random_model, "random_params", broken)
    with pytest.raises(FloatingPointError, match="sft: the loss is nan"):
        train.main([*SMALL, "--documents=2", "--program=sft"])


def test_random_parameters_have_the_shapes_and_places_of_real_ones():
    config = VARIANTS["tiny_deepseek"]
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    params = random_model.random_params(config, mesh)
    shapes = transformer.abstract_params(config)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    assert jax.tree.map(lambda x: x.sharding, params) == transformer.param_shardings(config, mesh)
    assert (np.asarray(params["final_norm"]["scale"]) == 1).all()
    assert np.std(params["embedding"]) == pytest.approx(config.embed_dim**-0.5, rel=0.05)
    assert random_model.nbytes(params) == 4 * cost.num_params(config)
