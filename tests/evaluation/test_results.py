"""What was measured comes back from disk, also from files of the version before."""

import dataclasses
import json

import numpy as np
import pytest
from answers import EIGHT, pairs, suite_of

from grm_jax.evaluation import results
from grm_jax.evaluation.lines import count, counted
from grm_jax.evaluation.method import GREEDY, SAMPLED, Method

ARMS = {"kl 0": "grpo.kl_coef=0.0"}


def written(folder):
    """Results of a stub judge with an arm; returns its lines by method."""
    suite = suite_of("judgebench", [c for s in ("Math", "Coding") for c in pairs(6, s)])
    (own,) = suite.drawn
    greedy = own._replace(greedy=True, groups=[group[:1] for group in own.groups])
    arm = own._replace(arm="kl_0")
    guided = own._replace(meta=[[float(t.sample) for t in group] for group in own.groups])
    suite = dataclasses.replace(suite, drawn=(greedy, guided, arm))
    (suite,) = counted([suite], EIGHT)
    results.write_results(folder.joinpath, [suite], {"ks": list(EIGHT.ks)}, config="c", arms=ARMS)
    return suite.at


def same(read, lines):
    assert [*read.lines] == [*lines] and read.arms == ARMS and read.config == "c"
    for method, line in lines.items():
        assert read.lines[method].label == line.label
        np.testing.assert_array_equal(read.lines[method].credits_C, line.credits_C)
        for name in line.measured:
            assert read.lines[method].columns[name] == line.interval(name)


def test_results_are_read_as_they_were_counted(tmp_path):
    lines = written(tmp_path)
    read = results.read_results(tmp_path)["judgebench"]
    same(read, lines)
    assert read.parameters == pytest.approx(2.6e9, rel=0.01)
    assert read.uids == [f"{s}/{i}" for s in ("Math", "Coding") for i in range(6)]
    assert len(set(read.clusters)) == 6  # both subsets have the same queries
    assert {method.arm for method in read.lines} == {"", "kl_0"}
    path = tmp_path / "results/judgebench.json"
    before = path.read_bytes()
    (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert list(results.read_results(tmp_path)) == ["judgebench"]
    written(tmp_path)
    assert path.read_bytes() == before
    path.write_bytes(before[:-20])
    with pytest.raises(ValueError, match=r"judgebench\.json: not a result"):
        results.read_results(tmp_path)
    with pytest.raises(ValueError, match="no results"):
        results.read_results(tmp_path / "b")


def without_methods(record):
    """A record as it was written when lines had a section and a label only."""
    for line in record["lines"]:
        for field in dataclasses.fields(Method):
            del line[field.name]
    return record


def test_results_of_the_version_before_are_read_by_their_labels(tmp_path):
    lines = written(tmp_path)
    path = tmp_path / "results/judgebench.json"
    record = without_methods(json.loads(path.read_text()))
    path.write_text(json.dumps({**record, "version": results.LABELLED}))
    same(results.read_results(tmp_path)["judgebench"], lines)
    path.write_text(json.dumps({**record, "version": 2}))
    with pytest.raises(ValueError, match="version 2, this reads 3 and 4"):
        results.read_results(tmp_path)


def test_votes_without_a_stage_have_that_of_their_section_or_of_the_run():
    methods = {
        (GREEDY, "GRPO, greedy"): Method("grpo", kind="greedy"),
        (GREEDY, "PairRM"): Method("pairrm", kind="scalar"),
        (SAMPLED, "RFT, one sample"): Method("rft"),
        (SAMPLED, "RFT, Voting@2"): Method("rft", k=2),
        (SAMPLED, "GRPO, one sample"): Method("grpo"),
        (SAMPLED, "Voting@2"): Method("grpo", k=2),
        (SAMPLED, "MetaRM@2"): Method("grpo", kind="guided", k=2),
        (SAMPLED, "CLoud, one sample"): Method("cloud"),
        (SAMPLED, "CLoud, Voting@2"): Method("cloud", k=2),
        ("an arm", "cold start, one sample"): Method("cold_start", "an_arm"),
        ("an arm", "Voting@2"): Method("cold_start", "an_arm", k=2),
        ("k_meta: 1", "MetaRM@2"): Method("grpo", "", "guided", 2, "k_meta: 1"),
    }
    stored = [{"section": section, "label": label} for section, label in methods]
    assert results._methods(stored) == [*methods.values()]


def test_lines_of_baselines_come_back_and_others_are_said(tmp_path):
    suite = suite_of("own", pairs(6))
    lines = [
        line._replace(method=Method("cloud", k=line.method.k), named=True)
        for line in count(suite, EIGHT) if line.method.kind == "voting"
    ]  # fmt: skip
    results.write_baseline(tmp_path.joinpath, "cloud", suite, EIGHT, {"k": 8}, lines)
    said = []

    def read(counting=EIGHT, draw=8):
        rows = {"own": suite.comparisons}
        alike = {"k": draw}.__eq__
        return results.read_baselines(tmp_path.joinpath, rows, counting, alike, said.append)["own"]

    path = tmp_path / "baselines/cloud/own.json"
    for record in (json.loads(path.read_text()), without_methods(json.loads(path.read_text()))):
        path.write_text(json.dumps(record))
        again = read()
        assert [line.label for line in again] == [line.label for line in lines]
        for one, other in zip(again, lines, strict=True):
            assert one.method == other.method and one.unparsed == other.unparsed
            np.testing.assert_array_equal(one.credits_C, other.credits_C)
    assert not said
    assert read(draw=4) == read(dataclasses.replace(EIGHT, tie_policy="strict")) == ()
    assert len(said) == 2 and "baselines/cloud: measured on other comparisons" in said[0]
