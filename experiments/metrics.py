"""What training writes as it goes: metrics.jsonl and TensorBoard."""

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from grm_jax.files import write_atomically


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

    def rewind(self, stage: str, step: int) -> None:
        """Removes the records of a stage from `step` on: its steps from there are done again.

        Records of other stages stay, also later ones: two stages may be unfinished in one workdir,
        such as the meta RM and the arm without principles.
        """
        lines = self._path.read_bytes().splitlines(keepends=True)
        records = map(json.loads, lines)
        kept = [
            line
            for line, record in zip(lines, records, strict=True)
            if record["stage"] != stage or record["step"] < step
        ]
        if len(kept) < len(lines):
            write_atomically(self._path, b"".join(kept))

    def write(self, stage: str, step: int, values: Mapping, times: Mapping | None = None) -> None:
        """Appends one record. Raises FloatingPointError for a value that is not finite."""
        numbers = {name: float(value) for name, value in values.items()}
        bad = [name for name, value in numbers.items() if not np.isfinite(value)]
        if bad:
            raise FloatingPointError(f"stage {stage}, step {step}: {', '.join(bad)} not finite")
        record = {"stage": stage, "step": step, **numbers, "time": dict(times or {})}
        with open(self._path, "a") as file:
            file.write(json.dumps(record) + "\n")
        writer = self._writers.get(stage)
        if writer is None:
            import tensorboardX

            writer = tensorboardX.SummaryWriter(str(self._tensorboard_folder / stage))
            self._writers[stage] = writer
        for name, value in {**numbers, **(times or {})}.items():
            writer.add_scalar(name, value, step)

    def read(self) -> list[dict]:
        """All records."""
        return [json.loads(line) for line in self._path.read_text().splitlines()]
