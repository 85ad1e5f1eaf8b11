"""The processes of a run: their numbers, their cores, and waiting for each other."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils


def several() -> bool:
    """Whether this is one of several processes. Touches no device."""
    return jax.distributed.is_initialized()


def index() -> int:
    """The number of this process. Touches no device where there is only one process."""
    return jax.process_index() if several() else 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def wait(name: str) -> None:
    """Returns when every process is here."""
    if several():
        multihost_utils.sync_global_devices(name)


def any_of(flag: bool) -> bool:
    """Whether the flag holds in any process; all have to ask."""
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any()) if several() else flag


def from_first(number: int) -> int:
    """The number that process 0 has; all have to ask."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if several() else number


def bytes_from_first(data: bytes) -> bytes:
    """The bytes that process 0 has; all have to ask."""
    if not several():
        return data
    values = np.zeros(from_first(len(data)), np.uint8)
    if index() == 0:
        values[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(values)).tobytes()
