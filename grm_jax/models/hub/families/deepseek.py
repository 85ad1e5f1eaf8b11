"""DeepSeek-V2 and V3: latent attention, routed and shared experts, YaRN.

Letters: H query heads, E width of a head, R rank of the latent of keys and values.
"""

from collections.abc import Iterator

import numpy as np

from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import family, names
from grm_jax.models.hub.names import Place, Tensor
from grm_jax.models.variants import deepseek


def _half_split(before: int, rope_dim: int) -> np.ndarray:
    """Positions of rotary elements, which checkpoints keep in pairs and we in two halves."""
    pairs = before + np.arange(rope_dim)
    return np.concatenate([np.arange(before), pairs[0::2], pairs[1::2]])


def _part_of_heads(count, part):
    """[H E, R] -> [R, H, part of E]."""
    return lambda x: x.reshape(count, -1, x.shape[1])[:, part].transpose(2, 0, 1)


def _latent_attention(config: ModelConfig, name, root, index) -> Iterator[Tensor]:
    mla, width, count = config.mla, config.embed_dim, config.num_heads
    head, rank = mla.nope_dim + mla.rope_dim, mla.kv_rank

    def tensor(theirs, shape, *leaf, view=None, **place):
        return names.single(f"{name}{theirs}.weight", shape, (*root, *leaf), index, view, **place)

    queries = {"view": names.heads_out(count), "order": _half_split(mla.nope_dim, mla.rope_dim)}
    if mla.query_rank is None:
        yield tensor("q_proj", (count * head, width), "q", **queries)
    else:
        yield tensor("q_a_proj", (mla.query_rank, width), "q_a", view=names.transpose)
        yield tensor("q_a_layernorm", (mla.query_rank,), "q_a_norm", "scale")
        yield tensor("q_b_proj", (count * head, mla.query_rank), "q_b", **queries)
    yield tensor("kv_a_proj_with_mqa", (rank + mla.rope_dim, width), "kv_a", view=names.transpose,
                 order=_half_split(rank, mla.rope_dim))  # fmt: skip
    yield tensor("kv_a_layernorm", (rank,), "kv_a_norm", "scale")
    # Each head's keys are followed by its values.
    keys = _part_of_heads(count, slice(None, mla.nope_dim))
    values = _part_of_heads(count, slice(mla.nope_dim, None))
    yield Tensor(
        f"{name}kv_b_proj.weight",
        (count * (mla.nope_dim + mla.value_dim), rank),
        (Place((*root, "k_b"), index, keys), Place((*root, "v_b"), index, values)),
    )
    yield tensor("o_proj", (width, count * mla.value_dim), "o", view=names.heads_in(count))


def _max_length(config: ModelConfig) -> int:
    yarn = config.yarn
    return round(yarn.factor * yarn.original_length) if yarn else 4096


def _sum_of(*parts: str) -> family.Codec:
    """A width that follows from others."""
    return family.Codec(
        lambda fields, name: fields.only(name, sum(map(fields.number, parts))), write=None
    )


_BOTH = family.table(
    *family.COMMON,
    ("num_key_value_heads", None, family.Codec(
        lambda fields, name: fields.only(name, fields.number("num_attention_heads")),
        lambda _, config: config.num_heads)),
    ("hidden_act", "activation", family.only("silu")),
    ("head_dim", None, _sum_of("qk_rope_head_dim")),  # written by transformers 5
    ("qk_head_dim", None, _sum_of("qk_nope_head_dim", "qk_rope_head_dim")),
    *family.rope("yarn"),
    ("tie_word_embeddings", "tied_embeddings", family.only(False, True)),
    ("max_position_embeddings", None, family.written(_max_length)),
    ("q_lora_rank", "mla.query_rank", family.OPTIONAL_COUNT),
    ("kv_lora_rank", "mla.kv_rank"),
    ("qk_nope_head_dim", "mla.nope_dim"),
    ("qk_rope_head_dim", "mla.rope_dim"),
    ("v_head_dim", "mla.value_dim"),
    ("n_routed_experts", "moe.num_experts"),
    ("num_experts_per_tok", "moe.experts_per_token"),
    ("moe_intermediate_size", "moe.expert_dim"),
    ("n_shared_experts", "moe.shared_dim", family.Codec(
        lambda fields, name: fields.number("moe_intermediate_size") * fields.number(name, int, 0),
        lambda value, config: value // config.moe.expert_dim)),
    ("first_k_dense_replace", "moe.first_dense"),
    ("moe_layer_freq", None, family.only(1)),
    ("routed_scaling_factor", "moe.routed_scale", family.REAL),
)  # fmt: skip
# Groups of experts count only where they limit the choice.
_GROUPS = family.Codec(
    lambda fields, name: 1 if fields.get("topk_method", "greedy") == "greedy"
    else fields.number(name)
)  # fmt: skip
_METHODS = "greedy", "group_limited_greedy"
_METHOD = family.Codec(
    family.only(*_METHODS).read, lambda _, config: _METHODS[config.moe.num_groups > 1]
)
_SHARED = {
    "make": deepseek,
    "norms": {"pre_attention_norm": "input", "pre_mlp_norm": "post_attention"},
    "attention": _latent_attention,
}
V2 = family.Family(
    architecture="DeepseekV2",
    model_type="deepseek_v2",
    fits=lambda config: config.mla is not None,
    table=family.table(
        *_BOTH,
        ("scoring_func", "moe.scoring", family.only("softmax")),
        ("topk_method", None, _METHOD),
        ("n_group", "moe.num_groups", _GROUPS),
        ("topk_group", "moe.top_groups", _GROUPS),
        ("norm_topk_prob", "moe.normalize", family.only(False)),
        ("rope_interleave", None, family.only(True, write=False)),
        ("mlp_bias", None, family.only(False)),
    ),
    **_SHARED,
)
V3 = family.Family(
    architecture="DeepseekV3",
    model_type="deepseek_v3",
    fits=lambda config: config.moe is not None and config.moe.scoring == "sigmoid",
    table=family.table(
        *_BOTH,
        ("scoring_func", "moe.scoring", family.only("sigmoid")),
        ("topk_method", "moe.selection_bias", family.choice({"noaux_tc": True})),
        ("topk_method", "moe.group_top", family.choice({"noaux_tc": 2})),
        ("n_group", "moe.num_groups"),
        ("topk_group", "moe.top_groups"),
        ("norm_topk_prob", "moe.normalize", family.only(True, False)),
        ("rope_interleave", None, family.only(True)),
        ("num_nextn_predict_layers", None, family.written(lambda config: 0)),
    ),
    **_SHARED,
)
