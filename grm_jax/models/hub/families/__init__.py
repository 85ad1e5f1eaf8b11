"""The families of checkpoints, one file each, and the tensors of a checkpoint of any of them."""

import itertools
from collections.abc import Iterator

from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import names
from grm_jax.models.hub.families import deepseek, gemma2, gemma3, llama, qwen2, qwen3
from grm_jax.models.hub.family import Family
from grm_jax.models.hub.names import Tensor

# The first that fits a shape is what it is written as: the more special ones lead.
FAMILIES = (
    gemma3.GEMMA3,
    gemma2.GEMMA2,
    deepseek.V3,
    deepseek.V2,
    qwen3.QWEN3_MOE,
    qwen3.QWEN3,
    qwen2.QWEN2,
    llama.MISTRAL,
    llama.LLAMA,
)


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
    tensors = [names.single(names.EMBEDDING, vocabulary, ("embedding",))]
    layers = itertools.count()
    for stack in config.stacks:
        for group, member in itertools.product(range(stack.groups), stack.members):
            name = f"model.layers.{next(layers)}."
            tensors += _layer(family, config, name, (stack.name, member), (group,), stack.dense)
    tensors.append(names.single("model.norm.weight", (config.embed_dim,), ("final_norm", "scale")))
    if head:
        tensors.append(names.single(names.SCORE, (1, config.embed_dim), names.HEAD, view=names.row))
    elif not config.tied_embeddings:
        tensors.append(names.single(names.LM_HEAD, vocabulary, ("lm_head",)))
    return tensors


def _layer(family, config, name, root, index, dense) -> Iterator[Tensor]:
    for ours, theirs in family.norms.items():
        if config.post_norms or ours.startswith("pre_"):
            path = (*root, ours, "scale")
            yield names.single(f"{name}{theirs}_layernorm.weight", (config.embed_dim,), path, index)
    yield from family.attention(config, f"{name}self_attn.", (*root, "attention"), index)
    mlp = f"{name}mlp.", (*root, "mlp"), index
    yield from names.gated(config, *mlp, config.ffn_dim) if dense else names.experts(config, *mlp)
