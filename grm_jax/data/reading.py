"""Rows of files: JSON, JSONL and Parquet with the place of each row, and our own format.

Reading is strict: nothing is skipped, and an error names file, line and field.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grm_jax.data.comparison import Comparison, FieldError
from grm_jax.files import read_bytes, visible_files
from grm_jax.text.prompts import Message

GOLD_FIELDS = ("best", "rewards", "label")
OPTIONAL = {"subset": str, "meta": dict, "hint_note": str, "principles": str, "reference": str}
# Comparisons, each after the place that an error names.
Placed = Iterator[tuple[str, Comparison]]
FIELDS = ("uid", "prompt", "messages", "responses", *GOLD_FIELDS, *OPTIONAL)


def require(where: str, row: Mapping[str, Any], name: str, kind: type) -> Any:
    """`row[name]`, of exactly the JSON type `kind` (a bool is no int); else FieldError."""
    if name not in row:
        raise FieldError(where, name, f"is missing; the row has {sorted(row)}")
    if type(row[name]) is not kind:
        problem = f"expected {kind.__name__}, got {type(row[name]).__name__}"
        raise FieldError(where, name, problem)
    return row[name]


def one_turn(where: str, row: Mapping[str, Any], name: str) -> tuple[Message]:
    """The string in `row[name]` as a turn of the user; else FieldError."""
    return (Message("user", require(where, row, name, str)),)


def strings(where: str, row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """The strings in the fields of these names; else FieldError."""
    return tuple(require(where, row, name, str) for name in names)


def one_of(where: str, row: Mapping[str, Any], name: str, known: Sequence[Any]) -> Any:
    """`row[name]`, one of `known` and of the type of its first; else FieldError."""
    value = require(where, row, name, type(known[0]))
    if value not in known:
        raise FieldError(where, name, f"{value!r} is not one of {tuple(known)}")
    return value


def _parse(where: str, raw: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise FieldError(where, twice, "is given twice")
        return row

    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except FieldError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: broken JSON: {error}") from None


def read_objects(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file, each with the place that error messages name.

    A ``.json`` file holds one array and a ``.parquet`` file one table (places ``path[row]``, from
    0); any other holds one object a line (places ``path:line``, from 1; blank lines hold none),
    compressed if its name ends in ``.gz``. Lines and tables are read part by part.

    Raises:
      ValueError: no such file, no object in it, text that is not UTF-8, broken JSON, something
        other than objects, a field given twice, a damaged archive or table, or a table without
        pyarrow, which is the extra `data`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    read_bytes(path, most=64)  # refuses a pointer of git-lfs
    if path.suffix == ".json":
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if data.lstrip()[:1] == b"{":
            problem = "expected one JSON array; a file of one object a line has to end in .jsonl"
            raise ValueError(f"{path}: {problem}")
        array = _parse(str(path), data)
        if not isinstance(array, list):
            raise ValueError(f"{path}: expected a JSON array, got {type(array).__name__}")
        places = ((f"{path}[{i}]", row) for i, row in enumerate(array))
    elif path.suffix == ".parquet":
        places = ((f"{path}[{i}]", row) for i, row in enumerate(_read_table(path)))
    else:
        places = _read_lines(path)
    empty = True
    for where, row in places:
        empty = False
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
        yield where, row
    if empty:
        raise ValueError(f"{path}: the file holds no rows")


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from parse_lines(str(path), file)


def parse_lines(name: str, lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """The JSON value of each line that is not blank, with its place ``name:line`` (from 1).

    `lines` are bytes: only a line feed ends a line, never U+2028 inside a text. They may come out
    of an archive, which may be damaged.
    """
    number = 0
    try:
        for number, raw in enumerate(lines, start=1):
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # files may have been joined
            if raw.strip():
                where = f"{name}:{number}"
                yield where, _parse(where, raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: damaged archive after line {number}: {error}") from None


def _read_table(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install 'grm_jax[data]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged Parquet file: {error}") from None


def present(row: dict[str, Any]) -> dict[str, Any]:
    """A row without empty columns, null or NaN, for which pandas makes ints of a column floats."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in row.items() if value is not None and value == value
    }  # fmt: skip


