"""Mistakes made on purpose, for tests that must notice them. Needs no PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np


def rope_in_pairs(config, params):
    """Projections whose rotary elements come in neighbouring pairs instead of in two halves."""
    width = config.mla.rope_dim if config.mla else config.head_dim
    rotated = ("q_b", "q", "kv_a") if config.mla else ("q", "k")
    halves = np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])

    def reorder(path, x):
        if path[-1].key not in rotated:
            return x
        return x.at[..., -width:].set(x[..., -width:][..., np.argsort(halves)])

    return jax.tree.map_with_path(reorder, params)


def all_keys_before_all_values(params):
    """The matrix that makes both from the latents, cut once for all heads, not in each head."""

    def cut(node):
        if not isinstance(node, dict):
            return node
        if "k_b" not in node:
            return {name: cut(child) for name, child in node.items()}
        k, v = node["k_b"], node["v_b"]
        flat = jnp.concatenate([k, v], axis=-1).reshape(*k.shape[:-2], -1)
        middle = k.shape[-2] * k.shape[-1]
        return node | {
            "k_b": flat[..., :middle].reshape(k.shape),
            "v_b": flat[..., middle:].reshape(v.shape),
        }

    return cut(params)
