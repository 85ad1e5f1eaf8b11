"""The page of samples, and the stacking of trajectories that it shares with every table."""

from __future__ import annotations

import random

import numpy as np
import pytest

from grm_jax import voting
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation.ballots import from_trajectories
from grm_jax.evaluation.samples_page import Sample, samples_page
from grm_jax.text.prompts import Message


def comparison(uid="q-7", responses=("Good evening.", "hey"), rewards=(9.0, 4.0), **more):
    return Comparison(uid, (Message("user", "Greet the guest."),), responses, rewards, **more)


def trajectory(sample, scores, *, uid="q-7", order=None, correct=True, text="Scores", **more):
    order = tuple(range(2 if scores is None else len(scores))) if order is None else order
    fields = {
        "fingerprint": "f0", "stage": "grpo", "step": 3, "uid": uid, "sample": sample,
        "seed": (1, 2), "order": order, "token_ids": (5, 6), "logprobs": (-0.5, -0.25),
        "sampling_logprobs": (-0.5, -0.25), "text": text, "scores": scores,
        "parse_reason": "no_box" if scores is None else "ok", "lenient_scores": scores,
        "finish": "stop", "correct": correct,
    }  # fmt: skip
    return Trajectory(**(fields | more))


def pair() -> Sample:
    trajectories = [
        trajectory(2, (8, 3), correct=True, text="Specific Criteria: warmth\n\\boxed{8, 3}"),
        trajectory(0, (9, 2), order=(1, 0), correct=False, text="```\n## no heading\n```"),
        trajectory(1, None, correct=False, text="endless", finish="length"),
    ]
    return Sample(comparison(subset="manners"), trajectories, [0.5, -1.25, 3.0])


def test_a_pair_reads_in_original_order():
    page = samples_page([pair()], title="Samples", note="GRPO, step 3.")
    assert page.startswith("# Samples\n\nGRPO, step 3.\n\n## 1. manners: q-7\n")
    assert "### Response 1 (gold: best)\n\n```text\nGood evening.\n```" in page
    assert "Gold: **Response 1** (rewards 9, 4)" in page
    # (8, 3) as shown and (9, 2) reversed: totals 8 + 2 and 3 + 9.
    assert "- Voting@3: **Response 2** ✗; totals 10, 12 of 2 samples" in page
    assert "- MetaRM@3, k_meta = 1: **Response 1** ✓; totals 8, 3 of 1 samples" in page
    assert (
        "| sample | shown order | Response 1 | Response 2 | correct | meta score | kept |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| 0 | 2 1 | 2 | 9 | ✗ | -1.250 |  |\n"
        "| 1 | 1 2 | – | – | ✗ | 3.000 |  |\n"
        "| 2 | 1 2 | 8 | 3 | ✓ | 0.500 | ● |\n"
    ) in page
    assert (
        "**Sample 0**: ✗; scores 2, 9; meta score -1.250; responses were shown in the order 2, 1"
        in page
    )
    assert "no scores: no_box" in page and "cut at the length limit" in page
    # A fence inside a text closes nothing.
    assert "````text\n```\n## no heading\n```\n````" in page
    assert page == samples_page([pair()], title="Samples", note="GRPO, step 3.")


def test_a_short_page_shows_right_and_wrong_and_says_what_it_leaves_out():
    trajectories = [trajectory(s, (3, 8), correct=False, text=f"text {s}.") for s in range(5)]
    trajectories.append(trajectory(5, (8, 3), correct=True, text="text 5."))
    page = samples_page([Sample(comparison(), trajectories)], max_trajectories=2)
    assert [s for s in range(6) if f"text {s}." in page] == [0, 5]
    assert "*4 more texts are not printed; their scores are above.*" in page
    assert "| 4 | 1 2 | 3 | 8 | ✗ |" in page
    assert "MetaRM" not in page and "meta score" not in page


