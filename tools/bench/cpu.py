"""The speed that a user of a CPU feels, as one table: ours, the others', their ratio, the aim.

    python -m tools.bench.cpu [--repeats=5] [--no-peers] ...

Training and sampling are those of `tools.bench.train` and `tools.bench.sampling`, on a Gemma-2 with
random weights in float32. They are compared with PyTorch, eager, and `generate` of transformers on
the same shape and the same cores; the steps of both take turns, so that a busy machine slows both.
Without PyTorch (`make install-parity`) these columns are empty.

The first step is timed from the command to its record in metrics.jsonl, in a new workdir and with a
cache of compiled programs that an earlier run filled.

A time is the median of --repeats, with the least in brackets; compilation and the first repeat are
not part of it. Whole runs take too long for a table; a shell tells their CPU time:

    time python -m experiments.grpo --config=configs/small_world.py --workdir=DIR
    time make demo WORKDIR=DIR
    time make test
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax.models.config import ModelConfig
from grm_jax.models.variants import VARIANTS
from grm_jax.parallel.mesh import MeshConfig, make_mesh
from tools import make_parser, random_model, run_program
from tools.bench import sampling, train

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Row(NamedTuple):
    """A line of the table.

    Attributes:
      measure: what is measured.
      ours, theirs: the figures of both, "-" for none.
      value: what has the aim, None if it could not be measured.
      aim: the largest value that will do, or the smallest if it is a gain.
      unit: of the value and the aim; "×" is a ratio.
      gain: whether more is better.
    """

    measure: str
    ours: str
    theirs: str
    value: float | None
    aim: float
    unit: str = "×"
    gain: bool = False

    def line(self) -> str:
        """The line in Markdown."""
        aim = f"{'≥' if self.gain else '≤'} {self.aim:g} {self.unit}"
        cells = [self.measure, self.ours, self.theirs, "-", aim, "not measured"]
        if self.value is not None:
            reached = self.value >= self.aim if self.gain else self.value <= self.aim
            cells[3], cells[5] = f"{self.value:.2f} {self.unit}", "reached" if reached else "missed"
        return f"| {' | '.join(cells)} |"


HEADER = "| measure | ours | theirs | ratio | aim | |\n| :--- | ---: | ---: | ---: | ---: | :--- |"


def in_turn(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of some programs that take turns; a first round does not count."""
    rounds = [{name: run() for name, run in runs.items()} for _ in range(1 + repeats)]
    return {name: [seconds[name] for seconds in rounds[1:]] for name in runs}


def seconds(times: Sequence[float]) -> str:
    """Median and least."""
    return f"{statistics.median(times):.2f} s ({min(times):.2f})"


def rate(tokens: int, times: Sequence[float]) -> str:
    """Tokens per second at the median and at the least of the times."""
    return f"{tokens / statistics.median(times):.0f} tokens/s ({tokens / min(times):.0f})"


def faster(a: Sequence[float], b: Sequence[float]) -> float:
    """The median of `b` over that of `a`."""
    return statistics.median(b) / statistics.median(a)


def torch_step(config: ModelConfig, batch: dict, threads: int) -> Callable[[], float]:
    """A step of PyTorch on a batch of `train.sft_batch`: AdamW over all tensors at once, clipping.

    Raises as `sampling.peer`.
    """
    model, _ = sampling.peer(config, threads)
    import torch

    model.train()
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, 1e-5, (0.9, 0.98), weight_decay=0.0, foreach=True)
    tokens, targets = (torch.from_numpy(batch[key]).long() for key in ("tokens", "targets"))

    def run():
        began = time.perf_counter()
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert np.isfinite(loss.item())
        return time.perf_counter() - began

    return run


def training(config: ModelConfig, args: argparse.Namespace) -> Row:
    """One step of SFT on full rows."""
    sizes = [f"--variant={args.variant}", "--program=sft", f"--batch={args.batch}"]
    of_step, _ = train.parse([*sizes, f"--length={args.length}"])
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    runs = {"ours": train.prepare("sft", config, of_step, mesh, lambda text: None).run}
    if args.peers:
        batch = train.sft_batch(config, args.batch, args.length, documents=1)
        runs["theirs"] = torch_step(config, batch, args.threads)
    times = in_turn(runs, args.repeats)
    theirs = times.get("theirs")
    return Row(
        f"training step, {args.batch} x {args.length} tokens", seconds(times["ours"]),
        seconds(theirs) if theirs else "-", faster(theirs, times["ours"]) if theirs else None, 0.85,
    )  # fmt: skip


