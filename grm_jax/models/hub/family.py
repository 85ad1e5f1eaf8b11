"""A family of checkpoints: the table of its config.json, read both ways, and its tensors.

Each row of a table pairs a field of config.json with one of `ModelConfig`. Rows are read to make a
config and written to make a config.json, so the two cannot drift apart. A setting that changes what
a model computes and that the decoder does not follow is refused by name, and so is a field that is
neither in the table nor in `UNREAD`: it may change what is computed.

Both generations of files are read: `rope_theta` next to `rope_scaling`, or both in
`rope_parameters`, there also one section for each kind of layer (Gemma-3).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from grm_jax.files import mismatch
from grm_jax.models.config import RECORDS, Compute, ModelConfig

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


# A setting that decides nothing here, in any value.
PASSED = Codec(lambda fields, name: None, write=None)


def nullable(kind: type, absent: float | None) -> Codec:
    """A positive number; null is none, an absent field the default of the architecture."""

    def read(fields, name):
        value = fields.raw.get(name, absent)
        if value is not None and not fields.number(name, kind, absent) > 0:
            raise fields.fail(name, "a positive number or null", value)
        return value if value is None else kind(value)

    return Codec(read, optional=True)


# How rotary frequencies are given and stretched.


def rope_section(fields: Fields, layers: str | None = None) -> Fields:
    """The section on rotations; `layers` is the kind of layer, where there may be one for each."""
    new, old = fields.get("rope_parameters"), fields.get("rope_scaling")
    if new and old and new != old:  # transformers takes the latter, and drops the base
        raise fields.fail("rope_scaling", "nothing beside rope_parameters", old)
    section, raw = ("rope_parameters", new) if new else ("rope_scaling", old or {})
    if not isinstance(raw, dict):
        raise fields.fail(section, "an object", repr(raw))
    if layers in raw:
        section, raw = f"{section}.{layers}", raw[layers]
    elif new and layers:
        raise fields.fail(section, f"a section {layers}", new)
    return Fields(f"{fields.where}: {section}", raw)


_LENGTH = ("original_max_position_embeddings", "original_length")
# By kind of stretching: our field, and the rows of its record.
_STRETCHES = {
    "yarn": ("yarn", table(
        ("factor", "factor", REAL),
        _LENGTH,
        ("beta_fast", "beta_fast", number(float, 32.0)),
        ("beta_slow", "beta_slow", number(float, 1.0)),
        ("mscale", "mscale", Codec(lambda rope, name: rope.number(name, float, 0.0) or 1.0)),
        ("mscale_all_dim", "mscale_all_dim", number(float, 0.0)),
    )),
    "llama3": ("llama3_rope", table(
        ("factor", "factor", REAL),
        _LENGTH,
        ("low_freq_factor", "low_turns", REAL),
        ("high_freq_factor", "high_turns", REAL),
    )),
    "linear": ("linear_rope", table(("factor", None, REAL))),
}  # fmt: skip
_ROPE_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "truncate"}


def check_rope(rope: Fields, *kinds: str) -> str:
    """The kind of stretching of a section, one of `kinds`, whose every field is known."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in kinds:
        raise rope.fail("rope_type", " or ".join(map(repr, kinds)), repr(kind))
    rope.only("partial_rotary_factor", 1.0)
    rope.only("truncate", True)
    rows = _STRETCHES[kind][1] if kind != "default" else ()
    for field in sorted(set(rope.raw) - _ROPE_FIELDS - {row.theirs for row in rows}):
        rope.only(field)
    return kind


def rope(*kinds: str, theta: float = 10_000.0, layers: str | None = None) -> tuple[Row, ...]:
    """Rows of the rotary frequencies: their base, and how they are stretched, if at all.

    Args:
      kinds: of `_STRETCHES` that the family has besides none.
      theta: the base where a file gives none.
      layers: the kind of layer whose section counts, in families that have several.
    """

    def base(fields, name):
        section = rope_section(fields, layers)
        check_rope(section, "default", *kinds)
        return section.number(name, float, fields.number(name, float, theta))

    def read(kind):
        def read(fields, name):
            section = rope_section(fields, layers)
            if check_rope(section, "default", *kinds) != kind:
                return None
            if kind == "yarn":
                _check_mscale(section)
            ours, rows = _STRETCHES[kind]
            values = {row.ours: row.codec.read(section, row.theirs) for row in rows}
            return RECORDS[ours](**values) if ours in RECORDS else values[None]

        return read

    rows = (("rope_scaling", _STRETCHES[kind][0], Codec(read(kind), _write_rope, optional=True))
            for kind in kinds)  # fmt: skip
    unread = ("rope_scaling", None, PASSED), ("rope_parameters", None, PASSED)
    return table(("rope_theta", "rope_theta", Codec(base)), *unread, *rows)


