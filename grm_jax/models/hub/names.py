"""Which tensor of a Hugging Face checkpoint is which slice of our parameters.

A tensor of a file is one layer, or one expert of one layer; our leaves are stacked over both. Each
`Place` has a view of the stored tensor in our layout of axes. Views cost nothing, can be cut before
a byte is read, and serve both directions: reading through one imports, writing through it exports.

Letters: D width, H query heads, K key/value heads, E head width, F feed-forward width, V
vocabulary, X experts.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from grm_jax.models.config import ModelConfig

Path = tuple[str, ...]


class Place(NamedTuple):
    """A slice of one of our leaves that is a stored tensor, or a part of it."""

    path: Path  # keys of the leaf
    # its layer in the stack, and its expert; () for a leaf that is not stacked
    index: tuple[int, ...]
    # stored tensor -> strided view in our layout, never a copy
    view: Callable[[np.ndarray], np.ndarray]
    # position in the view of each element of our last axis; None where they are the same
    order: np.ndarray | None = None
    dtype: str | None = None  # type of the leaf; None for `Compute.param_dtype`


class Tensor(NamedTuple):
    """A tensor of a checkpoint: its name and shape in files, and its places in our tree."""

    name: str
    shape: tuple[int, ...]
    places: tuple[Place, ...]


class Leaf(NamedTuple):
    """A leaf of our tree: whole shape, leading axes that are stacked, dtype as in `Place`."""

    shape: tuple[int, ...]
    stacked: int
    dtype: str | None


HEAD = ("head", "kernel")  # next to the decoder, not a leaf of its tree
EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
SCORE = "score.weight"


def leaves(tensors: Iterable[Tensor]) -> dict[Path, Leaf]:
    """The leaves that the tensors fill, by path."""
    by_path: dict[Path, Leaf] = {}
    for tensor in tensors:
        # A single byte with strides of zero stands for the tensor; its views have their shapes.
        stand_in = np.broadcast_to(np.int8(0), tensor.shape)
        for place in tensor.places:
            counts = tuple(i + 1 for i in place.index)
            if place.path in by_path:
                before = by_path[place.path].shape[: len(counts)]
                counts = tuple(max(pair) for pair in zip(counts, before, strict=True))
            shape = counts + place.view(stand_in).shape
            by_path[place.path] = Leaf(shape, len(counts), place.dtype)
    return by_path


def single(name, shape, path, index=(), view=None, **place) -> Tensor:
    """A tensor with a single place; without a view it is stored as we have it."""
    return Tensor(name, shape, (Place(path, index, view or (lambda x: x), **place),))


def row(x_1D):
    """[1, D] -> [D]: the single row of a head."""
    return x_1D[0]


def transpose(x_OI):
    """[O, I] -> [I, O]: a projection."""
    return x_OI.T


def heads_out(count):
    """[H E, D] -> [D, H, E]: a projection to heads."""
    return lambda x: x.reshape(count, -1, x.shape[1]).transpose(2, 0, 1)


def by_head(count):
    """[H E] -> [H, E]: a bias of a projection to heads."""
    return lambda x: x.reshape(count, -1)


def heads_in(count):
    """[D, H E] -> [H, E, D]: a projection from heads."""
    return lambda x: x.reshape(x.shape[0], count, -1).transpose(1, 2, 0)


# Parts of a layer: `name` is the prefix of their names, such as "model.layers.3.mlp.", `root` the
# path of their leaves, and `index` the place of the layer in its stack.


def attention(config: ModelConfig, name, root, index) -> Iterator[Tensor]:
    """Grouped-query attention, with the norms and biases that the shape has."""
    width = config.embed_dim
    for leaf, count in (("q", config.num_heads), ("k", config.num_kv_heads),
                        ("v", config.num_kv_heads)):  # fmt: skip
        shape = (count * config.head_dim, width)
        yield single(f"{name}{leaf}_proj.weight", shape, (*root, leaf), index, heads_out(count))
        if config.qkv_bias:
            path = (*root, f"{leaf}_bias")
            yield single(f"{name}{leaf}_proj.bias", shape[:1], path, index, by_head(count))
    for leaf in ("q_norm", "k_norm") if config.qk_norm else ():
        yield single(f"{name}{leaf}.weight", (config.head_dim,), (*root, leaf, "scale"), index)
    yield single(f"{name}o_proj.weight", (width, config.num_heads * config.head_dim),
              (*root, "o"), index, heads_in(config.num_heads))  # fmt: skip


def gated(config: ModelConfig, name, root, index, hidden) -> Iterator[Tensor]:
    """A gated feed-forward layer."""
    for leaf in ("gate", "up", "down"):
        shape = (hidden, config.embed_dim)
        yield single(f"{name}{leaf}_proj.weight", shape[::-1] if leaf == "down" else shape,
                  (*root, leaf), index, transpose)  # fmt: skip


def experts(config: ModelConfig, name, root, index) -> Iterator[Tensor]:
    """The router, routed experts and shared ones."""
    moe = config.moe
    yield single(f"{name}gate.weight", (moe.num_experts, config.embed_dim), (*root, "router"),
              index, transpose)  # fmt: skip
    if moe.selection_bias:
        yield single(f"{name}gate.e_score_correction_bias", (moe.num_experts,),
                  (*root, "router_bias"), index, dtype="float32")  # fmt: skip
    for expert in range(moe.num_experts):
        place = f"{name}experts.{expert}.", root, (*index, expert)
        yield from gated(config, *place, moe.expert_dim)
    if moe.shared_dim:
        place = f"{name}shared_experts.", (*root, "shared"), index
        yield from gated(config, *place, moe.shared_dim)
