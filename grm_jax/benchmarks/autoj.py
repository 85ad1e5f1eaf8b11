"""auto-j pairwise (GAIR-NLP/auto-j): pairs with the verdict of a person, ties among them.

The suite is ``testdata_pairwise.jsonl``, 1,392 rows. Keys read: `scenario`, `label` (0 and 1: the
first and the second response is better; 2: a tie), `prompt`, "response 1" and "response 2".
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from grm_jax.benchmarks import rules
from grm_jax.benchmarks.files import find_file
from grm_jax.benchmarks.rules import FIRST, NONE
from grm_jax.benchmarks.suite import Column, Metric, Outcome, Suite, Values
from grm_jax.data.reading import Placed, located, one_of, one_turn, read_objects, require, strings
from grm_jax.data.source import Source

FILE = "testdata_pairwise.jsonl"
ROWS = {"": 1392}
REWARDS = {0: (1.0, 0.0), 1: (0.0, 1.0), 2: (1.0, 1.0)}
SOURCES = {
    "autoj": Source(
        "GAIR-NLP/auto-j", ("data/test/testdata_pairwise.jsonl",), "2ae17a3",
        root="data/test/", host="github",
    )
}  # fmt: skip


def read(data_dir: Path) -> Placed:
    """Reads the file in `data_dir`/autoj, or in `data_dir` itself, in its order.

    Each row has uid ``autoj/<row>`` (counted from 0, for the file names none) and its `scenario`
    in meta. In a tie both responses are best.
    """
    for number, (where, row) in enumerate(read_objects(find_file(data_dir, "autoj", FILE))):
        label = one_of(where, row, "label", tuple(REWARDS))
        meta = {"scenario": require(where, row, "scenario", str)}
        yield where, located(
            where, f"autoj/{number}", one_turn(where, row, "prompt"),
            strings(where, row, "response 1", "response 2"), REWARDS[label], "", meta,
            several_best=label == 2, query="prompt",
        )  # fmt: skip


def right_in_both(game_1: ArrayLike, game_2: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """bool: the agreement, the gold verdict (FIRST, SECOND or TIE) in both orders."""
    return (np.asarray(game_1) == gold) & (np.asarray(game_2) == gold)


def same_in_both(game_1: ArrayLike, game_2: ArrayLike, gold: ArrayLike = FIRST) -> np.ndarray:
    """bool: the consistency, one verdict in both orders; no verdict is none."""
    game_1, game_2, _ = np.broadcast_arrays(game_1, game_2, gold)
    return (game_1 == game_2) & (game_1 != NONE)


def _agreement(comparisons, outcome: Outcome) -> Values:
    if outcome.games is None:
        return {}
    games, gold = outcome.games, rules.golds(comparisons)
    return {
        "agreement": rules.chance_of(right_in_both, *games, gold),
        "consistency": rules.chance_of(same_in_both, *games, gold),
    }


METRIC = Metric(
    (Column("consistency", {"": 1.0}, "consistency"), Column("agreement", {"": 1.0}, "agreement")),
    "agreement", _agreement, needs=("games",),
    note=f"agreement: right in both orders, a tie being a verdict to find; {rules.GAMES_NOTE}"
    "accuracy is over the rows without a tie of people",
)  # fmt: skip
SUITES = (Suite("autoj", read, ROWS, METRIC, SOURCES, ties_judged=True),)
