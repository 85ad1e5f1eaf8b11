"""Which tensor of a Hugging Face checkpoint is which slice of our parameters.

A tensor of a file is one layer, or one expert of one layer; our leaves are stacked over both. Each
`Place` has a view of the stored tensor in our layout of axes. Views cost nothing, can be cut before
a byte is read, and serve both directions: reading through one imports, writing through it exports.

Letters: D width, H query heads, K key/value heads, E head width, F feed-forward width, V
vocabulary, X experts, R and Q ranks of the latents of keys/values and of queries.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from grm_jax.models.config import ModelConfig

Path = tuple[str, ...]


class Place(NamedTuple):
    """What a stored tensor, or a part of it, is to us.

    Attributes:
      path: keys of the leaf.
      index: its layer in the stack, and its expert; () for a leaf that is not stacked.
      view: stored tensor -> strided view in our layout, never a copy.
      order: position in the view of each element of our last axis; None where they are the same.
      dtype: type of the leaf; None for `Compute.param_dtype`.
    """

    path: Path
    index: tuple[int, ...]
    view: Callable[[np.ndarray], np.ndarray]
    order: np.ndarray | None = None
    dtype: str | None = None


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


HEAD = ("head", "kernel")  # beside the decoder, not a leaf of its tree
EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
SCORE = "score.weight"


def tensors(config: ModelConfig, *, head: bool = False) -> list[Tensor]:
    """The tensors of a checkpoint of this shape, in the order of the layers.

    Args:
      config: shape of the model.
      head: a scalar reward head instead of output logits: `score.weight` is there and an output
        matrix is not.
    """
    vocabulary = (config.vocab_size, config.embed_dim)
    found = [_one(EMBEDDING, vocabulary, ("embedding",))]
    for layer in range(config.num_layers):
        found += _layer(config, layer)
    found.append(_one("model.norm.weight", (config.embed_dim,), ("final_norm", "scale")))
    if head:
        found.append(_one(SCORE, (1, config.embed_dim), HEAD, view=_row))
    elif not config.tied_embeddings:
        found.append(_one(LM_HEAD, vocabulary, ("lm_head",)))
    return found


def leaves(tensors: Iterable[Tensor]) -> dict[Path, Leaf]:
    """The leaves that the tensors fill, by path."""
    found: dict[Path, Leaf] = {}
    for tensor in tensors:
        # A single byte with strides of zero stands for the tensor; its views have their shapes.
        stand_in = np.broadcast_to(np.int8(0), tensor.shape)
        for place in tensor.places:
            counts = tuple(i + 1 for i in place.index)
            if place.path in found:
                before = found[place.path].shape[: len(counts)]
                counts = tuple(max(pair) for pair in zip(counts, before, strict=True))
            shape = counts + place.view(stand_in).shape
            found[place.path] = Leaf(shape, len(counts), place.dtype)
    return found


def _one(name, shape, path, index=(), view=None, **place) -> Tensor:
    return Tensor(name, shape, (Place(path, index, view or _same, **place),))


def _same(x):
    return x


def _row(x_1D):
    return x_1D[0]


def _transpose(x_OI):
    return x_OI.T


def _heads_out(count):
    """[H E, D] -> [D, H, E]: a projection to heads."""
    return lambda x: x.reshape(count, -1, x.shape[1]).transpose(2, 0, 1)


def _heads_in(count):
    """[D, H E] -> [H, E, D]: a projection from heads."""
    return lambda x: x.reshape(x.shape[0], count, -1).transpose(1, 2, 0)


def _part_of_heads(count, part):
    """[H E, R] -> [R, H, part of E]."""
    return lambda x: x.reshape(count, -1, x.shape[1])[:, part].transpose(2, 0, 1)


def _half_split(before: int, rope_dim: int) -> np.ndarray:
    """Positions of rotary elements, which checkpoints keep in pairs and we in two halves."""
    pairs = before + np.arange(rope_dim)
    return np.concatenate([np.arange(before), pairs[0::2], pairs[1::2]])


def _layer(config: ModelConfig, layer: int) -> Iterator[Tensor]:
    moe, windows = config.moe, config.windows
    first_dense = moe.first_dense if moe else 0
    dense = layer < first_dense or not moe
    if layer < first_dense:
        root, index = ("dense_layers", "layer"), (layer,)
    else:
        group, member = divmod(layer - first_dense, len(windows))
        root, index = ("layers", ("local", "global")[member] if windows[0] else "layer"), (group,)
    name = f"model.layers.{layer}."

    # Without a norm after attention, the one before feed-forward goes by its name.
    norms = {"pre_attention_norm": "input", "pre_mlp_norm": "post_attention"}
    if config.post_norms:
        norms |= {
            "post_attention_norm": "post_attention",
            "pre_mlp_norm": "pre_feedforward",
            "post_mlp_norm": "post_feedforward",
        }
    for ours, theirs in norms.items():
        path = (*root, ours, "scale")
        yield _one(f"{name}{theirs}_layernorm.weight", (config.embed_dim,), path, index)
    attention = _latent_attention if config.mla else _attention
    yield from attention(config, f"{name}self_attn.", (*root, "attention"), index)
    mlp = (*root, "mlp")
    if dense:
        yield from _gated(config, f"{name}mlp.", config.ffn_dim, mlp, index)
    else:
        yield from _experts(config, f"{name}mlp.", mlp, index)


def _attention(config, name, root, index):
    width = config.embed_dim
    for leaf, count in (("q", config.num_heads), ("k", config.num_kv_heads),
                        ("v", config.num_kv_heads)):  # fmt: skip
        shape = (count * config.head_dim, width)
        yield _one(f"{name}{leaf}_proj.weight", shape, (*root, leaf), index, _heads_out(count))
    yield _one(f"{name}o_proj.weight", (width, config.num_heads * config.head_dim),
               (*root, "o"), index, _heads_in(config.num_heads))  # fmt: skip


def _latent_attention(config, name, root, index):
    mla, width, count = config.mla, config.embed_dim, config.num_heads
    head, rank = mla.nope_dim + mla.rope_dim, mla.kv_rank
    queries = {"view": _heads_out(count), "order": _half_split(mla.nope_dim, mla.rope_dim)}
    if mla.query_rank is None:
        yield _one(f"{name}q_proj.weight", (count * head, width), (*root, "q"), index, **queries)
    else:
        yield _one(f"{name}q_a_proj.weight", (mla.query_rank, width), (*root, "q_a"), index,
                   _transpose)  # fmt: skip
        yield _one(f"{name}q_a_layernorm.weight", (mla.query_rank,),
                   (*root, "q_a_norm", "scale"), index)  # fmt: skip
        yield _one(f"{name}q_b_proj.weight", (count * head, mla.query_rank), (*root, "q_b"),
                   index, **queries)  # fmt: skip
    yield _one(f"{name}kv_a_proj_with_mqa.weight", (rank + mla.rope_dim, width),
               (*root, "kv_a"), index, _transpose,
               order=_half_split(rank, mla.rope_dim))  # fmt: skip
    yield _one(f"{name}kv_a_layernorm.weight", (rank,), (*root, "kv_a_norm", "scale"), index)
    # Each head's keys are followed by its values.
    keys = _part_of_heads(count, slice(None, mla.nope_dim))
    values = _part_of_heads(count, slice(mla.nope_dim, None))
    yield Tensor(
        f"{name}kv_b_proj.weight",
        (count * (mla.nope_dim + mla.value_dim), rank),
        (Place((*root, "k_b"), index, keys), Place((*root, "v_b"), index, values)),
    )
    yield _one(f"{name}o_proj.weight", (width, count * mla.value_dim), (*root, "o"), index,
               _heads_in(count))  # fmt: skip


def _gated(config, name, hidden, root, index):
    for leaf in ("gate", "up", "down"):
        shape = (hidden, config.embed_dim)
        yield _one(f"{name}{leaf}_proj.weight", shape[::-1] if leaf == "down" else shape,
                   (*root, leaf), index, _transpose)  # fmt: skip


def _experts(config, name, root, index):
    moe = config.moe
    yield _one(f"{name}gate.weight", (moe.num_experts, config.embed_dim), (*root, "router"),
               index, _transpose)  # fmt: skip
    if moe.selection_bias:
        yield _one(f"{name}gate.e_score_correction_bias", (moe.num_experts,),
                   (*root, "router_bias"), index, dtype="float32")  # fmt: skip
    for expert in range(moe.num_experts):
        yield from _gated(config, f"{name}experts.{expert}.", moe.expert_dim, root,
                          (*index, expert))  # fmt: skip
    if moe.shared_dim:
        yield from _gated(config, f"{name}shared_experts.", moe.shared_dim, (*root, "shared"),
                          index)  # fmt: skip
