"""From the command line to a run: its flags, one process or several, and how a run ends.

Every process does the same work on its part of the arrays and has all records. Only process 0
writes logs, tables and figures into the workdir, which must be on a shared file system; the others
write theirs into temporary folders. All processes write their parts of checkpoints and parameters.

`--help` must not wait for jax: jax, and all that needs it, is imported by the functions that run.
"""

import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import ml_collections
from absl import app, flags, logging

from experiments import command_line

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of everything the run writes.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False,
    "One of several processes of a run; TPU pods, Slurm and others number them.",
)  # fmt: skip
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where nothing else says it."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process, with --coordinator.")

STOPPED = 128 + signal.SIGTERM  # exit code of a run that was asked to stop
FAILURE = "failure.txt"


def start(program: Callable[[ml_collections.ConfigDict, pathlib.Path], None]) -> None:
    """Runs a program of a config and a workdir from the command line."""

    def with_flags(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # jax logs each backend that is missing
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {argv[1:]}")
        sys.stdout.reconfigure(errors="replace")  # tables print on an ASCII terminal too
        try:
            if command_line.show_config():
                return
            command_line.require_in_use()
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        from experiments import compilation_cache
        from experiments.run import Stopped
        from grm_jax.parallel import processes

        workdir = pathlib.Path(_WORKDIR.value).expanduser()
        try:
            _join(workdir)
            compilation_cache.enable()
            program(_CONFIG.value, workdir)
        except Stopped as stopped:
            if processes.index() == 0:
                print(stopped, flush=True)
            sys.exit(STOPPED)
        except KeyboardInterrupt:
            # Files are whole at any moment, so nothing is tidied up and no thread awaited.
            sys.stdout.flush()
            _end("interrupted; the same command goes on from the last checkpoint or unit\n", 130)
        except Exception as error:
            if processes.several():
                _fail(workdir, error)
            if isinstance(error, ValueError | OSError | FloatingPointError):
                sys.exit(f"error: {error}")
            raise

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return app.parse_flags_with_usage(argv)
        except (AttributeError, KeyError) as error:
            if (unknown := command_line.unknown_field(error, argv)) is None:
                raise
            sys.exit(f"error: {unknown}")
        except command_line.BadVariant as error:
            sys.exit(f"error: --config: {error}")

    command_line.require("workdir")
    app.run(with_flags, flags_parser=parse)


def _join(workdir: pathlib.Path) -> None:
    """Joins the other processes, if the flags name any.

    Raises:
      ValueError: if some of --coordinator, --processes and --process are given, but not all.
    """
    given = [flag.value is not None for flag in (_COORDINATOR, _PROCESSES, _PROCESS)]
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process belong together")
    if not any(given) and not _DISTRIBUTED.value:
        return
    import jax

    workdir.mkdir(parents=True, exist_ok=True)
    if not _PROCESS.value:
        (workdir / FAILURE).unlink(missing_ok=True)  # of an earlier start; the others wait below
    jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    threading.Thread(target=_watch, args=(workdir / FAILURE,), daemon=True).start()


def _fail(workdir: pathlib.Path, error: Exception) -> None:
    """Ends this process, and by a failure file all others, each with the reason.

    Without it they would wait in a collective for ever.
    """
    import jax

    traceback.print_exception(error)
    text = f"process {jax.process_index()} of {jax.process_count()} failed: {error}\n"
    partial = workdir / f"{FAILURE}.{jax.process_index()}"
    partial.write_text(text, encoding="utf-8")
    partial.replace(workdir / FAILURE)
    _end(text)


def _watch(path: pathlib.Path) -> None:
    while not path.exists():
        time.sleep(0.5)
    _end(path.read_text(encoding="utf-8"))


def _end(text: str, code: int = 1) -> NoReturn:
    sys.stderr.write(text)
    sys.stderr.flush()
    os._exit(code)  # a normal exit would wait for other processes and threads