def _check_mscale(rope: Fields) -> None:
    """With one of the two alone, the released code and transformers compute different things."""
    mscale, all_dim = rope.get("mscale", 0), rope.get("mscale_all_dim", 0)
    if bool(mscale) != bool(all_dim) and (mscale, all_dim) != (1, 0):
        found = f"mscale {mscale}, mscale_all_dim {all_dim}"
        raise rope.fail("mscale", "together with mscale_all_dim or neither", found)


def _write_rope(_, config: ModelConfig) -> dict | None:
    """The section of the stretching that the shape has, whichever of its rows asks."""
    for kind, (ours, rows) in _STRETCHES.items():
        value = getattr(config, ours)
        if value is None:
            continue
        if kind == "yarn" and not value.mscale_all_dim and value.mscale != 1.0:
            raise mismatch("model.yarn.mscale", "1.0 without mscale_all_dim", value.mscale)
        numbers = {row.theirs: getattr(value, row.ours) if row.ours else value for row in rows}
        return {"type" if kind == "yarn" else "rope_type": kind} | numbers
    return None


# Rows of every family.
COMMON = table(
    ("vocab_size", "vocab_size"),
    ("hidden_size", "embed_dim"),
    ("intermediate_size", "ffn_dim"),
    ("num_hidden_layers", "num_layers"),
    ("num_attention_heads", "num_heads"),
    ("rms_norm_eps", "norm_eps", REAL),
    ("attention_bias", None, only(False)),
    ("mlp_bias", None, only(False, write=False)),
    ("attention_dropout", None, only(0, write=False)),
    ("quantization_config", None, only(write=False)),
)
# Fields for training, for generation, or for the library that reads the file.
UNREAD = frozenset({
    "architectures", "auto_map", "aux_loss_alpha", "bad_words_ids", "begin_suppress_tokens",
    "bos_token_id", "cache_implementation", "chunk_size_feed_forward", "classifier_dropout",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "ep_size", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label",
    "initializer_range", "is_decoder", "is_encoder_decoder", "is_llama_config", "label2id",
    "length_penalty", "max_length", "max_position_embeddings", "min_length", "model_type",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_mtp_layers",
    "num_nextn_predict_layers", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_router_logits", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "router_aux_loss_coef", "router_jitter_noise", "router_z_loss_coef",
    "sep_token_id", "seq_aux", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers.js_config", "transformers_version", "typical_p", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_cache",
})  # fmt: skip


class Family(NamedTuple):
    """The checkpoints of one architecture.

    Attributes:
      architecture: its name without "ForCausalLM".
      model_type: its name in config.json.
      fits: whether a shape is written as this family; `families.of` takes the first that fits.
      make: makes the config of the fields that the table has; the others are conventions.
      table: its config.json.
      norms: our norms of a layer, each with the name that "_layernorm.weight" follows.
      attention: (config, prefix of the names, path of the leaves, index in the stack) -> tensors
        of the attention of a layer, as `names.attention`.
      reward: the architecture of its reward models without "ForSequenceClassification"; "" is
        `architecture`.
      absent: values of fields that a config.json may leave out.
      multimodal: architectures that keep the model in a section `text_config`, and whether they
        are reward models.
    """

    architecture: str
    model_type: str
    fits: Callable[[ModelConfig], bool]
    make: Callable[..., ModelConfig]
    table: tuple[Row, ...]
    norms: Mapping[str, str]
    attention: Callable[[ModelConfig, str, tuple[str, ...], tuple[int, ...]], Iterable]
    reward: str = ""
    absent: Mapping[str, Any] = {}
    multimodal: Mapping[str, bool] = {}

    def read(self, fields: Fields, compute: Compute) -> ModelConfig:
        """The shape that a config.json describes.

        Raises:
          ValueError: naming file and field, for what the decoder does not compute.
        """
        known = UNREAD | {row.theirs for row in self.table}
        for name in sorted(set(fields.raw) - known):
            if not name.startswith("_"):
                fields.only(name)
        fields.only("model_type", self.model_type)  # by which transformers chooses the class
        fields = Fields(fields.where, {**self.absent, **fields.raw})
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
