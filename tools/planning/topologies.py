"""Chips, slices and pods that programs are compiled for without having them.

A TPU slice is named by its chips: `v5p:4x4x4` are 64, which clouds sell by cores as v5p-128.
Compiling for TPUs takes libtpu (the extra `tpu`) and for GPUs the CUDA plugin of jax (the extra
`cuda`), on any Linux host. Without them devices of the CPU stand in: then arguments and collectives
are right, and memory is a guess.
"""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies

from grm_jax.parallel.mesh import AXES, MeshConfig, make_mesh
from tools.bench.peaks import RATES
from tools.planning import gpus

GIB = 2**30
# Of a card's memory, to be given to jax by XLA_PYTHON_CLIENT_MEM_FRACTION: it takes 0.75 of it
# without that. The rest is for CUDA, its libraries and NCCL.
GPU_SHARE = 0.95


class Chip(NamedTuple):
    """Capabilities of one device of a kind. A v4 or tpu7x chip is two devices, any other is one.

    Attributes:
      hbm: bytes that the compiler lets a program use; of a GPU, `GPU_SHARE` of the card's.
      flops: per second, dense bfloat16, by `tools.bench.peaks`.
      bandwidth: bytes per second of HBM, likewise.
      clock: cycles per second, to turn the compiler's estimates into seconds; 0 is unknown.
      devices: of a chip.
      dimensions: of a slice.
    """

    hbm: float
    flops: float
    bandwidth: float
    clock: float
    devices: int
    dimensions: int


# Usable HBM is what libtpu 0.0.42 says when it refuses a program. tpu7x: the clock is assumed.
CHIPS = {
    kind: Chip(hbm, *(rate / devices for rate in RATES[kind]), clock, devices, dimensions)
    for kind, hbm, clock, devices, dimensions in (
        ("v4", 15.25 * GIB, 1.05e9, 2, 3),
        ("v5e", 15.75 * GIB, 1.5e9, 1, 2),
        ("v5p", 95.74 * GIB, 1.75e9, 1, 3),
        ("v6e", 31.25 * GIB, 1.75e9, 1, 2),
        ("tpu7x", 94.75 * GIB, 1.9e9, 2, 3),
        *((kind, GPU_SHARE * memory, 0.0, 1, 1) for kind, memory in gpus.MEMORY.items()),
    )
}
_SOLD_BY_CORES = ("v4", "v5p")


class Topology(NamedTuple):
    """A slice, or several, by name.

    Attributes:
      name: such as "v5p:4x4x4".
      kind: key of `CHIPS`.
      shape: chips along each dimension of a slice.
      slices: equal slices, joined by the data-centre network.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    slices: int

    @property
    def chip(self) -> Chip:
        """The kind of its chips."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """Number of devices, to which the axes of a mesh multiply."""
        return self.chips * self.chip.devices

    @property
    def title(self) -> str:
        """Title of a table."""
        sold = f", sold as {self.kind}-{2 * math.prod(self.shape)}"
        each = f"{self.slices} slices of " if self.slices > 1 else ""
        called = "cards" if self.kind in gpus.MEMORY else "chips"
        return f"{self.chips} {self.kind} {called}, {each}`{self.name}`" + (
            sold if self.kind in _SOLD_BY_CORES else ""
        )


def parse(name: str, slices: int = 1) -> Topology:
    """The topology of a name.

    Raises:
      ValueError: naming the kind or the shape that there is none of.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in CHIPS:
        raise ValueError(f"topology {name!r}: expected KIND:AxBxC with KIND one of {sorted(CHIPS)}")
    shape = tuple(int(part) for part in match[2].split("x"))
    if len(shape) != CHIPS[match[1]].dimensions or min(shape) < 1 or slices < 1:
        raise ValueError(
            f"topology {name!r}: a slice of {match[1]} has {CHIPS[match[1]].dimensions} dimensions"
        )
    if slices > 1 and match[1] in gpus.MEMORY:
        raise ValueError(f"topology {name!r}: GPUs come in no slices; name all of them, KIND:N")
    return Topology(name, match[1], shape, slices)


def compiler(topology: Topology) -> str:
    """ "tpu" or "cuda" where what compiles for it is installed, else "cpu"."""
    if topology.kind in gpus.MEMORY:
        return "cuda" if gpus.plugin() else "cpu"
    return "tpu" if importlib.util.find_spec("libtpu") else "cpu"


def prepare() -> None:
    """Environment in which compilers look for no TPU and no GPU. Before jax has a backend."""
    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"), ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
        ("TPU_WORKER_HOSTNAMES", "localhost"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_STDERR_LOG_LEVEL", "3"), ("TF_CPP_MIN_LOG_LEVEL", "3"),
    ):  # fmt: skip
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def mesh(topology: Topology, config: MeshConfig, platform: str) -> jax.sharding.Mesh:
    """A mesh of devices that compile only, or of CPU devices.

    Raises:
      ValueError: if the axes do not multiply to the devices, or there is no such slice.
    """
    if config.size != topology.devices:
        sizes = ", ".join(f"{axis} {getattr(config, axis)}" for axis in AXES)
        raise ValueError(
            f"{topology.title}: {topology.devices} devices, and config.mesh ({sizes}) takes "
            f"{config.size}; change --config.mesh.*"
        )
    if platform == "cpu":
        jax.config.update("jax_num_cpu_devices", topology.devices)
        return make_mesh(config, jax.devices()[: topology.devices])
    if platform == "cuda":
        return make_mesh(config, gpus.devices(topology.kind, topology.devices))
    single = {"chips_per_host_bounds": (1, 1, 1)} if topology.chips == 1 else {}
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, num_slices=topology.slices, **single
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"topology {topology.name!r}: {error}") from error
    sizes = tuple(getattr(config, axis) for axis in AXES)
    if topology.slices > 1:
        if config.data % topology.slices:
            raise ValueError(
                f"config.mesh.data: {config.data} is no multiple of {topology.slices} slices, "
                "and only copies of the parameters may be that far apart"
            )
        inner = (config.data // topology.slices, *sizes[1:])
        devices = mesh_utils.create_hybrid_device_mesh(
            inner, (topology.slices, 1, 1, 1), described.devices, allow_split_physical_axes=True
        )
    else:
        devices = mesh_utils.create_device_mesh(
            sizes, described.devices, allow_split_physical_axes=True
        )
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(np.asarray(devices), AXES, axis_types=auto)
