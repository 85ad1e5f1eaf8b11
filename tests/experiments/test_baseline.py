"""The trained baselines: end to end at the size of CI, what they store, and what they refuse."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import small_world
from experiments import baseline, benchmark, counting, scalar_baselines, schema, sft, stored_lines
from experiments import run as runs
from experiments.results import read_results
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation.ballots import from_scores
from grm_jax.learning import pairs
from grm_jax.text.prompts import Message

# What each kind adds to the table: (section, label).
LINES = {
    "bradley_terry": [("greedy", "Bradley-Terry RM")],
    "pairrm": [("greedy", "PairRM")],
}


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These programs run a few times, so most of the time would go into optimising them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def config(kind="bradley_terry"):
    c = small_world.get_config("ci")
    c.baseline.kind = kind
    # A model of random weights with a head learns nothing in three steps, but faster.
    c.model.embed_dim = c.model.ffn_dim = c.model.head_dim = 16
    return c


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with the stages that baselines start from."""
    path = tmp_path_factory.mktemp("baselines")
    run = runs.Run(config(), path)
    sft.main(run)
    run._lock.close()
    return path


def comparison(uid, n):
    return Comparison(uid, (Message("user", "q"),), tuple("abcd"[:n]),
                      (1.0,) + (0.0,) * (n - 1))  # fmt: skip


# ---- arithmetic ----


def test_pairrm_sums_opposite_numbers_over_opponents():
    logits = np.array([[9.0, 1.0, 4.0], [3.0, 9.0, 2.0], [0.0, 5.0, 9.0]])
    scores = pairs.antisymmetric_scores(logits)
    # (1 - 3) / 2 + (4 - 0) / 2, and so on; the diagonal does not count.
    np.testing.assert_allclose(scores, [1.0, -0.5, -0.5])
    order = [2, 0, 1]
    np.testing.assert_allclose(
        pairs.antisymmetric_scores(logits[np.ix_(order, order)]), scores[order]
    )
    place = logits + np.array([[0, 7, 7], [7, 0, 7], [7, 7, 0]])  # worth of standing first
    np.testing.assert_allclose(pairs.antisymmetric_scores(place), scores)


def test_real_scores_are_counted_like_votes():
    rules = counting.CountingRules(
        (1, 2), (1, 1), 4, "sum", "uniform", "chance", "strict", False, 2, 0
    )
    rows = [comparison("right", 2), comparison("wrong", 3), comparison("tie", 2),
            comparison("silent", 2), comparison("single", 1)]  # fmt: skip
    scores = [[(0.2, 0.1)], [(-1.0, -2.0, 0.5)], [(3.0, 3.0)], [None], [(0.25,)]]
    suite = counting.Suite("s", "", rows, ())
    (line,) = scalar_baselines.real_lines(
        suite, rules, scores, counting.GREEDY, lambda k: f"k = {k}", most=1
    )
    assert line.label == "k = 1"
    assert line.credits_C.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert line.singles_MC[0].tolist() == [0.25]
    two = [[(0.0, 1.0), (1.0, 0.5)]] * 2
    suite = counting.Suite("s", "", [comparison("a", 2), comparison("b", 2)], ())
    one, both = scalar_baselines.real_lines(
        suite, rules, two, counting.SAMPLED, lambda k: f"k = {k}", most=2
    )
    assert both.label == "k = 2" and both.credits_C.tolist() == [0.0, 0.0]  # 1.0 against 1.5
    assert 0 <= one.credits_C.min() <= one.credits_C.max() <= 1


def test_bad_scores_name_the_comparison():
    for scores, message in (
        ([[(1.0,)]], r"u, sample 0: \(1.0,\): not 2 finite"),
        ([[None, (1.0, float("nan"))]], "u, sample 1"),
        ([[None] * 3], "u: 3 samples do not fit S = 2"),
    ):
        with pytest.raises(ValueError, match=message):
            from_scores(["u"], [2], scores, num_samples=2)


# ---- config ----