def decoding(config: ModelConfig, args: argparse.Namespace) -> list[Row]:
    """Samples of one prompt against the best row of `generate`; several prompts against one."""
    prompt_T = np.random.default_rng(0).integers(4, config.vocab_size, args.prompt)
    params = random_model.random_params(config)
    shapes = {"one": (1, args.samples), "several": (args.prompts, args.samples)}
    runs = {}
    for name, shape in shapes.items():
        run = sampling.sampling_run(config, params, prompt_T, shape, args.new)
        runs[name] = lambda run=run: sum(run(args.new))
    if args.peers:
        peers = sampling.generate_runs(config, prompt_T, args.samples, args.threads)
        runs |= {cache: lambda run=run: run(args.new) for cache, run in peers.items()}
    times = in_turn(runs, args.repeats)
    one, several = times.pop("one"), times.pop("several")
    best = min(times, key=lambda cache: statistics.median(times[cache]), default=None)
    tokens = args.samples * args.new
    length = f"{args.prompt} + {args.new} tokens"
    return [
        Row(
            f"{args.samples} samples of a prompt, {length}", rate(tokens, one),
            f"{rate(tokens, times[best])}, {best} cache" if best else "-",
            faster(one, times[best]) if best else None, 3.5, gain=True,
        ),
        Row(
            f"{args.prompts} prompts x {args.samples} samples against one prompt",
            rate(args.prompts * tokens, several), "-", args.prompts * faster(several, one), 1.4,
            gain=True,
        ),
    ]  # fmt: skip


def clean_environment(cache: pathlib.Path) -> dict[str, str]:
    """That of a user who has decided nothing about caches, whose folder is `cache`."""
    kept = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    return {**kept, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}


def help_seconds() -> float:
    """Seconds of `--help` of an experiment."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "experiments.grpo", "--help"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def first_step_seconds(config: str, cache: pathlib.Path) -> float:
    """Seconds from the command of an experiment to the first record of its metrics.

    Raises:
      ValueError: it ended before; what it said is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        metrics = pathlib.Path(folder, "run", "metrics.jsonl")
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.grpo", f"--config={config}",
             f"--workdir={metrics.parent}"],
            cwd=ROOT, env=clean_environment(cache), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise ValueError(f"experiments.grpo --config={config} ended before a step")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def starting(args: argparse.Namespace) -> list[Row]:
    """`--help`, and the first step of an experiment."""
    with tempfile.TemporaryDirectory() as folder:
        step = in_turn(
            {"warm": lambda: first_step_seconds(args.config, pathlib.Path(folder))}, args.repeats
        )["warm"]
    asked = in_turn({"help": help_seconds}, args.repeats)["help"]
    return [
        Row("--help of an experiment", seconds(asked), "-", statistics.median(asked), 1.5, "s"),
        Row(f"first step of {args.config.rpartition('/')[2]}, warm cache", seconds(step), "-",
            statistics.median(step), 10.0, "s"),
    ]  # fmt: skip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line; an impossible one ends the program by name."""
    parser = make_parser(__doc__)
    parser.add_argument("--variant", default="gemma2_48m", choices=sorted(VARIANTS))
    parser.add_argument("--batch", type=int, default=4, help="rows of a training step")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=128, help="generated tokens of each sample")
    parser.add_argument("--samples", type=int, default=32, help="of each prompt")
    parser.add_argument("--prompts", type=int, default=8, help="decoded together")
    parser.add_argument("--config", default="configs/small_world.py:demo", help="of the first step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="cores that all may use")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True,
                        help="compare with PyTorch and transformers")  # fmt: skip
    args = parser.parse_args(argv)
    for name in ("batch", "length", "prompt", "new", "samples", "prompts", "repeats", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures and prints."""
    args = parse(argv)
    # Before the first use of jax, which sizes its pool of threads by it.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    config = VARIANTS[args.variant].replace(dtype="float32", param_dtype="float32")
    versions = [f"jax {jax.__version__}"]
    if args.peers:
        try:
            import torch
            import transformers
        except ImportError as error:
            args.peers = False
            versions.append(f"no PyTorch to compare with ({error})")
        else:
            versions += [f"torch {torch.__version__}", f"transformers {transformers.__version__}"]
    print(
        f"{args.variant}, {args.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{', '.join(versions)}; median (least) of {args.repeats}\n\n{HEADER}",
        flush=True,
    )
    rows = []

    def add(*more: Row) -> None:
        rows.extend(more)
        print(*(row.line() for row in more), sep="\n", flush=True)

    add(*starting(args))
    add(training(config, args))
    add(*decoding(config, args))
    return rows


if __name__ == "__main__":
    run_program(lambda: main() and None)
