"""Train state, optimizer, and gradient accumulation shared by every learner."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("constant", "cosine")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping.

    Attributes:
      learning_rate: peak learning rate.
      steps: updates of the whole stage; the schedule ends there.
      schedule: "constant" or "cosine" (down to `final_fraction` of the peak).
      warmup_steps: linear warm-up from zero.
      final_fraction: learning rate at the last step as a share of the peak.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled weight decay; none on the scales of norms.
      clip_norm: largest global norm of the gradient.
    """

    learning_rate: float
    steps: int
    schedule: str = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.1
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"optimizer.schedule must be one of {SCHEDULES}, got {self.schedule!r}"
            )
        if self.steps < 1:
            raise ValueError(f"optimizer.steps must be at least 1, got {self.steps}")
        if not self.learning_rate > 0:
            raise ValueError(f"optimizer.learning_rate must be positive, got {self.learning_rate}")


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate as a function of the step."""
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(
            config.learning_rate, max(config.steps - config.warmup_steps, 1), config.final_fraction
        )
    else:
        decay = optax.constant_schedule(config.learning_rate)
    warmup = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping, then AdamW on the schedule of `learning_rate`."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(
                lambda path, _: path[-1].key != "scale", params
            ),
        ),
    )


class TrainState(flax.struct.PyTreeNode):
    """Everything that decides the next update, given its batch.

    Attributes:
      params: parameters being trained.
      opt_state: state of the optimizer.
      step: int32 scalar, updates done.
      key: base PRNG key of the stage; step k uses fold_in(key, k).
    """

    params: dict
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array


def create_state(params, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """A state at step 0."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), key)


def apply_gradients(
    state: TrainState, grads, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer update; returns the new state and the norms of gradient and update."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "grad_norm": optax.tree.norm(grads),
        "update_norm": optax.tree.norm(updates),
    }
    return state.replace(params=params, opt_state=opt_state, step=state.step + 1), metrics


def accumulate_gradients(
    loss_fn: Callable, params, batch, micro_batches: int
) -> tuple[dict, dict[str, jax.Array]]:
    """Gradient of a loss that is a sum over examples, by a scan over micro-batches.

    Normalisers must be part of `batch` already: they belong to the global batch, and a
    micro-batched step then equals the whole one.

    Args:
      loss_fn: (params, micro_batch) -> (loss, metrics); both are sums over the examples of the
        micro-batch, so that contributions add up.
      params: parameters to differentiate by.
      batch: tree of arrays that share a leading axis B, divisible by `micro_batches`.
      micro_batches: number of pieces.

    Returns:
      Summed gradient and summed metrics, "loss" among them.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def step(carry, micro_batch):
        (loss, metrics), grads = grad_fn(params, micro_batch)
        return jax.tree.map(jnp.add, carry, (grads, {"loss": loss, **metrics})), None

    if micro_batches == 1:
        (loss, metrics), grads = grad_fn(params, batch)
        return grads, {"loss": loss, **metrics}

    # Piece i takes rows i, i + n, i + 2n, ...: so every device keeps working on rows of its own.
    def split(x):
        return jnp.swapaxes(x.reshape(-1, micro_batches, *x.shape[1:]), 0, 1)

    pieces = jax.tree.map(split, batch)
    (loss, metrics), grads = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, {"loss": loss, **metrics}))
    total, _ = jax.lax.scan(step, zeros, pieces)
    return total
