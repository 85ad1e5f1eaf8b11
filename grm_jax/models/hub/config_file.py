"""config.json of Hugging Face and `ModelConfig`, in both directions.

Two generations of files are read: `rope_theta` with `rope_scaling`, or both in `rope_parameters`;
`torch_dtype`, or `dtype`. A setting that changes what a model computes and that the decoder does
not follow is refused by name. What only training or the reading library uses passes unread.
"""

import dataclasses
import math
import os
import pathlib

from grm_jax.files import mismatch, read_json
from grm_jax.models.config import Compute, MLAConfig, ModelConfig, MoEConfig, YarnConfig, deepseek

CONFIG = "config.json"
CAUSAL, REWARD = "ForCausalLM", "ForSequenceClassification"
FAMILIES = {"Gemma2": "gemma2", "DeepseekV2": "deepseek_v2", "DeepseekV3": "deepseek_v3"}
ARCHITECTURES = tuple(family + kind for kind in (CAUSAL, REWARD) for family in FAMILIES)
DTYPES = ("float32", "bfloat16")
STORED_DTYPES = (*DTYPES, "float16")
_MOST = 10**7  # of anything that is counted
_MOST_BLOCKS = 200_000  # layers times experts; DeepSeek-V3 has 15,000
_YARN_FIELDS = {
    "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim",
}  # fmt: skip
# Counts of layers after the last one, which predict further tokens (V3): no part of the model.
LATER_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers")


class _Fields:
    """A section of a JSON file whose complaints name file, field, expected and found."""

    def __init__(self, where: str, raw: dict):
        self._where, self._raw = where, raw

    def fail(self, field: str, expected: str, found) -> ValueError:
        return mismatch(f"{self._where}: {field}", expected, found)

    def get(self, field: str, default=None):
        value = self._raw.get(field)
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

    def softcap(self, field: str, *, absent: float) -> float | None:
        """A positive number; null is no cap, an absent field the default of the architecture."""
        if field in self._raw and self._raw[field] is None:
            return None
        value = self.number(field, float) if field in self._raw else absent
        if not value > 0:
            raise self.fail(field, "a positive number or null", value)
        return value

    def flag(self, field: str, *, absent: bool) -> bool:
        """true or false."""
        value = self.get(field, absent)
        if not isinstance(value, bool):
            raise self.fail(field, "true or false", repr(value))
        return value

    def only(self, field: str, *allowed) -> None:
        """Refuses values that are not computed here; an absent field or null passes."""
        value = self.get(field)
        if value is not None and value not in allowed:
            raise self.fail(field, " or ".join(map(repr, allowed)) or "no such field", repr(value))


def read_raw(folder: str | os.PathLike) -> dict:
    """config.json as it is.

    Raises:
      FileNotFoundError: without such a file.
      ValueError: for one that is not a JSON object.
    """
    return read_json(pathlib.Path(folder).expanduser() / CONFIG)


def architecture(folder: str | os.PathLike) -> str:
    """The one architecture that config.json names.

    Raises:
      ValueError: for one outside `ARCHITECTURES`.
    """
    found = read_raw(folder).get("architectures")
    if not isinstance(found, list) or len(found) != 1 or found[0] not in ARCHITECTURES:
        place = f"{pathlib.Path(folder) / CONFIG}: architectures"
        raise mismatch(place, f"one of {', '.join(ARCHITECTURES)}", found)
    return found[0]


