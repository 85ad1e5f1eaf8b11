"""What a process knows of itself."""

from __future__ import annotations

import pytest

from grm_jax.parallel import processes


@pytest.mark.parametrize("count", [1, 3])
def test_cores_are_those_of_the_process(count, monkeypatch):
    monkeypatch.setattr(
        processes.os, "sched_getaffinity", lambda pid: set(range(count)), raising=False
    )
    assert processes.cores() == count
