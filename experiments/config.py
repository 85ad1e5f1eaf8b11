"""The typed config of a run: a tree of the dataclasses that own the fields, built once.

A config file (ml_collections) spells what it claims or changes. `complete` lays the defaults of the
dataclasses under it before flags are parsed, so every field can be set by flag; `build` makes the
tree, in which every type and range is checked; `claimed` is what differs from the defaults, which
is what fingerprints and comparisons of configs see: a default that is spelled out is the same
config, and a new field breaks no workdir.
"""

import collections.abc
import dataclasses
import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from experiments.sections import TRAINED_STAGES, Config
from grm_jax.models.config import Compute, ModelConfig
from grm_jax.models.variants import VARIANTS
from grm_jax.ranges import ranges, split
from grm_jax.sampling.remote import Server


class Field(NamedTuple):
    """A field or section of a dataclass of the tree.

    Attributes:
      name: as in the dataclass.
      kind: "value", "section", "flat" (its fields stand in the section of the parent), "model".
      hint: its type, without None.
      optional: whether it may be None.
      default: `dataclasses.MISSING` without one; of a section always.
      choices: the names that it may have or be made of, where they are listed.
      fixed: of a section, what decides fields of it that no config holds.
    """

    name: str
    kind: str
    hint: Any
    optional: bool
    default: Any
    choices: tuple[str, ...]
    fixed: Mapping[str, Any]


_NONE: Mapping[str, Any] = types.MappingProxyType({})


