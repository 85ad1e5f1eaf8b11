"""Suites counted with a stub judge of known accuracy: numbers, protocols, costs, limits."""

import dataclasses
import itertools
import types
from collections import Counter

import numpy as np
import pytest

from configs import small_world
from experiments import benchmark, biases, costs, counting, protocols, report, sections
from experiments.counting import CountingRules, Drawn, Suite
from grm_jax.benchmarks import load_suite
from grm_jax.data.comparison import Comparison
from grm_jax.models import cost
from grm_jax.models.config import VARIANTS
from grm_jax.sampling.draw import DrawConfig, TooLong
from grm_jax.sampling.orders import orders_for
from grm_jax.text.prompts import Message
from tools.bench.harness import judge, judged

K = 8
RULES = CountingRules(
    ks=(1, 2, 4, 8), k_metas=(1, 1, 2, 4), num_subsets=16, aggregation="sum",
    tie_policy="uniform", parse_policy="chance", parse="strict", stratified=True, num_samples=K,
    seed=0,
)  # fmt: skip
MODEL = VARIANTS["gemma2_2b"]


def pairs(count, subset="", several_best=(), **meta):
    """Pairs of which every other one has the second response right."""
    found = []
    for i in range(count):
        tie = i in several_best
        rewards = (1.0, 1.0) if tie else (float(i % 2 == 0), float(i % 2))
        found.append(
            Comparison(f"{subset}/{i}", (Message("user", f"Which? {i}"),),
                       ("a" * (1 + i % 7), "b" * (1 + i % 5)), rewards, subset, meta,
                       several_best=tie)
        )  # fmt: skip
    return found


def suite_of(name, comparisons, accuracy=0.8, coverage="", k=K, seed=1):
    """A suite on which the stub drew k samples of each comparison."""
    found = judge(comparisons, "stub", k, accuracy, seed)
    groups = counting.group(comparisons, found)
    lengths = [100 + i for i in range(len(comparisons))]
    drawn = Drawn(
        "random_weights", "self", False, groups, prompt_tokens=lengths, model=MODEL
    )
    return Suite(name, coverage, comparisons, (drawn,))


def value(lines, label, column="accuracy"):
    (line,) = (line for line in lines if line.label == label)
    return line.interval(column)


def test_known_accuracy_is_found_in_every_number():
    subsets = ("Knowledge", "Reasoning", "Math", "Coding")
    suite = suite_of("judgebench", [c for s in subsets for c in pairs(100, s)])
    lines = counting.lines(suite, RULES)
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
    lines = counting.lines(suite, RULES)
    (line,) = (line for line in lines if line.label == "Voting@8")
    assert len(line.credits_C) == 60 and line.interval("accuracy").value == 1.0
    for name in ("three classes", "precision", "recall", "F1"):
        assert line.interval(name).value == 1.0  # a stub that is right calls ties ties
    autoj = suite_of("autoj", suite.comparisons, accuracy=1.0)
    assert value(counting.lines(autoj, RULES), "Voting@4", "agreement").value == 1.0


def test_lists_of_styles_are_scored_cell_by_cell():
    comparisons = [
        Comparison(f"{domain}/{i}", (Message("user", f"{domain} {i}"),), tuple("abcdef"),
                   (0.0, 1.0, 1.0, 0.0, 1.0, 0.0), domain, {"styles": [3, 0, 1, 4, 2, 5]},
                   several_best=True)
        for domain in ("chat", "math", "code", "safety-refuse", "safety-response")
        for i in range(20)
    ]  # fmt: skip
    lines = counting.lines(suite_of("rmbench_list", comparisons, accuracy=0.6), RULES)
    one = value(lines, "random weights, one sample", "RM-Bench")
    # A wrong sample scores one wrong response above all: three of nine cells are lost.
    assert one.low < 0.6 + 0.4 * 6 / 9 < one.high
    floor = value(lines, "random", "RM-Bench")
    assert abs(floor.value - 0.5) < 0.05


