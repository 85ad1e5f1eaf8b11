"""Compiled programs, kept from one run of a user to the next by the persistent cache of jax.

    $XDG_CACHE_HOME/grm_jax/xla/DIGEST    or, without that variable, ~/.cache/grm_jax/xla/DIGEST

jax names an entry after the program, the options of the compiler and the version of jaxlib, but the
machine code of a CPU also depends on its instructions and on the number of its cores. The digest
has these, and the version of jax. So a program out of the cache is the one that would be compiled.
"""

import contextlib
import glob
import hashlib
import os
import pathlib
import platform
import re
import sys
import tempfile
import warnings

import jax
import jaxlib

from grm_jax.parallel import processes

MOST_BYTES = 2**30  # of the programs of all machines and versions together
# Compilations that take less are not kept. The first step has some dozens of them that take longer.
LEAST_SECONDS = 0.1
# Lines of /proc/cpuinfo that name the instructions of a CPU, of x86 and of ARM.
_CPU = ("model name", "flags", "CPU implementer", "CPU part", "Features")
_UNUSABLE = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '(.+?)'")


def enable() -> None:
    """Switches the cache on, for one process, unless the user has decided about it.

    A `jax_compilation_cache_dir` that is set is left alone, and so is JAX_ENABLE_COMPILATION_CACHE.
    Of several processes one might find a program that the others have to compile, and compilers of
    GPUs may wait for each other; there the user may name a folder that all of them see.

    A folder that cannot be used, or a damaged entry, costs one line on stderr and a compilation.
    """
    config = jax.config
    decided = config.jax_compilation_cache_dir is not None
    if decided or not config.jax_enable_compilation_cache or processes.several():
        return
    try:
        root = _root()
        folder = root / fingerprint()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it can be written to
        _remove_oldest(root)
    except (OSError, RuntimeError) as error:
        print(f"no compilation cache, programs are compiled anew: {error}", file=sys.stderr)
        return
    config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    _remove_what_cannot_be_used(folder)


def fingerprint() -> str:
    """A digest of whatever decides machine code besides what jax knows."""
    cpu = {platform.processor()}
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu |= {line for line in lines if line.partition(":")[0].strip() in _CPU}
    machine = (platform.system(), platform.machine(), processes.cores(), *sorted(cpu))
    return hashlib.sha256(repr((jax.__version__, jaxlib.__version__, machine)).encode()).hexdigest()


def _root() -> pathlib.Path:
    """The folder of all digests. Raises RuntimeError if the user has no home."""
    named = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = named if named.is_absolute() else pathlib.Path.home() / ".cache"
    return cache / "grm_jax" / "xla"


def _remove_oldest(root: pathlib.Path) -> None:
    """Removes the entries that were not used for the longest time, down to `MOST_BYTES`."""
    entries = []
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another run removes too
            entry = path.stat()
            if path.is_file():
                entries.append((max(entry.st_atime, entry.st_mtime), entry.st_size, path))
    excess = sum(size for _, size, _ in entries) - MOST_BYTES
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def _remove_what_cannot_be_used(folder: pathlib.Path) -> None:
    """Turns a warning of jax about an entry into one line, and removes the entry.

    jax compiles the program, but it never writes an entry that is there, so a damaged one would be
    met at every start.
    """
    show = warnings.showwarning

    def shown(message, category, filename, lineno, file=None, line=None):
        unusable = _UNUSABLE.match(str(message))
        if unusable is None:
            show(message, category, filename, lineno, file, line)
            return
        for path in folder.glob(f"{glob.escape(unusable[1])}-*"):
            with contextlib.suppress(OSError):
                path.unlink()
        print(f"compiled anew: {' '.join(str(message).split())}", file=sys.stderr)

    warnings.showwarning = shown