def test_a_bad_kind_and_a_missing_section_are_named(tmp_path):
    c = config()
    c.baseline.kind = "bradley"
    with pytest.raises(ValueError, match=r"config\.baseline: kind must be one of .*'bradley'"):
        runs.Run(c, tmp_path / "w")
    c = config()
    c.baseline.loop.batch_size = 6
    c.baseline.micro_batches = 4
    with pytest.raises(ValueError, match=r"config\.baseline\.loop\.batch_size: 6 rows"):
        runs.Run(c, tmp_path / "w")
    c = config()
    del c.baseline
    run = runs.Run(c, tmp_path / "w")
    with pytest.raises(ValueError, match=r"config\.baseline: section is missing"):
        baseline.main(run)
    run._lock.close()


# ---- rows ----


def test_training_pairs_hold_the_best_response_first(workdir):
    run = runs.Run(config(), workdir)
    rows = run.comparisons("train", 12)
    for kind in ("bradley_terry", "pairrm"):
        found = scalar_baselines.training_pairs(run, kind, rows)
        assert len(found) == sum(c.n - 1 for c in rows)
        first = next(c for c in rows if c.n > 1)
        text = run.tokenizer.decode(found[0].better)
        best, other = first.responses[first.best], first.responses[first.best == 0]
        if kind == "pairrm":
            assert text.index(best) < text.index(other)
            text = run.tokenizer.decode(found[0].worse)
            assert text.index(other) < text.index(best)
        else:
            assert best in text and other not in text
            assert other in run.tokenizer.decode(found[0].worse)
    run._lock.close()


# ---- end to end ----


@pytest.mark.parametrize("kind", list(LINES))
def test_each_kind_from_data_to_table(kind, workdir):
    run = runs.Run(config(kind), workdir)
    baseline.main(run)
    run._lock.close()
    (result,) = read_results(workdir).values()
    table = (workdir / "tables" / "main.md").read_text()
    for section, label in LINES[kind]:
        assert f"| {label} |" in table
        measured = result.lines[section, label]
        assert 0 <= measured.columns["accuracy"].value <= 1
        choice = [c.n > 1 for c in run.comparisons("development", 8, seed=10)]
        assert np.array_equal(~np.isnan(measured.credits_C), choice)


def test_lines_of_all_kinds_stay_in_the_workdir_and_come_back_equal(workdir):
    """Runs after the kinds above: the last one reported the lines of all."""
    run = runs.Run(config(), workdir)
    table = (workdir / "tables" / "main.md").read_text()
    assert all(f"| {label} |" in table for lines in LINES.values() for _, label in lines)
    own = benchmark.read_config(run)
    rules, loaded = benchmark.counting_rules(run, own), benchmark.load_comparisons(run, own)
    (suite,) = benchmark.to_suites(loaded, [])
    lines = scalar_baselines.measure(run, "bradley_terry", suite, rules)
    (again, *_) = stored_lines.read(run, loaded.comparisons, rules)["small_world"]
    np.testing.assert_array_equal(again.credits_C, lines[0].credits_C)
    np.testing.assert_array_equal(again.singles_MC, lines[0].singles_MC)
    assert (again.section, again.label) == (lines[0].section, lines[0].label)

    # Other comparisons or other rules: not these lines.
    fewer = {"small_world": loaded.comparisons["small_world"][1:]}
    assert stored_lines.read(run, fewer, rules) == {"small_world": ()}
    strict = dataclasses.replace(rules, tie_policy="strict")
    assert stored_lines.read(run, loaded.comparisons, strict) == {"small_world": ()}
    run._lock.close()


def test_the_section_of_a_trained_kind_cannot_change(workdir):
    c = config()
    c.baseline.optimizer.learning_rate = 0.5
    run = runs.Run(c, workdir)
    with pytest.raises(ValueError, match=r"baseline\.optimizer\.learning_rate: 0\.002 there"):
        baseline.main(run)
    run._lock.close()
    kept = json.loads((workdir / "baselines/bradley_terry/config.json").read_text())
    assert kept["baseline"]["kind"] == "bradley_terry"
    assert set(LINES) <= set(schema.BASELINES)
