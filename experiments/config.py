"""The typed config of a run: a tree of the dataclasses that own the fields, built once.

A config file (ml_collections) lists the fields that it claims or changes. `complete` adds the
defaults of the dataclasses before flags are parsed, so that every field can be set by flag; `build`
makes the tree and checks every type and range; `claimed` keeps the fields that differ from their
defaults, which are all that fingerprints and comparisons of configs see: a spelled-out default is
the same config, and a new field breaks no workdir.
"""

import dataclasses
import difflib
import functools
import inspect
import re
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from experiments.sections import TRAINED_STAGES, Config
from grm_jax.models.config import Compute, ModelConfig
from grm_jax.models.variants import VARIANTS
from grm_jax.ranges import ranges, split


class Field(NamedTuple):
    """A field or section of a dataclass of the tree.

    Attributes:
      name: as in the dataclass, or as in the section where a flat record adds a prefix.
      kind: "value", "section", "flat" (its fields stand in the section of the parent), "model".
      hint: its type, without None.
      optional: whether it may be None.
      default: `dataclasses.MISSING` without one; of a section always.
      choices: the names that it may have or be made of, where they are listed.
      fixed: of a section or flat record, values of the fields that no config holds.
      prefix: of a flat record, the beginning of the names of its fields in the section.
      doc: its line in the docstring of the dataclass.
    """

    name: str
    kind: str
    hint: Any
    optional: bool
    default: Any
    choices: tuple[str, ...]
    fixed: Mapping[str, Any]
    prefix: str
    doc: str


@functools.cache
def fields(cls: type) -> tuple[Field, ...]:
    """The fields of a dataclass of the tree."""
    found = []
    hints, allowed = typing.get_type_hints(cls), ranges(cls)
    for field in dataclasses.fields(cls):
        name, hint, data = field.name, hints[field.name], field.metadata
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        optional = type(None) in typing.get_args(hint)
        if optional:
            (hint,) = options
        kind = next((kind for kind in ("flat", "model") if kind in data), "value")
        if kind == "value" and dataclasses.is_dataclass(hint):
            kind = "section"
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        choices = allowed[name].choices if name in allowed else ()
        fixed, prefix, doc = data.get("fixed", {}), data.get("flat", ""), docs(cls).get(name, "")
        found.append(Field(name, kind, hint, optional, default, choices, fixed, prefix, doc))
    return tuple(found)


class Layout(NamedTuple):
    """The fields of a section as config files hold them, and the sections inside it by name."""

    values: tuple[Field, ...]
    sections: Mapping[str, "Layout"]


@functools.cache
def _layout(cls: type, fixed: frozenset[str] = frozenset()) -> Layout:
    values, sections = [], {}
    for field in fields(cls):
        if field.kind == "value" and field.name not in fixed:
            values.append(field)
        elif field.kind == "flat":
            inner = _layout(field.hint, frozenset(field.fixed)).values
            values += [value._replace(name=field.prefix + value.name) for value in inner]
        elif field.kind == "section":
            sections[field.name] = _layout(field.hint, frozenset(field.fixed))
        elif field.kind == "model":
            sections[field.name] = Layout((), {})  # `layout` knows its fields
    return Layout(tuple(values), sections)


def layout(config: Mapping, *, open_model: bool = False) -> Layout:
    """The fields and sections that a config may have.

    Args:
      config: of which `released` decides the fields of `model`.
      open_model: fields of `model` have no defaults of their own: those of a shape hold.
    """
    whole = _layout(Config)
    model = _model_fields(config)
    if open_model:
        model = tuple(field._replace(default=None) for field in model)
    return whole._replace(sections={**whole.sections, "model": Layout(model, {})})


# The tokenizer and the mesh decide these fields of a model; the family decides its records.
_NOT_IN_MODEL = ("vocab_size", "rules")
_VARIANT = Field("variant", "value", str, False, "", tuple(VARIANTS), {}, "",
                 "a published size; the others override it.")  # fmt: skip


