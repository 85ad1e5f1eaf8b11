"""QA-Feedback (allenai/FineGrainedRLHF): lists of four long answers, compared by people in pairs.

``dev_feedback.json`` has 500 questions. Keys read: `question`, `gold` (a right answer, which
becomes the reference), `prediction 1` to `prediction 4`, and `preference`, for each of `PAIRS` 0
(equal), 1 (the first is better) or 2 (the second). The reward of an answer is the number of pairs
that it won, and half of those it tied. The passages, some thousand words a question, are not shown.

The set has no splits: `rows.part_of` makes them. Predictions stand in an order by hash, because the
first of the file is the best in most rows.
"""

import functools

from grm_jax.data.comparison import Comparison, FieldError
from grm_jax.data.reading import located, one_turn, require
from grm_jax.data.training_sets import rows

FILES = ("dev_feedback.json",)
PREDICTIONS = tuple(f"prediction {i}" for i in range(1, 5))
PAIRS = tuple((a, b) for i, a in enumerate(PREDICTIONS) for b in PREDICTIONS[i + 1 :])
SHARES = {0: (0.5, 0.5), 1: (1.0, 0.0), 2: (0.0, 1.0)}


def outcomes(where: str, row: rows.Row) -> dict[tuple[str, str], tuple[float, float]]:
    """What either prediction earned in each of `PAIRS`."""
    stated = require(where, row, "preference", list)
    if len(stated) != len(PAIRS) or not all(type(x) is int and x in SHARES for x in stated):
        problem = f"expected {len(PAIRS)} of the integers {[*SHARES]}"
        raise FieldError(where, "preference", problem)
    return dict(zip(PAIRS, (SHARES[x] for x in stated), strict=True))


def comparison(
    where: str, uid: str, row: rows.Row, names: tuple[str, ...], several_best: bool, **named
) -> Comparison:
    """The comparison of some predictions by the pairs among them."""
    earned = dict.fromkeys(rows.shuffled(require(where, row, "question", str), names), 0.0)
    for pair, shares in outcomes(where, row).items():
        if earned.keys() >= set(pair):
            for name, share in zip(pair, shares, strict=True):
                earned[name] += share
    best = max(earned.values())
    return located(
        where, uid, one_turn(where, row, "question"),
        [require(where, row, name, str) for name in earned], list(earned.values()),
        several_best=several_best and [*earned.values()].count(best) > 1,
        query="question", reference=require(where, row, "gold", str), **named,
    )  # fmt: skip


def _read(wanted: str, where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """One list, if the question is in the wanted part and one prediction is best."""
    if rows.part_of(where, row, "question") != wanted:
        raise rows.Unusable("another part")
    yield comparison(where, uid, row, PREDICTIONS, several_best=False, subset="qa_feedback")


READERS = {
    "qa_feedback": functools.partial(_read, "train"),
    "qa_feedback_development": functools.partial(_read, "development"),
}
