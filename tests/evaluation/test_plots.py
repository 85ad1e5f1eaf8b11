"""Figures: valid and deterministic PNGs that show what they were given."""

from __future__ import annotations

import math
import struct
import subprocess
import sys

import numpy as np
import pytest

from grm_jax.evaluation import plots
from grm_jax.evaluation.statistics import Difference, Interval

KS = (1, 2, 4, 8, 16, 32)


def curves() -> list[plots.Curve]:
    voting = [0.735, 0.758, 0.790, 0.819, 0.827, 0.831]
    guided = [0.735, 0.771, 0.806, 0.833, 0.842, 0.848]
    return [
        plots.Curve("Voting@k", KS, [Interval(v, v - 0.024, v + 0.022) for v in voting]),
        plots.Curve(
            "MetaRM@k, k_meta = k/2", KS, [Interval(v, v - 0.02, v + 0.02) for v in guided]
        ),
    ]


def stages() -> dict[str, list[dict]]:
    rng = np.random.default_rng(0)
    sft = [{"step": i, "loss": 2.2 * math.exp(-i / 40) + 0.05 * rng.random()} for i in range(120)]
    grpo = [
        {
            "step": i,
            "reward mean": -0.2 + 0.6 * (1 - math.exp(-i / 25)) + 0.1 * rng.standard_normal(),
            "groups without signal": 0.3 + 0.1 * rng.random(),
            "KL": 0.002 * i + 0.01 * rng.random(),
            "entropy": 0.9 - 0.004 * i,
            "log-prob gap": 2e-6 * rng.random(),
            "tokens per second": 24_000 + 900 * rng.standard_normal(),
            "parse failures": math.nan if i % 2 else 0.01,
            "stage": "grpo",
        }
        for i in range(75)
    ]
    return {"RFT": sft, "GRPO": grpo}


