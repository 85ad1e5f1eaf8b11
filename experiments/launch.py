"""Several processes of one run: starting them, where each keeps its logs, failing together.

Every process does the same work on its part of the arrays and knows all records. Process 0 alone
writes logs, tables and figures into the workdir, which all must see (a shared file system); the
others keep theirs in a folder of their own that goes when they end. Checkpoints and parameters
are written by all, each its part.
"""

import atexit
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import time
import traceback

import jax
from absl import flags

from grm_jax.parallel.processes import index, wait

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False,
    "One of several processes of a run; TPU pods, Slurm and others say which.",
)  # fmt: skip
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where nothing else says it."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process, with --coordinator.")

FAILURE = "failure.txt"


def start(workdir: pathlib.Path) -> None:
    """Joins the other processes, if the flags say that there are any.

    Raises:
      ValueError: if some of --coordinator, --processes and --process are given, but not all.
    """
    given = [flag.value is not None for flag in (_COORDINATOR, _PROCESSES, _PROCESS)]
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process belong together")
    if not any(given) and not _DISTRIBUTED.value:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    if not _PROCESS.value:
        (workdir / FAILURE).unlink(missing_ok=True)  # of an earlier start; the others wait below
    jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    threading.Thread(target=_watch, args=(workdir / FAILURE,), daemon=True).start()


def fail(workdir: pathlib.Path, error: Exception) -> None:
    """Ends this process, and by its failure file all others, each with the reason.

    Without it they would wait in a collective for one that never comes.
    """
    traceback.print_exception(error)
    text = f"process {index()} of {jax.process_count()} failed: {error}\n"
    partial = workdir / f"{FAILURE}.{index()}"
    partial.write_text(text, encoding="utf-8")
    partial.replace(workdir / FAILURE)
    _end(text)


def _watch(path: pathlib.Path) -> None:
    while not path.exists():
        time.sleep(0.5)
    _end(path.read_text(encoding="utf-8"))


def _end(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
    os._exit(1)  # a usual exit would wait for the others


def own_logs(workdir: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path:
    """Where this process keeps its logs: the workdir, or a copy of what is there so far.

    Args:
      workdir: of the run.
      names: files and folders that are logs.
    """
    if index() == 0:
        wait("logs are copied")
        return workdir
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"grm_jax_process_{index()}_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in names:
        if (workdir / name).is_dir():
            shutil.copytree(workdir / name, folder / name)
        elif (workdir / name).exists():
            shutil.copy(workdir / name, folder / name)
    wait("logs are copied")
    return folder
