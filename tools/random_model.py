"""A model of a published shape with random weights, for the benches, and the flags that choose it.

Needs no checkpoint, tokenizer, config file or data.
"""

import argparse

import jax
import numpy as np

from grm_jax.models import transformer
from grm_jax.models.config import ModelConfig
from grm_jax.models.variants import VARIANTS

DTYPES = ("float32", "bfloat16")
_POOL = 1_000_003  # a prime, so that no two rows of a matrix are alike


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the shape. What is not given is as in the variant."""
    parser.add_argument("--variant", default="gemma2_48m", choices=sorted(VARIANTS))
    parser.add_argument("--layers", type=int, help="cut to this depth")
    parser.add_argument("--dtype", choices=DTYPES, help="of activations and caches")
    parser.add_argument("--param_dtype", choices=DTYPES, help="of weights")


def from_flags(parser: argparse.ArgumentParser, args: argparse.Namespace, **fields) -> ModelConfig:
    """The config of the flags and of further fields; an impossible one ends the program."""
    chosen = {"num_layers": args.layers, "dtype": args.dtype, "param_dtype": args.param_dtype}
    fields |= {name: value for name, value in chosen.items() if value is not None}
    try:
        return VARIANTS[args.variant].replace(**fields)
    except ValueError as error:
        parser.error(str(error))


def random_params(config: ModelConfig, mesh: jax.sharding.Mesh | None = None) -> dict:
    """Parameters of the shapes and sizes that `init` gives them, without compiling anything.

    Values repeat after a million, which no time depends on; so there is no wait for billions of
    random numbers, and the host holds one array at a time. No mesh is the default device.
    """
    pool = np.random.default_rng(0).standard_normal(_POOL, np.float32) * config.embed_dim**-0.5
    neutral = 0.0 if config.unit_offset_norms else 1.0  # of the scale of a norm

    def fill(path, leaf, place=None):
        if path[-1].key == "scale":
            values = np.full(leaf.shape, neutral, leaf.dtype)
        else:
            values = np.resize(pool.astype(leaf.dtype), leaf.shape)
        return jax.device_put(values, place)

    trees = [transformer.abstract_params(config)]
    if mesh is not None:
        trees.append(transformer.param_shardings(config, mesh))
    return jax.tree_util.tree_map_with_path(fill, *trees)


def nbytes(tree) -> int:
    """Bytes of all arrays of a tree, or of their shapes."""
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
