"""Ranks the responses of each line of a file with a GRM, and writes the lines back.

    python -m tools.best_of_n --data=FILE.jsonl --model=DIR --out=FILE.jsonl

A line of the data has `prompt` (one turn of the user) or `messages` ([{role, content}]) and
`responses`; `principles` to judge by and a `reference` answer to show are optional. Other fields
are kept and not looked at. The line that is written has a field more, `judgement`:

    line                 its number in the data, from 1
    fingerprint          of the model, the settings, k and the seed
    ranking              numbers of the responses from 0, the best first, ties in their order
    scores               mean score of each response; null where no sample has scores
    low, high            its 95 % interval over the samples; null below two votes
    shares               share of the samples that put the response first
    verdict, reason      number of the best response; null and why, where there is none
    votes, parsed        samples that voted; how samples ended, and how often
    prompt_tokens, tokens   what it cost
    samples              with --keep_samples: orders, scores, principles and critique of each

Lines are appended in the order of the data; the same command goes on where it was stopped, and
another model or setting is refused. A bad line is named, skipped and counted.
"""

import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rich.console

from experiments.progress import bar
from grm_jax.data.comparison import Comparison, FieldError
from grm_jax.data.reading import one_of, present, require
from grm_jax.data.unit_log import dump
from grm_jax.files import append, json_object, read_bytes
from grm_jax.ranges import split
from grm_jax.reward.judging import GRMReward, Judgement, comparison
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.scheduler import Buckets
from tools import make_parser, run_program, user_path

FIELD = "judgement"


def read_line(where: str, row: dict[str, Any]) -> Comparison:
    """The comparison of a line. Raises ValueError, which names the place and the field."""
    if FIELD in row:
        raise FieldError(where, FIELD, "is there already, and would be overwritten")
    given = present(row)
    if ("prompt" in given) == ("messages" in given):
        raise FieldError(where, "messages", "give exactly one of 'prompt' and 'messages'")
    if "prompt" in given:
        query = require(where, given, "prompt", str)
    else:
        query = require(where, given, "messages", list)
    return comparison(
        query, require(where, given, "responses", list), principles=given.get("principles"),
        reference=given.get("reference"), where=where,
    )  # fmt: skip


