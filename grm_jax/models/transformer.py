"""The Gemma-2 decoder: one apply for training, log-probs, prefill and decode.

Past keys and values are explicit, read-only arguments. The caller owns the cache: it writes the
returned block of the own tokens wherever it wants, outside of any vmap.

Letters: B batch, T tokens, D width, H query heads, K key/value heads, E head width, F
feed-forward width, L layers, V vocabulary.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from grm_jax.models import attention
from grm_jax.models.config import ModelConfig


class KVBlock(NamedTuple):
    """Keys and values of all layers for a run of tokens.

    Attributes:
      k_LBKTE: rotated keys.
      v_LBKTE: values.
      positions_BT: int32 absolute positions.
      segment_ids_BT: int32; 0 marks an empty slot, which nobody attends to.
    """

    k_LBKTE: jax.Array
    v_LBKTE: jax.Array
    positions_BT: jax.Array
    segment_ids_BT: jax.Array


def _param(module, name, axes, shape, scale):
    init = nn.initializers.normal(scale) if scale else nn.initializers.zeros_init()
    config = module.config
    value = module.param(
        name, nn.with_logical_partitioning(init, axes), shape, jnp.dtype(config.param_dtype)
    )
    return jnp.asarray(value, jnp.dtype(config.dtype))


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + w), computed in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x):
        weight = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed",)),
            (x.shape[-1],),
            jnp.dtype(self.config.param_dtype),
        ).astype(jnp.float32)
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(
            jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.config.norm_eps
        )
        return (normed * (1.0 + weight.reshape((1,) * (x.ndim - 1) + (-1,)))).astype(x.dtype)


class Attention(nn.Module):
    """Projections around `attention.attend`."""

    config: ModelConfig
    window: int | None

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segment_ids_BT, past):
        c = self.config
        q_DHE = _param(self, "q", ("embed", "heads", "head_dim"),
                       (c.embed_dim, c.num_heads, c.head_dim), c.embed_dim**-0.5)  # fmt: skip
        kv_shape = (c.embed_dim, c.num_kv_heads, c.head_dim)
        kv_axes = ("embed", "kv_heads", "head_dim")
        k_DKE = _param(self, "k", kv_axes, kv_shape, c.embed_dim**-0.5)
        v_DKE = _param(self, "v", kv_axes, kv_shape, c.embed_dim**-0.5)
        o_HED = _param(self, "o", ("heads", "head_dim", "embed"),
                       (c.num_heads, c.head_dim, c.embed_dim),
                       (c.num_heads * c.head_dim) ** -0.5)  # fmt: skip
        with jax.named_scope("qkv"):
            q_BTHE = jnp.einsum("btd,dhe->bthe", x_BTD, q_DHE)
            k_BTKE = jnp.einsum("btd,dke->btke", x_BTD, k_DKE)
            v_BKTE = jnp.einsum("btd,dke->bkte", x_BTD, v_DKE)
        q_BTHE = attention.rope(q_BTHE, positions_BT, c.rope_theta)
        k_BKTE = jnp.swapaxes(attention.rope(k_BTKE, positions_BT, c.rope_theta), 1, 2)
        own = attention.Keys(k_BKTE, v_BKTE, positions_BT, segment_ids_BT)
        out_BTHE = attention.attend(
            q_BTHE, (*past, own), positions_BT, segment_ids_BT,
            scale=c.query_scale, cap=c.attn_softcap, window=self.window, chunk=c.attention_chunk,
        )  # fmt: skip
        with jax.named_scope("attention_out"):
            return jnp.einsum("bthe,hed->btd", out_BTHE, o_HED), (k_BKTE, v_BKTE)


class FeedForward(nn.Module):
    """Gated feed-forward layer: gelu_tanh(x W_gate) * (x W_up), then W_down."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        c = self.config
        in_axes, in_shape = ("embed", "mlp"), (c.embed_dim, c.ffn_dim)
        gate_DF = _param(self, "gate", in_axes, in_shape, c.embed_dim**-0.5)
        up_DF = _param(self, "up", in_axes, in_shape, c.embed_dim**-0.5)
        down_FD = _param(self, "down", ("mlp", "embed"), in_shape[::-1], c.ffn_dim**-0.5)
        with jax.named_scope("feed_forward"):
            return (nn.gelu(x_BTD @ gate_DF, approximate=True) * (x_BTD @ up_DF)) @ down_FD


