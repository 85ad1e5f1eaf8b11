"""Meta reward model: is a trajectory correct? (paper section 2.5 and Figure 5)

A decoder with a scalar head reads query, responses and one trajectory, and emits a logit at the
last token; the target is the correctness of the trajectory (Eq. 10) under binary cross-entropy.
Guided voting keeps the trajectories of one comparison with the highest logits.

Kept from the paper: the base model as the start, the input, the target, the loss, and the data:
non-hinted trajectories of the RFT stage, and trajectories of the final GRM, wrong ones included.

Left open by the paper, decided here:
- Pooling: the logit of the last real token, which has seen everything.
- Comparisons whose trajectories are all correct or all incorrect teach only which comparisons are
  hard. A vote never compares across comparisons, so they are left out by default (`only_mixed`)
  and counted.
- `balance="comparison"` weighs the correct and the incorrect trajectories of a comparison
  equally. Otherwise the bias of easy and hard comparisons is learnt first and most.
- Both are applied stage by stage: stages are right unequally often, so across them the writer of a
  trajectory would predict its label; and a vote never mixes stages.
- The size of the data and the number of steps, which belong to the experiment.

Letters: B batch, T tokens, D width.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grm_jax.data.trajectory import Trajectory
from grm_jax.learning.state import TrainState, gradient_step
from grm_jax.models import heads, lora, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.parallel.sharding import fetch, put
from grm_jax.ranges import Checked, Count, one_of

BALANCES = ("none", "comparison")


@dataclasses.dataclass(frozen=True)
class MetaRMConfig(Checked):
    """Choices of the meta RM. Hashable.

    Attributes:
      balance: "none" for plain cross-entropy; "comparison" weighs the correct
        and the incorrect trajectories of a comparison equally.
      only_mixed: train only on comparisons with correct and incorrect trajectories.
      micro_batches: pieces that a training step splits a batch into.
    """

    balance: Annotated[str, one_of(BALANCES)] = "comparison"
    only_mixed: bool = True
    micro_batches: Count = 1


class Example(NamedTuple):
    """A trajectory with its label and its weight in the loss."""

    trajectory: Trajectory
    label: float
    weight: float


class Selection(NamedTuple):
    """The result of `select`."""

    examples: tuple[Example, ...]  # in the order of the trajectories given
    # trajectories by outcome: "used_correct", "used_incorrect", "hinted", "unknown" (correctness
    # not known), "not_mixed"
    counts: dict[str, int]


class MetaBatch(NamedTuple):
    """Rows of fixed shape, padded on the right."""

    tokens_BT: jax.Array  # int32 ids of the chat: query and responses, then the trajectory
    positions_BT: jax.Array  # int32 from 0
    segment_ids_BT: jax.Array  # int32, 1 on tokens and 0 on padding
    last_B: jax.Array  # int32 index of the last real token
    labels_B: jax.Array  # float32, 1 for correct
    weights_B: jax.Array  # float32, 0 for absent rows


def select(trajectories: Iterable[Trajectory], config: MetaRMConfig) -> Selection:
    """Chooses and weighs training examples from the trajectories of all stages.

    Hinted trajectories are left out: their correctness is that of the hint. Classes are compared
    and balanced within a comparison and stage, where balanced weights have a mean of 1 and both
    classes the same sum; where there is a single class, weights are 1.
    """
    counts = dict.fromkeys(("used_correct", "used_incorrect", "hinted", "unknown", "not_mixed"), 0)
    usable = []
    for trajectory in trajectories:
        if trajectory.hinted:
            counts["hinted"] += 1
        elif trajectory.correct is None:
            counts["unknown"] += 1
        else:
            usable.append(trajectory)
    sizes = Counter((t.uid, t.stage, t.correct) for t in usable)
    examples = []
    for trajectory in usable:
        same, other = (
            sizes[trajectory.uid, trajectory.stage, correct]
            for correct in (trajectory.correct, not trajectory.correct)
        )
        if config.only_mixed and not other:
            counts["not_mixed"] += 1
            continue
        balanced = config.balance == "comparison" and other
        weight = (same + other) / (2 * same) if balanced else 1.0
        counts["used_correct" if trajectory.correct else "used_incorrect"] += 1
        examples.append(Example(trajectory, float(trajectory.correct), weight))
    return Selection(tuple(examples), counts)


def make_batch(
    sequences: Sequence[Sequence[int]],
    *,
    length: int,
    batch_size: int | None = None,
    labels: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    pad_id: int = 0,
) -> MetaBatch:
    """Lays token sequences out in a fixed shape, on the host.

    Args:
      sequences: ids of whole chats, trajectory included.
      length: T.
      batch_size: B; absent rows have weight 0. None for as many as given.
      labels: 1 for correct; None when only scores are wanted.
      weights: weights in the loss; None for 1.
      pad_id: fills unused places.

    Returns:
      A batch of numpy arrays.

    Raises:
      ValueError: for a sequence that is empty or too long, or lists of different lengths.
    """
    rows = len(sequences) if batch_size is None else batch_size
    if not 0 < len(sequences) <= rows:
        raise ValueError(f"{len(sequences)} sequences do not fit into a batch of {rows}")
    tokens_BT = np.full((rows, length), pad_id, np.int32)
    segment_ids_BT = np.zeros((rows, length), np.int32)
    last_B = np.zeros(rows, np.int32)
    for i, ids in enumerate(sequences):
        if not 0 < len(ids) <= length:
            raise ValueError(f"sequence {i}: {len(ids)} tokens, expected 1 to {length}")
        tokens_BT[i, : len(ids)] = ids
        segment_ids_BT[i, : len(ids)] = 1
        last_B[i] = len(ids) - 1
    columns = []
    for name, values, default in (("labels", labels, 0.0), ("weights", weights, 1.0)):
        values = [default] * len(sequences) if values is None else values
        if len(values) != len(sequences):
            raise ValueError(f"{len(sequences)} sequences, but {len(values)} {name}")
        column_B = np.zeros(rows, np.float32)
        column_B[: len(sequences)] = values
        columns.append(column_B)
    positions_BT = np.broadcast_to(np.arange(length, dtype=np.int32), tokens_BT.shape).copy()
    return MetaBatch(tokens_BT, positions_BT, segment_ids_BT, last_B, *columns)


def init(model_config: ModelConfig, decoder_params: dict, key: jax.Array) -> dict:
    """{"decoder": a copy of its trained parameters, "head": a random scalar head}.

    The copy lets the training step donate its state without taking the decoder away from others.
    """
    return {
        "decoder": jax.tree.map(jnp.copy, decoder_params),
        "head": heads.scalar_init(model_config, key),
    }


def finished(model_config: ModelConfig, params: dict) -> dict:
    """A trained meta RM without adapters, which are merged; its head in the decoder's type."""
    params = lora.merge(model_config, params)
    head = jax.tree.map(lambda x: x.astype(model_config.compute.param_dtype), params["head"])
    return {**params, "head": head}


