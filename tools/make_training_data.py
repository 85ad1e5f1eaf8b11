"""Makes a few made-up rows of every training set, in the formats they are published in.

    python -m tools.make_training_data --out=runs/tiny/data

So that recipes can be walked on a laptop (`:runlocal`) before anything is downloaded. Texts come
from the small world and mean nothing. Needs pyarrow, of the extra `data`.
"""

import gzip
import itertools
import json
import pathlib
from collections.abc import Sequence

from grm_jax.data.comparison import Comparison
from grm_jax.data.small_world import SmallWorld, SmallWorldConfig
from grm_jax.data.training_sets.evouna import SYSTEMS
from grm_jax.data.training_sets.qa_feedback import PAIRS, PREDICTIONS
from grm_jax.data.training_sets.rows import PARTS, part_of
from grm_jax.models import hub
from tools import make_parser, run_program, user_path

ROWS = 12


def _turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def _asked(number: int) -> str:
    """A question, of which every part of a set without splits has some."""
    endings = (f"What is {number} plus 1, {word}?" for word in itertools.count())
    wanted = PARTS[number % len(PARTS)]
    return next(q for q in endings if part_of("made up", {"question": q}, "question") == wanted)


def _rows(c: Comparison, number: int) -> dict[str, dict]:
    """A row of every set, by the path of its file."""
    query, (first, second) = c.messages[-1].content, c.responses[:2]
    asked, preference = _turn("user", query), number % 7 - 3
    return {
        "ultrafeedback/made_up.jsonl": {
            "source": "made_up", "instruction": query,
            "completions": [
                {"model": "made_up", "response": text, "fine-grained_score": float(reward),
                 "overall_score": 5.0}
                for text, reward in zip(c.responses, c.rewards, strict=True)
            ],
        },
        "offsetbias/train.jsonl": {
            "instruction": query, "output_1": first, "output_2": second, "label": 1 + number % 2,
        },
        "skywork/train.parquet": {
            "chosen": [asked, _turn("assistant", first)],
            "rejected": [asked, _turn("assistant", second)], "source": "made_up",
        },
        "helpsteer2/preference.jsonl.gz": {
            "split": "train", "prompt": query, "response_1": first, "response_2": second,
            "preference_strength": preference,
        },
        "helpsteer3/train.jsonl.gz": {
            "domain": "general", "language": "english", "context": [asked], "response1": first,
            "response2": second, "overall_preference": preference,
        },
        "math/train.jsonl": {
            "problem": f"What is {number} plus 1?", "type": "Addition",
            "solution": rf"It is \boxed{{{number + 1}}}.",
            "responses": [rf"So it is \boxed{{{number + extra}}}." for extra in (1, 0, 2)],
        },
        "evouna/NQ.json": {
            "question": _asked(number), "golden_answer": f"{number + 1}", "improper": False,
            **{f"answer_{name}": f"It is {number + 1 + i % 3}." for i, name in enumerate(SYSTEMS)},
            **{f"judge_{name}": i % 3 == 0 for i, name in enumerate(SYSTEMS)},
        },
        "qa_feedback/dev_feedback.json": {
            "question": _asked(number), "passages": [], "gold": f"It is {number + 1}.",
            **{name: f"It is {number + 1 + i}." for i, name in enumerate(PREDICTIONS)},
            "feedback": {}, "preference": [1] * len(PAIRS),
        },
        "general/general.jsonl": {
            "messages": [_turn("user", f"Say {number}."), _turn("assistant", f"{number}.")],
        },
    }  # fmt: skip


def make(out: pathlib.Path, rows: int = ROWS) -> None:
    """Writes the folder `out`, one folder a set.

    Raises:
      FileExistsError: if `out` exists and is not empty.
    """
    world = SmallWorld(SmallWorldConfig(single=0.0))
    comparisons = world.comparisons("train", rows)
    rows_of = [_rows(comparison, number) for number, comparison in enumerate(comparisons)]
    with hub.new_folder(out) as partial:
        for name in rows_of[0]:
            path = partial / name
            path.parent.mkdir(parents=True)
            _write(path, [row[name] for row in rows_of])


def _write(path: pathlib.Path, rows: list[dict]) -> None:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    text = (json.dumps(rows) if path.suffix == ".json" else lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes them."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", required=True, type=user_path, help="new folder")
    args = parser.parse_args(argv)
    make(args.out)
    print(f"{args.out}: written")


if __name__ == "__main__":
    run_program(main)
