"""Shared by the readers: the files of a benchmark, and a hidden place for the best response."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import read_objects, require
from grm_jax.files import visible_files

T = TypeVar("T")
SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet")


class MissingFiles(ValueError):
    """The files of a benchmark are not there, which is no fault of what they hold."""


def find_base(data_dir: Path, folder: str, names: Collection[str], kind: str = "file") -> Path:
    """`data_dir`/`folder`, or `data_dir` itself: the first that has one of the files or folders.

    Raises:
      MissingFiles: neither has.
    """
    bases = (data_dir / folder, data_dir)
    for base in bases:
        for name in names:
            if (base / name).is_dir() if kind == "folder" else (base / name).is_file():
                return base
    raise MissingFiles(
        f"expected the {kind} {' or '.join(str(bases[0] / name) for name in names)} "
        f"(or in {bases[1]})"
    )


def find_file(data_dir: Path, folder: str, name: str, kind: str = "file") -> Path:
    """`name` in `data_dir`/`folder`, or in `data_dir` itself; MissingFiles if in neither."""
    return find_base(data_dir, folder, (name,), kind) / name


def find_tables(data_dir: Path, folder: str, start: str) -> list[Path]:
    """The files of a split as the hub names them, such as ``filtered-00000-of-00001.parquet``.

    They start with `start`, end with one of `SUFFIXES`, and lie in `data_dir`/`folder`, in its
    folder ``data``, or in `data_dir` or its folder ``data``: the first of these that has any.

    Raises:
      MissingFiles: there are none.
    """
    for base in (data_dir / folder, data_dir):
        for place in (base, base / "data"):
            paths = [p for p in visible_files(place, f"{start}*") if p.name.endswith(SUFFIXES)]
            if paths:
                return paths
    raise MissingFiles(
        f"expected the files {data_dir / folder}/{start}* with one of the endings {SUFFIXES} "
        f"(or {data_dir}/{start}*)"
    )


def read_tables(data_dir: Path, folder: str, start: str) -> Iterator[tuple[str, dict]]:
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
