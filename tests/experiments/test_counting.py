"""Rows and differences of a benchmark: whose votes are whose when several stages vote."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from experiments import counting, guiding, protocols, report
from experiments.counting import GREEDY, SAMPLED, CountingRules, Drawn, Line, Suite
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.text.prompts import Message

RULES = CountingRules((1, 2), (1, 1), 4, "sum", "uniform", "chance", "strict", False, 2, 0)


def comparison(i):
    return Comparison(
        uid=f"c{i}", messages=(Message("user", "q"),), responses=("a", "b"), rewards=(1.0, 0.0)
    )


def trajectory(uid, sample, scores, *, order=(0, 1), correct=None):
    if correct is None:
        correct = scores is not None and scores[0] > scores[1]
    return Trajectory(
        fingerprint="f", stage="s", step=0, uid=uid, sample=sample, seed=(0, 0), order=order,
        token_ids=(1,), logprobs=(0.0,), sampling_logprobs=(0.0,), text="", scores=scores,
        parse_reason="ok" if scores else "no box", lenient_scores=scores, finish="stop",
        correct=correct, hinted=False, truncated=False,
    )  # fmt: skip


def drawn(stage, scores, greedy=False):
    """A stage that answers every comparison alike."""
    groups = [[trajectory(f"c{i}", s, scores) for s in range(1 if greedy else 2)] for i in range(4)]
    return Drawn(stage, "self", greedy, groups)


def test_only_the_last_stage_votes_without_its_name():
    right, wrong = (9, 1), (1, 9)
    suite = Suite(
        "s", "", [comparison(i) for i in range(4)],
        (drawn("rft", wrong, greedy=True), drawn("grpo", right, greedy=True),
         drawn("rft", wrong), drawn("grpo", right)),
    )  # fmt: skip
    lines = counting.lines(suite, RULES)
    found = {line.label: float(np.mean(line.credits_C)) for line in lines}
    assert found["RFT, Voting@2"] == found["RFT, one sample"] == found["RFT, greedy"] == 0.0
    assert found["Voting@2"] == found["GRPO, one sample"] == found["GRPO, greedy"] == 1.0
    labels = [line.label for line in lines]
    assert len(set(labels)) == len(labels)


def test_votes_are_compared_with_their_own_stage():
    lines = [
        Line(GREEDY, "RFT, greedy"), Line(GREEDY, "GRPO, greedy"),
        Line(SAMPLED, "cold start, one sample"), Line(SAMPLED, "cold start, Voting@8"),
        Line(SAMPLED, "RFT, one sample"), Line(SAMPLED, "RFT, Voting@8"),
        Line(SAMPLED, "GRPO, one sample"), Line(SAMPLED, "Voting@8"),
    ]  # fmt: skip
    pairs = {label: (a.label, b.label) for label, a, b in report.pairs((1, 8), lines)}
    assert pairs["Voting@8 − GRPO, greedy"] == ("Voting@8", "GRPO, greedy")
    assert pairs["Voting@8 − GRPO, one sample"] == ("Voting@8", "GRPO, one sample")
    assert pairs["GRPO − RFT, one sample"] == ("GRPO, one sample", "RFT, one sample")
    assert pairs["GRPO − RFT, Voting@8"] == ("Voting@8", "RFT, Voting@8")
    assert pairs["RFT − cold start, Voting@8"] == ("RFT, Voting@8", "cold start, Voting@8")
    assert not any(label.startswith("Voting@8 − RFT") for label in pairs)
    # Whichever of them is the last, and votes without its name.
    swapped = [
        Line(SAMPLED, "GRPO, one sample"), Line(SAMPLED, "GRPO, Voting@8"),
        Line(SAMPLED, "RFT, one sample"), Line(SAMPLED, "Voting@8"),
    ]  # fmt: skip
    pairs = {label: (a.label, b.label) for label, a, b in report.pairs((1, 8), swapped)}
    assert pairs["GRPO − RFT, Voting@8"] == ("GRPO, Voting@8", "Voting@8")


def test_votes_without_a_stage_have_that_of_their_section_or_of_the_run():
    keys = [
        (GREEDY, "GRPO, greedy"), (SAMPLED, "RFT, one sample"), (SAMPLED, "RFT, Voting@2"),
        (SAMPLED, "GRPO, one sample"), (SAMPLED, "Voting@2"), (SAMPLED, "MetaRM@2"),
        (SAMPLED, "CLoud, one sample"), (SAMPLED, "CLoud, Voting@2"),
        ("an arm", "RFT, one sample"), ("an arm", "Voting@2"), ("k_meta: 1", "MetaRM@2"),
    ]  # fmt: skip
    changed = {key: full for key, full in counting.with_stages(keys).items() if key != full}
    assert changed == {
        (SAMPLED, "Voting@2"): (SAMPLED, "GRPO, Voting@2"),
        (SAMPLED, "MetaRM@2"): (SAMPLED, "GRPO, MetaRM@2"),
        ("an arm", "Voting@2"): ("an arm", "RFT, Voting@2"),
        ("k_meta: 1", "MetaRM@2"): ("k_meta: 1", "GRPO, MetaRM@2"),
    }


def test_votes_by_other_rules_are_those_that_a_run_with_these_rules_would_count():
    rng = np.random.default_rng(0)
    groups = [
        [trajectory(f"c{i}", s, tuple(map(int, rng.integers(1, 11, 2)))) for s in range(8)]
        for i in range(6)
    ]
    meta = rng.normal(size=(6, 8)).tolist()
    suite = Suite(
        "s", "", [comparison(i) for i in range(6)], (Drawn("grpo", "self", False, groups, meta),)
    )
    rules = dataclasses.replace(RULES, ks=(1, 2, 4, 8), k_metas=(1, 1, 2, 4), num_samples=8)
    found = {(line.section, line.label): line for line in protocols.lines(suite, rules)}
    sections = {section for section, _ in found}
    assert sections == {
        "aggregation: mean", "aggregation: median", "aggregation: majority", "aggregation: borda",
        "k_meta: 1", "k_meta: k/4", "k_meta: k", "meta RM: weights",
    }  # fmt: skip
    others = {
        "aggregation: majority": dataclasses.replace(rules, aggregation="majority"),
        "k_meta: 1": dataclasses.replace(rules, k_metas=(1, 1, 1, 1)),
        "k_meta: k/4": dataclasses.replace(rules, k_metas=(1, 1, 1, 2)),
    }
    for section, own in others.items():
        at = {line.label: line for line in counting.lines(suite, own)}
        np.testing.assert_array_equal(
            found[section, "MetaRM@8"].credits_C, at["MetaRM@8"].credits_C
        )
    at = {line.label: line for line in counting.lines(suite, rules)}
    np.testing.assert_array_equal(found["k_meta: k", "MetaRM@8"].credits_C,
                                  at["Voting@8"].credits_C)  # fmt: skip
    assert ("k_meta: 1", "Voting@8") not in found
    # Each sample's scores times the sigmoid of its meta score, in a loop.
    totals_CN = [
        sum(np.array(t.scores) / (1 + np.exp(-m)) for t, m in zip(own, scores, strict=True))
        for own, scores in zip(groups, meta, strict=True)
    ]
    want_C = [float(first > second) for first, second in totals_CN]
    np.testing.assert_array_equal(found["meta RM: weights", "MetaRM@8"].credits_C, want_C)
    assert want_C != at["Voting@8"].credits_C.tolist()


def test_trained_baselines_stand_in_their_sections_and_are_compared_with_the_last_stage():
    rules = dataclasses.replace(RULES, ks=(1, 2))
    credits = np.array([1.0, 0.0, 0.0, 0.0])
    others = (Line(GREEDY, "PairRM", credits), Line(SAMPLED, "CLoud, one sample", credits),
              Line(SAMPLED, "CLoud, Voting@2", credits))  # fmt: skip
    suite = Suite(
        "s", "", [comparison(i) for i in range(4)],
        (drawn("grpo", (9, 1), greedy=True), drawn("grpo", (9, 1))), others,
    )  # fmt: skip
    lines = counting.lines(suite, rules)
    sections = [line.section for line in lines]
    assert sections == sorted(sections, key=sections.index)
    (pairrm,) = (line for line in lines if line.label == "PairRM")
    assert pairrm.interval("accuracy").value == 0.25
    found = {label: (a.label, b.label) for label, a, b in report.pairs(rules.ks, lines)}
    assert found["GRPO, greedy − PairRM"] == ("GRPO, greedy", "PairRM")
    assert found["Voting@2 − PairRM"] == ("Voting@2", "PairRM")
    assert not any(label.startswith(("CLoud", "Voting@2 − CLoud")) for label in found)


def test_a_simulated_meta_rm_has_its_auc_and_pays_if_it_is_good():
    rng = np.random.default_rng(1)
    groups = []
    for i in range(60):
        share = rng.uniform(0.2, 0.8)
        right = rng.random(16) < share
        groups.append([trajectory(f"c{i}", s, (9, 4) if right[s] else (3, 8)) for s in range(16)])
    suite = Suite(
        "s", "", [comparison(i) for i in range(60)], (Drawn("grpo", "self", False, groups),)
    )
    rules = dataclasses.replace(RULES, ks=(1, 4, 16), k_metas=(1, 2, 8), num_samples=16)
    drawn = counting.last_sampled(suite)
    simulated = guiding.within_auc(guiding.simulated(drawn, 0.8, 0))
    assert simulated.value == pytest.approx(0.8, abs=0.02)
    found = guiding.guides(suite, rules)
    assert [one.label for one in found] == [f"simulated, {auc:g}" for auc in guiding.LEVELS]
    worst, best = found[0], found[-1]
    assert abs(worst.auc - 0.5) < 0.02 and set(best.gains) == {4, 16}
    assert worst.gains[16].value < 0 < best.gains[16].low
    # The gain is that of the lines of a run with these meta scores.
    perfect = drawn._replace(meta=[[float(t.correct) for t in own] for own in groups])
    one = dataclasses.replace(suite, drawn=(perfect,))
    at = {line.label: line.credits_C.mean() for line in counting.lines(one, rules)}
    (of_run,) = [guide for guide in guiding.guides(one, rules) if guide.label == guiding.TRAINED]
    assert of_run.auc == 1.0
    assert of_run.gains[16].value == pytest.approx(at["MetaRM@16"] - at["Voting@16"])


def singles(scores_of, count=4):
    """A suite of single responses, right and wrong in turn; scores by (comparison, sample)."""
    comparisons = [
        Comparison(uid=f"c{i}", messages=(Message("user", "q"),), responses=("a",),
                   rewards=(float(i % 2 == 0),))
        for i in range(count)
    ]  # fmt: skip
    groups = [
        [
            trajectory(f"c{i}", s, scores_of(i, s), order=(0,),
                       correct=(scores_of(i, s) == (1,)) is (i % 2 == 0))
            for s in range(2)
        ]
        for i in range(count)
    ]  # fmt: skip
    return Suite("s", "", comparisons, (Drawn("grpo", "self", False, groups),))


def test_an_unparsed_single_counts_the_middle_of_its_range():
    """Right ones have 4 and 8 of 10, of the wrong ones one has 3 and one no score: 3 of 4 pairs."""
    scores = [(4,), (3,), (8,), None]
    suite = singles(lambda i, s: scores[i])
    rules = dataclasses.replace(RULES, single_middle=5.5)
    (line,) = (line for line in counting.lines(suite, rules) if line.label == "Voting@2")
    assert counting.single_auc(line.singles_MC, suite.labels).value == 0.75


def test_the_auc_of_singles_is_the_mann_whitney_statistic_of_each_subset_of_samples():
    rng = np.random.default_rng(0)
    scores_MC, labels_C = rng.integers(1, 6, (3, 80)).astype(float), rng.integers(0, 2, 80)
    ups = [
        scipy.stats.mannwhitneyu(own_C[labels_C == 1], own_C[labels_C == 0]).statistic
        for own_C in scores_MC
    ]
    got = counting.single_auc(scores_MC, labels_C)
    pairs = (labels_C == 1).sum() * (labels_C == 0).sum()
    assert got.value == pytest.approx(np.mean(ups) / pairs)
    assert got.low < got.value < got.high
    assert counting.single_auc(scores_MC, np.ones(80)) is None


def test_singles_have_no_votes_to_guide():
    suite = singles(lambda i, s: (int(s == 0),))
    assert counting.lines(suite, RULES)
    assert guiding.guides(suite, RULES) == []


def test_the_auc_of_a_meta_rm_is_over_samples_that_vote():
    """A meta RM that sees nothing but broken form ranks no sample that is counted."""
    own = [trajectory("c0", s, scores) for s, scores in enumerate([(9, 1), (1, 9), None])]
    drawn = Drawn("grpo", "self", False, [own], [[1.0, 1.0, 0.0]])
    assert guiding.within_auc(drawn).value == 0.5


def test_nothing_is_guided_where_all_samples_of_a_comparison_are_alike():
    suite = Suite("s", "", [comparison(i) for i in range(4)], (drawn("grpo", (9, 1)),))
    assert guiding.guides(suite, RULES) == []
