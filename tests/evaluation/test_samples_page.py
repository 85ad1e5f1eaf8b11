"""The page of samples: what a person reads of a few comparisons."""

import dataclasses

import builders
from answers import TWO

from grm_jax.evaluation.critique_page import Item, suite_items
from grm_jax.evaluation.lines import Drawn, Suite
from grm_jax.evaluation.samples_page import few, samples_page


def comparison(uid="q-7", responses=("Good evening.", "hey"), rewards=(9.0, 4.0), **more):
    return builders.comparison(
        uid, query="Greet the guest.", responses=responses, rewards=rewards, **more
    )


def trajectory(sample, scores, *, uid="q-7", **more):
    return builders.trajectory(uid, sample, scores, **more)


def item(one, trajectories, meta=None, k_meta=1, **rules) -> Item:
    """A comparison with its trajectories, as `critique_page` counts them."""
    k = len(trajectories)
    counting = dataclasses.replace(TWO, ks=(1, k), k_metas=(1, k_meta), num_samples=k, **rules)
    trajectories = sorted(trajectories, key=lambda trajectory: trajectory.sample)
    drawn = Drawn("grpo", "self", False, [trajectories], meta and [meta])
    (found,), _ = suite_items(Suite("s", "", [one], (drawn,)), counting, 100)
    return found


def pair() -> Item:
    trajectories = [
        trajectory(2, (8, 3), correct=True, text="Specific Criteria: warmth\n\\boxed{8, 3}"),
        trajectory(0, (9, 2), order=(1, 0), correct=False, text="```\n## no heading\n```"),
        trajectory(1, None, correct=False, text="endless", finish="length"),
    ]
    return item(comparison(subset="manners"), trajectories, [-1.25, 3.0, 0.5])


def test_a_pair_reads_in_original_order():
    page = samples_page([pair()], note="GRPO, step 3.")
    assert page.startswith("# Samples\n\nGRPO, step 3.\n\n## 1. manners: q-7\n")
    assert "### Response 1 (gold: best)\n\n```text\nGood evening.\n```" in page
    assert "Gold: **Response 1** (rewards 9, 4)" in page
    # (8, 3) as shown and (9, 2) reversed: totals 8 + 2 and 3 + 9.
    assert "- Voting@3: **Response 2** ✗; totals 10, 12 of 2 samples" in page
    assert "- MetaRM@3: **Response 1** ✓; totals 8, 3 of 1 samples" in page
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
    assert page == samples_page([pair()], note="GRPO, step 3.")


def test_a_short_page_shows_right_and_wrong_and_says_what_it_leaves_out():
    trajectories = [trajectory(s, (3, 8), correct=False, text=f"text {s}.") for s in range(5)]
    trajectories.append(trajectory(5, (8, 3), correct=True, text="text 5."))
    page = samples_page([item(comparison(), trajectories)], max_texts=2)
    assert [s for s in range(6) if f"text {s}." in page] == [0, 5]
    assert "*4 more texts are not printed; their scores are above.*" in page
    assert "| 4 | 1 2 | 3 | 8 | ✗ |" in page
    assert "MetaRM" not in page and "meta score" not in page


def test_ties_silence_and_single_responses():
    tie = item(comparison(), [trajectory(0, (5, 5), correct=False)])
    silent = item(comparison(), [trajectory(0, None, correct=False)])
    single = item(
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
        return samples_page([item(comparison(), texts, meta, **more)], max_texts=4)

    assert "- Voting@4: **Response 1** ✓; totals 17, 11 of 3 samples" in fresh()
    assert "- Voting@4: **Response 2** ✗; totals 1, 2 of 3 samples" in fresh(aggregation="majority")
    page = fresh(parse="lenient")
    assert "- Voting@4: **Response 2** ✗; totals 18, 21 of 4 samples" in page
    assert "| 3 | 1 2 | 1 | 10 |" in page and "**Sample 3**: ✗; scores 1, 10;" in page
    assert "- MetaRM@4: **Response 1** ✓; totals 17, 11 of 3 samples" in fresh(k_meta=3)


def test_the_first_right_and_wrong_ones_and_a_single_are_chosen():
    right, wrong = [trajectory(0, (8, 3))], [trajectory(0, (3, 8), correct=False)]
    silent = [trajectory(0, None, correct=False)]
    one = item(comparison("one", ("4",), (1.0,)), [trajectory(0, (7,), uid="one", correct=None)])
    answers = [silent, right, wrong, right, wrong, right]
    items = [*(item(comparison(), own) for own in answers), one, one]
    assert few(items, 1) == [items[1], items[2], items[6]]
    assert few(items, 2) == [*items[1:5], items[6]]
    assert few(items[:1], 2) == items[:1]
