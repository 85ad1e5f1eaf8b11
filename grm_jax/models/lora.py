"""Low-rank adapters (LoRA, arXiv 2106.09685) of a frozen base: split, joined, and merged.

A model with `config.lora` has two float32 parameters, A and B, next to each adapted kernel of its
tree. `split` takes the tree apart into the base, as a model without adapters has it, and the
adapters, which alone are trained; `join` puts it together again without copying an array. So policy
and reference share one base: the reference is the base under `strip(config)`.

Adapters exist while a stage trains. At its end they are `merge`d into an ordinary model.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from grm_jax.models import transformer
from grm_jax.models.config import ModelConfig
from grm_jax.models.layers import LORA_A, LORA_B


def strip(config: ModelConfig) -> ModelConfig:
    """The same model without adapters."""
    return dataclasses.replace(config, lora=None)


def split(params: dict) -> tuple[dict, dict]:
    """The base and the adapters, each at its places in the tree; {} where there are none."""
    base, adapters = {}, {}
    for path, leaf in flatten_dict(params).items():
        (adapters if path[-1].endswith((LORA_A, LORA_B)) else base)[path] = leaf
    return unflatten_dict(base), unflatten_dict(adapters)


def join(base: dict, adapters: dict) -> dict:
    """One tree of two that share no leaf; arrays are not copied, and `join({}, x)` is x.

    Raises:
      ValueError: for a leaf that both have.
    """
    if not base or not adapters:
        return base or adapters
    leaves, others = flatten_dict(base), flatten_dict(adapters)
    if common := sorted(leaves.keys() & others.keys()):
        raise ValueError(f"lora.join: {'/'.join(common[0])} is in both trees")
    return unflatten_dict(leaves | others)


@functools.partial(jax.jit, static_argnums=0)
def init_adapters(config: ModelConfig, key: jax.Array) -> dict:
    """Fresh adapters, which change nothing yet, for a base that came from elsewhere."""
    # Compiled, so that the random base next to them is never made.
    return split(transformer.init(config, key))[1]


def start(
    config: ModelConfig, params: dict, key: jax.Array, mesh: jax.sharding.Mesh
) -> tuple[dict, dict]:
    """The frozen and the trained parameters of a stage that starts from `params`.

    Returns:
      (params, fresh adapters on the mesh); without `config.lora` ({}, params).
    """
    if config.lora is None:
        return {}, params
    shardings = split(transformer.param_shardings(config, mesh))[1]
    init = jax.jit(functools.partial(init_adapters, config), out_shardings=shardings)
    return params, init(key)


def merge(config: ModelConfig, params: dict) -> dict:
    """W + scale A B in place of each adapted kernel, computed in float32, in the kernel's type.

    Args:
      config: with `lora`; without, the parameters are returned as they are.
      params: of a decoder, or a tree with a decoder in it; kernels that are not adapted are not
        copied.
    """
    if config.lora is None:
        return params
    leaves, merged = flatten_dict(params), {}
    for (*path, name), leaf in leaves.items():
        a, b = (leaves.get((*path, name + suffix)) for suffix in (LORA_A, LORA_B))
        if not name.endswith((LORA_A, LORA_B)):
            merged[*path, name] = leaf if a is None else _add_product(leaf, a, b, config.lora.scale)
    return unflatten_dict(merged)


@functools.partial(jax.jit, static_argnums=3)
def _add_product(weight, a, b, scale):
    """Kernels lead with their layers; only one layer at a time is held in float32."""

    def merge_layer(layer):
        weight, a, b = layer
        product = jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
        return (weight.astype(jnp.float32) + scale * product).astype(weight.dtype)

    return jax.lax.map(merge_layer, (weight, a, b))
