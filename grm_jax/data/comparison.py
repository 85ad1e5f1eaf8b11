"""The comparison: a query, one or more responses and the gold.

Every reader ends in `Comparison`, whose validation is the only gate between files and the rest of
the code. Bad input raises `FieldError`, a ValueError that names the place (``path:line`` or
``path[row]``), the field and the problem.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grm_jax.text.prompts import Message

ROLES = ("system", "user", "assistant")


class FieldError(ValueError):
    """Bad input at a known place; reads ``<where>: field '<name>': <problem>``."""

    def __init__(self, where: str, name: str, problem: str):
        super().__init__(where, name, problem)
        self.where, self.name, self.problem = where, name, problem

    def __str__(self) -> str:
        return f"{self.where}: field {self.name!r}: {self.problem}"


class ContentError(FieldError):
    """A row of the right format whose contents make no comparison; `problem` is one of a few."""


@dataclass(frozen=True)
class Comparison:
    """One query with N >= 1 responses and their gold.

    Attributes:
      uid: non-empty name, unique in a data set; it seeds orders and keys trajectories.
      messages: the conversation; roles system, user or assistant, the last one a user turn. A
        blank turn is legal: benchmarks have some.
      responses: [N] texts to be scored; an empty text is a legal response, and so are equal ones.
      rewards: [N] finite gold values. N >= 2: the maximum is unique (the winner of paper Eq. 10),
        unless `several_best`. N == 1: 0.0 or 1.0.
      subset: the category that tables report apart.
      meta: data for later scoring by string keys, never shown to a model.
      hint_note: a further line of the hint of hinted sampling, such as how strong the preference
        is. It must not name a position: the order of the responses is drawn later.
      principles: given principles, where a benchmark brings its own.
      reference: a correct answer to the query, where a benchmark shows one.
      several_best: responses may share the highest reward: a tie that people stated, or several
        right answers. Only benchmarks have such comparisons; nothing can be trained on them.

    Raises:
      FieldError: a field breaks one of these rules; the message names the uid and the field. A
        ContentError if the format is right and the contents are not.
    """

    uid: str
    messages: tuple[Message, ...]
    responses: tuple[str, ...]
    rewards: tuple[float, ...]
    subset: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    hint_note: str = ""
    several_best: bool = False
    principles: str = ""
    reference: str = ""

    def __post_init__(self) -> None:
        where = f"comparison {self.uid!r}"
        put = functools.partial(object.__setattr__, self)
        for name in ("uid", "subset", "hint_note", "principles", "reference"):
            _check_text(where, name, getattr(self, name))
        if not self.uid.strip():
            raise FieldError(where, "uid", "is empty")
        for name in ("messages", "responses", "rewards"):
            values = getattr(self, name)
            _check_type(where, name, values, (list, tuple), "a list")
            if not values:
                raise FieldError(where, name, "is empty")
            put(name, tuple(values))
        put("messages", _checked_messages(where, self.messages))
        for i, response in enumerate(self.responses):
            _check_text(where, f"responses[{i}]", response)
        put("rewards", _checked_rewards(where, self.rewards, self.n))
        if self.n > 1 and not self.several_best and len(self.winners) > 1:
            raise ContentError(where, "rewards", "no single best response")
        if not isinstance(self.meta, Mapping) or not all(isinstance(k, str) for k in self.meta):
            raise FieldError(where, "meta", "expected a mapping with string keys")
        put("meta", dict(self.meta))

    @property
    def n(self) -> int:
        """Number of responses."""
        return len(self.responses)

    @property
    def winners(self) -> tuple[int, ...]:
        """Indices of the responses with the highest reward: one, unless `several_best`."""
        highest = max(self.rewards)
        return tuple(i for i, reward in enumerate(self.rewards) if reward == highest)

    @property
    def best(self) -> int:
        """Index of the response with the unique highest reward; ValueError where there is none."""
        if self.n == 1:
            raise ValueError(f"comparison {self.uid!r}: one response has a label, not a best")
        if len(self.winners) > 1:
            raise ValueError(f"comparison {self.uid!r}: several responses are best")
        return self.winners[0]

    @property
    def label(self) -> int:
        """0 or 1 for a single response; ValueError for several."""
        if self.n != 1:
            raise ValueError(f"comparison {self.uid!r}: {self.n} responses have a best, no label")
        return int(self.rewards[0])

    def in_order(self, order: Sequence[int]) -> Comparison:
        """The comparison with its responses and rewards permuted."""
        return replace(
            self,
            responses=tuple(self.responses[i] for i in order),
            rewards=tuple(self.rewards[i] for i in order),
        )

    def content_hash(self) -> str:
        """SHA-256 (hex) of the normalised messages and the sorted normalised responses.

        Case, white space and Unicode compatibility forms do not count, nor do the order of the
        responses, the uid and the gold: two data sets are disjoint if no hash occurs in both.
        """
        messages = [[message.role, _normal(message.content)] for message in self.messages]
        content = json.dumps([messages, sorted(_normal(text) for text in self.responses)])
        return hashlib.sha256(content.encode()).hexdigest()


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_type(where: str, name: str, value: Any, kind: Any, expected: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FieldError(where, name, f"expected {expected}, got {type(value).__name__}")


def _check_text(where: str, name: str, text: Any) -> None:
    _check_type(where, name, text, str, "a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair; such a string can be neither hashed nor tokenised.
        raise ContentError(where, name, "text that is not valid Unicode") from None


def _checked_messages(where: str, messages: tuple[Any, ...]) -> tuple[Message, ...]:
    for i, message in enumerate(messages):
        if not isinstance(message, tuple) or len(message) != 2:
            raise FieldError(where, f"messages[{i}]", "expected a Message(role, content)")
        role, content = message
        if role not in ROLES:
            raise FieldError(where, f"messages[{i}].role", f"{role!r} is not one of {ROLES}")
        _check_text(where, f"messages[{i}].content", content)
    if messages[-1][0] != "user":
        raise ContentError(where, "messages", "no user turn at the end")
    return tuple(Message(*message) for message in messages)


def _checked_rewards(where: str, rewards: tuple[Any, ...], n: int) -> tuple[float, ...]:
    for i, reward in enumerate(rewards):
        _check_type(where, f"rewards[{i}]", reward, (int, float), "a number")
    if len(rewards) != n:
        raise FieldError(where, "rewards", f"{len(rewards)} rewards for {n} responses")
    try:
        checked = tuple(float(reward) for reward in rewards)
    except OverflowError:
        checked = (math.inf,)
    if not all(map(math.isfinite, checked)):
        raise FieldError(where, "rewards", f"must be finite, got {rewards}")
    if n == 1 and checked[0] not in (0.0, 1.0):
        raise FieldError(where, "rewards", f"one response has reward 0 or 1, got {checked[0]}")
    return checked
