"""The decoder of every family: one apply for training, log-probs, prefill and decode.

Past keys and values are explicit, read-only arguments. The caller owns the cache: it writes the
returned block of the new tokens to a place of its choice, outside of any vmap.

Letters: B batch, T tokens, D width, H query heads, K key/value heads, E head width, F
feed-forward width, L layers, V vocabulary.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from grm_jax.models.attention import Keys
from grm_jax.models.config import ModelConfig, Stack
from grm_jax.models.layers import (
    Attention,
    FeedForward,
    LatentAttention,
    RMSNorm,
    constrain,
    parameter,
)
from grm_jax.models.moe import Experts
from grm_jax.parallel import sharding

# Arrays kept for the backward pass. Products without a batch axis are products with weights.
_REMAT_POLICIES = {
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class KVBlock(NamedTuple):
    """Keys and values of all layers for a run of tokens."""

    k_LBKTE: jax.Array  # rotated keys; in latent attention the latents, then the rotated shared key
    v_LBKTE: jax.Array  # values; of width 0 in latent attention, whose latents are the values
    positions_BT: jax.Array  # int32 absolute positions
    segment_ids_BT: jax.Array  # int32; 0 marks an empty slot, which nobody attends to


class Layer(nn.Module):
    """Attention and feed-forward, each after a pre-norm and, in Gemma, before a post-norm."""

    config: ModelConfig
    window: int | None
    dense: bool

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segment_ids_BT, past):
        c = self.config
        attention_class = Attention if c.mla is None else LatentAttention
        out, kv = attention_class(c, self.window, name="attention")(
            RMSNorm(c, name="pre_attention_norm")(x_BTD), positions_BT, segment_ids_BT, past
        )
        x_BTD += RMSNorm(c, name="post_attention_norm")(out) if c.post_norms else out
        mlp = FeedForward(c, c.ffn_dim, name="mlp") if self.dense else Experts(c, name="mlp")
        out = mlp(RMSNorm(c, name="pre_mlp_norm")(x_BTD))
        return x_BTD + (RMSNorm(c, name="post_mlp_norm")(out) if c.post_norms else out), kv


class LayerGroup(nn.Module):
    """The unit of the scan: local layers and a global one, or a single layer."""

    config: ModelConfig
    stack: Stack

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segment_ids_BT, marks, past_kv):
        new = []
        members = zip(self.stack.members, self.stack.windows, strict=True)
        for i, (name, window) in enumerate(members):
            past = tuple(
                Keys(k[i], v[i], *mark) for (k, v), mark in zip(past_kv, marks, strict=True)
            )
            x_BTD, kv = Layer(self.config, window, self.stack.dense, name=name)(
                x_BTD, positions_BT, segment_ids_BT, past
            )
            new.append(kv)
        return x_BTD, jax.tree.map(lambda *kv: jnp.stack(kv), *new)


class Transformer(nn.Module):
    """Embedding, scanned groups of layers, final norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT, positions_BT, segment_ids_BT, past=()):
        c = self.config
        scale, sizes = c.embed_dim**-0.5, {"vocab": c.vocab_size, "embed": c.embed_dim}
        embedding_VD = parameter(self, "embedding", scale, **sizes)
        if not c.tied_embeddings and self.is_initializing():  # only `heads.logits` reads it
            parameter(self, "lm_head", scale, **sizes)
        x_BTD = constrain(self, embedding_VD[tokens_BT], "batch", None, None)
        if c.scale_embeddings:
            # The published weights expect the factor in the activation type: 67.88 is 68 in bf16.
            x_BTD = x_BTD * jnp.asarray(c.embed_dim**0.5, x_BTD.dtype)

        past_kv = tuple((block.k_LBKTE, block.v_LBKTE) for block in past)
        marks = tuple((block.positions_BT, block.segment_ids_BT) for block in past)
        new = []
        for stack in c.stacks:
            group = LayerGroup
            if c.compute.remat != "none":
                policy = _REMAT_POLICIES[c.compute.remat]
                group = nn.remat(LayerGroup, prevent_cse=False, policy=policy)
            scanned = nn.scan(
                group,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),
                length=stack.groups,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(c, stack, name=stack.name)
            # Cut before the reshape: XLA then sees a cut through a concatenation of stacks, which
            # the sampler's cache is, and copies nothing.
            own_past = [[x[stack.first : stack.last] for x in block] for block in past_kv]
            groups = (stack.groups, len(stack.members))
            own_past = jax.tree.map(
                lambda x, groups=groups: x.reshape(*groups, *x.shape[1:]), own_past
            )
            x_BTD, kv = scanned(x_BTD, positions_BT, segment_ids_BT, marks, own_past)
            new.append(kv)
        k_LBKTE, v_LBKTE = (
            jnp.concatenate([x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for x in parts])
            for parts in zip(*new, strict=True)
        )
        hidden_BTD = RMSNorm(c, name="final_norm")(x_BTD)
        return hidden_BTD, KVBlock(k_LBKTE, v_LBKTE, positions_BT, segment_ids_BT)


