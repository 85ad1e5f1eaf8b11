"""The append-only stores of trajectories and of meta scores.

Both are a `UnitLog`, which describes the file format, with typed records.
"""

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from grm_jax.data.comparison import FieldError
from grm_jax.data.trajectory import Trajectory, TrajectoryKey, shortest, to_float32
from grm_jax.data.unit_log import UnitLog

TRAJECTORY_GROUP = ("fingerprint", "stage", "step")
META_GROUP = ("meta_fingerprint", *TRAJECTORY_GROUP)


class UnitHeader(NamedTuple):
    """A work unit: `unit` is its index in the work list of (fingerprint, stage, step)."""

    fingerprint: str
    stage: str
    step: int
    unit: int

    def split(self) -> tuple[tuple[str, str, int], int]:
        """((fingerprint, stage, step), unit) as plain Python values."""
        return (self.fingerprint, self.stage, operator.index(self.step)), operator.index(self.unit)


def _sample_key(record: Mapping[str, Any]) -> tuple[str, int, bool]:
    return record["uid"], record["sample"], record["hinted"]


def _matches(group: tuple, wanted: tuple) -> bool:
    return all(want is None or have == want for have, want in zip(group, wanted, strict=True))


class TrajectoryStore(UnitLog):
    """The trajectories of a stage, in ``workdir/trajectories/<stage>.jsonl``. See `UnitLog`."""

    def __init__(self, path: str | os.PathLike, *, read_only: bool = False):
        super().__init__(path, TRAJECTORY_GROUP, _sample_key, read_only=read_only)

    def append_unit(self, header: UnitHeader, trajectories: Sequence[Trajectory]) -> None:
        """Writes a work unit whole and durably, or raises and leaves the log as it was.

        Raises:
          ValueError: the unit is already complete, a key comes twice, or a trajectory has another
            fingerprint, stage or step than the header.
        """
        group, unit = header.split()
        for trajectory in trajectories:
            if trajectory.key[:3] != group:
                problem = f"{trajectory.key} is not of the unit {header}"
                raise ValueError(f"{self.path}: {problem}")
        self.append(unit, group, [t.record() for t in trajectories])

    def iterate(
        self, fingerprint: str | None = None, stage: str | None = None, step: int | None = None
    ) -> Iterator[Trajectory]:
        """Trajectories that match, one at a time: by group, work unit and place in the unit.

        Raises:
          ValueError: a record does not read; the message names ``path:line`` and the field.
        """
        wanted = (fingerprint, stage, step)
        for _, record, where in self.read(lambda group: _matches(group, wanted)):
            try:
                yield Trajectory.from_record(record)
            except FieldError as error:
                raise FieldError(where, error.name, error.problem) from None


class MetaScoreStore(UnitLog):
    """Scores of a meta reward model for stored trajectories, by key. See `UnitLog`."""

    def __init__(self, path: str | os.PathLike, *, read_only: bool = False):
        super().__init__(path, META_GROUP, _sample_key, read_only=read_only)

    def append_unit(
        self, meta_fingerprint: str, header: UnitHeader, scores: Mapping[TrajectoryKey, float]
    ) -> None:
        """Writes the scores (kept as float32 values) of a unit whole and durably, or raises.

        Raises:
          ValueError: the unit is already complete, a key was scored before or is of another
            fingerprint, stage or step than the header, or a score is not finite.
        """
        group, unit = header.split()
        values = shortest([*scores.values()])
        for key, value in zip(scores, values, strict=True):
            if key[:3] != group:
                raise ValueError(f"{self.path}: {key} is not of the unit {header}")
            if not np.isfinite(value):
                raise FieldError(f"{self.path}: {key}", "score", f"must be finite, got {value}")
        records = [
            {"uid": key.uid, "sample": key.sample, "hinted": key.hinted, "score": value}
            for key, value in zip(scores, values, strict=True)
        ]
        self.append(unit, (meta_fingerprint, *group), records)

    def scores(
        self,
        meta_fingerprint: str,
        fingerprint: str | None = None,
        stage: str | None = None,
        step: int | None = None,
    ) -> dict[TrajectoryKey, float]:
        """All scores that match, by the key of the trajectory."""
        wanted = (meta_fingerprint, fingerprint, stage, step)
        by_key = {}
        for group, record, where in self.read(lambda group: _matches(group, wanted)):
            if type(record.get("score")) not in (int, float):
                raise FieldError(where, "score", f"expected a number, got {record.get('score')!r}")
            key = TrajectoryKey(*group[1:], *_sample_key(record))
            by_key[key] = to_float32([record["score"]])[0]
        return by_key
