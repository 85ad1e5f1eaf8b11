"""Verifies released weights: counts, fingerprints, a golden prompt, rows of RMB.

    python -m tools.verify_release --checkpoint=DIR --record=FILE.json
    python -m tools.verify_release --checkpoint=DIR --against=FILE.json --data_dir=DATA

The exit code is 1 if a check fails:

- Settings and parameter count against the published variant of the same sizes, and the count
  against the elements in the files. Of a reward model the decoder counts, not the head.
- Fingerprints of tokenizer and chat template: printed, or compared with a record.
- A golden prompt: greedy tokens after a fixed comparison, or the reward of a reward model, written
  down by --record and repeated by --against. In float32, a first difference between tokens whose
  log-probs lie within 1e-4, as do all before it, is a near-tie and no failure. Log-probs of equal
  tokens are printed, not judged; so are rewards in bfloat16.
- With --data_dir, greedy accuracy on RMB best-of-N by experiments.benchmark, rows spread evenly.
  The paper's value must lie inside the 95 % interval: that of DeepSeek-GRM-27B, greedy, with all
  responses in one prompt as here (arXiv 2504.02495, Table 10), 62.3 on Helpfulness and 57.0 on
  Harmlessness, weighted by the rows drawn of each. Not its 69.0 for RMB, half of which are pairs.
  It has none for the 16B. Sizes do not tell a GRM from its base: gemma-2-27b gets the same value.
"""

import argparse
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

import grm_jax
from configs import deepseek_grm_27b
from experiments import measurement
from experiments.config import differing_fields
from experiments.run import Run
from experiments.stages import benchmark
from grm_jax.evaluation import lines, statistics
from grm_jax.files import read_json, write_json
from grm_jax.models import hub, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import config_file
from grm_jax.models.variants import PUBLISHED_PARAMETERS, VARIANTS, published_variant
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message, grm_prompt
from tools import make_parser, outputs, run_program, user_path

OK, FAILED, SHOWN = "ok", "FAILED", "-"
NEAR = 1e-4  # of log-probs and rewards in float32
PAPER_RMB = {"gemma2_27b": {"Helpfulness": 62.3, "Harmlessness": 57.0}}
PROMPT = grm_prompt(
    [Message("user", "How do I keep a cut apple from turning brown?")],
    ["Sprinkle it with lemon juice and keep it cold.", "Apples are a healthy snack."],
)
Row = tuple[str, str, str]  # a check, its result, and what was found


def first_difference(a: Sequence, b: Sequence) -> int | None:
    """The first position at which two lists differ, if any."""
    return next((i for i, (x, y) in enumerate(itertools.zip_longest(a, b)) if x != y), None)


def compare(check: str, here: int | str | list, there: int | str | list | None) -> Row:
    """A row for a value, and for what it must be if that is known."""
    found, expected = (f"{x:,}" if isinstance(x, int) else x for x in (here, there))
    if isinstance(here, list):
        found = f"{len(here)} ids"
        expected = f"others from position {first_difference(here, there or here)} on"
    if there is None or here == there:
        return check, SHOWN if there is None else OK, found
    return check, FAILED, f"{found}, expected {expected}"


def read_record(path: pathlib.Path, facts: dict, vocab_size: int) -> dict:
    """The record that --record wrote for a model of this kind; ValueError for anything else."""
    try:
        # Older records have no rules.
        record = {"tokenizer_rules": facts["tokenizer_rules"], **read_json(path)}
        ids = record["prompt_ids"] + record["tokens"]
        good = (
            all(type(record[name]) is type(value) for name, value in facts.items())
            and record["dtype"] in config_file.DTYPES
            and all(type(i) is int and 0 <= i < vocab_size for i in ids)
            and [type(x) for x in record["logprobs"]] == [float] * len(record["tokens"])
            and bool(record["tokens"]) == (record["reward"] is None)
        )
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise ValueError(f"{path}: not what --record writes for such a model")
    return record


