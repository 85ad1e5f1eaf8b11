"""Rule-based rewards of online RL: named functions over the group of samples of one prompt.

A reward sees the comparison and all G trajectories of its group, so that a rule may look at one
sample or at what the samples have in common. Its name in `REWARDS` is what `grpo.reward` selects.
"""

from collections.abc import Callable, Sequence

import numpy as np

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory

Reward = Callable[[Comparison, Sequence[Trajectory]], np.ndarray]


def correct(comparison: Comparison, group: Sequence[Trajectory]) -> np.ndarray:
    """The rule of the paper (Eq. 10 and 11): +1 for a correct trajectory, -1 for any other.

    Returns:
      [G] float32.

    Raises:
      ValueError: the comparison has no single best response, so that no sample is known to be
        correct.
    """
    if any(trajectory.correct is None for trajectory in group):
        raise ValueError(
            f"comparison {comparison.uid!r}: field 'correct' is unknown for some trajectories, and "
            "rewards need it"
        )
    return np.array([1 if trajectory.correct else -1 for trajectory in group], np.float32)


def pairs(comparison: Comparison, group: Sequence[Trajectory]) -> np.ndarray:
    """The share of response pairs that the scores order as the labels do, scaled to [-1, 1].

    Only pairs with different labels count, a tie of scores counts half, and a trajectory without
    scores has -1. A single response is rewarded by `correct`.

    Returns:
      [G] float32.

    Raises:
      ValueError: all labels are equal, or a single response has none.
    """
    if comparison.n == 1:
        return correct(comparison, group)
    labels_N = np.asarray(comparison.rewards)
    sign_NN = np.sign(labels_N[:, None] - labels_N[None, :])
    if not sign_NN.any():
        raise ValueError(f"comparison {comparison.uid!r}: all responses have the same label")
    rewards = []
    for trajectory in group:
        if trajectory.scores is None:
            rewards.append(-1.0)
            continue
        scores_N = np.asarray(trajectory.original_scores())
        agree_NN = sign_NN * np.sign(scores_N[:, None] - scores_N[None, :])
        rewards.append(agree_NN.sum() / np.abs(sign_NN).sum())
    return np.array(rewards, np.float32)


REWARDS: dict[str, Reward] = {"correct": correct, "pairs": pairs}
