"""RewardBench 2 (allenai/reward-bench-2): one right response and three wrong ones, and Ties.

The suite is the split ``test``: 1,865 rows. Columns read: `id`, `prompt`, `chosen` and `rejected`
(lists), `subset`. A row of Ties has several right responses, and its id says which half of its
prompt it is: ``ref:n`` has one right response, ``tied:n`` asks the same with several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from grm_jax.data.benchmarks.files import find_tables, name_of, one_of, place_of, texts
from grm_jax.data.comparison import Comparison, FieldError, collect, located, read_objects, require
from grm_jax.text.prompts import Message

# From a data card; the rows themselves were not at hand.
ROWS: Mapping[str, int] = {
    "Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, "Ties": 102
}  # fmt: skip


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads ``test*`` in `data_dir`/rewardbench2, or in `data_dir` itself, in its order.

    Each row has uid ``rewardbench2/<id>`` and its subset. The right responses keep their order and
    stand together at a hashed place. In Ties meta has `half` ("ref" or "tied") and `prompt`, and
    both halves of a prompt are one `row`.

    Raises:
      ValueError: the file is missing; or a bad row, as ``path[row]: field 'x': ...``.
    """
    paths = find_tables("rewardbench2", data_dir, "rewardbench2", "test")
    return collect(place for path in paths for place in _rows(path))


def _rows(path: os.PathLike) -> Iterator[tuple[str, Comparison]]:
    for where, row in read_objects(path):
        subset = one_of(where, row, "subset", tuple(ROWS))
        name = name_of(where, row, "id")
        chosen, rejected = (texts(where, row, side) for side in ("chosen", "rejected"))
        meta = {}
        if subset == "Ties":
            half, _, number = name.partition(":")
            if half not in ("ref", "tied") or not number:
                raise FieldError(where, "id", f"{name!r} is neither 'ref:n' nor 'tied:n'")
            meta = {"half": half, "prompt": number, "row": f"rewardbench2/Ties/{number}"}
        elif len(chosen) != 1:
            raise FieldError(where, "chosen", f"expected one response, got {len(chosen)}")
        uid = f"rewardbench2/{name}"
        place = place_of(uid, len(rejected) + 1)
        answers = (*rejected[:place], *chosen, *rejected[place:])
        rewards = tuple(float(place <= i < place + len(chosen)) for i in range(len(answers)))
        messages = (Message("user", require(where, row, "prompt", str)),)
        yield (
            where,
            located(
                where, uid, messages, answers, rewards, subset, meta,
                several_best=len(chosen) > 1, query="prompt",
            ),
        )  # fmt: skip
