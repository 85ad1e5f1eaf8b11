"""Trajectories and their logs: exact round trips, kills at every byte, damage, restores."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grm_jax.data import unit_log
from grm_jax.data.comparison import FieldError
from grm_jax.data.stores import MetaScoreStore, TrajectoryStore, UnitHeader
from grm_jax.data.trajectory import Trajectory, TrajectoryKey


def make(sample=0, **changes) -> Trajectory:
    fields = {
        "fingerprint": "f0",
        "stage": "grpo",
        "step": 0,
        "uid": "soup",
        "sample": sample,
        "seed": (1, 2**32 - 1),
        "order": (2, 0, 1),
        "token_ids": (5, 9),
        "logprobs": (-0.1, -2.5),
        "sampling_logprobs": (-0.05, -2.75),
        "text": "Weißkohl\n\\boxed{3, 8, 5}",
        "scores": (3, 8, 5),
        "parse_reason": "ok",
        "lenient_scores": (3, 8, 5),
        "finish": "stop",
        "correct": True,
    }
    return Trajectory(**{**fields, **changes})


def to_json(trajectory: Trajectory) -> str:
    return unit_log.dump(trajectory.record())


def from_json(line: str | bytes) -> Trajectory:
    return Trajectory.from_record(json.loads(line))


def unit(index, step=0, samples=2, uid=None):
    header = UnitHeader("f0", "grpo", step, index)
    uid = uid or f"uid-{index}"
    return header, [make(s, uid=uid, step=step) for s in range(samples)]


def filled(path, units=3) -> list[int]:
    """Writes units 0, 1, ...; the offsets before the first and after each."""
    with TrajectoryStore(path) as store:
        offsets = [store.offset]
        for index in range(units):
            store.append_unit(*unit(index))
            offsets.append(store.offset)
    return offsets


def test_original_scores_undo_the_order():
    trajectory = make()  # the third response was shown first
    assert trajectory.original_scores() == (8, 5, 3)
    assert make(scores=None, parse_reason="no_box").original_scores() is None


def test_scores_of_judges_are_real_numbers():
    trajectory = make(scores=(0.5, 2.0, -1.25), lenient_scores=np.asarray([1, 0.5, 3]))
    assert '"scores":[0.5,2,-1.25]' in to_json(trajectory)
    assert from_json(to_json(trajectory)) == trajectory
    assert [type(score) for score in trajectory.scores] == [float, int, float]
    assert [type(score) for score in trajectory.lenient_scores] == [int, float, int]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("scores", {"scores": (1, 2, math.nan)}),
        ("scores", {"scores": (1, 2, "3")}),
        ("lenient_scores", {"lenient_scores": (1, 2, math.inf)}),
        ("order", {"order": (0, 0, 1)}),
        ("order", {"order": (), "scores": (), "lenient_scores": None}),
        ("token_ids", {"token_ids": (1.5, 2)}),
        ("logprobs", {"logprobs": (-1.0,)}),
        ("logprobs", {"logprobs": (-1.0, float("nan"))}),
        ("logprobs", {"logprobs": ((-1.0,), (-2.0,))}),
        ("sampling_logprobs", {"sampling_logprobs": (-1.0, float("-inf"))}),
        ("scores", {"scores": (1, 2)}),
        ("lenient_scores", {"lenient_scores": (1, 2, 3, 4)}),
        ("parse_reason", {"scores": None}),
        ("parse_reason", {"parse_reason": "count"}),
        ("finish", {"finish": "eos"}),
        ("seed", {"seed": (1, 2**32)}),
        ("seed", {"seed": (1,)}),
        ("step", {"step": -1}),
        ("sample", {"sample": "0"}),
        ("correct", {"correct": 1}),
        ("hinted", {"hinted": None}),
        ("text", {"text": "\ud800"}),
        ("uid", {"uid": 3}),
    ],
)
def test_a_bad_field_is_named(name, changes):
    with pytest.raises(FieldError) as caught:
        make(**changes)
    assert caught.value.name == name


def test_numpy_values_become_plain_ones():
    trajectory = make(
        step=np.int64(3),
        order=np.asarray([1, 0]),
        scores=np.asarray([7, 2]),
        lenient_scores=None,
        token_ids=np.asarray([4, 4], np.int32),
        logprobs=np.asarray([-0.1, -0.2], np.float32),
        correct=np.bool_(False),
    )
    assert json.loads(to_json(trajectory))["correct"] is False
    assert from_json(to_json(trajectory)) == trajectory
    assert type(trajectory.order[0]) is int and trajectory.original_scores() == (2, 7)


def test_json_is_compact_and_one_line():
    line = to_json(make())
    assert '"logprobs":[-0.1,-2.5]' in line and "Weißkohl\\n" in line and "\n" not in line


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def trajectories(draw):
    n, tokens = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    of_n = st.lists(st.integers(-3, 12), min_size=n, max_size=n).map(tuple)
    scores = draw(st.none() | of_n)
    return make(
        uid=draw(texts),
        stage=draw(texts),
        step=draw(st.integers(0, 2**40)),
        sample=draw(st.integers(0, 99)),
        seed=tuple(draw(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2))),
        order=tuple(draw(st.permutations(range(n)))),
        token_ids=draw(st.lists(st.integers(0, 256000), min_size=tokens, max_size=tokens)),
        logprobs=draw(st.lists(float32s, min_size=tokens, max_size=tokens)),
        sampling_logprobs=draw(st.lists(st.floats(-50, 0), min_size=tokens, max_size=tokens)),
        text=draw(texts),
        scores=scores,
        parse_reason="no_box" if scores is None else "ok",
        lenient_scores=draw(st.none() | of_n),
        finish=draw(st.sampled_from(["stop", "length"])),
        correct=draw(st.sampled_from([None, True, False])),
        hinted=draw(st.booleans()),
        truncated=draw(st.booleans()),
        thinking=draw(st.sampled_from(["", "perhaps\n"])),
    )


@given(trajectories())
def test_json_round_trip_is_exact(trajectory):
    line = to_json(trajectory)
    again = from_json(line)
    assert again == trajectory and to_json(again) == line
    assert "\n" not in line
    for name in ("logprobs", "sampling_logprobs"):
        values = np.asarray(getattr(trajectory, name), np.float32)
        np.testing.assert_array_equal(np.asarray(getattr(again, name), np.float32), values)
        assert np.array_equal(values.astype(np.float64), getattr(again, name))


def test_from_json_refuses_other_fields():
    record = json.loads(to_json(make()))
    with pytest.raises(FieldError, match="'reward': unknown"):
        from_json(json.dumps({**record, "reward": 1}))
    for name in ("given", "thinking"):  # older logs have neither
        del record[name]
    assert from_json(json.dumps(record)) == make()
    del record["order"]
    with pytest.raises(FieldError, match="'order': is missing"):
        from_json(json.dumps(record))


def test_units_come_back_by_group_and_index(tmp_path):
    path = tmp_path / "new" / "grpo.jsonl"
    with TrajectoryStore(path) as store:
        for index, step in [(1, 0), (0, 5), (0, 0), (2, 0)]:
            store.append_unit(*unit(index, step))
        other = UnitHeader("f1", "rft", 0, 0)
        store.append_unit(other, [make(fingerprint="f1", stage="rft")])
        assert store.cut_bytes == 0 and store.offset == path.stat().st_size
    for store in (TrajectoryStore(path), TrajectoryStore(path, read_only=True)):
        with store:
            assert store.completed_units("f0", "grpo", 0) == {0, 1, 2}
            assert store.completed_units("f0", "grpo", 5) == {0}
            assert store.completed_units("f0", "grpo", 1) == set()
            assert store.completed_units("f1", "grpo", 0) == set()
            step0 = [(t.uid, t.sample) for t in store.iterate(stage="grpo", step=0)]
            assert step0 == [(f"uid-{i}", s) for i in range(3) for s in range(2)]
            assert [t.step for t in store.iterate(fingerprint="f0")] == [0] * 6 + [5] * 2
            assert list(store.iterate(fingerprint="f1")) == [make(fingerprint="f1", stage="rft")]
            assert len(list(store.iterate())) == 9
            assert store.offset == path.stat().st_size


def test_the_file_is_as_documented(tmp_path):
    path = tmp_path / "log.jsonl"
    filled(path, units=1)
    head, *records, tail = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(head) == {
        "unit": 0, "fingerprint": "f0", "stage": "grpo", "step": 0, "n": 2
    }  # fmt: skip
    assert [from_json(line) for line in records] == unit(0)[1]
    assert json.loads(tail) == {"end": 0}


def test_one_write_and_one_sync_for_a_unit(tmp_path, monkeypatch):
    calls = []
    write, sync = unit_log.os.write, unit_log.os.fsync
    with TrajectoryStore(tmp_path / "log.jsonl") as store:
        monkeypatch.setattr(unit_log.os, "write", lambda *a: calls.append("write") or write(*a))
        monkeypatch.setattr(unit_log.os, "fsync", lambda *a: calls.append("fsync") or sync(*a))
        store.append_unit(*unit(0))
    assert calls == ["write", "fsync"]


def test_a_kill_at_any_byte_costs_the_last_unit_only(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_log.os, "fsync", lambda fd: None)  # a thousand would take seconds
    path = tmp_path / "log.jsonl"
    offsets = filled(path)
    whole = path.read_bytes()
    for cut in range(offsets[2], offsets[3]):
        path.write_bytes(whole[:cut])
        with TrajectoryStore(path, read_only=True) as store:
            assert store.completed_units("f0", "grpo", 0) == {0, 1}
        assert path.stat().st_size == cut
        with TrajectoryStore(path) as store:
            assert store.cut_bytes == cut - offsets[2]
            assert store.completed_units("f0", "grpo", 0) == {0, 1}
            assert store.offset == path.stat().st_size == offsets[2]
            store.append_unit(*unit(2))
        assert path.read_bytes() == whole


def test_a_kill_in_the_first_unit_leaves_an_empty_log(tmp_path):
    path = tmp_path / "log.jsonl"
    offsets = filled(path, units=1)
    path.write_bytes(path.read_bytes()[: offsets[1] // 2])
    with TrajectoryStore(path) as store:
        assert store.offset == 0 and store.cut_bytes > 0 and list(store.iterate()) == []


def test_damage_in_the_middle_is_an_error_with_file_and_line(tmp_path):
    path = tmp_path / "log.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for i, line in enumerate(lines):
        kind = ("header", "record", "record", "closing")[i % 4]
        damaged = [b"\0" * (len(line) - 1) + b"\n", line[: len(line) // 2] + b"\n", b"\n"]
        # The last closing line may be missing; any other line may not.
        damaged += [b""] if i + 1 < len(lines) else []
        damaged += [b'{"end":9}\n'] if kind != "record" else [line.replace(b"f0", b"f9")]
        for wrong in damaged:
            content = b"".join([*lines[:i], wrong, *lines[i + 1 :]])
            path.write_bytes(content)
            with pytest.raises(ValueError) as caught:
                TrajectoryStore(path)
            number = int(str(caught.value).removeprefix(f"{path}:").split(":")[0])
            # A lost line shows only where the next one does not fit.
            assert i + 1 <= number <= i + 3 if wrong == b"" else number == i + 1
            assert path.read_bytes() == content  # damage is never repaired


def test_nothing_is_written_twice(tmp_path):
    path = tmp_path / "log.jsonl"
    filled(path, units=2)
    content = path.read_bytes()
    with TrajectoryStore(path) as store:
        with pytest.raises(ValueError, match=r"unit 1 .* is already complete"):
            store.append_unit(*unit(1, uid="other"))
        with pytest.raises(ValueError, match="duplicate record"):
            store.append_unit(*unit(2, uid="uid-0"))
        with pytest.raises(ValueError, match="duplicate record"):
            store.append_unit(UnitHeader("f0", "grpo", 0, 2), [make(0), make(0)])
        with pytest.raises(ValueError, match="is not of the unit"):
            store.append_unit(UnitHeader("f0", "grpo", 1, 2), [make(0)])
        assert path.read_bytes() == content
        hinted = [make(uid="uid-0", hinted=True), make(uid="uid-0", sample=2)]
        store.append_unit(UnitHeader("f0", "grpo", 0, 2), hinted)
        store.append_unit(*unit(0, step=1, uid="uid-0"))
    path.write_bytes(path.read_bytes() + content)
    with pytest.raises(FieldError, match=r"log.jsonl:17: field 'unit'"):
        TrajectoryStore(path)
    doubled = content.replace(b'"unit":0', b'"unit":7').replace(b'"end":0', b'"end":7')
    path.write_bytes(content + doubled)
    with pytest.raises(FieldError, match=r"log.jsonl:10: field 'uid': duplicate"):
        TrajectoryStore(path)


def test_truncate_restores_the_log_of_a_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    offsets = filled(path)
    whole = path.read_bytes()
    with TrajectoryStore(path) as store:
        for bad, message in [
            (offsets[3] + 1, "beyond the end"),
            (offsets[2] - 1, "not the end of a unit"),
            (1, "not the end of a unit"),
            (-1, "not the end of a unit"),
        ]:
            with pytest.raises(ValueError, match=f"log.jsonl: offset {bad} is {message}"):
                store.truncate(bad)
        store.truncate(offsets[3])
        assert path.read_bytes() == whole
        store.truncate(offsets[1])
        assert path.read_bytes() == whole[: offsets[1]] and store.offset == offsets[1]
        assert store.completed_units("f0", "grpo", 0) == {0}
        assert [t.uid for t in store.iterate()] == ["uid-0"] * 2
        store.append_unit(*unit(1))  # its keys are free again
        store.append_unit(*unit(2))
        assert path.read_bytes() == whole
        assert [t.uid for t in store.iterate()] == [f"uid-{i // 2}" for i in range(6)]
        store.truncate(0)
        assert store.offset == 0 and path.read_bytes() == b""
        store.append_unit(*unit(0))
    assert path.read_bytes() == whole[: offsets[1]]


def test_lines_are_counted_right_after_truncate(tmp_path):
    path = tmp_path / "log.jsonl"
    offsets = filled(path)
    with TrajectoryStore(path) as store:
        store.truncate(offsets[1])
        store.append_unit(*unit(1))
        head, tail = path.read_bytes()[: offsets[1]], path.read_bytes()[offsets[1] :]
        path.write_bytes(head + tail.replace(b'"finish":"stop"', b'"finish":"halt"'))
        with pytest.raises(FieldError, match=r"log.jsonl:6: field 'finish'"):
            next(t for t in store.iterate() if t.uid == "uid-1")


def test_a_failed_write_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    filled(path, units=1)
    before = path.read_bytes()
    write = unit_log.os.write

    def full(fd, data):
        if len(data) < 100:
            raise OSError("no space left on device")
        return write(fd, data[: len(data) // 2])

    with TrajectoryStore(path) as store:
        monkeypatch.setattr(unit_log.os, "write", full)
        with pytest.raises(OSError, match="no space"):
            store.append_unit(*unit(1))
        assert path.read_bytes() == before
        monkeypatch.undo()
        store.append_unit(*unit(1))
        assert store.completed_units("f0", "grpo", 0) == {0, 1}


def test_a_write_in_parts_is_completed(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    offsets = filled(path, units=1)
    whole = path.read_bytes()
    write = unit_log.os.write
    monkeypatch.setattr(unit_log.os, "write", lambda fd, data: write(fd, data[:37]))
    filled(tmp_path / "parts.jsonl", units=1)
    assert (tmp_path / "parts.jsonl").read_bytes() == whole and len(whole) == offsets[1]


def test_two_writers_are_noticed(tmp_path):
    path = tmp_path / "log.jsonl"
    with TrajectoryStore(path) as one, TrajectoryStore(path) as two:
        one.append_unit(*unit(0))
        with pytest.raises(ValueError, match=r"log.jsonl: was changed by another process"):
            two.append_unit(*unit(1))


def test_reading_only_neither_creates_nor_writes(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(ValueError, match=r"log.jsonl: no such file"):
        TrajectoryStore(path, read_only=True)
    filled(path, units=1)
    with TrajectoryStore(path, read_only=True) as store:
        with pytest.raises(ValueError, match="reading only"):
            store.append_unit(*unit(1))
        with pytest.raises(ValueError, match="reading only"):
            store.truncate(0)


def test_a_bad_record_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "log.jsonl"
    filled(path, units=2)
    path.write_bytes(path.read_bytes().replace(b'"finish":"stop"', b'"finish":"halt"', 4))
    with (
        TrajectoryStore(path) as store,
        pytest.raises(FieldError, match=r"log.jsonl:2: field 'finish'"),
    ):
        list(store.iterate())


def test_no_trajectory_is_held_in_memory(tmp_path):
    path = tmp_path / "log.jsonl"
    with TrajectoryStore(path) as store:
        header = UnitHeader("f0", "grpo", 0, 0)
        store.append_unit(header, [make(text="x" * 10_000)])
    with TrajectoryStore(path) as store:
        assert "x" * 100 not in repr(vars(store))
        assert len(next(store.iterate()).text) == 10_000


def meta_scores(index, step=0) -> tuple[UnitHeader, dict[TrajectoryKey, float]]:
    header, members = unit(index, step)
    return header, {t.key: 0.1 * (t.sample + 1) for t in members}


def test_meta_scores_by_key(tmp_path):
    path = tmp_path / "meta.jsonl"
    with MetaScoreStore(path) as store:
        store.append_unit("m0", *meta_scores(1))
        store.append_unit("m0", *meta_scores(0))
        store.append_unit("m0", *meta_scores(0, step=4))
        store.append_unit("m1", *meta_scores(0))
        mark = store.offset
        store.append_unit("m1", *meta_scores(1))
    with MetaScoreStore(path) as store:
        assert store.completed_units("m0", "f0", "grpo", 0) == {0, 1}
        assert store.completed_units("m1", "f0", "grpo", 4) == set()
        wanted = {**meta_scores(0)[1], **meta_scores(1)[1]}
        found = store.scores("m0", step=0)
        assert found == {key: float(np.float32(value)) for key, value in wanted.items()}
        assert len(store.scores("m0")) == 6 and len(store.scores("m1")) == 4
        store.truncate(mark)
        assert store.completed_units("m1", "f0", "grpo", 0) == {0}
        assert b'"score":0.1}' in path.read_bytes()


def test_bad_meta_scores_are_refused(tmp_path):
    path = tmp_path / "meta.jsonl"
    header, scores = meta_scores(0)
    with MetaScoreStore(path) as store:
        with pytest.raises(FieldError, match="'score': must be finite"):
            store.append_unit("m0", header, dict.fromkeys(scores, float("nan")))
        with pytest.raises(ValueError, match="is not of the unit"):
            store.append_unit("m0", header, {make(step=3).key: 0.5})
        store.append_unit("m0", header, scores)
        with pytest.raises(ValueError, match="duplicate record"):
            store.append_unit("m0", header._replace(unit=1), scores)
        with pytest.raises(ValueError, match="already complete"):
            store.append_unit("m0", header, scores)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"score":0.1', b'"score":"h"'))
    with (
        MetaScoreStore(path) as store,
        pytest.raises(FieldError, match=r"meta.jsonl:2: field 'score'"),
    ):
        store.scores("m0")


def test_a_killed_meta_unit_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_log.os, "fsync", lambda fd: None)
    path = tmp_path / "meta.jsonl"
    with MetaScoreStore(path) as store:
        store.append_unit("m0", *meta_scores(0))
        first = store.offset
        store.append_unit("m0", *meta_scores(1))
    whole = path.read_bytes()
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        with MetaScoreStore(path) as store:
            assert store.completed_units("m0", "f0", "grpo", 0) == {0}
            store.append_unit("m0", *meta_scores(1))
        assert path.read_bytes() == whole


def test_the_key_is_part_of_the_record():
    assert set(TrajectoryKey._fields) < {field.name for field in dataclasses.fields(Trajectory)}
    assert make(1).key == ("f0", "grpo", 0, "soup", 1, False)
