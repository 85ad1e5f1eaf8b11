"""Compares a checkpoint with transformers, in float32 on the CPU.

    python -m tools.check_parity --checkpoint=gemma-2-2b-it
    python -m tools.check_parity --checkpoint=gemma-2-2b-it --data_dir=DATA

Three inputs: random tokens, a batch padded on the left, and a text where the folder has a
tokenizer; with --data_dir also rows of a benchmark, question and responses. For each, the largest
difference of the logits (of the rewards, for a reward model) and the share of positions with the
same most likely token. Small models also run in float64 with transformers, which shows how much of
a difference is float32 itself. The exit code is 1 if any difference is beyond max(1e-5, 3 x the
largest such gap).

Of a language model also the greedy tokens after prompts of unequal length, drawn by the sampler of
the experiments and by `generate`. Where they part, the two best logits must lie within twice the
limit of each other (a near-tie); the exit code is 1 where they do not.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax import benchmarks
from grm_jax.models import hub
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.tokenizers import Tokenizer
from tools import make_parser, run_program, user_path
from tools.outputs import greedy, load, outputs

TOLERANCE, GAPS = 1e-5, 3
PROMPTS, NEW = 16, 64  # of the greedy tokens
TEXT = "The judge compares two answers, states principles, and gives each answer a score."


class Row(NamedTuple):
    """One input: largest differences, and the share of positions that agree on the best token."""

    name: str
    difference: float
    gap: float | None
    agreement: float

    @property
    def limit(self) -> float:
        """The largest difference that passes."""
        return max(TOLERANCE, GAPS * (self.gap or 0.0))


Batch = tuple[np.ndarray, np.ndarray]  # token ids, and which of them are real, both [B, T]


def inputs(vocab_size: int, length: int, seed: int, texts: Sequence[Sequence[int]]) -> dict:
    """The batches of each input by name; `texts` are token ids, the first of them `TEXT`."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size, (2, length))
    real = np.ones_like(tokens)
    padded = real.copy()
    padded[0, : length // 3] = 0
    cases = {"random tokens": [(tokens, real)], "padded on the left": [(tokens, padded)]}
    batches = [(np.asarray([ids]), np.ones((1, len(ids)), int)) for ids in texts]
    if batches:
        cases["text"] = batches[:1]
    if batches[1:]:
        cases[f"{len(batches) - 1} rows"] = batches[1:]
    return cases


def read_texts(tokenizer: Tokenizer, args) -> list[list[int]]:
    """`TEXT`, and the texts of the rows that the command line asks for, as token ids."""
    texts = [TEXT]
    if args.data_dir:
        rows = benchmarks.load_suite(args.suite, args.data_dir, args.rows)
        texts += ["\n\n".join((row.messages[-1].content, *row.responses)) for row in rows]
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [[*start, *tokenizer.encode(text)][: args.max_tokens] for text in texts]


def their_outputs(model, tokens, real) -> np.ndarray:
    """As `outputs`, by transformers, in the type of the model."""
    import torch

    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    arguments = {"attention_mask": torch.tensor(real), "position_ids": torch.tensor(positions)}
    with torch.no_grad():
        if hasattr(model, "score"):  # its own forward keeps the last position only
            hidden = model.model(torch.tensor(tokens), **arguments).last_hidden_state
            return model.score(hidden).numpy()
        return model(torch.tensor(tokens), **arguments).logits.numpy()


class Models(NamedTuple):
    """The checkpoint on our side, and in transformers in float32 and, if small, in float64."""

    ours: hub.Checkpoint
    single: object
    double: object | None


def load_models(folder: pathlib.Path, float64_below: float) -> Models:
    """All that are compared; in float64 a model of less than `float64_below` parameters."""
    import torch
    import transformers

    checkpoint = load(folder, "float32")
    # Its other ways to multiply by experts refuse float64.
    experts = {"experts_implementation": "eager"} if checkpoint.config.moe else {}

    def theirs(dtype):
        kind = transformers.AutoModelForCausalLM
        if checkpoint.head is not None:
            kind = transformers.AutoModelForSequenceClassification
        return kind.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", **experts
        ).eval()

    small = sum(leaf.size for leaf in jax.tree.leaves(checkpoint.params)) < float64_below
    return Models(checkpoint, theirs(torch.float32), theirs(torch.float64) if small else None)


