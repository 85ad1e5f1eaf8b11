"""Qwen3, dense and with experts: as Llama, with a norm of each head of queries and keys.

The experts: softmax over all of them, then the best, whose weights sum to 1; no shared expert.
"""

import functools

from grm_jax.models.hub import family, names
from grm_jax.models.hub.families.llama import NORMS, ROWS, head_dim
from grm_jax.models.hub.families.qwen2 import NO_WINDOW
from grm_jax.models.variants import llama

_TABLE = family.table(
    *ROWS,
    *NO_WINDOW,
    ("head_dim", "head_dim", head_dim(128)),
    *family.rope("yarn"),
)


def _experts(fields: family.Fields, name: str) -> int:
    """transformers 5 calls them by another name."""
    return fields.number(name, int, fields.get("num_local_experts"))


_SHARED = {
    "make": functools.partial(llama, qk_norm=True),
    "norms": NORMS,
    "attention": names.attention,
}
QWEN3 = family.Family(
    architecture="Qwen3",
    model_type="qwen3",
    fits=lambda config: config.qk_norm,
    table=_TABLE,
    **_SHARED,
)
QWEN3_MOE = family.Family(
    architecture="Qwen3Moe",
    model_type="qwen3_moe",
    fits=lambda config: config.moe is not None,
    table=family.table(
        *_TABLE,
        ("num_experts", "moe.num_experts", family.Codec(_experts)),
        ("num_local_experts", None, family.Codec(
            lambda fields, name: fields.only(name, _experts(fields, "num_experts")), write=None)),
        ("num_experts_per_tok", "moe.experts_per_token"),
        ("moe_intermediate_size", "moe.expert_dim"),
        ("norm_topk_prob", "moe.normalize", family.only(False, True)),
        ("decoder_sparse_step", None, family.only(1)),
        ("mlp_only_layers", None, family.Codec(
            lambda fields, name: fields.only(name, []), lambda _, config: [])),
    ),
    **_SHARED,
)  # fmt: skip
