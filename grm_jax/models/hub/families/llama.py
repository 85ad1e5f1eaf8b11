"""Llama: grouped-query attention, one norm before each block. Also Mistral, with or without window.

Llama-2 and 3, SmolLM2, and every checkpoint that says LlamaForCausalLM.
"""

from grm_jax.models.hub import family, names
from grm_jax.models.variants import llama

NORMS = {"pre_attention_norm": "input", "pre_mlp_norm": "post_attention"}


def head_dim(default: int | None = None) -> family.Codec:
    """The width of a head; by default that of the residual stream divided by the heads."""

    def read(fields, name):
        shared = fields.number("hidden_size") // max(1, fields.number("num_attention_heads"))
        return fields.number(name, int, default or shared)

    return family.Codec(read)


# Rows of every family of this form, but for rotations and windows.
ROWS = family.table(
    *family.COMMON,
    ("num_key_value_heads", "num_kv_heads", family.Codec(
        lambda fields, name: fields.number(name, int, fields.number("num_attention_heads")))),
    ("hidden_act", "activation", family.only("silu")),
    ("tie_word_embeddings", "tied_embeddings", family.only(False, True)),
)  # fmt: skip
LLAMA = family.Family(
    architecture="Llama",
    model_type="llama",
    fits=lambda config: True,
    make=llama,
    table=family.table(
        *ROWS,
        ("head_dim", "head_dim", head_dim()),
        *family.rope("llama3", "yarn", "linear"),
        ("rope_interleaved", None, family.only(False, write=False)),
        ("max_position_embeddings", None, family.written(lambda config: 131_072)),
    ),
    norms=NORMS,
    attention=names.attention,
)
MISTRAL = family.Family(
    architecture="Mistral",
    model_type="mistral",
    fits=lambda config: config.sliding_window is not None,
    make=llama,
    table=family.table(
        *ROWS,
        ("head_dim", "head_dim", head_dim()),
        *family.rope("yarn", "linear"),
        ("sliding_window", "sliding_window", family.nullable(int, 4096)),
        ("max_position_embeddings", None, family.written(lambda config: 32_768)),
    ),
    norms=NORMS,
    attention=names.attention,
)
