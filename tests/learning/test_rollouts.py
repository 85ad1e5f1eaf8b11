"""Rollouts are laid out as the update expects them, and bad ones are refused by number."""

import numpy as np
import pytest

from grm_jax.data.trajectory import Trajectory
from grm_jax.learning.rollouts import Rollout, make_batch, rollout


def make_rollouts(groups=3):
    """Groups with prompts of 3, 6 and 9 tokens and completions of 1 to 7."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(groups):
        prompt = rng.integers(1, 64, size=3 + 3 * group).tolist()
        for sample in range(4):
            count = int(rng.integers(1, 8))
            ids = rng.integers(1, 64, size=count).tolist()
            logprobs = rng.normal(-3.0, 0.5, size=count).tolist()
            rows.append(Rollout(prompt, ids, logprobs, 1.0, sample == 3, sample == 2))
    return rows


def test_batch_layout():
    rows = make_rollouts()
    batch = make_batch(rows, group_size=4, length=20, completion_length=8, num_groups=4, pad_id=9)
    assert batch.tokens_BT.shape == (16, 20)
    for i, row in enumerate(rows):
        prompt, total = len(row.prompt_ids), len(row.prompt_ids) + len(row.completion_ids)
        assert batch.tokens_BT[i].tolist() == (
            list(row.prompt_ids) + list(row.completion_ids) + [9] * (20 - total)
        )
        assert batch.segment_ids_BT[i].tolist() == [1] * total + [0] * (20 - total)
        assert batch.prompt_lengths_B[i] == prompt
        assert batch.completion_mask_BU[i].sum() == total - prompt
        np.testing.assert_allclose(batch.logprobs_BU[i, : total - prompt], row.logprobs, rtol=1e-6)
    assert batch.weights_B.tolist() == [1] * 12 + [0] * 4
    assert batch.rewards_B.tolist() == batch.weights_B.tolist()
    assert batch.hit_length_limit_B.tolist() == [0, 0, 0, 1] * 3 + [0] * 4
    assert batch.unparsed_B.tolist() == [0, 0, 1, 0] * 3 + [0] * 4
    assert not batch.segment_ids_BT[12:].any() and not batch.completion_mask_BU[12:].any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda rows: rows[:-1], r"11 rollouts.*grpo\.group_size, 4"),
        (lambda rows: [], r"0 rollouts"),
        (lambda rows: [rows[4], *rows[1:]], "rollout 1: its prompt"),
        (lambda rows: [rows[0]._replace(completion_ids=[], logprobs=[]), *rows[1:]], "rollout 0"),
        (lambda rows: [*rows[:5], rows[5]._replace(logprobs=[0.0] * 99), *rows[6:]], "rollout 5"),
        (lambda rows: [rows[0]._replace(completion_ids=[1] * 9), *rows[1:]], "rollout 0.*fit"),
        (lambda rows: [rows[0]._replace(reward=float("nan")), *rows[1:]], "rollout 0.*reward"),
        (lambda rows: rows * 2, "24 rollouts are more than the 16"),
    ],
)
def test_batches_that_cannot_be(change, match):
    with pytest.raises(ValueError, match=match):
        make_batch(
            change(make_rollouts()), group_size=4, length=20, completion_length=8, num_groups=4
        )


def test_rollout_of_a_stored_trajectory():
    trajectory = Trajectory(
        fingerprint="f", stage="grpo", step=3, uid="u", sample=1, seed=(0, 1), order=(0, 1),
        token_ids=(4, 5), logprobs=(-1.5, -0.5), sampling_logprobs=(-9.0, -9.0), text="t",
        scores=None, parse_reason="no_box", lenient_scores=None, finish="length", correct=False,
    )  # fmt: skip
    made = rollout([7], trajectory, np.float32(-1))
    assert made == Rollout([7], (4, 5), (-9.0, -9.0), -1.0, True, True)
