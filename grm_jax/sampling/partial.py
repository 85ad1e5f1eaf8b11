"""Answers of a server to a part of a work unit.

A unit is written when it is whole, and a server may charge for each of its samples. So every
answer is kept in a file of its own from when it comes until the unit is whole: the run that asks
for the unit again asks only for what is missing.
"""

import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Mapping

from grm_jax.files import write_atomically


class PartialUnit:
    """The file of one engine: lines of [key of the request, text, whether it ended by itself]."""

    def __init__(self, path: str | os.PathLike):
        """Touches nothing yet."""
        self._path = pathlib.Path(path)
        self._lock = threading.Lock()

    @staticmethod
    def key(request: Mapping) -> str:
        """Names a request by everything that is sent in it, its seed too."""
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def read(self) -> dict[str, tuple[str, bool]]:
        """What is kept, by key. A line that was cut off by the end of a process is dropped."""
        if not self._path.exists():
            return {}
        whole = self._path.read_bytes().split(b"\n")[:-1]
        write_atomically(self._path, b"".join(line + b"\n" for line in whole))
        return {key: (text, stopped) for key, text, stopped in map(json.loads, whole)}

    def add(self, key: str, text: str, stopped: bool) -> None:
        """Keeps an answer, from any thread."""
        line = json.dumps([key, text, stopped]).encode() + b"\n"
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab") as file:
                file.write(line)

    def clear(self) -> None:
        """Forgets them: the unit is whole."""
        self._path.unlink(missing_ok=True)
