"""Buckets and work units."""

import pytest

from grm_jax.sampling.prompt import Prompt
from grm_jax.sampling.scheduler import Bucket, Buckets, Request, plan_units

BUCKETS = Buckets((8, 16), (4, 32), samples=(1, 2, 4), samples_per_unit=8)


def request(uid, length=5, samples=(0,)):
    return Request(Prompt(uid, (0,), tuple(range(length))), tuple(samples))


def test_bucket_is_the_smallest_that_fits():
    assert BUCKETS.bucket(8, 2, 4) == Bucket(P=4, S=2, T=8, U=4)
    assert BUCKETS.bucket(9, 3, 5) == Bucket(P=2, S=4, T=16, U=32)
    assert BUCKETS.bucket(1, 1, 1) == Bucket(P=8, S=1, T=8, U=4)


def test_a_unit_has_at_least_one_prompt():
    wide = Buckets((8,), (4,), samples=(32,), samples_per_unit=8)
    assert wide.bucket(1, 20, 1) == Bucket(P=1, S=32, T=8, U=4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((17, 1, 1), "sampling.prompt_lengths: 17 exceeds the largest bucket, 16"),
        ((1, 5, 1), "sampling.samples: 5 exceeds the largest bucket, 4"),
        ((1, 1, 33), "sampling.output_lengths: 33 exceeds the largest bucket, 32"),
    ],
)
def test_what_no_bucket_fits_is_named(asked, message):
    with pytest.raises(ValueError, match=message):
        BUCKETS.bucket(*asked)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"prompt_lengths": ()}, "prompt_lengths"),
        ({"prompt_lengths": (16, 8)}, "prompt_lengths"),
        ({"output_lengths": (0, 4)}, "output_lengths"),
        ({"samples": (1, 1)}, "samples"),
        ({"samples_per_unit": 0}, "samples_per_unit"),
    ],
)
def test_impossible_buckets_are_refused_by_name(changes, name):
    fields = {"prompt_lengths": (8,), "output_lengths": (4,), **changes}
    with pytest.raises(ValueError, match=f"^{name}: must be"):
        Buckets(**fields)


def test_plan_units_fills_units_of_one_shape_in_the_order_of_the_work():
    work = [request(f"u{i}", samples=(0, 1)) for i in range(5)]
    work.insert(2, request("long", length=12, samples=(0, 1)))
    units = plan_units(work, BUCKETS, max_new_tokens=4)
    assert [unit.index for unit in units] == [0, 1, 2]
    assert [[r.prompt.uid for r in unit.requests] for unit in units] == [
        ["u0", "u1", "u2", "u3"], ["u4"], ["long"]
    ]  # fmt: skip
    assert [unit.bucket for unit in units] == [
        Bucket(4, 2, 8, 4), Bucket(4, 2, 8, 4), Bucket(4, 2, 16, 4)
    ]  # fmt: skip


def test_plan_units_loses_and_doubles_nothing():
    work = [request(f"u{i}", 3 + i % 13, range(1 + i % 4)) for i in range(50)]
    units = plan_units(work, BUCKETS, max_new_tokens=20)
    placed = [r for unit in units for r in unit.requests]
    assert sorted(placed) == sorted(work)
    assert all(len(unit.requests) <= unit.bucket.P for unit in units)
    assert plan_units(work, BUCKETS, max_new_tokens=20) == units


def test_full_units_stay_as_they_are_when_work_is_appended():
    work = [request(f"u{i}", samples=(0, 1)) for i in range(8)]
    before = plan_units(work, BUCKETS, max_new_tokens=4)
    after = plan_units([*work, request("new", 16)], BUCKETS, max_new_tokens=4)
    assert after[:2] == before


def test_plan_units_refuses_a_prompt_that_is_too_long():
    with pytest.raises(ValueError, match="prompt_lengths: 20 exceeds"):
        plan_units([request("a"), request("b", 20)], BUCKETS, max_new_tokens=4)


def test_plan_units_of_no_work_is_empty():
    assert plan_units([], BUCKETS, max_new_tokens=4) == []
