"""Measurements on disk: the lines of a benchmark, and those of trained baselines.

results/<suite>.json has what every line of a benchmark earned on every comparison. From it two runs
are compared item by item, and the tables of the paper are filled (`tools.tables`).
baselines/<kind>/<suite>.json has the lines of a trained baseline, counted once, which a benchmark
puts next to its own. Equal runs write equal bytes, each file atomically. `path` maps parts to a
path below the folder of the run.
"""

import dataclasses
import json
import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from grm_jax.benchmarks import rules
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import statistics
from grm_jax.evaluation.lines import CountingRules, Line, Suite, single_auc
from grm_jax.evaluation.method import BASELINES, BLIND, GREEDY, NAMES, SAMPLED, STAGES, Method
from grm_jax.files import read_json, visible_files, write_atomically
from grm_jax.models import cost

VERSION = 4
LABELLED = 3  # the version whose lines have a section and a label, and no method
_ARRAYS = ("credits_C", "singles_MC")


class Measured(NamedTuple):
    """A line as it was written.

    Attributes:
      label: of its row.
      credits_C: float64 by comparison; NaN where it has no right and wrong response, or the line
        says nothing about it.
      columns: the numbers that the suite reports, with intervals.
      tokens: mean number of tokens of a sample by subset, where the line has one sample.
    """

    label: str
    credits_C: np.ndarray
    columns: dict[str, statistics.Interval]
    tokens: dict[str, float]


class Result(NamedTuple):
    """A suite as it was written.

    Attributes:
      suite, coverage: see `lines.Suite`.
      parameters: of the policy; None where it is not known.
      config: digest of what must be equal for runs of different seeds to be averaged.
      arms: what each arm changes, by section of its lines.
      uids, clusters, subsets: of each comparison; those with one query share a cluster.
      rules: how votes were counted.
      lines: by method.
    """

    suite: str
    coverage: str
    parameters: int | None
    config: str
    arms: dict[str, str]
    uids: list[str]
    clusters: list[int]
    subsets: list[str]
    rules: dict
    lines: dict[Method, Measured]


def write_results(
    path: Callable[..., pathlib.Path], suites: Sequence[Suite], rule: dict, *,
    config: str, arms: Mapping[str, str],
) -> None:  # fmt: skip
    """Writes results/<suite>.json for each suite with its lines; the rest is as in `Result`."""
    for suite in suites:
        record = {
            "version": VERSION,
            "suite": suite.name,
            "coverage": suite.coverage,
            "parameters": next(
                (cost.num_params(d.model) for d in suite.drawn if d.model is not None), None
            ),
            "config": config,
            "arms": dict(arms),
            "rules": rule,
            "uids": [c.uid for c in suite.comparisons],
            "clusters": rules.numbered([c.messages for c in suite.comparisons]).tolist(),
            "subsets": [c.subset for c in suite.comparisons],
            "lines": [_line(suite, line) for line in suite.lines],
        }
        text = json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
        write_atomically(path("results", f"{suite.name}.json"), text.encode())


def _line(suite: Suite, line: Line) -> dict:
    credits_C = np.full(len(suite.comparisons), np.nan)
    if line.credits_C is not None:
        credits_C[suite.choice_C] = line.credits_C
    columns = {name: [*resampled.interval(0)] for name, resampled in line.measured.items()}
    if line.singles_MC is not None:
        auc = single_auc(line.singles_MC, suite.labels)
        if auc is not None:
            columns["AUC"] = [*auc]
    named = {"section": line.section, "label": line.label, **dataclasses.asdict(line.method)}
    return {
        **named, "credits": _plain(credits_C), "columns": columns, "tokens": _tokens(suite, line)
    }  # fmt: skip


def _tokens(suite: Suite, line: Line) -> dict[str, float]:
    """Mean length of the samples of a line of one sample, by subset."""
    for drawn in suite.drawn:
        if drawn.method == line.method:
            lengths = defaultdict(list)
            for comparison, samples in zip(suite.comparisons, drawn.groups, strict=True):
                lengths[comparison.subset] += [len(t.token_ids) for t in samples if t.token_ids]
            return {name: float(np.mean(x)) for name, x in sorted(lengths.items()) if x}
    return {}


def read_results(workdir: pathlib.Path) -> dict[str, Result]:
    """The results of a workdir by suite.

    Raises:
      ValueError: naming the folder without results, or the file that holds none.
    """
    paths = visible_files(workdir / "results", "*.json")
    if not paths:
        raise ValueError(f"{workdir}: no results/*.json; experiments.benchmark writes them")
    return {path.stem: _read(path) for path in paths}


def _read(path: pathlib.Path) -> Result:
    try:
        record = read_json(path)
        if record["version"] not in (LABELLED, VERSION):
            raise ValueError(f"version {record['version']}, this reads {LABELLED} and {VERSION}")
        lines = {}
        for method, line in zip(_methods(record["lines"]), record["lines"], strict=True):
            credits_C = _array(line["credits"])
            if len(credits_C) != len(record["uids"]):
                raise ValueError(f"line {line['label']!r} has {len(credits_C)} credits")
            columns = {
                name: statistics.Interval(*map(float, ends))
                for name, ends in line["columns"].items()
            }
            lines[method] = Measured(line["label"], credits_C, columns, line["tokens"])
        fields = (record[name] for name in Result._fields if name != "lines")
        return Result(*fields, lines)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a result of experiments.benchmark: {error}") from error


