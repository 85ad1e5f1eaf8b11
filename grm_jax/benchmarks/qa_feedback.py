"""QA-Feedback (allenai/FineGrainedRLHF): four long answers to a question, compared in pairs.

The file and its keys are described in `grm_jax.data.training_sets.qa_feedback`. These suites are
the part of its questions that our own split keeps for the test, as lists of four and as pairs; ties
that people stated are counted and not judged. Each comparison has the reference.
"""

from collections.abc import Iterator
from pathlib import Path

from grm_jax.benchmarks.files import find_file
from grm_jax.benchmarks.suite import Metric, Suite
from grm_jax.data.reading import Placed, read_objects
from grm_jax.data.source import Source
from grm_jax.data.training_sets import qa_feedback
from grm_jax.data.training_sets.rows import part_of

(FILE,) = qa_feedback.FILES
ROWS = {"": 149}  # counted in the file of this commit
SOURCES = {
    "qa_feedback": Source(
        "allenai/FineGrainedRLHF", (f"tasks/qa_feedback/data/{FILE}",), "a1469d4",
        root="tasks/qa_feedback/data/", folder="qa_feedback", host="github",
    )
}  # fmt: skip


def read_lists(data_dir: Path) -> Placed:
    """Reads the file in `data_dir`/qa_feedback, or in `data_dir` itself, in its order.

    A list has uid ``qa_feedback/<row>`` (rows counted from 0). Questions of other parts are passed
    over, here and below. Of predictions with equally many wins all are best.
    """
    for where, number, row in _rows(data_dir):
        uid, names = f"qa_feedback/{number}", qa_feedback.PREDICTIONS
        yield where, qa_feedback.comparison(where, uid, row, names, several_best=True)


def read_pairs(data_dir: Path) -> Placed:
    """As `read_lists`, as six pairs, ``qa_feedback_pairs/<row>/<pair>``, with the list as `row`."""
    for where, number, row in _rows(data_dir):
        name = f"qa_feedback_pairs/{number}"
        for i, names in enumerate(qa_feedback.PAIRS):
            yield where, qa_feedback.comparison(
                where, f"{name}/{i}", row, names, several_best=True, meta={"row": name}
            )  # fmt: skip


def _rows(data_dir: Path) -> Iterator[tuple[str, int, dict]]:
    for number, (where, row) in enumerate(read_objects(find_file(data_dir, "qa_feedback", FILE))):
        if part_of(where, row, "question") == "test":
            yield where, number, row


METRIC = Metric(note="all four in one prompt; right if one that won most of its pairs is top")
SUITES = (
    Suite("qa_feedback", read_lists, ROWS, METRIC, SOURCES),
    Suite("qa_feedback_pairs", read_pairs, ROWS, sources=SOURCES),
)
