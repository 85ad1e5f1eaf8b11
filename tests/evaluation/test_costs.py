"""Tokens and FLOPs of a verdict."""

import dataclasses
import itertools

import numpy as np
import pytest
from answers import EIGHT, MODEL, pairs, suite_of

from grm_jax.evaluation import costs
from grm_jax.evaluation.lines import counted
from grm_jax.models import cost
from grm_jax.models.variants import VARIANTS


@pytest.mark.parametrize("counts", [(4, 4), (1, 5, 2), (8,), (1,) * 8])
def test_expected_number_of_orders(counts):
    names = [order for order, count in enumerate(counts) for _ in range(count)]
    for k in range(1, 9):
        subsets = list(itertools.combinations(names, k))
        want = np.mean([len(set(subset)) for subset in subsets])
        assert costs.expected_orders(counts, k, stratified=False) == pytest.approx(want)
        assert costs.expected_orders(counts, k, stratified=True) == min(k, len(counts))


def test_costs_are_those_of_the_model():
    suite = suite_of("own", pairs(3))
    (drawn,) = suite.drawn
    meta_model = VARIANTS["gemma2_9b"]
    drawn = drawn._replace(meta_model=meta_model)
    spent = costs.costs_of(drawn, (1, 8), guided=True, stratified=True)
    assert [one.generated for one in spent] == [16, 128]
    assert [one.prefilled for one in spent] == [101, 202]  # two orders of prompts of about 101
    want = [
        2 * cost.forward_flops(MODEL, [length - 1], output_tokens=0)
        + cost.decode_cost(MODEL, prompts=2, samples=4, prompt_length=length, new=16).flops
        + 8 * cost.forward_flops(meta_model, [length + 16], output_tokens=0)
        for length in (100, 101, 102)
    ]
    assert spent[1].flops == pytest.approx(np.mean(want))
    unknown = dataclasses.replace(suite, drawn=(drawn._replace(model=None),))
    assert not costs.table([unknown], EIGHT).rows
    table = costs.table(counted([suite], EIGHT), EIGHT)
    assert [row.label for row in table.rows][1:] == ["Voting@2", "Voting@4", "Voting@8"]


def test_the_cost_figure_has_a_curve_a_method(tmp_path, monkeypatch):
    curves = []
    monkeypatch.setattr(costs.plots, "cost", lambda path, found, note: curves.extend(found))
    suite = suite_of("own", pairs(6))
    (drawn,) = suite.drawn
    greedy = drawn._replace(greedy=True, groups=[own[:1] for own in drawn.groups])
    suite = dataclasses.replace(suite, drawn=(greedy, drawn))
    costs.figure(tmp_path / "x.png", counted([suite], EIGHT), EIGHT)
    assert [(c.label, len(c.ks)) for c in curves] == [("random weights, greedy", 1), ("voting", 4)]


def test_the_papers_curves_stand_in_the_cost_figure_of_its_benchmark(tmp_path):
    rows = [dataclasses.replace(c, subset="hep-cpp") for c in pairs(4)]
    assert costs.published(suite_of("own", rows)) == []
    suite = suite_of("rewardbench", rows)
    curves = {curve.label: curve for curve in costs.published(suite)}
    voting = curves["paper: GRM-27B, voting"]
    assert voting.published and voting.intervals[-1].value == 0.885
    length, new = 102, 280  # mean prompt of the stub, mean of Figure 7
    model = VARIANTS["gemma2_27b"]
    one = cost.forward_flops(model, [length - 1], output_tokens=0)
    one += cost.sample_flops(model, length, new)
    assert voting.ks == pytest.approx([k * one for k in (1, 2, 4, 8, 16, 32)])
    guided = one + cost.forward_flops(model, [length + new], output_tokens=0)
    assert curves["paper: GRM-27B, guided"].ks[3] == pytest.approx(8 * guided)
    assert len(curves["paper: GRM-16B, voting"].ks) == 4
    costs.figure(tmp_path / "cost.png", counted([suite], EIGHT), EIGHT)
    assert (tmp_path / "cost.png").stat().st_size > 10_000
