"""RewardBench (allenai/reward-bench, version 1): pairs of a chosen and a rejected response.

The suite is the split ``filtered``: 2,985 pairs in 23 subsets. Columns read: `prompt`, `chosen`,
`rejected`, `subset`, `id`. Prior sets are other data and no part of the paper's number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from grm_jax.data.benchmarks.files import find_tables, name_of, one_of, with_best
from grm_jax.data.comparison import Comparison, collect, located, read_objects, require
from grm_jax.text.prompts import Message

ROWS: Mapping[str, int] = {
    "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95,
    "mt-bench-easy": 28, "mt-bench-med": 40, "mt-bench-hard": 37,
    "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
    "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    "refusals-dangerous": 100, "refusals-offensive": 100,
    "xstest-should-refuse": 154, "xstest-should-respond": 250, "donotanswer": 136,
    "math-prm": 447,
    "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164,
    "hep-rust": 164,
}  # fmt: skip


def load(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads ``filtered*`` in `data_dir`/rewardbench, or in `data_dir` itself, in its order.

    Each pair has uid ``rewardbench/<subset>/<id>`` and its subset; the chosen response stands at a
    hashed place.

    Raises:
      ValueError: the file is missing; or a bad row, as ``path:line: field 'x': ...``.
    """
    paths = find_tables("rewardbench", data_dir, "rewardbench", "filtered")
    return collect(place for path in paths for place in _rows(path))


def _rows(path: os.PathLike) -> Iterator[tuple[str, Comparison]]:
    for where, row in read_objects(path):
        subset = one_of(where, row, "subset", tuple(ROWS))
        uid = f"rewardbench/{subset}/{name_of(where, row, 'id')}"
        chosen, rejected = (require(where, row, name, str) for name in ("chosen", "rejected"))
        messages = (Message("user", require(where, row, "prompt", str)),)
        answers, rewards = with_best(uid, chosen, [rejected])
        yield where, located(where, uid, messages, answers, rewards, subset, query="prompt")