def shape_rows(folder: pathlib.Path, config: ModelConfig, reward: bool) -> tuple[int, list[Row]]:
    """The parameter count, and it and the settings against the published ones and the files."""
    # A reward head stands in the place of an output matrix.
    gone = config.vocab_size * config.embed_dim if reward and not config.tied_embeddings else 0
    count = sum(leaf.size for leaf in jax.tree.leaves(transformer.abstract_params(config))) - gone
    files = compare("elements in the files", hub.count_stored(folder), count)
    if (name := published_variant(config)) is None:
        return count, [("variant", SHOWN, "no published variant has these shapes"), files]
    both = dataclasses.replace(VARIANTS[name], compute=config.compute), config
    different = "; ".join(differing_fields(*map(dataclasses.asdict, both), name))
    variant = "variant", FAILED if different else OK, different or name
    published = compare("published parameters", count, PUBLISHED_PARAMETERS[name] - gone)
    return count, [variant, published, files]


def golden_row(folder, tokenizer, facts: dict, record: dict | None, length: int) -> Row:
    """Runs the golden prompt, adds what comes out to `facts`, and compares."""
    recorded = f", recorded with {record['versions']}" if record else ""
    print(f"reading {folder} as {facts['dtype']}{recorded}", flush=True)
    checkpoint = outputs.load(folder, facts["dtype"])

    def after(*more: int) -> np.ndarray:
        """The reward, or the logits of the next token, after the prompt and some more."""
        tokens = np.asarray([[*facts["prompt_ids"], *more]])
        return outputs.outputs(checkpoint, tokens, np.ones_like(tokens))[0, -1]

    with jax.default_matmul_precision("highest"):
        if checkpoint.head is None:
            (drawn,) = outputs.greedy(checkpoint, [facts["prompt_ids"]], length, tokenizer)
            print(f"drawn: {tokenizer.decode(drawn.token_ids)!r}", flush=True)
            facts |= {"tokens": list(drawn.token_ids), "logprobs": list(drawn.logprobs)}
            return tokens_row(facts, record, after)
        here = facts["reward"] = float(after()[0])
    near = record and abs(here - record["reward"]) <= NEAR
    judged = SHOWN if record is None or facts["dtype"] != "float32" else OK if near else FAILED
    return "reward", judged, f"{here}" + (f", recorded {record['reward']}" if record else "")


def tokens_row(facts: dict, record: dict | None, after: Callable[..., np.ndarray]) -> Row:
    """Greedy tokens, against those of a record."""
    check, here = "greedy tokens", facts["tokens"]
    if not np.isfinite(facts["logprobs"]).all():
        return check, FAILED, "their log-probs are not finite"
    if record is None:
        return check, SHOWN, f"{len(here)}"
    there = record["tokens"]
    at = first_difference(here, there)
    apart = np.abs(np.subtract(facts["logprobs"][:at], record["logprobs"][:at])).max(initial=0.0)
    if at is None:
        return check, OK, f"{len(here)} as recorded, log-probs within {apart:.1e}"
    if at == len(here):
        return check, FAILED, f"they stop after {at}, {len(there)} are recorded"
    logits = after(*here[:at])
    gap = abs(float(logits[here[at]] - logits[there[at]]))
    near = facts["dtype"] == "float32" and gap <= NEAR and apart <= NEAR
    where = f"position {at}: {here[at]}, recorded {there[at]}, log-prob gap {gap:.1e}"
    found = f"first difference at {where}, log-probs before within {apart:.1e}"
    return check, "near-tie" if near else FAILED, found


def rmb_run(args: argparse.Namespace, dtype: str) -> Run:
    """The benchmark of the released models, cut down to greedy rows of one suite."""
    c = deepseek_grm_27b.get_config("runlocal" if args.runlocal else "")
    c.released.model, c.released.meta_rm = str(args.checkpoint), ""
    c.model.dtype = c.model.param_dtype = dtype
    c.benchmark.suites, c.benchmark.meta_rm = "rmb_bon", False
    c.benchmark.data_dir, c.benchmark.limit = str(args.data_dir), args.rows
    # Of few rows one may be too long; two caches leave room next to the weights of the 27B.
    c.benchmark.draw.max_truncated, c.benchmark.buckets.samples_per_unit = 1.0, 2
    return Run.open(c, args.workdir or f"runs/verify_release/{args.checkpoint.resolve().name}")


