"""Shapes of the decoder, and settings of their computation."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from grm_jax.parallel.mesh import RULES, Rules
from grm_jax.ranges import Checked, Count, Natural, NonNegative, Positive, one_of

SCORINGS = ("softmax", "sigmoid")
ACTIVATIONS = ("gelu_tanh", "silu")
EXPERT_PATHS = ("auto", "blocks", "megablox")
ATTENTION_KERNELS = ("auto", "reference", "splash", "tiled")
REMATS = ("none", "products", "full")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class YarnConfig(Checked):
    """YaRN: rotary frequencies stretched beyond the trained length.

    Attributes:
      factor: how much longer contexts become.
      original_length: trained length in tokens.
      beta_fast, beta_slow: turns within the trained length between which frequencies are blended.
      mscale, mscale_all_dim: their ratio scales rotations; the latter also scales q.k, which the
        caller folds into `ModelConfig.query_scale` (see `variants.mla_query_scale`).
    """

    factor: Positive
    original_length: Count
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    mscale: NonNegative = 1.0
    mscale_all_dim: NonNegative = 0.0


@dataclasses.dataclass(frozen=True)
class Llama3RopeConfig(Checked):
    """Rotary frequencies of Llama-3.1 and later, stretched beyond the trained length.

    Attributes:
      factor: divides the frequencies that turn less than `low_turns` times within the trained
        length.
      original_length: trained length in tokens.
      low_turns, high_turns: turns within the trained length between which frequencies are blended
        (`low_freq_factor`, `high_freq_factor`); those that turn more often stay.
    """

    factor: Positive
    original_length: Count
    low_turns: Positive = 1.0
    high_turns: Positive = 4.0

    def __post_init__(self):
        super().__post_init__()
        above = self.high_turns > self.low_turns
        self.demand("high_turns", above, f"above low_turns = {self.low_turns}")


def yarn_mscale(factor: float, mscale: float) -> float:
    """0.1 * mscale * ln(factor) + 1 for factor > 1, else 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


@dataclasses.dataclass(frozen=True)
class MLAConfig(Checked):
    """Multi-head latent attention: keys and values are made from one small latent per token.

    Attributes:
      kv_rank: width of the latent of keys and values.
      nope_dim: width of the part of a head without rotation.
      rope_dim: width of the rotated part; its key is shared by all heads.
      value_dim: width of the values of a head.
      query_rank: width of the latent of queries; None projects queries directly.
      latent_norm_eps: epsilon of the norms of the latents.
    """

    kv_rank: Count
    nope_dim: Count
    rope_dim: Count
    value_dim: Count
    query_rank: Count | None = None
    latent_norm_eps: Positive = 1e-6


@dataclasses.dataclass(frozen=True)
class MoEConfig(Checked):
    """Routed and shared experts. No token is ever dropped.

    Attributes:
      num_experts: X, routed experts.
      experts_per_token: A, how many of them a token goes to.
      expert_dim: F of one routed expert.
      shared_dim: F of the shared experts together, seen by every token; 0 for none.
      first_dense: leading layers with a plain feed-forward layer instead.
      scoring: "softmax" over all experts (V2) or "sigmoid" of each (V3).
      selection_bias: a bias per expert decides which are chosen, not how they are weighed (V3).
      num_groups, top_groups: experts are chosen inside the best `top_groups` of `num_groups`.
      group_top: a group is as good as the sum of its best `group_top` experts.
      normalize: weights of the chosen experts sum to 1 before `routed_scale`.
      routed_scale: factor on the weights.
    """

    num_experts: Count
    experts_per_token: Count
    expert_dim: Count
    shared_dim: Natural = 0
    first_dense: Natural = 0
    scoring: Annotated[str, one_of(SCORINGS)] = "softmax"
    selection_bias: bool = False
    num_groups: Count = 1
    top_groups: Count = 1
    group_top: Count = 1
    normalize: bool = False
    routed_scale: Positive = 1.0

    def __post_init__(self):
        super().__post_init__()
        groups = self.num_groups
        several = self.num_experts % groups == 0
        self.demand("num_experts", several, f"a multiple of num_groups = {groups}")
        self.demand("top_groups", self.top_groups <= groups, f"at most num_groups = {groups}")
        most = self.num_experts // groups * self.top_groups
        self.demand("experts_per_token", self.experts_per_token <= most, f"at most {most}")


@dataclasses.dataclass(frozen=True)
class LoRAConfig(Checked):
    """Low-rank adapters of frozen kernels (arXiv 2106.09685): W + alpha / rank * A B.

    Attributes:
      rank: R, width between A and B.
      alpha: strength; divided by the rank, so that the rank alone changes no learning rate.
    """

    rank: Count
    alpha: Positive

    @property
    def scale(self) -> float:
        """Factor on A B."""
        return self.alpha / self.rank


