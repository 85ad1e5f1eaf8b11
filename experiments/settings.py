"""Configs: from ml_collections sections to the frozen dataclasses of the library.

The dataclasses are the schema. A field that a dataclass does not know, lacks, or types otherwise
stops the run before any device work, by its dotted name.
"""

import dataclasses
import types
import typing
from typing import Any, TypeVar

import ml_collections

from grm_jax.ranges import Seed, split

T = TypeVar("T")


def from_section(
    cls: type[T],
    config: ml_collections.ConfigDict,
    name: str,
    *,
    sections: tuple[str, ...] = (),
    defaults: T | None = None,
    **extra: Any,
) -> T:
    """Builds dataclass `cls` from section `name` of a config.

    Args:
      cls: a dataclass.
      config: the whole config.
      name: dotted name of the section.
      sections: fields and sections inside it that belong to others.
      defaults: where fields come from that neither the section nor `extra` has.
      extra: fields that do not come from the section.

    Raises:
      ValueError: naming the dotted field.
    """
    section = require_section(config, name)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in extra}
    values = dict(extra)
    if defaults is not None:
        values = {key: getattr(defaults, key) for key in fields} | values
    for key, value in section.items():
        if key in sections:
            continue
        if key not in fields:
            known = sorted({*fields, *sections})
            raise ValueError(f"config.{name}.{key}: unknown field; known are {known}")
        values[key] = _typed(value, hints[key], f"config.{name}.{key}")
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and key not in values:
            raise ValueError(f"config.{name}.{key}: field is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"config.{name}.{error}") from error


def require_section(config: ml_collections.ConfigDict, name: str):
    """The section of a dotted name; ValueError where there is none."""
    section = config
    for part in name.split("."):
        if part not in section:
            raise ValueError(f"config.{name}: section is missing")
        section = section[part]
    return section


def _typed(value: Any, hint: Any, name: str) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        (hint,) = [option for option in options if option is not type(None)]
    if typing.get_origin(hint) is tuple:
        (item, _) = typing.get_args(hint)
        return tuple(numbers(value, name) if item is int else names(value, name))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{name}: expected {hint.__name__}, got {value!r}")
    return value


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