def compare(models: Models, cases: dict[str, list[Batch]]) -> list[Row]:
    """A row for each input; one gap for all, because padding turns into nan in float64."""
    found, gaps = {}, []
    for name, batches in cases.items():
        differences, same, count = [], 0, 0
        for tokens, real in batches:
            mask = real.astype(bool)
            # A few lengths only, each of which is compiled.
            padding = ((0, 0), (0, -tokens.shape[1] % 128 if len(batches) > 1 else 0))
            padded = (np.pad(x, padding) for x in (tokens, real))
            got = outputs(models.ours, *padded)[:, : tokens.shape[1]][mask]
            want = their_outputs(models.single, tokens, real)[mask]
            differences.append(np.abs(got - want).max())
            same += np.sum(np.argmax(got, axis=-1) == np.argmax(want, axis=-1))
            count += len(got)
            if models.double is not None:
                gaps.append(np.abs(their_outputs(models.double, tokens, real)[mask] - want).max())
        found[name] = float(np.max(differences)), float(same / count)
    gap = float(np.nanmax(gaps)) if gaps else None
    return [Row(name, difference, gap, same) for name, (difference, same) in found.items()]


def compare_greedy(models: Models, prompts: Sequence[Sequence[int]], tie: float) -> dict[str, int]:
    """How the `NEW` likeliest tokens after each prompt compare.

    Args:
      models: of a language model.
      prompts: token ids.
      tie: distance of the two best logits within which a difference may begin.

    Returns:
      The number of prompts with "equal" tokens, with a "near-tie" where they part, and "others".
    """
    import torch

    model, longest = models.single, max(map(len, prompts))
    model.generation_config.eos_token_id = None  # all tokens count alike
    # One batch, padded on the left, as `generate` wants it.
    ids = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in prompts])
    real = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=real, max_new_tokens=NEW, do_sample=False, output_logits=True,
            return_dict_in_generate=True, repetition_penalty=1.0, pad_token_id=0,
        )  # fmt: skip
    counts = dict.fromkeys(("equal", "near-tie", "others"), 0)
    for row, completion in enumerate(greedy(models.ours, prompts, NEW)):
        parts = np.flatnonzero(completion.token_ids != out.sequences[row, longest:].numpy())
        if not len(parts):
            counts["equal"] += 1
            continue
        second, best = np.sort(out.logits[parts[0]][row].numpy())[-2:]
        counts["near-tie" if best - second <= tie else "others"] += 1
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Compares and prints; the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, type=user_path, help="folder")
    parser.add_argument("--length", type=int, default=64, help="tokens of a random row")
    parser.add_argument("--seed", type=int, default=0, help="of the random tokens")
    parser.add_argument(
        "--float64_below", type=float, default=1e9, help="parameters of a model to run in float64"
    )
    parser.add_argument("--data_dir", type=user_path, help="folder of official benchmark files")
    parser.add_argument("--suite", default="llmbar", help="the benchmark whose rows are taken")
    parser.add_argument("--rows", type=int, default=50, help="of the benchmark, evenly spread")
    parser.add_argument("--max_tokens", type=int, default=2000, help="where a row is cut")
    args = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is first imported
    jax.config.update("jax_default_matmul_precision", "highest")
    texts = []
    if any(args.checkpoint.glob("tokenizer*")):
        # Ours: that of transformers may add a piece for which no model has a row.
        tokenizer = load_tokenizer(args.checkpoint)
        shape = hub.read_config(args.checkpoint)
        hub.check_vocab(shape, tokenizer.vocab_size, args.checkpoint)
        texts = read_texts(tokenizer, args)
    models = load_models(args.checkpoint, args.float64_below)
    cases = inputs(models.ours.config.vocab_size, args.length, args.seed, texts)
    rows = compare(models, cases)
    print(f"{'input':<20} {'tokens':>7} {'max |diff|':>11} {'f32-f64 gap':>11} {'limit':>9} "
          f"{'argmax':>7}")  # fmt: skip
    for row in rows:
        gap = "-" if row.gap is None else f"{row.gap:.2e}"
        verdict = "" if row.difference <= row.limit else "  beyond the limit"
        count = sum(real.sum() for _, real in cases[row.name])
        print(
            f"{row.name:<20} {count:>7} {row.difference:>11.2e} {gap:>11} {row.limit:>9.1e} "
            f"{row.agreement:>7.2%}{verdict}"
        )
    # Written so that a difference that is not a number fails.
    passed = all(row.difference <= row.limit for row in rows)
    if models.ours.head is None:
        last = [
            ids for batches in cases.values() for tokens, _ in batches for ids in tokens.tolist()
        ]
        prompts = [ids[: 8 + 7 * i] for i, ids in enumerate(last[-PROMPTS:])]
        counts = compare_greedy(models, prompts, 2 * rows[0].limit)
        print(f"{NEW} greedy tokens after {len(prompts)} prompts of {min(map(len, prompts))} to "
              f"{max(map(len, prompts))} tokens: "
              + ", ".join(f"{count} {name}" for name, count in counts.items()))  # fmt: skip
        passed &= not counts["others"]
    return 0 if passed else 1


if __name__ == "__main__":
    run_program(main)
