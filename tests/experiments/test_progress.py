"""metrics.jsonl: what is taken back when a stage goes on from an earlier step."""

import json

import pytest

from experiments.progress import Metrics
from grm_jax import files


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


@pytest.mark.parametrize(
    "wrong", [b"\n", b"\0\0\0\n", b'{"stage": "meta_rm", "st\n', b'{"step": 1}\n', b"7\n"]
)
def test_a_damaged_line_is_named(metrics, tmp_path, wrong):
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], wrong, *lines[2:]]))
    for read in (metrics.read, lambda: metrics.rewind("meta_rm", 0)):
        with pytest.raises(ValueError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}:2: ")


def test_a_record_that_could_not_be_written_leaves_whole_lines(metrics, tmp_path, monkeypatch):
    path, write = tmp_path / "metrics.jsonl", files.os.write
    before, room = path.read_bytes(), iter([5])

    def fail(handle, data):
        if size := next(room, 0):
            return write(handle, data[:size])
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "write", fail)
    with pytest.raises(OSError, match="no space"):
        metrics.write("grpo", 1, {"loss": 1.0})
    monkeypatch.undo()
    assert path.read_bytes() == before
    metrics.write("grpo", 1, {"loss": 1.0})
    assert steps(metrics)[-1] == ("grpo", 1)
