"""The families of checkpoints, one file each, and the tensors of a checkpoint of any of them."""

from collections.abc import Iterator

from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import names
from grm_jax.models.hub.families import deepseek, gemma2
from grm_jax.models.hub.family import Family
from grm_jax.models.hub.names import Tensor

FAMILIES = (gemma2.GEMMA2, deepseek.V3, deepseek.V2)


def of(config: ModelConfig) -> Family:
    """The family as which a shape is written, whether or not all of it can be."""
    return next(family for family in FAMILIES if family.fits(config))


def tensors(config: ModelConfig, *, head: bool = False) -> list[Tensor]:
    """The tensors of a checkpoint of this shape, in the order of the layers.

    Args:
      config: shape of the model.
      head: a scalar reward head instead of output logits: `score.weight` is there and an output
        matrix is not.
    """
    family, vocabulary = of(config), (config.vocab_size, config.embed_dim)
    found = [names.one(names.EMBEDDING, vocabulary, ("embedding",))]
    for layer in range(config.num_layers):
        found += _layer(family, config, layer)
    found.append(names.one("model.norm.weight", (config.embed_dim,), ("final_norm", "scale")))
    if head:
        found.append(names.one(names.SCORE, (1, config.embed_dim), names.HEAD, view=names.row))
    elif not config.tied_embeddings:
        found.append(names.one(names.LM_HEAD, vocabulary, ("lm_head",)))
    return found


def _layer(family: Family, config: ModelConfig, layer: int) -> Iterator[Tensor]:
    moe, windows = config.moe, config.windows
    first_dense = moe.first_dense if moe else 0
    if layer < first_dense:
        root, index = ("dense_layers", "layer"), (layer,)
    else:
        group, member = divmod(layer - first_dense, len(windows))
        root, index = ("layers", ("local", "global")[member] if windows[0] else "layer"), (group,)
    name = f"model.layers.{layer}."
    for ours, theirs in family.norms.items():
        if config.post_norms or ours.startswith("pre_"):
            path = (*root, ours, "scale")
            yield names.one(f"{name}{theirs}_layernorm.weight", (config.embed_dim,), path, index)
    yield from family.attention(config, f"{name}self_attn.", (*root, "attention"), index)
    mlp = (*root, "mlp")
    if moe and layer >= first_dense:
        yield from names.experts(config, f"{name}mlp.", mlp, index)
    else:
        yield from names.gated(config, f"{name}mlp.", config.ffn_dim, mlp, index)
