"""Bradley-Terry training of a scalar head: the better response gets the higher score (paper Eq. 4).

A decoder with a scalar head, as in `grm_jax.learning.meta_rm`, reads two rows of text on their own;
the loss is -log sigmoid(r_better - r_worse), with r in the logit's own unbounded unit. The same
loss trains CLoud, whose rows end with a critique of the response. PairRM has no loss of its own: it
is the binary cross-entropy of the meta RM on rows that hold two responses, in both orders.

Letters: P pairs, T tokens, N responses.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grm_jax.learning import meta_rm
from grm_jax.learning.meta_rm import MetaBatch
from grm_jax.learning.state import TrainState, gradient_step
from grm_jax.models import lora
from grm_jax.models.config import ModelConfig


def pair_loss(better_P: jax.Array, worse_P: jax.Array) -> jax.Array:
    """-log sigmoid(better - worse) of each pair, in nats."""
    return jax.nn.softplus(worse_P - better_P)


def antisymmetric_scores(logits_NN: np.ndarray) -> np.ndarray:
    """One score [N] a response from the logits of all ordered pairs (PairRM, paper Eq. 5).

    Args:
      logits_NN: [a, b] is the logit, in nats, that a is better than b when a is shown first. The
        diagonal does not count.

    Returns:
      The sum over all opponents b of (S(a, b) - S(b, a)) / 2, in which a bonus for a place cancels.
      For two responses these are opposite numbers, whose sign is the verdict.
    """
    logits_NN = np.asarray(logits_NN, np.float64)
    return ((logits_NN - logits_NN.T) / 2).sum(axis=1)


def make_batch(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, length: int, pad_id: int = 0
) -> MetaBatch:
    """Lays pairs of token sequences, the better one first, out in a fixed shape, on the host.

    Returns:
      A `MetaBatch` of numpy arrays with an axis of two after the first: tokens [P, 2, T]. So a
      device that holds some of the pairs holds both of their rows.

    Raises:
      ValueError: as `meta_rm.make_batch`; row 2 i + 1 is the worse one of pair i.
    """
    rows = [row for pair in pairs for row in pair]
    batch = meta_rm.make_batch(rows, length=length, pad_id=pad_id)
    return jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), batch)


def make_train_step(
    model_config: ModelConfig, optimizer: optax.GradientTransformation, *, micro_batches: int = 1
) -> Callable[[TrainState, dict, MetaBatch], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted training step: (state, base, batch) -> (state, metrics); the state is donated.

    `base` is as in `meta_rm.make_train_step`, the batch one of `make_batch`. The loss is the mean
    over the pairs of the global batch. Metrics: loss; accuracy, the share of pairs in the right
    order; margin, the mean difference of the scores; grad_norm before clipping, update_norm.
    """

    def pair_update(state: TrainState, base: dict, batch: MetaBatch):
        count = batch.last_B.shape[0]
        if count % micro_batches:
            raise ValueError(
                f"baseline.micro_batches ({micro_batches}) must divide the {count} pairs of a batch"
            )

        def loss_fn(params, pairs):
            rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pairs)
            scores = meta_rm.scores(model_config, lora.join(base, params), rows)
            better_P, worse_P = scores.reshape(-1, 2).T
            loss = jnp.sum(pair_loss(better_P, worse_P)) / count
            return loss, {
                "accuracy": jnp.sum(better_P > worse_P) / count,
                "margin": jnp.sum(better_P - worse_P) / count,
            }

        constrain = functools.partial(meta_rm.constrain_gradient, model_config)
        return gradient_step(state, optimizer.update, loss_fn, batch, micro_batches, constrain)

    return jax.jit(pair_update, donate_argnums=0)