class Stack(NamedTuple):
    """Consecutive layers in groups that are alike, which the decoder scans over.

    Attributes:
      name: of their parameters.
      dense: whether they have a plain feed-forward layer; else experts.
      first, last: the layers, `last` exclusive.
      members: name of each layer of a group in the tree of parameters.
      windows: window of each layer of a group; None sees everything.
    """

    name: str
    dense: bool
    first: int
    last: int
    members: tuple[str, ...]
    windows: tuple[int | None, ...]

    @property
    def groups(self) -> int:
        """Length of the scan."""
        return (self.last - self.first) // len(self.members)


@dataclasses.dataclass(frozen=True)
class Compute(Checked):
    """Settings of the computation of a decoder, which a checkpoint does not fix.

    Attributes:
      dtype: type of activations.
      param_dtype: type of parameters; adapters are float32 whatever it is.
      attention_chunk: keys per step of the online softmax; bounds memory, never the result.
      expert_path: how expert matrices are multiplied, see `moe.py`; never changes the result.
      attention_kernel: how a full pass attends, see `attention_kernels.py`; never changes the
        result.
      remat: the part of each group of layers that the backward pass recomputes: "none"; all but
        matrix products with weights ("products"); everything ("full").
      rules: which mesh axes split each logical axis, see `parallel.mesh`; without effect where no
        mesh is set, never on the result.
    """

    dtype: Annotated[str, one_of(DTYPES)] = "float32"
    param_dtype: Annotated[str, one_of(DTYPES)] = "float32"
    attention_chunk: Count = 1024
    expert_path: Annotated[str, one_of(EXPERT_PATHS)] = "auto"
    attention_kernel: Annotated[str, one_of(ATTENTION_KERNELS)] = "auto"
    remat: Annotated[str, one_of(REMATS)] = "none"
    rules: Rules = RULES


