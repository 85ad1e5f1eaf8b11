"""The small world: exact ground truth, disjoint splits, readable trajectories."""

import dataclasses
import re

import numpy as np
import pytest

from grm_jax.data import small_world
from grm_jax.data.small_world import SmallWorld, SmallWorldConfig, read_trajectory
from grm_jax.text.prompts import given_principles, grm_prompt
from grm_jax.text.scores import is_correct, parse_strict
from grm_jax.text.tokenizers import train_sentencepiece

NOISELESS = SmallWorldConfig(bias=0.0, noise=1e-9, verdict_flips=0.0)


@pytest.fixture(scope="module")
def world():
    return SmallWorld(SmallWorldConfig())


@pytest.fixture(scope="module")
def comparisons(world):
    return world.comparisons("train", 300)


def test_everything_is_a_pure_function_of_config_split_and_seed(world, comparisons):
    assert SmallWorld(SmallWorldConfig()).comparisons("train", 300) == comparisons
    assert world.comparisons("train", 20) == comparisons[:20]
    assert world.comparisons("train", 20, seed=1) != comparisons[:20]
    other = SmallWorld(SmallWorldConfig(world_seed=1))
    assert other.comparisons("train", 20) != comparisons[:20]


def test_splits_are_disjoint_by_content(world):
    hashes = {split: set() for split in small_world.SPLITS}
    for split, found in hashes.items():
        for seed in (0, 1):
            found.update(c.content_hash() for c in world.comparisons(split, 150, seed=seed))
    assert not hashes["train"] & hashes["development"]
    assert not hashes["train"] & hashes["test"]
    assert not hashes["development"] & hashes["test"]
    with pytest.raises(ValueError, match="split must be one of"):
        world.comparisons("validation", 1)


def test_rewards_follow_from_the_text_and_the_hidden_priorities(world, comparisons):
    sizes = set()
    for comparison in comparisons:
        truth = world.truth(comparison)
        sizes.add(comparison.n)
        assert set(truth.named) == set(truth.ranked) and len(truth.named) == 4
        verdicts = [{name: name in met for name in truth.named} for met in truth.met]
        if comparison.n == 1:
            assert comparison.label == int(truth.ranked[0] in truth.met[0])
        else:
            first, second, third, fourth = truth.ranked
            worth = [4 * v[first] + 3 * v[second] + 2 * v[third] + v[fourth] for v in verdicts]
            assert list(comparison.rewards) == worth
            assert worth.count(max(worth)) == 1
    assert sizes == {1, 2, 3, 4}


def test_priorities_are_not_in_the_text(world):
    """Two audiences with other priorities get other winners on the very same responses."""
    changed = 0
    for comparison in world.comparisons("train", 100):
        (message,) = comparison.messages
        audience = comparison.meta["audience"]
        for other in small_world.AUDIENCES:
            text = message.content.replace(f"for {audience} ", f"for {other} ")
            moved = dataclasses.replace(
                comparison, messages=(message._replace(content=text),), meta={"audience": other}
            )
            changed += world.truth(moved).ranked[0] != world.truth(comparison).ranked[0]
    assert changed > 100


@pytest.mark.parametrize("principles", ["self", "none"])
def test_a_noiseless_demonstration_is_consistent_and_mostly_right(principles):
    world = SmallWorld(NOISELESS)
    rng = np.random.default_rng(0)
    right = []
    for comparison in world.comparisons("train", 200):
        truth = world.truth(comparison)
        text = world.demonstration(comparison, rng, principles=principles)
        bounds = (0, 1) if comparison.n == 1 else (1, 10)
        parsed = parse_strict(text, comparison.n, *bounds)
        right.append(is_correct(parsed.scores, comparison.rewards))
        assert right[-1] or comparison.n > 1
        order = tuple(range(comparison.n))
        reading = small_world.read_trajectory(text, truth, order, principles=principles)
        assert reading.well_formed and reading.verdicts_right == 1.0
        assert reading.follows is (True if principles == "self" else None)
        assert reading.order_right is (True if principles == "self" else None)
    assert 0.8 < np.mean(right) < 0.97  # three criteria of four cannot tell everything


def test_a_sum_of_trajectories_is_finer_than_the_best_one():
    """Other principles leave other criteria out, so that votes see all four."""
    best = SmallWorld(NOISELESS)
    varied = SmallWorld(dataclasses.replace(NOISELESS, noise=0.7))
    rng = np.random.default_rng(0)

    def scores(world, comparison):
        return np.array(parse_strict(world.demonstration(comparison, rng), comparison.n).scores)

    comparisons = [c for c in best.comparisons("train", 150) if c.n > 1]
    alone = [is_correct(scores(best, c), c.rewards) for c in comparisons]
    summed = [is_correct(sum(scores(varied, c) for _ in range(32)), c.rewards) for c in comparisons]
    assert np.mean(summed) > np.mean(alone) + 0.03


def test_the_demonstrator_is_imperfect_and_the_hint_helps(world):
    rng = np.random.default_rng(0)
    right = {False: [], True: []}
    for comparison in world.comparisons("train", 250):
        hint = comparison.label if comparison.n == 1 else comparison.best
        bounds = (0, 1) if comparison.n == 1 else (1, 10)
        for hinted in right:
            text = world.demonstration(comparison, rng, hint=hint if hinted else None)
            scores = parse_strict(text, comparison.n, *bounds).scores
            right[hinted].append(is_correct(scores, comparison.rewards))
    assert 0.45 < np.mean(right[False]) < 0.9
    assert np.mean(right[True]) > np.mean(right[False]) + 0.1