def scores(model_config: ModelConfig, params: dict, batch: MetaBatch) -> jax.Array:
    """Unbounded float32 logit [B] of each row, read at its last real token."""
    hidden_BTD, _ = transformer.apply(
        model_config, params["decoder"], batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT
    )
    hidden_B1D = jnp.take_along_axis(hidden_BTD, batch.last_B[:, None, None], axis=1)
    return heads.scalar_apply(params["head"], hidden_B1D[:, 0])


def binary_cross_entropy(logits_B: jax.Array, labels_B: jax.Array) -> jax.Array:
    """-log sigmoid(logit) where the label is 1, -log sigmoid(-logit) where it is 0; in nats."""
    return jax.nn.softplus(logits_B) - labels_B * logits_B


def constrain_gradient(model_config: ModelConfig, grads: dict) -> dict:
    """Fixes how a gradient is split over the mesh; the scalar head is left to the compiler."""
    return {**grads, "decoder": transformer.constrain_params(model_config, grads["decoder"])}


def make_train_step(
    model_config: ModelConfig, config: MetaRMConfig, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, dict, MetaBatch], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted training step: (state, base, batch) -> (state, metrics); the state is donated.

    `base` holds the frozen parameters: {"decoder": ...} if the state holds adapters, else {}.
    The loss is the weighted mean over the global batch. Metrics: loss; accuracy and
    weighted_accuracy (by the weights of the loss) at a threshold of 0; logit_correct and
    logit_incorrect, the mean logits of both classes, 0 without any; correct_share; rows;
    grad_norm before clipping, update_norm.
    """

    def meta_rm_update(state: TrainState, base: dict, batch: MetaBatch):
        rows = batch.labels_B.shape[0]
        if rows % config.micro_batches:
            raise ValueError(
                f"meta_rm.micro_batches ({config.micro_batches}) must divide the {rows} rows of "
                "a batch"
            )
        total = jnp.maximum(jnp.sum(batch.weights_B), 1e-30)

        def loss_fn(params, piece):
            part, scale_B, rows_b = piece
            logits_b = scores(model_config, lora.join(base, params), part)
            loss = jnp.sum(scale_B * binary_cross_entropy(logits_b, part.labels_B))
            empty_B = jnp.zeros(rows, jnp.float32)
            return loss, {"logits": empty_B.at[rows_b].set(jax.lax.stop_gradient(logits_b))}

        inputs = (batch, batch.weights_B / total, jnp.arange(rows))
        state, metrics = gradient_step(
            state, optimizer.update, loss_fn, inputs, config.micro_batches,
            functools.partial(constrain_gradient, model_config),
        )  # fmt: skip
        return state, {**_metrics(batch, metrics.pop("logits")), **metrics}

    return jax.jit(meta_rm_update, donate_argnums=0)


def _metrics(batch, logits_B):
    def mean(values_B, weights_B):
        return jnp.sum(values_B * weights_B) / jnp.maximum(jnp.sum(weights_B), 1e-30)

    active_B = (batch.weights_B > 0).astype(jnp.float32)
    right_B = ((logits_B > 0) == (batch.labels_B > 0.5)).astype(jnp.float32)
    return {
        "accuracy": mean(right_B, active_B),
        "weighted_accuracy": mean(right_B, batch.weights_B),
        "logit_correct": mean(logits_B, active_B * batch.labels_B),
        "logit_incorrect": mean(logits_B, active_B * (1.0 - batch.labels_B)),
        "correct_share": mean(batch.labels_B, active_B),
        "rows": jnp.sum(active_B),
    }


def make_score_fn(model_config: ModelConfig) -> Callable[[dict, MetaBatch], jax.Array]:
    """The jitted scorer: (params, batch) -> logits [B]. Absent rows hold a finite number."""

    def meta_rm_score(params: dict, batch: MetaBatch) -> jax.Array:
        return scores(model_config, params, batch)

    return jax.jit(meta_rm_score)


def score_all(
    score: Callable[[dict, MetaBatch], jax.Array],
    params: dict,
    sequences: Sequence[Sequence[int]],
    *,
    length: int,
    batch_size: int,
    pad_id: int,
    sharding: jax.sharding.Sharding | None = None,
) -> list[float]:
    """The logit of each sequence of token ids, from batches of one static shape.

    Args:
      score: made by `make_score_fn`.
      params: {"decoder", "head"}.
      sequences: ids of whole chats, each of 1 to `length` tokens.
      length, batch_size: the shape.
      pad_id: fills unused places.
      sharding: of arrays that lead with sequences; None for the default device.
    """
    logits: list[float] = []
    for start in range(0, len(sequences), batch_size):
        piece = sequences[start : start + batch_size]
        batch = make_batch(piece, length=length, batch_size=batch_size, pad_id=pad_id)
        logits_B = fetch(score(params, put(batch, sharding)))
        logits += logits_B[: len(piece)].tolist()
    return logits
