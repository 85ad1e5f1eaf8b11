"""Rewards of groups against plain loops over samples and pairs."""

import dataclasses
import itertools

import numpy as np
import pytest

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.learning.grpo import GRPOConfig
from grm_jax.learning.rewards import REWARDS, correct, pairs
from grm_jax.text.prompts import Message

QUERY = (Message("user", "Query?"),)
LIST = Comparison("list", QUERY, ("a", "b", "c"), (0.0, 2.0, 1.0))
SINGLE = Comparison("single", QUERY, ("a",), (1.0,))


def trajectory(scores, order=(0, 1, 2), correct=False):
    reason = "no_box" if scores is None else "ok"
    return Trajectory(
        fingerprint="f", stage="grpo", step=0, uid="u", sample=0, seed=(0, 1), order=order,
        token_ids=(4,), logprobs=(-1.0,), sampling_logprobs=(-1.0,), text="t", scores=scores,
        parse_reason=reason, lenient_scores=scores, finish="stop", correct=correct,
    )  # fmt: skip


def test_correct_is_the_rule_of_the_paper():
    group = [trajectory((1, 9, 3), correct=True), trajectory(None), trajectory((9, 1, 1))]
    rewards = correct(LIST, group)
    assert rewards.tolist() == [1, -1, -1] and rewards.dtype == np.float32
    assert REWARDS[GRPOConfig().reward] is correct
    with pytest.raises(ValueError, match="'list': field 'correct' is unknown"):
        correct(LIST, [*group, trajectory((1, 2, 3), correct=None)])


def test_pairs_count_the_pairs_that_are_ordered_rightly():
    rng = np.random.default_rng(0)
    for labels in [(0.0, 2.0, 1.0), (1.0, 0.0, 1.0)]:
        comparison = dataclasses.replace(LIST, rewards=labels, several_best=True)
        group = [trajectory(None)]
        for _ in range(20):
            order = tuple(int(i) for i in rng.permutation(3))
            group.append(trajectory(tuple(int(s) for s in rng.integers(1, 5, 3)), order))
        for sample, reward in zip(group, pairs(comparison, group), strict=True):
            points = []
            for i, j in itertools.combinations(range(3), 2):
                if labels[i] == labels[j]:
                    continue
                if sample.scores is None:
                    points.append(0.0)
                    continue
                shown = [sample.scores[sample.order.index(place)] for place in (i, j)]
                better = shown if labels[i] > labels[j] else shown[::-1]
                points.append(0.5 if shown[0] == shown[1] else float(better[0] > better[1]))
            np.testing.assert_allclose(reward, 2 * np.mean(points) - 1, atol=1e-6)


def test_pairs_of_one_response_and_of_equal_labels():
    group = [trajectory((1,), (0,), correct=True), trajectory((0,), (0,))]
    assert pairs(SINGLE, group).tolist() == [1, -1]
    equal = dataclasses.replace(LIST, rewards=(1.0, 1.0, 1.0), several_best=True)
    with pytest.raises(ValueError, match="'list': all responses have the same label"):
        pairs(equal, [trajectory((1, 2, 3))])
