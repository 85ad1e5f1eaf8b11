"""config.json of Hugging Face and `ModelConfig`, in both directions.

Most fields stand in the table of their family; here are those that all families share: the name of
the architecture, the kind of head and the type of the weights (`torch_dtype`, later `dtype`).
"""

import dataclasses
import math
import os
import pathlib
from typing import NamedTuple

from grm_jax.files import mismatch, read_json
from grm_jax.models.config import Compute, ModelConfig
from grm_jax.models.hub import families
from grm_jax.models.hub.family import Family, Fields

CONFIG = "config.json"
CAUSAL, REWARD = "ForCausalLM", "ForSequenceClassification"
TEXT = "text_config"  # section of the text model in files of multimodal ones


class Architecture(NamedTuple):
    """A name in the list "architectures" of a config.json."""

    family: Family
    reward: bool  # a sequence classification model with one label
    multimodal: bool = False  # the model is the section `TEXT`, and there are weights of vision


ARCHITECTURES = {
    name: Architecture(family, *rest)
    for family in families.FAMILIES
    for name, *rest in (
        (family.architecture + CAUSAL, False),
        ((family.reward or family.architecture) + REWARD, True),
        *((name, reward, True) for name, reward in family.multimodal.items()),
    )
}
DTYPES = ("float32", "bfloat16")
STORED_DTYPES = (*DTYPES, "float16")
_MOST_BLOCKS = 200_000  # layers times experts; DeepSeek-V3 has 15,000
# Counts of layers after the last one, which predict further tokens (V3); the model has none.
LATER_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers")


def read_raw(folder: str | os.PathLike) -> dict:
    """The fields of config.json.

    Raises:
      FileNotFoundError: without such a file.
      ValueError: for a file that is not a JSON object.
    """
    return read_json(pathlib.Path(folder).expanduser() / CONFIG)


def architecture(folder: str | os.PathLike) -> Architecture:
    """The one architecture that config.json names.

    Raises:
      ValueError: for an architecture outside `ARCHITECTURES`.
    """
    names = read_raw(folder).get("architectures")
    if names not in [[name] for name in ARCHITECTURES]:
        place = f"{pathlib.Path(folder) / CONFIG}: architectures"
        raise mismatch(place, f"one of {', '.join(ARCHITECTURES)}", names)
    return ARCHITECTURES[names[0]]


def read_config(folder: str | os.PathLike) -> ModelConfig:
    """The shape of the model of a folder; `dtype` and `param_dtype` are the type of its weights.

    In place of float16 they are float32, which holds each of its values. Layers that predict
    further tokens (`num_nextn_predict_layers` of DeepSeek-V3) are left out, as is all but the text
    model of a multimodal one.

    Raises:
      FileNotFoundError: without config.json.
      ValueError: naming file, field, expected and found, for what the decoder does not compute.
    """
    found, path = architecture(folder), pathlib.Path(folder) / CONFIG
    raw = read_raw(folder)
    fields = Fields(str(path), raw)
    if found.reward and len(fields.get("id2label", "two")) != 1:
        raise fields.fail("id2label", "one label", fields.get("id2label", "nothing, so two"))
    dtype = fields.get("dtype", fields.get("torch_dtype", "float32"))
    if dtype not in STORED_DTYPES or fields.get("torch_dtype", dtype) != dtype:
        given = {key: raw[key] for key in ("dtype", "torch_dtype") if key in raw}
        raise fields.fail("dtype", " or ".join(STORED_DTYPES), given)
    dtype = "float32" if dtype == "float16" else dtype
    if found.multimodal:
        section = fields.get(TEXT)
        if not isinstance(section, dict):
            raise fields.fail(TEXT, "an object", repr(section))
        fields = Fields(f"{path}: {TEXT}", section)
    try:
        config = found.family.read(fields, Compute(dtype, dtype))
    except (ValueError, TypeError, ArithmeticError) as error:  # of values of another type too
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from error
    # Before anything is listed by layer or expert, which would take minutes.
    layers = config.num_layers + sum(fields.number(field, default=0) for field in LATER_LAYERS)
    if layers * (config.moe.num_experts if config.moe else 1) > _MOST_BLOCKS:
        expected = f"at most {_MOST_BLOCKS} layers times experts"
        raise fields.fail("num_hidden_layers", expected, config.num_layers)
    return config


def write_config(config: ModelConfig, *, head: bool = False) -> dict:
    """The config.json of a model, with a scalar reward `head` or output logits.

    Raises:
      ValueError: for a shape that none of the architectures has, naming the field.
    """
    if config.lora is not None:  # adapters are merged before
        raise mismatch("model.lora", None, config.lora)
    family = families.of(config)
    table = family.write(config)
    # A family has the shapes that read back as they were written.
    check_equal("model", family.read(Fields(CONFIG, table), config.compute), config)
    written = {
        "architectures": [family.architecture + CAUSAL],
        "model_type": family.model_type,
        "torch_dtype": config.compute.param_dtype,
        **table,
    }
    return with_head(written, head)


def check_equal(where: str, expected: object, found: object) -> None:
    """Compares two configs, and the records in them.

    Raises:
      ValueError: naming the first field that differs.
    """
    for field in dataclasses.fields(expected):
        name = f"{where}.{field.name}"
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if dataclasses.is_dataclass(ours) and type(ours) is type(theirs):
            check_equal(name, theirs, ours)
        elif ours != theirs and not (
            type(ours) is type(theirs) is float and math.isclose(ours, theirs, rel_tol=1e-15)
        ):
            raise mismatch(name, theirs, ours)


def with_head(raw: dict, reward: bool) -> dict:
    """config.json of a model with the same decoder, with or without a reward head."""
    (name,) = raw["architectures"]
    family, was, _ = ARCHITECTURES[name]
    if was == reward:
        return raw
    if reward:
        labels = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        name = (family.reward or family.architecture) + REWARD
        return raw | {"architectures": [name], **labels}
    kept = {key: value for key, value in raw.items() if key not in ("id2label", "label2id")}
    return kept | {"architectures": [family.architecture + CAUSAL]}
