"""Peak rates of devices, to compare measured rates with: FLOPs and bytes per second.

One table, for benches and for the planner. Rates are of dense bfloat16 products, as the makers
publish them, so they say nothing about products in float32. A CPU is measured instead; what is
neither known nor measured is None, unless the command line gives it.
"""

import argparse
import concurrent.futures
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.parallel import processes


class Peaks(NamedTuple):
    """Peak rates of all devices of a run together. None is unknown.

    Attributes:
      flops: per second, of products in the type of the activations.
      bandwidth: bytes per second of their main memories.
      source: where both come from.
    """

    flops: float | None
    bandwidth: float | None
    source: str


class Rates(NamedTuple):
    """Peak rates of one chip, per second: FLOPs in dense bfloat16, bytes of its main memory."""

    flops: float
    bandwidth: float


RATES = {
    "v4": Rates(275e12, 1.228e12),
    "v5e": Rates(197e12, 0.819e12),
    "v5p": Rates(459e12, 2.765e12),
    "v6e": Rates(918e12, 1.64e12),
    "tpu7x": Rates(2307e12, 7.37e12),
    "h100": Rates(989e12, 3.35e12),  # SXM
    "h200": Rates(989e12, 4.8e12),  # SXM
}

# What jax calls them, where one device is one chip. Whole names: cards called H100 differ by a
# third in both rates.
KINDS = {
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def measure_bandwidth(threads: int, megabytes: int = 256, repeats: int = 3) -> float:
    """Bytes per second of the host: of copying (read + write) or of reading, the faster one."""
    source = [np.ones(megabytes * 2**20 // threads // 8) for _ in range(threads)]
    target = [np.zeros_like(part) for part in source]
    best = 0.0
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            list(pool.map(np.copyto, target, source))
            copied = time.perf_counter()
            list(pool.map(np.max, source))
            read = time.perf_counter()
            size = sum(part.nbytes for part in source)
            best = max(best, 2 * size / (copied - began), size / (read - copied))
    return best


def measure_flops(dtype: str, size: int = 1536, repeats: int = 5) -> float:
    """FLOPs per second of a product of two square matrices, the best of some."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        product(x).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of peak rates, for devices that are not in the table."""
    parser.add_argument("--peak-tflops", type=float, help="TFLOP/s of one device")
    parser.add_argument("--peak-gbps", type=float, help="memory bandwidth of one device, GB/s")


def of_devices(
    devices: Sequence[jax.Device],
    dtype: str,
    *,
    tflops: float | None = None,
    gbps: float | None = None,
) -> Peaks:
    """The peaks of some equal devices together; those of a CPU share its cores.

    Args:
      devices: at least one.
      dtype: of activations. No table has the rate of float32.
      tflops, gbps: rates of one device, in TFLOP/s and GB/s, in place of those of the table.
    """
    kind = devices[0].device_kind
    known = RATES[KINDS[kind]] if kind in KINDS else None
    notes = [f"{kind}, as published" if known else f"{kind!r} is in no table"]
    flops = bandwidth = None
    if tflops is not None:
        flops, notes = len(devices) * tflops * 1e12, [*notes, "--peak-tflops"]
    elif devices[0].platform == "cpu":
        flops, notes = measure_flops(dtype), [*notes, "one product measured"]
    elif known and dtype == "bfloat16":
        flops = len(devices) * known.flops
    else:
        notes.append(f"no rate for {dtype} without --peak-tflops")
    if gbps is not None:
        bandwidth, notes = len(devices) * gbps * 1e9, [*notes, "--peak-gbps"]
    elif devices[0].platform == "cpu":
        bandwidth, notes = measure_bandwidth(processes.cores()), [*notes, "copying measured"]
    elif known:
        bandwidth = len(devices) * known.bandwidth
    else:
        notes.append("no bandwidth without --peak-gbps")
    return Peaks(flops, bandwidth, "; ".join(notes))


def describe(peaks: Peaks) -> str:
    """One line for the head of a table."""
    flops = "-" if peaks.flops is None else f"{peaks.flops / 1e12:.3g} TFLOP/s"
    bandwidth = "-" if peaks.bandwidth is None else f"{peaks.bandwidth / 1e9:.4g} GB/s"
    return f"peaks: {flops}, {bandwidth} ({peaks.source})"


def share(rate: float, peak: float | None) -> str:
    """rate / peak in per cent, or "-" where the peak is not known."""
    return "-" if peak is None else f"{rate / peak:.1%}"
