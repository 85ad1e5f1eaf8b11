"""What training writes as it goes: metrics.jsonl and TensorBoard."""

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from grm_jax.files import append, json_object, write_atomically


class Metrics:
    """metrics.jsonl and TensorBoard. Wall-clock figures stand apart, under "time"."""

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
        found = []
        for number, line in enumerate(self._path.read_bytes().splitlines(keepends=True), start=1):
            record = json_object(line, self._path, number)
            if (type(record.get("stage")), type(record.get("step"))) != (str, int):
                raise ValueError(f"{self._path}:{number}: no record: stage or step is missing")
            found.append((line, record))
        return found

    def rewind(self, stage: str, step: int) -> None:
        """Removes the records of a stage from `step` on: its steps from there are done again.

        Records of other stages stay, also later ones: two stages may be unfinished in one workdir,
        such as the meta RM and the arm without principles.
        """
        lines = self._lines()
        kept = [
            line for line, record in lines if record["stage"] != stage or record["step"] < step
        ]
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
