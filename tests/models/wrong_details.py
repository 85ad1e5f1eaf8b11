"""Mistakes made on purpose, for tests that must notice them. Needs no PyTorch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.models import attention, layers, transformer


def rope_in_pairs(config, params):
    """Projections whose rotary elements come in neighbouring pairs instead of in two halves."""
    width = config.mla.rope_dim if config.mla else config.head_dim
    rotated = {"q_b", "q", "kv_a"} if config.mla else {"q", "k"}
    rotated |= {"q_bias", "k_bias", "q_norm", "k_norm"}
    halves = np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])

    def reorder(path, x):
        if rotated.isdisjoint(part.key for part in path):
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


def zeroed(params, name):
    """Parameters whose leaves of this name are zero."""
    return jax.tree.map_with_path(lambda path, x: x * (path[-1].key != name), params)


def without_norm(monkeypatch, *names, modules=(layers,)):
    """Leaves norms of these names out, where the modules use them."""

    class Missing(layers.RMSNorm):
        @nn.nowrap
        def __call__(self, x):
            return x if self.name in names else super().__call__(x)

    for module in modules:
        monkeypatch.setattr(module, "RMSNorm", Missing)


def norms_after_rope(monkeypatch):
    """Queries and keys are rotated first and normed then."""
    waiting = []  # weights of the norms of queries, then of keys, until these are rotated

    class Late(layers.RMSNorm):
        @nn.nowrap
        def __call__(self, x):
            if self.name not in ("q_norm", "k_norm"):
                return super().__call__(x)
            waiting.append(super().__call__(jnp.ones_like(x)))
            # A rotation keeps the length of a vector.
            return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))

    right = attention.rope
    monkeypatch.setattr(layers, "RMSNorm", Late)
    monkeypatch.setattr(attention, "rope", lambda *args: right(*args) * waiting.pop(0))


def norms_after_blocks(monkeypatch, params):
    """The norms before attention and feed-forward stand after them; for `post_norms`."""
    without_norm(monkeypatch, "pre_attention_norm", "pre_mlp_norm", modules=(transformer,))

    def moved(node):
        if not isinstance(node, dict):
            return node
        return {name.replace("pre_", "post_"): moved(child) for name, child in node.items()}

    return moved(params)
