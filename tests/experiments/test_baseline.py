"""The trained baselines: end to end at the size of CI, what they store, and what they refuse."""

import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_release import write_release

from configs import gemma2_2b, small_world
from experiments import measurement, sections
from experiments.baselines import cloud, judge
from experiments.baselines import pairs as pair_baselines
from experiments.run import Run
from experiments.stages import baseline, benchmark, heads, order
from grm_jax.data.comparison import Comparison
from grm_jax.data.small_world import SmallWorld, SmallWorldConfig
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation import token_prob
from grm_jax.evaluation.ballots import from_scores
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite
from grm_jax.evaluation.method import Method
from grm_jax.evaluation.results import read_results
from grm_jax.learning import meta_rm, pairs
from grm_jax.models import heads as decoder_heads
from grm_jax.models import transformer
from grm_jax.text.prompts import Message, grm_prompt
from grm_jax.text.scores import parse_strict
from tools import make_training_data

# What each kind adds to the table.
LINES = {
    "bradley_terry": {"Bradley-Terry RM": Method("bradley_terry", kind="scalar")},
    "pairrm": {"PairRM": Method("pairrm", kind="scalar")},
    "cloud": {
        "CLoud, greedy": Method("cloud", kind="greedy"), "CLoud, one sample": Method("cloud"),
        "CLoud, Voting@4": Method("cloud", k=4),
    },
    "llm_judge": {
        "LLM-as-a-Judge, greedy": Method("llm_judge", kind="greedy"),
        "LLM-as-a-Judge, one sample": Method("llm_judge"),
        "LLM-as-a-Judge, Voting@4": Method("llm_judge", k=4),
    },
    "token_prob": {
        "TokenProb, one sample": Method("token_prob"),
        "TokenProb, Voting@4": Method("token_prob", k=4),
    },
}  # fmt: skip


