"""Does a training set contain prompts of a benchmark? By normalised text, and by 13-grams of words.

Two prompts overlap if they are equal after normalisation, or if at least half of the 13-grams of
the benchmark's prompt occur in the one of the training set (13 words are what the GPT-3 report,
arXiv 2005.14165 appendix C, counts; half, so that a quoted passage or a common instruction alone
is none). Only user turns count: system prompts are shared by rows that have nothing else in common.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from grm_jax.data.comparison import Comparison
from grm_jax.text.prompts import Message

GRAM = 13
SHARE = 0.5
_WORD = re.compile(r"\w+")


class Overlap(NamedTuple):
    """A row of a benchmark that a training prompt repeats.

    Attributes:
      suite, uid: the row.
      share: of the 13-grams of its prompt; 1.0 where the prompts are equal.
    """

    suite: str
    uid: str
    share: float


def words(messages: Sequence[Message]) -> tuple[str, ...]:
    """The words of all user turns, without case, punctuation and Unicode compatibility forms."""
    text = " ".join(message.content for message in messages if message.role == "user")
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


class Index:
    """The prompts of benchmarks, to look training prompts up in."""

    def __init__(self, suites: Mapping[str, Iterable[Comparison]]):
        self._whole: dict[int, tuple[str, str]] = {}
        self._grams: dict[int, list[int]] = {}  # hash of a gram -> rows
        self._rows: list[tuple[str, str, int]] = []  # suite, uid, distinct grams
        for suite, comparisons in suites.items():
            for comparison in comparisons:
                own = words(comparison.messages)
                if not own:
                    continue
                grams = _grams(own)
                self._whole.setdefault(hash(own), (suite, comparison.uid))
                for gram in grams:
                    self._grams.setdefault(gram, []).append(len(self._rows))
                self._rows.append((suite, comparison.uid, len(grams)))

    def find(self, messages: Sequence[Message]) -> Overlap | None:
        """The row that a prompt overlaps most, if there is one.

        Prompts of fewer than 13 words can only be equal.
        """
        own = words(messages)
        equal = self._whole.get(hash(own)) if own else None
        if equal is not None:
            return Overlap(*equal, 1.0)
        hits = Counter(row for gram in _grams(own) for row in self._grams.get(gram, ()))
        shares = ((count / self._rows[row][2], -row) for row, count in hits.items())
        share, row = max(shares, default=(0.0, 0))
        if share < SHARE:
            return None
        suite, uid, _ = self._rows[-row]
        return Overlap(suite, uid, share)


def _grams(own: Sequence[str]) -> set[int]:
    """Hashes of 64 bits: a collision of two grams in a million million is no concern here."""
    return {hash(tuple(own[i : i + GRAM])) for i in range(len(own) - GRAM + 1)}
