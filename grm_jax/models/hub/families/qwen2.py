"""Qwen2 and Qwen2.5: as Llama, with biases on queries, keys and values. Also R1-Distill-Qwen."""

import functools

from grm_jax.models.hub import family, names
from grm_jax.models.hub.families.llama import NORMS, ROWS, head_dim
from grm_jax.models.variants import llama


def _all_global(fields: family.Fields, name: str) -> None:
    fields.only(name, ["full_attention"] * fields.number("num_hidden_layers"))


# A window is written down in every file and not used in any published one.
NO_WINDOW = family.table(
    ("use_sliding_window", None, family.only(False)),
    ("sliding_window", None, family.PASSED),
    ("max_window_layers", None, family.PASSED),
    ("layer_types", None, family.Codec(_all_global, write=None)),
    ("max_position_embeddings", None, family.written(lambda config: 32_768)),
)
QWEN2 = family.Family(
    architecture="Qwen2",
    model_type="qwen2",
    fits=lambda config: config.qkv_bias,
    make=functools.partial(llama, qkv_bias=True),
    table=family.table(
        *(row for row in ROWS if row.theirs != "attention_bias"),
        *NO_WINDOW,
        ("attention_bias", None, family.only(True, write=False)),
        ("head_dim", "head_dim", head_dim()),
        *family.rope("yarn"),
        ("use_mrope", None, family.only(False, write=False)),
    ),
    norms=NORMS,
    attention=names.attention,
)
