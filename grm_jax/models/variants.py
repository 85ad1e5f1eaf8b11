"""The published sizes of Gemma-2 and DeepSeek by name, and tiny ones for tests."""

from grm_jax.models.config import (
    Compute,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    YarnConfig,
    yarn_mscale,
)


def mla_query_scale(mla: MLAConfig, yarn: YarnConfig | None) -> float:
    """Factor on q.k of DeepSeek: (nope + rope)^-0.5, times YaRN's mscale_all_dim term squared."""
    scale = (mla.nope_dim + mla.rope_dim) ** -0.5
    if yarn is not None and yarn.mscale_all_dim:
        scale *= yarn_mscale(yarn.factor, yarn.mscale_all_dim) ** 2
    return scale


def deepseek(
    *, mla: MLAConfig, moe: MoEConfig | None, yarn: YarnConfig | None, **fields
) -> ModelConfig:
    """A config with the conventions of DeepSeek-V2 and V3; `fields` are any others."""
    conventions = {
        "num_kv_heads": 1,
        "head_dim": mla.nope_dim + mla.rope_dim,
        "sliding_window": None,
        "query_scale": mla_query_scale(mla, yarn),
        "attn_softcap": None,
        "final_softcap": None,
        "unit_offset_norms": False,
        "post_norms": False,
        "scale_embeddings": False,
        "activation": "silu",
        "tied_embeddings": False,
    }
    return ModelConfig(mla=mla, moe=moe, yarn=yarn, **{**conventions, **fields})


_RELEASED = {"compute": Compute("bfloat16", "bfloat16", remat="full")}


def _gemma2(sizes, query_scalar, *, vocab_size=256_000, sliding_window=4096, **fields):
    """Gemma-2 of `sizes` (num_layers, embed_dim, num_heads, num_kv_heads, head_dim, ffn_dim)."""
    return ModelConfig(
        vocab_size, *sizes, sliding_window=sliding_window, query_scale=query_scalar**-0.5, **fields
    )


VARIANTS: dict[str, ModelConfig] = {
    # A few thousand parameters, for tests.
    "tiny": _gemma2((2, 32, 4, 2, 8, 64), 8, vocab_size=64, sliding_window=8),
    # 48M parameters: the shape on which sampling speed is measured.
    "gemma2_48m": _gemma2((8, 512, 8, 4, 64, 3072), 64, vocab_size=8192),
    "gemma2_2b": _gemma2((26, 2304, 8, 4, 256, 9216), 256, **_RELEASED),
    "gemma2_9b": _gemma2((42, 3584, 16, 8, 256, 14_336), 256, **_RELEASED),
    # Queries are scaled by embed_dim / num_heads = 144 here, not by head_dim.
    "gemma2_27b": _gemma2((46, 4608, 32, 16, 128, 36_864), 144, **_RELEASED),
    # A few thousand parameters of the other architecture, for tests.
    "tiny_deepseek": deepseek(
        vocab_size=64,
        num_layers=3,
        embed_dim=32,
        num_heads=4,
        ffn_dim=64,
        mla=MLAConfig(kv_rank=12, nope_dim=8, rope_dim=4, value_dim=6),
        moe=MoEConfig(
            num_experts=8, experts_per_token=3, expert_dim=16, shared_dim=32, first_dense=1
        ),
        yarn=YarnConfig(4.0, 16, mscale=0.707, mscale_all_dim=0.707),
    ),
    "deepseek_v2_lite_16b": deepseek(
        vocab_size=102_400,
        num_layers=27,
        embed_dim=2048,
        num_heads=16,
        ffn_dim=10_944,
        mla=MLAConfig(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128),
        moe=MoEConfig(
            num_experts=64, experts_per_token=6, expert_dim=1408, shared_dim=2816, first_dense=1
        ),
        yarn=YarnConfig(40.0, 4096, mscale=0.707, mscale_all_dim=0.707),
        **_RELEASED,
    ),
    "deepseek_v2_236b": deepseek(
        vocab_size=102_400,
        num_layers=60,
        embed_dim=5120,
        num_heads=128,
        ffn_dim=12_288,
        mla=MLAConfig(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, query_rank=1536),
        moe=MoEConfig(
            num_experts=160,
            experts_per_token=6,
            expert_dim=1536,
            shared_dim=3072,
            first_dense=1,
            num_groups=8,
            top_groups=3,
            routed_scale=16.0,
        ),
        yarn=YarnConfig(40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
        **_RELEASED,
    ),
    "deepseek_v3_671b": deepseek(
        vocab_size=129_280,
        num_layers=61,
        embed_dim=7168,
        num_heads=128,
        ffn_dim=18_432,
        mla=MLAConfig(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, query_rank=1536),
        moe=MoEConfig(
            num_experts=256,
            experts_per_token=8,
            expert_dim=2048,
            shared_dim=2048,
            first_dense=3,
            scoring="sigmoid",
            selection_bias=True,
            num_groups=8,
            top_groups=4,
            group_top=2,
            normalize=True,
            routed_scale=2.5,
        ),
        yarn=YarnConfig(40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
        **_RELEASED,
    ),
}

# Parameters of the published models, by variant. Of DeepSeek-V3 the main model; the layer that
# predicts a second token is not part of it.
PUBLISHED_PARAMETERS: dict[str, int] = {
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "deepseek_v2_lite_16b": 15_706_484_224,
    "deepseek_v2_236b": 235_741_434_880,
    "deepseek_v3_671b": 671_026_419_200,
}


def published_variant(config: ModelConfig) -> str | None:
    """The published variant of the same main sizes, or None."""
    sizes = ("vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim",
             "ffn_dim")  # fmt: skip
    for name in PUBLISHED_PARAMETERS:
        if all(getattr(VARIANTS[name], size) == getattr(config, size) for size in sizes):
            return name
    return None