@dataclasses.dataclass(frozen=True)
class ModelConfig(Checked):
    """Shape of a decoder. Hashable, so it can be a static argument of `jax.jit`.

    Configs and model.json hold the fields of the shape and of `compute` in one mapping; `of` and
    `replace` take them together.

    The defaults are Gemma-2's. With a sliding window, layers alternate (local, global): even
    layers see the window, odd ones everything. Other families set `global_every`.

    Attributes:
      vocab_size: V, rows of the embedding.
      num_layers: L, of attention and feed-forward each.
      embed_dim: D, width of the residual stream.
      num_heads: H, query heads.
      num_kv_heads: K, key and value heads; divides H.
      head_dim: E, width of a query and key head; even, because RoPE rotates halves.
      ffn_dim: F, width of the gated feed-forward layer (of the dense layers).
      sliding_window: tokens a local layer sees, the current one included; None: no local layers.
      global_every: with a sliding window, the last of so many layers sees everything (2 in Gemma-2,
        6 in Gemma-3); None: no layer does (Mistral v0.1). Layers are scanned in groups of so many.
      query_scale: factor on q.k before the soft cap (`query_pre_attn_scalar ** -0.5`).
      attn_softcap: cap c of c * tanh(logits / c) on attention logits, None for no cap.
      final_softcap: the same on output logits.
      rope_theta: base of the rotary frequencies.
      local_rope_theta: base of local layers, whose frequencies are never stretched (Gemma-3); None:
        all layers rotate alike.
      norm_eps: epsilon of every RMSNorm.
      unit_offset_norms: norms multiply by 1 + w, in float32 (Gemma); else by w.
      post_norms: norms after attention and feed-forward too (Gemma-2).
      scale_embeddings: embeddings are multiplied by sqrt(D) (Gemma).
      qk_norm: an RMSNorm of each head of queries and keys, before the rotation (Qwen3, Gemma-3).
      qkv_bias: biases on the projections to queries, keys and values (Qwen2).
      activation: of the gate: "gelu_tanh" or "silu".
      tied_embeddings: output logits use the embedding; else a matrix of their own.
      mla: latent attention instead of grouped-query attention; K is then 1 in the cache.
      moe: experts in all but the first layers.
      yarn, llama3_rope, linear_rope: stretched rotary frequencies, at most one of them; the last
        divides all by a number.
      lora: adapters of the kernels of attention and of the feed-forward layers that every token
        sees; routed experts, routers, norms, embeddings and the expansion of latents have none. See
        `lora.py`.
      compute: settings of the computation.

    Raises:
      ValueError: naming the field that makes the shape impossible.
    """

    vocab_size: Count
    num_layers: Count
    embed_dim: Count
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    ffn_dim: Count
    sliding_window: Count | None
    query_scale: Positive
    attn_softcap: Positive | None = 50.0
    final_softcap: Positive | None = 30.0
    rope_theta: Positive = 10_000.0
    local_rope_theta: Positive | None = None
    norm_eps: Positive = 1e-6
    unit_offset_norms: bool = True
    post_norms: bool = True
    scale_embeddings: bool = True
    activation: Annotated[str, one_of(ACTIVATIONS)] = "gelu_tanh"
    tied_embeddings: bool = True
    global_every: Count | None = 2
    qk_norm: bool = False
    qkv_bias: bool = False
    mla: MLAConfig | None = None
    moe: MoEConfig | None = None
    yarn: YarnConfig | None = None
    llama3_rope: Llama3RopeConfig | None = None
    linear_rope: Positive | None = None
    lora: LoRAConfig | None = None
    compute: Compute = Compute()

    def __post_init__(self):
        super().__post_init__()
        mla, moe = self.mla, self.moe
        self.demand("global_every", self.global_every != 1, "2 or more, or None for local layers")
        stretched = [x for x in (self.yarn, self.llama3_rope, self.linear_rope) if x is not None]
        self.demand("yarn", len(stretched) < 2, "the only one of yarn, llama3_rope, linear_rope")
        shared = self.num_heads % self.num_kv_heads == 0
        self.demand("num_heads", shared, f"a multiple of num_kv_heads = {self.num_kv_heads}")
        self.demand("head_dim", self.head_dim % 2 == 0, "even for RoPE")
        if mla is not None:
            self.demand("num_kv_heads", self.num_kv_heads == 1, "1 with latent attention")
            self.demand("mla.rope_dim", mla.rope_dim % 2 == 0, "even for RoPE")
            for name in ("qk_norm", "qkv_bias"):
                self.demand(name, not getattr(self, name), "False with latent attention")
            whole = mla.nope_dim + mla.rope_dim
            self.demand("head_dim", self.head_dim == whole, f"mla.nope_dim + rope_dim = {whole}")
        if moe is not None:
            self.demand("sliding_window", self.sliding_window is None, "None where moe is given")
            most = self.num_layers - 1
            self.demand("moe.first_dense", moe.first_dense <= most, f"at most {most}")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """A config from fields of the shape and of `compute` side by side.

        Args:
          fields: by name; a record such as `mla` may be a mapping of its own fields.
        """
        shape = {
            name: RECORDS[name](**value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
        }
        compute = {name: shape.pop(name) for name in COMPUTE if name in shape}
        return cls(**shape, compute=Compute(**compute))

    def replace(self, **fields) -> "ModelConfig":
        """The config with some fields replaced, of the shape or of `compute`."""
        compute = {name: fields.pop(name) for name in COMPUTE if name in fields}
        compute = dataclasses.replace(self.compute, **compute)
        return dataclasses.replace(self, **fields, compute=compute)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Window of each layer; None sees everything."""
        return tuple(window for stack in self.stacks for window in stack.windows * stack.groups)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Layers in the order of the decoder: dense ones, then experts.

        What is left of a pattern of local and global layers after its last whole group is a stack
        of its own, "last_layers".
        """
        layers, window, every = self.num_layers, self.sliding_window, self.global_every
        if window is None or every is None:
            first = 0 if self.moe is None else self.moe.first_dense
            alike = ("layer",), (window,)
            dense = Stack("dense_layers", True, 0, first, *alike)
            rest = Stack("layers", self.moe is None, first, layers, *alike)
            return (dense, rest) if first else (rest,)
        local = ("local",) if every == 2 else tuple(f"local_{i}" for i in range(every - 1))
        windows = (window,) * (every - 1)
        left = layers % every
        whole = Stack("layers", True, 0, layers - left, (*local, "global"), (*windows, None))
        rest = Stack("last_layers", True, layers - left, layers, local[:left], windows[:left])
        return tuple(stack for stack in (whole, rest) if stack.last > stack.first)

    @property
    def cache_widths(self) -> tuple[int, int]:
        """Widths of a cached key and value head; MLA caches one latent and no values."""
        if self.mla is None:
            return self.head_dim, self.head_dim
        return self.mla.kv_rank + self.mla.rope_dim, 0


COMPUTE = tuple(field.name for field in dataclasses.fields(Compute))
# Fields of `ModelConfig` that are records themselves, with their classes.
RECORDS = {
    field.name: kind for field in dataclasses.fields(ModelConfig)
    for kind in typing.get_args(field.type) if dataclasses.is_dataclass(kind)
}  # fmt: skip