def config(kind="bradley_terry"):
    c = small_world.get_config("ci")
    c.baseline.kind = kind
    return c


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with the stages that baselines start from."""
    path = tmp_path_factory.mktemp("baselines")
    run = Run.open(config(), path)
    order.up_to("cold_start")(run)
    run.workdir.close()
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
    rules = CountingRules((1, 2), (1, 1), 4, "sum", "uniform", "chance", "strict", False, 2, 0)
    rows = [comparison("right", 2), comparison("wrong", 3), comparison("tie", 2),
            comparison("silent", 2), comparison("single", 1)]  # fmt: skip
    scores = [[(0.2, 0.1)], [(-1.0, -2.0, 0.5)], [(3.0, 3.0)], [None], [(0.25,)]]
    suite = Suite("s", "", rows, ())
    (line,) = pair_baselines.real_lines(
        suite, rules, scores, Method("pairrm", kind="scalar"), most=1
    )
    assert line.label == "PairRM"
    assert line.credits_C.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert line.singles_MC[0].tolist() == [0.25]
    two = [[(0.0, 1.0), (1.0, 0.5)]] * 2
    suite = Suite("s", "", [comparison("a", 2), comparison("b", 2)], ())
    one, both = pair_baselines.real_lines(suite, rules, two, Method("cloud"), most=2)
    assert both.method == Method("cloud", k=2)
    assert both.credits_C.tolist() == [0.0, 0.0]  # 1.0 against 1.5
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
    with pytest.raises(ValueError, match=r"config\.baseline\.kind: must be one of .*'bradley'"):
        Run.open(c, tmp_path / "w")
    c = config()
    c.baseline.loop.batch_size = 6
    c.baseline.micro_batches = 4
    with pytest.raises(ValueError, match=r"config\.baseline\.loop\.batch_size: 6 rows"):
        Run.open(c, tmp_path / "w")
    c = config()
    c.baseline.k = 9
    run = Run.open(c, tmp_path / "w")
    with pytest.raises(ValueError, match=r"config\.baseline\.k: 9 exceeds .*draw\.k = 8"):
        baseline.run_stage(run)
    run.workdir.close()
    c = config()
    del c.baseline
    run = Run.open(c, tmp_path / "w")
    with pytest.raises(ValueError, match=r"config\.baseline: section is missing"):
        baseline.run_stage(run)
    run.workdir.close()


# ---- rows ----


def test_training_pairs_hold_the_best_response_first(workdir):
    run = Run.open(config(), workdir)
    rows = run.comparisons("train", 12)
    for kind in ("bradley_terry", "pairrm"):
        found = pair_baselines.training_pairs(run, kind, rows)
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
    run.workdir.close()


def test_critiques_stand_behind_the_response_they_are_about(workdir):
    run = Run.open(config("cloud"), workdir)
    rows = [c for c in run.comparisons("train", 12) if c.n > 1]
    every = [one for c in rows for one in cloud.singles(c)]
    assert len({one.uid for one in every}) == sum(c.n for c in rows)
    assert sum(one.label for one in every) == len(rows)
    drawn = [
        Trajectory(
            fingerprint="f", stage="cloud", step=0, uid=one.uid, sample=0, seed=(0, 0), order=(0,),
            token_ids=(), logprobs=(), sampling_logprobs=(), text=f"Analysis: {one.responses[0]}",
            scores=None, parse_reason="no_box", lenient_scores=None, finish="stop", correct=None,
        )
        for one in every
    ]  # fmt: skip
    found = cloud.training_pairs(run, rows, drawn)
    assert len(found) == sum(c.n - 1 for c in rows)
    first = rows[0]
    for ids, i in ((found[0].better, first.best), (found[0].worse, int(first.best == 0))):
        text = run.tokenizer.decode(ids)
        assert text.count(first.responses[i]) == 2  # shown, and in its critique
        assert text.endswith(f"Analysis: {first.responses[i]}")
        assert ids[-1] == run.tokenizer.end_of_turn_id
    # Without the critique of a response there is no pair with it.
    fewer = [t for t in drawn if t.uid != f"{first.uid}/{first.best}"]
    assert len(cloud.training_pairs(run, rows, fewer)) == len(found) - (first.n - 1)
    run.workdir.close()


def test_right_demonstrations_name_the_best_response(workdir):
    run = Run.open(config(), workdir)
    rows = [c for c in run.comparisons("train", 30) if c.n > 1]
    found = judge.right_demonstrations(run, rows, 3)
    assert 0.3 * 3 * len(rows) < len(found) < 3 * len(rows)  # the demonstrator errs
    queries = {c.messages[0].content: c for c in rows}
    for example in found:
        ids = list(example.token_ids)
        prompt = run.tokenizer.decode(ids[: example.prompt_length])
        answer = run.tokenizer.decode(ids[example.prompt_length :])
        (own,) = [c for query, c in queries.items() if query in prompt]
        (number,) = parse_strict(answer, 1, 1, own.n).scores
        best = own.responses[own.best]
        assert f"[The Begin of Response {number}]\n{best}\n" in prompt
    run.workdir.close()


def test_index_probabilities_equal_those_of_one_row_at_a_time(workdir):
    """Also where the box does not open: such a sample has no scores."""
    run = Run.open(config("token_prob"), workdir)
    rows = [c for c in run.comparisons("development", 12) if c.n == 3][:2]
    params = run.load_cold_start()
    run.save_params("llm_judge", params)
    on_suite = measurement.Measurement(run, {"s": rows}, answer="best", k=2)
    work = run.drawer(on_suite.engine, on_suite.draw_config).plan(rows)
    shown = {
        (r.prompt.uid, s): r.prompt for unit in work.units for r in unit.requests for s in r.samples
    }
    texts = ["Analysis: both \\boxed{1} so\nScores: \\boxed{2}", "Scores: none"]
    groups = [
        [
            Trajectory(
                fingerprint="f", stage="s", step=0, uid=c.uid, sample=s, seed=(0, 0),
                order=shown[c.uid, s].order, token_ids=tuple(run.tokenizer.encode(text)),
                logprobs=(0.0,) * len(run.tokenizer.encode(text)),
                sampling_logprobs=(0.0,) * len(run.tokenizer.encode(text)), text=text, scores=None,
                parse_reason="no_box", lenient_scores=None, finish="stop", correct=None,
            )
            for s, text in enumerate(texts)
        ]
        for c in rows
    ]  # fmt: skip
    drawn = Drawn("s", "self", False, groups)
    scores_CSN, valid_CS = judge.index_scores(on_suite, rows, drawn)
    assert valid_CS.tolist() == [[True, False]] * 2
    ids = token_prob.index_ids(run.tokenizer, 3)
    assert [run.tokenizer.decode([i]) for i in ids] == ["1", "2", "3"]
    for c, own in enumerate(rows):
        before = run.tokenizer.encode("Analysis: both \\boxed{1} so\nScores: \\boxed{")
        row = jnp.asarray([[*shown[own.uid, 0].ids, *before]])
        hidden, _ = transformer.apply(
            run.model, params, row, jnp.arange(row.shape[1])[None], jnp.ones_like(row)
        )
        probs = jax.nn.softmax(decoder_heads.logits(run.model, params, hidden[:, -1]))[0]
        np.testing.assert_allclose(scores_CSN[c, 0], probs[jnp.asarray(ids)], rtol=1e-3)
    with pytest.raises(ValueError, match="token_prob: .* no token of its own for 10"):
        token_prob.index_ids(run.tokenizer, 10)
    run.workdir.close()
    shutil.rmtree(workdir / "params" / "llm_judge")


def test_the_brace_of_the_last_box_is_found_at_a_token_boundary():
    letters = types.SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))
    pairs_of = types.SimpleNamespace(
        decode=lambda ids: "".join(chr(i // 1000) + chr(i % 1000) for i in ids)
    )
    text = "a \\boxed{1} \\boxed{2}"
    assert token_prob.opening_length(list(map(ord, text)), letters) == len(text) - 2
    odd = [ord(a) * 1000 + ord(b) for a, b in zip(text[::2], text[1::2], strict=False)]
    assert len(text) % 2 == 1 and token_prob.opening_length(odd, pairs_of) is None
    for none in ("no box", "cut \\boxed"):
        assert token_prob.opening_length(list(map(ord, none)), letters) is None


# ---- end to end ----


@pytest.mark.parametrize("kind", list(LINES))
def test_each_kind_from_data_to_table(kind, workdir):
    run = Run.open(config(kind), workdir)
    baseline.run_stage(run)
    run.workdir.close()
    (result,) = read_results(workdir).values()
    table = (workdir / "tables" / "main.md").read_text()
    for label, method in LINES[kind].items():
        assert f"| {label} |" in table
        measured = result.lines[method]
        assert measured.label == label
        assert 0 <= measured.columns["accuracy"].value <= 1
        choice = [c.n > 1 for c in run.comparisons("development", 8, seed=10)]
        assert np.array_equal(~np.isnan(measured.credits_C), choice)


def test_lines_of_all_kinds_stay_in_the_workdir_and_come_back_equal(workdir):
    """Runs after the kinds above: the last one reported the lines of all."""
    run = Run.open(config(), workdir)
    table = (workdir / "tables" / "main.md").read_text()
    assert all(f"| {label} |" in table for lines in LINES.values() for label in lines)
    own = measurement.read_config(run)
    rules, loaded = benchmark.counting_rules(run, own), measurement.load_comparisons(run, own)
    (suite,) = benchmark.to_suites(loaded, [])
    config_of_kind = baseline.read_config(run)
    lines = pair_baselines.measure(run, config_of_kind, [suite], rules)["small_world"]
    (again, *_) = benchmark.stored_baselines(run, loaded.comparisons, rules)["small_world"]
    np.testing.assert_array_equal(again.credits_C, lines[0].credits_C)
    np.testing.assert_array_equal(again.singles_MC, lines[0].singles_MC)
    assert again.method == lines[0].method

    # Other comparisons or other rules: not these lines.
    fewer = {"small_world": loaded.comparisons["small_world"][1:]}
    assert benchmark.stored_baselines(run, fewer, rules) == {"small_world": ()}
    strict = dataclasses.replace(rules, tie_policy="strict")
    assert benchmark.stored_baselines(run, loaded.comparisons, strict) == {"small_world": ()}
    run.workdir.close()


def test_the_section_of_a_trained_kind_cannot_change(workdir):
    c = config()
    c.baseline.optimizer.learning_rate = 0.5
    run = Run.open(c, workdir)
    with pytest.raises(ValueError, match=r"baseline\.optimizer\.learning_rate: 0\.002 there"):
        baseline.run_stage(run)
    run.workdir.close()
    c = config()
    c.baseline.k = 1  # decides no parameters
    run = Run.open(c, workdir)
    baseline.claim(run, "bradley_terry")
    run.workdir.close()
    kept = json.loads((workdir / "baselines/bradley_terry/config.json").read_text())
    assert kept["baseline"]["kind"] == "bradley_terry"
    assert set(LINES) == set(sections.BASELINES) == set(baseline.KINDS)


def test_a_scalar_stage_becomes_what_was_best_on_what_is_held_out(workdir):
    c = config()
    c.baseline.optimizer.steps, c.baseline.loop.checkpoint_every = 5, 1
    run = Run.open(c, workdir)
    found, seen = (0.2, 0.9, 0.4, 0.9 - 1e-6, 0.3), []

    def to_batch(rows):
        return meta_rm.make_batch(rows, length=8, labels=[1.0, 0.0] * (len(rows) // 2))

    def evaluate(params):
        seen.append(jax.device_get(params))
        return {"development_auc": found[len(seen) - 1]}

    def make_step(model, optimizer):
        return meta_rm.make_train_step(model, meta_rm.MetaRMConfig(), optimizer)

    rows = [[1, 2, 3 + i] for i in range(16)]
    task = heads.Task(rows, make_step, to_batch, evaluate)
    heads.train(run, "probe", "baseline", run.config.baseline, task)
    kept = jax.device_get(heads.load(run, "probe"))
    jax.tree.map(np.testing.assert_array_equal, kept, seen[1])
    assert not np.array_equal(kept["head"]["kernel"], seen[-1]["head"]["kernel"])
    run.workdir.close()


@pytest.mark.slow
def test_a_recipe_trains_baselines_with_adapters_from_released_weights(tmp_path):
    """Without a small world nobody demonstrates: right answers are drawn from the model itself."""
    shown = SmallWorld(SmallWorldConfig()).comparisons("train", 60)
    lines = [grm_prompt(c.messages, c.responses, form="compact") for c in shown]
    write_release(tmp_path / "weights", lines=lines, vocab_size=700)
    make_training_data.make(tmp_path / "data")
    c = gemma2_2b.get_config("runlocal")
    c.released.model = str(tmp_path / "weights")
    for field in ("train", "test", "general"):
        c.data[field] = c.data[field].replace("runs/tiny/data", str(tmp_path / "data"))
    for kind in ("bradley_terry", "llm_judge"):
        c.baseline.kind = kind
        run = Run.open(c, tmp_path / "w")
        baseline.run_stage(run)
        run.workdir.close()
    names = sorted(path.name for path in (tmp_path / "w" / "params").iterdir())
    assert names == ["bradley_terry", "llm_judge"]
    table = (tmp_path / "w" / "tables" / "main.md").read_text()
    for label in ("Bradley-Terry RM", "LLM-as-a-Judge, greedy", "LLM-as-a-Judge, Voting@2"):
        assert f"| {label} |" in table
