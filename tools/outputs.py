"""Outputs of a checkpoint for given tokens, for the tools that compare it with others."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.models import heads, hub, transformer
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import Completion, JittedEngine
from grm_jax.sampling.prompt import Prompt
from grm_jax.sampling.scheduler import Buckets, Request, plan_units
from grm_jax.text.tokenizers import Tokenizer


def load(folder: pathlib.Path, dtype: str) -> hub.Checkpoint:
    """A checkpoint with parameters and activations of one type."""
    checkpoint = hub.load(folder, param_dtype=dtype)
    return checkpoint._replace(config=checkpoint.config.replace(dtype=dtype))


def outputs(checkpoint: hub.Checkpoint, tokens, real) -> np.ndarray:
    """Logits [B, T, V], or rewards of every position [B, T, 1]; float32.

    Args:
      checkpoint: a language model, or a reward model.
      tokens: token ids [B, T].
      real: which of them are no padding, [B, T].
    """
    config, params, head = checkpoint

    @jax.jit
    def forward(params, head, *arguments):
        hidden, _ = transformer.apply(config, params, *arguments)
        if head is None:
            return heads.logits(config, params, hidden)
        return heads.scalar_apply(head, hidden.reshape(-1, config.embed_dim))

    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    arguments = (jnp.asarray(x, jnp.int32) for x in (tokens, positions, real))
    return np.asarray(forward(params, head, *arguments)).reshape(*tokens.shape, -1)


def greedy(
    checkpoint: hub.Checkpoint, tokenizer: Tokenizer, ids: Sequence[int], length: int
) -> Completion:
    """The likeliest tokens after a prompt, by the engine that draws everything else."""
    buckets = Buckets((len(ids),), (length,), (1,), 1)
    engine = JittedEngine(
        checkpoint.config, buckets, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id
    )
    request = Request(Prompt("greedy", (0,), tuple(ids)), (0,))
    (unit,) = plan_units([request], buckets, max_new_tokens=length)
    config = DrawConfig(k=1, temperature=0.0, max_new_tokens=length)
    (completion,) = engine.run(checkpoint.params, unit, config, jax.random.key(0))
    return completion
