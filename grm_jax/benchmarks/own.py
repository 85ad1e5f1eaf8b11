"""Comparisons of the user's own, in JSONL or Parquet.

A row is in the format of `grm_jax.data.reading.read_jsonl`, or has `prompt` (a string or
messages), `chosen` and `rejected` (strings), as custom sets of the package rewardbench do.
"""

from pathlib import Path

from grm_jax.benchmarks.files import find_tables, with_best
from grm_jax.benchmarks.suite import Suite
from grm_jax.data import reading
from grm_jax.data.comparison import Comparison


def read(data_dir: Path) -> reading.Placed:
    """Reads every file of `data_dir`/own, or of `data_dir` itself, by name.

    A pair without a uid has ``own/<file>/<row>``, counted from 0, and its chosen response stands
    at a hashed place.
    """
    for path in find_tables(data_dir, "own", ""):
        for number, (where, row) in enumerate(reading.read_objects(path)):
            row = reading.present(row)
            if "chosen" in row:
                yield where, _pair(where, row, f"own/{path.name}/{number}")
            else:
                yield where, reading.from_row(where, row)


def _pair(where: str, row: dict, uid: str) -> Comparison:
    if isinstance(row.get("prompt"), list):
        messages = reading.read_messages(where, row, "prompt", extra=())
    else:
        messages = reading.one_turn(where, row, "prompt")
    uid = reading.require(where, row, "uid", str) if "uid" in row else uid
    subset = reading.require(where, row, "subset", str) if "subset" in row else ""
    chosen, rejected = reading.strings(where, row, "chosen", "rejected")
    answers, rewards = with_best(uid, chosen, [rejected])
    return reading.located(where, uid, messages, answers, rewards, subset, query="prompt")


SUITES = (Suite("own", read, None),)