def from_row(where: str, row: dict[str, Any]) -> Comparison:
    """The comparison of one line of our own format, see `read_jsonl`; else FieldError."""
    row = present(row)
    unknown = sorted(row.keys() - set(FIELDS))
    if unknown:
        raise FieldError(where, unknown[0], f"unknown field; the known ones are {FIELDS}")
    if ("prompt" in row) == ("messages" in row):
        raise FieldError(where, "messages", "give exactly one of 'prompt' and 'messages'")
    query = "prompt" if "prompt" in row else "messages"
    if query == "prompt":
        messages = (Message("user", require(where, row, "prompt", str)),)
    else:
        messages = read_messages(where, row, "messages", extra=())
    responses = require(where, row, "responses", list)
    golds = [name for name in GOLD_FIELDS if name in row]
    if len(golds) != 1:
        problem = f"give exactly one of {GOLD_FIELDS}, got {golds or 'none'}"
        raise FieldError(where, golds[-1] if golds else "rewards", problem)
    if "rewards" in row:
        rewards = require(where, row, "rewards", list)
    elif "best" in row:
        best = require(where, row, "best", int)
        if len(responses) < 2:
            raise FieldError(where, "best", "needs two or more responses; one has a 'label'")
        if not 0 <= best < len(responses):
            raise FieldError(where, "best", f"{best} is no index into {len(responses)} responses")
        rewards = [float(i == best) for i in range(len(responses))]
    else:
        label = require(where, row, "label", int)
        if len(responses) != 1 or label not in (0, 1):
            problem = f"is 0 or 1 for exactly one response; got {label} for {len(responses)}"
            raise FieldError(where, "label", problem)
        rewards = [label]
    others = {
        name: require(where, row, name, kind) for name, kind in OPTIONAL.items() if name in row
    }
    uid = require(where, row, "uid", str)
    return located(where, uid, messages, responses, rewards, query=query, **others)


def read_messages(
    where: str, row: Mapping[str, Any], name: str, *, extra: tuple[str, ...]
) -> tuple[Message, ...]:
    """The list of {role, content} objects in `row[name]`; `extra` names keys to pass over."""
    messages = []
    for i, turn in enumerate(require(where, row, name, list)):
        keys = present(turn).keys() if isinstance(turn, dict) else set()
        if unknown := sorted(keys - {"role", "content", *extra}):
            raise FieldError(where, f"{name}[{i}].{unknown[0]}", "unknown field")
        messages.append(Message(*texts_of(where, f"{name}[{i}]", turn, "role", "content")))
    return tuple(messages)


def texts_of(where: str, name: str, value: Any, *keys: str) -> tuple[str, ...]:
    """The strings `value[key]` of an object that a row has in `name`; else FieldError."""
    if not isinstance(value, dict):
        raise FieldError(where, name, f"expected an object with {' and '.join(keys)}")
    try:
        return tuple(require(where, value, key, str) for key in keys)
    except FieldError as error:
        raise FieldError(where, f"{name}.{error.name}", error.problem) from None


def located(where: str, *fields: Any, query: str = "messages", **named: Any) -> Comparison:
    """`Comparison(*fields, **named)` whose FieldError names the place in a file, not the uid.

    `query` is the column of that file which became the messages.
    """
    try:
        return Comparison(*fields, **named)
    except FieldError as error:
        name = error.name.replace("messages", query, 1)
        raise type(error)(where, name, error.problem) from None


def collect(placed: Iterable[tuple[str, Comparison]]) -> list[Comparison]:
    """The comparisons of (place, comparison) pairs; FieldError at the second use of a uid."""
    seen: dict[str, str] = {}
    comparisons = []
    for where, comparison in placed:
        if comparison.uid in seen:
            problem = f"{comparison.uid!r} was already used at {seen[comparison.uid]}"
            raise FieldError(where, "uid", problem)
        seen[comparison.uid] = where
        comparisons.append(comparison)
    return comparisons


def read_jsonl(path: str | os.PathLike) -> list[Comparison]:
    """Reads comparisons from a JSONL file, or from all ``*.jsonl`` files of a folder by name.

    Fields of a line: ``uid``; ``prompt`` (one user turn) or ``messages`` ([{role, content}]);
    ``responses``; one of ``best`` (index, N >= 2), ``rewards`` ([N]) and ``label`` (0 or 1,
    N == 1); optionally ``subset``, ``meta``, ``hint_note``, ``principles`` and ``reference``.

    Raises:
      ValueError: nothing to read, or a bad line: ``path:line: field 'x': ...``. Nothing is
        skipped, so the list has one comparison for every line that is not blank.
    """
    path = Path(path)
    if path.is_dir():
        files = visible_files(path, "*.jsonl")
        if not files:
            raise ValueError(f"{path}: the folder holds no *.jsonl file")
    elif path.is_file():
        files = [path]
    else:
        raise ValueError(f"{path}: no such file or folder")
    rows = (place for file in files for place in read_objects(file))
    return collect((where, from_row(where, row)) for where, row in rows)