def test_reading_notices_each_kind_of_fault(world, comparisons):
    comparison = next(c for c in comparisons if c.n == 2)
    truth, order = world.truth(comparison), (1, 0)
    shown = dataclasses.replace(
        comparison, responses=comparison.responses[::-1], rewards=comparison.rewards[::-1]
    )
    text = SmallWorld(NOISELESS).demonstration(shown, np.random.default_rng(0))
    good = small_world.read_trajectory(text, truth, order)
    assert good == (True, True, 1.0, True)

    lines = text.split("\n")
    flipped = lines[2].replace(" yes ", " NO ", 1).replace(" no ", " yes ", 1)
    flipped = flipped.replace(" NO ", " no ")
    for broken, field in (
        ("\n".join(lines[:-1]), "well_formed"),
        ("\n".join(lines[1:]), "well_formed"),
        (text.replace(" 5 ", " 4 ", 1), "well_formed"),
        ("\n".join([*lines[:2], flipped, *lines[3:]]), "verdicts_right"),
    ):
        reading = small_world.read_trajectory(broken, truth, order)
        assert getattr(reading, field) != getattr(good, field), broken
    swapped = small_world.read_trajectory(text, truth, (0, 1))
    assert swapped.verdicts_right < 1.0


def test_general_data_is_true_and_knows_no_audience(world):
    kinds = set()
    for (message,), answer in world.general(80, seed=3):
        assert not set(message.content.split()) & set(small_world.AUDIENCES)
        task = next(x for x in message.content.split("\n") if x.startswith("check ")).split()[1:]
        weighted = task[1] == "5"
        named = task[0::2] if weighted else task
        assert not weighted or task[1::2] == ["5", "3", "1"]
        shown = re.findall(r"\[The Begin of Response \d\]\n(.*)\n\[The End", message.content)
        if shown:
            label, *lines = answer.split("\n")
            assert label == "Analysis:"
            assert [line.split(": ")[0] for line in lines] == [
                f"Response {i + 1}" for i in range(len(shown))
            ]
            lines = [line.split(": ")[1] for line in lines]
        else:
            shown, lines = [message.content.split("\n")[1]], [answer]
        kinds.add((len(shown), weighted))
        for response, line in zip(shown, lines, strict=True):
            met = small_world.criteria_met(response)
            if weighted:
                line, score = line.split(" = ")
                weights = zip((5, 3, 1), named, strict=True)
                assert int(score) == 1 + sum(w for w, name in weights if name in met)
            words = line.split()
            assert words[0::2] == named
            assert words[1::2] == ["yes" if name in met else "no" for name in named]
    assert kinds == {(n, weighted) for n in (1, 2, 3, 4) for weighted in (False, True)}


def test_prompts_are_long_enough_to_be_text(world, comparisons):
    words = [
        len(grm_prompt(c.messages, c.responses, form="compact", binary=c.n == 1).split())
        for c in comparisons
    ]
    assert 70 < np.mean(words) < 200


def test_bad_fields_are_named():
    with pytest.raises(ValueError, match="num_audiences: must be from 1 to 12"):
        SmallWorldConfig(num_audiences=13)
    with pytest.raises(ValueError, match="verdict_flips: must be from 0 to 1"):
        SmallWorldConfig(verdict_flips=1.5)


def test_true_principles_begin_what_the_demonstrator_without_noise_writes(tmp_path):
    """Given as the beginning of an answer, they are token by token how such an answer begins."""
    world = SmallWorld(NOISELESS)
    rng = np.random.default_rng(0)
    comparisons = world.comparisons("train", 40)
    texts = [world.demonstration(comparison, rng) for comparison in comparisons]
    tokenizer = train_sentencepiece(texts, tmp_path / "model", vocab_size=420)
    for comparison, text in zip(comparisons, texts, strict=True):
        beginning = given_principles(comparison.principles)
        assert text.startswith(beginning)
        ids = tokenizer.encode(beginning)
        assert tokenizer.encode(text)[: len(ids)] == ids


def test_verdicts_by_name_stand_in_the_order_of_the_query():
    world = SmallWorld(NOISELESS)
    for comparison in world.comparisons("train", 30):
        truth, order = world.truth(comparison), tuple(range(comparison.n))
        by_name, by_weight = (
            world.demonstration(comparison, np.random.default_rng(1), verdicts=verdicts)
            for verdicts in ("query", "weight")
        )
        assert by_name.split("\n")[0] == by_weight.split("\n")[0]  # the same principles
        checked = by_name.split("\n")[2].split()[2:8:2]
        assert checked == [name for name in truth.named if name in truth.ranked[:3]]
        reading = read_trajectory(by_name, truth, order)
        assert reading.follows and reading.verdicts_right == 1


def test_words_are_those_that_numpy_would_choose():
    """Workdirs hold what was drawn: a faster way to draw must give the same words."""
    for seed in range(50):
        rng, numpys = np.random.default_rng(seed), np.random.default_rng(seed)
        words = [str(i) for i in range(1, 2 + seed % 7)]
        for _ in range(20):
            assert small_world._pick(rng, words) == numpys.choice(words)
        assert [words[i] for i in rng.permutation(len(words))] == list(numpys.permutation(words))
