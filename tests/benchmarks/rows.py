"""Made-up rows in the official format of each benchmark."""

import gzip
import itertools
import json
import zipfile

import pytest

from grm_jax.data.training_sets import evouna
from grm_jax.data.training_sets.rows import part_of


def write(path, rows):
    """Writes rows in the format that the ending of the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)


def lock(path, subsets, method=zipfile.ZIP_STORED):
    """An archive as that of ReaLMistake, but not encrypted, which zipfile cannot write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for subset, rows in subsets.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            archive.writestr(f"data/{subset}.jsonl", lines)


def judgebench_row(i, **changes):
    sources = ["mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"]
    row = {
        "pair_id": f"pair-{i}",
        "original_id": i if i % 4 == 0 else None,
        "source": sources[i % 4],
        "question": f"What is {i} + {i}?",
        "response_model": "a-model",
        "response_A": f"It is {2 * i}.",
        "response_B": f"It is {2 * i + 1}.",
        "label": "A>B" if i % 3 else "B>A",
    }
    return {**row, **changes}


def llmbar_row(i, **changes):
    row = {"input": f"Say {i}.", "output_1": f"{i}", "output_2": f"not {i}", "label": 1 + i % 2}
    return {**row, **changes}


def rewardbench_row(i, **changes):
    row = {"id": i, "prompt": f"Say {i}.", "chosen": f"{i}", "rejected": "no", "subset": "hep-go"}
    return {**row, **changes}


def rewardbench2_row(name, subset="Math", right=1, **changes):
    row = {
        "id": name, "prompt": "Name a colour.", "subset": subset,
        "chosen": [f"right {i}" for i in range(right)],
        "rejected": [f"wrong {i}" for i in range(3)],
    }  # fmt: skip
    return {**row, **changes}


def ppe_preference_row(i, winner="model_a", **changes):
    row = {
        "question_id": f"q{i}", "winner": winner, "prompt": "Hello?", "response_1": "one",
        "response_2": "two", "language": "English", "model_a": "x", "model_b": "y",
    }  # fmt: skip
    return {**row, **changes}


def ppe_correctness_row(i, **changes):
    row = {
        "question_id": f"q{i}", "prompt": f"Solve {i}.", "model_name": "m",
        "scores": [j % 4 == 0 for j in range(32)],
        "sampled_conflict_pairs": [[0, 1], [7, 4], [0, 1], [31, 28]],
        **{f"response_{j + 1}": f"answer {j}" for j in range(32)},
    }  # fmt: skip
    return {**row, **changes}


def rmb_pair_row(i, path="Pairwise_set/Harmlessness/S1", **changes):
    row = {
        "pair_uid": f"p{i}", "category_path": path,
        "conversation_input": [{"role": "user", "content": "Hello", "language": "English"}],
        "chosen": {"llm_name": "a", "answer": "good"},
        "reject": {"llm_name": "b", "answer": "bad"},
    }  # fmt: skip
    return {**row, **changes}


def rmb_list_row(i, path, losers=2, **changes):
    row = {
        "bon_uid": f"list-{path}-{i}",
        "conversation_input": [
            {"role": "user", "content": f"Hello {i}", "language": "English"},
            {"role": "assistant", "content": "Hello.", "language": None},
            {"role": "user", "content": "Count!", "language": "English"},
        ],
        "bon_best": {"llm_name": "best-model", "answer": f"one two {i}"},
        "loser_list": [{"llm_name": f"m{j}", "answer": f"{j} no"} for j in range(losers)],
        "category_path": path,
    }
    return {**row, **changes}


def rmbench_row(i, **changes):
    row = {
        "id": i, "prompt": f"Say {i}.", "chosen": [f"c{j}" for j in range(3)],
        "rejected": [f"r{j}" for j in range(3)],
    }  # fmt: skip
    return {**row, **changes}


def realmistake_row(label="error", **changes):
    row = {"input": "A task.", "llm_response": "SECRET", "error_label": label,
           "error_categories": []}  # fmt: skip
    return {**row, **changes}


def autoj_row(label, **changes):
    row = {"scenario": "math", "label": label, "prompt": "1 + 1?", "response 1": "2",
           "response 2": "3"}  # fmt: skip
    return {**row, **changes}


def pandalm_row(i, votes=(1, 1, 0), **changes):
    row = {
        "idx": i, "motivation_app": "x", "instruction": "Translate.", "input": "Haus",
        "response1": "house", "response2": "mouse",
        **{f"annotator{a + 1}": vote for a, vote in enumerate(votes)},
    }  # fmt: skip
    return {**row, **changes}


def asked(number, part="test"):
    """A question in a part of the sets that have no splits of their own."""
    name = f"Question {number}, "
    endings = (f"{name}{i}?" for i in itertools.count())
    return next(q for q in endings if part_of("here", {"question": q}, "question") == part)


def evouna_row(i, right=(1, 0, 1, 0, 0), **changes):
    row = {"question": asked(i), "golden_answer": "Leek soup/leek", "improper": False}
    for number, (system, judged) in enumerate(zip(evouna.SYSTEMS, right, strict=True)):
        row[f"answer_{system}"] = f"It is {'leek' if judged else 'pea'} {number}."
        row[f"judge_{system}"] = bool(judged)
    return {**row, **changes}


def qa_feedback_row(i, preference=(1, 1, 1, 0, 2, 2), **changes):
    row = {
        "question": asked(i), "passages": [["A title", "A sentence."]], "gold": "Leek soup.",
        **{f"prediction {p}": f"text {p}" for p in (1, 2, 3, 4)},
        "feedback": {"errors": []}, "preference": list(preference),
    }  # fmt: skip
    return {**row, **changes}


def own_row(**changes):
    return {"prompt": "q", "chosen": "a", "rejected": "b", **changes}