def test_single_responses_have_an_auc_for_the_blind_too():
    comparisons = [
        Comparison(f"s/{i}", (Message("user", "Right?"),), ("x" * (1 + i % 2),), (float(i % 2),),
                   f"t{i % 4 // 2}")
        for i in range(120)
    ]  # fmt: skip
    suite = suite_of("realmistake", comparisons, coverage="120 of 900 rows")
    lines = counting.lines(suite, RULES)
    table = report.suite_table(suite, lines, [])
    cells = {row.label: [cell.value for cell in row.cells] for row in table.rows}
    assert cells["random"] == cells["first"] == [0.5, 0.5]
    assert cells["longest"] == [1.0, 1.0] and cells["shortest"] == [0.0, 0.0]
    one, vote = cells["random weights, one sample"], cells["Voting@8"]
    assert abs(one[0] - 0.8) < 0.06 and vote[0] > 0.95
    # Its texts are on no page, and the tables of choices leave it out.
    run = types.SimpleNamespace(path=lambda *parts: pytest.fail("a private suite was written"))
    report.write_samples(run, [suite], RULES, {suite.name: lines})
    assert not protocols.table([suite], RULES, []).rows
    assert not biases.table([suite], RULES, []).rows


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
        lines = [line for line in counting.lines(suite, RULES) if line.section == counting.GREEDY]
        assert [line.label for line in lines] == ["random weights, greedy"]
        assert lines[0].interval("accuracy").value == accurate
        assert lines[0].interval("agreement").value == both
        assert lines[0].interval("consistency").value == 1.0


def test_partial_rows_are_told_in_every_table():
    suite = suite_of("llmbar", pairs(20, "Natural") + pairs(8, "Manual"),
                     coverage="28 of 419 rows")  # fmt: skip
    other = suite_of("own", pairs(6), coverage="6 rows")
    suites = [suite, other]
    lines = benchmark.count(suites, RULES)
    notes = report.notes(suites, RULES, DrawConfig(k=K))
    tables = [
        report.main_table(suites, lines, notes), report.differences_table(suites, RULES, lines),
        report.suite_table(suite, lines["llmbar"], notes), protocols.table(suites, RULES, notes),
        biases.table(suites, RULES, notes), costs.table(suites, RULES, lines),
    ]  # fmt: skip
    for table in tables:
        texts = [table.title, *table.notes, *(row.section for row in table.rows)]
        assert any("28 of 419 rows" in text for text in texts), table.title
    few = report.notes(suites, RULES, DrawConfig(k=K, order_policy="balanced", max_orders=1))
    assert "orders of 28 comparisons are not balanced" in few[0]
    assert not any("not balanced" in note for note in notes)
    assert report.suite_table(other, lines["own"], notes) is None
    said = " ".join(tables[0].notes)
    for word in ("'sum'", "'uniform'", "'strict'", "'chance'", "'random'"):
        assert word in said
    # Sets that are missing have no number.
    (row,) = (row for row in tables[2].rows if row.label == "Voting@8")
    by_name = dict(zip([c.name for c in tables[2].columns], row.cells, strict=True))
    assert by_name["Natural"].value is not None and by_name["GPTOut"].value is None


def test_protocols_agree_with_the_line_that_uses_them():
    suite = suite_of("own", pairs(60), accuracy=0.5, coverage="60 rows")
    shares = {}
    for policy, aggregation in (("strict", "borda"), ("half", "borda"), ("uniform", "sum")):
        rules = dataclasses.replace(RULES, tie_policy=policy, aggregation=aggregation)
        shares[policy, aggregation] = value(counting.lines(suite, rules), "Voting@8").value
    table = protocols.table([suite], RULES, [])
    names = [column.name for column in table.columns]
    cells = {row.label: dict(zip(names, row.cells, strict=True)) for row in table.rows}
    for (policy, aggregation), share in shares.items():
        for parser in protocols.PARSERS:
            assert cells[f"{parser}, {aggregation}"][policy].value == pytest.approx(share)
    assert shares["strict", "borda"] < shares["half", "borda"]  # there are ties
    picked = dataclasses.replace(RULES, tie_policy="shuffle_argmax", aggregation="majority")
    want = value(counting.lines(suite, picked), "Voting@8").value
    assert cells["strict, majority"]["shuffle_argmax"].value == pytest.approx(want)


