"""The figures: accuracy against k and against FLOPs, paired differences, metrics against step.

matplotlib is imported inside the functions and drawn without pyplot, so no display, backend or
global style of the caller is touched. Equal inputs give byte-identical PNGs for one version of
matplotlib: the files carry no date and no software tag.
"""

import contextlib
import io
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grm_jax.evaluation.statistics import Difference, Interval
from grm_jax.files import write_atomically

# Okabe and Ito's palette: distinct with the common kinds of colour blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.framealpha": 0.9,
}


class Curve(NamedTuple):
    """A line of a figure: `intervals[i]` are fractions at `ks[i]`, or at another cost.

    `published` curves are those of the paper, without intervals: dashed and grey.
    """

    label: str
    ks: Sequence[float]
    intervals: Sequence[Interval]
    published: bool = False


@contextlib.contextmanager
def axes_of(path, size, dpi, title, xlabel, ylabel, note=""):
    """The axes of a figure with one panel, which is written when the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(title, loc="left")
        yield axes
        if note:
            figure.supxlabel(note, fontsize=8, color="#666666", x=0.01, ha="left")
        save(figure, path)


def scaling(
    path: str | os.PathLike,
    curves: Sequence[Curve],
    *,
    levels: Mapping[str, Interval | float] | None = None,
    note: str = "",
) -> None:
    """Accuracy against k on a log2 axis, with a band for every interval.

    Args:
        curves: voting, guided voting, and so on; each keeps its colour by its place.
        levels: horizontal lines that do not depend on k, such as greedy or chance.
        note: a line below the axis: what the bands cover, the tie policy.

    Raises:
        ValueError: naming the curve: no points, ks below 1, or not one interval for each k.
    """
    ticks = sorted({k for curve in curves for k in curve.ks})
    labels = "Inference-time scaling", "k, samples of one comparison"
    _against(path, curves, levels or {}, labels, ticks, note)


def cost(path: str | os.PathLike, curves: Sequence[Curve], *, note: str = "") -> None:
    """Accuracy against FLOPs of a verdict on a logarithmic axis.

    Args:
        curves: `ks` are FLOPs; one with a single point, such as greedy, is a mark.
        note: a line below the axis: what the bands cover, what is counted.

    Raises:
        ValueError: as `scaling`.
    """
    labels = "Accuracy against compute", "model FLOPs of a verdict"
    _against(path, curves, {}, labels, None, note)


def _against(path, curves, levels, labels, ticks, note) -> None:
    """Accuracy against anything of at least 1; `ticks` are marks of base 2, or None."""
    for curve in curves:
        if not curve.ks or len(curve.ks) != len(curve.intervals) or min(curve.ks) < 1:
            raise ValueError(f"curve {curve.label!r}: needs one interval for each k of at least 1")
    if not curves:
        raise ValueError("curves: at least one is needed")
    with axes_of(path, (8.0, 4.2), 150, *labels, "accuracy (%)", note) as axes:
        for i, curve in enumerate(curves):
            points = sorted(zip(curve.ks, curve.intervals, strict=True))
            ks = [k for k, _ in points]
            value, low, high = ([100 * p[j] for _, p in points] for j in range(3))
            color = COLORS[i % len(COLORS)]
            if curve.published:
                color = "#888888"
            elif len(ks) > 1:
                axes.fill_between(ks, low, high, color=color, alpha=0.15, linewidth=0)
            else:
                axes.vlines(ks, low, high, color=color, alpha=0.3)
            marker = MARKERS[(i + i // len(COLORS)) % len(MARKERS)]  # no pair comes twice
            axes.plot(
                ks, value, color=color, marker=marker, markersize=5, label=curve.label,
                linestyle="--" if curve.published else "-",
            )  # fmt: skip
        for i, (label, level) in enumerate(levels.items()):
            value = level.value if isinstance(level, Interval) else level
            dashes = ((0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))[i % 3]
            axes.axhline(100 * value, color="#444444", linestyle=dashes, linewidth=1.2, label=label)
        axes.set_xscale("log", base=10 if ticks is None else 2)
        if ticks is not None:
            axes.set_xticks(ticks, [str(k) for k in ticks])
            axes.minorticks_off()
        axes.margins(x=0.04, y=0.08)
        axes.figure.legend(loc="outside right upper")  # inside it would lie on the bands


class Effect(NamedTuple):
    """A paired difference, as a fraction, and the paper's where it has one."""

    label: str
    difference: Difference
    published: float | None = None


