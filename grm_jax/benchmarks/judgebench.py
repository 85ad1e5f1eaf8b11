"""JudgeBench (ScalerLab/JudgeBench): pairs of responses where one is objectively correct.

The suite is the file of the 350 gpt-4o pairs; the file of the 270 claude pairs is another suite.
Columns read: `pair_id`, `original_id`, `source`, `question`, `response_model`, `response_A`,
`response_B`, `label` ("A>B" or "B>A"). The categories are the official ones, by the prefix of
`source`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from grm_jax.benchmarks import rules
from grm_jax.benchmarks.files import find_file
from grm_jax.benchmarks.suite import Column, Metric, Outcome, Suite, Values, each_subset
from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import Placed, located, one_of, one_turn, read_objects, require, strings
from grm_jax.data.source import Source

FILE = "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl"
CLAUDE_FILE = "dataset=judgebench,response_model=claude-3-5-sonnet-20240620.jsonl"
CATEGORIES = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
ROWS = {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42}
CLAUDE_ROWS = {"Knowledge": 154, "Reasoning": 51, "Math": 34, "Coding": 31}
REWARDS = {"A>B": (1.0, 0.0), "B>A": (0.0, 1.0)}
SOURCES = {
    "judgebench": Source(
        "ScalerLab/JudgeBench", ("data/*.jsonl",), "e2c52c284e735e139b3daa61c206ee208f36c461",
        root="data/", host="github",
    )
}  # fmt: skip


def read(suite: str, file: str, data_dir: Path) -> Placed:
    """Reads the pairs of `data_dir`/judgebench, or of `data_dir` itself, in the order of the file.

    Each has uid ``<suite>/<pair_id>``, responses (A, B), the category as subset, and `source`,
    `original_id` and `response_model` in meta.
    """
    for where, row in read_objects(find_file(data_dir, "judgebench", file)):
        source = require(where, row, "source", str)
        subset = next((name for key, name in CATEGORIES.items() if source.startswith(key)), None)
        if subset is None:
            problem = f"{source!r} starts with none of {tuple(CATEGORIES)}"
            raise FieldError(where, "source", problem)
        label = one_of(where, row, "label", tuple(REWARDS))
        original_id = row.get("original_id")
        if type(original_id) not in (int, str, type(None)):
            problem = f"expected int, str or null, got {type(original_id).__name__}"
            raise FieldError(where, "original_id", problem)
        model = require(where, row, "response_model", str)
        meta = {"source": source, "original_id": original_id, "response_model": model}
        yield where, located(
            where, f"{suite}/{require(where, row, 'pair_id', str)}",
            one_turn(where, row, "question"), strings(where, row, "response_A", "response_B"),
            REWARDS[label], subset, meta, query="question",
        )  # fmt: skip


def right_in_sum(game_1: ArrayLike, game_2: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """bool: `compute_final_metrics` of JudgeBench, a pair judged once in either order.

    A verdict counts +1 for the better response, -1 for the other, 0 for a tie or none; right is a
    sum above 0. So right + tie is right, and right + wrong is not. Arguments are verdicts, and
    `gold` is FIRST or SECOND; any shapes that broadcast.
    """
    gold = np.asarray(gold)
    signed = [
        np.where(game == gold, 1, np.where(game == 1 - gold, -1, 0))
        for game in (np.asarray(game_1), np.asarray(game_2))
    ]
    return signed[0] + signed[1] > 0


def _both_orders(comparisons, outcome: Outcome) -> Values:
    if outcome.games is None:
        return {}
    return {"": rules.chance_of(right_in_sum, *outcome.games, rules.golds(comparisons))}


def _suite(name: str, file: str, rows: Mapping[str, int]) -> Suite:
    metric = Metric(
        (*each_subset(rows), Column("both orders", dict(rows))),
        "both orders", _both_orders, needs=("games",),
        note=f"both orders: {rules.GAMES_NOTE}Right is +1, wrong -1, a tie or nothing 0; the pair "
        "is right if the sum is above 0",
    )  # fmt: skip
    return Suite(name, functools.partial(read, name, file), rows, metric, SOURCES)


SUITES = (
    _suite("judgebench", FILE, ROWS), _suite("judgebench_claude", CLAUDE_FILE, CLAUDE_ROWS)
)  # fmt: skip
