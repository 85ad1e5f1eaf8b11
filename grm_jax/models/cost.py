"""The cost of a model by arithmetic on its shape: parameters, FLOPs and bytes, as Python numbers.

FLOPs are those of matrix products, 2 for a multiply and add: projections, feed-forward layers, the
router, chosen experts, the output layer, and q.k and weights.v of exactly the (query, key) pairs
that the causal mask and the window leave. Not counted: the look-up of embeddings, norms, rotations,
softmax, caps, activations, sampling, the optimizer, masked pairs, padding, and whatever a backward
pass computes twice (remat). So a share of a peak made of these counts is of *needed* work.

Bytes are those that must cross the memory at least once: each weight once a pass, each visible key
and value once for all samples that share it. Not counted: activations, logits, random numbers,
positions. Splitting over a mesh adds copies and communication, which are not counted either.

Letters: D width, H query heads, K key/value heads, F feed-forward width, X experts, A experts of a
token, L layers, V vocabulary, P prompts, S samples of a prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

from grm_jax.models.config import ModelConfig


def dtype_bytes(name: str) -> int:
    """Bytes of one number of a type of `config.DTYPES`."""
    return {"float32": 4, "bfloat16": 2, "float16": 2}[name]


def _depths(config: ModelConfig) -> tuple[int, int]:
    """How many layers have a plain feed-forward layer, and how many have experts."""
    dense = config.num_layers if config.moe is None else config.moe.first_dense
    return dense, config.num_layers - dense


def _attention_matrices(config: ModelConfig) -> int:
    """Entries of the projections of one layer. A token meets each once, expanded or absorbed."""
    c, mla = config, config.mla
    if mla is None:
        return c.embed_dim * c.head_dim * 2 * (c.num_heads + c.num_kv_heads)
    queries = c.embed_dim * c.num_heads * c.head_dim
    if mla.query_rank is not None:
        queries = mla.query_rank * (c.embed_dim + c.num_heads * c.head_dim)
    latents = c.embed_dim * (mla.kv_rank + mla.rope_dim)
    expansion = mla.kv_rank * c.num_heads * (mla.nope_dim + mla.value_dim)
    return queries + latents + expansion + c.num_heads * mla.value_dim * c.embed_dim


def _layer_matrices(config: ModelConfig, experts: float) -> float:
    """Matrix entries of all layers, counting this many routed experts in each."""
    moe, (dense, sparse) = config.moe, _depths(config)
    total = config.num_layers * _attention_matrices(config)
    total += dense * 3 * config.embed_dim * config.ffn_dim
    if sparse:
        widths = moe.num_experts + 3 * (experts * moe.expert_dim + moe.shared_dim)
        total += sparse * config.embed_dim * widths
    return total


def _vectors(config: ModelConfig) -> int:
    """Entries of all scales of norms and of all biases."""
    c, mla, moe = config, config.mla, config.moe
    layer = (4 if c.post_norms else 2) * c.embed_dim
    layer += 2 * c.head_dim * c.qk_norm
    layer += (c.num_heads + 2 * c.num_kv_heads) * c.head_dim * c.qkv_bias
    if mla is not None:
        layer += mla.kv_rank + (mla.query_rank or 0)
    biases = _depths(c)[1] * moe.num_experts if moe is not None and moe.selection_bias else 0
    return c.num_layers * layer + biases + c.embed_dim


def num_params(config: ModelConfig) -> int:
    """All parameters: one embedding, and an output matrix where that is not the embedding."""
    tables = (1 if config.tied_embeddings else 2) * config.vocab_size * config.embed_dim
    experts = config.moe.num_experts if config.moe else 0
    return tables + _layer_matrices(config, experts) + _vectors(config)


def num_active_params(config: ModelConfig) -> int:
    """Parameters without the experts that a token does not go to; tables are counted whole."""
    if config.moe is None:
        return num_params(config)
    unused = config.moe.num_experts - config.moe.experts_per_token
    each = 3 * config.embed_dim * config.moe.expert_dim
    return num_params(config) - _depths(config)[1] * unused * each


def num_product_params(config: ModelConfig, *, output: bool = True) -> int:
    """N: matrix entries that a token is multiplied by, those of the output layer if `output`.

    Embedding rows are looked up and never multiplied.
    """
    experts = config.moe.experts_per_token if config.moe else 0
    table = config.vocab_size * config.embed_dim if output else 0
    return _layer_matrices(config, experts) + table


def attended_pairs(length: int, window: int | None, past: int = 0) -> int:
    """(query, key) pairs of a causal layer for `length` queries after `past` tokens.

    A query sees at most `window` keys, its own included; None is all.
    """

    def below(end):  # pairs of the queries at 0 to end - 1
        short = end if window is None else min(end, window)
        return short * (short + 1) // 2 + (end - short) * short

    return below(past + length) - below(past)


def attention_flops(
    config: ModelConfig, length: int, past: int = 0, *, absorbed: bool = False
) -> int:
    """FLOPs of q.k and weights.v in all layers, for `length` queries after `past` tokens.

    `absorbed` is latent attention over the latents, as in decode, whose keys are R + E wide and
    values R; else over expanded heads. It changes nothing for grouped-query attention.
    """
    c, mla = config, config.mla
    if mla is None:
        widths = 2 * c.head_dim
    elif absorbed:
        widths = 2 * mla.kv_rank + mla.rope_dim
    else:
        widths = c.head_dim + mla.value_dim
    pairs = sum(attended_pairs(length, window, past) for window in c.windows)
    return 2 * c.num_heads * widths * pairs


def forward_flops(
    config: ModelConfig, lengths: Sequence[int], *, output_tokens: int | None = None
) -> int:
    """FLOPs of a forward pass over segments without a past: 2 N a token, and attention.

    Args:
      config: shape of the model.
      lengths: tokens of each segment; packing them into rows changes nothing.
      output_tokens: tokens that the output layer runs on; None for all. 0 is a prefill (whose
        last layer is counted whole, though only its keys and values are needed).
    """
    tokens = sum(lengths)
    outputs = tokens if output_tokens is None else output_tokens
    products = num_product_params(config, output=False) * tokens
    products += config.vocab_size * config.embed_dim * outputs
    return 2 * products + sum(attention_flops(config, length) for length in lengths)


def train_flops(
    config: ModelConfig,
    lengths: Sequence[int],
    *,
    output_tokens: int | None = None,
    frozen: bool = False,
) -> int:
    """FLOPs of a forward and a backward pass: 6 N a token and 3 times attention, without remat.

    `lengths` and `output_tokens` are as in `forward_flops`. `frozen` matrices get no gradient, as
    under low-rank adapters: 4 N a token and 3 times attention. The products of the adapters
    themselves, about a hundredth, are not counted.
    """
    forward = forward_flops(config, lengths, output_tokens=output_tokens)
    attention = sum(attention_flops(config, length) for length in lengths)
    return 2 * forward + attention if frozen else 3 * forward


def expected_experts(num_experts: int, experts_per_token: int, tokens: int) -> float:
    """Distinct experts that so many tokens of a layer go to: X (1 - (1 - A / X)^tokens).

    Exact if each expert is chosen equally often and tokens choose independently.
    """
    return num_experts * (1 - (1 - experts_per_token / num_experts) ** tokens)


def weight_bytes(config: ModelConfig, tokens: int, *, output: bool = True) -> int:
    """Bytes of the weights that a pass over so many tokens reads.

    Experts count with the expected number of distinct ones, the embedding with the looked-up rows,
    or whole where the output layer reads it anyway.
    """
    c, moe = config, config.moe
    experts = expected_experts(moe.num_experts, moe.experts_per_token, tokens) if moe else 0
    entries = _layer_matrices(c, experts) + _vectors(c)
    if output:
        entries += c.vocab_size * c.embed_dim
    if not (output and c.tied_embeddings):
        entries += min(tokens, c.vocab_size) * c.embed_dim
    return round(entries * dtype_bytes(c.compute.param_dtype))


def optimizer_state_bytes(config: ModelConfig) -> int:
    """Bytes of AdamW's two moments, which have the type of the parameters."""
    return 2 * num_params(config) * dtype_bytes(config.compute.param_dtype)


