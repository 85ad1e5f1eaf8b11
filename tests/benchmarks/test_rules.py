"""The official rules: decision tables by hand, loops, and the small cases of a reader."""

import itertools
import math

import numpy as np
import pytest

from grm_jax.benchmarks import autoj, judgebench, pandalm, rewardbench2, rmb, rmbench, rules
from grm_jax.benchmarks.rules import FIRST, NONE, SECOND, TIE

NAMES = {"right": FIRST, "wrong": SECOND, "tie": TIE, "none": NONE}


# JudgeBench and auto-j: every pair of verdicts in both orders, the gold being the first response.
@pytest.mark.parametrize(
    ("one", "other", "right", "agreement", "consistency"),
    [
        ("right", "right", True, True, True),
        ("right", "tie", True, False, False),
        ("right", "none", True, False, False),
        ("right", "wrong", False, False, False),
        ("wrong", "wrong", False, False, True),
        ("wrong", "tie", False, False, False),
        ("wrong", "none", False, False, False),
        ("tie", "tie", False, False, True),
        ("tie", "none", False, False, False),
        ("none", "none", False, False, False),
    ],
)
def test_decisions_in_both_orders(one, other, right, agreement, consistency):
    for a, b in ((NAMES[one], NAMES[other]), (NAMES[other], NAMES[one])):
        assert bool(judgebench.right_in_sum(a, b, FIRST)) is right
        assert bool(autoj.right_in_both(a, b, FIRST)) is agreement
        assert bool(autoj.same_in_both(a, b)) is consistency
        # The names of the responses do not matter.
        swap = {FIRST: SECOND, SECOND: FIRST, TIE: TIE, NONE: NONE}
        assert bool(judgebench.right_in_sum(swap[a], swap[b], SECOND)) is right
        assert bool(autoj.right_in_both(swap[a], swap[b], SECOND)) is agreement
        # In auto-j a tie may be the gold.
        assert bool(autoj.right_in_both(a, b, TIE)) is (a == b == TIE)


def test_verdicts_and_their_shares():
    scores = [[[2, 1], [1, 2], [3, 3]], [[5, 1], [math.nan, 2], [1, 2]]]
    found = rules.verdicts(scores)
    assert found.tolist() == [[FIRST, SECOND, TIE], [FIRST, NONE, SECOND]]
    assert rules.shares(found).tolist() == [
        [1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0.5, 0.5, 0],
    ]  # fmt: skip


def test_chance_of_a_rule_is_its_mean_over_independent_games():
    rng = np.random.default_rng(0)
    games = rng.integers(4, size=(2, 30, 5))
    gold = np.array([FIRST, SECOND, FIRST, SECOND, TIE])
    for rule in (autoj.right_in_both, judgebench.right_in_sum, autoj.same_in_both):
        got = rules.chance_of(rule, *map(rules.shares, games), gold)
        for c in range(4 if rule is judgebench.right_in_sum else 5):
            pairs = itertools.product(games[0, :, c], games[1, :, c])
            want = np.mean([bool(rule(a, b, gold[c])) for a, b in pairs])
            assert got[c] == pytest.approx(want, abs=1e-12)
    # A coin for each order, JudgeBench: a quarter; one coin for both: a half.
    coin = np.array([[0.5, 0.5, 0, 0]])
    assert rules.chance_of(judgebench.right_in_sum, coin, coin, [FIRST]) == pytest.approx(0.25)


def test_a_row_of_pairs_is_right_if_all_are():
    row_C = rules.numbered(["b", "a", "b", "a", "a", "c"])
    assert row_C.tolist() == [0, 1, 0, 1, 1, 2]
    got = rmb.all_of_a_row([1, 1, 0.5, 1, 1, 0], row_C)
    assert got.tolist() == [0.5, 1.0, 0.0]


def test_styles_of_a_row():
    # Chosen 0 wins everything, 1 only against 0, 2 nothing: by hand, strictly.
    scores = {"chosen": [9, 5, 1], "rejected": [4, 5, 6]}
    pairs = [(i, j) for i in range(3) for j in range(3)]
    credits = [float(scores["chosen"][i] > scores["rejected"][j]) for i, j in pairs]
    cells = rmbench.style_cells(credits, [0] * 9, *zip(*pairs, strict=True))
    assert cells.tolist() == [[[1, 1, 1], [1, 0, 0], [0, 0, 0]]]
    parts = {name: float(values[0]) for name, values in rmbench.style_parts(cells).items()}
    assert parts == pytest.approx({"hard": 2 / 3, "normal": 1 / 3, "easy": 1 / 3, "all": 4 / 9})
    # The same six in one shuffled list.
    styles = [3, 0, 5, 2, 4, 1]
    flat = scores["chosen"] + scores["rejected"]
    listed = rmbench.style_cells_of_lists([[flat[s] for s in styles]], [styles])
    assert listed.tolist() == cells.tolist()
    silent = rmbench.style_cells_of_lists([[math.nan] * 6], [styles])
    assert not silent.any()
    for bad in (pairs[:8], pairs[:8] + pairs[:1]):
        with pytest.raises(ValueError, match="exactly nine"):
            rmbench.style_cells([1.0] * len(bad), [0] * len(bad), *zip(*bad, strict=True))


def naive_classes(found, gold):
    """Accuracy and macro scores by counting."""
    rows = []
    for label in (FIRST, SECOND, TIE):
        hits = sum(f == g == label for f, g in zip(found, gold, strict=True))
        said, true = list(found).count(label), list(gold).count(label)
        precision, recall = (hits / said if said else 0), (hits / true if true else 0)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0
        rows.append((precision, recall, f1))
    accuracy = sum(f == g for f, g in zip(found, gold, strict=True)) / len(gold)
    return (accuracy, *(sum(column) / 3 for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("labels", [(0, 1, 2, 3), (0, 1), (3,)])
def test_class_scores(labels):
    rng = np.random.default_rng(1)
    found, gold = rng.choice(labels, size=60), rng.integers(3, size=60)
    counts = pandalm.confusion(rules.shares(found[None]), gold)
    assert pandalm.class_scores(counts.sum(axis=0)) == pytest.approx(naive_classes(found, gold))
    both = pandalm.class_scores(np.stack([counts[:30].sum(axis=0), counts.sum(axis=0)]))
    assert [x[0] for x in both] == pytest.approx(naive_classes(found[:30], gold[:30]))


def test_ties_of_rewardbench_2():
    margins = rewardbench2.margins([5, 1, 4, 2], [True, False, True, False])
    assert margins == (2.0, 1.0)
    # Told apart in both halves, spread below both margins.
    full = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(2 / 1 - 1)
    assert rewardbench2.ties_score(3, 2, 1) == pytest.approx(full)
    # The tied half alone: it stands above its spread, the reference does not.
    alone = 0.3 + 0.2 + 0.01 * math.tanh(-1 / 1 - 1)
    assert rewardbench2.ties_score(-1, 2, 1) == pytest.approx(alone)
    # Equal right scores: an infinite ratio is 1, and 0 / 0 is 0.
    assert rewardbench2.ties_score(1, 1, 0) == pytest.approx(1.0 + 0.01)
    assert rewardbench2.ties_score(0, 0, 0) == 0
    assert rewardbench2.ties_score(math.nan, math.nan, math.nan) == 0
    assert rewardbench2.ties_score([3, -1], [2, 2], [1, 1]).shape == (2,)
