"""What training writes as it goes: metrics.jsonl and TensorBoard."""

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np


class Metrics:
    """metrics.jsonl and TensorBoard. Wall-clock figures stand apart, under "time"."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / "metrics.jsonl"
        self._tensorboard_folder = workdir / "tensorboard"
        self._writers = {}
        self._path.touch()
        data = self._path.read_bytes()
        if not data.endswith(b"\n"):  # a line torn by a kill
            self.truncate(data.rfind(b"\n") + 1)

    @property
    def offset(self) -> int:
        """Size of metrics.jsonl in bytes."""
        return self._path.stat().st_size

    def truncate(self, offset: int) -> None:
        """Cuts metrics.jsonl back to what a checkpoint knew."""
        os.truncate(self._path, offset)

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
