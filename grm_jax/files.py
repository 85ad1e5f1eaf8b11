"""Files that are whole or not there, JSON in them, and the walk over folders of data."""

import functools
import glob
import json
import os
import pathlib
import tempfile
from typing import Any


def read_json(path: str | os.PathLike, **options) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError as `json_object`, OSError without the file."""
    return json_object(read_bytes(path), path, **options)


def read_bytes(path: str | os.PathLike, most: int = -1) -> bytes:
    """A file, or its first bytes. Raises ValueError if git-lfs has only a pointer in its place."""
    with open(pathlib.Path(path).expanduser(), "rb") as file:
        data = file.read(most)
    if data.startswith(b"version https://git-lfs."):
        raise ValueError(f"{path}: a pointer of git-lfs, not the file itself: run git lfs pull")
    return data


def json_object(text: str | bytes, path: str | os.PathLike, line: int = 1, **options) -> dict:
    """The object that a JSON text, from `line` of a file on, is; `options` are of `json.loads`.

    Raises:
      ValueError: beginning with ``path:line``, for a text that is no JSON, or no object.
    """
    try:
        value = json.loads(text.rstrip(), **options)  # an error past the last line is of it
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        raise ValueError(f"{path}:{line}: damaged, not JSON: {error}") from None
    if not isinstance(value, dict):
        raise mismatch(f"{path}:{line}", "a JSON object", type(value).__name__)
    return value


def mismatch(place: str, expected: object, found: object) -> ValueError:
    """The error of a place that holds something else than it must."""
    return ValueError(f"{place}: expected {expected}, found {found}")


def append(handle: int, data: bytes) -> None:
    """Adds to the end of an open file, durably; where that fails (a full disk), nothing of it."""
    size = os.fstat(handle).st_size
    try:
        left = memoryview(data)
        while left:  # one write, but the system may take a part of a very large one
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    except BaseException:
        os.ftruncate(handle, size)
        raise


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Replaces `path` in one step, so that a reader never meets half a file; makes the folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Replaces a JSON file as `write_atomically` does; equal values give equal bytes."""
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def visible_files(folder: str | os.PathLike, pattern: str) -> list[pathlib.Path]:
    """Files below a folder by name, without those in or of names that begin with a dot.

    Links are followed, as if their target were in their place. Folders that lead to each other in a
    circle are entered once from each entry to the circle.

    Args:
      folder: where; need not exist.
      pattern: of `glob`, below the folder; it may begin with "**/" for any depth.
    """
    deep, pattern = pattern.startswith("**/"), pattern.removeprefix("**/")
    inner: dict[str, dict[str, str]] = {}  # by real folder: its folders, names to real ones

    @functools.cache
    def below(top: str) -> set[str]:
        reached, todo = set(), [top]
        while todo:
            here = todo.pop()
            if here not in inner:
                names = glob.glob("*/", root_dir=here) if deep else ()
                inner[here] = {name: os.path.realpath(os.path.join(here, name)) for name in names}
            todo += {*inner[here].values()} - reached
            reached.update(inner[here].values())
        return reached

    real = os.path.realpath(folder)
    walk, files = [(pathlib.Path(folder), real, {real})], []  # entered folders of its circle
    below(real)
    for path, here, entered in walk:
        files += [path / name for name in glob.glob(pattern, root_dir=here)]
        for name, there in inner[here].items():
            circle = here in below(there)
            if not (circle and there in entered):
                walk.append((path / name, there, entered if circle else {there}))
                entered.add(there)
    return sorted(path for path in files if not path.is_dir())
