"""An import holds little beside the parameters."""

import pathlib

import pytest

from tools.bench import checkpoint
from tools.bench.checkpoint import MIB, Figures


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("devices", [1, 2])
def test_memory_of_an_import(devices, tmp_path):
    checkpoint.write_checkpoint(tmp_path, 256)
    assert len(list(tmp_path.glob("*.safetensors"))) >= 8
    figures = checkpoint.run(tmp_path, devices)
    assert 200 * MIB < figures.params < 300 * MIB
    assert figures.excess <= figures.bound
    # The bound leaves room for large tensors; this says that the small ones do not pile up.
    # About 60 MiB are compiled programs.
    assert figures.excess < 0.7 * figures.params


def test_the_bound_follows_large_tensors():
    assert Figures(0, 2**20, 0, 0.0).bound == 2**30
    assert Figures(0, 2**30, 0, 0.0).bound == 2**31
