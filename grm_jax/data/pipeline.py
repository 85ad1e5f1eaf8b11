"""Batches for training, with iterators whose state goes into the checkpoint (grain).

The global order is a pure function of (seed, index); `get_state` and `set_state` of the returned
iterators resume exactly.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import grain
import numpy as np

from grm_jax.ranges import Checked, Count

_EPOCHS = 2**32


class Example(NamedTuple):
    """One sequence to learn from: token ids and how many of them are the prompt."""

    token_ids: Sequence[int]
    prompt_length: int


@dataclasses.dataclass(frozen=True)
class PackingConfig(Checked):
    """Shape of packed batches.

    Attributes:
      row_length: T, tokens of a row.
      batch_size: B, rows of a batch.
      bins: rows that are filled at the same time; more bins waste less and shuffle worse.
    """

    row_length: Count
    batch_size: Count
    bins: Count = 16


def split_too_long(
    examples: Sequence[Example], row_length: int
) -> tuple[list[Example], list[Example]]:
    """Separates examples that fit a row from those that do not: (kept, too long)."""
    kept = [example for example in examples if len(example.token_ids) - 1 <= row_length]
    return kept, [example for example in examples if len(example.token_ids) - 1 > row_length]


def _to_features(example: Example) -> dict[str, np.ndarray]:
    ids = np.asarray(example.token_ids, np.int32)
    weights = (np.arange(1, len(ids)) >= example.prompt_length).astype(np.float32)
    return {"tokens": ids[:-1], "targets": ids[1:], "weights": weights}


def _to_batch(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "tokens": packed["tokens"],
        "targets": packed["targets"],
        "weights": packed["weights"],
        "positions": packed["tokens_positions"],
        "segment_ids": packed["tokens_segment_ids"],
    }


def packed_batches(
    examples: Sequence[Example], config: PackingConfig, *, seed: int
) -> grain.DatasetIterator:
    """Endless batches of several examples a row, each in a segment of its own.

    Args:
      examples: sequences, each of at most `row_length` + 1 tokens.
      config: shape of the batches.
      seed: of the shuffle; every epoch is shuffled anew.

    Returns:
      An iterator of dicts of [B, T] arrays: tokens, targets (the next token), weights (1 on
      targets after the prompt), positions and segment_ids (from 1; 0 is padding).

    Raises:
      ValueError: if there are no examples or one does not fit.
    """
    if not examples:
        raise ValueError("packed_batches: no examples")
    _, too_long = split_too_long(examples, config.row_length)
    if too_long:
        raise ValueError(
            f"packed_batches: {len(too_long)} examples exceed row_length={config.row_length}, "
            f"the longest has {max(len(e.token_ids) for e in too_long)} tokens"
        )
    dataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat().map(_to_features)
    lengths = {"tokens": config.row_length, "targets": config.row_length,
               "weights": config.row_length}  # fmt: skip
    packed = grain.experimental.FirstFitPackIterDataset(
        dataset.to_iter_dataset(), length_struct=lengths, num_packing_bins=config.bins, seed=seed
    )
    return iter(packed.batch(config.batch_size).map(_to_batch))


def shuffled_batches(source: Sequence, batch_size: int, *, seed: int) -> grain.DatasetIterator:
    """Endless batches (lists) of records in a global order that is fixed by the seed.

    Every epoch is shuffled anew, and records after its last whole batch are left out: no
    batch holds a record twice.

    Raises:
      ValueError: fewer records than one batch.
    """
    if len(source) < batch_size:
        raise ValueError(f"a batch of {batch_size} needs as many records, got {len(source)}")
    indices = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    # Not repeat() without end, whose length in batches of one is more than Python's len() can say.
    indices = indices.batch(batch_size, drop_remainder=True).repeat(_EPOCHS)
    return iter(indices.map(lambda rows: [source[int(i)] for i in rows]).to_iter_dataset())
