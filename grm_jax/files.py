"""Files that are whole or not there, and the walk over folders of data."""

import glob
import os
import pathlib
import tempfile


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


def visible_files(
    folder: str | os.PathLike, pattern: str, above: frozenset[str] = frozenset()
) -> list[pathlib.Path]:
    """Files below a folder by name, without those in or of names that begin with a dot.

    Links are followed, except to a folder that the link is in.

    Args:
      folder: where; need not exist.
      pattern: of `glob`, below the folder; it may begin with "**/" for any depth.
      above: for the recursion, the real folders that are being walked.
    """
    here = os.path.realpath(folder)
    if here in above:
        return []
    deep, name = pattern.startswith("**/"), pattern.removeprefix("**/")
    found = [pathlib.Path(folder, path) for path in glob.glob(name, root_dir=folder)]
    for inner in glob.glob("*/", root_dir=folder) if deep else ():
        found += visible_files(pathlib.Path(folder, inner), pattern, above | {here})
    return sorted(path for path in found if not path.is_dir())
