"""Peaks of devices: from the table, the command line or a measurement, and unknown otherwise."""

from types import SimpleNamespace

from tools.bench import peaks
from tools.bench.peaks import Peaks
from tools.planning import topologies


def device(kind, platform="gpu"):
    return SimpleNamespace(device_kind=kind, platform=platform)


def test_known_devices_are_looked_up_by_their_whole_name():
    known = peaks.of_devices([device("NVIDIA H100 80GB HBM3")] * 2, "bfloat16")
    assert known[:2] == (2 * 989e12, 2 * 3.35e12)
    assert peaks.of_devices([device("TPU v5 lite", "tpu")], "bfloat16")[:2] == (197e12, 0.819e12)
    other = peaks.of_devices([device("NVIDIA H100 PCIe")], "bfloat16")
    assert other[:2] == (None, None)
    assert "--peak-tflops" in other.source and "--peak-gbps" in other.source


def test_benches_and_planner_share_one_table():
    for kind, rates in peaks.RATES.items():
        chip = topologies.CHIPS[kind]
        assert (chip.flops * chip.devices, chip.bandwidth * chip.devices) == rates
    assert set(peaks.KINDS.values()) <= set(peaks.RATES) == set(topologies.CHIPS)


def test_the_table_has_no_rate_for_float32():
    assert peaks.of_devices([device("NVIDIA H200")], "float32")[:2] == (None, 4.8e12)
    assert peaks.of_devices([device("NVIDIA H200")], "float32", tflops=60)[:2] == (60e12, 4.8e12)


def test_flags_are_for_one_device_and_come_first():
    given = peaks.of_devices([device("TPU v4", "tpu")] * 3, "bfloat16", tflops=2, gbps=5)
    assert given[:2] == (6e12, 15e9)


def test_a_cpu_is_measured_once_for_all_its_devices(monkeypatch):
    monkeypatch.setattr(peaks, "measure_flops", lambda dtype: {"float32": 5e9}[dtype])
    monkeypatch.setattr(peaks, "measure_bandwidth", lambda threads: 7e9)
    cpus = [device("cpu", "cpu")] * 4
    assert peaks.of_devices(cpus, "float32")[:2] == (5e9, 7e9)
    assert peaks.of_devices(cpus, "float32", gbps=1)[:2] == (5e9, 4e9)


def test_measurements_are_plausible():
    assert 1e8 < peaks.measure_bandwidth(2, megabytes=16) < 1e13
    assert 1e8 < peaks.measure_flops("float32", size=256) < 1e14


def test_what_is_unknown_prints_as_a_dash():
    assert peaks.share(1.0, None) == "-"
    assert peaks.share(1.0, 8.0) == "12.5%"
    assert peaks.describe(Peaks(None, 2e9, "x")) == "peaks: -, 2 GB/s (x)"
