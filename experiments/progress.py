"""Progress of a run: bars on a terminal, metrics.jsonl and TensorBoard."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import rich.console
import rich.progress

from grm_jax.files import append, json_object, write_atomically

_SECONDS_BETWEEN_LINES = 15


@contextlib.contextmanager
def bar(console: rich.console.Console, title: str, total: int, done: int = 0) -> Iterator[Callable]:
    """A bar with rate and time left; yields advance(step=1, note='').

    The first `done` of the `total` were finished before, and the rate leaves them out.
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


class Metrics:
    """metrics.jsonl and TensorBoard; wall-clock figures stand under "time"."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / "metrics.jsonl"
        self._tensorboard_folder = workdir / "tensorboard"
        self._writers = {}
        self._path.touch()
        data = self._path.read_bytes()
        if not data.endswith(b"\n"):  # a line torn by a kill
            os.truncate(self._path, data.rfind(b"\n") + 1)

    def _lines(self) -> list[tuple[bytes, dict]]:
        """Every line with its record. Raises ValueError, naming path and line, for damage."""
        lines = []
        for number, line in enumerate(self._path.read_bytes().splitlines(keepends=True), start=1):
            record = json_object(line, self._path, number)
            if (type(record.get("stage")), type(record.get("step"))) != (str, int):
                raise ValueError(f"{self._path}:{number}: no record: stage or step is missing")
            lines.append((line, record))
        return lines

    def rewind(self, stage: str, step: int) -> None:
        """Removes the records of a stage from `step` on, whose steps are repeated.

        Records of other stages stay, even later ones: two stages may be unfinished in one workdir,
        such as the meta RM and the arm without principles.
        """
        lines = self._lines()
        kept = [line for line, record in lines if record["stage"] != stage or record["step"] < step]
        if len(kept) < len(lines):
            write_atomically(self._path, b"".join(kept))

    @staticmethod
    def check(stage: str, step: int, values: Mapping) -> dict[str, float]:
        """The values as numbers. Raises FloatingPointError for one that is not finite."""
        numbers = {name: float(value) for name, value in values.items()}
        bad = [name for name, value in numbers.items() if not np.isfinite(value)]
        if bad:
            raise FloatingPointError(f"stage {stage}, step {step}: {', '.join(bad)} not finite")
        return numbers

    def write(self, stage: str, step: int, values: Mapping, times: Mapping | None = None) -> None:
        """Appends one record, whole or not at all. Raises as `check`, and OSError."""
        numbers = self.check(stage, step, values)
        record = {"stage": stage, "step": step, **numbers, "time": dict(times or {})}
        with open(self._path, "ab") as file:
            append(file.fileno(), json.dumps(record).encode() + b"\n")
        writer = self._writers.get(stage)
        if writer is None:
            import tensorboardX

            writer = tensorboardX.SummaryWriter(str(self._tensorboard_folder / stage))
            self._writers[stage] = writer
        for name, value in {**numbers, **(times or {})}.items():
            writer.add_scalar(name, value, step)

    def read(self) -> list[dict]:
        """All records."""
        return [record for _, record in self._lines()]
