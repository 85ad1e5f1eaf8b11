"""Answers of a server to a part of a work unit.

A unit is written when it is whole, and a server may charge for each of its samples. So every
answer is kept in a file of its own from when it comes until the unit is in the store: the run that
asks for the unit again asks only for what is missing.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from absl import logging

from grm_jax.files import append, write_atomically


class Answer(NamedTuple):
    """A text, whether it ended by itself, and why it is no answer and never will be, or ""."""

    text: str
    stopped: bool
    refusal: str = ""


class PartialUnit:
    """The file of one engine: lines of [key of the request, *Answer]."""

    def __init__(self, path: str | os.PathLike):
        """Touches nothing yet."""
        self._path = pathlib.Path(path)

    @staticmethod
    def key(request: Mapping) -> str:
        """Names a request by everything that is sent in it, and its seed."""
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def read(self) -> dict[str, Answer]:
        """What is kept, by key. A line that does not read is dropped, so it is asked for again."""
        if not self._path.exists():
            return {}
        kept = {}
        for number, line in enumerate(self._path.read_bytes().splitlines(), 1):
            try:
                key, *fields = json.loads(line)
                answer = Answer(*fields)
                "".join((answer.text, answer.refusal)).encode()
                kept[key] = answer
            except (ValueError, TypeError, RecursionError) as error:
                logging.warning("%s:%d: is asked for again: %s", self._path, number, error)
        write_atomically(self._path, b"".join(_line(*item) for item in kept.items()))
        return kept

    def add(self, key: str, answer: Answer) -> None:
        """Keeps an answer: a whole line, or OSError and nothing."""
        line = _line(key, answer)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self._path, "ab") as file:
                append(file.fileno(), line)
        except OSError as error:
            raise OSError(f"{self._path}: {error}") from error

    def clear(self) -> None:
        """Forgets them: the unit is in the store."""
        self._path.unlink(missing_ok=True)


def _line(key: str, answer: Answer) -> bytes:
    return json.dumps([key, *answer]).encode() + b"\n"