def test_the_lenient_parser_counts_where_it_is_asked_to():
    suite = suite_of("own", pairs(10), accuracy=1.0)
    (drawn,) = suite.drawn
    groups = [
        [dataclasses.replace(t, scores=None, parse_reason="not_integer") for t in own]
        for own in drawn.groups
    ]
    suite = dataclasses.replace(suite, drawn=(drawn._replace(groups=groups),))
    strict = value(counting.lines(suite, RULES), "Voting@8").value
    lenient = dataclasses.replace(RULES, parse="lenient")
    assert (strict, value(counting.lines(suite, lenient), "Voting@8").value) == (0.5, 1.0)


def test_samples_md_counts_by_the_rules_of_the_tables(tmp_path):
    """Three samples, two of them for the second response, whose sum is the smaller one."""
    suite = suite_of("own", pairs(1), k=3)
    (drawn,) = suite.drawn
    scores = [(9, 1), (4, 5), (4, 5)]
    groups = [
        [
            dataclasses.replace(
                t, scores=None, lenient_scores=tuple(own[i] for i in t.order),
                parse_reason="not_integer", correct=None,
            )  # fmt: skip
            for t, own in zip(drawn.groups[0], scores, strict=True)
        ]
    ]
    suite = dataclasses.replace(suite, drawn=(drawn._replace(groups=groups),))
    run = types.SimpleNamespace(path=tmp_path.joinpath)
    rules = dataclasses.replace(RULES, ks=(1, 3), k_metas=(1, 1), num_samples=3)
    for change, want in (
        ({}, "Voting@3: **no verdict**"),
        ({"parse": "lenient"}, "Voting@3: **Response 1**"),
        ({"parse": "lenient", "aggregation": "majority"}, "Voting@3: **Response 2**"),
    ):
        own = dataclasses.replace(rules, **change)
        report.write_samples(run, [suite], own, {"own": counting.lines(suite, own)})
        assert want in (tmp_path / "samples.md").read_text()


def test_a_comparison_without_a_prompt_that_fits_has_no_verdict(monkeypatch):
    comparisons = pairs(3)
    drawn = judge(comparisons[:2], "stub", 2, 1.0, 0)
    measurement = object.__new__(benchmark.Measurement)
    measurement.run, measurement.engine = types.SimpleNamespace(tokenizer=None), None
    measurement._params = ("stub", None, "")
    monkeypatch.setattr(benchmark.rft, "draw_stage", lambda *_, **__: list(drawn))
    found = measurement._draw_suite("s", "grpo", DrawConfig(k=2), comparisons)
    assert found[: len(drawn)] == drawn
    assert [(t.uid, t.sample, t.scores, t.correct) for t in found[len(drawn) :]] == [
        ("/2", 0, None, False), ("/2", 1, None, False)
    ]  # fmt: skip
    one = Drawn("grpo", "self", False, counting.group(comparisons, found), model=MODEL,
                prompt_tokens=[1, 1, 1])  # fmt: skip
    rules = dataclasses.replace(
        RULES, ks=(1, 2), k_metas=(1, 1), num_samples=2, parse_policy="wrong"
    )
    lines = counting.lines(Suite("s", "", comparisons, (one,)), rules)
    assert value(lines, "GRPO, one sample").value == pytest.approx(2 / 3)


def test_advice_on_lengths_stands_where_length_is_the_problem(monkeypatch):
    measurement = object.__new__(benchmark.Measurement)
    measurement.run, measurement.engine, measurement._params = None, None, ("stub", None, "")
    for error, advised in ((ValueError("the template refuses"), False), (TooLong("long"), True)):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(benchmark.rft, "draw_stage", fail)
        with pytest.raises(ValueError, match="suite s: ") as caught:
            measurement._draw_suite("s", "grpo", DrawConfig(k=2), pairs(1))
        assert ("config.benchmark.buckets" in str(caught.value)) is advised


