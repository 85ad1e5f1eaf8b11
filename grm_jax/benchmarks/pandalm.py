"""PandaLM (WeOpenML/PandaLM): pairs with the verdicts of three annotators, ties among them.

The suite is ``testset-v1.json``, 999 rows. Keys read: `idx`, `motivation_app`, `instruction`,
`input`, `response1`, `response2`, `annotator1` to `annotator3` (0: a tie; 1 and 2: the better
response). The gold is the verdict of the majority, which exists in every official row.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from grm_jax.benchmarks import rules
from grm_jax.benchmarks.files import find_file
from grm_jax.benchmarks.suite import Column, Metric, Outcome, Suite, Values
from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import Placed, located, one_of, read_objects, require, strings
from grm_jax.data.source import Source
from grm_jax.text.prompts import Message

FILE = "testset-v1.json"
ROWS = {"": 999}
REWARDS = {0: (1.0, 1.0), 1: (1.0, 0.0), 2: (0.0, 1.0)}
SOURCES = {
    "pandalm": Source(
        "WeOpenML/PandaLM", ("data/testset-v1.json",), "3871806", root="data/", host="github"
    )
}


def read(data_dir: Path) -> Placed:
    """Reads the file in `data_dir`/pandalm, or in `data_dir` itself, in its order.

    Each row has uid ``pandalm/<idx>``; the query is the instruction, and after an empty line the
    input if there is one. In a tie both responses are best. Meta has the three `annotators`.
    """
    for where, row in read_objects(find_file(data_dir, "pandalm", FILE)):
        votes = [one_of(where, row, f"annotator{i}", tuple(REWARDS)) for i in (1, 2, 3)]
        verdict, count = Counter(votes).most_common(1)[0]
        if count == 1:
            raise FieldError(where, "annotator1", f"the annotators {votes} have no majority")
        instruction, given = strings(where, row, "instruction", "input")
        query = f"{instruction}\n\n{given}" if given.strip() else instruction
        yield where, located(
            where, f"pandalm/{require(where, row, 'idx', int)}", (Message("user", query),),
            tuple(_text(where, row, name) for name in ("response1", "response2")),
            REWARDS[verdict], "", {"annotators": votes}, several_best=verdict == 0,
            query="instruction",
        )  # fmt: skip


def _text(where: str, row: dict, name: str) -> str:
    """A response. A few of the official file became JSON booleans on the way; "True" is meant."""
    if type(row.get(name)) is bool:
        return str(row[name])
    return require(where, row, name, str)


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
    """Scores over FIRST, SECOND and TIE from counts [..., 3, 4] of `confusion`.

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


def _cells(comparisons, outcome: Outcome) -> Values:
    """The 12 cells of `confusion` as parts, so that their means are resampled."""
    if outcome.totals_MCN is None:
        return {}
    shares_C4 = rules.shares(rules.verdicts(outcome.totals_MCN[..., :2]))
    counts = confusion(shares_C4, rules.golds(comparisons)).reshape(-1, 12)
    return {str(i): counts[:, i] for i in range(12)}


def _column(name: str, score: str) -> Column:
    def combine(means: np.ndarray) -> np.ndarray:
        return getattr(class_scores(means.reshape(*means.shape[:-1], 3, 4)), score)

    return Column(name, {"": 1.0}, combine=combine)


METRIC = Metric(
    (_column("three classes", "accuracy"), _column("precision", "precision"),
     _column("recall", "recall"), _column("F1", "f1")),
    "F1", _cells, needs=("totals_MCN",),
    note="first, second or tie against the majority of three people; precision, recall and F1 "
    "are means over the three classes; accuracy is over the rows without a tie of people",
)  # fmt: skip
SUITES = (Suite("pandalm", read, ROWS, METRIC, SOURCES, ties_judged=True),)
