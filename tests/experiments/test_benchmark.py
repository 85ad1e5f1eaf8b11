"""The benchmark: its suites, what does not fit, and where it ends in an error."""

import dataclasses
import types
from collections import Counter

import pytest

from configs import small_world
from experiments import measurement
from experiments.config import build
from experiments.measurement import Measurement
from experiments.stages import benchmark
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation.lines import CountingRules, Drawn, Line, Suite, count, group
from grm_jax.evaluation.method import Method
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.draw import TooLong
from grm_jax.text.prompts import Message
from tools.bench.harness import judge

RULES = CountingRules(
    ks=(1, 2), k_metas=(1, 1), num_subsets=16, aggregation="sum", tie_policy="uniform",
    parse_policy="wrong", parse="strict", stratified=True, num_samples=2, seed=0,
)  # fmt: skip


def pairs(count):
    return [
        Comparison(f"/{i}", (Message("user", f"Which? {i}"),), ("a", "b"), (1.0, 0.0))
        for i in range(count)
    ]


def test_a_comparison_without_a_prompt_that_fits_has_no_verdict(monkeypatch):
    comparisons = pairs(3)
    drawn = judge(comparisons[:2], "stub", 2, 1.0, 0)
    stub = object.__new__(Measurement)
    stub.run, stub.engine = types.SimpleNamespace(tokenizer=None), None
    stub._params = ("stub", None)
    monkeypatch.setattr(measurement.drawing, "draw_stage", lambda *_, **__: list(drawn))
    found = stub._draw_suite("s", "grpo", DrawConfig(k=2), comparisons)
    assert found[: len(drawn)] == drawn
    assert [(t.uid, t.sample, t.scores, t.correct) for t in found[len(drawn) :]] == [
        ("/2", 0, None, False), ("/2", 1, None, False)
    ]  # fmt: skip
    one = Drawn("grpo", "self", False, group(comparisons, found))
    (line,) = (
        line for line in count(Suite("s", "", comparisons, (one,)), RULES)
        if line.method == Method("grpo")
    )  # fmt: skip
    assert line.interval("accuracy").value == pytest.approx(2 / 3)


def test_advice_on_lengths_stands_where_length_is_the_problem(monkeypatch):
    stub = object.__new__(Measurement)
    stub.run, stub.engine, stub._params = None, None, ("stub", None)
    for error, advised in ((ValueError("the template refuses"), False), (TooLong("long"), True)):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(measurement.drawing, "draw_stage", fail)
        with pytest.raises(ValueError, match="suite s: ") as caught:
            stub._draw_suite("s", "grpo", DrawConfig(k=2), pairs(1))
        assert ("config.benchmark.buckets" in str(caught.value)) is advised


def test_shortening_lets_a_benchmark_drop_what_it_cannot_shorten():
    for most, allowed in ((0.0, 0.0), (0.5, 0.05)):
        draw = DrawConfig(k=1, max_truncated=most)
        section = types.SimpleNamespace(benchmark=types.SimpleNamespace(draw=draw))
        run = types.SimpleNamespace(config=section)
        assert measurement._draw_config(run).max_dropped == allowed


def test_too_many_silent_samples_end_in_an_error():
    config = build(small_world.get_config("ci")).benchmark
    config = dataclasses.replace(config, max_unparsed=0.1, max_cut=0.3)
    line = Line(Method("rft", kind="greedy"), unparsed=0.1, cut=0.3)
    benchmark.require_readable([Suite("own", "", pairs(2), (), lines=(line,))], config)
    for name in ("unparsed", "cut"):
        bad = line._replace(**{name: 0.31})
        with pytest.raises(ValueError, match=f"own, RFT, greedy: 31.0% {name} .*max_{name}"):
            benchmark.require_readable([Suite("own", "", pairs(2), (), lines=(bad,))], config)


def test_the_suites_of_a_config_are_loaded_and_judged(shared_data):
    config = build(small_world.get_config("gemma_tokens")).benchmark
    names = ("rmb_bon", "rmb_pairs", "judgebench", "llmbar", "rmbench")
    config = dataclasses.replace(
        config, suites=",".join(names), data_dir=str(shared_data), limit=20
    )
    loaded = measurement.load_comparisons(None, config)
    rows = {"rmb_bon": 3786, "rmb_pairs": 3786, "judgebench": 350, "llmbar": 419, "rmbench": 1327}
    assert loaded.coverage == {name: f"20 of {rows[name]} rows" for name in names}
    assert Counter(c.n for c in loaded.comparisons["rmbench"]) == {2: 180}
