"""Low-rank adapters (LoRA, arXiv 2106.09685): beside a frozen base, apart from it, merged into it.

A model with `config.lora` has two float32 parameters, A and B, next to each adapted kernel of its
tree. `split` takes the tree apart into the base, as a model without adapters has it, and the
adapters, which alone are trained; `join` puts it together again without copying an array. So policy
and reference share one base: the reference is the base under `strip(config)`.

Adapters exist while a stage trains. What it leaves is `merge`d, an ordinary model.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from grm_jax.models import transformer
from grm_jax.models.config import ModelConfig
from grm_jax.models.layers import LORA_A, LORA_B


def strip(config: ModelConfig) -> ModelConfig:
    """The same model without adapters."""
    return dataclasses.replace(config, lora=None)


def split(params: dict) -> tuple[dict, dict]:
    """The base and the adapters, each at its places in the tree; {} where there are none."""
    base, adapters = {}, {}
    for name, value in params.items():
        if isinstance(value, dict):
            parts = split(value)
        else:
            parts = ({}, value) if name.endswith((LORA_A, LORA_B)) else (value, {})
        for part, side in zip(parts, (base, adapters), strict=True):
            if not (isinstance(part, dict) and not part):
                side[name] = part
    return base, adapters


def join(base: dict, adapters: dict) -> dict:
    """One tree of two that share no leaf; arrays are not copied, and `join({}, x)` is x.

    Raises:
      ValueError: for a leaf that both have.
    """
    if not base or not adapters:
        return base or adapters
    joined = {**base, **adapters}
    for name in base:
        if name not in adapters:
            continue
        if not (isinstance(base[name], dict) and isinstance(adapters[name], dict)):
            raise ValueError(f"lora.join: {name} is in both trees")
        joined[name] = join(base[name], adapters[name])
    return joined


@functools.partial(jax.jit, static_argnums=0)
def init_adapters(config: ModelConfig, key: jax.Array) -> dict:
    """Fresh adapters, which change nothing yet, for a base that came from elsewhere."""
    # Compiled, so that the random base beside them is never made.
    return split(transformer.init(config, key))[1]


def start(
    config: ModelConfig, params: dict, key: jax.Array, mesh: jax.sharding.Mesh
) -> tuple[dict, dict]:
    """What a stage that starts from `params` keeps frozen, and what it trains.

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
    merged = {}
    for name, value in params.items():
        if isinstance(value, dict):
            merged[name] = merge(config, value)
        elif name + LORA_A in params:
            a, b = params[name + LORA_A], params[name + LORA_B]
            merged[name] = _add_product(value, a, b, config.lora.scale)
        elif not name.endswith((LORA_A, LORA_B)):
            merged[name] = value
    return merged


@functools.partial(jax.jit, static_argnums=3)
def _add_product(weight, a, b, scale):
    """All kernels lead with their layers, and one layer at a time is there in float32."""

    def one(layer):
        weight, a, b = layer
        product = jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
        return (weight.astype(jnp.float32) + scale * product).astype(weight.dtype)

    return jax.lax.map(one, (weight, a, b))
