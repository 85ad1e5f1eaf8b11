"""The comparison: a query, one or more responses and the gold, with strict reading of files.

Every reader of the project ends in `Comparison`, whose validation is the only gate between files
and the rest of the code. Bad input raises `FieldError`, a ValueError that says where it was found
(``path:line`` or ``path[row]``), in which field, and what is wrong.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grm_jax.files import read_bytes, visible_files, write_atomically
from grm_jax.text.prompts import Message

ROLES = ("system", "user", "assistant")
GOLD_FIELDS = ("best", "rewards", "label")
OPTIONAL = {"subset": str, "meta": dict, "hint_note": str, "principles": str, "reference": str}
FIELDS = ("uid", "prompt", "messages", "responses", *GOLD_FIELDS, *OPTIONAL)


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
      meta: string keys; whatever later scoring needs, never shown to a model.
      hint_note: a further line of the hint of hinted sampling, such as how strong the preference
        is. It must not name a position: the order of the responses is drawn later.
      principles: to judge by, where a benchmark gives principles instead of having them written.
      reference: a correct answer to the query, where a benchmark shows one.
      several_best: responses may share the highest reward: a tie that people stated, or several
        right answers. Only benchmarks have such comparisons; nothing can be trained on them.

    Raises:
      FieldError: a field breaks one of these rules; the message names the uid and the field. A
        ContentError where only its contents do.
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
        _check_text(where, "uid", self.uid)
        if not self.uid.strip():
            raise FieldError(where, "uid", "is empty")
        put = object.__setattr__
        put(self, "messages", _checked_messages(where, self.messages))
        put(self, "responses", _checked_responses(where, self.responses))
        put(self, "rewards", _checked_rewards(where, self.rewards, len(self.responses)))
        if self.n > 1 and not self.several_best and len(self.winners) > 1:
            raise ContentError(where, "rewards", "no single best response")
        for name in ("subset", "hint_note", "principles", "reference"):
            _check_text(where, name, getattr(self, name))
        if not isinstance(self.meta, Mapping) or not all(isinstance(k, str) for k in self.meta):
            raise FieldError(where, "meta", "expected a mapping with string keys")
        put(self, "meta", dict(self.meta))

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
        """The same with the responses and their rewards in another order, a permutation."""
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


def _check_text(where: str, name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise FieldError(where, name, f"expected a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair; such a string can be neither hashed nor tokenised.
        raise ContentError(where, name, "text that is not valid Unicode") from None


def _checked_messages(where: str, messages: Any) -> tuple[Message, ...]:
    if isinstance(messages, str) or not isinstance(messages, Iterable):
        raise FieldError(where, "messages", f"expected messages, got {type(messages).__name__}")
    checked = []
    for i, message in enumerate(messages):
        if not isinstance(message, tuple) or len(message) != 2:
            raise FieldError(where, f"messages[{i}]", "expected a Message(role, content)")
        role, content = message
        if role not in ROLES:
            raise FieldError(where, f"messages[{i}].role", f"{role!r} is not one of {ROLES}")
        _check_text(where, f"messages[{i}].content", content)
        checked.append(Message(role, content))
    if not checked:
        raise FieldError(where, "messages", "is empty")
    if checked[-1].role != "user":
        raise ContentError(where, "messages", "no user turn at the end")
    return tuple(checked)


def _checked_responses(where: str, responses: Any) -> tuple[str, ...]:
    if not isinstance(responses, (list, tuple)):
        raise FieldError(where, "responses", f"expected a list, got {type(responses).__name__}")
    if not responses:
        raise FieldError(where, "responses", "is empty; at least one response is needed")
    for i, response in enumerate(responses):
        _check_text(where, f"responses[{i}]", response)
    return tuple(responses)


def _checked_rewards(where: str, rewards: Any, n: int) -> tuple[float, ...]:
    if not isinstance(rewards, (list, tuple)):
        raise FieldError(where, "rewards", f"expected a list, got {type(rewards).__name__}")
    for i, reward in enumerate(rewards):
        if isinstance(reward, bool) or not isinstance(reward, (int, float)):
            problem = f"expected a number, got {type(reward).__name__}"
            raise FieldError(where, f"rewards[{i}]", problem)
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


def require(where: str, row: Mapping[str, Any], name: str, kind: type) -> Any:
    """`row[name]`, of exactly the JSON type `kind` (a bool is no int); else FieldError."""
    if name not in row:
        raise FieldError(where, name, f"is missing; the row has {sorted(row)}")
    if type(row[name]) is not kind:
        problem = f"expected {kind.__name__}, got {type(row[name]).__name__}"
        raise FieldError(where, name, problem)
    return row[name]


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
    compressed if its name ends in ``.gz``. Of lines and tables one part at a time is in memory.

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


def write_jsonl(path: str | os.PathLike, comparisons: Iterable[Comparison]) -> None:
    """Writes what `read_jsonl` reads back equal; the file appears whole or not at all.

    Raises:
      FieldError: a uid is used twice, a `meta` has no JSON form, or several responses are best.
    """
    path = Path(path)
    lines = []
    for comparison in collect((str(path), comparison) for comparison in comparisons):
        if comparison.several_best:
            where = f"comparison {comparison.uid!r}"
            raise FieldError(where, "several_best", "this format has no such comparisons")
        row: dict[str, Any] = {
            "uid": comparison.uid,
            "messages": [message._asdict() for message in comparison.messages],
            "responses": comparison.responses,
            "rewards": comparison.rewards,
        }
        row |= {name: value for name in OPTIONAL if (value := getattr(comparison, name))}
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
            lines.append(line.encode())
        except (TypeError, ValueError) as error:
            raise FieldError(f"comparison {comparison.uid!r}", "meta", str(error)) from None
    write_atomically(path, b"".join(lines))
