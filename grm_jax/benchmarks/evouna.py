"""EVOUNA (wangcunxiang/QA-Eval): answers to questions, called right or wrong by people.

The file and its keys are described in `grm_jax.data.training_sets.evouna`. These suites are the
part of its questions that our own split keeps for the test, in three forms: every pair of a right
and a wrong answer, the list of all answers, of which several may be right, and each answer alone.
Each comparison has the reference.
"""

from collections.abc import Iterator
from pathlib import Path

from grm_jax.benchmarks.files import find_file
from grm_jax.benchmarks.suite import Metric, Suite
from grm_jax.data.reading import Placed, read_objects
from grm_jax.data.source import Source
from grm_jax.data.training_sets import evouna
from grm_jax.data.training_sets.rows import part_of

(FILE,) = evouna.FILES
# Counted in the file of this commit: questions with a pair; questions; answers by system.
PAIR_ROWS = {"": 471}
LIST_ROWS = {"": 912}
SINGLE_ROWS = dict.fromkeys(evouna.SYSTEMS, 912)
SOURCES = {
    "evouna": Source(
        "wangcunxiang/QA-Eval", (f"EVOUNA/{FILE}",), "90007d3", root="EVOUNA/", folder="evouna",
        host="github",
    )
}  # fmt: skip


def read_pairs(data_dir: Path) -> Placed:
    """Reads the file in `data_dir`/evouna, or in `data_dir` itself, in its order.

    A pair has uid ``evouna_pairs/<row>/<systems>`` (rows counted from 0), and its question as
    `row`. Improper questions and those of other parts are passed over, here and below.
    """
    for where, number, row in _rows(data_dir):
        for shown in evouna.pairs(evouna.labels(where, row)):
            name, systems = f"evouna_pairs/{number}", "-".join(shown)
            meta = {"row": name, "systems": shown}
            yield where, evouna.comparison(where, f"{name}/{systems}", row, shown, meta=meta)


def read_lists(data_dir: Path) -> Placed:
    """As `read_pairs`, all answers to a question as one list, ``evouna_lists/<row>``."""
    for where, number, row in _rows(data_dir):
        shown = [*evouna.labels(where, row)]
        yield where, evouna.comparison(
            where, f"evouna_lists/{number}", row, shown, meta={"systems": shown},
            several_best=True,
        )  # fmt: skip


def read_singles(data_dir: Path) -> Placed:
    """As `read_pairs`, each answer alone, ``evouna_singles/<row>/<system>``; subset: the system."""
    for where, number, row in _rows(data_dir):
        for (system,) in evouna.singles(evouna.labels(where, row)):
            uid = f"evouna_singles/{number}/{system}"
            yield where, evouna.comparison(where, uid, row, [system], system)


def _rows(data_dir: Path) -> Iterator[tuple[str, int, dict]]:
    for number, (where, row) in enumerate(read_objects(find_file(data_dir, "evouna", FILE))):
        if not evouna.is_improper(where, row) and part_of(where, row, "question") == "test":
            yield where, number, row


LIST_METRIC = Metric(note="all answers in one prompt; right if one that people call right is top")
SUITES = (
    Suite("evouna_pairs", read_pairs, PAIR_ROWS, sources=SOURCES),
    Suite("evouna_lists", read_lists, LIST_ROWS, LIST_METRIC, SOURCES),
    Suite("evouna_singles", read_singles, SINGLE_ROWS, sources=SOURCES),
)
