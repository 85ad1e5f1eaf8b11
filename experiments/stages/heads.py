"""Stages that train a decoder with a scalar head: the meta RM and the scalar baselines.

They start from the base model, and differ in their rows, their loss and their held-out rows.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import optax

from experiments.run import Run, with_shardings
from experiments.sections import Baseline, MetaRM
from experiments.stages import training
from grm_jax.data import pipeline
from grm_jax.learning import meta_rm
from grm_jax.learning.state import TrainState, make_optimizer, start_state
from grm_jax.models import lora, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.parallel.sharding import put

MAX_TOO_LONG = 0.05  # share of the rows of a stage that may be left out
Row = TypeVar("Row")


def held_out(uid: str) -> bool:
    """Whether a comparison is for development: about one in ten, by the hash of its uid."""
    return hashlib.sha256(uid.encode()).digest()[0] % 10 == 0


def fitting(
    run: Run, section: str, rows: Sequence[Row], length: Callable[[Row], int], row_length: int
) -> list[Row]:
    """The rows of at most `row_length` tokens.

    Raises:
      ValueError: naming the field, if more than one row in twenty is too long.
    """
    kept = [row for row in rows if length(row) <= row_length]
    too_long = len(rows) - len(kept)
    if too_long > MAX_TOO_LONG * len(rows):
        raise ValueError(
            f"config.{section}.loop.row_length: {too_long} of {len(rows)} rows exceed "
            f"{row_length} tokens"
        )
    if too_long:
        run.say(f"{run.stage(section)}: {too_long} rows too long, dropped")
    return kept


def make_scorer(
    run: Run, model: ModelConfig, pad_id: int, length: int, batch_size: int
) -> Callable[[dict, Sequence[Sequence[int]]], list[float]]:
    """A function of parameters and token sequences that gives a logit for each sequence.

    It scores batches of one static shape [batch_size, length].
    """
    score = meta_rm.make_score_fn(model)

    def scorer(params: dict, sequences: Sequence[Sequence[int]]) -> list[float]:
        return meta_rm.score_all(
            score, params, sequences, length=length, batch_size=batch_size, pad_id=pad_id,
            sharding=run.split_over_devices,
        )  # fmt: skip

    return scorer


def scoring_length(run: Run, section: str, length: int, rows: Sequence[Sequence[int]]) -> int:
    """Length of rows that are only scored: the one of the config, or more for a longer row."""
    longest = max(map(len, rows))
    if longest <= length:
        return length
    longer = -(-longest // 64) * 64
    run.say(
        f"{section}: the longest row has {longest} tokens, config.{section}.loop.row_length was "
        f"{length}; scored in rows of {longer}"
    )
    return longer


def load(run: Run, stage: str) -> dict:
    """The parameters of a finished stage by its name on disk, {"decoder", "head"}.

    Raises:
      ValueError: if the stage has not been run in this workdir.
    """
    decoder = transformer.abstract_params(run.model)
    init = functools.partial(meta_rm.init, run.model)
    shapes = jax.eval_shape(init, decoder, run.base_key)
    shardings = {"decoder": run.param_shardings, "head": {"kernel": run.on_every_device}}
    return run.load_params(stage, with_shardings(shapes, shardings))


class Task(NamedTuple):
    """The rows, step and metric of a scalar head.

    Attributes:
      rows: the training rows, at least one batch.
      make_step: (model, optimizer) -> jitted step, see `meta_rm.make_train_step`.
      to_batch: `batch_size` rows -> host arrays.
      evaluate: parameters -> metric on held-out rows, see `training.Loop`.
    """

    rows: Sequence[Any]
    make_step: Callable[[ModelConfig, optax.GradientTransformation], Callable]
    to_batch: Callable[[Sequence[Any]], meta_rm.MetaBatch]
    evaluate: Callable[[dict], dict[str, float]]


def train(run: Run, stage: str, name: str, section: MetaRM | Baseline, task: Task) -> None:
    """Trains a decoder and its head from the base model, until the stage is finished.

    Args:
      run: the arm.
      stage: its name on disk.
      name: its name in the config.
      section: its section of the config.
      task: the rows, the step and the metric.
    """
    rows = task.rows
    batches = pipeline.shuffled_batches(rows, section.loop.batch_size, seed=run.config.seed)
    optimizer = make_optimizer(section.optimizer)
    model = run.trained_model(name)
    update = task.make_step(model, optimizer)

    frozen, trained = lora.start(model, run.load_base(), run.adapter_key(stage), run.mesh)
    base = {"decoder": frozen}
    places = {"decoder": jax.tree.map(lambda x: x.sharding, trained),
              "head": {"kernel": run.on_every_device}}  # fmt: skip
    init = jax.jit(functools.partial(meta_rm.init, model), out_shardings=places)
    params = init(trained, jax.random.fold_in(run.base_key, 1))

    def step(_: int, state: TrainState) -> training.Stepped:
        batch = task.to_batch(next(batches))
        tokens = int(batch.segment_ids_BT.sum())
        state, metrics = update(state, base, put(batch, run.split_over_devices))
        return training.Stepped(state, metrics, tokens)

    steps = section.optimizer.steps
    loop = training.Loop(
        step, steps, section.loop.checkpoint_every,
        f"{len(rows)} rows, {steps} steps of {section.loop.batch_size}",
        evaluate=lambda state: task.evaluate(lora.join(base, state.params)),
    )  # fmt: skip
    state = start_state(params, optimizer, run.base_key)
    state = training.train(run, stage, state, batches, loop)
    run.save_params(stage, meta_rm.finished(model, lora.join(base, state.params)), reward=True)
