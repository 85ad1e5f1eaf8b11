"""Files of the format GGUF: metadata and tensors, which are dequantised one at a time.

A file is the four letters, a version, two counts, the metadata (key, type, value), the list of
tensors (name, dimensions, type, offset) and their data, each aligned. The package `gguf` knows the
types of tensors and dequantises them. Its reader is not used: it makes an array for each token,
which takes 20 s for the vocabulary of Gemma-3, and its errors name neither file nor tensor.
"""

import itertools
import math
import mmap
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from grm_jax.files import mismatch, read_bytes

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
# Type numbers of metadata: those of fixed size with their code, strings, and lists.
_CODES = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip
_STRING, _LIST = 8, 9


class Stored(NamedTuple):
    """A tensor of a file: the name of its type, its shape, and where its bytes are."""

    kind: str
    shape: tuple[int, ...]  # the dimension whose elements are neighbours comes last
    start: int
    nbytes: int


class GGUF:
    """An open file.

    Attributes:
      path: of the file.
      metadata: values by key; lists are Python lists.
      tensors: what is stored under each name.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads everything but the data of the tensors.

        Raises:
          OSError: if the file cannot be read.
          ValueError: in one line that names the file, for one that is not GGUF, big-endian, of
            another version, truncated, or that has a tensor of a type that cannot be dequantised,
            that does not begin at a multiple of the alignment, or that overlaps another.
          ModuleNotFoundError: without the package `gguf`.
        """
        self.path = pathlib.Path(path).expanduser()
        _check_start(self.path)
        with open(self.path, "rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _Header(self.path, self._data)
        header.skip(len(_MAGIC) + 4)
        tensor_count, key_count = header.number("Q"), header.number("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = header.text()
            if key in self.metadata:
                raise ValueError(f"{self.path}: {key}: is there twice")
            self.metadata[key] = header.value(header.number("I"), key)
        entries = [header.tensor() for _ in range(tensor_count)]
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise mismatch(f"{self.path}: general.alignment", "a positive integer", alignment)
        for name, *_, offset in entries:
            if offset % alignment:
                expected = f"an offset that is a multiple of {alignment}"
                raise mismatch(f"{self.path}: {name}", expected, offset)
        start = -(-header.position // alignment) * alignment
        self.tensors = self._stored(entries, start)
        self._check_apart()

    def _stored(self, entries: list[tuple], start: int) -> dict[str, Stored]:
        """The tensors of the list of a header, whose data begin at `start`."""
        import gguf

        readable, tensors = readable_types(), {}
        for name, shape, number, offset in entries:
            place = f"{self.path}: {name}"
            if name in tensors:
                raise ValueError(f"{place}: is there twice")
            known = number in set(gguf.GGMLQuantizationType)
            kind = gguf.GGMLQuantizationType(number).name if known else f"type {number}"
            if kind not in readable:
                raise mismatch(place, f"a type among {', '.join(readable)}", kind)
            block, size = readable[kind]
            if not shape or shape[-1] % block:
                raise mismatch(place, f"rows of a multiple of {block} elements for {kind}", shape)
            stored = Stored(kind, shape, start + offset, math.prod(shape) // block * size)
            if stored.start + stored.nbytes > len(self._data):
                expected = f"{stored.start + stored.nbytes} bytes for {name}"
                raise mismatch(f"{self.path}: truncated", expected, len(self._data))
            tensors[name] = stored
        return tensors

    def _check_apart(self) -> None:
        """Raises ValueError for a tensor that begins inside another."""
        places = sorted((t.start, t.start + t.nbytes, name) for name, t in self.tensors.items())
        for (_, end, first), (start, _, second) in itertools.pairwise(places):
            if start < end:
                place = f"{self.path}: {second}"
                raise mismatch(place, f"bytes from {end} on, behind {first}", f"bytes from {start}")

    def read(self, name: str, index: Sequence[int] = ()) -> np.ndarray:
        """A tensor, or a part of it by leading indices, dequantised to float32."""
        import gguf

        stored = self.tensors[name]
        rows = np.frombuffer(self._data, np.uint8, stored.nbytes, stored.start)
        part = rows.reshape(*stored.shape[:-1], -1)[tuple(index)]
        return gguf.dequantize(part, gguf.GGMLQuantizationType[stored.kind])


def _check_start(path: pathlib.Path) -> None:
    """Raises ValueError for a file that does not begin as one that can be read."""
    start = read_bytes(path, most=8)
    if not start.startswith(_MAGIC) or len(start) < 8:
        raise mismatch(f"{path}: not a GGUF file", f"{_MAGIC} at its start", bytes(start[:4]))
    version = int.from_bytes(start[4:], "little")
    if int.from_bytes(start[4:], "big") in _VERSIONS:
        raise mismatch(f"{path}: byte order", "a little-endian file", "a big-endian one")
    if version not in _VERSIONS:
        raise mismatch(f"{path}: version of GGUF", " or ".join(map(str, _VERSIONS)), version)


def readable_types() -> dict[str, tuple[int, int]]:
    """Names of the types that can be dequantised, with elements and bytes of a block."""
    import gguf

    found = {}
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        try:  # the package has no list of them
            gguf.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        found[kind.name] = block, size
    return found


class _Header:
    """Takes values from the start of a file, one after the other."""

    def __init__(self, path: pathlib.Path, data: mmap.mmap):
        self._path, self._data, self.position = path, data, 0

    def skip(self, size: int) -> int:
        """Passes `size` bytes and returns where they begin."""
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            place = f"{self._path}: truncated"
            raise mismatch(place, f"a header of {self.position} bytes or more", len(self._data))
        return start

    def number(self, code: str) -> Any:
        return struct.unpack_from("<" + code, self._data, self.skip(struct.calcsize(code)))[0]

    def text(self) -> str:
        size = self.number("Q")
        start = self.skip(size)
        try:
            return self._data[start : start + size].decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._path}: byte {start}: text is not UTF-8: {error}") from error

    def value(self, kind: int, key: str) -> Any:
        if kind in _CODES:
            return self.number(_CODES[kind])
        if kind == _STRING:
            return self.text()
        if kind != _LIST:
            raise mismatch(f"{self._path}: {key}", "a type of metadata from 0 to 12", kind)
        inner, count = self.number("I"), self.number("Q")
        if inner in _CODES:
            code = "<" + _CODES[inner]
            start = self.skip(count * struct.calcsize(code))
            values = struct.iter_unpack(code, self._data[start : self.position])
            return [value for (value,) in values]
        return [self.value(inner, key) for _ in range(count)]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, number of the type, offset of the data."""
        name = self.text()
        dimensions = [self.number("Q") for _ in range(self.number("I"))]
        return name, tuple(reversed(dimensions)), self.number("I"), self.number("Q")
