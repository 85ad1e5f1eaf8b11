"""results/<suite>.json: what every line of a benchmark earned on every comparison.

From it two runs are compared item by item, and the tables of the paper are filled (`tools.tables`).
Equal runs write equal bytes.
"""

import json
import math
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import arms, counting
from experiments import run as runs
from experiments.counting import Line, Suite
from grm_jax.benchmarks import rules
from grm_jax.evaluation import statistics
from grm_jax.files import read_json, visible_files, write_atomically
from grm_jax.models import cost

VERSION = 3


class Measured(NamedTuple):
    """A line as it was written.

    Attributes:
      credits_C: float64 by comparison; NaN where it has no right and wrong response, or the line
        says nothing about it.
      columns: the numbers that the suite reports, with intervals.
      tokens: mean number of tokens of a sample by subset, where the line has one sample.
    """

    credits_C: np.ndarray
    columns: dict[str, statistics.Interval]
    tokens: dict[str, float]


class Result(NamedTuple):
    """A suite as it was written.

    Attributes:
      suite, coverage: see `counting.Suite`.
      parameters: of the policy; None where it is not known.
      config: digest of what must be equal for runs of different seeds to be averaged.
      arms: what each arm changes, by section of its lines.
      uids, clusters, subsets: of each comparison; those with one query share a cluster.
      rules: how votes were counted.
      lines: by (section, label).
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
    lines: dict[tuple[str, str], Measured]


def write_results(
    run: runs.Run, suites: Sequence[Suite], lines: dict[str, list[Line]], rule: dict
) -> None:
    """Writes results/<suite>.json for every suite; atomically."""
    for suite in suites:
        record = {
            "version": VERSION,
            "suite": suite.name,
            "coverage": suite.coverage,
            "parameters": next(
                (cost.num_params(d.model) for d in suite.drawn if d.model is not None), None
            ),
            "config": arms.comparable(run.fields),
            "arms": arms.definitions(run.fields),
            "rules": rule,
            "uids": [c.uid for c in suite.comparisons],
            "clusters": rules.of_rows([c.messages for c in suite.comparisons])[1].tolist(),
            "subsets": [c.subset for c in suite.comparisons],
            "lines": [_line(suite, line) for line in lines[suite.name]],
        }
        text = json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
        write_atomically(run.path("results", f"{suite.name}.json"), text.encode())


def _line(suite: Suite, line: Line) -> dict:
    credits: list[float | None] = [None] * len(suite.comparisons)
    if line.credits_C is not None:
        for c, credit in zip(np.flatnonzero(suite.choice_C), line.credits_C, strict=True):
            credits[c] = float(credit)
    columns = {name: [*one.interval(0)] for name, one in line.measured.items()}
    if line.singles_MC is not None:
        auc = counting.single_auc(line.singles_MC, suite.labels)
        if auc is not None:
            columns["AUC"] = [*auc]
    return {"section": line.section, "label": line.label, "credits": credits,
            "columns": columns, "tokens": _tokens(suite, line)}  # fmt: skip


def _tokens(suite: Suite, line: Line) -> dict[str, float]:
    """Mean length of the samples of a line of one sample, by subset."""
    for drawn in suite.drawn:
        name = counting.greedy if drawn.greedy else counting.one_sample
        if (drawn.section, name(drawn.stage)) == (line.section, line.label):
            lengths = defaultdict(list)
            for comparison, own in zip(suite.comparisons, drawn.groups, strict=True):
                lengths[comparison.subset] += [len(t.token_ids) for t in own if t.token_ids]
            return {name: float(np.mean(own)) for name, own in sorted(lengths.items()) if own}
    return {}


def read_results(workdir: pathlib.Path) -> dict[str, Result]:
    """The results of a workdir by suite.

    Raises:
      ValueError: naming the folder without any, or the file that is none of ours.
    """
    paths = visible_files(workdir / "results", "*.json")
    if not paths:
        raise ValueError(f"{workdir}: no results/*.json; experiments.benchmark writes them")
    return {path.stem: _read(path) for path in paths}


def _read(path: pathlib.Path) -> Result:
    try:
        record = read_json(path)
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']}, this reads {VERSION}")
        lines = {}
        for line in record["lines"]:
            credits = [math.nan if x is None else float(x) for x in line["credits"]]
            if len(credits) != len(record["uids"]):
                raise ValueError(f"line {line['label']!r} has {len(credits)} credits")
            columns = {
                name: statistics.Interval(*map(float, one))
                for name, one in line["columns"].items()
            }
            measured = Measured(np.array(credits), columns, line["tokens"])
            lines[line["section"], line["label"]] = measured
        fields = (record[name] for name in Result._fields if name != "lines")
        return Result(*fields, lines)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a result of experiments.benchmark: {error}") from error
