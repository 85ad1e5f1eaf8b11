"""The trajectory: one sampled judgement, the third record of the flow. See `stores` for files."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from grm_jax.data.comparison import FieldError

FINISHES = ("stop", "length")


class TrajectoryKey(NamedTuple):
    """Permanent name of a trajectory."""

    fingerprint: str
    stage: str
    step: int
    uid: str
    sample: int
    hinted: bool


def to_float32(values: Sequence[float]) -> tuple[float, ...]:
    """The values rounded to float32. Raises ValueError unless they have one dimension."""
    rounded = np.asarray(values, np.float32)
    if rounded.ndim != 1:
        raise ValueError(f"expected one dimension, got shape {rounded.shape}")
    return tuple(rounded.tolist())


def shortest(values: Sequence[float]) -> list[float]:
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
      token_ids: [T] generated ids; the text need not tokenise to the same ones. A trajectory of
        the jitted engine has at least its end token; one of a remote engine, which returns text,
        has no ids and no log-probs (T = 0).
      logprobs: [T] log pi of the ids, untempered.
      sampling_logprobs: [T] log-probs under the distribution that was sampled from.
      text: the given beginning and the decoded ids, without the thinking.
      scores: strict parse, in the PRESENTED order; None if it failed, see `parse_reason`. Finite
        numbers, of which the whole ones are int: a GRM has no others, a judge may have.
      parse_reason: 'ok' exactly if scores is not None.
      lenient_scores: lenient parse, in the presented order, or None.
      finish: 'stop' (an end token) or 'length'.
      correct: the correctness rule (paper Eq. 10); None without a single best response.
      hinted: the prompt names the best response.
      truncated: the prompt was shortened to fit.
      given: the beginning of the text that was not generated: given principles.
      thinking: what the model thought before its answer, of which nothing is read.

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
    scores: tuple[float, ...] | None
    parse_reason: str
    lenient_scores: tuple[float, ...] | None
    finish: str
    correct: bool | None
    hinted: bool = False
    truncated: bool = False
    given: str = ""
    thinking: str = ""

    def __post_init__(self) -> None:
        for name, convert in _CONVERSIONS.items():
            try:
                value = convert(getattr(self, name))
            except (TypeError, ValueError, OverflowError) as error:
                raise FieldError(self._where(), name, str(error)) from None
            object.__setattr__(self, name, value)
        self._demand(self.text.startswith(self.given), "given", "is not how the text begins")
        for name in ("step", "sample"):
            self._demand(getattr(self, name) >= 0, name, "is negative")
        words = len(self.seed) == 2 and all(0 <= word < 2**32 for word in self.seed)
        self._demand(words, "seed", "is not two uint32")
        n, tokens = len(self.order), len(self.token_ids)
        permutes = n > 0 and sorted(self.order) == list(range(n))
        self._demand(permutes, "order", f"{self.order} is no permutation")
        for name in ("logprobs", "sampling_logprobs"):
            values = getattr(self, name)
            self._demand(len(values) == tokens, name, f"{len(values)} values, {tokens} tokens")
            self._demand(bool(np.isfinite(values).all()), name, "must be finite")
        for name in ("scores", "lenient_scores"):
            scores = getattr(self, name)
            self._demand(scores is None or len(scores) == n, name, f"{scores}: not {n} scores")
        agrees = (self.scores is None) == (self.parse_reason != "ok")
        problem = f"{self.parse_reason!r} contradicts scores {self.scores}"
        self._demand(agrees, "parse_reason", problem)
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

    def original_scores(self, *, lenient: bool = False) -> tuple[float, ...] | None:
        """[N] scores of a parser by index in `Comparison.responses`; None if it found none."""
        scores = self.lenient_scores if lenient else self.scores
        if scores is None:
            return None
        by_response = dict(zip(self.order, scores, strict=True))
        return tuple(by_response[i] for i in range(len(self.order)))

    def record(self) -> dict[str, Any]:
        """Fields by name, as JSON holds them; floats have the fewest exact digits."""
        record = dict(self.__dict__)
        for name in ("logprobs", "sampling_logprobs"):
            record[name] = shortest(record[name])
        return record

    @classmethod
    def from_record(cls, record: Any) -> Trajectory:
        """The trajectory of the fields that `record` returned. Raises FieldError on others."""
        if not isinstance(record, dict):
            raise ValueError(f"expected a JSON object, got {type(record).__name__}")
        for name in sorted((record.keys() ^ _TRAJECTORY_FIELDS) - _NOT_IN_OLDER_LOGS):
            problem = "unknown field" if name in record else "is missing"
            raise FieldError("trajectory", name, problem)
        return cls(**record)


_TRAJECTORY_FIELDS = {field.name for field in dataclasses.fields(Trajectory)}
_NOT_IN_OLDER_LOGS = {"given", "thinking"}


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


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(map(_number, values))


def _number(value: Any) -> float:
    """A whole number as int."""
    if not isinstance(value, float | np.floating):
        return operator.index(value)
    if not math.isfinite(value):
        raise ValueError(f"must be finite, got {value}")
    return int(value) if float(value).is_integer() else float(value)


def _optional(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else make(value)


# Each field as it is kept, from the values that JSON or numpy give.
_CONVERSIONS = {
    **dict.fromkeys(
        ("fingerprint", "stage", "uid", "text", "parse_reason", "finish", "given", "thinking"),
        _text,
    ),
    **dict.fromkeys(("step", "sample"), operator.index),
    **dict.fromkeys(("hinted", "truncated"), _bool), "correct": _optional(_bool),
    **dict.fromkeys(("seed", "order", "token_ids"), _ints),
    **dict.fromkeys(("logprobs", "sampling_logprobs"), to_float32),
    **dict.fromkeys(("scores", "lenient_scores"), _optional(_numbers)),
}  # fmt: skip
