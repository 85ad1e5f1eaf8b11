"""metrics.jsonl: what is taken back when a stage goes on from an earlier step."""

import json

import pytest

from experiments.metrics import Metrics


@pytest.fixture
def metrics(tmp_path):
    found = Metrics(tmp_path)
    for stage, step in [("meta_rm", 0), ("meta_rm", 10), ("grpo_none", 0), ("meta_rm", 20)]:
        found.write(stage, step, {"loss": step / 7})
    return found


def steps(metrics):
    return [(record["stage"], record["step"]) for record in metrics.read()]


def test_a_stage_takes_back_its_own_records_only(metrics):
    metrics.rewind("meta_rm", 10)
    assert steps(metrics) == [("meta_rm", 0), ("grpo_none", 0)]
    metrics.rewind("grpo_none", 0)
    metrics.rewind("base", 0)
    assert steps(metrics) == [("meta_rm", 0)]


def test_nothing_is_written_where_nothing_is_taken_back(metrics, tmp_path):
    before = (tmp_path / "metrics.jsonl").stat()
    metrics.rewind("meta_rm", 21)
    after = (tmp_path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_torn_line_is_cut_off(metrics, tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps({"stage": "meta_rm"}).encode()[:-3])
    assert Metrics(tmp_path).read() == metrics.read()
    assert path.read_bytes() == whole
