"""Work units: the samples that are drawn together, and their shapes.

A unit is a pure function of the work list. A complete unit is never drawn again, and an unfinished
unit is drawn again whole. Samples of different units never meet.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax.parallel.sharding import fetch
from grm_jax.ranges import Checked, Count, Sizes
from grm_jax.sampling import keys
from grm_jax.sampling.prompt import Prompt


class Bucket(NamedTuple):
    """Static shape of one unit: P prompts of T tokens, S samples each, U generated tokens."""

    P: int
    S: int
    T: int
    U: int


class Request(NamedTuple):
    """A prompt, and the indices of its wanted samples within the comparison."""

    prompt: Prompt
    samples: tuple[int, ...]


class WorkUnit(NamedTuple):
    """Requests that are drawn together, at most P of them."""

    index: int
    bucket: Bucket
    requests: tuple[Request, ...]

    @property
    def num_samples(self) -> int:
        """Samples of all requests."""
        return sum(len(request.samples) for request in self.requests)


class Sample(NamedTuple):
    """A wanted sample of a unit: its request, its index, and the two words of its key."""

    request: Request
    index: int
    seed: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Buckets(Checked):
    """The shapes that sampling may use; their number bounds the number of compilations.

    Attributes:
      prompt_lengths: allowed T, ascending.
      output_lengths: allowed U, ascending.
      samples: allowed S, ascending.
      samples_per_unit: P * S of a unit (P is at least 1).
    """

    prompt_lengths: Sizes
    output_lengths: Sizes
    samples: Sizes = (1, 2, 4, 8, 16, 32)
    samples_per_unit: Count = 128

    def bucket(self, prompt_length: int, num_samples: int, max_new_tokens: int) -> Bucket:
        """The smallest bucket that fits.

        Raises:
          ValueError: naming the size that no bucket fits.
        """
        return self._of(
            _smallest(self.samples, num_samples, "samples"),
            _smallest(self.prompt_lengths, prompt_length, "prompt_lengths"),
            _smallest(self.output_lengths, max_new_tokens, "output_lengths"),
        )

    def shapes(self) -> list[Bucket]:
        """Every bucket that a unit can have."""
        sizes = itertools.product(self.samples, self.prompt_lengths, self.output_lengths)
        return [self._of(*size) for size in sizes]

    def _of(self, S: int, T: int, U: int) -> Bucket:
        return Bucket(P=max(1, self.samples_per_unit // S), S=S, T=T, U=U)


def _smallest(sizes: Sequence[int], needed: int, name: str) -> int:
    for size in sizes:
        if size >= needed:
            return size
    raise ValueError(f"sampling.{name}: {needed} exceeds the largest bucket, {sizes[-1]}")


def plan_units(
    requests: Sequence[Request], buckets: Buckets, max_new_tokens: int
) -> list[WorkUnit]:
    """Groups requests of equal shape into units, in the order of the work list.

    Raises:
      ValueError: for a prompt, a number of samples or an output that no bucket fits.
    """
    open_units: dict[Bucket, list[Request]] = {}
    full: list[tuple[Bucket, tuple[Request, ...]]] = []
    for request in requests:
        bucket = buckets.bucket(len(request.prompt.ids), len(request.samples), max_new_tokens)
        group = open_units.setdefault(bucket, [])
        group.append(request)
        if len(group) == bucket.P:
            full.append((bucket, tuple(open_units.pop(bucket))))
    full += [(bucket, tuple(group)) for bucket, group in sorted(open_units.items())]
    return [WorkUnit(index, bucket, group) for index, (bucket, group) in enumerate(full)]


def unit_keys(key: jax.Array, unit: WorkUnit) -> tuple[jax.Array, list[Sample]]:
    """Keys of all places [P, S] of a unit, unused ones included, and its samples.

    `key` is that of the stage, from `keys.stage_key`.
    """
    indices_PS = np.zeros((unit.bucket.P, unit.bucket.S), np.int32)
    for p, request in enumerate(unit.requests):
        indices_PS[p, : len(request.samples)] = request.samples
    uids = [request.prompt.uid for request in unit.requests]
    uids += [""] * (unit.bucket.P - len(uids))
    keys_PS = keys.sample_keys(key, uids, indices_PS)
    seeds_PS2 = fetch(jax.random.key_data(keys_PS)).tolist()
    return keys_PS, [
        Sample(request, index, tuple(seed))
        for request, seeds_S2 in zip(unit.requests, seeds_PS2, strict=False)
        for index, seed in zip(request.samples, seeds_S2, strict=False)
    ]
