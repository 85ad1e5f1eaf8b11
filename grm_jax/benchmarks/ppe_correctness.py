"""PPE Correctness (lmarena-ai/PPE-*-Best-of-K): 32 responses a prompt, checked by a program.

The suite is the split ``train`` of five sets, 2,555 prompts. Columns read: `question_id`,
`prompt`, `model_name`, `scores` (32 booleans), `sampled_conflict_pairs` ([i, j], counted from 0)
and `response_1` ... `response_32` (counted from 1: response i of a pair is `response_{i+1}`).
Two forms: the sampled pairs, as in the paper (five a prompt; a pair that stands there twice is one
pair), and the list of 32.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from grm_jax.benchmarks.files import find_base, name_of, read_tables
from grm_jax.benchmarks.suite import Column, Metric, Suite, each_subset
from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import Placed, located, one_turn, require, strings
from grm_jax.data.source import Source

ROWS = {
    "MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "MBPP-Plus": 507, "IFEval": 512
}  # fmt: skip
FOLDERS = {domain: domain.lower().replace("-", "_") for domain in ROWS}
K = 32
SOURCES = {
    f"ppe_{FOLDERS[domain]}": Source(
        f"lmarena-ai/PPE-{domain}-Best-of-K", ("*.parquet",), revision,
        folder=f"ppe/{FOLDERS[domain]}",
    )
    for domain, revision in (
        ("MMLU-Pro", "d3a309b"), ("MATH", "c46ce3c"), ("GPQA", "2f85cea"),
        ("IFEval", "a4f7fae"), ("MBPP-Plus", "afa8146"),
    )
}  # fmt: skip


def read_pairs(data_dir: Path) -> Placed:
    """Reads ``train*`` in `data_dir`/ppe/<domain>, or in `data_dir`/<domain>.

    Folders are those of tools.download: mmlu_pro, math, gpqa, mbpp_plus, ifeval.
    A pair has uid ``ppe_correctness/<domain>/<question_id>/<i>-<j>``, its prompt as `row` and the
    domain as subset. A domain without a folder is left out, but not all of them.
    A pair of two right or of two wrong responses is a bad row.
    """
    for where, domain, row in _rows(data_dir):
        name, scores = f"{domain}/{name_of(where, row, 'question_id')}", _scores(where, row)
        seen = []
        for p, pair in enumerate(require(where, row, "sampled_conflict_pairs", list)):
            field = f"sampled_conflict_pairs[{p}]"
            if not isinstance(pair, list) or [type(i) for i in pair] != [int, int]:
                raise FieldError(where, field, "expected [i, j]")
            i, j = pair
            if not (0 <= i < K and 0 <= j < K) or scores[i] == scores[j]:
                raise FieldError(where, field, f"{pair} is no pair of a right and a wrong response")
            if {i, j} in seen:
                continue
            seen.append({i, j})
            meta = {"row": f"ppe_correctness/{name}", "model_name": row.get("model_name")}
            yield where, located(
                where, f"ppe_correctness/{name}/{i}-{j}", one_turn(where, row, "prompt"),
                strings(where, row, *(f"response_{x + 1}" for x in pair)),
                tuple(float(scores[x]) for x in pair), domain, meta, query="prompt",
            )  # fmt: skip


def read_lists(data_dir: Path) -> Placed:
    """As `read_pairs`, all 32 responses of a prompt as one list; several of them are right.

    Each has uid ``ppe_best_of_k/<domain>/<question_id>``.
    """
    for where, domain, row in _rows(data_dir):
        scores = _scores(where, row)
        yield where, located(
            where, f"ppe_best_of_k/{domain}/{name_of(where, row, 'question_id')}",
            one_turn(where, row, "prompt"),
            strings(where, row, *(f"response_{x + 1}" for x in range(K))),
            tuple(map(float, scores)), domain, {"model_name": row.get("model_name")},
            several_best=scores.count(max(scores)) > 1, query="prompt",
        )  # fmt: skip


def _rows(data_dir: Path) -> Iterator[tuple[str, str, dict]]:
    base = find_base(data_dir, "ppe", FOLDERS.values(), "folder")
    for domain, folder in FOLDERS.items():
        if (base / folder).is_dir():
            for where, row in read_tables(base, folder, "train"):
                yield where, domain, row


def _scores(where: str, row: dict) -> list[bool]:
    scores = require(where, row, "scores", list)
    if len(scores) != K or not all(type(score) is bool for score in scores):
        raise FieldError(where, "scores", f"expected {K} booleans")
    return scores


METRIC = Metric(
    (*each_subset(ROWS), Column("mean", dict.fromkeys(ROWS, 1.0))), "mean",
    note="mean: of the five domains",
)  # fmt: skip
LIST_METRIC = dataclasses.replace(
    METRIC, note="one list of 32: right if the response at the top is right"
)
SUITES = (
    Suite("ppe_correctness", read_pairs, ROWS, METRIC, SOURCES),
    Suite("ppe_best_of_k", read_lists, ROWS, LIST_METRIC, SOURCES),
)
