"""Lists in one string, as configs hold them, and what differs between two configs."""

from typing import Any

from grm_jax.ranges import Seed, split


def names(value: Any, name: str) -> list[str]:
    """Splits a comma-separated field; an empty string is an empty list.

    Lists are written as one string, because a tuple that is overridden on the command line
    silently becomes a tuple of one element.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a comma-separated string, got {value!r}")
    return split(value)


def numbers(value: Any, name: str) -> list[int]:
    """Splits a comma-separated field of integers."""
    try:
        return [int(part) for part in names(value, name)]
    except ValueError as error:
        raise ValueError(f"{name}: expected comma-separated integers, got {value!r}") from error


def require_seed(value: Any, name: str) -> None:
    """Raises ValueError for what is no seed."""
    (seeds,) = Seed.__metadata__
    if type(value) is not int or not seeds.holds(value):
        raise ValueError(f"{name}: must be an integer {seeds.text}, got {value!r}")


def differing_fields(a: dict, b: dict, prefix: str = "config") -> list[str]:
    """Dotted names, with both values, of the fields in which two nested dicts differ."""
    found = []
    for key in sorted({*a, *b}):
        name, left, right = f"{prefix}.{key}", a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differing_fields(left, right, name)
        elif left != right:
            found.append(f"{name}: {left!r} there, {right!r} now")
    return found
