"""The official scoring rules, as arithmetic on scores and verdicts. Numpy only, no model.

Nothing here draws or votes: the arrays may come from trajectories, from a scalar reward model or
from a published result file. Shape letters: C comparisons, R rows of a benchmark, N responses.

A *verdict* on two responses is FIRST, SECOND, TIE or NONE (nothing to read), of the responses as
the data name them, whatever the order they were shown in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

FIRST, SECOND, TIE, NONE = range(4)
STYLES = 3  # RM-Bench: concise, detailed, detailed in Markdown


def weighted_mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """The mean of subsets with the benchmark's weights; None where a subset is missing.

    RewardBench (`rewardbench/utils.py`, calculate_scores_per_section) and every mean of sections.
    A missing subset gives no number: the rest is not the benchmark.
    """
    if not weights.keys() <= values.keys():
        return None
    return sum(values[name] * weight for name, weight in weights.items()) / sum(weights.values())


def of_rows(rows: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """(names of the R rows in order of appearance, [C] the row of each comparison)."""
    names = list(dict.fromkeys(rows))
    place = {name: r for r, name in enumerate(names)}
    return names, np.array([place[name] for name in rows], np.int64)


def all_of_a_row(credits: ArrayLike, row_of: ArrayLike) -> np.ndarray:
    """[R]: a row is right if all of its pairs are (RMB best-of-N as n - 1 pairs).

    Credits [C] are chances, of pairs that were judged independently: their product is the chance.
    """
    credits_C, row_C = np.asarray(credits, np.float64), np.asarray(row_of)
    product_R = np.ones(row_C.max() + 1)
    np.multiply.at(product_R, row_C, credits_C)
    return product_R


def style_cells(
    credits: ArrayLike, row_of: ArrayLike, chosen: ArrayLike, rejected: ArrayLike
) -> np.ndarray:
    """[R, 3, 3]: RM-Bench, the credit of chosen style i against rejected style j.

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
    """[..., R, 3, 3]: RM-Bench judged as lists: 1 where chosen i is strictly above rejected j.

    Args:
        scores: [..., R, 6]; NaN (no verdict) is above nothing.
        styles: [R, 6] which of the six each one is, the chosen ones first.
    """
    order = np.argsort(np.asarray(styles), axis=-1)
    scores = np.asarray(scores, np.float64)
    sorted_ = np.take_along_axis(scores, np.broadcast_to(order, scores.shape), axis=-1)
    return (sorted_[..., :STYLES, None] > sorted_[..., None, STYLES:]).astype(np.float64)


def style_parts(cells: ArrayLike) -> dict[str, np.ndarray]:
    """RM-Bench `compute_accuracy`, row by row: [...] values of easy, normal, hard and all nine.

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


def verdicts(scores: ArrayLike) -> np.ndarray:
    """int [...]: the verdict of two scores [..., 2]; NONE where one is NaN."""
    scores = np.asarray(scores, np.float64)
    first, second = scores[..., 0], scores[..., 1]
    found = np.where(first > second, FIRST, np.where(second > first, SECOND, TIE))
    return np.where(np.isnan(first) | np.isnan(second), NONE, found)


def shares(found: ArrayLike) -> np.ndarray:
    """float64 [C, 4]: how often each verdict was given, of verdicts [M, C]."""
    found_MC = np.asarray(found)
    return np.stack([(found_MC == verdict).mean(axis=0) for verdict in range(4)], axis=-1)


def right_in_sum(game_1: ArrayLike, game_2: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """bool: JudgeBench `compute_final_metrics`, a pair judged once in either order.

    A verdict counts +1 for the better response, -1 for the other, 0 for a tie or none; right is a
    sum above 0. So right + tie is right, and right + wrong is not. Arguments are verdicts, and
    `gold` is FIRST or SECOND; any shapes that broadcast.
    """
    gold = np.asarray(gold)
    signed = [
        np.where(game == gold, 1, np.where(game == 1 - gold, -1, 0))
        for game in (np.asarray(game_1), np.asarray(game_2))
    ]
    return signed[0] + signed[1] > 0


def right_in_both(game_1: ArrayLike, game_2: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """bool: auto-j's agreement, the gold verdict (FIRST, SECOND or TIE) in both orders."""
    return (np.asarray(game_1) == gold) & (np.asarray(game_2) == gold)


def same_in_both(game_1: ArrayLike, game_2: ArrayLike, gold: ArrayLike = FIRST) -> np.ndarray:
    """bool: auto-j's consistency, one verdict in both orders; no verdict is none."""
    game_1, game_2, _ = np.broadcast_arrays(game_1, game_2, gold)
    return (game_1 == game_2) & (game_1 != NONE)


def chance_of(rule, shares_1: ArrayLike, shares_2: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """float64 [C]: the chance of one of the three rules above for two games judged apart.

    Args:
        shares_1, shares_2: [C, 4] of `shares`, one game an order; gold: verdicts [C].
    """
    table_C44 = rule(
        np.arange(4)[None, :, None], np.arange(4)[None, None, :], np.asarray(gold)[:, None, None]
    )
    return np.einsum("ci,cj,cij->c", shares_1, shares_2, table_C44.astype(np.float64))


class ClassScores(NamedTuple):
    """Accuracy, and precision, recall and F1 as unweighted means over the classes: float64 [...]"""

    accuracy: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def confusion(shares_C4: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """float64 [C, 3, 4]: for each comparison, (gold, verdict) with the share of the verdict."""
    return np.eye(3)[np.asarray(gold)][:, :, None] * np.asarray(shares_C4)[:, None, :]


def class_scores(counts: ArrayLike) -> ClassScores:
    """PandaLM: scores over FIRST, SECOND and TIE from counts [..., 3, 4] of `confusion`.

    Macro averages as of scikit-learn, for which a class without verdicts has precision 0. No
    verdict is a wrong one of no class.
    """
    counts = np.asarray(counts, np.float64)
    hits = np.diagonal(counts[..., :3], axis1=-2, axis2=-1)
    said, true = counts[..., :3].sum(axis=-2), counts.sum(axis=-1)
    precision, recall = _ratio(hits, said), _ratio(hits, true)
    f1 = _ratio(2 * precision * recall, precision + recall)
    accuracy = hits.sum(axis=-1) / counts.sum(axis=(-2, -1))
    return ClassScores(accuracy, *(x.mean(axis=-1) for x in (precision, recall, f1)))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


class Margins(NamedTuple):
    """Of the scores of one prompt with right and wrong responses; NaN where it had no scores.

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

    Both halves of a prompt must be told apart (0.3 each); several right responses should differ by
    less than they stand above the wrong ones (0.2), also above those of the harder half (0.2); and
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
