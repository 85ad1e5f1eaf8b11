"""Ranges of config fields: written in the annotations, checked in one place.

    @dataclasses.dataclass(frozen=True)
    class OptimizerConfig(Checked):
        learning_rate: Positive
        steps: Count
        schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"

A config with a field outside its range cannot be made. Conditions on two fields stand in a
`__post_init__` of the dataclass, which calls that of `Checked` first, and `demand`.
"""

import dataclasses
import functools
import math
import operator
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that a field may have.

    Attributes:
      text: the rest of the sentence "the field must be ...".
      holds: whether a value is in the range.
      choices: all values, where they can be listed.
    """

    text: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def at_least(lowest: float) -> Range:
    """Finite numbers from `lowest` up."""
    return Range(f"at least {lowest:g}", lambda value: lowest <= value < math.inf)


def above(bound: float) -> Range:
    """Finite numbers greater than `bound`."""
    return Range(f"above {bound:g}", lambda value: bound < value < math.inf)


def between(lowest: float, highest: float) -> Range:
    """Numbers from `lowest` to `highest`, both included."""
    return Range(f"from {lowest} to {highest}", lambda value: lowest <= value <= highest)


def one_of(choices: Sequence[str]) -> Range:
    """Names out of a list."""
    return Range(f"one of {tuple(choices)}", lambda value: value in choices, tuple(choices))


def names_of(choices: Sequence[str], *, fewest: int = 0) -> Range:
    """Comma-separated names out of a list, at least `fewest` of them and none twice."""

    def holds(value: str) -> bool:
        given = split(value)
        return len(given) >= fewest and len(set(given)) == len(given) and set(given) <= set(choices)

    kind = "comma-separated, different names" + " (or empty)" * (not fewest)
    return Range(f"{kind} out of {tuple(choices)}", holds, tuple(choices))


def _ascending(sizes: Sequence[int]) -> bool:
    return bool(sizes) and sizes[0] >= 1 and list(sizes) == sorted(set(sizes))


Count = Annotated[int, at_least(1)]
Natural = Annotated[int, at_least(0)]
Seed = Annotated[int, between(0, 2**32 - 1)]  # both numpy and `jax.random.key` take these
Positive = Annotated[float, above(0)]
NonNegative = Annotated[float, at_least(0)]
Finite = Annotated[float, Range("a finite number", math.isfinite)]
Share = Annotated[float, between(0, 1)]
# A mean that decays by 1 would never see a gradient.
Decay = Annotated[float, Range("at least 0 and below 1", lambda value: 0 <= value < 1)]
Sizes = Annotated[tuple[int, ...], Range("ascending sizes of at least 1", _ascending)]


def split(value: str) -> list[str]:
    """Parts of a comma-separated string, without the empty ones."""
    return [part.strip() for part in value.split(",") if part.strip()]


class Checked:
    """Base of a dataclass whose annotations carry ranges."""

    def __post_init__(self):
        """Raises ValueError: "<field>: must be <range>, got <value>"."""
        for name, allowed in ranges(type(self)).items():
            value = getattr(self, name)
            self.demand(name, value is None or allowed.holds(value), allowed.text)

    def demand(self, field: str, holds: bool, text: str) -> None:
        """Raises ValueError: "<field>: must be <text>, got <value>", unless it holds."""
        if not holds:
            value = operator.attrgetter(field)(self)
            raise ValueError(f"{field}: must be {text}, got {value!r}")


@functools.cache
def ranges(cls: type) -> dict[str, Range]:
    """Ranges of the fields of a dataclass, by name; whether None is allowed is left to the type."""
    by_name = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        for option in (hint, *typing.get_args(hint)):
            for extra in getattr(option, "__metadata__", ()):
                if isinstance(extra, Range):
                    by_name[name] = extra
    return by_name