class Layer(nn.Module):
    """Attention and feed-forward, each between a pre-norm and a post-norm."""

    config: ModelConfig
    window: int | None

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segment_ids_BT, past):
        c = self.config
        out, kv = Attention(c, self.window, name="attention")(
            RMSNorm(c, name="pre_attention_norm")(x_BTD), positions_BT, segment_ids_BT, past
        )
        x_BTD = x_BTD + RMSNorm(c, name="post_attention_norm")(out)
        out = FeedForward(c, name="mlp")(RMSNorm(c, name="pre_mlp_norm")(x_BTD))
        return x_BTD + RMSNorm(c, name="post_mlp_norm")(out), kv


class LayerPair(nn.Module):
    """A local layer and a global one: the unit of the scan."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segment_ids_BT, marks, past_kv):
        new = []
        for i, (name, window) in enumerate(
            [("local", self.config.sliding_window), ("global", None)]
        ):
            past = tuple(
                attention.Keys(k[i], v[i], *mark)
                for (k, v), mark in zip(past_kv, marks, strict=True)
            )
            x_BTD, kv = Layer(self.config, window, name=name)(
                x_BTD, positions_BT, segment_ids_BT, past
            )
            new.append(kv)
        return x_BTD, jax.tree.map(lambda *kv: jnp.stack(kv), *new)


class Transformer(nn.Module):
    """Embedding, scanned layer pairs, final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT, positions_BT, segment_ids_BT, past=()):
        c = self.config
        embedding_VD = _param(self, "embedding", ("vocab", "embed"),
                              (c.vocab_size, c.embed_dim), c.embed_dim**-0.5)  # fmt: skip
        x_BTD = embedding_VD[tokens_BT]
        # The published weights expect the factor in the activation type: 67.88 becomes 68 in bf16.
        x_BTD = x_BTD * jnp.asarray(c.embed_dim**0.5, x_BTD.dtype)

        pair = LayerPair
        if c.remat:
            pair = nn.remat(pair, prevent_cse=False)
        layers = nn.scan(
            pair,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),
            length=c.num_layers // 2,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, name="layers")

        def by_pair(x):
            return x.reshape(c.num_layers // 2, 2, *x.shape[1:])

        past_kv = tuple((by_pair(block.k_LBKTE), by_pair(block.v_LBKTE)) for block in past)
        marks = tuple((block.positions_BT, block.segment_ids_BT) for block in past)
        x_BTD, (k, v) = layers(x_BTD, positions_BT, segment_ids_BT, marks, past_kv)
        k_LBKTE, v_LBKTE = (x.reshape(c.num_layers, *x.shape[2:]) for x in (k, v))
        hidden_BTD = RMSNorm(c, name="final_norm")(x_BTD)
        return hidden_BTD, KVBlock(k_LBKTE, v_LBKTE, positions_BT, segment_ids_BT)


def _boxed_init(config: ModelConfig, key: jax.Array):
    one = jnp.zeros((1, 1), jnp.int32)
    return Transformer(config).init(key, one, one, one)["params"]


def init(config: ModelConfig, key: jax.Array) -> dict:
    """Random parameters: a plain nested dict; arrays of `layers` lead with L / 2 pairs."""
    return nn.unbox(_boxed_init(config, key))


def abstract_params(config: ModelConfig) -> dict:
    """Shapes and dtypes of the parameters, without allocating any."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def logical_axes(config: ModelConfig) -> dict:
    """The parameter tree with a `PartitionSpec` of logical axis names at each leaf."""
    return nn.get_partition_spec(jax.eval_shape(lambda: _boxed_init(config, jax.random.key(0))))


def apply(
    config: ModelConfig,
    params: dict,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array,
    past: tuple[KVBlock, ...] = (),
) -> tuple[jax.Array, KVBlock]:
    """Runs the decoder over some tokens, given blocks of earlier ones.

    A token attends to tokens of its own segment at its own or earlier positions, in `past` and
    among `tokens_BT`. Positions, and so windows and rotations, are absolute.

    Args:
      config: shape of the model.
      params: as made by `init`.
      tokens_BT: int32 token ids.
      positions_BT: int32 absolute positions.
      segment_ids_BT: int32; 0 marks padding.
      past: read-only blocks of earlier tokens; never written here.

    Returns:
      hidden_BTD after the final norm, in `config.dtype`, and the block of the own tokens.
    """
    return Transformer(config).apply(
        {"params": params}, tokens_BT, positions_BT, segment_ids_BT, past
    )
