"""Safetensors files, read as memory maps and written one tensor at a time.

The format is the length of a JSON header in 8 bytes, the header, and the raw bytes of the tensors.
The library `safetensors` cuts a tensor only along its stored axes and writes a file from tensors
that are all in memory at once; both would cost copies that a checkpoint of hundreds of gigabytes
has no room for.
"""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from grm_jax.files import json_object, mismatch, read_bytes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F32": jnp.dtype("float32"),
    "BF16": jnp.dtype("bfloat16"),
    "F16": jnp.dtype("float16"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Stored(NamedTuple):
    """A tensor of a file: where its bytes begin, its type and its shape."""

    path: pathlib.Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Spec(NamedTuple):
    """A tensor to be written."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in a file."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_header(path: pathlib.Path) -> dict[str, Stored]:
    """The tensors of a file by name; reads the header only.

    Raises:
      ValueError: for a file that is truncated, is no safetensors file, gives a name twice, or holds
        a tensor of a type outside `DTYPES`.
    """
    read_bytes(path, most=64)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            fault = f"{path}: truncated, or no safetensors file"
            raise mismatch(fault, f"a header of {length} bytes", f"a file of {size}")
        header = json_object(file.read(length), path, object_pairs_hook=once)
    try:
        return _tensors(path, header, 8 + length, size)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no safetensors file: unexpected header: {error!r}") from error


def once(pairs: list[tuple]) -> dict:
    """A JSON object, for `json.loads`; raises ValueError for a name that is there twice."""
    fields = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{name}: is there twice")
        fields[name] = value
    return fields


def _tensors(path: pathlib.Path, header: dict, start: int, size: int) -> dict[str, Stored]:
    """The entries of a header, whose data begin at `start` and end with the file."""
    header.pop("__metadata__", None)
    tensors, end = {}, start
    # Data follow each other without holes, so that no byte counts twice or for nothing.
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise mismatch(f"{path}: {name}", f"a type among {sorted(DTYPES)}", entry["dtype"])
        begin, stop = (start + offset for offset in entry["data_offsets"])
        shape = tuple(entry["shape"])
        needed = Spec(dtype, shape).nbytes
        if stop - begin != needed:
            expected = f"{needed} bytes for {shape} {dtype}"
            raise mismatch(f"{path}: {name}", expected, stop - begin)
        if begin != end:
            raise mismatch(f"{path}: {name}", f"its data at byte {end}", f"them at {begin}")
        tensors[name] = Stored(path, begin, dtype, shape)
        end = stop
    if end != size:
        fault = "truncated" if size < end else "bytes after the last tensor"
        raise mismatch(f"{path}: {fault}", f"{end} bytes", size)
    return tensors


def open_tensor(stored: Stored) -> np.ndarray:
    """A read-only map of the file: bytes are read when they are first used."""
    return np.memmap(stored.path, stored.dtype, "r", offset=stored.start, shape=stored.shape)


def write(path: pathlib.Path, specs: Mapping[str, Spec], make: Callable[[str], np.ndarray]) -> None:
    """Writes a file, asking `make` for one tensor after the other."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, spec in specs.items():
        end = offset + spec.nbytes
        header[name] = {
            "dtype": _NAMES[spec.dtype], "shape": spec.shape, "data_offsets": [offset, end]
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers expect tensors at multiples of eight bytes
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, spec in specs.items():
            array = make(name)
            assert (array.dtype, array.shape) == spec, name
            # Types that Python has no buffer code for, bfloat16 among them, pass as bytes.
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
