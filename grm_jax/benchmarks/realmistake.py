"""ReaLMistake (psunlpgroup/ReaLMistake): single responses, with or without a mistake.

The suite is six JSONL files in ``data.zip``, 900 responses. Fields read: `input` (the whole
prompt), `llm_response`, `error_label` ("error" or "no_error"), `error_categories`. The authors ask
that examples be kept out of plain text: the archive is read in memory only, errors never quote a
text, and `Suite.private` keeps the rows off every page.
"""

import lzma
import zipfile
import zlib
from pathlib import Path

from grm_jax.benchmarks.files import find_file
from grm_jax.benchmarks.suite import Suite
from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import Placed, located, one_turn, parse_lines, require, strings
from grm_jax.data.source import Source

PASSWORD = b"open-realmistake"  # from the README of the repository: against crawlers, no secret
TASKS = (
    "math_word_problem_generation", "finegrained_fact_verification", "answerability_classification"
)  # fmt: skip
MODELS = {"gpt-4-0613": 140, "Llama-2-70b-chat-hf": 160}
ROWS = {f"{task}/{model}": rows for task in TASKS for model, rows in MODELS.items()}
LABELS = ("no_error", "error")
SOURCES = {
    "realmistake": Source("psunlpgroup/ReaLMistake", ("data.zip",), "f94a8b9", host="github")
}
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def read(data_dir: Path) -> Placed:
    """Reads data.zip of `data_dir`/realmistake, or of `data_dir` itself, task by task.

    Each response has uid ``realmistake/<task>/<model>/<line>``, ``<task>/<model>`` as subset, and
    label 1 where there is no error.
    """
    path = find_file(data_dir, "realmistake", "data.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            for subset in ROWS:
                yield from _rows(path, archive, subset)
    except DAMAGED as error:
        raise ValueError(f"{path}: damaged, or locked with another password: {error}") from None


def _rows(path: Path, archive: zipfile.ZipFile, subset: str) -> Placed:
    inner = f"data/{subset}.jsonl"
    if inner not in archive.namelist():
        raise ValueError(f"{path}: expected the file {inner} in it")
    with archive.open(inner, pwd=PASSWORD) as file:
        for number, (where, row) in enumerate(parse_lines(f"{path}/{inner}", file)):
            if not isinstance(row, dict):
                raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
            label = require(where, row, "error_label", str)
            if label not in LABELS:
                raise FieldError(where, "error_label", f"is not one of {LABELS}")
            yield where, located(
                where, f"realmistake/{subset}/{number}", one_turn(where, row, "input"),
                strings(where, row, "llm_response"), (float(label == "no_error"),), subset,
                {"error_categories": row.get("error_categories")}, query="input",
            )  # fmt: skip


SUITES = (Suite("realmistake", read, ROWS, sources=SOURCES, private=True),)
