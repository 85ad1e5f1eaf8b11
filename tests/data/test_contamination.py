"""Overlap of prompts, against n-grams as tuples of words."""

import random

import pytest
from builders import comparison

from grm_jax.data.contamination import TEMPLATE, BenchmarkPrompts, N
from grm_jax.text.prompts import Message

WORDS = [f"w{i}" for i in range(400)]


def ask(*texts):
    return tuple(Message("user", text) for text in texts)


def row(uid, *texts):
    return comparison(uid, messages=ask(*texts))


def text(rng, count):
    return " ".join(rng.choices(WORDS, k=count))


def test_the_same_words_are_the_same_prompt():
    prompts = BenchmarkPrompts({"soups": [row("s/1", "Which soup, please?")]})
    assert len(prompts) == 1
    for same in (["which SOUP\n please"], ["Which soup", "please"], ["Ｗhich “soup” please."]):
        found = prompts.find(ask(*same))
        assert (found.suite, found.uid, found.rule) == ("soups", "s/1", "the same prompt")
        assert str(found) == "the same prompt as row 's/1' of soups"
    assert prompts.find(ask("Which soup")) is None
    assert prompts.find(ask("soup which please")) is None


def test_ngrams_against_sets_of_tuples():
    rng = random.Random(0)
    rows = [row(f"r/{i}", text(rng, rng.randint(1, 60))) for i in range(40)]
    prompts = BenchmarkPrompts({"x": rows[:20], "y": rows[20:]})

    def grams(words):
        return {tuple(words[i : i + N]) for i in range(len(words) - N + 1)}

    known = {comparison.uid: grams(comparison.messages[0].content.split()) for comparison in rows}
    hits = 0
    for _ in range(400):
        words = text(rng, rng.randint(0, 40)).split()
        other = rng.choice(rows).messages[0].content.split()
        start, size = rng.randrange(len(other)), rng.randint(N - 2, N + 1)
        at = rng.randint(0, len(words))
        mixed = words[:at] + other[start : start + size] + words[at:]
        want = {uid for uid, own in known.items() if own & grams(mixed)}
        found = prompts.find(ask(" ".join(mixed) + " ."))
        hits += bool(want)
        if found is None:
            assert not want
        else:
            assert found.uid in want and found.rule == "13 words in common"
            assert found.suite == ("x" if int(found.uid[2:]) < 20 else "y")
    assert 50 < hits < 350


@pytest.mark.parametrize("extra", [0, 1])
def test_wording_of_templates_does_not_count(extra):
    rng = random.Random(1)
    template = text(rng, N)
    rows = [row(f"r/{i}", f"{template} {text(rng, 5)}") for i in range(TEMPLATE + extra)]
    found = BenchmarkPrompts({"x": rows}).find(ask(f"{template} and so on"))
    assert (found is None) == bool(extra)


def test_many_rows_of_one_prompt_are_no_template():
    prompt = text(random.Random(2), N + 2)
    suites = {name: [row(f"{name}/{i}", prompt) for i in range(TEMPLATE)] for name in "xy"}
    found = BenchmarkPrompts(suites).find(ask(f"{prompt} and so on"))
    assert found.uid == "x/0" and found.rule == "13 words in common"


def test_characters_of_chinese_are_words():
    sentence = "请用一句话解释为什么天空是蓝色的"
    prompts = BenchmarkPrompts({"x": [row("r", f"问题{sentence}谢谢")]})
    assert prompts.find(ask(f"甲{sentence[:N]}乙")).uid == "r"
    assert prompts.find(ask(f"甲{sentence[: N - 1]}乙")) is None


def test_a_prompt_without_words_is_nobodys():
    rows = BenchmarkPrompts({"s": [row("blank", ""), row("marks", "?!")]})
    assert rows.find(ask("...")) is None
