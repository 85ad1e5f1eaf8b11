"""What a checkpoint computes for given tokens, for the tools that compare it with others."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np

from grm_jax.models import heads, hub, transformer


def load(folder: pathlib.Path, dtype: str) -> hub.Checkpoint:
    """A checkpoint with parameters and activations of one type."""
    checkpoint = hub.load(folder, param_dtype=dtype)
    return checkpoint._replace(config=dataclasses.replace(checkpoint.config, dtype=dtype))


def outputs(checkpoint: hub.Checkpoint, tokens, real) -> np.ndarray:
    """Logits [B, T, V], or rewards of every position [B, T, 1]; float32.

    Args:
      checkpoint: a language model, or a reward model.
      tokens: token ids [B, T].
      real: which of them are no padding, [B, T].
    """
    config, params, head = checkpoint
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    arguments = (jnp.asarray(x, jnp.int32) for x in (tokens, positions, real))
    hidden, _ = transformer.apply(config, params, *arguments)
    if head is None:
        return np.asarray(heads.logits(config, params, hidden))
    return np.asarray(heads.scalar_apply(head, hidden.reshape(-1, config.embed_dim))).reshape(
        *tokens.shape, 1
    )