@functools.cache
def fields(cls: type) -> tuple[Field, ...]:
    """The fields of a dataclass of the tree."""
    found = []
    hints, allowed = typing.get_type_hints(cls), ranges(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        optional = type(None) in typing.get_args(hint)
        if optional:
            (hint,) = options
        kind = next((name for name in ("flat", "model") if name in field.metadata), "value")
        if kind == "value" and dataclasses.is_dataclass(hint):
            kind = "section"
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        choices = allowed[field.name].choices if field.name in allowed else ()
        fixed = field.metadata.get("fixed", {})
        found.append(Field(field.name, kind, hint, optional, default, choices, fixed))
    return tuple(found)


def _values(cls: type, fixed: Mapping[str, Any] = _NONE) -> list[Field]:
    """The fields that stand in the section of `cls` itself."""
    inner = [one for field in fields(cls) if field.kind == "flat" for one in _values(field.hint)]
    own = [one for one in fields(cls) if one.kind == "value" and one.name not in fixed]
    return inner + own


def _sections(cls: type) -> list[Field]:
    return [field for field in fields(cls) if field.kind == "section"]


# The tokenizer and the mesh decide these fields of a model; the family decides its records.
_NOT_IN_MODEL = ("vocab_size", "rules")


def _model_fields(config: Mapping) -> list[Field]:
    """The fields of section `model`; of released weights those that say how to compute only."""
    variant = Field("variant", "value", str, False, "", tuple(VARIANTS), {})
    shape = [] if config.get("released") is not None else [variant, *fields(ModelConfig)]
    return [
        field for field in (*shape, *fields(Compute))
        if field.kind == "value" and field.name not in _NOT_IN_MODEL
    ]


def has_shape(config: Mapping) -> bool:
    """Whether weights or a published size give the fields that section `model` leaves out."""
    return config.get("released") is not None or bool(config["model"].get("variant"))


def complete(config: Mapping) -> ConfigDict:
    """The config with every field that its sections have, those it lacks at their defaults.

    A field without a default, or with None, is a placeholder of its type, so that a flag can set
    it. Fields that are not known stay; `build` refuses them.
    """
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    whole = ConfigDict(filled(plain))
    _hold_places(whole, Config)
    if isinstance(whole.get("model"), ConfigDict):
        # Their defaults are those of the variant, which a flag may name.
        open_fields = {field.name: plain["model"].get(field.name) for field in _model_fields(plain)}
        whole.model = ConfigDict({**whole.model.to_dict(), **open_fields})
        _hold_place(whole.model, _model_fields(plain))
    return whole


def in_use(config: Mapping) -> ConfigDict:
    """The config without the sections of the stages that its field `stages` leaves out.

    Raises:
      ValueError: it names a stage that has no section.
    """
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    on = split(plain.pop("stages", None) or "")
    there = [name for name in TRAINED_STAGES if plain.get(name) is not None]
    if absent := set(on) - set(there):
        raise ValueError(f"config.stages: {min(absent)!r} has no section; there are {there}")
    return ConfigDict({k: v for k, v in plain.items() if not on or k in on or k not in there})


def filled(config: Mapping) -> dict[str, Any]:
    """The same as plain dicts, with None in place of placeholders."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    whole = _fill(plain, Config)
    if isinstance(plain.get("model"), Mapping):
        of_shape = has_shape(plain)
        whole["model"] = dict(plain["model"])
        for field in _model_fields(plain):
            _lay(whole["model"], field._replace(default=None) if of_shape else field)
    return whole


def _fill(section: Mapping, cls: type, fixed: Mapping[str, Any] = _NONE) -> dict[str, Any]:
    whole = dict(section)
    for field in _values(cls, fixed):
        _lay(whole, field)
    for field in _sections(cls):
        if isinstance(section.get(field.name), Mapping):
            whole[field.name] = _fill(section[field.name], field.hint, field.fixed)
    return whole


def _lay(section: dict[str, Any], field: Field) -> None:
    value = section.get(field.name)
    if value is None and field.default is not dataclasses.MISSING:
        value = _text(field.default)
    if typing.get_origin(field.hint) is tuple and isinstance(value, str):
        value = ",".join(split(value))
    section[field.name] = float(value) if field.hint is float and type(value) is int else value


def _hold_places(section: ConfigDict, cls: type, fixed: Mapping[str, Any] = _NONE) -> None:
    _hold_place(section, _values(cls, fixed))
    for field in _sections(cls):
        if isinstance(section.get(field.name), ConfigDict):
            _hold_places(section[field.name], field.hint, field.fixed)


def _hold_place(section: ConfigDict, values: Iterable[Field]) -> None:
    with section.ignore_type():
        for field in values:
            if section[field.name] is None:
                kind = field.hint if field.hint in (int, float, bool) else str
                section[field.name] = config_dict.placeholder(kind)


def _text(value: Any) -> Any:
    """A value as configs hold it: sizes are one comma-separated string."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def build(config: Mapping) -> Config:
    """The typed tree of a config.

    Raises:
      ValueError: naming the dotted field that is unknown, missing, of a wrong type or out of its
        range.
    """
    return _build(Config, filled(config), "config", {})


def _build(
    cls: type, section: Mapping, where: str, fixed: Mapping[str, Any], above: Mapping = _NONE
) -> Any:
    known = [field.name for field in (*_values(cls, fixed), *_sections(cls))]
    known += [field.name for field in fields(cls) if field.kind == "model"]
    for key in section:
        if key not in known:
            kind = "section" if cls is Config else "field"
            raise ValueError(f"{where}.{key}: unknown {kind}{nearest(key, known)}")
    built = dict(fixed)
    for field in fields(cls):
        name, dotted = field.name, f"{where}.{field.name}"
        if name in built:
            continue
        if field.kind == "flat":
            own = {one.name: section.get(one.name) for one in _values(field.hint)}
            built[name] = _build(field.hint, own, where, {})
        elif field.kind == "model":
            built[name] = _model(section, dotted)
        elif section.get(name) is None and field.optional:
            built[name] = None
        elif field.kind == "section":
            if not isinstance(section.get(name), Mapping):
                raise ValueError(f"{dotted}: section is missing")
            scope = {**above, **built}
            decided = {k: v(scope) if callable(v) else v for k, v in field.fixed.items()}
            built[name] = _build(field.hint, section[name], dotted, decided, scope)
        else:
            built[name] = _value(section.get(name), field, dotted)
    try:
        return cls(**built)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error


def _model(section: Mapping, where: str) -> dict[str, Any]:
    """The given fields of section `model`, by their names; see `schema.model_config`."""
    if not isinstance(section.get("model"), Mapping):
        raise ValueError(f"{where}: section is missing")
    known = {field.name: field for field in _model_fields(section)}
    values = {}
    for key, value in section["model"].items():
        if key not in known:
            if key in {field.name for field in _model_fields({})}:
                raise ValueError(
                    f"{where}.{key}: belongs to the weights of config.released.model; section "
                    f"model may hold {[*known]}"
                )
            raise ValueError(f"{where}.{key}: unknown field{nearest(key, known)}")
        if value is not None or not (has_shape(section) or known[key].optional):
            values[key] = _value(value, known[key], f"{where}.{key}")
        elif not has_shape(section):
            values[key] = None
    return values


def _value(value: Any, field: Field, where: str) -> Any:
    """A value of a config as the type of its field."""
    if value is None:
        raise ValueError(f"{where}: field is missing")
    hint = field.hint
    if typing.get_origin(hint) is tuple:
        parts = split(value) if isinstance(value, str) else ["none"]
        if not all(re.fullmatch("-?[0-9]+", part) for part in parts):
            raise ValueError(f"{where}: expected comma-separated integers, got {value!r}")
        return tuple(map(int, parts))
    if typing.get_origin(hint) is Mapping or typing.get_origin(hint) is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a section, got {value!r}")
        return dict(value)
    if hint is float and type(value) is int:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the one that was meant, or all there are."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {sorted(known)}"


def claimed(config: Mapping) -> dict[str, Any]:
    """What a config claims: its sections, with the fields that are not at their defaults.

    Args:
      config: a config, or the sections of one, as JSON too.
    """
    whole = filled(config)
    found = _claimed(whole, Config)
    if isinstance(whole.get("model"), Mapping):
        defaults = {field.name: field.default for field in _model_fields(whole)}
        if has_shape(whole):
            defaults = dict.fromkeys(defaults)
        found["model"] = {
            key: value for key, value in whole["model"].items()
            if value != defaults.get(key, dataclasses.MISSING) and value is not None
        }
    return found


def _claimed(section: Mapping, cls: type, fixed: Mapping[str, Any] = _NONE) -> dict[str, Any]:
    defaults = {field.name: _text(field.default) for field in _values(cls, fixed)}
    inner = {field.name: field for field in _sections(cls)}
    found = {}
    for key, value in section.items():
        if key in inner and isinstance(value, Mapping):
            found[key] = _claimed(value, inner[key].hint, inner[key].fixed)
        elif value != defaults.get(key, dataclasses.MISSING) and value is not None:
            found[key] = value
    return found


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


class Shown(NamedTuple):
    """A line of `--show_config`: a field, its value, where that is from, and what it means."""

    name: str
    value: Any
    origin: str
    doc: str
    field: Field


def shown(config: Mapping, file: Mapping, plain: Mapping, flags: Collection[str]) -> list[Shown]:
    """Every field of a config with its origin.

    Args:
      config: as it is used.
      file: as the file gave it, with its variant.
      plain: as the file gives it without a variant; the same where there is none.
      flags: dotted names of fields that flags set.
    """
    lines: list[Shown] = []

    def origin(dotted: str, value: Any) -> str:
        if dotted in flags:
            return "flag"
        sources = [_at(source, dotted) for source in (file, plain)]
        if sources[0] is None:
            return "default"
        return "file" if sources[1] == value else "variant"

    def visit(section: Mapping, values: Iterable[tuple[Field, str]], prefix: str) -> None:
        for field, doc in values:
            value = section.get(field.name)
            choices = f" Known: {', '.join(filter(None, field.choices))}." if field.choices else ""
            dotted = f"{prefix}{field.name}"
            lines.append(Shown(dotted, value, origin(dotted, value), doc + choices, field))

    def descend(section: Mapping, cls: type, fixed: Mapping[str, Any], prefix: str) -> None:
        visit(section, _documented(cls, fixed), prefix)
        for field in fields(cls):
            own = section.get(field.name)
            if field.kind == "model":
                doc = docs(ModelConfig) | docs(Compute)
                doc |= {"variant": "a published size; the others override it."}
                visit(own, [(one, doc[one.name]) for one in _model_fields(section)], "model.")
            elif field.kind == "section" and isinstance(own, Mapping):
                descend(own, field.hint, field.fixed, f"{prefix}{field.name}.")

    descend(filled(config), Config, {}, "")
    return lines


def _at(config: Mapping, dotted: str) -> Any:
    for part in dotted.split("."):
        config = config.get(part) if isinstance(config, Mapping | ConfigDict) else None
    return config


def _documented(cls: type, fixed: Mapping[str, Any]) -> list[tuple[Field, str]]:
    found = []
    for field in fields(cls):
        if field.kind == "flat":
            found += _documented(field.hint, {})
        elif field.kind == "value" and field.name not in fixed:
            doc = docs(cls).get(field.name) or docs(Server)[field.name.removeprefix("engine_")]
            found.append((field, doc))
    return found


@functools.cache
def docs(cls: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each of its fields, on one line."""
    text = inspect.getdoc(cls).partition("Attributes:\n")[2].partition("\n\n")[0]
    found = {}
    for names, doc in re.findall(r"^  (\w[\w, ]*): (.+(?:\n   .*)*)", text, re.MULTILINE):
        for name in names.split(", "):
            found[name] = " ".join(doc.split())
    return found
