"""Compares a checkpoint with transformers, in float32 on the CPU.

    python -m tools.check_parity --checkpoint=gemma-2-2b-it

Three inputs: random tokens, a batch padded on the left, and a text where the folder has a
tokenizer. For each, the largest difference of the logits (of the rewards, for a reward model) and
the share of positions with the same most likely token. Small models also run in float64 with
transformers, which shows how much of a difference is float32 itself. The exit code is 1 if any
difference is beyond max(1e-5, 3 x the largest such gap).
"""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax.models import hub
from grm_jax.text.chat_templates import load_tokenizer
from tools import make_parser, run_program, user_path
from tools.outputs import load, outputs

TOLERANCE, GAPS = 1e-5, 3
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


def inputs(vocab_size: int, length: int, seed: int, tokenizer) -> dict[str, tuple]:
    """Token ids and which of them are real, both [B, T], by name."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size, (2, length))
    real = np.ones_like(tokens)
    padded = real.copy()
    padded[0, : length // 3] = 0
    cases = {"random tokens": (tokens, real), "padded on the left": (tokens, padded)}
    if tokenizer is not None:
        ids = np.asarray([[tokenizer.bos_id, *tokenizer.encode(TEXT)]])
        cases["text"] = (ids, np.ones_like(ids))
    return cases


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


def compare(folder: pathlib.Path, *, length: int, seed: int, float64_below: float) -> list[Row]:
    """A row for each input; the gap is None for models of `float64_below` parameters or more."""
    import torch
    import transformers

    checkpoint = load(folder, "float32")
    tokenizer = None
    if any(folder.glob("tokenizer*")):
        # Ours: that of transformers may add a piece for which no model has a row.
        tokenizer = load_tokenizer(folder)
        hub.check_vocab(checkpoint.config, tokenizer.vocab_size, folder)
    cases = inputs(checkpoint.config.vocab_size, length, seed, tokenizer)
    ours = {name: outputs(checkpoint, *case) for name, case in cases.items()}

    # Its other ways to multiply by experts refuse float64.
    experts = {"experts_implementation": "eager"} if checkpoint.config.moe else {}

    def theirs(dtype):
        kind = transformers.AutoModelForCausalLM
        if checkpoint.head is not None:
            kind = transformers.AutoModelForSequenceClassification
        model = kind.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", **experts
        ).eval()
        return {name: their_outputs(model, *case) for name, case in cases.items()}

    single, gap = theirs(torch.float32), None
    if sum(leaf.size for leaf in jax.tree.leaves(checkpoint.params)) < float64_below:
        double = theirs(torch.float64)
        # One for all inputs: in float64, padding turns into nan and spreads.
        gaps = [np.abs(single[name] - double[name]).max() for name in cases]
        gap = float(np.nanmax(gaps))
    rows = []
    for name, (_, real) in cases.items():
        real = real.astype(bool)
        got, want = ours[name][real], single[name][real]
        same = np.mean(np.argmax(got, axis=-1) == np.argmax(want, axis=-1))
        rows.append(Row(name, float(np.abs(got - want).max()), gap, float(same)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Compares and prints; the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, type=user_path, help="folder")
    parser.add_argument("--length", type=int, default=64, help="tokens of a random row")
    parser.add_argument("--seed", type=int, default=0, help="of the random tokens")
    parser.add_argument(
        "--float64_below", type=float, default=3e8, help="parameters of a model to run in float64"
    )
    args = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is first imported
    jax.config.update("jax_default_matmul_precision", "highest")
    rows = compare(
        args.checkpoint, length=args.length, seed=args.seed, float64_below=args.float64_below
    )
    print(f"{'input':<20} {'max |diff|':>11} {'f32-f64 gap':>11} {'limit':>9} {'argmax':>7}")
    for row in rows:
        gap = "-" if row.gap is None else f"{row.gap:.2e}"
        verdict = "" if row.difference <= row.limit else "  beyond the limit"
        print(
            f"{row.name:<20} {row.difference:>11.2e} {gap:>11} {row.limit:>9.1e} "
            f"{row.agreement:>7.2%}{verdict}"
        )
    # Written so that a difference that is not a number fails.
    return 0 if all(row.difference <= row.limit for row in rows) else 1


if __name__ == "__main__":
    run_program(main)
