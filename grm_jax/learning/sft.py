"""Supervised fine-tuning: cross-entropy on answer tokens of packed rows."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from grm_jax.learning.state import TrainState, gradient_step
from grm_jax.models import heads, lora, transformer
from grm_jax.models.config import ModelConfig


def loss_fn(model_config: ModelConfig, params: dict, batch: dict) -> tuple[jax.Array, dict]:
    """Weighted sum of token cross-entropies; weights carry the normaliser of the global batch.

    Args:
      model_config: shape of the decoder.
      params: decoder parameters.
      batch: [B, T] arrays tokens, targets, weights, positions, segment_ids.

    Returns:
      The loss in nats and metrics, all sums over rows.
    """
    hidden_BTD, _ = transformer.apply(
        model_config, params, batch["tokens"], batch["positions"], batch["segment_ids"]
    )
    logprobs_BT, entropy_BT = heads.token_logprobs(
        model_config, params, hidden_BTD, batch["targets"]
    )
    loss = -jnp.sum(batch["weights"] * logprobs_BT)
    return loss, {"entropy": jnp.sum(batch["weights"] * entropy_BT)}


def make_train_step(
    model_config: ModelConfig, optimizer: optax.GradientTransformation, *, micro_batches: int = 1
) -> Callable[[TrainState, dict, dict], tuple[TrainState, dict]]:
    """Jitted (state, base, batch) -> (state, metrics); the state is donated, the base is not.

    `base` holds the frozen parameters: a decoder if the state holds adapters, else {}.

    The loss is the mean over answer tokens of the *global* batch: the normaliser is computed
    before the batch is split, so the number of micro-batches changes nothing but memory.
    Stages of the same model share one program, whatever their schedules.
    """
    return _train_step(model_config, optimizer.update, micro_batches)


@functools.lru_cache
def _train_step(model_config, update, micro_batches):
    def sft_update(state, base, batch):
        tokens = jnp.sum(batch["weights"])
        batch = {**batch, "weights": batch["weights"] / jnp.maximum(tokens, 1.0)}
        state, metrics = gradient_step(
            state, update,
            lambda params, piece: loss_fn(model_config, lora.join(base, params), piece),
            batch, micro_batches, functools.partial(transformer.constrain_params, model_config),
        )  # fmt: skip
        fill = jnp.mean((batch["segment_ids"] > 0).astype(jnp.float32))
        return state, {**metrics, "answer_tokens": tokens, "fill": fill}

    return jax.jit(sft_update, donate_argnums=0)
