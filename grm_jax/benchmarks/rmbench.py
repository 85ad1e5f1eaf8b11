"""RM-Bench (THU-KEG/RM-Bench): three right and three wrong responses, alike but for their style.

The suite is the files ``<domain>_filtered.json``, 1,327 rows. Columns read: `id` (it restarts in
every file), `prompt`, `chosen` and `rejected` (three strings each: concise, detailed plain text,
detailed Markdown). Two forms: the nine pairs of a row, as in the benchmark, and its six responses
as one list, which a pointwise model can score at once. Domains without a file are left out.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from grm_jax.benchmarks import rules
from grm_jax.benchmarks.files import find_base, place_of, texts, with_best
from grm_jax.benchmarks.suite import Column, Metric, Suite, each_row, mean_of_sections, row_of
from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import Placed, located, one_turn, read_objects, require
from grm_jax.data.source import Source

ROWS = {
    "chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157
}  # fmt: skip
# `scripts/utils.py`: rows of both kinds of safety are pooled.
SECTIONS = {
    "chat": {"chat": 1}, "math": {"math": 1}, "code": {"code": 1},
    "safety": {s: ROWS[s] for s in ("safety-refuse", "safety-response")},
}  # fmt: skip
STYLES = 3  # concise, detailed, detailed in Markdown
SOURCES = {
    "rmbench": Source("THU-KEG/RM-Bench", ("data/*.json",), "73c52d7", root="data/", host="github")
}


def read_pairs(data_dir: Path) -> Placed:
    """Reads the files of `data_dir`/rmbench, or of `data_dir` itself, domain by domain.

    A pair has uid ``rmbench/<domain>/<id>/<i>-<j>``, ``rmbench/<domain>/<id>`` as `row`, the
    domain as subset, and in meta `chosen` and `rejected`, the styles i and j.
    """
    for where, domain, row in _rows(data_dir):
        chosen, rejected = _sides(where, row)
        name = f"rmbench/{domain}/{require(where, row, 'id', int)}"
        messages = one_turn(where, row, "prompt")
        for i, j in itertools.product(range(STYLES), repeat=2):
            uid = f"{name}/{i}-{j}"
            answers, rewards = with_best(uid, chosen[i], [rejected[j]])
            meta = {"row": name, "chosen": i, "rejected": j}
            yield (
                where,
                located(where, uid, messages, answers, rewards, domain, meta, query="prompt"),
            )


def read_lists(data_dir: Path) -> Placed:
    """As `read_pairs`: each row as a list of six with uid ``rmbench_list/<domain>/<id>``.

    The three right ones are the best. Meta has `styles`: for each response the index into
    `chosen`, or 3 more than the index into `rejected`.
    """
    for where, domain, row in _rows(data_dir):
        both = sum(_sides(where, row), ())
        uid = f"rmbench_list/{domain}/{require(where, row, 'id', int)}"
        shift = place_of(uid, 2 * STYLES)
        styles = [(shift + i) % (2 * STYLES) for i in range(2 * STYLES)]
        yield where, located(
            where, uid, one_turn(where, row, "prompt"), tuple(both[style] for style in styles),
            tuple(float(style < STYLES) for style in styles), domain, {"styles": styles},
            several_best=True, query="prompt",
        )  # fmt: skip


def _rows(data_dir: Path) -> Iterator[tuple[str, str, dict]]:
    names = {domain: f"{domain}_filtered.json" for domain in ROWS}
    base = find_base(data_dir, "rmbench", names.values())
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


def style_cells(
    credits: ArrayLike, row_of: ArrayLike, chosen: ArrayLike, rejected: ArrayLike
) -> np.ndarray:
    """[R, 3, 3]: the credit of chosen style i against rejected style j.

    Raises:
        ValueError: a row without exactly one pair for each cell.
    """
    credits_C, row_C = np.asarray(credits, np.float64), np.asarray(row_of)
    cells = np.full((row_C.max() + 1, STYLES, STYLES), np.nan)
    cells[row_C, chosen, rejected] = credits_C
    if np.isnan(cells).any() or cells.size != credits_C.size:
        raise ValueError("rmbench: a row has not exactly nine pairs")
    return cells


def style_cells_of_lists(scores: ArrayLike, styles: ArrayLike) -> np.ndarray:
    """[..., R, 3, 3]: judged as lists: 1 where chosen i is strictly above rejected j.

    Args:
        scores: [..., R, 6]; NaN (no verdict) is above nothing.
        styles: [R, 6] which of the six each one is, the chosen ones first.
    """
    order = np.argsort(np.asarray(styles), axis=-1)
    scores = np.asarray(scores, np.float64)
    sorted_ = np.take_along_axis(scores, np.broadcast_to(order, scores.shape), axis=-1)
    return (sorted_[..., :STYLES, None] > sorted_[..., None, STYLES:]).astype(np.float64)


def style_parts(cells: ArrayLike) -> dict[str, np.ndarray]:
    """`compute_accuracy`, row by row: [...] values of easy, normal, hard and all nine.

    hard: a plainer chosen response against a fancier rejected one, above the diagonal; easy: below
    it. Rows and then the three (equally many) cells are averaged, so all = mean of the others.
    """
    cells = np.asarray(cells, np.float64)
    upper, lower = np.triu_indices(STYLES, 1), np.tril_indices(STYLES, -1)
    return {
        "easy": cells[..., lower[0], lower[1]].mean(axis=-1),
        "normal": np.diagonal(cells, axis1=-2, axis2=-1).mean(axis=-1),
        "hard": cells[..., upper[0], upper[1]].mean(axis=-1),
        "all": cells.mean(axis=(-2, -1)),
    }


def _of_pairs(comparisons, outcome):
    row_C = rules.numbered([row_of(c) for c in comparisons])
    chosen, rejected = ([c.meta[name] for c in comparisons] for name in ("chosen", "rejected"))
    return style_parts(style_cells(outcome.credits_C, row_C, chosen, rejected))


def _of_lists(comparisons, outcome):
    if outcome.totals_MCN is None:
        return {}
    styles = [c.meta["styles"] for c in comparisons]
    scores = outcome.totals_MCN[..., : 2 * STYLES]
    return style_parts(style_cells_of_lists(scores, styles).mean(axis=0))


COLUMNS = (
    *(Column(section, weights, "all") for section, weights in SECTIONS.items()),
    *(Column(part, mean_of_sections(SECTIONS), part) for part in ("easy", "normal", "hard")),
    Column("RM-Bench", mean_of_sections(SECTIONS), "all"),
)
METRIC = Metric(
    COLUMNS, "RM-Bench", _of_pairs, each_row,
    note="nine pairs a row; hard: plain chosen against fancy rejected, easy: the other way",
)  # fmt: skip
LIST_METRIC = Metric(
    COLUMNS, "RM-Bench", _of_lists, needs=("totals_MCN",),
    note="six responses in one prompt, each chosen one strictly above each rejected one; the "
    "benchmark compares pairs",
)  # fmt: skip
SUITES = (
    Suite("rmbench", read_pairs, ROWS, METRIC, SOURCES),
    Suite("rmbench_list", read_lists, ROWS, LIST_METRIC, SOURCES),
)