def train_bytes(
    config: ModelConfig, tokens: int, micro_batches: int = 1, *, frozen: bool = False
) -> int:
    """Bytes of weights, gradients and moments that a training step must move.

    Each micro-batch of `tokens / micro_batches` reads the weights forward and backward and writes a
    gradient; from the second on it reads the sum so far as well. Then AdamW reads four arrays, and
    writes all of them but the gradient. `frozen` weights are only read.
    """
    gradient = num_params(config) * dtype_bytes(config.compute.param_dtype)
    reads = 2 * micro_batches * weight_bytes(config, tokens // micro_batches)
    if frozen:
        return reads
    return reads + (2 * micro_batches - 1 + 7) * gradient


def cache_bytes_per_token(config: ModelConfig) -> int:
    """Bytes of the keys and values, or latents, of one token in all layers."""
    return config.num_layers * _cache_bytes_per_layer(config)


def _cache_bytes_per_layer(config: ModelConfig) -> int:
    return config.num_kv_heads * sum(config.cache_widths) * dtype_bytes(config.compute.dtype)


class DecodeCost(NamedTuple):
    """The needs of decode steps: bytes, and FLOPs."""

    weights: int  # of the model, once a step
    prefix: int  # of the caches of prompts, once a step and prompt, whatever the number of samples
    suffix: int  # of the samples' own caches
    written: int  # into the samples' own caches
    flops: int  # of all samples

    @property
    def bytes(self) -> int:
        """All bytes, read and written."""
        return self.weights + self.prefix + self.suffix + self.written


def sample_flops(config: ModelConfig, prompt_length: int, new: int) -> int:
    """FLOPs of drawing `new` tokens after a prefilled prompt, whose last token is fed first."""
    products = 2 * num_product_params(config) * new
    return products + attention_flops(config, new, prompt_length - 1, absorbed=True)


def decode_cost(
    config: ModelConfig, *, prompts: int, samples: int, prompt_length: int, new: int
) -> DecodeCost:
    """The cost of drawing `new` tokens of each of S samples of P prefilled prompts, in `new` steps.

    The cache of a prompt holds all but its last token, which the first step feeds, as in
    `sampling.sampler`. Local layers need only the keys in their window. No sample stops early.
    """
    rows, past = prompts * samples, prompt_length - 1
    token = _cache_bytes_per_layer(config)
    prefix = suffix = 0
    for window in config.windows:
        for step in range(new):  # so many tokens are in the cache of a sample
            seen = step if window is None else min(step, window - 1)
            before = past if window is None else min(past, window - 1 - seen)
            suffix += rows * seen * token
            prefix += prompts * before * token
    return DecodeCost(
        weights=new * weight_bytes(config, rows),
        prefix=prefix,
        suffix=suffix,
        written=new * rows * cache_bytes_per_token(config),
        flops=rows * sample_flops(config, prompt_length, new),
    )
