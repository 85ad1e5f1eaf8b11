"""What the readers share: finding files, fields of rows, and hiding which response is best."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import read_objects, require
from grm_jax.files import visible_files
from grm_jax.text.prompts import Message

T = TypeVar("T")
SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet")


class MissingFiles(ValueError):
    """The files of a benchmark are not there, which is no fault of what they hold."""


def find_file(data_dir: str | os.PathLike, folder: str, name: str, kind: str = "file") -> Path:
    """`name` in `data_dir`/`folder`, or in `data_dir` itself; MissingFiles if in neither."""
    paths = [Path(data_dir) / folder / name, Path(data_dir) / name]
    for path in paths:
        if path.is_dir() if kind == "folder" else path.is_file():
            return path
    raise MissingFiles(f"expected the {kind} {paths[0]} (or {paths[1]})")


def find_folder(data_dir: str | os.PathLike, folder: str, name: str) -> Path:
    """As `find_file`, for a folder."""
    return find_file(data_dir, folder, name, "folder")


def find_tables(data_dir: str | os.PathLike, folder: str, start: str) -> list[Path]:
    """The files of a split as the hub names them, such as ``filtered-00000-of-00001.parquet``.

    They start with `start`, end with one of `SUFFIXES`, and lie in `data_dir`/`folder`, in its
    folder ``data``, or in `data_dir` or its folder ``data``: the first of these that has any.

    Raises:
      MissingFiles: there are none.
    """
    for base in (Path(data_dir) / folder, Path(data_dir)):
        for place in (base, base / "data"):
            found = [p for p in visible_files(place, f"{start}*") if p.name.endswith(SUFFIXES)]
            if found:
                return found
    raise MissingFiles(
        f"expected the files {Path(data_dir) / folder}/{start}* with one of the endings "
        f"{SUFFIXES} (or {Path(data_dir)}/{start}*)"
    )


def read_tables(
    data_dir: str | os.PathLike, folder: str, start: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the files of `find_tables`, each after its place."""
    for path in find_tables(data_dir, folder, start):
        yield from read_objects(path)


def place_of(uid: str, n: int) -> int:
    """A place for the best of n responses: a hash of the uid.

    The files put the best first. Neither ties nor a judge that likes the first response may
    profit from that.
    """
    digest = hashlib.sha256(uid.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") % n


def with_best(uid: str, best: T, others: Sequence[T]) -> tuple[tuple[T, ...], tuple[float, ...]]:
    """(responses, rewards) with the best at its hidden place and the others in their order."""
    responses = list(others)
    place = place_of(uid, len(others) + 1)
    responses.insert(place, best)
    return tuple(responses), tuple(float(i == place) for i in range(len(responses)))


def one_turn(where: str, row: dict[str, Any], name: str) -> tuple[Message]:
    """The string in `row[name]` as a turn of the user; else FieldError."""
    return (Message("user", require(where, row, name, str)),)


def strings(where: str, row: dict[str, Any], *names: str) -> tuple[str, ...]:
    """The strings in the fields of these names; else FieldError."""
    return tuple(require(where, row, name, str) for name in names)


def texts(where: str, row: dict[str, Any], name: str) -> tuple[str, ...]:
    """The list of strings in `row[name]`, not empty; else FieldError."""
    values = require(where, row, name, list)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            problem = f"expected str, got {type(value).__name__}"
            raise FieldError(where, f"{name}[{i}]", problem)
    if not values:
        raise FieldError(where, name, "is empty")
    return tuple(values)


def name_of(where: str, row: dict[str, Any], name: str) -> str:
    """The text of `row[name]`, a string or a number; else FieldError."""
    if type(row.get(name)) not in (int, str):
        raise FieldError(where, name, "expected int or str")
    return str(row[name])


def one_of(where: str, row: dict[str, Any], name: str, known: Sequence[Any]) -> Any:
    """`row[name]`, one of `known` and of the type of its first; else FieldError."""
    value = require(where, row, name, type(known[0]))
    if value not in known:
        raise FieldError(where, name, f"{value!r} is not one of {tuple(known)}")
    return value
