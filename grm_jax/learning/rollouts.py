"""Batches of rollouts for a GRPO update, in a fixed shape, made on the host.

Letters: B rows in group order, T tokens of a row, U tokens of a completion.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax.data.trajectory import Trajectory


class Rollout(NamedTuple):
    """A sampled trajectory as GRPO reads it."""

    prompt_ids: Sequence[int]  # token ids of the prompt
    completion_ids: Sequence[int]  # generated ids, the closing token included
    # the sampler's log-probs of the generated ids, of the policy that was sampled
    logprobs: Sequence[float]
    reward: float  # of the trajectory, see `rewards`
    hit_length_limit: bool = False  # it ended at the length limit
    unparsed: bool = False  # no strict scores


class RolloutBatch(NamedTuple):
    """A rollout of fixed shape; a row is prompt and completion in one run, padded on the right."""

    tokens_BT: jax.Array  # int32 ids
    positions_BT: jax.Array  # int32, from 0 at the first token of the prompt
    segment_ids_BT: jax.Array  # int32, 1 on tokens and 0 on padding
    prompt_lengths_B: jax.Array  # int32
    completion_BU: jax.Array  # int32 generated ids, which are the targets
    completion_mask_BU: jax.Array  # float32, 1 on generated tokens
    logprobs_BU: jax.Array  # float32, log pi_old of the targets by the sampler, 0 on padding
    rewards_B: jax.Array  # float32
    weights_B: jax.Array  # float32, 1 on rows and 0 on the rows of absent groups
    hit_length_limit_B: jax.Array  # float32 flags
    unparsed_B: jax.Array  # float32 flags


def rollout(prompt_ids: Sequence[int], trajectory: Trajectory, reward: float) -> Rollout:
    """The rollout of a stored trajectory, given the ids of its prompt and its reward."""
    return Rollout(
        prompt_ids=prompt_ids,
        completion_ids=trajectory.token_ids,
        logprobs=trajectory.sampling_logprobs,
        reward=float(reward),
        hit_length_limit=trajectory.finish == "length",
        unparsed=trajectory.scores is None,
    )


def make_batch(
    rollouts: Sequence[Rollout],
    *,
    group_size: int,
    length: int,
    completion_length: int,
    num_groups: int | None = None,
    pad_id: int = 0,
) -> RolloutBatch:
    """Lays rollouts out in a fixed shape, on the host.

    Args:
      rollouts: whole groups one after the other.
      group_size: G, rows of a group.
      length: T.
      completion_length: U.
      num_groups: P; absent groups are filled with rows of weight 0. None for as many as given.
      pad_id: fills unused places.

    Returns:
      A batch of numpy arrays.

    Raises:
      ValueError: for incomplete groups, groups of several prompts, rows that are empty or too
        long, log-probs that do not fit, and values that are not finite.
    """
    if not rollouts or len(rollouts) % group_size:
        raise ValueError(
            f"{len(rollouts)} rollouts are not a positive multiple of grpo.group_size, {group_size}"
        )
    batch = len(rollouts) if num_groups is None else num_groups * group_size
    if len(rollouts) > batch:
        raise ValueError(f"{len(rollouts)} rollouts are more than the {batch} rows of the batch")
    tokens_BT = np.full((batch, length), pad_id, np.int32)
    segment_ids_BT = np.zeros((batch, length), np.int32)
    prompt_lengths_B = np.ones(batch, np.int32)
    completion_BU = np.full((batch, completion_length), pad_id, np.int32)
    completion_mask_BU = np.zeros((batch, completion_length), np.float32)
    logprobs_BU = np.zeros((batch, completion_length), np.float32)
    rewards_B, weights_B, hit_length_limit_B, unparsed_B = np.zeros((4, batch), np.float32)
    for i, row in enumerate(rollouts):
        prompt, completion = list(row.prompt_ids), list(row.completion_ids)
        if prompt != list(rollouts[i - i % group_size].prompt_ids):
            raise ValueError(f"rollout {i}: its prompt is not that of the others of its group")
        if not prompt or not completion:
            raise ValueError(f"rollout {i}: prompt and completion must not be empty")
        total = len(prompt) + len(completion)
        if total > length or len(completion) > completion_length:
            raise ValueError(
                f"rollout {i}: {len(prompt)} + {len(completion)} tokens do not fit into a row of "
                f"{length} with completions of {completion_length}"
            )
        logprobs = np.asarray(row.logprobs, np.float32)
        if logprobs.shape != (len(completion),) or not np.isfinite(logprobs).all():
            raise ValueError(
                f"rollout {i}: expected {len(completion)} finite logprobs, got {row.logprobs}"
            )
        if not np.isfinite(row.reward):
            raise ValueError(f"rollout {i}: the reward must be finite, got {row.reward}")
        tokens_BT[i, :total] = prompt + completion
        segment_ids_BT[i, :total] = 1
        prompt_lengths_B[i] = len(prompt)
        completion_BU[i, : len(completion)] = completion
        completion_mask_BU[i, : len(completion)] = 1
        logprobs_BU[i, : len(completion)] = logprobs
        rewards_B[i], weights_B[i] = row.reward, 1
        hit_length_limit_B[i], unparsed_B[i] = row.hit_length_limit, row.unparsed
    positions_BT = np.broadcast_to(np.arange(length, dtype=np.int32), tokens_BT.shape).copy()
    return RolloutBatch(
        tokens_BT, positions_BT, segment_ids_BT, prompt_lengths_B, completion_BU,
        completion_mask_BU, logprobs_BU, rewards_B, weights_B, hit_length_limit_B, unparsed_B,
    )  # fmt: skip
