"""What every test relies on: the platform, the strictness of jax, and three fixtures.

Set GRM_JAX_SHARED_DATA to a folder with the public benchmark files to run the tests that read real
rows; they are skipped where neither it nor `../shared/data` beside the clone exists.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read once, when jax is first imported
# Most of the time of these tests is spent on machine code: without LLVM's optimisations, and with
# the older emitter of fusions, a third of it. What XLA itself does to a program is as ever. Child
# processes inherit both. (Not --xla_cpu_use_fusion_emitters: jax 0.11 ends where it meets that.)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)

import contextlib
import pathlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator

import hypothesis
import jax
import pytest

# Programs that took long are compiled once, for the processes that tests start too. Each worker has
# its own folder: jax writes there without a lock, and another may read half a program.
PROGRAMS = tempfile.TemporaryDirectory(prefix="grm_jax_programs_")
for name, value in (
    ("jax_compilation_cache_dir", PROGRAMS.name),
    ("jax_persistent_cache_min_compile_time_secs", 0.3),
):
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)

# Meshes are tested on eight devices of the CPU; everything else uses the first of them.
jax.config.update("jax_num_cpu_devices", 8)

# A silently broadcast [B] against [B, T] is the commonest shape mistake; here it is an error.
jax.config.update("jax_numpy_rank_promotion", "raise")

# A busy machine takes its time; what is slow here is compilation, which happens once.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: the last ones to start decide when two processes end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_unconfigure() -> None:
    """Removes the compiled programs; workers of xdist end without the finalizers of objects."""
    PROGRAMS.cleanup()


@pytest.fixture(autouse=True, scope="module")
def programs_of_a_module_are_dropped() -> Iterator[None]:
    """Frees compiled programs: each maps memory, and a process may have 65,530 maps on Linux.

    Some 1,400 tests compile more than that, and XLA then dies of a segmentation fault.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def repo_root() -> pathlib.Path:
    """Root of the clone: the folder of setup.cfg, configs/ and experiments/."""
    return ROOT


def find_shared_data(named: str | None, root: pathlib.Path = ROOT) -> pathlib.Path:
    """The folder that `named` (GRM_JAX_SHARED_DATA) says, or `../shared/data` beside the clone.

    Skips the calling test where there is none. A named folder that does not exist fails it: a
    mistyped name must not turn into a green run that read no real row.
    """
    path = pathlib.Path(named) if named else root.parent / "shared" / "data"
    if path.is_dir():
        return path
    if named:
        pytest.fail(f"GRM_JAX_SHARED_DATA: no such folder: {named}")
    pytest.skip("needs the shared benchmark rows: set GRM_JAX_SHARED_DATA to their folder")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder with the public benchmark rows; the test is skipped where there is none."""
    return find_shared_data(os.environ.get("GRM_JAX_SHARED_DATA"))


class Compilations:
    """Names of the programs that XLA compiled, in order.

    A jitted function counts under its own name, once for every new combination of shapes, dtypes
    and static arguments. Operations outside jit count too, under names such as
    `broadcast_in_dim`, so assert on `count(name)` rather than on `len(names)` where arrays are
    made inside the block.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def count(self, name: str) -> int:
        """How many times the jitted function called `name` was compiled."""
        return self.names.count(name)

    def _listen(self, event: str, duration: float, **info: object) -> None:
        del duration
        if event == COMPILE_EVENT:
            name = str(info.get("fun_name", "unknown"))
            self.names.append(name.removeprefix("jit(").removesuffix(")"))


@contextlib.contextmanager
def _compilation_counter() -> Iterator[Compilations]:
    seen = Compilations()
    jax.monitoring.register_event_duration_secs_listener(seen._listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(seen._listen)


@pytest.fixture
def compilation_counter() -> Callable[[], contextlib.AbstractContextManager[Compilations]]:
    """A context manager that records what is compiled while it is open.

    with compilation_counter() as compiled:
        program(x)
    assert compiled.count("program") == 1
    """
    return _compilation_counter