def test_ties_silence_and_single_responses():
    tie = Sample(comparison(), [trajectory(0, (5, 5), correct=False)])
    silent = Sample(comparison(), [trajectory(0, None, correct=False)])
    single = Sample(
        comparison("one", ("4",), (1.0,)),
        [trajectory(0, (7,), uid="one", correct=None), trajectory(1, (10,), uid="one")],
    )
    page = samples_page([tie, silent, single])
    assert "**Response 1 and Response 2** tie, with the best; totals 5, 5" in page
    assert "**no verdict**, no sample has scores" in page
    assert "mean score **8.50** of 2 samples" in page and "Gold: **correct**" in page
    assert "not judged" in page


def test_verdicts_follow_the_rules_of_the_tables():
    def fresh(**more):
        texts = [
            trajectory(0, (9, 1)), trajectory(1, (4, 5), correct=False),
            trajectory(2, (4, 5), correct=False),
            trajectory(3, None, correct=False, lenient_scores=(1, 10)),
        ]  # fmt: skip
        meta = [0.4, 0.3, 0.2, 0.1]
        return samples_page([Sample(comparison(), texts, meta)], max_trajectories=4, **more)

    assert "- Voting@4: **Response 1** ✓; totals 17, 11 of 3 samples" in fresh()
    assert "- Voting@4: **Response 2** ✗; totals 1, 2 of 3 samples" in fresh(
        aggregation="majority"
    )
    page = fresh(lenient=True)
    assert "- Voting@4: **Response 2** ✗; totals 18, 21 of 4 samples" in page
    assert "| 3 | 1 2 | 1 | 10 |" in page and "**Sample 3**: ✗; scores 1, 10;" in page
    assert "k_meta = 3: **Response 1**" in fresh(k_meta=3)


def test_k_meta_above_the_samples_is_an_error():
    with pytest.raises(ValueError, match="k_meta"):
        samples_page([pair()], k_meta=4)


# Ballots.


def test_ballots_hold_every_field_sorted_by_sample():
    one = pair()
    three = Sample(
        comparison("q-8", ("a", "b", "c"), (1.0, 2.0, 3.0)),
        [trajectory(4, (1, 2, 3), uid="q-8", order=(2, 0, 1), lenient_scores=(4, 4, 4))],
        [0.0],
    )
    ballots = from_trajectories(
        [one.trajectories, three.trajectories], [2, 3], meta=[one.meta, three.meta]
    )
    assert ballots.scores_CSN.shape == (2, 3, 3)
    assert ballots.scores_CSN[0].tolist() == [[9, 2, 0], [0, 0, 0], [8, 3, 0]]
    assert ballots.orders_CSN[0].tolist() == [[1, 0, 2], [0, 1, 2], [0, 1, 2]]
    assert ballots.orders_CSN[1].tolist() == [[2, 0, 1], [0, 1, 2], [0, 1, 2]]
    assert ballots.parsed_CS.tolist() == [[True, False, True], [True, False, False]]
    assert ballots.drawn_CS.tolist() == [[True, True, True], [True, False, False]]
    assert ballots.order_ids_CS[0].tolist() == [1, 0, 0]
    assert ballots.meta_CS[0].tolist() == [-1.25, 3.0, 0.5]
    lenient = from_trajectories([three.trajectories], [3], lenient=True, num_samples=4)
    assert lenient.scores_CSN[0, 0].tolist() == [4, 4, 4] and lenient.meta_CS is None
    assert lenient.drawn_CS.shape == (1, 4)
    # The same comparison has the same number wherever it stands.
    assert lenient.ids_C[0] == ballots.ids_C[1] != ballots.ids_C[0]


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
        ([trajectory(0, (1, 2))], 2, {"max_responses": 1}, "q-7: .* do not fit"),
        ([trajectory(0, (1, 2)), trajectory(1, (1, 2))], 2, {"num_samples": 1}, "do not fit"),
    ],
)
def test_ballots_refuse_what_does_not_belong_together(group, n, settings, message):
    with pytest.raises(ValueError, match=message):
        from_trajectories([group], [n], **settings)
