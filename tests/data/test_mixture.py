"""Mixtures: what a string may say, and the one order in which rows come."""

import itertools
from collections import Counter

import pytest
from builders import comparison, write_comparisons

from grm_jax.data import mixture


def write(path, name, count):
    write_comparisons(
        path,
        [comparison(f"{name}/{i}", query=f"{name} {i}", best=1) for i in range(count)],
    )
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "a.jsonl", "a", 300), write(tmp_path / "b.jsonl", "b", 100)


def sources(files, *weights):
    parts = [f"comparisons:{path}:{weight}" for path, weight in zip(files, weights, strict=True)]
    return mixture.parse(",".join(parts), "comparisons")


def uids(records):
    return [record.uid for record in records]


def test_a_mixture_is_a_list_of_sets():
    assert mixture.parse("", "comparisons") == ()
    got = mixture.parse(" ultrafeedback:D/u:0.3 ,helpsteer2:D/h,", "comparisons")
    assert [(s.name, s.path, s.weight) for s in got] == [
        ("ultrafeedback", "D/u", 0.3),
        ("helpsteer2", "D/h", 1.0),
    ]
    assert mixture.parse("messages:F", "instructions")[0].name == "messages"


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        ("rows.jsonl", "comparisons", "none of the sets"),
        ("ultrafeedbak:D", "comparisons", "none of the sets"),
        ("messages:F", "comparisons", "none of the sets"),
        ("helpsteer2:F", "instructions", "none of the sets"),
        ("helpsteer2", "comparisons", "NAME:PATH"),
        ("helpsteer2::2", "comparisons", "NAME:PATH"),
        ("helpsteer2:D:1:2", "comparisons", "NAME:PATH"),
        ("helpsteer2:D:0", "comparisons", "positive number"),
        ("helpsteer2:D:-1", "comparisons", "positive number"),
        ("helpsteer2:D:inf", "comparisons", "positive number"),
        ("helpsteer2:D:much", "comparisons", "positive number"),
        ("helpsteer2:D,helpsteer2:D:2", "comparisons", "2 times"),
    ],
)
def test_bad_mixtures(text, kind, problem):
    with pytest.raises(ValueError, match=problem):
        mixture.parse(text, kind)


def test_the_home_folder_is_known(monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere")
    (source,) = mixture.parse("comparisons:~/data/own.jsonl:2", "comparisons")
    assert source.path == "/elsewhere/data/own.jsonl"


def test_every_beginning_of_the_order_is_the_same(files):
    both = sources(files, 1, 1)
    whole = uids(mixture.take(both, 1000, seed=3))
    assert sorted(whole) == sorted(f"a/{i}" for i in range(300)) + sorted(
        f"b/{i}" for i in range(100)
    )
    for count in (0, 1, 50, 399, 400):
        assert uids(mixture.take(both, count, seed=3)) == whole[:count]
    assert uids(mixture.take(both[::-1], 50, seed=3)) == whole[:50]  # not the order of the sets
    assert uids(mixture.take(both[:1], 1000, seed=3)) == [u for u in whole if u[0] == "a"]
    assert uids(mixture.take(both, 1000, seed=4)) != whole
    without = frozenset(whole[:10])
    assert uids(mixture.take(both, 5, seed=3, without=without)) == whole[10:15]


@pytest.mark.parametrize("weight", [0.25, 1.0, 9.0])
def test_shares_are_weight_times_rows(files, weight):
    """Of few places at the beginning, each goes to set b with probability 100 w / (300 + 100 w)."""
    seeds, first = 60, 10
    counted = Counter(
        uid[0]
        for seed in range(seeds)
        for uid in uids(mixture.take(sources(files, 1, weight), first, seed=seed))
    )
    share = weight / (3 + weight)
    spread = (share * (1 - share) / (seeds * first)) ** 0.5
    assert abs(counted["b"] / (seeds * first) - share) < 4 * spread + 0.01


def test_reading_is_lazy_and_counts(files):
    (source,) = sources(files[:1], 1)
    counts = mixture.Counts()
    got = list(itertools.islice(mixture.read([source], lambda _: counts), 3))
    assert [where for where, *_ in got] == [f"{files[0]}:{i}" for i in (1, 2, 3)]
    assert (counts.rows, counts.records) == (3, 3)


def test_a_uid_that_comes_twice_and_a_source_without_rows(files, tmp_path):
    again = write(tmp_path / "again.jsonl", "a", 1)
    with pytest.raises(ValueError, match=r"again\.jsonl:1: field 'uid': 'a/0' comes twice"):
        mixture.take(sources((files[0], again), 1, 1), 5, seed=0)
    tie = tmp_path / "t.jsonl"
    tie.write_text('{"source": "s", "instruction": "x", "completions": []}\n')
    ties = mixture.parse(f"ultrafeedback:{tie}", "comparisons")
    with pytest.raises(ValueError, match="no usable row among 1: {'fewer than two"):
        mixture.take(ties, 5, seed=0)
