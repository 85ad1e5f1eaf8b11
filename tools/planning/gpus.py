"""Descriptions of cards for XLA's CUDA compiler, which needs none to be there.

It needs no driver either, only the plugin of jax and `ptxas` (the extra `cuda`). It never says
that a program does not fit: the size of the memory only tells it how much to compute twice rather
than keep. Nor can it time products to choose among them, as it does in a run, so kernels and their
scratch memory of some MB may differ there.
"""

import importlib.metadata

import jax
from jax.experimental import topologies

from tools.bench.peaks import KINDS, RATES

# Bytes that CUDA says a card has: by XLA's own description of one, and 139.8 GiB by those of users.
MEMORY = {"h100": 84_942_979_072, "h200": 150_109_106_995}
# Untuned, Triton refuses some products; a run takes cuBLAS for most of them anyway.
OPTIONS = {"xla_gpu_enable_triton_gemm": False}
HOST = 8  # cards of one host, joined by NVLink

# `GpuTargetConfigProto` of XLA. Both cards have one Hopper chip, and differ in their memory.
_CARD = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_core: 233472  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800  memory_bandwidth: {bandwidth:.0f}  device_memory_size: {memory}
  device_address_bits: 64  device_vendor: "NVIDIA Corporation"  name: "{name}"
  driver_version: "12.9.0"  runtime_version: "12.9.0"  compile_time_toolkit_version: "12.9.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9  minor: 10 }}
device_description_str: "{name}"
"""


def plugin() -> str | None:
    """Version of jax's plugin for CUDA, or None if there is none."""
    for name in ("jax-cuda12-plugin", "jax-cuda13-plugin"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def devices(kind: str, cards: int) -> list[jax.Device]:
    """Devices of a kind of `MEMORY` that programs can be compiled for and not run on.

    Raises:
      ValueError: more than 8 cards that are not whole hosts of 8.
    """
    if cards > HOST and cards % HOST:
        raise ValueError(f"{kind}:{cards}: more than {HOST} cards are whole hosts of {HOST}")
    name = next(name for name, short in KINDS.items() if short == kind)
    card = _CARD.format(name=name, memory=MEMORY[kind], bandwidth=RATES[kind].bandwidth)
    each = min(cards, HOST)
    described = topologies.get_topology_desc(
        platform="cuda", target_config=card, topology=f"1x{cards // each}x{each}"
    )
    return list(described.devices)