def read_config(folder: str | os.PathLike) -> ModelConfig:
    """The shape of the model of a folder; `dtype` and `param_dtype` are those of its weights.

    In place of float16 they are float32, which holds every value of it.
    Layers that predict further tokens (`num_nextn_predict_layers` of DeepSeek-V3) are no part of
    it.

    Raises:
      FileNotFoundError: without config.json.
      ValueError: naming file, field, expected and found, for what the decoder does not compute.
    """
    name, path = architecture(folder), pathlib.Path(folder) / CONFIG
    raw = read_raw(folder)
    fields = _Fields(str(path), raw)
    fields.only("quantization_config")
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    fields.only("attention_dropout", 0)
    if name.endswith(REWARD) and len(fields.get("id2label", "two")) != 1:
        raise fields.fail("id2label", "one label", fields.get("id2label", "nothing, so two"))
    dtype = fields.get("dtype", fields.get("torch_dtype", "float32"))
    if dtype not in STORED_DTYPES or fields.get("torch_dtype", dtype) != dtype:
        found = {key: raw[key] for key in ("dtype", "torch_dtype") if key in raw}
        raise fields.fail("dtype", " or ".join(STORED_DTYPES), found)
    dtype = "float32" if dtype == "float16" else dtype
    # Before anything is listed by layer or expert, which would take minutes.
    layers = sum(fields.number(field, default=0) for field in ("num_hidden_layers", *LATER_LAYERS))
    if layers * fields.number("n_routed_experts", default=1) > _MOST_BLOCKS:
        expected = f"at most {_MOST_BLOCKS} layers times experts"
        raise fields.fail("num_hidden_layers", expected, raw["num_hidden_layers"])
    read = _read_gemma2 if name.startswith("Gemma2") else _read_deepseek
    try:
        return read(fields, name, compute=Compute(dtype, dtype))
    except (ValueError, TypeError, ArithmeticError) as error:  # of values of another type too
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from error


def _read_gemma2(fields: _Fields, name: str, **others) -> ModelConfig:
    del name
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    fields.only("use_bidirectional_attention", False)
    num_layers = fields.number("num_hidden_layers")
    alternating = [("sliding_attention", "full_attention")[i % 2] for i in range(num_layers)]
    fields.only("layer_types", alternating)
    theta, yarn = _read_rope(fields)
    if yarn is not None:
        raise fields.fail("rope_parameters", "rope_type default for Gemma-2", "yarn")
    return ModelConfig(
        num_layers=num_layers,
        num_heads=fields.number("num_attention_heads"),
        num_kv_heads=fields.number("num_key_value_heads"),
        head_dim=fields.number("head_dim"),
        sliding_window=fields.number("sliding_window"),
        query_scale=fields.number("query_pre_attn_scalar", float) ** -0.5,
        attn_softcap=fields.softcap("attn_logit_softcapping", absent=50.0),
        final_softcap=fields.softcap("final_logit_softcapping", absent=30.0),
        tied_embeddings=fields.flag("tie_word_embeddings", absent=True),
        rope_theta=theta,
        **_read_common(fields),
        **others,
    )


def _read_deepseek(fields: _Fields, name: str, **others) -> ModelConfig:
    num_heads = fields.number("num_attention_heads")
    fields.only("hidden_act", "silu")
    fields.only("moe_layer_freq", 1)
    fields.only("num_key_value_heads", num_heads)
    fields.only("rope_interleave", True)
    theta, yarn = _read_rope(fields)
    expert_dim = fields.number("moe_intermediate_size")
    grouped = {"num_groups": "n_group", "top_groups": "topk_group"}
    if name.startswith("DeepseekV2"):
        fields.only("scoring_func", "softmax")
        fields.only("norm_topk_prob", False)
        fields.only("topk_method", "greedy", "group_limited_greedy")
        if fields.get("topk_method", "greedy") == "greedy":
            grouped = {}
        choice = {}
    else:
        fields.only("scoring_func", "sigmoid")
        fields.only("topk_method", "noaux_tc")
        choice = {
            "scoring": "sigmoid",
            "selection_bias": True,
            "group_top": 2,
            "normalize": bool(fields.get("norm_topk_prob", True)),
        }
    moe = MoEConfig(
        num_experts=fields.number("n_routed_experts"),
        experts_per_token=fields.number("num_experts_per_tok"),
        expert_dim=expert_dim,
        shared_dim=expert_dim * fields.number("n_shared_experts", default=0),
        first_dense=fields.number("first_k_dense_replace"),
        routed_scale=fields.number("routed_scaling_factor", float),
        **{ours: fields.number(theirs) for ours, theirs in grouped.items()},
        **choice,
    )
    mla = MLAConfig(
        kv_rank=fields.number("kv_lora_rank"),
        nope_dim=fields.number("qk_nope_head_dim"),
        rope_dim=fields.number("qk_rope_head_dim"),
        value_dim=fields.number("v_head_dim"),
        query_rank=fields.get("q_lora_rank") and fields.number("q_lora_rank"),
    )
    return deepseek(
        num_layers=fields.number("num_hidden_layers"), num_heads=num_heads, mla=mla, moe=moe,
        yarn=yarn, rope_theta=theta,
        tied_embeddings=fields.flag("tie_word_embeddings", absent=False),
        **_read_common(fields), **others,
    )  # fmt: skip


