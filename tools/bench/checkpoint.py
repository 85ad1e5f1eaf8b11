"""Memory and speed of importing a checkpoint: what `hub.load` holds besides the parameters.

    python -m tools.bench.checkpoint [--megabytes=2048] [--devices=1]

Writes a synthetic Gemma-2 checkpoint of several files, of about the given size in bfloat16, and
loads it in a process of its own, whose anonymous memory (RssAnon, Linux) is watched. Pages of the
files that are mapped do not count: the system takes them back when it needs them.

The excess is the peak less what was there before and less the parameters. The bound is
max(2 x largest tensor, 1 GiB).
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MIB = 2**20


class Figures(NamedTuple):
    """Memory in bytes, and time."""

    params: int
    largest: int
    excess: int
    seconds: float

    @property
    def bound(self) -> int:
        """The largest excess that passes."""
        return max(2 * self.largest, 2**30)


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])


class Peak:
    """The largest anonymous memory while the block runs, sampled every few milliseconds."""

    def __enter__(self):
        self.before = self.bytes = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())


def write_checkpoint(folder: pathlib.Path, megabytes: int) -> None:
    """A Gemma-2 of about this size in eight or more files, its bytes random."""
    import jax.numpy as jnp

    from grm_jax.models.config import Compute, ModelConfig
    from grm_jax.models.hub import config_file, families, tensor_files

    # The embedding is a fifth or so of the whole, as in the published sizes.
    width = 64 * max(1, round((megabytes * MIB / 2 / 260) ** 0.5 / 64))
    config = ModelConfig(
        vocab_size=32 * width, num_layers=8, embed_dim=width, num_heads=8, num_kv_heads=4,
        head_dim=width // 8, ffn_dim=8 * width, sliding_window=4096, query_scale=144**-0.5,
        compute=Compute("bfloat16", "bfloat16"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    specs = {
        tensor.name: tensor_files.Spec(jnp.dtype("bfloat16"), tensor.shape)
        for tensor in families.tensors(config)
    }

    def random(name):
        spec = specs[name]
        return np.frombuffer(rng.bytes(spec.nbytes), np.uint8).view(spec.dtype).reshape(spec.shape)

    index, written = {}, list(specs)
    for number, start in enumerate(range(0, len(written), 12)):
        file = f"model-{number:05}.safetensors"
        group = written[start : start + 12]
        tensor_files.write(folder / file, {name: specs[name] for name in group}, random)
        index |= dict.fromkeys(group, file)
    (folder / tensor_files.INDEX).write_text(json.dumps({"weight_map": index}))
    (folder / config_file.CONFIG).write_text(json.dumps(config_file.write_config(config)))


def measure(folder: pathlib.Path, devices: int) -> Figures:
    """Loads the checkpoint in this process; with several devices, every leaf is split."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from grm_jax.models import hub
    from grm_jax.models.hub import config_file, families, names

    tensors = families.tensors(config_file.read_config(folder))
    shardings = None
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("data",))
        # The last axis of every leaf is a multiple of 8 here.
        shardings = unflatten_dict({
            path: jax.NamedSharding(mesh, jax.P(*[None] * (len(leaf.shape) - 1), "data"))
            for path, leaf in names.leaves(tensors).items()
        })  # fmt: skip
    jnp.zeros(8).block_until_ready()  # the runtime itself is not what is measured
    start = time.perf_counter()
    with Peak() as peak:
        params = jax.block_until_ready(hub.load(folder, shardings=shardings).params)
    seconds = time.perf_counter() - start
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(2 * int(np.prod(tensor.shape)) for tensor in tensors)
    return Figures(nbytes, largest, peak.bytes - peak.before - nbytes, seconds)


def run(folder: pathlib.Path, devices: int = 1) -> Figures:
    """`measure` in a new process."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.checkpoint",
         f"--folder={folder}", f"--devices={devices}"],
        cwd=pathlib.Path(__file__).resolve().parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return Figures(*json.loads(done.stdout.splitlines()[-1]))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--devices", type=int, default=1, help="devices of the CPU to split over")
    parser.add_argument("--folder", type=pathlib.Path, help="print the raw figures of this one")
    args = parser.parse_args(argv)
    if args.folder:
        print(json.dumps(measure(args.folder, args.devices)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(pathlib.Path(folder), args.megabytes)
        figures = run(pathlib.Path(folder), args.devices)
    print(
        f"{figures.params / MIB:.0f} MiB of parameters in {figures.seconds:.1f} s, "
        f"{figures.params / MIB / figures.seconds:.0f} MiB/s; largest tensor "
        f"{figures.largest / MIB:.0f} MiB, memory besides parameters {figures.excess / MIB:.0f} "
        f"MiB, bound {figures.bound / MIB:.0f} MiB"
    )


if __name__ == "__main__":
    main()
