"""Does a recipe fit these machines, and what bounds it? Answered without having them.

    python -m tools.plan --config=configs/gemma2_27b.py --topology=v5p:4x4x4
    python -m tools.plan --config=configs/gemma2_27b.py:lora --topology=v5e:2x4 \\
        --stages=grpo_update,decode --effort=-1

Compiles the programs that the experiments run, for devices that are not there: with libtpu (the
extra `tpu`) for TPUs, with XLA's CUDA compiler (the extra `cuda`) for GPUs, and for CPU devices in
their place otherwise. A TPU slice is named by its chips: v5p:4x4x4 is what is sold as v5p-128;
h100:16 are two hosts of 8 cards. Mesh and batches are those of the config; --config.mesh.fsdp=8 and
the like change them. No weights are needed: the shape is config.released.variant.

For each stage: memory of one device by the compiler, and whether it fits; collectives and copies,
by the text of the program; needed FLOPs and bytes by arithmetic (`grm_jax.models.cost`), what they
take at the published peaks, and which of the two bounds; hours of the recipe if the peaks are
reached to --mfu and --bandwidth. "est" is the compiler's own estimate: it ranks two versions of a
program that were compiled at the same --effort, and predicts no time. --effort=-1 compiles four
times as fast to the same memory.

Results are kept in --cache, by everything that decides them, with a figure.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import re
import sys
import time

import jax
import rich.console
import rich.table
from absl import app, flags
from ml_collections import ConfigDict

from experiments import command_line, schema
from experiments.config import claimed, in_use
from grm_jax.evaluation import plots
from grm_jax.files import read_json, write_atomically
from grm_jax.models import cost
from grm_jax.ranges import split
from tools import run_program
from tools.planning import gpus, hlo, programs, topologies
from tools.planning.topologies import GIB

NOTES = {
    "cpu": "Compiled for CPU devices in their place: arguments and collectives are right; scratch "
    "memory is too high by half or more, there are no kernels of theirs, and nothing says whether "
    "it fits. pip install 'grm_jax[tpu]' compiles for TPUs, 'grm_jax[cuda]' for GPUs.",
    "cuda": "Compiled for CUDA without a card: products are not tuned, nothing is estimated. The "
    f"memory of a device is {topologies.GPU_SHARE:.0%} of the card's, which a run gets by "
    f"XLA_PYTHON_CLIENT_MEM_FRACTION={topologies.GPU_SHARE}.",
}


def planned(config: ConfigDict) -> ConfigDict:
    """The config with the shape of its weights in place of the weights, and without benchmark.

    Raises:
      ValueError: if neither section `model` nor `released.variant` says the shape.
    """
    config = in_use(config)
    if "released" in config:
        if not config.released.get("variant"):
            raise ValueError("config.released.variant: name the published shape of the weights")
        config.model.variant = config.released.variant
        del config.released
    if "benchmark" in config:
        del config.benchmark
    return config


def measure(program: programs.Program, platform: str, options: dict) -> dict:
    """Compiles a program and reads what it says; a program that does not fit says by how much."""
    began = time.monotonic()
    record: dict = {"flops": program.flops, "bytes": program.bytes, "runs": program.runs,
                    "shape": program.shape}  # fmt: skip
    try:
        compiled = program.lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return record | {"error": str(error).split("\n")[0], "compile_s": time.monotonic() - began}
    memory, facts = compiled.memory_analysis(), hlo.read(compiled.as_text())
    peak = memory.peak_memory_in_bytes
    if platform != "tpu":  # of a CPU it leaves scratch memory out; of a GPU this is what is taken
        peak = (
            memory.argument_size_in_bytes + memory.output_size_in_bytes
            - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        )  # fmt: skip
    return record | {
        "compile_s": time.monotonic() - began,
        "peak": peak,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "collectives": {kind: list(collective) for kind, collective in facts.collectives.items()},
        "cycles": facts.cycles,
        "copies": facts.copies,
    }


def key(config: ConfigDict, topology: topologies.Topology, platform: str, *rest: object) -> str:
    """Name of everything that decides a result."""
    digest = hashlib.sha256()
    for root in ("grm_jax", "tools/planning"):
        for path in sorted((pathlib.Path(__file__).parents[1] / root).rglob("*.py")):
            digest.update(path.read_bytes())
    versions = [jax.__version__]
    if platform == "tpu":
        versions.append(importlib.metadata.version("libtpu"))
    if platform == "cuda":
        versions.append(gpus.plugin())
    claims = json.dumps(claimed(config), sort_keys=True)
    parts = [claims, repr(topology), platform, *versions, *map(repr, rest)]
    digest.update("\x1f".join(parts).encode())
    return digest.hexdigest()[:16]


def verdict(record: dict, chip: topologies.Chip) -> str:
    """Whether it fits, and by how much it does or does not."""
    if "error" in record:
        sizes = re.search(r"\(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", record["error"])
        return f"does not fit, {sizes[1]} of {sizes[2]} GiB" if sizes else "does not fit"
    left = chip.hbm - record["peak"]
    return (
        f"fits, {left / GIB:.1f} GiB left"
        if left >= 0
        else (f"does not fit, by {-left / GIB:.1f} GiB")
    )


def seconds(record: dict, topology: topologies.Topology, mfu: float, share: float):
    """(what bounds, seconds of a run at these shares of the peaks)."""
    chip, devices = topology.chip, topology.devices
    times = {
        "compute": record["flops"] / (devices * chip.flops * mfu),
        "memory": record["bytes"] / (devices * chip.bandwidth * share),
    }
    bound = max(times, key=times.get)
    return bound, times[bound]


def table(records: dict[str, dict], topology: topologies.Topology, mfu: float, share: float):
    """Memory and time of each stage."""
    view = rich.table.Table(*(rich.table.Column(x, no_wrap=True) for x in ("stage", "verdict")))
    for name in ("peak", "arguments", "scratch", "bound", "ideal", "est", "hours", "compiled in"):
        view.add_column(name, justify="right", no_wrap=True)
    for name, record in records.items():
        bound, ideal = seconds(record, topology, 1.0, 1.0)
        hours = seconds(record, topology, mfu, share)[1] * record["runs"] / 3600
        memory = [
            f"{record[field] / GIB:.2f}" if field in record else "-"
            for field in ("peak", "arguments", "temporaries")
        ]
        clock = topology.chip.clock
        estimate = record.get("cycles", 0) / clock if clock else 0
        if estimate > 1e4 * ideal:  # what it says of megablox
            estimate = 0
        known = topologies.compiler(topology) != "cpu"  # of stand-ins nothing says whether it fits
        fits = verdict(record, topology.chip) if known or "error" in record else "unknown"
        view.add_row(
            name, fits, *memory, bound, _time(ideal),
            _time(estimate) if estimate else "-", f"{hours:.1f}", f"{record['compile_s']:.0f} s",
        )  # fmt: skip
    return view


def traffic_table(records: dict[str, dict]):
    """Collectives of one run of each stage, and copies in one turn of its loops."""
    view = rich.table.Table("stage", "one run", "moved by")
    for name in ("times", "GiB"):
        view.add_column(name, justify="right", no_wrap=True)
    for name, record in records.items():
        head = (name, record["shape"])
        for kind, (count, size) in record.get("collectives", {}).items():
            view.add_row(*head, kind, f"{count:,}", f"{size / GIB:.2f}")
            head = ("", "")
        if record.get("copies"):
            view.add_row(*head, "copies, a turn", "", f"{record['copies'] / GIB:.2f}")
    return view


def _time(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


def draw(records: dict[str, dict], topology: topologies.Topology, title: str, path) -> None:
    """HBM of a device by stage, as a figure."""
    names = [name for name, record in records.items() if "peak" in record][::-1]
    arguments, peaks = (
        [records[name][field] / GIB for name in names] for field in ("arguments", "peak")
    )
    rest = [max(0.0, peak - part) for peak, part in zip(peaks, arguments, strict=True)]
    size = (6.4, 1.6 + 0.4 * len(names))
    with plots.axes_of(path, size, 150, title, "GiB on one device", "") as axes:
        axes.set_title(title, loc="left", fontsize=9)
        axes.barh(names, arguments, color=plots.COLORS[0], label="arguments")
        axes.barh(names, rest, left=arguments, color=plots.COLORS[4], label="on top at the peak")
        limit = topology.chip.hbm / GIB
        axes.axvline(limit, color=plots.COLORS[1], linestyle="--", label="memory of a device")
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.04)
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def define_flags() -> None:
    """Flags of the command line; the experiments have one called "config" too."""
    command_line.define_config()
    flags.DEFINE_string("topology", None, "KIND:AxBxC, such as v5p:4x4x4.")
    flags.DEFINE_integer("slices", 1, "Equal slices, over config.mesh.data.")
    flags.DEFINE_string("stages", "", f"Some of {programs.STAGES}; all if empty.")
    flags.DEFINE_float("effort", 0.0, "Of the compiler: 0, or -1 for quick answers.")
    flags.DEFINE_float("mfu", 0.4, "Share of peak FLOPs that hours are estimated at.")
    flags.DEFINE_float("bandwidth", 0.6, "Share of peak bandwidth, likewise.")
    flags.DEFINE_string("cache", "runs/plans", "Folder of results and figures.")
    # Without it, the products of a split width become chains of permutes, which the compiler
    # itself rates at 1.7 times the time.
    flags.DEFINE_string(
        "xla", "xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",
        "NAME=VALUE of options of the TPU compiler; give them to the run by LIBTPU_INIT_ARGS.",
    )  # fmt: skip
    command_line.require("topology")


def main(argv) -> None:
    """Plans and prints."""
    del argv
    given = flags.FLAGS
    if command_line.show_config():
        return
    command_line.require_in_use()
    topology = topologies.parse(given.topology, given.slices)
    wanted = split(given.stages)
    unknown = set(wanted) - set(programs.STAGES)
    if unknown:
        raise ValueError(f"--stages: {sorted(unknown)[0]!r} is none of {programs.STAGES}")
    fields = planned(given.config)
    config = schema.check(fields)
    platform = topologies.compiler(topology)
    topologies.prepare()
    jax.config.update("jax_exec_time_optimization_effort", given.effort)
    options = gpus.OPTIONS if platform == "cuda" else {}
    if platform == "tpu":
        options = dict(part.split("=", 1) for part in split(given.xla))
    mesh = topologies.mesh(topology, config.mesh, platform)
    model = schema.model_config(config, vocab_size=config.tokenizer.vocab_size or 1)

    console = rich.console.Console(width=None if sys.stdout.isatty() else 140)
    folder = pathlib.Path(given.cache)
    folder.mkdir(parents=True, exist_ok=True)
    records = {}
    for program in programs.programs(config, model, mesh):
        if wanted and program.name not in wanted:
            continue
        name = key(fields, topology, platform, program.name, given.effort, options)
        path = folder / f"{name}.json"
        if not path.exists():
            console.print(f"{program.name}: compiling {program.shape}")
            with jax.set_mesh(mesh):
                record = measure(program, platform, options)
            write_atomically(path, json.dumps(record, indent=1).encode())
        records[program.name] = read_json(path)
    if not records:
        raise ValueError(f"--stages: the config has no stage with a program of {wanted}")
    title = (
        f"{topology.title}, {topology.chip.hbm / GIB:.2f} GiB a device; "
        f"{cost.num_params(model) / 1e9:.2f}B parameters in {model.compute.param_dtype}"
    )
    console.print(title, markup=False, highlight=False)
    console.print(table(records, topology, given.mfu, given.bandwidth))
    console.print(traffic_table(records))
    hours = sum(
        seconds(record, topology, given.mfu, given.bandwidth)[1] * record["runs"] / 3600
        for record in records.values()
    )
    console.print(
        f"{hours:.1f} hours for these stages at {given.mfu:.0%} of peak FLOPs or "
        f"{given.bandwidth:.0%} of peak bandwidth, host work and communication not counted. "
        "GiB are of one device; of collectives, results on one device in one run. est: the "
        f"compiler's estimate at effort {given.effort:g}, for ranking only.",
        markup=False, highlight=False,
    )  # fmt: skip
    if platform in NOTES:
        console.print(NOTES[platform], markup=False, highlight=False)
    figure = folder / f"{topology.kind}-{topology.devices}.png"
    draw(records, topology, title, figure)
    console.print(f"written: {figure}")


if __name__ == "__main__":
    define_flags()
    run_program(lambda: app.run(main))
