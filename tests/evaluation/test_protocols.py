"""The same samples counted in every way."""

import dataclasses

import numpy as np
import pytest
from answers import EIGHT, TWO, pairs, suite_of, value
from builders import comparison, trajectory

from grm_jax.evaluation import protocols
from grm_jax.evaluation.lines import Drawn, Suite, count


def test_votes_by_other_rules_are_those_that_a_run_with_these_rules_would_count():
    rng = np.random.default_rng(0)
    groups = [
        [trajectory(f"c{i}", s, tuple(map(int, rng.integers(1, 11, 2)))) for s in range(8)]
        for i in range(6)
    ]
    meta = rng.normal(size=(6, 8)).tolist()
    suite = Suite(
        "s",
        "",
        [comparison(f"c{i}") for i in range(6)],
        (Drawn("grpo", "self", False, groups, meta),),
    )
    counting = dataclasses.replace(TWO, ks=(1, 2, 4, 8), k_metas=(1, 1, 2, 4), num_samples=8)
    found = {(line.section, line.label): line for line in protocols.lines(suite, counting)}
    sections = {section for section, _ in found}
    assert sections == {
        "aggregation: mean", "aggregation: median", "aggregation: majority", "aggregation: borda",
        "k_meta: 1", "k_meta: k/4", "k_meta: k", "meta RM: weights",
    }  # fmt: skip
    others = {
        "aggregation: majority": dataclasses.replace(counting, aggregation="majority"),
        "k_meta: 1": dataclasses.replace(counting, k_metas=(1, 1, 1, 1)),
        "k_meta: k/4": dataclasses.replace(counting, k_metas=(1, 1, 1, 2)),
    }
    for section, own in others.items():
        at = {line.label: line for line in count(suite, own)}
        np.testing.assert_array_equal(
            found[section, "MetaRM@8"].credits_C, at["MetaRM@8"].credits_C
        )
    at = {line.label: line for line in count(suite, counting)}
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


def test_protocols_agree_with_the_line_that_uses_them():
    suite = suite_of("own", pairs(60), accuracy=0.5, coverage="60 rows")
    shares = {}
    for policy, aggregation in (("strict", "borda"), ("half", "borda"), ("uniform", "sum")):
        counting = dataclasses.replace(EIGHT, tie_policy=policy, aggregation=aggregation)
        shares[policy, aggregation] = value(count(suite, counting), "Voting@8").value
    table = protocols.table([suite], EIGHT, [])
    names = [column.name for column in table.columns]
    cells = {row.label: dict(zip(names, row.cells, strict=True)) for row in table.rows}
    for (policy, aggregation), share in shares.items():
        for parser in protocols.PARSERS:
            assert cells[f"{parser}, {aggregation}"][policy].value == pytest.approx(share)
    assert shares["strict", "borda"] < shares["half", "borda"]  # there are ties
    picked = dataclasses.replace(EIGHT, tie_policy="shuffle_argmax", aggregation="majority")
    want = value(count(suite, picked), "Voting@8").value
    assert cells["strict, majority"]["shuffle_argmax"].value == pytest.approx(want)