def _boxed_init(config: ModelConfig, key: jax.Array):
    token = jnp.zeros((1, 1), jnp.int32)
    return Transformer(config).init(key, token, token, token)["params"]


def init(config: ModelConfig, key: jax.Array) -> dict:
    """Random parameters: a plain nested dict; arrays of layers lead with their groups."""
    return nn.unbox(_boxed_init(config, key))


@functools.lru_cache
def abstract_params(config: ModelConfig) -> dict:
    """Shapes and dtypes of the parameters, without allocating any."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


@functools.lru_cache
def logical_axes(config: ModelConfig) -> dict:
    """The parameter tree with a `PartitionSpec` of logical axis names at each leaf."""
    return nn.get_partition_spec(jax.eval_shape(lambda: _boxed_init(config, jax.random.key(0))))


def param_shardings(config: ModelConfig, mesh: jax.sharding.Mesh) -> dict:
    """The parameter tree with a `NamedSharding` at each leaf, by the rules of the config.

    Raises:
      ValueError: naming the parameter, as `parallel.sharding.spec`.
    """
    rules = config.compute.rules
    return sharding.shardings(mesh, rules, logical_axes(config), abstract_params(config))


def frozen_dtypes(config: ModelConfig) -> dict:
    """Types of parameters that are not trained, with results that are equal bit for bit.

    Kernels and tables are cast to the type of the activations wherever they are used. Casting them
    once instead halves the bytes of float32 parameters that a rollout or a reference reads. Scales
    of norms and routers are used in float32 and keep their type.
    """

    def dtype_of(path, leaf):
        kept = path[-1].key in ("scale", "router", "router_bias")
        return leaf.dtype if kept else jnp.dtype(config.compute.dtype)

    return jax.tree.map_with_path(dtype_of, abstract_params(config))


def constrain_params(config: ModelConfig, tree: dict) -> dict:
    """Fixes how all or some parameters, or gradients, are split over a mesh, if there is one."""
    if sharding.current_mesh() is None:
        return tree
    names = dict(jax.tree_util.tree_leaves_with_path(
        logical_axes(config), is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    ))  # fmt: skip
    return jax.tree_util.tree_map_with_path(
        lambda path, x: sharding.constrain(
            config.compute.rules, x, names[path], "/".join(part.key for part in path)
        ),
        tree,
    )


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
      hidden_BTD after the final norm, in `config.compute.dtype`, and the block of these tokens.
    """
    if config.compute.param_dtype != config.compute.dtype:
        # Cast before parameters are gathered from other devices, which halves the traffic.
        dtypes = frozen_dtypes(config)
        cast = jax.tree.map(lambda x, dtype: x.astype(dtype), params, dtypes)
        params = constrain_params(config, cast)
    return Transformer(config).apply(
        {"params": params}, tokens_BT, positions_BT, segment_ids_BT, past
    )