def test_shortening_lets_a_benchmark_drop_what_it_cannot_shorten():
    for most, allowed in ((0.0, 0.0), (0.5, 0.05)):
        draw = DrawConfig(k=1, max_truncated=most)
        section = types.SimpleNamespace(benchmark=types.SimpleNamespace(draw=draw))
        run = types.SimpleNamespace(config=section, draw_config=lambda draw: draw)
        assert benchmark._draw_config(run).max_dropped == allowed


def test_too_many_silent_samples_end_in_an_error():
    config = sections.BenchmarkConfig(
        suites="own", data_dir="", limit=1, greedy_stages="rft", sampled_stages="rft", ks="1",
        max_unparsed=0.1, max_cut=0.3,
    )  # fmt: skip
    suite = Suite("own", "", pairs(2), ())
    line = counting.Line(counting.GREEDY, "RFT, greedy", unparsed=0.1, cut=0.3)
    benchmark.require_readable([suite], {"own": [line]}, config)
    for name in ("unparsed", "cut"):
        bad = line._replace(**{name: 0.31})
        with pytest.raises(ValueError, match=f"own, RFT, greedy: 31.0% {name} .*max_{name}"):
            benchmark.require_readable([suite], {"own": [bad]}, config)


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
    lines = {"own": counting.lines(suite, RULES)}
    unknown = dataclasses.replace(suite, drawn=(drawn._replace(model=None),))
    assert not costs.table([unknown], RULES, lines).rows
    table = costs.table([suite], RULES, lines)
    assert [row.label for row in table.rows][1:] == ["Voting@2", "Voting@4", "Voting@8"]


def test_the_cost_figure_has_a_curve_a_method(tmp_path, monkeypatch):
    curves = []
    monkeypatch.setattr(costs.plots, "cost", lambda path, found, note: curves.extend(found))
    suite = suite_of("own", pairs(6))
    (drawn,) = suite.drawn
    greedy = drawn._replace(greedy=True, groups=[own[:1] for own in drawn.groups])
    suite = dataclasses.replace(suite, drawn=(greedy, drawn))
    costs.figure(tmp_path / "x.png", [suite], RULES, {"own": counting.lines(suite, RULES)})
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
    lines = {"rewardbench": counting.lines(suite, RULES)}
    costs.figure(tmp_path / "cost.png", [suite], RULES, lines)
    assert (tmp_path / "cost.png").stat().st_size > 10_000


def test_the_suites_of_a_config_are_loaded_and_judged(shared_data):
    config = small_world.get_config("gemma_tokens").benchmark
    names = ("rmb_bon", "rmb_pairs", "judgebench", "llmbar", "rmbench")
    settings = {key: config[key] for key in ("greedy_stages", "sampled_stages", "ks")}
    config = sections.BenchmarkConfig(
        suites=",".join(names), data_dir=str(shared_data), limit=20, **settings
    )
    loaded = benchmark.load_comparisons(None, config)
    rows = {"rmb_bon": 3786, "rmb_pairs": 3786, "judgebench": 350, "llmbar": 419, "rmbench": 1327}
    assert loaded.coverage == {name: f"20 of {rows[name]} rows" for name in names}
    assert Counter(c.n for c in loaded.comparisons["rmbench"]) == {2: 180}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmb_bon", "rmb_pairs", "judgebench", "llmbar", "rmbench"])
def test_whole_suites_of_real_rows(shared_data, name):
    comparisons = load_suite(name, shared_data)
    suite = suite_of(name, comparisons, k=2)
    rules = dataclasses.replace(RULES, ks=(1, 2), k_metas=(1, 1), num_samples=2, num_subsets=4)
    one = value(counting.lines(suite, rules), "random weights, one sample")
    error = 4 * (0.8 * 0.2 / (2 * len(comparisons))) ** 0.5
    assert abs(one.value - 0.8) < error + 0.005  # identical texts and shared credit aside
