r"""A teacher without labels: whether a response contains the reference, written as a trajectory.

    Specific Criteria: right person 6, agrees with the reference 3, nothing false 1
    Analysis:
    Response 1: says "Marie Curie", as it should = 9
    Response 2: says "Pierre", not "Marie Curie" = 2
    Scores: \boxed{9, 2}

The rule looks at no reward. It is biased on purpose: a right answer in other words is wrong to it.
What it demonstrates is the form, and to compare; to judge better than it is left to training.

A reference may be several right answers, parted by "/". Which words say the same thing varies with
the generator, and so do the scores, 8 to 10 or 1 to 3: among responses that the rule cannot tell
apart, the samples of a model that learnt from it differ, and a reward has something to choose from.
"""

import re
import unicodedata

import numpy as np

from grm_jax.data.comparison import Comparison
from grm_jax.text.prompts import PRINCIPLES_HEADING, guard

HINTED = 0.12  # share of demonstrations whose prompt has the hint, as in the small world

_QUOTED = 4  # words; one fewer in lists of four and more, whose trajectories are long
_WEIGHTS = (6, 3, 1)
# What a question asks for, by its first words that are here.
_WANTED = {
    "who": "person", "whose": "person", "when": "time", "where": "place", "how many": "number",
    "how much": "amount", "how long": "length", "how old": "age", "what year": "year",
    "what": "answer", "which": "one",
}  # fmt: skip
_SECOND = ("agrees with the reference", "the same as the reference", "meets the reference")
_THIRD = ("nothing false", "to the point", "complete", "clear")
_CONTAINED = ('says "{right}", as it should', 'has "{right}", right', '"{right}" is right')
_OTHER = ('says "{said}", not "{right}"', 'has "{said}", no "{right}"', '"{said}" is not "{right}"')
# Words that no quotation begins or ends with.
_COMMON = frozenset(
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "its", "of", "on",
     "or", "that", "the", "this", "to", "was", "were", "with")
)  # fmt: skip


def contained(reference: str, response: str) -> str:
    """The first of the right answers of a reference that a response contains; "" for none.

    Case, accents, punctuation and articles do not count; parts of words do.
    """
    text = _normal(response)
    for answer in reference.split("/"):
        if (wanted := _normal(answer)) and wanted in text:
            return answer.strip()
    return ""


def verdict(comparison: Comparison) -> int | None:
    """Index of the only response with the reference, None without one; 0 or 1 for a single one."""
    found = [bool(contained(comparison.reference, text)) for text in comparison.responses]
    if comparison.n == 1:
        return int(found[0])
    return found.index(True) if found.count(True) == 1 else None


def demonstration(
    comparison: Comparison, rng: np.random.Generator, *, principles: str = "self"
) -> str:
    """The trajectory of the rule for responses in their given order.

    Args:
      comparison: with a reference.
      rng: chooses wording and scores.
      principles: "self" states criteria that fit the question; "none" leaves them out.

    Raises:
      ValueError: the comparison has no reference.
    """
    if not comparison.reference.strip():
        raise ValueError(f"comparison {comparison.uid!r}: has no reference to compare with")
    query = comparison.messages[-1].content
    lines, scores = [], []
    most = _QUOTED - (comparison.n > 3)
    for i, response in enumerate(comparison.responses):
        right = contained(comparison.reference, response)
        said = _told(response, query)
        words = str(rng.choice(_CONTAINED if right else _OTHER))
        level = int(rng.integers(3))
        scores.append(int(bool(right)) if comparison.n == 1 else (8 if right else 1) + level)
        right = right or _closest(comparison.reference, response)
        text = words.format(right=_clip(right, most), said=_clip(said, most))
        name = f"Response {i + 1}" if comparison.n > 1 else "Response"
        lines.append(f"{name}: {text} = {scores[-1]}")
    stated = [f"{PRINCIPLES_HEADING} {_criteria(query, rng)}"] if principles == "self" else []
    box = f"Scores: \\boxed{{{', '.join(map(str, scores))}}}"
    return "\n".join([*stated, "Analysis:", *lines, box])


def _criteria(query: str, rng: np.random.Generator) -> str:
    asked = f" {_normal(query)} "
    wanted = next((word for start, word in _WANTED.items() if f" {start} " in asked), "answer")
    named = (f"right {wanted}", str(rng.choice(_SECOND)), str(rng.choice(_THIRD)))
    return ", ".join(f"{name} {weight}" for name, weight in zip(named, _WEIGHTS, strict=True))


def _normal(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    words = re.sub(r"[^\w]+", " ", plain)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split())


def _closest(reference: str, response: str) -> str:
    """The right answer that shares the most words with a response, the first of several."""
    words = set(_normal(response).split())
    return max(reference.split("/"), key=lambda answer: len(words & set(_normal(answer).split())))


def _told(response: str, query: str) -> str:
    """What a response adds to its query: its run of new words with the most names and numbers."""
    known = set(_normal(query).split())
    runs: list[list[str]] = [[]]
    for word in filter(_normal, response.split()):
        if known.isdisjoint(_normal(word).split()):
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    for run in runs:
        while run and run[0].casefold() in _COMMON:
            del run[0]
        while run and run[-1].casefold() in _COMMON:
            del run[-1]
    return " ".join(max(runs, key=_names))


def _names(words: list[str]) -> tuple[int, int]:
    shown = words[:_QUOTED]
    return sum(word[0].isupper() or word[0].isdigit() for word in shown), len(shown)


def _clip(text: str, most: int) -> str:
    """The first words of a text, as a quotation on one line."""
    words = guard(text).replace('"', "").split()
    return " ".join(words[:most]).strip(" .,;:") or "nothing"