def rmb_row(run: Run, loaded: measurement.Loaded, paper: dict[str, float] | None) -> Row:
    """Greedy accuracy with its 95 % interval, and the value of the paper."""
    drawn = measurement.Measurement(run, loaded.comparisons).draw(run, "released", k=None)
    (suite,) = benchmark.to_suites(loaded, [drawn])
    counting = benchmark.counting_rules(run, measurement.read_config(run))
    (line,) = (line for line in lines.count(suite, counting) if line.method.kind == "greedy")
    value, low, high = (100 * x for x in statistics.bootstrap_mean(line.credits_C))
    found = f"{value:.1f} ({low:.1f} to {high:.1f}), {line.unparsed:.0%} of answers unparsed"
    check, found = "RMB best-of-N", f"{suite.coverage}: {found}"
    if paper is None:
        return check, SHOWN, f"{found}; no published value for these shapes"
    want = np.mean([paper[comparison.subset] for comparison in suite.comparisons])
    result, where = (OK, "inside the interval") if low <= want <= high else (FAILED, "outside")
    return check, result, f"{found}; published {want:.1f}, {where}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    flag = parser.add_argument
    flag("--checkpoint", required=True, type=user_path, help="folder as downloaded")
    flag("--record", type=user_path, help="new file for the golden record")
    flag("--against", type=user_path, help="golden record to compare with")
    flag("--tokens", type=int, help="greedy tokens: 64, or as recorded")
    flag("--dtype", choices=config_file.DTYPES, help="that of config.json, or as recorded")
    flag("--data_dir", type=user_path, help="folder of the official files of RMB")
    flag("--rows", type=int, default=50, help="rows of RMB best-of-N")
    flag("--workdir", help="of the rows of RMB: runs/verify_release/<name of the checkpoint>")
    flag("--runlocal", action="store_true", help="few tokens a row of RMB, for tiny checkpoints")
    args = parser.parse_args(argv)
    if args.against and (args.record or args.dtype or args.tokens is not None):
        parser.error("--against takes --tokens and --dtype from its record, and writes none")
    if args.tokens is not None and args.tokens < 1:
        parser.error(f"--tokens must be at least 1, got {args.tokens}")
    if args.record and args.record.exists():
        parser.error(f"--record: {args.record} exists and is not replaced")
    return args


def checks(args: argparse.Namespace) -> Iterator[Row]:
    """One check after the other; bad input is found before the first."""
    folder, record = args.checkpoint, None
    reward = config_file.architecture(folder).reward
    config, tokenizer = hub.read_config(folder), load_tokenizer(folder)
    hub.check_vocab(config, tokenizer.vocab_size, folder)
    count, rows = shape_rows(folder, config, reward)
    dtype = args.dtype or config.compute.param_dtype
    facts = {
        "parameters": count, **tokenizer.fingerprints(), "dtype": dtype, "prompt": PROMPT,
        "prompt_ids": [], "tokens": [], "reward": 0.0 if reward else None, "logprobs": [],
        "versions": {"jax": jax.__version__, "grm_jax": grm_jax.__version__},
    }  # fmt: skip
    if args.against:
        record = read_record(args.against, facts, config.vocab_size)
        facts |= {name: record[name] for name in ("dtype", "prompt")}
    facts["prompt_ids"] = tokenizer.chat([Message("user", facts["prompt"])])
    run = rmb_run(args, facts["dtype"]) if args.data_dir and not reward else None
    loaded = run and measurement.load_comparisons(run, measurement.read_config(run))
    yield from rows
    for name in ("parameters", "tokenizer", "tokenizer_rules", "chat_template", "prompt_ids"):
        yield compare(name, facts[name], record and record[name])
    length = len(record["tokens"]) if record else args.tokens or 64
    golden = golden_row(folder, tokenizer, facts, record, length)
    yield golden
    if args.record and golden[1] != FAILED:
        write_json(args.record, facts)
        yield "record", SHOWN, f"written: {args.record}"
    if run:
        yield rmb_row(run, loaded, PAPER_RMB.get(published_variant(config)))
    else:
        yield "RMB best-of-N", "skipped", "reward model" if reward else "needs --data_dir"


def main(argv: Sequence[str] | None = None) -> int:
    """Checks and prints; the exit code."""
    failed = False
    for check, result, found in checks(parse(argv)):
        print(f"{check:<22} {result:<9} {found}", flush=True)
        failed |= result == FAILED
    return int(failed)


if __name__ == "__main__":
    run_program(main)