def _model_fields(config: Mapping) -> tuple[Field, ...]:
    """The fields of section `model`; with released weights those of `Compute` only."""
    shape = () if config.get("released") is not None else (_VARIANT, *fields(ModelConfig))
    return tuple(
        field for field in (*shape, *fields(Compute))
        if field.kind == "value" and field.name not in _NOT_IN_MODEL
    )  # fmt: skip


def has_shape(config: Mapping) -> bool:
    """Whether weights or a published size give the fields that section `model` leaves out."""
    model = config.get("model") or {}
    return config.get("released") is not None or bool(model.get("variant"))


def _plain(config: Mapping) -> Mapping:
    return config.to_dict() if isinstance(config, ConfigDict) else config


def complete(config: Mapping) -> ConfigDict:
    """The config with every field that its sections have, those it lacks at their defaults.

    A field without a default, or with None, is a placeholder of its type, so that a flag can set
    it. So are fields of `model`, whose defaults are those of the variant, which a flag may name.
    Fields that are not known stay; `build` refuses them.
    """
    plain = _plain(config)
    open_model = layout(plain, open_model=True)
    whole = ConfigDict(_fill(plain, open_model))
    with whole.ignore_type():  # of all its sections
        _hold_places(whole, open_model)
    return whole


def in_use(config: Mapping) -> ConfigDict:
    """The config without the stages that its field `stages` switches off.

    Raises:
      ValueError: it names a stage that has no section.
    """
    plain = dict(_plain(config))
    on = split(plain.pop("stages", None) or "")
    there = [name for name in TRAINED_STAGES if plain.get(name) is not None]
    if absent := set(on) - set(there):
        raise ValueError(f"config.stages: {min(absent)!r} has no section; there are {there}")
    return ConfigDict({k: v for k, v in plain.items() if not on or k in on or k not in there})


def filled(config: Mapping) -> dict[str, Any]:
    """The same as plain dicts, with None in place of placeholders."""
    plain = _plain(config)
    return _fill(plain, layout(plain, open_model=has_shape(plain)))


def _fill(section: Mapping, known: Layout) -> dict[str, Any]:
    whole = dict(section)
    for field in known.values:
        value = section.get(field.name)
        if value is None and field.default is not dataclasses.MISSING:
            value = _text(field.default)
        if typing.get_origin(field.hint) is tuple and isinstance(value, str):
            value = ",".join(split(value))
        to_float = field.hint is float and type(value) is int
        whole[field.name] = float(value) if to_float else value
    for name, inner in known.sections.items():
        if isinstance(section.get(name), Mapping):
            whole[name] = _fill(section[name], inner)
    return whole


def _hold_places(section: ConfigDict, known: Layout) -> None:
    for field in known.values:
        if section[field.name] is None:
            kind = field.hint if field.hint in (int, float, bool) else str
            section[field.name] = config_dict.placeholder(kind)
    for name, inner in known.sections.items():
        if isinstance(section.get(name), ConfigDict):
            _hold_places(section[name], inner)


