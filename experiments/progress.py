"""How far long work is: a bar on a terminal, a line now and then in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

_SECONDS_BETWEEN_LINES = 15


@contextlib.contextmanager
def bar(
    console: rich.console.Console, title: str, total: int, done: int = 0
) -> Iterator[Callable]:
    """A bar with rate and time left; yields advance(step=1, note='').

    `done` of the `total` were there before and count for no rate.
    """
    columns = (
        rich.progress.TextColumn("{task.description:<22}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
    )
    began = last_line = time.monotonic()
    count = done
    with rich.progress.Progress(*columns, console=console) as display:
        task = display.add_task(title, total=total, completed=done, rate="", note="")

        def advance(step: int = 1, note: str = "") -> None:
            nonlocal count, last_line
            count += step
            now = time.monotonic()
            rate = (count - done) / max(now - began, 1e-9)
            display.update(task, completed=count, rate=f"{rate:.1f}/s", note=note)
            if not console.is_terminal and now - last_line > _SECONDS_BETWEEN_LINES:
                last_line = now
                left = (total - count) / max(rate, 1e-9)
                text = f"{title}: {count}/{total}, {rate:.1f}/s, {left:.0f} s left  {note}"
                console.print(text, markup=False, highlight=False)

        yield advance
