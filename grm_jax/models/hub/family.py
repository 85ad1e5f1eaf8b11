"""A family of checkpoints: the table of its config.json, read both ways, and its tensors.

Each row of a table pairs a field of config.json with one of `ModelConfig`. Rows are read to make a
config and written to make a config.json, so the two cannot drift apart. A setting that changes what
a model computes and that the decoder does not follow is refused by name. Settings for training, or
for the library that reads the file, have no row and pass unread.

Both generations of files are read: `rope_theta` next to `rope_scaling`, or both in
`rope_parameters`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from grm_jax.files import mismatch
from grm_jax.models.config import RECORDS, Compute, ModelConfig, YarnConfig

_MOST = 10**7  # of anything that is counted


class Fields:
    """A section of a JSON file; its errors name file, field, expected and found."""

    def __init__(self, where: str, raw: dict):
        self.where, self.raw = where, raw

    def fail(self, field: str, expected: str, found) -> ValueError:
        """The error of a field."""
        return mismatch(f"{self.where}: {field}", expected, found)

    def get(self, field: str, default=None):
        """The value of a field, or the default for an absent field or null."""
        value = self.raw.get(field)
        return default if value is None else value

    def number(self, field: str, kind: type = int, default=None):
        """A number that must be there; an int passes for a float, but no bool for either."""
        value = self.get(field, default)
        kinds = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            found = "nothing" if value is None else repr(value)
            raise self.fail(field, f"a number of type {kind.__name__}", found)
        if not abs(value) < (_MOST if kind is int else math.inf):
            raise self.fail(field, f"a finite number below {_MOST}", value)
        return kind(value)

    def only(self, field: str, *allowed) -> None:
        """Refuses values that are not computed here; an absent field or null passes."""
        value = self.get(field)
        if value is not None and value not in allowed:
            raise self.fail(field, " or ".join(map(repr, allowed)) or "no such field", repr(value))


class Codec(NamedTuple):
    """How a value of config.json becomes ours, and ours one of config.json."""

    read: Callable[[Fields, str], Any]  # (fields, name of the field) -> our value
    # (our value, the whole config) -> their value; None for a field that is not written
    write: Callable[[Any, ModelConfig], Any] | None = lambda value, config: value
    optional: bool = False  # whether our value may be None


class Row(NamedTuple):
    """A field of config.json and ours, as "moe.num_experts" in a record; None if we have none."""

    theirs: str
    ours: str | None
    codec: Codec = Codec(lambda fields, name: fields.number(name))


def table(*rows: tuple) -> tuple[Row, ...]:
    """The rows of these fields; without a codec ours is a count that must be there."""
    return tuple(Row(*row) for row in rows)


def number(kind: type, default: float | None = None) -> Codec:
    """A number; without a default it must be there."""
    return Codec(lambda fields, name: fields.number(name, kind, default))


REAL = number(float)
OPTIONAL_COUNT = Codec(lambda fields, name: fields.get(name) and fields.number(name), optional=True)


def choice(ours: Mapping[Any, Any], *, write: bool = True) -> Codec:
    """Each of their values with ours; others are refused, an absent field or null is the first."""
    first = next(iter(ours), None)

    def read(fields, name):
        fields.only(name, *ours)
        return ours.get(fields.get(name, first))

    def back(value, config):
        return next((theirs for theirs, mine in ours.items() if mine == value), first)

    return Codec(read, back if write else None)


def only(*allowed: Any, write: bool = True) -> Codec:
    """A `choice` among values that are ours too; the first is the default."""
    return choice(dict(zip(allowed, allowed, strict=True)), write=write)


def written(value: Callable[[ModelConfig], Any]) -> Codec:
    """A setting that is written for other readers and decides nothing here."""
    return Codec(lambda fields, name: None, lambda _, config: value(config))


def softcap(absent: float) -> Codec:
    """A positive number; null is no cap, an absent field the default of the architecture."""

    def read(fields, name):
        value = fields.raw.get(name, absent)
        if value is not None and not fields.number(name, float, absent) > 0:
            raise fields.fail(name, "a positive number or null", value)
        return value if value is None else float(value)

    return Codec(read, optional=True)


# How rotary frequencies are given and stretched.


def _rope(fields: Fields) -> Fields:
    section = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    raw = fields.get(section, {})
    if not isinstance(raw, dict):
        raise fields.fail(section, "an object", repr(raw))
    return Fields(f"{fields.where}: {section}", raw)


def _read_theta(fields: Fields, name: str) -> float:
    return _rope(fields).number(name, float, fields.number(name, float, 10_000.0))


_YARN = table(
    ("factor", "factor", REAL),
    ("original_max_position_embeddings", "original_length"),
    ("beta_fast", "beta_fast", number(float, 32.0)),
    ("beta_slow", "beta_slow", number(float, 1.0)),
    ("mscale", "mscale", Codec(lambda rope, name: rope.number(name, float, 0.0) or 1.0)),
    ("mscale_all_dim", "mscale_all_dim", number(float, 0.0)),
)
_ROPE_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "truncate"}


def rope_scaling(*kinds: str) -> Codec:
    """How frequencies are stretched: None for "default", or "yarn" if it is among the kinds."""

    def read(fields, name):
        rope = _rope(fields)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in kinds:
            raise rope.fail("rope_type", " or ".join(map(repr, kinds)), repr(kind))
        rope.only("partial_rotary_factor", 1.0)
        rope.only("truncate", True)
        rows = _YARN if kind == "yarn" else ()
        for field in sorted(set(rope.raw) - _ROPE_FIELDS - {row.theirs for row in rows}):
            rope.only(field)
        if kind == "default":
            return None
        mscale, all_dim = rope.get("mscale", 0), rope.get("mscale_all_dim", 0)
        # With one of the two alone, the released code and transformers compute different things.
        if bool(mscale) != bool(all_dim) and (mscale, all_dim) != (1, 0):
            found = f"mscale {mscale}, mscale_all_dim {all_dim}"
            raise rope.fail("mscale", "together with mscale_all_dim or neither", found)
        return YarnConfig(**{row.ours: row.codec.read(rope, row.theirs) for row in rows})

    def write(yarn, config):
        if yarn is None:
            return None
        if not yarn.mscale_all_dim and yarn.mscale != 1.0:
            raise mismatch("model.yarn.mscale", "1.0 without mscale_all_dim", yarn.mscale)
        return {"type": "yarn"} | {row.theirs: getattr(yarn, row.ours) for row in _YARN}

    return Codec(read, write if "yarn" in kinds else None, optional=True)


# Rows of every family.
COMMON = table(
    ("vocab_size", "vocab_size"),
    ("hidden_size", "embed_dim"),
    ("intermediate_size", "ffn_dim"),
    ("num_hidden_layers", "num_layers"),
    ("num_attention_heads", "num_heads"),
    ("rms_norm_eps", "norm_eps", REAL),
    ("rope_theta", "rope_theta", Codec(_read_theta)),
    ("attention_bias", None, only(False)),
    ("mlp_bias", None, only(False, write=False)),
    ("attention_dropout", None, only(0, write=False)),
    ("quantization_config", None, only(write=False)),
)


class Family(NamedTuple):
    """The checkpoints of one architecture.

    Attributes:
      architecture: its name without "ForCausalLM" or "ForSequenceClassification".
      model_type: its name in config.json.
      fits: whether a shape is written as this family; `families.of` takes the first that fits.
      make: makes the config of the fields that the table has; the others are conventions.
      table: its config.json.
      norms: our norms of a layer, each with the name that "_layernorm.weight" follows.
      attention: (config, prefix of the names, path of the leaves, index in the stack) -> tensors
        of the attention of a layer, as `names.attention`.
    """

    architecture: str
    model_type: str
    fits: Callable[[ModelConfig], bool]
    make: Callable[..., ModelConfig]
    table: tuple[Row, ...]
    norms: Mapping[str, str]
    attention: Callable[[ModelConfig, str, tuple[str, ...], tuple[int, ...]], Iterable]

    def read(self, fields: Fields, compute: Compute) -> ModelConfig:
        """The shape that a config.json describes.

        Raises:
          ValueError: naming file and field, for what the decoder does not compute.
        """
        values: dict[str, Any] = {}
        for row in self.table:
            value = row.codec.read(fields, row.theirs)
            if row.ours:
                record, _, name = row.ours.rpartition(".")
                (values.setdefault(record, {}) if record else values)[name] = value
        values |= {name: RECORDS[name](**x) for name, x in values.items() if isinstance(x, dict)}
        return self.make(**values, compute=compute)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json of a shape, which is the family's if it reads back as it was.

        Raises:
          ValueError: naming the field of `ModelConfig` that must have a value.
        """
        return {
            row.theirs: row.codec.write(_value(config, row), config)
            for row in self.table if row.codec.write is not None
        }  # fmt: skip


def _value(config: ModelConfig, row: Row) -> Any:
    """The value of the field of a row."""
    if row.ours is None:
        return None
    record, _, name = row.ours.rpartition(".")
    holder = getattr(config, record) if record else config
    value = holder and getattr(holder, name)
    if value is None and not row.codec.optional:
        raise mismatch(f"model.{row.ours if holder else record}", "a value", None)
    return value
