"""Shapes of the decoder and the published Gemma-2 sizes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of a Gemma-2 decoder. Hashable, so it can be a static argument of `jax.jit`.

    Layers alternate (local, global): even layers see a sliding window, odd ones everything.

    Attributes:
      vocab_size: V, rows of the tied embedding.
      num_layers: L, even, because layers are scanned in (local, global) pairs.
      embed_dim: D, width of the residual stream.
      num_heads: H, query heads.
      num_kv_heads: K, key and value heads; divides H.
      head_dim: E, width of one head; even, because RoPE rotates halves.
      ffn_dim: F, width of the gated feed-forward layer.
      sliding_window: tokens a local layer sees, the current one included.
      query_scale: factor on q.k before the soft cap (`query_pre_attn_scalar ** -0.5`).
      attn_softcap: cap c of c * tanh(logits / c) on attention logits, None for no cap.
      final_softcap: the same on output logits.
      rope_theta: base of the rotary frequencies.
      norm_eps: epsilon of every RMSNorm.
      dtype: type of activations.
      param_dtype: type of parameters.
      attention_chunk: keys per step of the online softmax; bounds memory, never the result.
      remat: recompute each layer pair in the backward pass.

    Raises:
      ValueError: naming the field that makes the shape impossible.
    """

    vocab_size: int
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dim: int
    sliding_window: int
    query_scale: float
    attn_softcap: float | None = 50.0
    final_softcap: float | None = 30.0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"
    attention_chunk: int = 1024
    remat: bool = False

    def __post_init__(self):
        for name in (
            "vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim",
            "ffn_dim", "sliding_window", "attention_chunk",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.num_layers % 2:
            raise ValueError(
                f"model.num_layers must be even, because layers are scanned in (local, global) "
                f"pairs, got {self.num_layers}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_heads ({self.num_heads}) must be a multiple of "
                f"model.num_kv_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim must be even for RoPE, got {self.head_dim}")


def _gemma2(num_layers, embed_dim, num_heads, num_kv_heads, head_dim, ffn_dim, query_scalar):
    return ModelConfig(
        vocab_size=256_000,
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        ffn_dim=ffn_dim,
        sliding_window=4096,
        query_scale=query_scalar**-0.5,
        dtype="bfloat16",
        param_dtype="bfloat16",
        remat=True,
    )


VARIANTS: dict[str, ModelConfig] = {
    # A few thousand parameters, for tests.
    "tiny": ModelConfig(
        vocab_size=64,
        num_layers=2,
        embed_dim=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ffn_dim=64,
        sliding_window=8,
        query_scale=8**-0.5,
    ),
    # 48M parameters: the shape on which sampling speed is measured.
    "gemma2_48m": ModelConfig(
        vocab_size=8192,
        num_layers=8,
        embed_dim=512,
        num_heads=8,
        num_kv_heads=4,
        head_dim=64,
        ffn_dim=3072,
        sliding_window=4096,
        query_scale=64**-0.5,
    ),
    "gemma2_2b": _gemma2(26, 2304, 8, 4, 256, 9216, 256),
    "gemma2_9b": _gemma2(42, 3584, 16, 8, 256, 14_336, 256),
    # Queries are scaled by embed_dim / num_heads = 144 here, not by head_dim.
    "gemma2_27b": _gemma2(46, 4608, 32, 16, 128, 36_864, 144),
}
