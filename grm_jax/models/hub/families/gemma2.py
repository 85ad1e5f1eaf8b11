"""Gemma-2: capped grouped-query attention, (local, global) pairs of layers, norms on both sides."""

from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import family, names

# Norms of a layer, on both sides of attention and feed-forward.
NORMS = {
    "pre_attention_norm": "input",
    "pre_mlp_norm": "pre_feedforward",
    "post_attention_norm": "post_attention",
    "post_mlp_norm": "post_feedforward",
}


def _alternating(fields: family.Fields, name: str) -> None:
    kinds = ("sliding_attention", "full_attention")
    fields.only(name, [kinds[layer % 2] for layer in range(fields.number("num_hidden_layers"))])


# Whole in every published config, and transformers takes nothing else.
INVERSE_ROOT = family.Codec(
    lambda fields, name: fields.number(name, float) ** -0.5,
    lambda value, config: max(1, round(value**-2)),
)
GEMMA2 = family.Family(
    architecture="Gemma2",
    model_type="gemma2",
    fits=lambda config: config.post_norms and config.mla is None,
    make=ModelConfig,  # whose defaults are the conventions
    table=family.table(
        *family.COMMON,
        ("num_key_value_heads", "num_kv_heads"),
        ("head_dim", "head_dim"),
        ("hidden_activation", "activation", family.choice({"gelu_pytorch_tanh": "gelu_tanh"})),
        ("query_pre_attn_scalar", "query_scale", INVERSE_ROOT),
        ("attn_logit_softcapping", "attn_softcap", family.nullable(float, 50.0)),
        ("final_logit_softcapping", "final_softcap", family.nullable(float, 30.0)),
        ("sliding_window", "sliding_window"),
        ("sliding_window_size", None, family.PASSED),
        ("hidden_act", None, family.PASSED),  # of older files, beside `hidden_activation`
        ("layer_types", None, family.Codec(_alternating, write=None)),
        ("use_bidirectional_attention", None, family.only(False, write=False)),
        *family.rope(),
        ("tie_word_embeddings", "tied_embeddings", family.only(True, False)),
        ("max_position_embeddings", None, family.written(lambda config: 8192)),
    ),
    norms=NORMS,
    attention=names.attention,
)
