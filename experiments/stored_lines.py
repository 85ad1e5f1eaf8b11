"""baselines/<kind>/<suite>.json: the lines of a trained baseline, counted once.

The benchmark puts them beside its own, so that tables, differences and results of a workdir have
everything that was measured in it. Equal runs write equal bytes.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import run as runs
from experiments import sections
from experiments.config import claimed
from experiments.counting import CountingRules, Line
from grm_jax.data.comparison import Comparison
from grm_jax.files import read_json, visible_files, write_atomically

_ARRAYS = ("credits_C", "singles_MC")


def write(
    run: runs.Run, kind: str, suite: str, comparisons: Sequence[Comparison], rules: CountingRules,
    lines: Sequence[Line],
) -> None:  # fmt: skip
    """Writes the lines of one kind on one suite; atomically."""
    record = {
        "uids": [c.uid for c in comparisons],
        "rules": _rules(rules),
        "draw": claimed(run.fields)["benchmark"]["draw"],
        "lines": [
            {"section": line.section, "label": line.label,
             "unparsed": line.unparsed, "cut": line.cut,
             "values": {name: _plain(x) for name, x in line.values.items()},
             **{name: _plain(getattr(line, name)) for name in _ARRAYS}}
            for line in lines
        ],
    }  # fmt: skip
    path = run.path("baselines", kind, f"{suite}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, allow_nan=False) + "\n").encode())


def read(
    run: runs.Run, comparisons: Mapping[str, Sequence[Comparison]], rules: CountingRules
) -> dict[str, tuple[Line, ...]]:
    """By suite, the lines of every kind that was measured on all suites, by these rules.

    A kind that was measured on other comparisons, or counted otherwise, is left out, and said so.
    """
    found: dict[str, tuple[Line, ...]] = {name: () for name in comparisons}
    for kind in sections.BASELINES:
        own = {}
        for name, rows in comparisons.items():
            path = run.path("baselines", kind, f"{name}.json")
            record = read_json(path) if path.exists() else {}
            now = {"uids": [c.uid for c in rows], "rules": _rules(rules),
                   "draw": claimed(run.fields)["benchmark"]["draw"]}  # fmt: skip
            draw = claimed({"benchmark": {"draw": record.get("draw", {})}})["benchmark"]["draw"]
            if now == {**{field: record.get(field) for field in now}, "draw": draw}:
                own[name] = tuple(map(_line, record["lines"]))
        if len(own) == len(comparisons):
            found = {name: (*lines, *own[name]) for name, lines in found.items()}
        elif run.path("baselines", kind).exists() and visible_files(
            run.path("baselines", kind), "*.json"
        ) != [run.path("baselines", kind, "config.json")]:
            run.say(
                f"baselines/{kind}: measured on other comparisons or in another way, left out; "
                f"experiments.baseline with config.baseline.kind={kind} measures it anew"
            )
    return found


def _rules(rules: CountingRules) -> dict:
    """As JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(rules)))


def _plain(values: np.ndarray | None):
    """Nested lists, with None for NaN."""
    if values is None:
        return None
    values = np.asarray(values, np.float64)
    if values.ndim == 0:
        return None if math.isnan(values) else float(values)
    return [_plain(value) for value in values]


def _line(record: dict) -> Line:
    arrays = {name: record.pop(name) for name in _ARRAYS}
    values = {name: np.array(x, np.float64) for name, x in record.pop("values").items()}
    return Line(**record, values=values, **{
        name: None if x is None else np.array(x, np.float64) for name, x in arrays.items()
    })  # fmt: skip
