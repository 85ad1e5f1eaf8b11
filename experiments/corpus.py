"""Training data from files: what section `data` of a config names, checked against benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from experiments import settings
from grm_jax.data import training_sets
from grm_jax.data.benchmarks import SUITES, load_suite
from grm_jax.data.comparison import Comparison
from grm_jax.data.contamination import Index, Overlap
from grm_jax.data.training_sets import TrainingSet
from grm_jax.text.prompts import Message

OVERLAPS = ("refuse", "drop", "allow")
SPLITS = ("train", "development", "test")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where training data come from.

    Attributes:
      train, development, test: comma-separated ``NAME:PATH`` or ``NAME:PATH:WEIGHT``, with NAME
        "jsonl" or a published set, see `grm_jax.data.training_sets`.
      general: comma-separated files or folders of general instruction data.
      overlap: what happens to prompts of `train` that are in the suites of config.benchmark:
        "refuse" the run, "drop" them, or "allow" them without a look at the suites.
    """

    train: str = ""
    development: str = ""
    test: str = ""
    general: str = ""
    overlap: str = "refuse"

    def __post_init__(self):
        for split in SPLITS:
            try:
                training_sets.parse_sources(getattr(self, split))
            except ValueError as error:
                raise ValueError(f"{split}: {error}") from None
        if self.overlap not in OVERLAPS:
            raise ValueError(f"overlap must be one of {OVERLAPS}, got {self.overlap!r}")


class Corpus:
    """Reads each split once, whole."""

    def __init__(self, config: DataConfig, suites: str, data_dir: str, say: Callable[[str], None]):
        """Reads nothing yet.

        Args:
          config: section `data`.
          suites: names of the suites that training must not have seen, comma-separated.
          data_dir: folder of their files.
          say: takes lines about what was read.
        """
        self._config, self._data_dir, self._say = config, data_dir, say
        self._suites = [s for s in settings.names(suites, "benchmark.suites") if s in SUITES]
        self._sets: dict[str, list[TrainingSet]] = {}
        self._general: list[tuple[tuple[Message, ...], str]] | None = None

    def comparisons(self, split: str, count: int, *, seed: int) -> list[Comparison]:
        """`count` comparisons of a split, or as many as there are, in an order of the seed.

        Raises:
          ValueError: naming the file and line of a bad row, or of one that repeats a benchmark.
        """
        return training_sets.mixture(self._read(split), count, seed=seed)

    def general(self, count: int, *, seed: int) -> list[tuple[tuple[Message, ...], str]]:
        """`count` conversations with their answers, or as many as there are."""
        if count == 0:
            return []
        if self._general is None:
            paths = settings.names(self._config.general, "config.data.general")
            if not paths:
                raise ValueError("config.data.general: no file, but a stage wants general data")
            self._general = [pair for path in paths for pair in training_sets.read_general(path)]
            self._say(f"data.general: {len(self._general)} conversations")
        rng = np.random.default_rng((seed, 0x67656E))
        return [self._general[i] for i in rng.permutation(len(self._general))[:count]]

    def _read(self, split: str) -> list[TrainingSet]:
        if split in self._sets:
            return self._sets[split]
        sources = training_sets.parse_sources(getattr(self._config, split))
        if not sources:
            raise ValueError(f"config.data.{split}: names no set, but the run needs one")
        sets = [training_sets.read(source) for source in sources]
        if split == "train" and self._config.overlap != "allow" and self._suites:
            sets = self._apart(sets)
        for one in sets:
            reasons = "".join(f", {n} rows: {reason}" for reason, n in one.dropped.items() if n)
            self._say(
                f"data.{split}: {one.source.name}, {len(one.comparisons)} comparisons{reasons}"
            )
        self._sets[split] = sets
        return sets

    def _apart(self, sets: Sequence[TrainingSet]) -> list[TrainingSet]:
        """The sets without prompts of the suites."""
        index = Index({name: load_suite(name, self._data_dir) for name in self._suites})
        found = [
            {i: overlap for i, comparison in enumerate(one.comparisons)
             if (overlap := index.find(comparison.messages))}
            for one in sets
        ]  # fmt: skip
        total = sum(map(len, found))
        self._say(f"data.train: {total} prompts are in {', '.join(self._suites)}")
        if total and self._config.overlap == "refuse":
            one, overlaps = next((one, o) for one, o in zip(sets, found, strict=True) if o)
            i, overlap = next(iter(overlaps.items()))
            raise ValueError(_refusal(one.places[i], one.comparisons[i].uid, overlap, total))
        return [one.without(o, "in a benchmark") for one, o in zip(sets, found, strict=True)]


def _refusal(where: str, uid: str, overlap: Overlap, total: int) -> str:
    return (
        f"{where}: the prompt of {uid!r} is in {overlap.suite} ({overlap.uid!r}, "
        f"{overlap.share:.0%} of its 13-grams), as are {total - 1} others of config.data.train: "
        "nothing measured there would mean anything; config.data.overlap=drop leaves them out"
    )
