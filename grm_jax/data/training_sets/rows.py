"""Shared by the readers of training sets: unusable rows, words of a hint, splits of our own.

A row of another format is an error with its place. A row of the right format that holds no
comparison, such as a tie, is `Unusable`: published sets have them, and they are counted.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grm_jax.data.comparison import ROLES, Comparison, FieldError
from grm_jax.data.reading import located, read_messages, require
from grm_jax.text.prompts import Message

Row = Mapping[str, Any]
Comparisons = Iterator[Comparison]
PARTS = ("train", "development", "test")
_STRENGTHS = {1: "slightly better", 2: "better", 3: "much better"}


class Unusable(Exception):
    """A well-formed row that is not usable, with the reason under which it is counted."""


def comparison(where: str, uid: str, *fields: Any, query: str, **named: Any) -> Comparison:
    """`reading.located`, with the name of the set, which begins the uid, as the subset."""
    subset = uid.partition("/")[0]
    return located(where, uid, *fields, query=query, subset=subset, **named)


def check_usable(record: Any) -> None:
    """Raises Unusable for a record that a benchmark may have and nothing can be learned from."""
    if not record.messages[-1].content.strip():
        raise Unusable("blank query")
    several = isinstance(record, Comparison) and record.n > 1
    if several and record.responses.count(record.responses[record.best]) > 1:
        raise Unusable("equal responses")


def conversation(where: str, row: Row, name: str) -> tuple[Message, ...]:
    """The turns in `row[name]`, of which other keys than role and content are passed over.

    Raises:
      Unusable: a turn of a tool or of another role that prompts do not have.
      FieldError: no list of turns, or one without role and content.
    """
    turns = require(where, row, name, list)
    keys = {key for turn in turns if isinstance(turn, dict) for key in turn}
    if any(isinstance(turn, dict) and turn.get("role") in ("tool", "function") for turn in turns):
        raise Unusable("turns of tools")
    messages = read_messages(where, row, name, extra=tuple(keys))
    for i, message in enumerate(messages):
        if message.role not in ROLES:
            problem = f"{message.role!r} is not one of {ROLES}"
            raise FieldError(where, f"{name}[{i}].role", problem)
    return messages


def turns_of(parts: Sequence[str]) -> list[Message]:
    """The turns of a text that was split into roles and contents, one after the other.

    Raises:
      Unusable: user and assistant, system messages aside, do not alternate.
    """
    pairs = zip(parts[::2], parts[1::2], strict=True)
    turns = [Message(role.lower(), text) for role, text in pairs]
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if spoken != (["user", "assistant"] * len(turns))[: len(spoken)]:
        raise Unusable("turns that do not alternate")
    return turns


def strength_note(strength: int) -> str:
    """The line of a hint that says how strong a preference is: 1 slight, 2 clear, 3 strong."""
    return f"It is {_STRENGTHS[strength]} than the other response."


def signed_preference(where: str, row: Row, name: str) -> tuple[tuple, str]:
    """Rewards and note of a preference from -3 (the first is much better) to 3 (the second).

    Raises:
      Unusable: 0, about the same.
      FieldError: not such an integer.
    """
    value = require(where, row, name, int)
    if not -3 <= value <= 3:
        raise FieldError(where, name, f"expected an integer from -3 to 3, got {value}")
    if value == 0:
        raise Unusable("no single best response")
    return ((1.0, 0.0) if value < 0 else (0.0, 1.0)), strength_note(abs(value))


def part_of(where: str, row: Row, name: str) -> str:
    """The one of `PARTS` that a row of a set without splits is in: six, one or three tenths.

    The words of the question `row[name]` decide by their hash, so that no other row matters.
    """
    words = re.findall(r"\w+", require(where, row, name, str).casefold())
    tenth = _hash(" ".join(words)) % 10
    return PARTS[(tenth > 5) + (tenth > 6)]


def shuffled(question: str, names: Sequence[str]) -> list[str]:
    """Names in an order by a hash: where a file has fixed places, they tell who answered."""
    return sorted(names, key=lambda name: _hash(f"{question}\x1f{name}"))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")