def effects(path: str | os.PathLike, rows: Sequence[Effect], *, note: str = "") -> None:
    """Paired differences with their intervals, one below the other, and the paper's as a cross.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("rows: at least one is needed")
    title, xlabel = "What each step and each arm is worth", "difference of accuracy (points)"
    size = (7.6, 1.2 + 0.26 * len(rows))
    with axes_of(path, size, 130, title, xlabel, "", note) as axes:
        axes.axvline(0, color="#444444", linewidth=1)
        for y, row in enumerate(rows):
            value, low, high = (100 * x for x in row.difference[:3])
            # Filled where the interval leaves zero out.
            clear = low > 0 or high < 0
            axes.hlines(y, low, high, color=COLORS[0], linewidth=1.6)
            axes.plot([value], [y], marker="o", markersize=5, color=COLORS[0],
                      markerfacecolor=COLORS[0] if clear else "white")  # fmt: skip
        theirs = [(100 * row.published, y) for y, row in enumerate(rows)
                  if row.published is not None]  # fmt: skip
        if theirs:
            axes.plot(*zip(*theirs, strict=True), marker="x", markersize=6, linestyle="none",
                      color="#888888", label="paper, 27B")  # fmt: skip
            axes.legend(loc="best")
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)


def guiding(
    path: str | os.PathLike,
    simulated: Sequence[tuple[float, Mapping[int, Difference]]],
    measured: Sequence[tuple[float, Mapping[int, Difference]]],
) -> None:
    """Guided minus plain voting against the AUC of the meta RM inside comparisons.

    Args:
        simulated: (AUC, difference by k), a curve for each k with its band.
        measured: the same of trained meta RMs, as stars.

    Raises:
        ValueError: nothing is simulated.
    """
    if not simulated:
        raise ValueError("simulated: at least one point is needed")
    xlabel = "AUC of the meta RM inside comparisons (stars: trained, others simulated)"
    labels = "What guiding is worth", xlabel, "MetaRM@k − Voting@k (points)"
    with axes_of(path, (6.4, 4.2), 150, *labels) as axes:
        axes.axhline(0, color="#444444", linewidth=1)
        for i, k in enumerate(simulated[0][1]):
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            points = sorted((auc, *gains[k][:3]) for auc, gains in simulated)
            xs, values, lows, highs = zip(*points, strict=True)
            scaled = [[100 * y for y in ys] for ys in (values, lows, highs)]
            axes.fill_between(xs, *scaled[1:], color=color, alpha=0.12, linewidth=0)
            axes.plot(xs, scaled[0], color=color, marker=marker, markersize=4, label=f"k = {k}")
            for auc, gains in measured:
                axes.plot([auc], [100 * gains[k].value], marker="*", markersize=12, color=color)
        axes.legend(loc="best")


def training(
    path: str | os.PathLike,
    stages: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    metrics: Sequence[str],
) -> None:
    """A grid of health metrics against step: one row of panels, or more, for each stage.

    Args:
        stages: the metric records of each stage in order, such as lines of metrics.jsonl; every
            record has "step", other fields may be missing from some records.
        metrics: names to show, in this order, where a stage has them. A field that is never finite
            has no panel.

    Raises:
        ValueError: naming the stage and record without "step", or if there is nothing to draw.
    """
    panels = {stage: _panels(stage, records, metrics) for stage, records in stages.items()}
    panels = {stage: series for stage, series in panels.items() if series}
    if not panels:
        raise ValueError(f"stages: no metric to draw in {list(stages)}")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(4, max(map(len, panels.values())))
    heights = [math.ceil(len(series) / columns) for series in panels.values()]
    with matplotlib.rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9.5}):
        size = (0.4 + 2.9 * columns, 0.5 + sum(0.35 + 2.0 * rows for rows in heights))
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        figure.suptitle("Training", x=0.01, ha="left", fontsize=13)
        bands = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for i, (stage, rows) in enumerate(zip(panels, heights, strict=True)):
            bands[i].suptitle(stage, x=0.01, ha="left", fontsize=11, fontweight="bold")
            grid = bands[i].subplots(rows, columns, squeeze=False).ravel()
            for axes in grid[len(panels[stage]) :]:
                axes.set_axis_off()
            for axes, (name, (steps, values)) in zip(grid, panels[stage].items(), strict=False):
                color = COLORS[i % len(COLORS)]
                smooth = _smooth(values)
                if smooth is None:
                    marker = "o" if len(values) < 3 else None
                    axes.plot(steps, values, color=color, linewidth=1.4, marker=marker)
                else:
                    axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
                    axes.plot(steps, smooth, color=color, linewidth=1.6)
                axes.set_title(name, loc="left", color="#333333")
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                axes.yaxis.set_major_locator(MaxNLocator(4))
                axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        save(figure, path)


def _panels(stage, records, metrics) -> dict[str, tuple[list[float], list[float]]]:
    for i, record in enumerate(records):
        if "step" not in record:
            raise ValueError(f"stage {stage!r}, record {i}: no field 'step'")
    panels = {}
    for name in metrics:
        values = [(record["step"], record.get(name)) for record in records]
        points = [
            (step, float(value)) for step, value in values
            if isinstance(value, numbers.Real) and math.isfinite(value)
        ]  # fmt: skip
        if points:
            panels[name] = tuple(map(list, zip(*sorted(points), strict=True)))
    return panels


def _smooth(values: Sequence[float]) -> list[float] | None:
    """A centred running mean over about a tenth of the run; None for short runs."""
    reach = len(values) // 20
    if reach < 1:
        return None
    last = len(values) - 1
    # The window shrinks on both sides near an end, so that a steep start is not flattened.
    reaches = (min(reach, i, last - i) for i in range(len(values)))
    windows = (values[i - r : i + r + 1] for i, r in enumerate(reaches))
    return [sum(window) / len(window) for window in windows]


def save(figure, path: str | os.PathLike) -> None:
    """Writes a `matplotlib.figure.Figure` as a PNG, atomically and without a date."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_atomically(path, data.getvalue())
