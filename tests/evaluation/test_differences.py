"""Which rows are compared: stages, votes, arms and baselines."""

import dataclasses

import numpy as np
from answers import TWO, drawn
from builders import comparison

from grm_jax.evaluation.differences import pairs
from grm_jax.evaluation.lines import Line, Suite, count
from grm_jax.evaluation.method import Method


def test_votes_are_compared_with_their_own_stage():
    stages = ("cold_start", "rft", "grpo")
    methods = [Method("rft", kind="greedy"), Method("grpo", kind="greedy")]
    methods += [Method(stage, k=k) for stage in stages for k in (1, 8)]
    found = {pair.label: (pair.a, pair.b) for pair in pairs((1, 8), methods)}
    vote = Method("grpo", k=8)
    assert found["Voting@8 − GRPO, greedy"] == (vote, Method("grpo", kind="greedy"))
    assert found["Voting@8 − GRPO, one sample"] == (vote, Method("grpo"))
    assert found["GRPO − RFT, one sample"] == (Method("grpo"), Method("rft"))
    assert found["GRPO − RFT, Voting@8"] == (vote, Method("rft", k=8))
    assert found["RFT − cold start, Voting@8"] == (Method("rft", k=8), Method("cold_start", k=8))
    assert not any(label.startswith("Voting@8 − RFT") for label in found)
    # Whichever of them is the last.
    swapped = [Method(stage, k=k) for stage in ("grpo", "rft") for k in (1, 8)]
    found = {pair.label: (pair.a, pair.b) for pair in pairs((1, 8), swapped)}
    assert found["GRPO − RFT, Voting@8"] == (vote, Method("rft", k=8))
    assert found["Voting@8 − RFT, one sample"] == (Method("rft", k=8), Method("rft"))


def test_arms_and_other_rules_are_compared_with_the_same_line_of_the_run():
    own = [Method("grpo"), Method("grpo", k=8), Method("grpo", kind="guided", k=8)]
    arm, rule = Method("grpo", "kl_0", k=8), Method("grpo", kind="guided", k=8, rule="k_meta: 1")
    found = {(section, label): (a, b) for section, label, a, b in pairs((1, 8), [*own, arm, rule])}
    assert found["full − kl 0", "Voting@8"] == (own[1], arm)
    assert found["full − k_meta: 1", "MetaRM@8"] == (own[2], rule)
    assert found["steps", "MetaRM@8 − Voting@8"] == (own[2], own[1])
    assert not pairs((1, 8), [own[0], arm])


def test_trained_baselines_stand_in_their_sections_and_are_compared_with_the_last_stage():
    counting = dataclasses.replace(TWO, ks=(1, 2))
    credits = np.array([1.0, 0.0, 0.0, 0.0])
    methods = (Method("pairrm", kind="scalar"), Method("cloud"), Method("cloud", k=2))
    others = tuple(Line(method, credits_C=credits) for method in methods)
    suite = Suite(
        "s", "", [comparison(f"c{i}") for i in range(4)],
        (drawn("grpo", (9, 1), greedy=True), drawn("grpo", (9, 1))), others,
    )  # fmt: skip
    lines = count(suite, counting)
    sections = [line.section for line in lines]
    assert sections == sorted(sections, key=sections.index)
    (pairrm,) = (line for line in lines if line.label == "PairRM")
    assert pairrm.interval("accuracy").value == 0.25
    methods = [line.method for line in lines]
    found = {pair.label: (pair.a, pair.b) for pair in pairs(counting.ks, methods)}
    rival = Method("pairrm", kind="scalar")
    assert found["GRPO, greedy − PairRM"] == (Method("grpo", kind="greedy"), rival)
    assert found["Voting@2 − PairRM"] == (Method("grpo", k=2), rival)
    assert not any(label.startswith(("CLoud", "Voting@2 − CLoud")) for label in found)
