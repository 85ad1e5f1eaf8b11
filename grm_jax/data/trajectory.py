"""The trajectory, and the append-only stores of trajectories and of meta scores.

Both stores are a `UnitLog`, where file and rules are described, whose records have a type.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from grm_jax.data.comparison import FieldError
from grm_jax.data.unit_log import UnitLog, dump

FINISHES = ("stop", "length")
TRAJECTORY_GROUP = ("fingerprint", "stage", "step")
META_GROUP = ("meta_fingerprint", *TRAJECTORY_GROUP)


class TrajectoryKey(NamedTuple):
    """What names a trajectory for ever."""

    fingerprint: str
    stage: str
    step: int
    uid: str
    sample: int
    hinted: bool


class UnitHeader(NamedTuple):
    """A work unit: `unit` is its index in the work list of (fingerprint, stage, step)."""

    fingerprint: str
    stage: str
    step: int
    unit: int

    def split(self) -> tuple[tuple[str, str, int], int]:
        """((fingerprint, stage, step), unit) as plain Python values."""
        return (self.fingerprint, self.stage, operator.index(self.step)), operator.index(self.unit)


def _float32(values: Sequence[float]) -> tuple[float, ...]:
    rounded = np.asarray(values, np.float32)
    if rounded.ndim != 1:
        raise ValueError(f"expected one dimension, got shape {rounded.shape}")
    return tuple(rounded.tolist())


def _short(values: Sequence[float]) -> list[float]:
    """The floats with the fewest digits that become the same float32 values again."""
    exact = np.asarray(values, np.float32)
    short = [float(text) for text in exact.astype(str)]
    return short if np.array_equal(np.asarray(short, np.float32), exact) else exact.tolist()


@dataclass(frozen=True)
class Trajectory:
    """One sampled judgement: principles, critique and scores, with all that learning needs.

    T generated tokens, N responses. Log-probs are kept as float32 values.

    Attributes:
      fingerprint: hex name of (parameters, template, tokenizer, temperature, top-p, order policy).
      stage, step: the stage of the loop and its pass or optimisation step.
      uid, sample: the comparison, and which of its samples this is.
      seed: the two uint32 words of the random key of this sample.
      order: [N] permutation; order[j] is the index in `Comparison.responses` of the response
        shown at position j.
      token_ids: [T] generated ids; the text need not tokenise to the same ones. None (T = 0) if a
        remote engine drew it, which speaks text: then the text is all there is, and log-probs are
        empty too. A trajectory that was drawn here has at least its end token.
      logprobs: [T] log pi of the ids, untempered.
      sampling_logprobs: [T] log-probs under the distribution that was sampled from.
      text: what was given, and the decoded ids.
      scores: strict parse, in the PRESENTED order; None if it failed, see `parse_reason`.
      parse_reason: 'ok' exactly if scores is not None.
      lenient_scores: lenient parse, in the presented order, or None.
      finish: 'stop' (an end token) or 'length'.
      correct: the correctness rule (paper Eq. 10); None where it is not told.
      hinted: the prompt told which response is best.
      truncated: the prompt was cut to fit.
      given: the beginning of the text that was not generated: given principles.

    Raises:
      FieldError: a field has the wrong type, length or range.
    """

    fingerprint: str
    stage: str
    step: int
    uid: str
    sample: int
    seed: tuple[int, int]
    order: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    sampling_logprobs: tuple[float, ...]
    text: str
    scores: tuple[int, ...] | None
    parse_reason: str
    lenient_scores: tuple[int, ...] | None
    finish: str
    correct: bool | None
    hinted: bool = False
    truncated: bool = False
    given: str = ""

    def __post_init__(self) -> None:
        def put(name: str, make: Callable[[Any], Any]) -> Any:
            try:
                value = make(getattr(self, name))
            except (TypeError, ValueError, OverflowError) as error:
                raise FieldError(self._where(), name, str(error)) from None
            object.__setattr__(self, name, value)
            return value

        for name in ("fingerprint", "stage", "uid", "text", "parse_reason", "finish", "given"):
            put(name, _text)
        self._demand(self.text.startswith(self.given), "given", "is not how the text begins")
        for name in ("step", "sample"):
            self._demand(put(name, operator.index) >= 0, name, "is negative")
        for name in ("hinted", "truncated"):
            put(name, _bool)
        put("correct", _optional(_bool))
        seed, order = put("seed", _ints), put("order", _ints)
        self._demand(
            len(seed) == 2 and all(0 <= word < 2**32 for word in seed), "seed", "is not two uint32"
        )
        n = len(order)
        self._demand(
            n > 0 and sorted(order) == list(range(n)), "order", f"{order} is no permutation"
        )
        tokens = len(put("token_ids", _ints))
        for name in ("logprobs", "sampling_logprobs"):
            values = put(name, _float32)
            self._demand(len(values) == tokens, name, f"{len(values)} values, {tokens} tokens")
            self._demand(bool(np.isfinite(values).all()), name, "must be finite")
        for name in ("scores", "lenient_scores"):
            scores = put(name, _optional(_ints))
            self._demand(scores is None or len(scores) == n, name, f"{scores}: not {n} scores")
        self._demand(
            (self.scores is None) == (self.parse_reason != "ok"),
            "parse_reason",
            f"{self.parse_reason!r} contradicts scores {self.scores}",
        )
        self._demand(self.finish in FINISHES, "finish", f"{self.finish!r} not in {FINISHES}")

    def _where(self) -> str:
        return f"stage {self.stage}, step {self.step}: {self.uid!r}, sample {self.sample!r}"

    def _demand(self, holds: bool, name: str, problem: str) -> None:
        if not holds:
            raise FieldError(self._where(), name, problem)

    @property
    def key(self) -> TrajectoryKey:
        """The key of the record."""
        return TrajectoryKey(*(getattr(self, name) for name in TrajectoryKey._fields))

    def original_scores(self, *, lenient: bool = False) -> tuple[int, ...] | None:
        """[N] scores of a parser by index in `Comparison.responses`; None if it found none."""
        scores = self.lenient_scores if lenient else self.scores
        if scores is None:
            return None
        by_response = dict(zip(self.order, scores, strict=True))
        return tuple(by_response[i] for i in range(len(self.order)))

    def to_json(self) -> str:
        """One line, without its end; floats are written with the fewest exact digits."""
        return dump(self._record())

    def _record(self) -> dict[str, Any]:
        record = dict(self.__dict__)
        for name in ("logprobs", "sampling_logprobs"):
            record[name] = _short(record[name])
        return record

    @classmethod
    def from_json(cls, line: str | bytes) -> Trajectory:
        """The equal trajectory back from `to_json`. Raises ValueError on anything else."""
        return cls._from_record(json.loads(line))

    @classmethod
    def _from_record(cls, record: Any) -> Trajectory:
        if not isinstance(record, dict):
            raise ValueError(f"expected a JSON object, got {type(record).__name__}")
        # Logs of before there was one have no `given`.
        for name in sorted((record.keys() ^ _TRAJECTORY_FIELDS) - {"given"}):
            problem = "unknown field" if name in record else "is missing"
            raise FieldError("trajectory", name, problem)
        return cls(**record)


_TRAJECTORY_FIELDS = {field.name for field in dataclasses.fields(Trajectory)}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {type(value).__name__}")
    value.encode()  # half a surrogate pair has no UTF-8 form
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"expected a bool, got {type(value).__name__}")
    return bool(value)


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(map(operator.index, values))


def _optional(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else make(value)


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
        self.append(unit, group, [t._record() for t in trajectories])

    def iterate(
        self,
        fingerprint: str | None = None,
        stage: str | None = None,
        step: int | None = None,
    ) -> Iterator[Trajectory]:
        """Trajectories that match, one at a time: by group, work unit and place in the unit.

        Raises:
          ValueError: a record does not read; the message names ``path:line`` and the field.
        """
        wanted = (fingerprint, stage, step)
        for _, record, where in self.read(lambda group: _matches(group, wanted)):
            try:
                yield Trajectory._from_record(record)
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
        values = _short([*scores.values()])
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
        found = {}
        for group, record, where in self.read(lambda group: _matches(group, wanted)):
            if type(record.get("score")) not in (int, float):
                raise FieldError(where, "score", f"expected a number, got {record.get('score')!r}")
            key = TrajectoryKey(*group[1:], *_sample_key(record))
            found[key] = _float32([record["score"]])[0]
        return found
