"""Train state, optimizer, and the step of gradient descent that all learners share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from grm_jax.ranges import Checked, Count, Decay, Natural, NonNegative, Positive, Share, one_of

SCHEDULES = ("constant", "cosine")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Checked):
    """AdamW with global-norm clipping.

    Attributes:
      learning_rate: peak learning rate.
      steps: updates of the whole stage; the schedule ends there.
      schedule: "constant" or "cosine" (down to `final_fraction` of the peak).
      warmup_steps: updates of the linear warm-up, whose first has the rate peak / warmup_steps.
      final_fraction: learning rate at the last step as a share of the peak.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled weight decay; none on the scales of norms and on biases.
      clip_norm: largest global norm of the gradient.
    """

    learning_rate: Positive
    steps: Count
    schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"
    warmup_steps: Natural = 0
    final_fraction: Share = 0.1
    b1: Decay = 0.9
    b2: Decay = 0.98
    weight_decay: NonNegative = 0.0
    clip_norm: Positive = 1.0

    def __post_init__(self):
        super().__post_init__()
        reached = self.warmup_steps <= self.steps
        self.demand("warmup_steps", reached, f"at most steps = {self.steps}, to reach the peak")


class ScheduleState(NamedTuple):
    """The learning rate as data: stages that differ in it share one compiled program."""

    count: jax.Array
    peak: jax.Array
    warmup_steps: jax.Array
    steps: jax.Array
    final_fraction: jax.Array


def learning_rate(state: ScheduleState) -> jax.Array:
    """Linear warm-up, in which no update is lost, then a cosine down to a share of the peak.

    A final fraction of 1 is the constant schedule.
    """
    count, warmup = state.count.astype(jnp.float32), state.warmup_steps
    warm = jnp.minimum((count + 1.0) / jnp.maximum(warmup, 1.0), 1.0)
    progress = jnp.clip((count - warmup) / jnp.maximum(state.steps - warmup, 1.0), 0.0, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return state.peak * warm * (state.final_fraction + (1.0 - state.final_fraction) * cosine)


@functools.lru_cache
def _rules(b1: float, b2: float, weight_decay: float, clip_norm: float):
    """AdamW without its learning rate, and the update that adds it; one object per setting."""
    inner = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2),
        optax.add_decayed_weights(
            weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(
                lambda path, _: path[-1].key != "scale" and not path[-1].key.endswith("_bias"),
                params,
            ),
        ),
    )

    def update(grads, state, params):
        updates, inner_state = inner.update(grads, state[0], params)
        rate = learning_rate(state[1])
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return updates, (inner_state, state[1]._replace(count=state[1].count + 1))

    return inner, update


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping, then AdamW on the schedule of `learning_rate`.

    Optimizers that differ in their schedule only have the same `update` function.
    """
    inner, update = _rules(config.b1, config.b2, config.weight_decay, config.clip_norm)

    def init(params):
        schedule = ScheduleState(
            count=jnp.zeros((), jnp.int32),
            peak=jnp.asarray(config.learning_rate, jnp.float32),
            warmup_steps=jnp.asarray(config.warmup_steps, jnp.float32),
            steps=jnp.asarray(config.steps, jnp.float32),
            final_fraction=jnp.asarray(
                1.0 if config.schedule == "constant" else config.final_fraction, jnp.float32
            ),
        )
        return inner.init(params), schedule

    return optax.GradientTransformation(init, update)


class TrainState(flax.struct.PyTreeNode):
    """Everything that decides the next update, given its batch."""

    params: dict  # parameters being trained: all, or the adapters of a frozen base (`models.lora`)
    opt_state: optax.OptState  # state of the optimizer
    step: jax.Array  # int32 scalar, updates done
    key: jax.Array  # base PRNG key of the stage; step k uses fold_in(key, k)


def create_state(params, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """A state at step 0."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), key)


def start_state(params, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """A state at step 0 on the mesh of its parameters.

    It shares no buffer with them, nor with the key: an update donates its state.
    """

    def make(params, key):
        return create_state(jax.tree.map(jnp.copy, params), optimizer, jnp.copy(key))

    shapes = jax.eval_shape(make, params, key)
    shardings = state_shardings(jax.tree.map(lambda x: x.sharding, params), optimizer, shapes)
    return jax.jit(make, out_shardings=shardings)(params, key)


def state_shardings(
    params_shardings, optimizer: optax.GradientTransformation, state: TrainState
) -> TrainState:
    """How a state, or its shapes, is split: moments as their parameters, all else is whole.

    `params_shardings` has a `NamedSharding` for each trained parameter.
    """
    mesh = jax.tree.leaves(params_shardings)[0].mesh
    whole = jax.NamedSharding(mesh, jax.P())
    opt_state = optax.tree.map_params(
        optimizer, lambda _, sharding: sharding, state.opt_state, params_shardings,
        transform_non_params=lambda _: whole,
    )  # fmt: skip
    return TrainState(params_shardings, opt_state, whole, whole)


def gradient_step(
    state: TrainState,
    update: optax.TransformUpdateFn,
    loss_fn: Callable,
    batch,
    micro_batches: int,
    constrain: Callable,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by the gradient of a loss that is a sum over examples.

    Normalisers must be part of `batch` already: they belong to the global batch, and a
    micro-batched step then equals the whole one.

    Args:
      state: parameters to differentiate by, and the state of the optimizer.
      update: the optimizer's.
      loss_fn: (params, micro_batch) -> (loss, metrics); both are sums over the examples of the
        micro-batch, so that contributions add up.
      batch: tree of arrays that share a leading axis B, divisible by `micro_batches`.
      micro_batches: number of pieces, handled one after the other.
      constrain: fixes how a gradient is split over the mesh, so that each device sums its own
        part only.

    Returns:
      The new state, and summed metrics with "loss", "grad_norm" and "update_norm" among them.
    """
    grads, metrics = _gradient(loss_fn, state.params, batch, micro_batches, constrain)
    updates, opt_state = update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    state = state.replace(params=params, opt_state=opt_state, step=state.step + 1)
    return state, {**metrics, **norms}


def _gradient(loss_fn, params, batch, micro_batches, constrain):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def step(carry, micro_batch):
        (loss, metrics), grads = grad_fn(params, micro_batch)
        part = constrain(grads), {"loss": loss, **metrics}
        return jax.tree.map(jnp.add, carry, part), None

    if micro_batches == 1:
        (loss, metrics), grads = grad_fn(params, batch)
        return constrain(grads), {"loss": loss, **metrics}

    pieces = jax.tree.map(functools.partial(split_rows, pieces=micro_batches), batch)
    (loss, metrics), grads = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, {"loss": loss, **metrics}))
    total, _ = jax.lax.scan(step, (constrain(zeros[0]), zeros[1]), pieces)
    return total


def split_rows(x: jax.Array, pieces: int) -> jax.Array:
    """[B, ...] to [pieces, B / pieces, ...]; `join_rows` is the way back.

    Piece i takes rows i, i + n, i + 2n, ...: so every device keeps working on rows of its own.
    """
    return jnp.swapaxes(x.reshape(-1, pieces, *x.shape[1:]), 0, 1)


def join_rows(x: jax.Array) -> jax.Array:
    """[pieces, B / pieces, ...] to [B, ...], in the order that `split_rows` found."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