def read_png(data: bytes) -> tuple[tuple[int, int], list[bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    size, chunks, position = struct.unpack(">II", data[16:24]), [], 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        chunks.append(data[position + 4 : position + 8])
        position += length + 12
    return size, chunks


def pixels(path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def has_color(image: np.ndarray, color: str) -> bool:
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return bool((np.abs(image - np.array(rgb).reshape(1, 1, 3)).max(axis=-1) < 0.01).any())


def test_scaling_is_deterministic_and_has_no_date(tmp_path):
    one, other = tmp_path / "one.png", tmp_path / "deep" / "other.png"
    for path in (one, other):
        plots.scaling(path, curves(), levels={"greedy": Interval(0.775, 0.75, 0.8)}, note="n = 500")
    assert one.read_bytes() == other.read_bytes()
    size, chunks = read_png(one.read_bytes())
    assert size == (1200, 630)
    assert not {b"tEXt", b"tIME", b"iTXt"} & set(chunks)
    image = pixels(one)
    assert has_color(image, plots.COLORS[0]) and has_color(image, plots.COLORS[1])
    assert not has_color(image, plots.COLORS[2])


def test_scaling_shows_the_values(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.scaling(tmp_path / "x.png", curves(), levels={"greedy": 0.775, "chance": 0.36})
    axes = figures[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["Voting@k"].get_xdata()) == list(KS)
    assert lines["Voting@k"].get_ydata()[3] == pytest.approx(81.9)
    assert lines["greedy"].get_ydata()[0] == pytest.approx(77.5)
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(k) for k in KS]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(71.1) and band[:, 1].max() == pytest.approx(85.3)


def test_cost_has_a_curve_over_flops_and_a_mark_for_one_point(tmp_path, monkeypatch):
    found = [
        plots.Curve("voting", (2e12, 1e12), [Interval(0.8, 0.7, 0.9), Interval(0.6, 0.5, 0.7)]),
        plots.Curve("greedy", (1.5e12,), [Interval(0.65, 0.6, 0.7)]),
    ]
    plots.cost(tmp_path / "x.png", found)
    assert read_png((tmp_path / "x.png").read_bytes())[0] == (1200, 630)
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.cost(tmp_path / "x.png", found)
    axes = figures[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["voting"].get_xdata()) == [1e12, 2e12]
    assert lines["voting"].get_ydata()[0] == pytest.approx(60)
    assert axes.get_xscale() == "log" and "FLOPs" in axes.get_xlabel()
    with pytest.raises(ValueError, match="curve 'a'"):
        plots.cost(tmp_path / "y.png", [plots.Curve("a", (), ())])


def test_effects_show_intervals_and_the_published_difference(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "save", lambda figure, path: seen.append(figure))
    rows = [
        plots.Effect("Voting@8 − greedy", Difference(0.03, 0.01, 0.05, 0.01), 0.007),
        plots.Effect("full − kl 0", Difference(-0.01, -0.02, 0.01, 0.4)),
    ]
    plots.effects(tmp_path / "effects.png", rows)
    (axes,) = seen[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [row.label for row in rows]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([3, -1])
    assert [line.get_markerfacecolor() for line in points] == [plots.COLORS[0], "white"]
    (paper,) = (line for line in axes.lines if line.get_marker() == "x")
    assert list(paper.get_xdata()) == pytest.approx([0.7]) and list(paper.get_ydata()) == [0]
    with pytest.raises(ValueError, match="at least one"):
        plots.effects(tmp_path / "none.png", [])


def test_guiding_draws_simulated_curves_and_trained_stars(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "save", lambda figure, path: seen.append(figure))

    def gains(value):
        return {8: Difference(value, value - 0.01, value + 0.01, 0.1)}

    simulated = [(0.7, gains(0.02)), (0.5, gains(-0.03))]
    plots.guiding(tmp_path / "g.png", simulated, [(0.6, gains(0.004))])
    (axes,) = seen[0].axes
    (curve,) = (line for line in axes.lines if line.get_label() == "k = 8")
    assert list(curve.get_xdata()) == [0.5, 0.7]
    assert list(curve.get_ydata()) == pytest.approx([-3, 2])
    (star,) = (line for line in axes.lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((0.6, 0.4))
    with pytest.raises(ValueError, match="at least one point"):
        plots.guiding(tmp_path / "g.png", [], [])


def test_training_has_a_panel_for_each_metric_of_each_stage(tmp_path, monkeypatch):
    path = tmp_path / "training.png"
    every = ["loss", *[name for name in stages()["GRPO"][0] if name not in ("step", "stage")]]
    plots.training(path, stages(), metrics=every)
    first = path.read_bytes()
    plots.training(path, stages(), metrics=every)
    assert path.read_bytes() == first
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.training(path, stages(), metrics=every)
    plots.training(path, stages(), metrics=["KL", "loss", "absent"])
    names = [[a.get_title(loc="left") for a in f.axes if a.axison] for f in figures]
    assert names[0] == every
    assert names[1] == ["loss", "KL"]
    failures = figures[0].axes[names[0].index("parse failures") + 3]  # after 3 empty places
    assert len(failures.get_lines()[0].get_xdata()) == 38  # values that are NaN are left out


def test_bad_input_is_named(tmp_path):
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match="curves"):
        plots.scaling(path, [])
    with pytest.raises(ValueError, match="curve 'a'"):
        plots.scaling(path, [plots.Curve("a", (1, 2), [Interval(0.5, 0.4, 0.6)])])
    with pytest.raises(ValueError, match="stage 'grpo', record 1"):
        plots.training(path, {"grpo": [{"step": 0, "kl": 1}, {"kl": 2}]}, metrics=["kl"])
    with pytest.raises(ValueError, match="no metric"):
        plots.training(path, {"grpo": [{"step": 0, "note": "x"}]}, metrics=["note"])
    assert not path.exists()


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, grm_jax.evaluation.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
