"""RewardBench 2 (allenai/reward-bench-2): one right response and three wrong ones, and Ties.

The suite is the split ``test``: 1,865 rows. Columns read: `id`, `prompt`, `chosen` and `rejected`
(lists), `subset`. A row of Ties has several right responses, and its id says which half of its
prompt it is: ``ref:n`` has one right response, ``tied:n`` asks the same with several.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from grm_jax.benchmarks.files import name_of, place_of, read_tables, texts
from grm_jax.benchmarks.suite import Column, Metric, Suite, each_row, each_subset, row_of
from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import Placed, located, one_of, one_turn
from grm_jax.data.source import Source

# From a data card; the rows themselves were not at hand.
ROWS = {
    "Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, "Ties": 102
}  # fmt: skip
SOURCES = {"rewardbench2": Source("allenai/reward-bench-2", ("*.parquet",))}


def read(data_dir: Path) -> Placed:
    """Reads ``test*`` in `data_dir`/rewardbench2, or in `data_dir` itself, in its order.

    Each row has uid ``rewardbench2/<id>`` and its subset. The right responses keep their order and
    stand together at a hashed place. In Ties meta has `half` ("ref" or "tied") and `prompt`, and
    both halves of a prompt are one `row`.
    """
    for where, row in read_tables(data_dir, "rewardbench2", "test"):
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
        messages = one_turn(where, row, "prompt")
        yield where, located(
            where, uid, messages, answers, rewards, subset, meta,
            several_best=len(chosen) > 1, query="prompt",
        )  # fmt: skip


class Margins(NamedTuple):
    """Margins of scores of one prompt with right and wrong responses; NaN without scores.

    Attributes:
        apart: the lowest right score minus the highest wrong one.
        spread: the highest right score minus the lowest right one.
    """

    apart: float
    spread: float


def margins(scores: ArrayLike, right: ArrayLike) -> Margins:
    """`Margins` of scores [N] of which `right` [N] (bool) are right."""
    scores, right = np.asarray(scores, np.float64), np.asarray(right, bool)
    good, bad = scores[right], scores[~right]
    return Margins(float(good.min() - bad.max()), float(np.ptp(good)))


def ties_score(reference: ArrayLike, tied: ArrayLike, spread: ArrayLike) -> np.ndarray:
    """float64 [...]: RewardBench 2, what each prompt of Ties adds to the mean.

    Both halves of a prompt must be ranked right (0.3 each); several right responses should differ
    by less than they stand above the wrong ones (0.2), and above those of the harder half (0.2);
    0.01 for how much less. Official: `rewardbench/utils.py`, process_single_model, whose mean over
    prompts equals this one where every prompt has both halves.

    Args:
        reference: [...] `Margins.apart` of the half with one right response.
        tied, spread: [...] `apart` and `spread` of the half with several.
    """
    reference, tied, spread = (np.asarray(x, np.float64) for x in (reference, tied, spread))
    smaller = np.minimum(reference, tied)
    with np.errstate(divide="ignore", invalid="ignore"):
        graded = np.nan_to_num(np.tanh(smaller / spread - 1), nan=0.0)
    return (
        0.3 * (tied > 0) + 0.3 * (reference > 0)
        + 0.2 * (tied > spread) + 0.2 * (smaller > spread) + 0.01 * graded
    )  # fmt: skip


def _values(comparisons, outcome):
    """Credits, and for a prompt of Ties the mean over subsets of what both of its halves earn."""
    members = each_row(comparisons)
    values = np.array([outcome.credits_C[row[0]] for row in members])
    ties = [i for i, row in enumerate(members) if comparisons[row[0]].subset == "Ties"]
    if not ties:
        return {"": values}
    if outcome.totals_MCN is None:
        return {}
    for i in ties:
        half = {comparisons[c].meta["half"]: c for c in members[i]}
        if len(half) < 2:
            raise ValueError(f"rewardbench2: {row_of(comparisons[members[i][0]])!r} has one half")
        apart, spread = {}, {}
        for name, c in half.items():
            n = comparisons[c].n
            right = np.isin(np.arange(n), comparisons[c].winners)
            by_subset = [margins(scores_N[:n], right) for scores_N in outcome.totals_MCN[:, c]]
            apart[name], spread[name] = (np.array(x) for x in zip(*by_subset, strict=True))
        values[i] = ties_score(apart["ref"], apart["tied"], spread["tied"]).mean()
    return {"": values}


METRIC = Metric(
    (*each_subset(ROWS), Column("mean", dict.fromkeys(ROWS, 1.0))),
    "mean", _values, each_row, needs=("totals_MCN",),
    note="one list; Ties: by scores of both halves of a prompt; mean: of the six subsets",
)  # fmt: skip
SUITES = (Suite("rewardbench2", read, ROWS, METRIC, SOURCES),)
