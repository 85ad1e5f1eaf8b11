"""Contamination: prompts of training data that are prompts of a benchmark, or nearly.

Two rules, both on the words of a conversation (roles left out, Unicode compatibility forms, case
and everything between words ignored; each Chinese or Japanese character is a word):

- the same words: a hash of all of them;
- an n-gram of 13 words in common (Brown et al., 2020, appendix C). As there, n-grams that occur in
  more than 10 prompts of the benchmarks are wording of their templates, and do not count.

Responses are not compared: benchmarks and training sets share prompts, seldom answers.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from grm_jax.data.comparison import Comparison
from grm_jax.text.prompts import Message

N = 13
TEMPLATE = 10  # n-grams in more prompts than this are templates

_MAX_WORDS = 2_000_000
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
# Powers, modulo 2**64, of an odd number, so that no word is lost in a product.
_POWERS = {b: np.uint64(pow(0x9E3779B97F4A7C15, b, 2**64)) for b in (1, 2, 4)}


class Overlap(NamedTuple):
    """A benchmark row that a prompt has too.

    Attributes:
      suite: the benchmark.
      uid: of its row.
      rule: "the same prompt" or "13 words in common".
    """

    suite: str
    uid: str
    rule: str

    def __str__(self) -> str:
        return f"{self.rule} as row {self.uid!r} of {self.suite}"


class BenchmarkPrompts:
    """An index of the prompts of some benchmarks: about 100 bytes a word.

    An n-gram is known by 64 bits. A million of them in the index and 20 million looked up meet by
    chance with probability 1e-6.
    """

    def __init__(self, suites: Mapping[str, Sequence[Comparison]]):
        self._words: dict[str, int] = {}
        self._rows: list[tuple[str, str]] = []
        self._prompts: dict[bytes, int] = {}
        self._grams: dict[int, int] = {}
        uses: dict[int, int] = {}
        for suite, comparisons in suites.items():
            for comparison in comparisons:
                row = len(self._rows)
                self._rows.append((suite, comparison.uid))
                words = _words(comparison.messages)
                # Pairs of one prompt, or two forms of one benchmark, must not look like a template.
                if not words or self._prompts.setdefault(_digest(words), row) != row:
                    continue
                for gram in set(self._ngrams(words).tolist()):
                    self._grams.setdefault(gram, row)
                    uses[gram] = uses.get(gram, 0) + 1
        for gram, count in uses.items():
            if count > TEMPLATE:
                del self._grams[gram]

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, messages: Sequence[Message]) -> Overlap | None:
        """A row of the benchmarks that this conversation overlaps with, or None."""
        words = _words(messages)
        row = self._prompts.get(_digest(words))
        if row is not None:
            return Overlap(*self._rows[row], "the same prompt")
        grams = self._ngrams(words).tolist()
        if self._grams.keys().isdisjoint(grams):
            return None
        row = next(self._grams[gram] for gram in grams if gram in self._grams)
        return Overlap(*self._rows[row], f"{N} words in common")

    def _ngrams(self, words: Sequence[str]) -> np.ndarray:
        """Hashes of all runs of N words; uint64."""
        known = self._words
        if len(known) > _MAX_WORDS:  # names and addresses of millions of rows; all can be made anew
            known.clear()
        for word in set(words).difference(known):
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "big") >> 1  # fits an int64, which reads faster
        values = np.fromiter(map(known.__getitem__, words), np.int64, len(words)).view(np.uint64)
        if len(words) < N:
            return values[:0]
        two = _joined(values, 1, values, 1)
        four = _joined(two, 2, two, 2)
        eight = _joined(four, 4, four, 4)
        return _joined(_joined(eight, 8, four, 4), 12, values, 1)


def _joined(left: np.ndarray, a: int, right: np.ndarray, b: int) -> np.ndarray:
    """Hashes of runs of a + b words, from those of a words and of b words (Horner's rule)."""
    count = len(left) - b
    return left[:count] * _POWERS[b] + right[a : a + count]


def _words(messages: Sequence[Message]) -> list[str]:
    text = "\n".join(message.content for message in messages)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.casefold())


def _digest(words: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
