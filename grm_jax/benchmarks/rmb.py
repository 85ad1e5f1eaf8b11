"""RMB (Zhou-Zoey/RMB-Reward-Model-Benchmark): pairs, and lists of one best and 2 to 6 losers.

37 Helpfulness and 12 Harmlessness files a set. Columns read: `pair_uid` or `bon_uid`,
`conversation_input` ([{role, content, language}]), `chosen` and `reject` or `bon_best` and
`loser_list` ({llm_name, answer}), `category_path`. The official columns are the micro-averages
over each of the two goals, so the goal is the subset.

Best-of-N has two forms with different floors. As a list, the best must be picked out of n at once
(the paper's form for a GRM). As pairs, it must be above every loser in n - 1 judgements (the
benchmark's form); the pairs of a list are one `row`. A loser with the text of the best (it
happens in 6 lists and 11 pairs) is kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from grm_jax.benchmarks import rules
from grm_jax.benchmarks.files import find_file, with_best
from grm_jax.benchmarks.suite import Column, Metric, Suite, each_row, each_subset, row_of
from grm_jax.data.comparison import Comparison, FieldError
from grm_jax.data.reading import Placed, located, read_messages, read_objects, require, texts_of
from grm_jax.data.source import Source
from grm_jax.files import visible_files

LIST_ROWS = {"Helpfulness": 2109, "Harmlessness": 1677}
PAIR_ROWS = {"Helpfulness": 10_067, "Harmlessness": 7064}
SOURCES = {
    "rmb": Source(
        "Zhou-Zoey/RMB-Reward-Model-Benchmark", ("RMB_dataset/*.json",), "2be3180",
        root="RMB_dataset/", host="github",
    )
}  # fmt: skip
ANSWER = ("llm_name", "answer")


def read_lists(data_dir: Path) -> Placed:
    """Reads the lists of `data_dir`/rmb/BoN_set, or of `data_dir`/BoN_set, by goal and file name.

    Each has uid ``rmb_bon/<bon_uid>``, the goal as subset, and `category_path` and the `llm_names`
    of its responses in meta. The best stands at a hashed place.
    """
    for where, name, row, best, losers, goal in _lists(data_dir):
        yield where, _comparison(where, f"rmb_bon/{name}", row, best, losers, goal)


def read_list_pairs(data_dir: Path) -> Placed:
    """The same files as `read_lists`: each list as n - 1 pairs of the best and one loser.

    A pair has uid ``rmb_pairs/<bon_uid>/<place of the loser>`` and ``rmb_pairs/<bon_uid>`` as
    `row`; otherwise as `read_lists`.
    """
    for where, name, row, best, losers, goal in _lists(data_dir):
        whole = f"rmb_pairs/{name}"
        for i, loser in enumerate(losers):
            yield where, _comparison(where, f"{whole}/{i}", row, best, [loser], goal, whole)


def read_pairs(data_dir: Path) -> Placed:
    """Reads the pairs of `data_dir`/rmb/Pairwise_set, or of `data_dir`/Pairwise_set.

    Each has uid ``rmb_pairwise/<pair_uid>``; otherwise as `read_lists`.
    """
    for where, row, goal in _rows(data_dir, "Pairwise_set"):
        best, loser = (
            texts_of(where, side, require(where, row, side, dict), *ANSWER)
            for side in ("chosen", "reject")
        )
        uid = f"rmb_pairwise/{require(where, row, 'pair_uid', str)}"
        yield where, _comparison(where, uid, row, best, [loser], goal)


def _lists(data_dir: Path) -> Iterator[tuple]:
    for where, row, goal in _rows(data_dir, "BoN_set"):
        best = texts_of(where, "bon_best", require(where, row, "bon_best", dict), *ANSWER)
        losers = [
            texts_of(where, f"loser_list[{i}]", loser, *ANSWER)
            for i, loser in enumerate(require(where, row, "loser_list", list))
        ]
        if not losers:
            raise FieldError(where, "loser_list", "is empty")
        yield where, require(where, row, "bon_uid", str), row, best, losers, goal


def _rows(data_dir: Path, name: str) -> Iterator[tuple]:
    folder = find_file(data_dir, "rmb", name, "folder")
    for goal in LIST_ROWS:
        paths = visible_files(folder / goal, "**/*.json")
        if not paths:
            raise ValueError(f"rmb: expected *.json files under {folder / goal}")
        for path in paths:
            lies = "/".join((name, *path.relative_to(folder).with_suffix("").parts))
            for where, row in read_objects(path):
                stated = require(where, row, "category_path", str)
                if stated != lies:
                    problem = f"says {stated!r}, but the file lies at {lies!r}"
                    raise FieldError(where, "category_path", problem)
                yield where, row, goal


def _comparison(
    where: str, uid: str, row: dict[str, Any], best: tuple, losers: list, goal: str,
    of_row: str = "",
) -> Comparison:  # fmt: skip
    answers, rewards = with_best(uid, best, losers)
    names, texts = zip(*answers, strict=True)
    messages = read_messages(where, row, "conversation_input", extra=("language",))
    meta = {"category_path": row["category_path"], "llm_names": list(names)}
    if of_row:
        meta["row"] = of_row
    return located(where, uid, messages, texts, rewards, goal, meta, query="conversation_input")


def all_of_a_row(credits: ArrayLike, row_of: ArrayLike) -> np.ndarray:
    """[R]: a row is right if all of its pairs are (best-of-N as n - 1 pairs).

    Credits [C] are chances, of pairs that were judged independently: their product is the chance.
    """
    credits_C, row_C = np.asarray(credits, np.float64), np.asarray(row_of)
    product_R = np.ones(row_C.max() + 1)
    np.multiply.at(product_R, row_C, credits_C)
    return product_R


def _whole_lists(comparisons, outcome):
    row_C = rules.numbered([row_of(c) for c in comparisons])
    return {"": all_of_a_row(outcome.credits_C, row_C)}


COLUMNS = (*each_subset(LIST_ROWS), Column("mean", dict.fromkeys(LIST_ROWS, 1.0)))
PAIRS_METRIC = Metric(
    COLUMNS, "mean", _whole_lists, each_row,
    note="a list is right if the best is above every loser in n - 1 pairs; not comparable to "
    "rmb_bon, its floor is lower",
)  # fmt: skip
LIST_METRIC = Metric(COLUMNS, "mean", note="the best of the list, all responses in one prompt")
SUITES = (
    Suite("rmb_pairwise", read_pairs, PAIR_ROWS, Metric(COLUMNS, "mean"), SOURCES),
    Suite("rmb_bon", read_lists, LIST_ROWS, LIST_METRIC, SOURCES),
    Suite("rmb_pairs", read_list_pairs, LIST_ROWS, PAIRS_METRIC, SOURCES),
)
