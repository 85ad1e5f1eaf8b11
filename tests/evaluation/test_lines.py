"""Rows of a table: what a stub judge of known accuracy earns, and whose votes are whose."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from answers import EIGHT, TWO, drawn, pairs, suite_of, value
from builders import comparison, trajectory

from grm_jax.benchmarks import load_suite
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import bias, guiding
from grm_jax.evaluation.lines import Drawn, Suite, blind, count, single_auc
from grm_jax.sampling.orders import orders_for
from grm_jax.text.prompts import Message
from tools.bench.harness import judged


def test_only_the_last_stage_votes_without_its_name():
    right, wrong = (9, 1), (1, 9)
    suite = Suite(
        "s", "", [comparison(f"c{i}") for i in range(4)],
        (drawn("rft", wrong, greedy=True), drawn("grpo", right, greedy=True),
         drawn("rft", wrong), drawn("grpo", right)),
    )  # fmt: skip
    lines = count(suite, TWO)
    found = {line.label: float(np.mean(line.credits_C)) for line in lines}
    assert found["RFT, Voting@2"] == found["RFT, one sample"] == found["RFT, greedy"] == 0.0
    assert found["Voting@2"] == found["GRPO, one sample"] == found["GRPO, greedy"] == 1.0
    labels = [line.label for line in lines]
    assert len(set(labels)) == len(labels)


def test_verdicts_that_read_nothing_share_ties_in_length():
    cases = [((5, 5, 2), (1,)), ((1, 4), (0,)), ((3, 3), (0,)), ((1, 1, 1), (1, 2))]
    comparisons = [
        comparison(
            f"c{i}", responses=tuple("a" * length for length in lengths),
            rewards=tuple(float(j in right) for j in range(len(lengths))), several_best=True,
        )
        for i, (lengths, right) in enumerate(cases)
    ]  # fmt: skip
    lines = blind(Suite("s", "", comparisons, ()), TWO)
    assert {line.method.stage: line.credits_C.tolist() for line in lines} == {
        "first": [0.0, 1.0, 1.0, 0.0],
        "random": [1 / 3, 0.5, 0.5, 2 / 3],
        "longest": [0.5, 0.0, 0.5, 2 / 3],
        "shortest": [0.0, 1.0, 0.5, 2 / 3],
    }


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
    counting = dataclasses.replace(TWO, single_middle=5.5)
    (line,) = (line for line in count(suite, counting) if line.label == "Voting@2")
    assert single_auc(line.singles_MC, suite.labels).value == 0.75


def test_an_unparsed_single_of_a_judge_counts_the_median():
    scores = [(4,), (3,), (8.5,), None]  # the last, wrong one counts 4
    suite = singles(lambda i, s: scores[i])
    counting = dataclasses.replace(TWO, single_middle=None)
    (line,) = (line for line in count(suite, counting) if line.label == "Voting@2")
    assert single_auc(line.singles_MC, suite.labels).value == 3.5 / 4


def test_samples_that_were_put_together_are_the_same_in_both_orders():
    suite = suite_of("autoj", pairs(80), accuracy=0.6)
    (drawn,) = suite.drawn
    groups = [
        [dataclasses.replace(t, scores=t.original_scores(), order=(0, 1)) for t in own]
        for own in drawn.groups
    ]
    whole = dataclasses.replace(suite, drawn=(drawn._replace(groups=groups, ordered=False),))
    lines = count(whole, dataclasses.replace(EIGHT, tie_policy="strict"))
    assert 0.6 < value(lines, "Voting@8").value < 1.0
    assert value(lines, "Voting@8", "agreement").value == value(lines, "Voting@8").value
    assert value(lines, "Voting@8", "consistency").value == 1.0
    for one, empty in ((suite, False), (whole, True)):
        (row,) = bias.table([one], EIGHT, []).rows
        assert [cell.value is None for cell in row.cells[:5]] == [empty] * 5
        assert row.cells[5].value is not None


def test_the_auc_of_singles_is_the_mann_whitney_statistic_of_each_subset_of_samples():
    rng = np.random.default_rng(0)
    scores_MC, labels_C = rng.integers(1, 6, (3, 80)).astype(float), rng.integers(0, 2, 80)
    ups = [
        scipy.stats.mannwhitneyu(own_C[labels_C == 1], own_C[labels_C == 0]).statistic
        for own_C in scores_MC
    ]
    got = single_auc(scores_MC, labels_C)
    pairs = (labels_C == 1).sum() * (labels_C == 0).sum()
    assert got.value == pytest.approx(np.mean(ups) / pairs)
    assert got.low < got.value < got.high
    assert single_auc(scores_MC, np.ones(80)) is None


def test_singles_have_no_votes_to_guide():
    suite = singles(lambda i, s: (int(s == 0),))
    assert count(suite, TWO)
    assert guiding.guides(suite, TWO) == []


def test_known_accuracy_is_found_in_every_number():
    subsets = ("Knowledge", "Reasoning", "Math", "Coding")
    suite = suite_of("judgebench", [c for s in subsets for c in pairs(100, s)])
    lines = count(suite, EIGHT)
    one = value(lines, "random weights, one sample")
    assert one.low < 0.8 < one.high
    # One sample in each order: right needs both (0.64), for the stub never ties.
    both = value(lines, "random weights, one sample", "both orders")
    assert both.low < 0.64 < both.high
    assert value(lines, "Voting@4", "both orders").value > 0.9
    (most,) = (line for line in lines if line.label == "Voting@8")
    assert "both orders" not in most.measured  # only four samples in each order
    assert value(lines, "random", "both orders").value == 0.25
    assert value(lines, "first", "both orders").value == 0.0
    assert value(lines, "first").value == 0.5


def test_ties_of_people_are_a_class_and_no_choice():
    suite = suite_of("pandalm", pairs(90, several_best=range(0, 90, 3)), accuracy=1.0)
    lines = count(suite, EIGHT)
    (line,) = (line for line in lines if line.label == "Voting@8")
    assert len(line.credits_C) == 60 and line.interval("accuracy").value == 1.0
    for name in ("three classes", "precision", "recall", "F1"):
        assert line.interval(name).value == 1.0  # a stub that is right calls ties ties
    autoj = suite_of("autoj", suite.comparisons, accuracy=1.0)
    assert value(count(autoj, EIGHT), "Voting@4", "agreement").value == 1.0


def test_lists_of_styles_are_scored_cell_by_cell():
    comparisons = [
        Comparison(f"{domain}/{i}", (Message("user", f"{domain} {i}"),), tuple("abcdef"),
                   (0.0, 1.0, 1.0, 0.0, 1.0, 0.0), domain, {"styles": [3, 0, 1, 4, 2, 5]},
                   several_best=True)
        for domain in ("chat", "math", "code", "safety-refuse", "safety-response")
        for i in range(20)
    ]  # fmt: skip
    lines = count(suite_of("rmbench_list", comparisons, accuracy=0.6), EIGHT)
    one = value(lines, "random weights, one sample", "RM-Bench")
    # A wrong sample scores one wrong response above all: three of nine cells are lost.
    assert one.low < 0.6 + 0.4 * 6 / 9 < one.high
    floor = value(lines, "random", "RM-Bench")
    assert abs(floor.value - 0.5) < 0.05


def test_greedy_in_both_orders_is_one_judgement_an_order():
    comparisons = pairs(40)
    rng = np.random.default_rng(0)
    for accuracy, accurate, both in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)):
        groups = [
            [judged(c, "stub", s, order, accuracy, rng)
             for s, order in enumerate(orders_for("both", 2, 2, uid=c.uid, seed=0))]
            for c in comparisons
        ]  # fmt: skip
        assert [t.order for t in groups[0]] == [(0, 1), (1, 0)]
        drawn = Drawn("random_weights", "self", True, groups)
        suite = Suite("autoj", "", comparisons, (drawn,))
        lines = [line for line in count(suite, EIGHT) if line.method.kind == "greedy"]
        assert [line.label for line in lines] == ["random weights, greedy"]
        assert lines[0].interval("accuracy").value == accurate
        assert lines[0].interval("agreement").value == both
        assert lines[0].interval("consistency").value == 1.0


def test_the_lenient_parser_counts_where_it_is_asked_to():
    suite = suite_of("own", pairs(10), accuracy=1.0)
    (drawn,) = suite.drawn
    groups = [
        [dataclasses.replace(t, scores=None, parse_reason="not_integer") for t in own]
        for own in drawn.groups
    ]
    suite = dataclasses.replace(suite, drawn=(drawn._replace(groups=groups),))
    strict = value(count(suite, EIGHT), "Voting@8").value
    lenient = dataclasses.replace(EIGHT, parse="lenient")
    assert (strict, value(count(suite, lenient), "Voting@8").value) == (0.5, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmb_bon", "rmb_pairs", "judgebench", "llmbar", "rmbench"])
def test_whole_suites_of_real_rows(shared_data, name):
    comparisons = load_suite(name, shared_data)
    suite = suite_of(name, comparisons, k=2)
    counting = dataclasses.replace(EIGHT, ks=(1, 2), k_metas=(1, 1), num_samples=2, num_subsets=4)
    one = value(count(suite, counting), "random weights, one sample")
    error = 4 * (0.8 * 0.2 / (2 * len(comparisons))) ** 0.5
    assert abs(one.value - 0.8) < error + 0.005  # identical texts and shared credit aside
