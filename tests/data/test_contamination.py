"""Prompts of a benchmark in training data."""

import time

import numpy as np

from grm_jax.data.comparison import Comparison
from grm_jax.data.contamination import Index, Overlap, words
from grm_jax.text.prompts import Message

WORDS = tuple(f"word{i}" for i in range(18))


def row(uid, text):
    return Comparison(uid, (Message("user", text),), ("a", "b"), (1.0, 0.0))


def find(text, *rows):
    return Index({"suite": rows}).find((Message("user", text),))


def test_equal_prompts_whatever_their_form():
    short = row("s/0", "What is 2 + 2?")
    assert find("what is 2+2", short) == Overlap("suite", "s/0", 1.0)
    assert find("ｗｈａｔ is 2 + 2 ?!", short) == Overlap("suite", "s/0", 1.0)
    assert find("What is 2 + 3?", short) is None
    assert find("", short) is None and find("?", row("s/0", "!")) is None


def test_shares_of_13_grams():
    text = " ".join(WORDS)  # 18 words, 6 grams
    benchmark = row("s/1", text)
    assert find(f"Please answer: {text} Thanks.", benchmark) == Overlap("suite", "s/1", 1.0)
    # 15 of its words are 3 of its 6 grams, 14 are 2.
    assert find(" ".join(WORDS[:15]) + " and more", benchmark) == Overlap("suite", "s/1", 0.5)
    assert find(" ".join(WORDS[:14]) + " and more", benchmark) is None
    other = row("s/2", " ".join(["so", *WORDS[:17]]))
    assert find(text, benchmark, other).uid == "s/1"
    assert find(" ".join(["so", *WORDS]), other, benchmark).share == 1.0


def test_only_user_turns_count():
    turns = (Message("system", "s"), Message("user", "one"), Message("assistant", "x"),
             Message("user", "Two!"))  # fmt: skip
    assert words(turns) == ("one", "two")


def test_a_large_set_takes_seconds():
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{i}" for i in range(5000)])
    texts = [" ".join(vocabulary[rng.integers(0, 5000, 80)]) for _ in range(4000)]
    began = time.process_time()
    index = Index({"suite": [row(f"s/{i}", text) for i, text in enumerate(texts[:1000])]})
    found = [index.find((Message("user", text),)) for text in texts]
    # A tenth of 10,000 prompts against a twenty-fifth of 100,000 rows.
    assert time.process_time() - began < 6
    assert [overlap is not None for overlap in found] == [i < 1000 for i in range(4000)]
