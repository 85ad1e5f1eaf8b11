"""The published sizes of each family by name, and tiny ones for tests."""

from grm_jax.models.config import (
    Compute,
    Llama3RopeConfig,
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


# Of every family but Gemma.
_PLAIN = {
    "attn_softcap": None,
    "final_softcap": None,
    "unit_offset_norms": False,
    "post_norms": False,
    "scale_embeddings": False,
    "activation": "silu",
    "tied_embeddings": False,
}


def deepseek(
    *, mla: MLAConfig, moe: MoEConfig | None, yarn: YarnConfig | None, **fields
) -> ModelConfig:
    """A config with the conventions of DeepSeek-V2 and V3; `fields` are any others."""
    conventions = {
        "num_kv_heads": 1,
        "head_dim": mla.nope_dim + mla.rope_dim,
        "sliding_window": None,
        "query_scale": mla_query_scale(mla, yarn),
    }
    return ModelConfig(mla=mla, moe=moe, yarn=yarn, **{**_PLAIN, **conventions, **fields})


def llama(*, head_dim: int, **fields) -> ModelConfig:
    """A config with the conventions of Llama, which Mistral and Qwen share; `fields` are others."""
    conventions = {
        "head_dim": head_dim,
        "query_scale": head_dim**-0.5,
        "sliding_window": None,
        "global_every": None,  # with a window every layer is local
    }
    return ModelConfig(**{**_PLAIN, **conventions, **fields})


_RELEASED = {"compute": Compute("bfloat16", "bfloat16", remat="full")}


def _gemma2(sizes, query_scalar, *, vocab_size=256_000, sliding_window=4096, **fields):
    """Gemma-2 of `sizes` (num_layers, embed_dim, num_heads, num_kv_heads, head_dim, ffn_dim)."""
    return ModelConfig(
        vocab_size, *sizes, sliding_window=sliding_window, query_scale=query_scalar**-0.5, **fields
    )


_SIZES = "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "ffn_dim"


def _llama(sizes, *, vocab_size, **fields):
    """Llama or Qwen of `sizes`, in the order of `_SIZES`."""
    sizes = dict(zip(_SIZES, sizes, strict=True))
    return llama(vocab_size=vocab_size, **sizes, **{**_RELEASED, **fields})


def _llama3(sizes, factor, **fields):
    """Llama-3.1 and later, whose contexts are `factor` times as long."""
    return _llama(sizes, vocab_size=128_256, rope_theta=500_000.0, norm_eps=1e-5,
                  llama3_rope=Llama3RopeConfig(factor, 8192), **fields)  # fmt: skip


def _qwen2(sizes, *, vocab_size=152_064, **fields):
    return _llama(sizes, vocab_size=vocab_size, rope_theta=1e6, qkv_bias=True, **fields)


def _qwen3(sizes, **fields):
    return _llama(sizes, vocab_size=151_936, rope_theta=1e6, qk_norm=True, **fields)


def _gemma3(sizes, query_scalar=256, *, sliding_window=1024, linear_rope=8.0, **fields):
    """Gemma-3, the text model; the sizes with vision have 64 more rows of the embedding."""
    fields = {"vocab_size": 262_208, **_RELEASED, **fields}
    return ModelConfig(
        **dict(zip(_SIZES, sizes, strict=True)), query_scale=query_scalar**-0.5,
        sliding_window=sliding_window, global_every=6, attn_softcap=None, final_softcap=None,
        qk_norm=True, rope_theta=1e6, local_rope_theta=10_000.0, linear_rope=linear_rope, **fields,
    )  # fmt: skip


VARIANTS: dict[str, ModelConfig] = {
    # A few thousand parameters, for tests.
    "tiny": _gemma2((2, 32, 4, 2, 8, 64), 8, vocab_size=64, sliding_window=8),
    # 48M parameters: the shape on which sampling speed is measured.
    "gemma2_48m": _gemma2((8, 512, 8, 4, 64, 3072), 64, vocab_size=8192),
    "gemma2_2b": _gemma2((26, 2304, 8, 4, 256, 9216), 256, **_RELEASED),
    "gemma2_9b": _gemma2((42, 3584, 16, 8, 256, 14_336), 256, **_RELEASED),
    # Queries are scaled by embed_dim / num_heads = 144 here, not by head_dim.
    "gemma2_27b": _gemma2((46, 4608, 32, 16, 128, 36_864), 144, **_RELEASED),
    "gemma3_270m": _gemma3(
        (18, 640, 4, 1, 256, 2048), sliding_window=512, linear_rope=None, vocab_size=262_144
    ),
    "gemma3_1b": _gemma3(
        (26, 1152, 4, 1, 256, 6912), sliding_window=512, linear_rope=None, vocab_size=262_144
    ),
    "gemma3_4b": _gemma3((34, 2560, 8, 4, 256, 10_240)),
    "gemma3_12b": _gemma3((48, 3840, 16, 8, 256, 15_360)),
    # Queries are scaled by embed_dim / num_heads here too.
    "gemma3_27b": _gemma3((62, 5376, 32, 16, 128, 21_504), 168),
    "llama3_1_8b": _llama3((32, 4096, 32, 8, 128, 14_336), 8.0),
    "llama3_2_1b": _llama3((16, 2048, 32, 8, 64, 8192), 32.0, tied_embeddings=True),
    "llama3_2_3b": _llama3((28, 3072, 24, 8, 128, 8192), 32.0, tied_embeddings=True),
    "llama3_3_70b": _llama3((80, 8192, 64, 8, 128, 28_672), 8.0),
    "smollm2_135m": _llama(
        (30, 576, 9, 3, 64, 1536),
        vocab_size=49_152,
        rope_theta=100_000.0,
        norm_eps=1e-5,
        tied_embeddings=True,
    ),
    "smollm2_1_7b": _llama(
        (24, 2048, 32, 32, 64, 8192),
        vocab_size=49_152,
        rope_theta=130_000.0,
        norm_eps=1e-5,
        tied_embeddings=True,
    ),
    "mistral_7b": _llama(
        (32, 4096, 32, 8, 128, 14_336), vocab_size=32_768, rope_theta=1e6, norm_eps=1e-5
    ),
    "qwen2_5_0_5b": _qwen2((24, 896, 14, 2, 64, 4864), vocab_size=151_936, tied_embeddings=True),
    "qwen2_5_1_5b": _qwen2((28, 1536, 12, 2, 128, 8960), vocab_size=151_936, tied_embeddings=True),
    "qwen2_5_7b": _qwen2((28, 3584, 28, 4, 128, 18_944)),
    "qwen2_5_14b": _qwen2((48, 5120, 40, 8, 128, 13_824)),
    "qwen2_5_32b": _qwen2((64, 5120, 40, 8, 128, 27_648)),
    "qwen3_0_6b": _qwen3((28, 1024, 16, 8, 128, 3072), tied_embeddings=True),
    "qwen3_1_7b": _qwen3((28, 2048, 16, 8, 128, 6144), tied_embeddings=True),
    "qwen3_4b": _qwen3((36, 2560, 32, 8, 128, 9728), tied_embeddings=True),
    "qwen3_8b": _qwen3((36, 4096, 32, 8, 128, 12_288)),
    "qwen3_14b": _qwen3((40, 5120, 40, 8, 128, 17_408)),
    "qwen3_32b": _qwen3((64, 5120, 64, 8, 128, 25_600)),
    "qwen3_30b_a3b": _qwen3(
        (48, 2048, 32, 4, 128, 6144), moe=MoEConfig(128, 8, 768, normalize=True)
    ),
    "qwen3_235b_a22b": _qwen3(
        (94, 4096, 64, 4, 128, 12_288), moe=MoEConfig(128, 8, 1536, normalize=True)
    ),
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
    # Of Gemma-3 the text model, without the vision tower and its projection.
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 3_880_263_168,
    "gemma3_12b": 11_766_034_176,
    "gemma3_27b": 27_009_346_304,
    "llama3_1_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "llama3_3_70b": 70_553_706_496,
    "smollm2_135m": 134_515_008,
    "smollm2_1_7b": 1_711_376_384,
    "mistral_7b": 7_248_023_552,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235_093_634_560,
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
