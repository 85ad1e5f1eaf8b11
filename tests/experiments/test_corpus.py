"""Training data of a config: what is read, what overlaps a benchmark, what stops a run."""

import json

import pytest
from ml_collections import FrozenConfigDict

from configs import gemma2_27b, small_world
from experiments import corpus, schema
from experiments.corpus import Corpus, DataConfig
from experiments.grpo import unsolved
from grm_jax.data.comparison import Comparison, write_jsonl
from grm_jax.text.prompts import Message


def comparisons(*texts):
    return [Comparison(f"c{i}", (Message("user", text),), ("a", "b"), (1.0, 0.0))
            for i, text in enumerate(texts)]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", comparisons("one", "what the benchmark asks", "three"))
    return tmp_path


def make(folder, monkeypatch, overlap="refuse"):
    lines = []
    monkeypatch.setattr(
        corpus, "load_suite", lambda name, data_dir: comparisons("What the benchmark asks?")
    )
    config = DataConfig(train=f"jsonl:{folder}/train.jsonl", overlap=overlap)
    return Corpus(config, "llmbar,data", "DATA", lines.append), lines


def test_a_prompt_of_a_benchmark_is_refused_by_place_and_row(folder, monkeypatch):
    source, _ = make(folder, monkeypatch)
    with pytest.raises(ValueError, match=r"train\.jsonl:2: .*'c1' is in llmbar \('c0', 100%"):
        source.comparisons("train", 3, seed=0)


def test_or_dropped_or_allowed(folder, monkeypatch):
    source, lines = make(folder, monkeypatch, "drop")
    assert {c.uid for c in source.comparisons("train", 9, seed=0)} == {"c0", "c2"}
    assert lines == [
        "data.train: 1 prompts are in llmbar",
        "data.train: jsonl, 2 comparisons, 1 rows: in a benchmark",
    ]
    source, lines = make(folder, monkeypatch, "allow")
    assert len(source.comparisons("train", 9, seed=0)) == 3
    assert lines == ["data.train: jsonl, 3 comparisons"]


def test_splits_and_general_data_that_are_not_there(folder, monkeypatch):
    source, _ = make(folder, monkeypatch)
    with pytest.raises(ValueError, match=r"config\.data\.test: names no set"):
        source.comparisons("test", 1, seed=0)
    with pytest.raises(ValueError, match=r"config\.data\.general: no file"):
        source.general(1, seed=0)
    assert source.general(0, seed=0) == []


def test_general_data_come_in_an_order_of_the_seed(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"q{i}"},
                          {"role": "assistant", "content": f"a{i}"}]}
            for i in range(9)]  # fmt: skip
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Corpus(DataConfig(general=str(tmp_path / "g.jsonl")), "", "", lambda line: None)
    drawn = source.general(5, seed=1)
    assert len(set(drawn)) == 5 and drawn == source.general(5, seed=1) != source.general(5, seed=2)
    assert len(source.general(99, seed=1)) == 9


def test_sections_without_data_are_named():
    c = small_world.get_config("ci")
    c.data = {"train": "other:x"}
    with pytest.raises(ValueError, match=r"config\.data: train: expected NAME:PATH"):
        schema.check(FrozenConfigDict(c))
    c.data = {"train": "jsonl:x", "overlap": "ignore"}
    with pytest.raises(ValueError, match=r"config\.data: overlap must be one of"):
        schema.check(FrozenConfigDict(c))
    c.data = {"train": "jsonl:x"}
    del c.small_world
    with pytest.raises(ValueError, match=r"config\.base\.data\.general: needs config\.data\.gene"):
        schema.check(FrozenConfigDict(c))
    c.data = {"train": "jsonl:x", "general": "y"}
    with pytest.raises(ValueError, match=r"config\.cold_start\.data\.demonstrations: only"):
        schema.check(FrozenConfigDict(c))


def test_a_file_of_trajectories_that_is_none(tmp_path):
    class Run:
        stage = staticmethod(lambda name: name)
        path = staticmethod(lambda *parts: tmp_path.joinpath(*parts))

    assert gemma2_27b.get_config().grpo.loop.solved_by == "rft"
    with pytest.raises(ValueError, match=r"config\.grpo\.loop\.solved_by: 'rft': no file .*rft"):
        unsolved(Run(), [], "rft")