def lines_of(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    read_bytes(path, most=64)  # refuses a pointer of git-lfs
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield number, raw


def record(told: Judgement, number: int, fingerprint: str, *, samples: bool) -> dict[str, Any]:
    """The field `judgement` of a line."""
    intervals = told.intervals()
    ranking = None
    if told.scores is not None:
        ranking = np.argsort(-np.asarray(told.scores), kind="stable").tolist()
    kept = [
        {"order": s.order, "scores": s.scores, "reason": s.reason, "voted": s.voted,
         "principles": s.principles, "critique": s.critique}
        for s in told.samples
    ]  # fmt: skip
    return {
        "line": number, "fingerprint": fingerprint, "ranking": ranking, "scores": told.scores,
        "low": intervals and [interval.low for interval in intervals],
        "high": intervals and [interval.high for interval in intervals],
        "shares": told.shares, "verdict": told.verdict, "reason": told.reason,
        "votes": sum(sample.voted for sample in told.samples), "parsed": told.parsed,
        "prompt_tokens": told.prompt_tokens, "tokens": told.tokens,
        **({"samples": kept} if samples else {}),
    }  # fmt: skip


def last_line(handle: int, out: pathlib.Path, data: pathlib.Path, fingerprint: str) -> int:
    """The number of the last line of the data that `out` holds, 0 for none; cuts off a torn tail.

    Raises:
      ValueError: a line that this tool did not write, or from other settings or other data.
    """
    text = os.pread(handle, os.fstat(handle).st_size, 0)
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.ftruncate(handle, whole)
    last, sources = 0, lines_of(data)
    for number, raw in enumerate(text[:whole].splitlines(keepends=True), start=1):
        where = f"{out}:{number}"
        row = json_object(raw, out, number)
        told = require(where, row, FIELD, dict)
        one_of(where, told, "fingerprint", (fingerprint,))
        last = require(where, told, "line", int)
        source = next((raw for at, raw in sources if at == last), b"{}")
        if json_object(source, data, last) != {k: v for k, v in row.items() if k != FIELD}:
            raise FieldError(where, "line", f"line {last} of {data} is another one")
    return last


def rank(
    reward: GRMReward, data: pathlib.Path, out: pathlib.Path, *, seed: int, batch: int,
    samples: bool,
) -> tuple[int, int]:  # fmt: skip
    """Ranks what `out` does not hold yet; how many lines it holds then, and how many were bad.

    Raises:
      ValueError: as `last_line`.
    """
    parts = (reward.fingerprint, str(reward.draw.k), str(seed), str(samples))
    fingerprint = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
    out.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        done = last_line(handle, out, data, fingerprint)
        total = sum(1 for _ in lines_of(data))
        before = sum(number <= done for number, _ in lines_of(data))
        waiting: list[tuple[int, dict[str, Any], Comparison]] = []
        ranked = bad = 0

        def write() -> None:
            told = reward.judge([asked for *_, asked in waiting], seed=seed)
            rows = [
                row | {FIELD: record(judged, number, fingerprint, samples=samples)}
                for (number, row, _), judged in zip(waiting, told, strict=True)
            ]
            append(handle, "".join(dump(row) + "\n" for row in rows).encode())
            advance(len(rows))
            waiting.clear()

        with bar(rich.console.Console(), "best of n", total, before) as advance:
            for number, raw in lines_of(data):
                where = f"{data}:{number}"
                try:
                    row = json_object(raw, data, number)
                    asked = read_line(where, row)
                    reward.check(asked)
                except ValueError as error:
                    bad += 1
                    if number > done:
                        print(f"skipped: {error}", file=sys.stderr)
                        advance(1)
                    continue
                ranked += 1
                if number > done:
                    waiting.append((number, row, asked))
                if len(waiting) == batch:
                    write()
            if waiting:
                write()
        return ranked, bad
    finally:
        os.close(handle)


def main(argv: Sequence[str] | None = None) -> None:
    """Ranks and counts."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, type=user_path, help="JSONL, a group a line")
    parser.add_argument("--model", required=True, type=user_path, help="folder of the GRM")
    parser.add_argument("--out", required=True, type=user_path, help="JSONL, appended to")
    parser.add_argument("--meta_rm", default="", help="folder of a meta RM that guides the votes")
    parser.add_argument("--k", default=8, type=int, help="samples of each line")
    parser.add_argument("--seed", default=0, type=int, help="of orders and samples")
    parser.add_argument("--temperature", default=1.0, type=float)
    parser.add_argument("--max_new_tokens", default=1024, type=int, help="longest sample")
    parser.add_argument("--form", default="full", help="form of the prompt: full or compact")
    parser.add_argument(
        "--prompt_lengths", default="1024,2048,4096,8192",
        help="shapes of prompts in tokens; responses that do not fit the largest are shortened",
    )  # fmt: skip
    parser.add_argument(
        "--samples_per_unit", default=32, type=int,
        help="samples that are decoded at once; decides the memory",
    )  # fmt: skip
    parser.add_argument("--thinking", default="", help="told to the chat template: on or off")
    parser.add_argument("--dtype", default=None, help="of the model, such as bfloat16")
    parser.add_argument("--batch", default=16, type=int, help="lines that are drawn together")
    parser.add_argument("--keep_samples", action="store_true", help="write samples as well")
    args = parser.parse_args(argv)
    if args.batch < 1:
        raise ValueError(f"batch: must be at least 1, got {args.batch}")
    if args.data.resolve() == args.out.resolve():
        raise ValueError(f"out: {args.out} is the data itself")
    draw = DrawConfig(
        k=args.k, temperature=args.temperature, max_new_tokens=args.max_new_tokens,
        form=args.form, binary_singles=False, max_truncated=1.0,
    )  # fmt: skip
    lengths = tuple(int(length) for length in split(args.prompt_lengths))
    buckets = Buckets(
        lengths, (args.max_new_tokens,), (1, 2, 4, 8), samples_per_unit=args.samples_per_unit
    )
    reward = GRMReward.load(
        args.model, meta_rm_folder=user_path(args.meta_rm) if args.meta_rm else "",
        dtype=args.dtype, thinking=args.thinking, draw=draw, buckets=buckets,
    )  # fmt: skip
    ranked, bad = rank(
        reward, args.data, args.out, seed=args.seed, batch=args.batch, samples=args.keep_samples
    )
    print(f"{args.out}: {ranked} lines ranked, {bad} bad lines skipped")
    if not ranked:
        raise ValueError(f"{args.data}: no line could be ranked")


if __name__ == "__main__":
    run_program(main)
