"""Programs next to the experiments; each says in its head what it does and how to call it."""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator

_INSTALLED_BY = {
    "torch": "make install-parity",
    "transformers": "make install-parity",
    "gguf": "pip install -e '.[gguf]'",
    "huggingface_hub": "pip install -e '.[data]'",
    "pyarrow": "pip install -e '.[data]'",
}


def make_parser(description: str, **options) -> argparse.ArgumentParser:
    """A parser whose help shows the docstring of a program as it stands."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=form, **options)


def run_program(main: Callable[[], int | None]) -> None:
    """Runs a program and ends the process with its exit code, or with one line of error."""
    with errors_in_one_line():
        sys.exit(main())


def user_path(text: str) -> pathlib.Path:
    """Path from a command line, in which ~ is the home folder as in a shell."""
    return pathlib.Path(text).expanduser()


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the program in one line, without a traceback, for errors that its user can mend."""
    sys.stdout.reconfigure(errors="replace")  # what a terminal cannot show is "?"
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        if error.name not in _INSTALLED_BY:
            raise
        sys.exit(f"error: {error}; `{_INSTALLED_BY[error.name]}` installs it")
