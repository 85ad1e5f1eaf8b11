"""Stored trajectories as arrays of ballots."""

import random

import builders
import numpy as np
import pytest

from grm_jax import voting
from grm_jax.evaluation.ballots import from_trajectories


def trajectory(sample, scores, *, uid="q-7", **more):
    return builders.trajectory(uid, sample, scores, **more)


def pair():
    """Three trajectories and their meta scores."""
    trajectories = [
        trajectory(2, (8, 3), correct=True, text="Specific Criteria: warmth\n\\boxed{8, 3}"),
        trajectory(0, (9, 2), order=(1, 0), correct=False, text="```\n## no heading\n```"),
        trajectory(1, None, correct=False, text="endless", finish="length"),
    ]
    return trajectories, [0.5, -1.25, 3.0]


def test_ballots_hold_every_field_sorted_by_sample():
    one, meta = pair()
    three = [trajectory(4, (1, 2, 3), uid="q-8", order=(2, 0, 1), lenient_scores=(4, 4, 4))]
    ballots = from_trajectories([one, three], [2, 3], meta=[meta, [0.0]])
    assert ballots.scores_CSN.shape == (2, 3, 3)
    assert ballots.scores_CSN[0].tolist() == [[9, 2, 0], [0, 0, 0], [8, 3, 0]]
    assert ballots.orders_CSN[0].tolist() == [[1, 0, 2], [0, 1, 2], [0, 1, 2]]
    assert ballots.orders_CSN[1].tolist() == [[2, 0, 1], [0, 1, 2], [0, 1, 2]]
    assert ballots.parsed_CS.tolist() == [[True, False, True], [True, False, False]]
    assert ballots.drawn_CS.tolist() == [[True, True, True], [True, False, False]]
    assert ballots.order_ids_CS[0].tolist() == [1, 0, 0]
    assert ballots.meta_CS[0].tolist() == [-1.25, 3.0, 0.5]
    lenient = from_trajectories([three], [3], lenient=True, num_samples=4)
    assert lenient.scores_CSN[0, 0].tolist() == [4, 4, 4] and lenient.meta_CS is None
    assert lenient.drawn_CS.shape == (1, 4)
    # The same comparison has the same number wherever it stands.
    assert lenient.ids_C[0] == ballots.ids_C[1] != ballots.ids_C[0]


def test_scores_that_are_real_numbers_are_float32():
    half = [trajectory(0, (0.5, 0.5), correct=False, lenient_scores=(1, 0))]
    whole = [trajectory(0, (1, 0), uid="q-8")]
    ballots = from_trajectories([half, whole], [2, 2])
    assert ballots.scores_CSN.dtype == np.float32
    assert ballots.scores_CSN.tolist() == [[[0.5, 0.5]], [[1.0, 0.0]]]
    for counted in (from_trajectories([whole], [2]), from_trajectories([half], [2], lenient=True)):
        assert counted.scores_CSN.dtype == np.int32
    tops_CN = voting.totals(ballots, ballots.drawn_CS).tops_CN
    assert np.asarray(tops_CN).tolist() == [[True, True], [True, False]]


def test_totals_agree_with_original_scores_of_the_trajectories():
    rng = random.Random(0)
    groups = [
        [
            trajectory(
                s, tuple(rng.randint(1, 10) for _ in range(4)), uid=f"u{c}",
                order=tuple(rng.sample(range(4), 4)),
            )
            for s in range(5)
        ]
        for c in range(6)
    ]  # fmt: skip
    ballots = from_trajectories(groups, [4] * 6)
    got = voting.totals(ballots, ballots.drawn_CS).totals_CN
    want = [np.sum([t.original_scores() for t in group], axis=0) for group in groups]
    assert (np.asarray(got) == np.array(want)).all()


@pytest.mark.parametrize(
    ("group", "n", "settings", "message"),
    [
        ([], 2, {}, "comparison 0 has no trajectories"),
        ([trajectory(0, (1, 2))], 3, {}, "q-7, sample 0: .* is no order of 3"),
        ([trajectory(0, (1, 2)), trajectory(1, (1, 2), uid="x")], 2, {}, "sample 1: .* of x"),
        ([trajectory(3, (1, 2)), trajectory(3, (1, 2))], 2, {}, "q-7: .* twice"),
        ([trajectory(0, (1, 2))], 2, {"meta": [[float("nan")]]}, "q-7, sample 0: meta score nan"),
        ([trajectory(0, (1, 2))], 2, {"meta": [[]]}, "q-7: 0 meta scores for 1"),
        ([trajectory(0, (1, 2)), trajectory(1, (1, 2))], 2, {"num_samples": 1}, "do not fit"),
    ],
)
def test_ballots_refuse_what_does_not_belong_together(group, n, settings, message):
    with pytest.raises(ValueError, match=message):
        from_trajectories([group], [n], **settings)
