"""PPE Correctness (lmarena-ai/PPE-*-Best-of-K): 32 responses a prompt, told right by a program.

The suite is the split ``train`` of five sets, 2,555 prompts. Columns read: `question_id`,
`prompt`, `model_name`, `scores` (32 booleans), `sampled_conflict_pairs` ([i, j], counted from 0)
and `response_1` ... `response_32` (counted from 1: response i of a pair is `response_{i+1}`).
Two forms: the sampled pairs, as in the paper (five a prompt; a pair that stands there twice is one
pair), and the list of 32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from grm_jax.data.benchmarks.files import MissingFiles, find_tables, name_of
from grm_jax.data.comparison import Comparison, FieldError, collect, located, read_objects, require
from grm_jax.text.prompts import Message

ROWS: Mapping[str, int] = {
    "MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "MBPP-Plus": 507, "IFEval": 512
}  # fmt: skip
K = 32


def load_pairs(data_dir: str | os.PathLike) -> list[Comparison]:
    """Reads ``train*`` in `data_dir`/ppe/<domain>, or in `data_dir`/<domain>.

    Folders are those of tools.download: mmlu_pro, math, gpqa, mbpp_plus, ifeval.
    A pair has uid ``ppe_correctness/<domain>/<question_id>/<i>-<j>``, its prompt as `row` and the
    domain as subset. A domain without a folder is left out, but not all of them.

    Raises:
      ValueError: no folder or no file; or a bad row, as ``path[row]: field 'x': ...``, such as a
        pair of two right or two wrong responses.
    """
    return collect(
        (where, comparison)
        for where, domain, row in _rows("ppe_correctness", data_dir)
        for comparison in _pairs(where, domain, row)
    )


def load_lists(data_dir: str | os.PathLike) -> list[Comparison]:
    """As `load_pairs`, all 32 responses of a prompt as one list; several of them are right.

    Each has uid ``ppe_best_of_k/<domain>/<question_id>``.
    """
    return collect(
        (where, _list(where, domain, row))
        for where, domain, row in _rows("ppe_best_of_k", data_dir)
    )


def _rows(suite: str, data_dir: str | os.PathLike) -> Iterator[tuple[str, str, dict]]:
    folders = {domain: domain.lower().replace("-", "_") for domain in ROWS}
    bases = [Path(data_dir) / "ppe", Path(data_dir)]
    base = next((b for b in bases if any((b / f).is_dir() for f in folders.values())), None)
    if base is None:
        names = ", ".join(folders.values())
        raise MissingFiles(f"{suite}: expected the folders {names} in {bases[0]} (or {bases[1]})")
    for domain, folder in folders.items():
        if (base / folder).is_dir():
            for path in find_tables(suite, base, folder, "train"):
                for where, row in read_objects(path):
                    yield where, domain, row


def _scores(where: str, row: dict) -> list[bool]:
    scores = require(where, row, "scores", list)
    if len(scores) != K or not all(type(score) is bool for score in scores):
        raise FieldError(where, "scores", f"expected {K} booleans")
    return scores


def _pairs(where: str, domain: str, row: dict) -> Iterator[Comparison]:
    name, scores = f"{domain}/{name_of(where, row, 'question_id')}", _scores(where, row)
    seen = []
    for p, pair in enumerate(require(where, row, "sampled_conflict_pairs", list)):
        field = f"sampled_conflict_pairs[{p}]"
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(i) is int for i in pair)):
            raise FieldError(where, field, "expected [i, j]")
        i, j = pair
        if not (0 <= i < K and 0 <= j < K) or scores[i] == scores[j]:
            raise FieldError(where, field, f"{pair} is no pair of a right and a wrong response")
        if {i, j} in seen:
            continue
        seen.append({i, j})
        yield located(
            where,
            f"ppe_correctness/{name}/{i}-{j}",
            (Message("user", require(where, row, "prompt", str)),),
            tuple(require(where, row, f"response_{x + 1}", str) for x in pair),
            tuple(float(scores[x]) for x in pair),
            domain,
            {"row": f"ppe_correctness/{name}", "model_name": row.get("model_name")},
            query="prompt",
        )


def _list(where: str, domain: str, row: dict) -> Comparison:
    scores = _scores(where, row)
    return located(
        where,
        f"ppe_best_of_k/{domain}/{name_of(where, row, 'question_id')}",
        (Message("user", require(where, row, "prompt", str)),),
        tuple(require(where, row, f"response_{x + 1}", str) for x in range(K)),
        tuple(map(float, scores)),
        domain,
        {"model_name": row.get("model_name")},
        several_best=scores.count(max(scores)) > 1,
        query="prompt",
    )
