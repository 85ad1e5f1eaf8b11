"""Mixtures of training sets: one string of a config, read in one global order.

    "ultrafeedback:DIR:0.3,helpsteer2:DIR,comparisons:FILE"

is a list of NAME:PATH[:WEIGHT], where NAME is one of `training_sets.SETS`. The weight (1 unless
given) multiplies the chance of each row of the set to come next, so a set's share of the beginning
of the order is in proportion to weight times rows. Rows are drawn without replacement, as in
Efraimidis and Spirakis (2006): a row with weight w comes at the place of -log(u) / w, where u is a
hash of (seed, uid). The order thus depends on no file size and no other row: the first 1,000 of a
mixture are the first 1,000 of its first 100,000.
"""

import hashlib
import heapq
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from grm_jax.data.comparison import FieldError
from grm_jax.data.training_sets import SETS, Record


@dataclass(frozen=True)
class Source:
    """One set of a mixture: its name, its folder or file, the weight of its rows."""

    name: str
    path: str
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.name}:{self.path}"


def parse(text: str, kind: str) -> tuple[Source, ...]:
    """The sources of a mixture; () for an empty string. No file is touched.

    Args:
      text: NAME:PATH[:WEIGHT], comma-separated; a path can hold neither a comma nor a colon.
      kind: the sets that may be named: "comparisons" or "instructions".

    Raises:
      ValueError: an unknown set or one of another kind, no path, a weight that is no positive
        number, or the same source twice.
    """
    sources = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, *rest = part.split(":")
        known = [one.name for one in SETS.values() if one.kind == kind]
        if name not in known:
            raise ValueError(f"{part!r}: {name!r} is none of the sets of {kind}, {known}")
        if len(rest) not in (1, 2) or not rest[0]:
            raise ValueError(f"{part!r}: expected NAME:PATH or NAME:PATH:WEIGHT")
        try:
            weight = float(rest[1]) if len(rest) == 2 else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ValueError(f"{part!r}: the weight must be a positive number, got {rest[1]!r}")
        sources.append(Source(name, os.path.expanduser(rest[0]), weight))
    for source, count in Counter(map(str, sources)).items():
        if count > 1:
            raise ValueError(f"{source!r} is given {count} times")
    return tuple(sources)


@dataclass
class Counts:
    """Numbers of rows and records read from a source, and of unusable rows by reason."""

    rows: int = 0
    records: int = 0
    unusable: Counter = field(default_factory=Counter)


def read(
    sources: Sequence[Source], counts: Callable[[Source], Counts] = lambda source: Counts()
) -> Iterator[tuple[str, Source, Record]]:
    """(place, source, record) of every usable row, in the order of the files, one at a time.

    Args:
      sources: what to read.
      counts: gives the counts of a source, which are added to.

    Raises:
      ValueError: a source without a usable row, a uid that comes twice, or what
        `TrainingSet.rows` raises.
    """
    seen: set[bytes] = set()  # of a million rows, digests take a quarter of the room of names
    for source in sources:
        count = counts(source)
        usable = False
        for where, records in SETS[source.name].rows(source.path):
            count.rows += 1
            if isinstance(records, str):
                count.unusable[records] += 1
                continue
            for record in records:
                digest = hashlib.blake2b(record.uid.encode(), digest_size=8).digest()
                if digest in seen:
                    raise FieldError(where, "uid", f"{record.uid!r} comes twice in the mixture")
                seen.add(digest)
                count.records += 1
                usable = True
                yield where, source, record
        if not usable:
            raise ValueError(f"{source}: no usable row among {count.rows}: {dict(count.unusable)}")


def take(
    sources: Sequence[Source], count: int, *, seed: int, without: frozenset[str] = frozenset()
) -> list[Record]:
    """The first `count` records of the global order of a seed, or all, `without` some uids.

    No more of them are in memory at a time. Raises ValueError as `read`.
    """
    wanted = (
        (_place(record.uid, source.weight, seed), record)
        for _, source, record in read(sources)
        if record.uid not in without
    )
    return [record for _, record in heapq.nsmallest(count, wanted, key=lambda pair: pair[0])]


def _place(uid: str, weight: float, seed: int) -> tuple[float, str]:
    """Where a record stands in the order; the uid decides between equal numbers."""
    digest = hashlib.sha256(f"{seed}\x1f{uid}".encode()).digest()
    u = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
    return -math.log(u) / weight, uid
