"""RMB best-of-N (Zhou-Zoey/RMB-Reward-Model-Benchmark): lists of one best and 2 to 6 losers.

The suite is the folder ``BoN_set``: 37 Helpfulness and 12 Harmlessness files, 3,786 lists.
Columns read: `bon_uid`, `conversation_input` ([{role, content, language}]), `bon_best` and
`loser_list` ({llm_name, answer}), `category_path`. The official columns are the micro-averages
over each of the two goals, so the goal is the subset. A list is right only if the best is above
every loser; a loser with the text of the best (it happens in 6 lists) is kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grm_jax.data.comparison import (
    Comparison,
    FieldError,
    collect,
    located,
    read_messages,
    read_objects,
    require,
)

ROWS: Mapping[str, int] = {"Helpfulness": 2109, "Harmlessness": 1677}


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the lists of `data_dir`/rmb/BoN_set, or of `data_dir`/BoN_set, by goal and file name.

    Each has uid ``rmb_bon/<bon_uid>``, the goal as subset, and `category_path` and the `llm_names`
    of its responses in meta. The files put the best first; here its place is a hash of the uid,
    so that neither ties nor a judge that likes the first response can profit from it.

    Raises:
      ValueError: a folder is missing or empty; or a bad row, as ``path[row]: field 'x': ...``.
    """
    folders = [Path(data_dir) / "rmb" / "BoN_set", Path(data_dir) / "BoN_set"]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise ValueError(f"rmb_bon: expected the folder {folders[0]} (or {folders[1]})")
    return collect(place for goal in ROWS for place in _goal_rows(folder, goal))


def _goal_rows(folder: Path, goal: str) -> Iterator[tuple[str, Comparison]]:
    paths = sorted((folder / goal).rglob("*.json"))
    if not paths:
        raise ValueError(f"rmb_bon: expected *.json files under {folder / goal}")
    for path in paths:
        category_path = "/".join(("BoN_set", *path.relative_to(folder).with_suffix("").parts))
        for where, row in read_objects(path):
            yield where, _comparison(where, row, goal, category_path)


def _comparison(where: str, row: dict[str, Any], goal: str, category_path: str) -> Comparison:
    stated = require(where, row, "category_path", str)
    if stated != category_path:
        problem = f"says {stated!r}, but the file lies at {category_path!r}"
        raise FieldError(where, "category_path", problem)
    uid = f"rmb_bon/{require(where, row, 'bon_uid', str)}"
    best = _answer(where, "bon_best", require(where, row, "bon_best", dict))
    answers = [
        _answer(where, f"loser_list[{i}]", loser)
        for i, loser in enumerate(require(where, row, "loser_list", list))
    ]
    if not answers:
        raise FieldError(where, "loser_list", "is empty")
    digest = hashlib.sha256(uid.encode("utf-8", "replace")).digest()
    place = int.from_bytes(digest[:8], "big") % (len(answers) + 1)
    answers.insert(place, best)
    names, texts = zip(*answers, strict=True)
    rewards = tuple(float(i == place) for i in range(len(answers)))
    messages = read_messages(where, row, "conversation_input", extra=("language",))
    meta = {"category_path": category_path, "llm_names": list(names)}
    return located(where, uid, messages, texts, rewards, goal, meta, query="conversation_input")


def _answer(where: str, name: str, value: Any) -> tuple[str, str]:
    """(llm_name, answer) of one response."""
    if not isinstance(value, dict):
        raise FieldError(where, name, f"expected an object, got {type(value).__name__}")
    try:
        return require(where, value, "llm_name", str), require(where, value, "answer", str)
    except FieldError as error:
        raise FieldError(where, f"{name}.{error.name}", error.problem) from None
