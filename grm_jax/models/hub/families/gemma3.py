"""Gemma-3, the text model: five local layers to a global one, norms of queries and keys, no caps.

Local layers rotate with a base of their own. The larger sizes come with a vision tower, in
"Gemma3ForConditionalGeneration" and with the text model in a section `text_config`.
"""

from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import family, names
from grm_jax.models.hub.families.gemma2 import INVERSE_ROOT, NORMS

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def _gemma3(**fields) -> ModelConfig:
    return ModelConfig(attn_softcap=None, final_softcap=None, qk_norm=True, **fields)


def _period(fields: family.Fields, name: str) -> int:
    """How often a global layer comes: a number, or read off the list of layers."""
    given = fields.number(name, int, 6)
    types = fields.get("layer_types")
    if types is None:
        return given
    every = types.index(_GLOBAL) + 1 if _GLOBAL in types else given
    layers = range(1, fields.number("num_hidden_layers") + 1)
    fields.only("layer_types", [_LOCAL if layer % every else _GLOBAL for layer in layers])
    return every


def _local_theta(fields: family.Fields, name: str) -> float:
    given = fields.number(name, float, 10_000.0)
    if not fields.get("rope_parameters"):
        return given
    rope = family.rope_section(fields, _LOCAL)
    family.check_rope(rope, "default")
    return rope.number("rope_theta", float, given)


GEMMA3 = family.Family(
    architecture="Gemma3",
    reward="Gemma3Text",
    model_type="gemma3_text",
    multimodal={"Gemma3ForConditionalGeneration": False, "Gemma3ForSequenceClassification": True},
    fits=lambda config: config.post_norms and config.qk_norm,
    make=_gemma3,
    table=family.table(
        *family.COMMON,
        ("num_key_value_heads", "num_kv_heads"),
        ("head_dim", "head_dim"),
        ("hidden_activation", "activation", family.choice({"gelu_pytorch_tanh": "gelu_tanh"})),
        ("query_pre_attn_scalar", "query_scale", INVERSE_ROOT),
        ("attn_logit_softcapping", None, family.only(write=False)),
        ("final_logit_softcapping", None, family.only(write=False)),
        ("sliding_window", "sliding_window"),
        ("sliding_window_pattern", "global_every", family.Codec(_period)),
        ("layer_types", None, family.PASSED),  # read with the pattern
        *family.rope("linear", theta=1_000_000.0, layers=_GLOBAL),
        ("rope_local_base_freq", "local_rope_theta", family.Codec(_local_theta)),
        ("use_bidirectional_attention", None, family.only(False, write=False)),
        ("tie_word_embeddings", "tied_embeddings", family.only(True, False)),
        ("max_position_embeddings", None, family.written(lambda config: 131_072)),
    ),
    # Files of the larger sizes leave out what transformers has as a default.
    absent={
        "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    },
    norms=NORMS,
    attention=names.attention,
)  # fmt: skip