def _text(value: Any) -> Any:
    """A value as configs hold it: sizes are one comma-separated string."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def build(config: Mapping) -> Config:
    """The typed tree of a config.

    Raises:
      ValueError: naming the dotted field that is unknown, missing, of a wrong type or out of its
        range.
    """
    return _build(Config, filled(config), "config.", {}, {})


def _build(
    cls: type, section: Mapping, prefix: str, fixed: Mapping[str, Any], above: Mapping[str, Any]
) -> Any:
    """The dataclass of a section.

    Args:
      cls: the dataclass.
      section: its fields and sections.
      prefix: the beginning of their dotted names.
      fixed: the fields that no config holds.
      above: the fields of the parents that were built before.
    """
    known = _layout(cls, frozenset(fixed))
    names = [*(field.name for field in known.values), *known.sections]
    for key in section:
        if key not in names:
            kind = "section" if cls is Config else "field"
            raise ValueError(f"{prefix}{key}: unknown {kind}{nearest(key, names)}")
    built = dict(fixed)
    for field in fields(cls):
        name, dotted, value = field.name, f"{prefix}{field.name}", section.get(field.name)
        if name in built:
            continue
        if field.kind == "flat":
            inner = _layout(field.hint, frozenset(field.fixed)).values
            record = {value.name: section[field.prefix + value.name] for value in inner}
            built[name] = _build(field.hint, record, prefix + field.prefix, field.fixed, {})
        elif field.kind == "model":
            built[name] = _model(section, dotted)
        elif field.kind == "section" and not (value is None and field.optional):
            if not isinstance(value, Mapping):
                raise ValueError(f"{dotted}: section is missing")
            scope = {**above, **built}
            decided = {k: v(scope) if callable(v) else v for k, v in field.fixed.items()}
            built[name] = _build(field.hint, value, f"{dotted}.", decided, scope)
        else:
            built[name] = _value(value, field, dotted)
    try:
        return cls(**built)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


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
        if value is not None or not has_shape(section):
            values[key] = _value(value, known[key], f"{where}.{key}")
    return values


def _value(value: Any, field: Field, where: str) -> Any:
    """A value of a config as the type of its field."""
    if value is None:
        if field.optional:
            return None
        raise ValueError(f"{where}: field is missing")
    hint = field.hint
    if typing.get_origin(hint) is tuple:
        parts = split(value) if isinstance(value, str) else ["none"]
        if not all(re.fullmatch("-?[0-9]+", part) for part in parts):
            raise ValueError(f"{where}: expected comma-separated integers, got {value!r}")
        return tuple(map(int, parts))
    if typing.get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a section, got {value!r}")
        return dict(value)
    if hint is float and type(value) is int:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {sorted(known)}"


def claimed(config: Mapping) -> dict[str, Any]:
    """The sections of a config with the fields that are not at their defaults.

    Args:
      config: a config, or the sections of one, as JSON too.
    """
    plain = _plain(config)
    known = layout(plain, open_model=has_shape(plain))
    return _claimed(_fill(plain, known), known)


def _claimed(section: Mapping, known: Layout) -> dict[str, Any]:
    defaults = {field.name: _text(field.default) for field in known.values}
    differing = {}
    for key, value in section.items():
        if key in known.sections and isinstance(value, Mapping):
            differing[key] = _claimed(value, known.sections[key])
        elif value != defaults.get(key, dataclasses.MISSING) and value is not None:
            differing[key] = value
    return differing


def differing_fields(a: dict, b: dict, prefix: str = "config") -> list[str]:
    """Dotted names, with both values, of the fields in which two nested dicts differ."""
    differing = []
    for key in sorted({*a, *b}):
        name, left, right = f"{prefix}.{key}", a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            differing += differing_fields(left, right, name)
        elif left != right:
            differing.append(f"{name}: {left!r} there, {right!r} now")
    return differing


class Shown(NamedTuple):
    """A line of `--show_config`: a field, its value, the origin of the value, and its meaning."""

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

    def descend(section: Mapping, known: Layout, prefix: str) -> None:
        for field in known.values:
            value, dotted = section.get(field.name), f"{prefix}{field.name}"
            choices = f" Known: {', '.join(filter(None, field.choices))}." if field.choices else ""
            lines.append(Shown(dotted, value, origin(dotted, value), field.doc + choices, field))
        for name, inner in known.sections.items():
            if isinstance(section.get(name), Mapping):
                descend(section[name], inner, f"{prefix}{name}.")

    descend(filled(config), layout(config), "")
    return lines


def _at(config: Mapping, dotted: str) -> Any:
    for part in dotted.split("."):
        config = config.get(part) if isinstance(config, Mapping | ConfigDict) else None
    return config


@functools.cache
def docs(cls: type) -> dict[str, str]:
    """Fields of a dataclass with their descriptions in its docstring, on one line each."""
    text = inspect.getdoc(cls).partition("Attributes:\n")[2].partition("\n\n")[0]
    return {
        name: " ".join(doc.split())
        for names, doc in re.findall(r"^  (\w[\w, ]*): (.+(?:\n   .*)*)", text, re.MULTILINE)
        for name in names.split(", ")
    }
