"""Append-only logs of whole work units, which survive a kill.

A log is JSONL. A unit is a header line ``{"unit": index, <group fields>, "n": count}``, n record
lines and a closing line ``{"end": index}``, appended with one write and one fsync. So what a kill
leaves behind is a beginning of one unit at the end of the file: opening cuts it off, and the unit
is done again whole. Anything else that does not read is damage and an error, never repaired.
On restore a log is cut back to the byte offset that the checkpoint holds.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from grm_jax.data.comparison import FieldError
from grm_jax.files import append, json_object


def dump(record: Mapping[str, Any]) -> str:
    """The one-line JSON form of a record, without its end. ValueError for NaN and infinity."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class _Entry(NamedTuple):
    """Where a complete unit lies: bytes [start, end), its header on line `line`."""

    group: tuple
    unit: int
    n: int
    start: int
    end: int
    line: int


class UnitLog:
    """Append-only JSONL log of units; holds an index of them and of record keys, no records.

    Opening for writing creates the file and cuts an unfinished unit off its tail; `cut_bytes` says
    how much. With `read_only` the file must exist and is left as it is, tail and all (another
    process may be writing it); then `cut_bytes` counts what was passed over.

    Args:
      path: the file; its folder is made.
      group_fields: header fields that, with the unit index, name a unit.
      record_key: the part of a record (a dict) that is unique inside its group.

    Raises:
      ValueError: a line other than an unfinished tail does not read, names a unit or a record
        that came before, or disagrees with its header; the message starts with ``path:line``.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        group_fields: tuple[str, ...],
        record_key: Callable[[dict[str, Any]], tuple],
        *,
        read_only: bool = False,
    ):
        self.path, self._group_fields, self._record_key = Path(path), group_fields, record_key
        self._entries: dict[tuple[tuple, int], _Entry] = {}  # in file order
        self._keys: dict[tuple, set[tuple]] = {}
        self._offset, self._lines, self._fd = 0, 0, None
        if read_only:
            if not self.path.is_file():
                raise ValueError(f"{self.path}: no such file")
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            created = not self.path.exists()
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if created:
                _sync_folder(self.path.parent)
        try:
            self._scan()
            self.cut_bytes = self.path.stat().st_size - self._offset
            if self._fd is not None and self.cut_bytes:
                os.ftruncate(self._fd, self._offset)
                os.fsync(self._fd)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file handle back; reading stays possible, writing does not."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def offset(self) -> int:
        """Length in bytes of the complete units; what a checkpoint keeps."""
        return self._offset

    def completed_units(self, *group: str | int) -> set[int]:
        """Indices of the complete units of a group, given by its fields: not to be done again."""
        return {unit for g, unit in self._entries if g == group}

    def append(self, unit: int, group: tuple, records: Sequence[dict[str, Any]]) -> None:
        """Writes a unit whole and durably, or raises ValueError and leaves the log as it was."""
        fd = self._writable()
        where = f"{self.path}: unit {unit} of {self._describe(group)}"
        if (group, unit) in self._entries:
            raise ValueError(f"{where} is already complete")
        keys: set[tuple] = set()
        for record in records:
            key = self._record_key(record)
            if key in keys or key in self._keys.get(group, ()):
                raise ValueError(f"{where}: duplicate record {key}")
            keys.add(key)
        header = {"unit": unit, **dict(zip(self._group_fields, group, strict=True))}
        lines = [{**header, "n": len(records)}, *records, {"end": unit}]
        data = "".join(dump(line) + "\n" for line in lines).encode()
        if os.fstat(fd).st_size != self._offset:
            raise ValueError(f"{self.path}: was changed by another process while it was open")
        append(fd, data)
        self._add(group, unit, len(records), self._offset + len(data), keys)

    def truncate(self, offset: int) -> None:
        """Cuts the log back to `offset` bytes, an earlier value of `offset`.

        Raises:
          ValueError: the offset lies beyond the end or inside a unit.
        """
        fd = self._writable()
        if offset > self._offset:
            raise ValueError(f"{self.path}: offset {offset} is beyond the end, {self._offset}")
        if offset != 0 and all(entry.end != offset for entry in self._entries.values()):
            raise ValueError(f"{self.path}: offset {offset} is not the end of a unit")
        if offset == self._offset:
            return
        gone = [entry for entry in self._entries.values() if entry.end > offset]
        keys = [[self._record_key(record) for record, _ in self._records(entry)] for entry in gone]
        os.ftruncate(fd, offset)
        os.fsync(fd)
        for entry, dead in zip(gone, keys, strict=True):
            del self._entries[entry.group, entry.unit]
            self._keys[entry.group].difference_update(dead)
        self._offset, self._lines = offset, gone[0].line - 1

    def read(self, wanted: Callable[[tuple], bool]) -> Iterator[tuple[tuple, dict, str]]:
        """(group, record, ``path:line``) of the groups wanted.

        Groups come in the order of their first unit in the file, the units of a group by index,
        so that the order does not depend on the order in which units were completed.
        """
        groups = dict.fromkeys(entry.group for entry in self._entries.values())
        rank = {group: i for i, group in enumerate(groups) if wanted(group)}
        entries = [entry for entry in self._entries.values() if entry.group in rank]
        for entry in sorted(entries, key=lambda entry: (rank[entry.group], entry.unit)):
            for record, where in self._records(entry):
                yield entry.group, record, where

    def _records(self, entry: _Entry) -> Iterator[tuple[dict[str, Any], str]]:
        with self.path.open("rb") as file:
            file.seek(entry.start)
            file.readline()
            for i in range(entry.n):
                line = entry.line + 1 + i
                yield json_object(file.readline(), self.path, line), f"{self.path}:{line}"

    def _writable(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path}: the log is closed or was opened for reading only")
        return self._fd

    def _describe(self, group: tuple) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in zip(self._group_fields, group, strict=True))

    def _add(self, group: tuple, unit: int, n: int, end: int, keys: set[tuple]) -> None:
        entry = _Entry(group, unit, n, self._offset, end, self._lines + 1)
        self._entries[group, unit] = entry
        self._keys.setdefault(group, set()).update(keys)
        self._offset, self._lines = end, self._lines + n + 2

    def _scan(self) -> None:
        """Indexes the complete units; the first one that is not ends the log."""
        with self.path.open("rb") as file:
            while unit := self._scan_unit(file):
                self._add(*unit)

    def _scan_unit(self, file: Any) -> tuple[tuple, int, int, int, set[tuple]] | None:
        number = self._lines
        end = self._offset

        def line() -> tuple[str, dict[str, Any]] | None:
            nonlocal number, end
            raw = file.readline()
            if not raw.endswith(b"\n"):
                return None  # the file ends here, or a write was torn here
            number, end = number + 1, end + len(raw)
            return f"{self.path}:{number}", json_object(raw, self.path, number)

        if (head := line()) is None:
            return None
        where, header = head
        if header.keys() != {"unit", *self._group_fields, "n"}:
            expected = ("unit", *self._group_fields, "n")
            raise ValueError(f"{where}: expected a unit header {expected}, got {sorted(header)}")
        unit, n = header["unit"], header["n"]
        group = tuple(header[name] for name in self._group_fields)
        if type(unit) is not int or type(n) is not int or n < 0:
            raise FieldError(where, "n", "'unit' and 'n' must be integers, n not negative")
        for name, value in zip(self._group_fields, group, strict=True):
            if type(value) not in (str, int):
                raise FieldError(where, name, f"{value!r} is neither a string nor an integer")
        if (group, unit) in self._entries:
            raise FieldError(where, "unit", f"{unit} of {self._describe(group)} comes twice")
        keys: set[tuple] = set()
        for _ in range(n):
            if (place := line()) is None:
                return None
            where, record = place
            for name, value in zip(self._group_fields, group, strict=True):
                if record.get(name, value) != value:
                    raise FieldError(where, name, f"{record[name]!r}, the header has {value!r}")
            try:
                key = self._record_key(record)
                twice = key in keys or key in self._keys.get(group, ())
            except (KeyError, TypeError) as error:
                raise FieldError(where, str(error.args[0]), "is missing or bad") from None
            if twice:
                raise FieldError(where, "uid", f"duplicate record {key}")
            keys.add(key)
        if (place := line()) is None:
            return None
        where, closing = place
        if closing != {"end": unit}:
            raise ValueError(f"{where}: expected the closing line {{'end': {unit}}}")
        return group, unit, n, end, keys


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
