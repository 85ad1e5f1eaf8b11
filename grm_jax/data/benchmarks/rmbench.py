"""RM-Bench (THU-KEG/RM-Bench): three right and three wrong responses, alike but for their style.

The suite is the files ``<domain>_filtered.json``, 1,327 rows. Columns read: `id` (it restarts in
every file), `prompt`, `chosen` and `rejected` (three strings each: concise, detailed plain text,
detailed Markdown). Two forms: the nine pairs of a row, as in the benchmark, and its six responses
as one list, which a pointwise model can score at once. Domains without a file are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from grm_jax.data.benchmarks.files import MissingFiles, place_of, texts, with_best
from grm_jax.data.comparison import Comparison, FieldError, collect, located, read_objects, require
from grm_jax.text.prompts import Message

ROWS: Mapping[str, int] = {
    "chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157
}  # fmt: skip
STYLES = 3


def load_pairs(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads the files of `data_dir`/rmbench, or of `data_dir` itself, domain by domain.

    A pair has uid ``rmbench/<domain>/<id>/<i>-<j>``, ``rmbench/<domain>/<id>`` as `row`, the
    domain as subset, and in meta `chosen` and `rejected`, the styles i and j.

    Raises:
      ValueError: no file at all; or a bad row, as ``path[row]: field 'x': ...``.
    """
    return collect(
        (where, pair)
        for where, domain, row in _rows("rmbench", data_dir)
        for pair in _pairs(where, domain, row)
    )


def load_lists(data_dir: str | os.PathLike) -> list[Comparison]:
    """As `load_pairs`: each row as a list of six with uid ``rmbench_list/<domain>/<id>``.

    The three right ones are the best. Meta has `styles`: for each response the index into
    `chosen`, or 3 more than the index into `rejected`.
    """
    return collect(
        (where, _list(where, domain, row))
        for where, domain, row in _rows("rmbench_list", data_dir)
    )


def _rows(suite: str, data_dir: str | os.PathLike) -> Iterator[tuple[str, str, dict]]:
    bases = [Path(data_dir) / "rmbench", Path(data_dir)]
    names = {domain: f"{domain}_filtered.json" for domain in ROWS}
    base = next((b for b in bases if any((b / name).is_file() for name in names.values())), None)
    if base is None:
        expected = bases[0] / "<domain>_filtered.json"
        raise MissingFiles(f"{suite}: expected the files {expected} (or {bases[1]}/...)")
    for domain, name in names.items():
        if (base / name).is_file():
            for where, row in read_objects(base / name):
                yield where, domain, row


def _sides(where: str, row: dict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    sides = texts(where, row, "chosen"), texts(where, row, "rejected")
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        if len(side) != STYLES:
            raise FieldError(where, name, f"expected {STYLES} responses, got {len(side)}")
    return sides


def _pairs(where: str, domain: str, row: dict) -> Iterator[Comparison]:
    chosen, rejected = _sides(where, row)
    name = f"rmbench/{domain}/{require(where, row, 'id', int)}"
    messages = (Message("user", require(where, row, "prompt", str)),)
    for i in range(STYLES):
        for j in range(STYLES):
            uid = f"{name}/{i}-{j}"
            answers, rewards = with_best(uid, chosen[i], [rejected[j]])
            meta = {"row": name, "chosen": i, "rejected": j}
            yield located(where, uid, messages, answers, rewards, domain, meta, query="prompt")


def _list(where: str, domain: str, row: dict) -> Comparison:
    chosen, rejected = _sides(where, row)
    uid = f"rmbench_list/{domain}/{require(where, row, 'id', int)}"
    shift = place_of(uid, 2 * STYLES)
    styles = [(shift + i) % (2 * STYLES) for i in range(2 * STYLES)]
    both = chosen + rejected
    return located(
        where,
        uid,
        (Message("user", require(where, row, "prompt", str)),),
        tuple(both[style] for style in styles),
        tuple(float(style < STYLES) for style in styles),
        domain,
        {"styles": styles},
        several_best=True,
        query="prompt",
    )