def _methods(lines: Sequence[Mapping]) -> list[Method]:
    """The method of each stored line; of lines that have none, from their sections and labels."""
    names = [field.name for field in dataclasses.fields(Method)]
    if all("kind" in line for line in lines):
        return [Method(*(line[name] for name in names)) for line in lines]
    last, methods = {}, []
    for line in lines:
        section, label = line["section"], line["label"]
        name, _, how = label.rpartition(", ")
        if how == "one sample" and name in STAGES.values():
            last[section] = name
        stage = _STAGE_OF.get(name or last.get(section, last.get(SAMPLED, "")), "")
        arm = rule = ""
        if ": " in section:
            rule = section
        elif section not in (BLIND, GREEDY, SAMPLED):
            arm = section.replace(" ", "_")
        votes, _, k = how.partition("@")
        if section == BLIND:
            methods.append(Method(label, kind="blind"))
        elif label in _STAGE_OF:
            methods.append(Method(_STAGE_OF[label], kind="scalar"))
        else:
            kind = {"greedy": "greedy", "MetaRM": "guided"}.get(votes, "voting")
            methods.append(Method(stage, arm, kind, int(k or 1), rule))
    return methods


_STAGE_OF = {name: stage for stage, name in NAMES.items()}


def write_baseline(
    path: Callable[..., pathlib.Path], kind: str, suite: Suite, counting: CountingRules,
    draw: Mapping, lines: Sequence[Line],
) -> None:  # fmt: skip
    """Writes the lines of one kind of baseline on one suite; `draw` is the sampling, as JSON."""
    record = {
        "uids": [c.uid for c in suite.comparisons],
        "rules": _rules(counting),
        "draw": draw,
        "lines": [
            {"section": line.section, "label": line.label, **dataclasses.asdict(line.method),
             "unparsed": line.unparsed, "cut": line.cut, "unclosed": line.unclosed,
             "values": {name: _plain(x) for name, x in line.values.items()},
             **{name: _plain(getattr(line, name)) for name in _ARRAYS}}
            for line in lines
        ],
    }  # fmt: skip
    file = path("baselines", kind, f"{suite.name}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(record, allow_nan=False) + "\n").encode())


def read_baselines(
    path: Callable[..., pathlib.Path],
    comparisons: Mapping[str, Sequence[Comparison]],
    counting: CountingRules,
    drawn_alike: Callable[[Mapping], bool],
    say: Callable[[str], None],
) -> dict[str, tuple[Line, ...]]:
    """By suite, the lines of every kind that was measured on all suites, by these rules.

    A kind that was measured on other comparisons, or counted otherwise, is left out, and said so.

    Args:
      path: as in the head of this file.
      comparisons: of each suite.
      counting: the present rules.
      drawn_alike: whether a stored `draw` is the present way to draw.
      say: prints a line.
    """
    lines_of: dict[str, tuple[Line, ...]] = {name: () for name in comparisons}
    for kind in BASELINES:
        lines_of_kind = {}
        for name, rows in comparisons.items():
            file = path("baselines", kind, f"{name}.json")
            record = read_json(file) if file.exists() else {}
            now = {"uids": [c.uid for c in rows], "rules": _rules(counting)}
            alike = now == {field: record.get(field) for field in now}
            if alike and drawn_alike(record.get("draw", {})):
                methods = _methods(record["lines"])
                lines_of_kind[name] = tuple(
                    Line(
                        method, **{field: _array(line[field]) for field in _ARRAYS},
                        values={part: _array(x) for part, x in line["values"].items()},
                        unparsed=line["unparsed"], cut=line["cut"],
                        unclosed=line.get("unclosed"),  # older files have none
                    )
                    for method, line in zip(methods, record["lines"], strict=True)
                )  # fmt: skip
        if len(lines_of_kind) == len(comparisons):
            lines_of = {name: (*lines, *lines_of_kind[name]) for name, lines in lines_of.items()}
        elif path("baselines", kind).exists() and visible_files(
            path("baselines", kind), "*.json"
        ) != [path("baselines", kind, "config.json")]:
            say(
                f"baselines/{kind}: measured on other comparisons or in another way, left out; "
                f"experiments.baseline with config.baseline.kind={kind} measures it anew"
            )
    return lines_of


def _rules(counting: CountingRules) -> dict:
    """As JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(counting)))


def _plain(values: np.ndarray | None):
    """Nested lists, with None for NaN."""
    if values is None:
        return None
    values = np.asarray(values, np.float64)
    return np.where(np.isnan(values), None, values).tolist()


def _array(values: list | None) -> np.ndarray | None:
    """float64, with NaN for None."""
    return None if values is None else np.array(values, np.float64)
