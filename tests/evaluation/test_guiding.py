"""Guided voting by simulated and trained meta reward models."""

import dataclasses

import numpy as np
import pytest
from answers import TWO, drawn
from builders import comparison, trajectory

from grm_jax.evaluation import guiding
from grm_jax.evaluation.lines import Drawn, Suite, count, last_sampled


def test_a_simulated_meta_rm_has_its_auc_and_pays_if_it_is_good():
    rng = np.random.default_rng(1)
    groups = []
    for i in range(60):
        share = rng.uniform(0.2, 0.8)
        right = rng.random(16) < share
        groups.append([trajectory(f"c{i}", s, (9, 4) if right[s] else (3, 8)) for s in range(16)])
    suite = Suite(
        "s", "", [comparison(f"c{i}") for i in range(60)], (Drawn("grpo", "self", False, groups),)
    )
    counting = dataclasses.replace(TWO, ks=(1, 4, 16), k_metas=(1, 2, 8), num_samples=16)
    drawn = last_sampled(suite)
    simulated = guiding.within_auc(guiding.simulated(drawn, 0.8, 0))
    assert simulated.value == pytest.approx(0.8, abs=0.02)
    found = guiding.guides(suite, counting)
    assert [one.label for one in found] == [f"simulated, {auc:g}" for auc in guiding.LEVELS]
    worst, best = found[0], found[-1]
    assert abs(worst.auc - 0.5) < 0.02 and set(best.gains) == {4, 16}
    assert worst.gains[16].value < 0 < best.gains[16].low
    # The gain is that of the lines of a run with these meta scores.
    perfect = drawn._replace(meta=[[float(t.correct) for t in own] for own in groups])
    one = dataclasses.replace(suite, drawn=(perfect,))
    at = {line.label: line.credits_C.mean() for line in count(one, counting)}
    (of_run,) = [guide for guide in guiding.guides(one, counting) if guide.label == guiding.TRAINED]
    assert of_run.auc == 1.0
    assert of_run.gains[16].value == pytest.approx(at["MetaRM@16"] - at["Voting@16"])


def test_the_auc_of_a_meta_rm_is_over_samples_that_vote():
    """A meta RM that sees nothing but broken form ranks no sample that is counted."""
    own = [trajectory("c0", s, scores) for s, scores in enumerate([(9, 1), (1, 9), None])]
    drawn = Drawn("grpo", "self", False, [own], [[1.0, 1.0, 0.0]])
    assert guiding.within_auc(drawn).value == 0.5


def test_nothing_is_guided_where_all_samples_of_a_comparison_are_alike():
    suite = Suite("s", "", [comparison(f"c{i}") for i in range(4)], (drawn("grpo", (9, 1)),))
    assert guiding.guides(suite, TWO) == []
