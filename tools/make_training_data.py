"""Makes a few made-up rows of every training set, in the formats they are published in.

    python -m tools.make_training_data --out=runs/tiny/data

So that recipes can be walked on a laptop (`:runlocal`) before anything is downloaded. Texts come
from the small world and mean nothing. Needs pyarrow, of the extra `data`.
"""

import argparse
import gzip
import json
import pathlib
from collections.abc import Callable, Sequence

from grm_jax.data.comparison import Comparison
from grm_jax.data.small_world import SmallWorld, SmallWorldConfig
from grm_jax.models import hub
from tools import errors_in_one_line, user_path

ROWS = 12


def _turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def _ultrafeedback(c: Comparison, number: int) -> dict:
    return {
        "source": "made_up",
        "instruction": c.messages[-1].content,
        "completions": [
            {"model": "made_up", "response": text, "fine-grained_score": float(reward),
             "overall_score": 5.0}
            for text, reward in zip(c.responses, c.rewards, strict=True)
        ],
    }  # fmt: skip


def _offsetbias(c: Comparison, number: int) -> dict:
    first, second = c.responses[:2]
    return {"instruction": c.messages[-1].content, "output_1": first, "output_2": second,
            "label": 1 + number % 2}  # fmt: skip


def _skywork(c: Comparison, number: int) -> dict:
    query = _turn("user", c.messages[-1].content)
    first, second = (_turn("assistant", text) for text in c.responses[:2])
    return {"chosen": [query, first], "rejected": [query, second], "source": "made_up"}


def _helpsteer2(c: Comparison, number: int) -> dict:
    first, second = c.responses[:2]
    return {"split": "train", "prompt": c.messages[-1].content, "response_1": first,
            "response_2": second, "preference_strength": number % 7 - 3}  # fmt: skip


def _helpsteer3(c: Comparison, number: int) -> dict:
    first, second = c.responses[:2]
    return {"domain": "general", "language": "english",
            "context": [_turn("user", c.messages[-1].content)],
            "response1": first, "response2": second,
            "overall_preference": number % 7 - 3}  # fmt: skip


def _math(c: Comparison, number: int) -> dict:
    answers = [rf"So it is \boxed{{{number + extra}}}." for extra in (1, 0, 2)]
    return {"problem": f"What is {number} plus 1?", "type": "Addition",
            "solution": rf"It is \boxed{{{number + 1}}}.", "responses": answers}  # fmt: skip


def _general(c: Comparison, number: int) -> dict:
    return {"messages": [_turn("user", f"Say {number}."), _turn("assistant", f"{number}.")]}


_FILES: dict[str, Callable[[Comparison, int], dict]] = {
    "ultrafeedback/made_up.jsonl": _ultrafeedback,
    "offsetbias/train.jsonl": _offsetbias,
    "skywork/train.parquet": _skywork,
    "helpsteer2/preference.jsonl.gz": _helpsteer2,
    "helpsteer3/train.jsonl.gz": _helpsteer3,
    "math/train.jsonl": _math,
    "general/general.jsonl": _general,
}


def make(out: pathlib.Path, rows: int = ROWS) -> None:
    """Writes the folder `out`, one folder a set.

    Raises:
      FileExistsError: if `out` exists and is not empty.
    """
    world = SmallWorld(SmallWorldConfig(single=0.0))
    comparisons = world.comparisons("train", rows)
    with hub.new_folder(out) as partial:
        for name, row in _FILES.items():
            path = partial / name
            path.parent.mkdir(parents=True)
            _write(path, [row(c, number) for number, c in enumerate(comparisons)])


def _write(path: pathlib.Path, rows: list[dict]) -> None:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=user_path, help="new folder")
    args = parser.parse_args(argv)
    make(args.out)
    print(f"{args.out}: written")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
