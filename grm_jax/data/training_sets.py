"""Published training sets of reward models, read in the format they are published in.

A set has a reader of its rows, which yields comparisons; what a row cannot give (a tie, no right
answer) is counted under a reason and never lost silently. `mixture` draws from several sets in one
order that depends on the seed alone.

Column names are those of the dataset cards on the Hugging Face hub, named at each reader. Sets are
never part of this project; `tools/download.py` fetches them.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grm_jax.data.comparison import (
    Comparison,
    FieldError,
    collect,
    from_row,
    located,
    read_messages,
    read_objects,
    require,
)
from grm_jax.text.answers import same_answer
from grm_jax.text.prompts import Message
from grm_jax.text.scores import last_box

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
Row = Mapping[str, Any]
Reader = Callable[[str, str, Row], "Iterator[Comparison | str]"]


# --- Readers: (place, uid, row) to comparisons, or the reason why there is none ----------------


def _pair(where, uid, messages, responses, strength, subset="", meta=None):
    """Two responses of which the first is better by -strength, or the second by strength."""
    if strength == 0:
        return "tie"
    rewards = (float(max(-strength, 0)), float(max(strength, 0)))
    return located(where, uid, messages, responses, rewards, subset, meta or {})


def ultrafeedback(where: str, uid: str, row: Row) -> Iterator[Comparison | str]:
    """openbmb/UltraFeedback: an `instruction` and `completions` with a `fine-grained_score` each.

    That score is the mean of the four aspects, 1 to 5. `overall_score` is not read: some of its
    tens are known to stand for ones.
    """
    completions = require(where, row, "completions", list)
    texts, rewards = [], []
    for i, completion in enumerate(completions):
        inner = f"{where}: completions[{i}]"
        if not isinstance(completion, dict):
            raise FieldError(where, f"completions[{i}]", "expected an object")
        texts.append(require(inner, completion, "response", str))
        rewards.append(_number(inner, completion, "fine-grained_score"))
    if len(texts) < 2:
        yield "fewer than two responses"
    elif rewards.count(max(rewards)) > 1:
        yield "tie"
    else:
        query = (Message("user", require(where, row, "instruction", str)),)
        yield located(where, uid, query, tuple(texts), tuple(rewards), row.get("source") or "")


def offsetbias(where: str, uid: str, row: Row) -> Iterator[Comparison | str]:
    """NCSOFT/offsetbias: `instruction`, `output_1`, `output_2`, and the better one as `label`."""
    label = require(where, row, "label", int)
    if label not in (1, 2):
        raise FieldError(where, "label", f"is 1 or 2, got {label}")
    query = (Message("user", require(where, row, "instruction", str)),)
    outputs = tuple(require(where, row, name, str) for name in ("output_1", "output_2"))
    yield _pair(where, uid, query, outputs, 1 if label == 2 else -1)


def skywork(where: str, uid: str, row: Row) -> Iterator[Comparison | str]:
    """Skywork/Skywork-Reward-Preference-80K-v0.2: whole conversations `chosen` and `rejected`."""
    sides = {}
    for name in ("chosen", "rejected"):
        messages = read_messages(where, row, name, extra=())
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise FieldError(where, name, "expected a conversation that the assistant ends")
        sides[name] = messages
    chosen, rejected = sides["chosen"], sides["rejected"]
    if chosen[:-1] != rejected[:-1]:
        yield "different queries"
    elif chosen[-1] == rejected[-1]:
        yield "equal responses"
    else:
        texts = (chosen[-1].content, rejected[-1].content)
        yield _pair(where, uid, chosen[:-1], texts, -1, row.get("source") or "")


def helpsteer2(where: str, uid: str, row: Row) -> Iterator[Comparison | str]:
    """nvidia/HelpSteer2, folder `preference`: `preference_strength` from -3 to 3, < 0: the first.

    The strength goes into the hint of hinted sampling (`meta["hint_note"]`), as in the paper
    (section 3.1: for preference data with a strength).
    """
    strength = _strength(where, row, "preference_strength")
    query = (Message("user", require(where, row, "prompt", str)),)
    texts = tuple(require(where, row, name, str) for name in ("response_1", "response_2"))
    yield _pair(where, uid, query, texts, strength, "", _note(strength))


def helpsteer3(where: str, uid: str, row: Row) -> Iterator[Comparison | str]:
    """nvidia/HelpSteer3, folder `preference`: a `context`, two responses, `overall_preference`."""
    strength = _strength(where, row, "overall_preference")
    texts = tuple(require(where, row, name, str) for name in ("response1", "response2"))
    context = read_messages(where, row, "context", extra=())
    yield _pair(where, uid, context, texts, strength, row.get("domain") or "", _note(strength))


def math(where: str, uid: str, row: Row) -> Iterator[Comparison | str]:
    """MATH problems (hendrycks/competition_math: `problem`, `solution`) with sampled `responses`.

    Right is a response whose last box holds the answer of the solution, or of `answer` if the row
    has one. The first right and the first wrong response make a pair, and each a single response
    with label 1 or 0: paper section 4 has both forms, and does not say how many of each.
    """
    problem = require(where, row, "problem", str)
    if "answer" in row:
        truth = require(where, row, "answer", str)
    else:
        truth = last_box(require(where, row, "solution", str))
        if truth is None:
            raise FieldError(where, "solution", "has no \\boxed{...} answer")
    responses = require(where, row, "responses", list)
    found: dict[bool, str] = {}
    for i, text in enumerate(responses):
        if not isinstance(text, str):
            raise FieldError(where, f"responses[{i}]", "expected a string")
        answer = last_box(text)
        right = answer is not None and same_answer(answer, truth)
        found.setdefault(right, text)
    query, subset = (Message("user", problem),), row.get("type") or ""
    if len(found) == 2:
        texts = (found[True], found[False])
        yield located(where, f"{uid}/pair", query, texts, (1.0, 0.0), subset)
    else:
        yield f"every response is {'right' if True in found else 'wrong'}"
    for right, text in found.items():
        name = f"{uid}/{'right' if right else 'wrong'}"
        yield located(where, name, query, (text,), (float(right),), subset)


def _number(where, row, name) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FieldError(where, name, f"expected a number, got {value!r}")
    return float(value)


def _strength(where, row, name) -> int:
    strength = require(where, row, name, int)
    if not -3 <= strength <= 3:
        raise FieldError(where, name, f"is -3 to 3, got {strength}")
    return strength


def _note(strength: int) -> dict[str, str]:
    word = {1: "slightly", 2: "clearly", 3: "much"}.get(abs(strength))
    return {"hint_note": f"It is {word} better."} if word else {}


# --- Sets and mixtures -------------------------------------------------------------------------

READERS: Mapping[str, Reader] = {
    "ultrafeedback": ultrafeedback,
    "offsetbias": offsetbias,
    "skywork": skywork,
    "helpsteer2": helpsteer2,
    "helpsteer3": helpsteer3,
    "math": math,
}
JSONL = "jsonl"  # our own format, see `comparison.from_row`


@dataclasses.dataclass(frozen=True)
class Source:
    """One set of a mixture.

    Attributes:
      name: a key of `READERS`, or "jsonl".
      path: file, or folder with files of `SUFFIXES`, searched through.
      weight: share of the mixture relative to the others; None is the number of comparisons.
    """

    name: str
    path: str
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """What was read of a source.

    Attributes:
      source: where from.
      comparisons: in the order of the files; uids begin with the name of the set.
      places: file and line, or row, of each.
      dropped: rows without a comparison, by reason.
    """

    source: Source
    comparisons: list[Comparison]
    places: list[str]
    dropped: Mapping[str, int]

    def without(self, gone: Collection[int], reason: str) -> TrainingSet:
        """The same set without some of its comparisons, by index."""
        kept = [i for i in range(len(self.comparisons)) if i not in gone]
        return dataclasses.replace(
            self, comparisons=[self.comparisons[i] for i in kept],
            places=[self.places[i] for i in kept], dropped={**self.dropped, reason: len(gone)},
        )  # fmt: skip


def parse_sources(text: str) -> list[Source]:
    """Sources of ``name:path[:weight], ...``.

    Raises:
      ValueError: naming the part that is not of this form, or weights on some parts only.
    """
    sources = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = part.partition(":")
        if name not in (*READERS, JSONL) or not rest:
            raise ValueError(
                f"expected NAME:PATH or NAME:PATH:WEIGHT with NAME one of "
                f"{(*READERS, JSONL)}, got {part!r}"
            )
        path, _, weight = rest.rpartition(":")
        try:
            sources.append(Source(name, path, float(weight)) if path else Source(name, rest))
        except ValueError:  # a colon in the path
            sources.append(Source(name, rest))
        if sources[-1].weight is not None and not sources[-1].weight > 0:
            raise ValueError(f"the weight in {part!r} must be positive")
    if len({source.weight is None for source in sources}) > 1:
        raise ValueError(f"either all sets have a weight or none has: {text!r}")
    return sources


def files(path: str | os.PathLike) -> list[Path]:
    """The file, or the files of `SUFFIXES` below a folder, sorted. ValueError if there is none."""
    path = Path(path)
    found = [path] if path.is_file() else sorted(
        file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES)
    )  # fmt: skip
    if not found:
        raise ValueError(f"{path}: no such file, or no file with one of {SUFFIXES} below it")
    return found


def read(source: Source) -> TrainingSet:
    """Reads one set whole.

    Raises:
      ValueError: a missing file or a bad row, as ``path:line: field 'x': ...``; also a set without
        any comparison.
    """
    dropped: Counter[str] = Counter()
    places: list[str] = []

    def found():
        number = 0
        for file in files(source.path):
            for where, row in read_objects(file):
                for one in _read_row(source.name, where, number, row):
                    if isinstance(one, str):
                        dropped[one] += 1
                    else:
                        places.append(where)
                        yield where, one
                number += 1

    comparisons = collect(found())
    if not comparisons:
        raise ValueError(f"{source.path}: no row gives a comparison; {dict(dropped)}")
    return TrainingSet(source, comparisons, places, dict(dropped))


def _read_row(name, where, number, row):
    if name == JSONL:
        return [from_row(where, row)]
    return READERS[name](where, f"{name}/{number}", row)


def mixture(sets: Sequence[TrainingSet], count: int, *, seed: int) -> list[Comparison]:
    """`count` comparisons in an order that the seed decides, none twice.

    Each set gives its share; the last of a set that is too small go to the others, and of all
    sets together there may be fewer than `count`.
    """
    sizes = np.array([len(one.comparisons) for one in sets])
    weights = [one.source.weight for one in sets]
    shares = sizes if None in weights else np.array(weights, float)
    taken = _allot(sizes, shares / shares.sum(), min(count, int(sizes.sum())))
    rng = np.random.default_rng((seed, 0x6D6978))
    chosen = [
        one.comparisons[i]
        for one, take in zip(sets, taken, strict=True)
        for i in rng.permutation(len(one.comparisons))[:take]
    ]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _allot(sizes: np.ndarray, shares: np.ndarray, count: int) -> np.ndarray:
    """How many of each set: as near to the shares as their sizes let it, `count` in all."""
    taken = np.zeros(len(sizes), int)
    while (left := count - taken.sum()) > 0:
        open_ = taken < sizes
        wish = left * np.where(open_, shares, 0.0) / shares[open_].sum()
        step = np.minimum(np.floor(wish).astype(int), sizes - taken)
        if not step.any():  # fewer are left than there are sets: the largest wishes get one each
            for i in np.argsort(-wish, kind="stable")[:left]:
                taken[i] += min(1, sizes[i] - taken[i])
            continue
        taken += step
    return taken


# --- General instruction data ------------------------------------------------------------------


def read_general(path: str | os.PathLike) -> list[tuple[tuple[Message, ...], str]]:
    """General instruction data: rows with `messages`, of which the assistant's last is the answer.

    Raises:
      ValueError: a missing file, or a bad row as ``path:line: field 'messages': ...``.
    """
    found = []
    for file in files(path):
        for where, row in read_objects(file):
            messages = read_messages(where, row, "messages", extra=())
            if len(messages) < 2 or messages[-1].role != "assistant":
                raise FieldError(where, "messages", "expected a last message of the assistant")
            found.append((messages[:-1], messages[-1].content))
    return found
