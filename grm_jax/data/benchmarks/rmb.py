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

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from grm_jax.data.benchmarks.files import find_folder, with_best
from grm_jax.data.comparison import (
    Comparison,
    FieldError,
    collect,
    located,
    read_messages,
    read_objects,
    require,
    texts_of,
)
from grm_jax.files import visible_files

LIST_ROWS: Mapping[str, int] = {"Helpfulness": 2109, "Harmlessness": 1677}
PAIR_ROWS: Mapping[str, int] = {"Helpfulness": 10_067, "Harmlessness": 7064}
Answer = tuple[str, str]  # llm_name, answer


def load_lists(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the lists of `data_dir`/rmb/BoN_set, or of `data_dir`/BoN_set, by goal and file name.

    Each has uid ``rmb_bon/<bon_uid>``, the goal as subset, and `category_path` and the `llm_names`
    of its responses in meta. The best stands at a hashed place.

    Raises:
      ValueError: a folder is missing or empty; or a bad row, as ``path[row]: field 'x': ...``.
    """
    return collect(
        (where, _comparison(where, f"rmb_bon/{name}", row, best, losers, goal))
        for where, name, row, best, losers, goal in _lists("rmb_bon", data_dir)
    )


def load_list_pairs(data_dir: str | os.PathLike) -> list[Comparison]:
    """The same files as `load_lists`: each list as n - 1 pairs of the best and one loser.

    A pair has uid ``rmb_pairs/<bon_uid>/<place of the loser>`` and ``rmb_pairs/<bon_uid>`` as
    `row`; otherwise as `load_lists`.
    """
    return collect(
        (
            where,
            _comparison(
                where, f"rmb_pairs/{name}/{i}", row, best, [loser], goal, f"rmb_pairs/{name}"
            ),
        )
        for where, name, row, best, losers, goal in _lists("rmb_pairs", data_dir)
        for i, loser in enumerate(losers)
    )


def load_pairs(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the pairs of `data_dir`/rmb/Pairwise_set, or of `data_dir`/Pairwise_set.

    Each has uid ``rmb_pairwise/<pair_uid>``; otherwise as `load_lists`.
    """
    return collect(_pairs(data_dir))


def _lists(suite: str, data_dir: str | os.PathLike) -> Iterator[tuple]:
    for where, row, goal in _rows(suite, data_dir, "BoN_set"):
        best = _answer(where, "bon_best", require(where, row, "bon_best", dict))
        losers = [
            _answer(where, f"loser_list[{i}]", loser)
            for i, loser in enumerate(require(where, row, "loser_list", list))
        ]
        if not losers:
            raise FieldError(where, "loser_list", "is empty")
        yield where, require(where, row, "bon_uid", str), row, best, losers, goal


def _pairs(data_dir: str | os.PathLike) -> Iterator[tuple[str, Comparison]]:
    for where, row, goal in _rows("rmb_pairwise", data_dir, "Pairwise_set"):
        sides = ("chosen", "reject")
        best, loser = (_answer(where, s, require(where, row, s, dict)) for s in sides)
        uid = f"rmb_pairwise/{require(where, row, 'pair_uid', str)}"
        yield where, _comparison(where, uid, row, best, [loser], goal)


def _rows(suite: str, data_dir: str | os.PathLike, name: str) -> Iterator[tuple]:
    folder = find_folder(suite, data_dir, "rmb", name)
    for goal in LIST_ROWS:
        paths = visible_files(folder / goal, "**/*.json")
        if not paths:
            raise ValueError(f"{suite}: expected *.json files under {folder / goal}")
        for path in paths:
            lies = "/".join((name, *path.relative_to(folder).with_suffix("").parts))
            for where, row in read_objects(path):
                stated = require(where, row, "category_path", str)
                if stated != lies:
                    problem = f"says {stated!r}, but the file lies at {lies!r}"
                    raise FieldError(where, "category_path", problem)
                yield where, row, goal


def _comparison(
    where: str, uid: str, row: dict[str, Any], best: Answer, losers: list[Answer], goal: str,
    of_row: str = "",
) -> Comparison:  # fmt: skip
    answers, rewards = with_best(uid, best, losers)
    names, texts = zip(*answers, strict=True)
    messages = read_messages(where, row, "conversation_input", extra=("language",))
    meta = {"category_path": row["category_path"], "llm_names": list(names)}
    if of_row:
        meta["row"] = of_row
    return located(where, uid, messages, texts, rewards, goal, meta, query="conversation_input")


def _answer(where: str, name: str, value: Any) -> Answer:
    return texts_of(where, name, value, "llm_name", "answer")
