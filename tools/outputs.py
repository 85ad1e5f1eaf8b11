"""Outputs of a checkpoint for given tokens, for the tools that compare it with others."""

import functools
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
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    arguments = (jnp.asarray(x, jnp.int32) for x in (tokens, positions, real))
    forward = _forward(checkpoint.head is not None)
    return np.asarray(forward(checkpoint.config, *checkpoint[1:], *arguments))


@functools.cache
def _forward(reward: bool):
    def run(config, params, head, tokens, *marks):
        hidden, _ = transformer.apply(config, params, tokens, *marks)
        if not reward:
            return heads.logits(config, params, hidden)
        return heads.scalar_apply(head, hidden.reshape(-1, config.embed_dim)).reshape(
            *tokens.shape, 1
        )

    return jax.jit(run, static_argnums=0, compiler_options=_products())


def _products() -> dict[str, str]:
    """Options under which float32 products on a CPU err as little as those of PyTorch.

    XLA's own choice, YNNPACK, errs about twice as much: on Gemma-3-270m and random tokens 7.0e-4 of
    a logit from float64, and 3.7e-4 without it; PyTorch errs by 2.0e-4.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # another version, or device, has no such option
        return {}
    return options


def greedy(
    checkpoint: hub.Checkpoint,
    prompts: Sequence[Sequence[int]],
    length: int,
    tokenizer: Tokenizer | None = None,
) -> list[Completion]:
    """The likeliest tokens after each prompt, by the engine that draws everything else.

    Args:
      checkpoint: a language model.
      prompts: token ids.
      length: the most tokens.
      tokenizer: its stop ids end a completion; without it every completion has `length` tokens.
    """
    buckets = Buckets((max(map(len, prompts)),), (length,), (1,), len(prompts))
    stop_ids, pad_id = ((), 0) if tokenizer is None else (tokenizer.stop_ids, tokenizer.pad_id)
    engine = JittedEngine(checkpoint.config, buckets, stop_ids=stop_ids, pad_id=pad_id)
    requests = [Request(Prompt(f"{i}", (0,), tuple(ids)), (0,)) for i, ids in enumerate(prompts)]
    (unit,) = plan_units(requests, buckets, max_new_tokens=length)
    config = DrawConfig(k=1, temperature=0.0, max_new_tokens=length)
    return list(engine.run(checkpoint.params, unit, config, jax.random.key(0)))
