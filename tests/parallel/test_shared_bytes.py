"""What several processes tell each other."""

import os
import pathlib
import socket
import subprocess
import sys

from grm_jax.parallel import processes

SCRIPT = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from grm_jax.parallel import processes
print(processes.bytes_from_first(b"none" * 9 if processes.index() else "für alle".encode()))
"""


def test_bytes_of_the_first_process():
    assert processes.bytes_from_first(b"alone") == b"alone"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(i)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"}, cwd=pathlib.Path(__file__).parents[2],
        )
        for i in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0].splitlines()[-1] for process in started]
    assert said == [repr("für alle".encode())] * 2