def _read_common(fields: _Fields) -> dict:
    return {
        "vocab_size": fields.number("vocab_size"),
        "embed_dim": fields.number("hidden_size"),
        "ffn_dim": fields.number("intermediate_size"),
        "norm_eps": fields.number("rms_norm_eps", float),
    }


def _read_rope(fields: _Fields) -> tuple[float, YarnConfig | None]:
    """Base of the rotary frequencies, and how they are stretched."""
    section = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    raw = fields.get(section, {})
    if not isinstance(raw, dict):
        raise fields.fail(section, "an object", repr(raw))
    rope = _Fields(f"{fields._where}: {section}", raw)
    theta = rope.number("rope_theta", float, fields.number("rope_theta", float, 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise rope.fail("rope_type", "'default' or 'yarn'", repr(kind))
    rope.only("partial_rotary_factor", 1.0)
    rope.only("truncate", True)
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "truncate"}
    for field in sorted(set(raw) - known - (_YARN_FIELDS if kind == "yarn" else set())):
        rope.only(field)
    if kind == "default":
        return theta, None
    mscale, all_dim = rope.get("mscale", 0), rope.get("mscale_all_dim", 0)
    # With one of the two alone, the released code and transformers compute different things.
    if bool(mscale) != bool(all_dim) and (mscale, all_dim) != (1, 0):
        found = f"mscale {mscale}, mscale_all_dim {all_dim}"
        raise rope.fail("mscale", "together with mscale_all_dim or neither", found)
    return theta, YarnConfig(
        factor=rope.number("factor", float),
        original_length=rope.number("original_max_position_embeddings"),
        beta_fast=float(rope.get("beta_fast", 32)),
        beta_slow=float(rope.get("beta_slow", 1)),
        mscale=float(mscale or 1.0),
        mscale_all_dim=float(all_dim),
    )


def write_config(config: ModelConfig, *, head: bool = False, **fields) -> dict:
    """What config.json says of a model.

    Args:
      config: shape of the model.
      head: a scalar reward head in place of output logits.
      fields: further ones, such as `bos_token_id` or `max_position_embeddings`.

    Raises:
      ValueError: for a shape that none of the architectures has, naming the field.
    """
    _expect(config, "model", lora=None)  # adapters are merged before a model is written
    family, own = _write_gemma2(config) if config.mla is None else _write_deepseek(config)
    written = {
        "architectures": [family + CAUSAL],
        "model_type": FAMILIES[family],
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "torch_dtype": config.compute.param_dtype,
        **own,
        **fields,
    }
    return with_head(written, head)


def with_head(raw: dict, reward: bool) -> dict:
    """config.json of a model with the same decoder, with or without a reward head."""
    (name,) = raw["architectures"]
    if name.endswith(REWARD) == reward:
        return raw
    family = name.removesuffix(CAUSAL).removesuffix(REWARD)
    if reward:
        labels = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        return raw | {"architectures": [family + REWARD], **labels}
    kept = {key: value for key, value in raw.items() if key not in ("id2label", "label2id")}
    return kept | {"architectures": [family + CAUSAL]}


def _expect(config: object, where: str, **fields) -> None:
    for field, expected in fields.items():
        found = getattr(config, field)
        if found != expected:
            raise mismatch(f"{where}.{field}", expected, found)


def _write_gemma2(config: ModelConfig) -> tuple[str, dict]:
    _expect(config, "model", moe=None, yarn=None, unit_offset_norms=True, post_norms=True,
            scale_embeddings=True, activation="gelu_tanh")  # fmt: skip
    if config.sliding_window is None:
        raise mismatch("model.sliding_window", "a number of tokens", None)
    # Whole in every published config, and transformers takes nothing else.
    scalar = round(config.query_scale**-2)
    if not math.isclose(scalar**-0.5, config.query_scale, rel_tol=1e-15):
        expected = "n ** -0.5 of a whole number n"
        raise mismatch("model.query_scale", expected, config.query_scale)
    return "Gemma2", {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": scalar,
        "sliding_window": config.sliding_window,
        "attn_logit_softcapping": config.attn_softcap,
        "final_logit_softcapping": config.final_softcap,
    }


def _write_deepseek(config: ModelConfig) -> tuple[str, dict]:
    mla, moe, yarn = config.mla, config.moe, config.yarn
    if moe is None:
        raise mismatch("model.moe", "experts", None)
    # Norms, scales and the cap follow from the shape; the others are free.
    same = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for field in ("num_kv_heads", "head_dim", "query_scale", "sliding_window", "attn_softcap",
                  "final_softcap", "unit_offset_norms", "post_norms", "scale_embeddings",
                  "activation"):  # fmt: skip
        del same[field]
    _expect(config, "model", **dataclasses.asdict(deepseek(**same)) | {
        "mla": mla, "moe": moe, "yarn": yarn, "compute": config.compute})  # fmt: skip
    _expect(mla, "model.mla", latent_norm_eps=1e-6)
    if moe.shared_dim % moe.expert_dim:
        expected = f"a multiple of model.moe.expert_dim ({moe.expert_dim})"
        raise mismatch("model.moe.shared_dim", expected, moe.shared_dim)
    if yarn and not yarn.mscale_all_dim and yarn.mscale != 1.0:
        raise mismatch("model.yarn.mscale", "1.0 without mscale_all_dim", yarn.mscale)
    v3 = moe.scoring == "sigmoid"
    if v3:
        _expect(moe, "model.moe", selection_bias=True, group_top=2)
        choice = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_interleave": True,
                  "norm_topk_prob": moe.normalize, "num_nextn_predict_layers": 0}  # fmt: skip
    else:
        _expect(moe, "model.moe", selection_bias=False, group_top=1, normalize=False)
        method = "greedy" if moe.num_groups == 1 else "group_limited_greedy"
        choice = {"scoring_func": "softmax", "topk_method": method, "norm_topk_prob": False,
                  "mlp_bias": False}  # fmt: skip
    scaling = None if yarn is None else {
        "type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_length,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "mscale": yarn.mscale,
        "mscale_all_dim": yarn.mscale_all_dim,
    }  # fmt: skip
    return ("DeepseekV3" if v3 else "DeepseekV2"), {
        "num_key_value_heads": config.num_heads,
        "hidden_act": "silu",
        "max_position_embeddings": round(yarn.factor * yarn.original_length) if yarn else 4096,
        "rope_scaling": scaling,
        "q_lora_rank": mla.query_rank,
        "kv_lora_rank": mla.kv_rank,
        "qk_nope_head_dim": mla.nope_dim,
        "qk_rope_head_dim": mla.rope_dim,
        "v_head_dim": mla.value_dim,
        "n_routed_experts": moe.num_experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.expert_dim,
        "n_shared_experts": moe.shared_dim // moe.expert_dim,
        "first_k_dense_replace": moe.first_dense,
        "moe_layer_freq": 1,
        "n_group": moe.num_groups,
        "topk_group": moe.top_groups,
        "routed_scaling_factor": moe.routed_scale,
        **choice,
    }
