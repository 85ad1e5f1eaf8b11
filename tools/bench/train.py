"""Speed and memory of the training steps: an SFT step and a GRPO update, and the roofline.

    python -m tools.bench.train [--variant=gemma2_48m] [--batch=4] [--length=256] ...

Weights are random, in float32 or bfloat16; a row is full, and every token of it is trained on (SFT)
or the last --completion tokens of it (GRPO, with the log-probs of a reference computed inside). The
programs are those that the experiments run. On one GPU, as a person would train Gemma-2-2B:

    python -m tools.bench.train --variant=gemma2_2b --dtype=bfloat16 --param_dtype=float32 \\
        --batch=8 --length=4096 --micro_batches=8 --remat=full

Seconds are those of whole steps, each waited for; compilation and the first --warmup steps are not
part of them. FLOPs and bytes are the needed ones that `grm_jax.models.cost` counts: what remat
computes twice lowers the MFU. "bound" says which of the two would take longer at the peaks of the
devices, and "roofline" is that time as a share of the median step. "plan" is what the compiler
reserves on one device; "peak" what the backend says was ever in use by the process, so that the
second program of a run may show the first one's.

With --lora_rank=R the weights are frozen and adapters are trained; the reference of
GRPO is then the same weights without them. 27B on one GPU:

    python -m tools.bench.train --variant=gemma2_27b --lora_rank=16 --batch=2 --length=4096 \\
        --micro_batches=2 --remat=full --group_size=2

With --trace=DIR two further steps are written for the profiler (xprof, TensorBoard or Perfetto).
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax.learning import grpo, rollouts, sft
from grm_jax.learning.state import OptimizerConfig, make_optimizer, start_state
from grm_jax.models import cost, lora
from grm_jax.models.config import REMATS, LoRAConfig, ModelConfig
from grm_jax.parallel import sharding
from grm_jax.parallel.mesh import AXES, MeshConfig, make_mesh
from tools import make_parser, random_model
from tools.bench import peaks

PROGRAMS = ("sft", "grpo")
TRACED_STEPS = 2


class Row(NamedTuple):
    """One program. Seconds, FLOPs and bytes are of one step, of all devices together.

    `plan_bytes` and `peak_bytes` are of one device, None where the backend does not say.
    """

    program: str
    tokens: int
    compile_s: float
    steps_s: list[float]
    flops: int
    bytes: int
    plan_bytes: int | None
    peak_bytes: int | None

    @property
    def median_s(self) -> float:
        """Median of the steps."""
        return statistics.median(self.steps_s)

    @property
    def rate(self) -> float:
        """FLOPs per second."""
        return self.flops / self.median_s

    def bound(self, peak: peaks.Peaks) -> tuple[str, float] | None:
        """The bound of the step and its share of the median; None where a peak is not known."""
        if peak.flops is None or peak.bandwidth is None:
            return None
        times = {"compute": self.flops / peak.flops, "memory": self.bytes / peak.bandwidth}
        name = max(times, key=times.get)
        return name, times[name] / self.median_s

    def figures(self, peak: peaks.Peaks) -> dict:
        """Everything measured and derived, for JSON; None is unknown."""
        bound = self.bound(peak)
        return {
            **self._asdict(),
            "median_s": self.median_s,
            "min_s": min(self.steps_s),
            "tokens_per_s": self.tokens / self.median_s,
            "tflops_per_s": self.rate / 1e12,
            "mfu": None if peak.flops is None else self.rate / peak.flops,
            "bound": bound and bound[0],
            "roofline": bound and bound[1],
        }


def sft_batch(config: ModelConfig, batch: int, length: int, documents: int) -> dict:
    """Full rows of some documents of about equal length, every token an answer. [B, T] arrays."""
    rng = np.random.default_rng(0)
    sizes = document_lengths(length, documents)
    segments_T = np.repeat(np.arange(1, documents + 1), sizes)
    positions_T = np.concatenate([np.arange(size) for size in sizes])
    tokens_BT = rng.integers(0, config.vocab_size, (batch, length + 1), dtype=np.int32)
    return {
        "tokens": tokens_BT[:, :-1],
        "targets": tokens_BT[:, 1:],
        "weights": np.ones((batch, length), np.float32),
        "positions": np.tile(positions_T.astype(np.int32), (batch, 1)),
        "segment_ids": np.tile(segments_T.astype(np.int32), (batch, 1)),
    }


def document_lengths(length: int, documents: int) -> list[int]:
    """Tokens of each document of a packed row, which differ by one at most."""
    return [length * (i + 1) // documents - length * i // documents for i in range(documents)]


def grpo_batch(
    config: ModelConfig, batch: int, length: int, completion: int, group_size: int
) -> rollouts.RolloutBatch:
    """Full rows, groups with rewards of both signs, log-probs of a uniform policy."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, config.vocab_size, (batch // group_size, length - completion))
    rows = [
        rollouts.Rollout(
            prompts[i // group_size].tolist(),
            rng.integers(0, config.vocab_size, completion).tolist(),
            [-float(np.log(config.vocab_size))] * completion,
            1.0 if i % 2 else -1.0,
        )
        for i in range(batch)
    ]
    return rollouts.make_batch(
        rows, group_size=group_size, length=length, completion_length=completion
    )


class Work(NamedTuple):
    """A program, its inputs besides the state, and the cost of a step."""

    step: jax.stages.Wrapped
    inputs: tuple
    flops: int
    bytes: int


def sft_work(config: ModelConfig, args: argparse.Namespace, optimizer, place, base) -> Work:
    """The SFT step; `place` puts a batch on the devices, `base` is what stays frozen."""
    lengths = document_lengths(args.length, args.documents) * args.batch
    frozen = config.lora is not None
    batch = sft_batch(config, args.batch, args.length, args.documents)
    return Work(
        step=sft.make_train_step(config, optimizer, micro_batches=args.micro_batches),
        inputs=(base, place(batch)),
        flops=cost.train_flops(config, lengths, frozen=frozen),
        bytes=cost.train_bytes(config, sum(lengths), args.micro_batches, frozen=frozen),
    )


def grpo_work(config: ModelConfig, args: argparse.Namespace, optimizer, place, params) -> Work:
    """The GRPO update with `params` as reference, whose forward pass is part of the cost."""
    frozen = config.lora is not None
    lengths, outputs = [args.length] * args.batch, args.batch * args.completion
    objective = grpo.GRPOConfig(group_size=args.group_size, micro_batches=args.micro_batches)
    batch = grpo_batch(config, args.batch, args.length, args.completion, args.group_size)
    reference_bytes = args.micro_batches * cost.weight_bytes(
        config, sum(lengths) // args.micro_batches
    )
    return Work(
        step=grpo.make_update_step(config, objective, optimizer),
        inputs=(params, place(batch)),
        flops=cost.train_flops(config, lengths, output_tokens=outputs, frozen=frozen)
        + cost.forward_flops(config, lengths, output_tokens=outputs),
        bytes=cost.train_bytes(config, sum(lengths), args.micro_batches, frozen=frozen)
        + reference_bytes,
    )


class Prepared(NamedTuple):
    """A compiled program; every call of `run` is one step, and returns its seconds."""

    run: Callable[[], float]
    compiled: jax.stages.Compiled
    compile_s: float
    work: Work


def prepare(
    program: str,
    config: ModelConfig,
    args: argparse.Namespace,
    mesh: jax.sharding.Mesh,
    say: Callable[[str], None],
) -> Prepared:
    """Compiles one program for random weights; `say` takes lines about progress."""
    say(f"{program}: random weights")
    params = random_model.random_params(lora.strip(config), mesh)
    base, trained = lora.start(config, params, jax.random.key(1), mesh)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-5, steps=1000))
    state = start_state(trained, optimizer, sharding.put(jax.random.key(0)))
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp", "expert")))
    common = (config, args, optimizer, lambda batch: sharding.put(batch, rows))
    work = sft_work(*common, base) if program == "sft" else grpo_work(*common, params)
    del params, base, trained  # SFT of all parameters needs no other copy than that of the state

    say(f"{program}: compiling")
    began = time.perf_counter()
    compiled = work.step.lower(state, *work.inputs).compile()
    compile_s = time.perf_counter() - began

    def run():
        nonlocal state
        began = time.perf_counter()
        state, metrics = compiled(state, *work.inputs)
        jax.block_until_ready((state, metrics))
        seconds = time.perf_counter() - began
        loss = float(jax.device_get(metrics["loss"]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"{program}: the loss is {loss}")
        return seconds

    return Prepared(run, compiled, compile_s, work)


def measure(
    program: str,
    config: ModelConfig,
    args: argparse.Namespace,
    mesh: jax.sharding.Mesh,
    say: Callable[[str], None],
) -> Row:
    """Compiles and times one program; arguments as `prepare`."""
    run, compiled, compile_s, work = prepare(program, config, args, mesh, say)
    for i in range(args.warmup):
        say(f"{program}: warm-up {i + 1} of {args.warmup}, {run():.3f} s")
    steps_s = []
    for i in range(args.steps):
        steps_s.append(run())
        say(f"{program}: step {i + 1} of {args.steps}, {steps_s[-1]:.3f} s")
    plan, used = compiled.memory_analysis(), jax.local_devices()[0].memory_stats()
    if args.trace:
        say(f"{program}: {TRACED_STEPS} steps into {args.trace / program}")
        with jax.profiler.trace(str(args.trace / program)):
            for _ in range(TRACED_STEPS):
                run()
    return Row(
        program=program,
        tokens=args.batch * args.length,
        compile_s=compile_s,
        steps_s=steps_s,
        flops=work.flops,
        bytes=work.bytes,
        plan_bytes=plan and _planned_bytes(plan),
        peak_bytes=used and used.get("peak_bytes_in_use"),
    )


def _planned_bytes(plan) -> int:
    """Arguments, results that take no argument's place, and temporary arrays of one device."""
    return (
        plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
    )  # fmt: skip


HEADER = (
    f"{'':6}{'tokens':>8}{'compile s':>10}{'step s':>9}{'least s':>9}{'tokens/s':>10}"
    f"{'TFLOP/s':>9}{'MFU':>8}{'bound':>9}{'roofline':>9}{'plan GB':>9}{'peak GB':>9}"
)


def line(row: Row, peak: peaks.Peaks) -> str:
    """One program as a line of the table; "-" is unknown."""
    bound = row.bound(peak)
    name, roofline = ("-", "-") if bound is None else (bound[0], f"{bound[1]:.1%}")
    plan, used = ("-" if x is None else f"{x / 1e9:.2f}" for x in (row.plan_bytes, row.peak_bytes))
    return (
        f"{row.program:6}{row.tokens:8d}{row.compile_s:10.1f}{row.median_s:9.3f}"
        f"{min(row.steps_s):9.3f}{row.tokens / row.median_s:10.0f}{row.rate / 1e12:9.3f}"
        f"{peaks.share(row.rate, peak.flops):>8}{name:>9}{roofline:>9}{plan:>9}{used:>9}"
    )


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, ModelConfig]:
    """Command line; an impossible one ends the program by name."""
    parser = make_parser(__doc__)
    random_model.add_flags(parser)
    parser.add_argument("--remat", choices=REMATS, help="what the backward pass computes again")
    parser.add_argument("--lora_rank", type=int, help="train adapters of this rank only")
    parser.add_argument("--program", choices=(*PROGRAMS, "both"), default="both")
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--micro_batches", type=int, default=1, help="pieces of a batch")
    parser.add_argument("--documents", type=int, default=1, help="packed in a row of SFT")
    parser.add_argument("--completion", type=int, help="trained tokens of a row of GRPO; half")
    parser.add_argument("--group_size", type=int, default=4, help="G of GRPO")
    for axis in AXES:
        parser.add_argument(f"--{axis}", type=int, default=1, help="size of this axis of the mesh")
    parser.add_argument("--steps", type=int, default=5, help="timed")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    peaks.add_flags(parser)
    parser.add_argument("--trace", type=pathlib.Path, help="new folder for the profiler's trace")
    parser.add_argument("--json", type=pathlib.Path, help="file for all figures")
    args = parser.parse_args(argv)
    if args.completion is None:
        args.completion = max(1, args.length // 2)
    for name in ("batch", "micro_batches", "documents", "completion", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.warmup < 0:
        parser.error("--warmup must not be negative")
    if not args.documents <= args.length:
        parser.error("--documents must be at most --length")
    if not args.completion < args.length:
        parser.error("--completion must be less than --length")
    if args.batch % args.micro_batches:
        parser.error("--micro_batches must divide --batch")
    if args.program != "sft" and (args.group_size < 2 or args.batch % args.group_size):
        parser.error("--group_size must be at least 2 and divide --batch for GRPO")
    fields = {} if args.remat is None else {"remat": args.remat}
    if args.lora_rank is not None:
        if args.lora_rank < 1:
            parser.error("--lora_rank must be at least 1")
        fields["lora"] = LoRAConfig(args.lora_rank, alpha=2.0 * args.lora_rank)
    return args, random_model.from_flags(parser, args, **fields)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures and prints."""
    args, config = parse(argv)
    if args.json:  # now, and not after the work
        args.json.parent.mkdir(parents=True, exist_ok=True)
    sizes = MeshConfig(**{axis: getattr(args, axis) for axis in AXES})
    devices = jax.devices()[: sizes.size]
    mesh, how = make_mesh(sizes, devices), config.compute
    peak = peaks.of_devices(devices, how.dtype, tflops=args.peak_tflops, gbps=args.peak_gbps)
    second = f"{cost.optimizer_state_bytes(config) / 1e9:.2f} GB of moments"
    if config.lora:
        second = f"frozen, with adapters of rank {config.lora.rank}"
    head = [
        f"{args.variant}, {config.num_layers} layers, {cost.num_params(config) / 1e6:.0f}M "
        f"parameters ({cost.num_active_params(config) / 1e6:.0f}M active) in {how.param_dtype},"
        f" activations in {how.dtype}, remat {how.remat}",
        f"{cost.num_params(config) * cost.dtype_bytes(how.param_dtype) / 1e9:.2f} GB of weights,"
        f" {second}",
        f"{args.batch} rows of {args.length} tokens, {args.micro_batches} micro-batches, "
        f"{args.documents} documents a row (SFT), {args.completion} trained tokens a row (GRPO)",
        f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}; mesh "
        + ", ".join(f"{axis} {getattr(args, axis)}" for axis in AXES),
        peaks.describe(peak),
    ]
    print(*head, sep="\n", flush=True)
    began = time.perf_counter()

    def say(text):
        print(f"[{time.perf_counter() - began:6.1f} s] {text}", flush=True)

    rows = []
    # Without a mesh the programs are those of one device.
    setting = contextlib.nullcontext() if sizes.size == 1 else jax.set_mesh(mesh)
    with setting:
        for program in PROGRAMS if args.program == "both" else (args.program,):
            rows.append(measure(program, config, args, mesh, say))
    print(HEADER, *(line(row, peak) for row in rows), sep="\n")
    if args.json:
        report = {
            "head": head,
            "flags": {name: str(value) if isinstance(value, pathlib.Path) else value
                      for name, value in vars(args).items()},
            "peak_flops": peak.flops,
            "peak_bandwidth": peak.bandwidth,
            "rows": [row.figures(peak) for row in rows],
        }  # fmt: skip
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
