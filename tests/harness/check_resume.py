"""Does a run that is killed again and again end bitwise where an unbroken one does?

    python -m tests.harness.check_resume --kills=10
    python -m tests.harness.check_resume --kills=3 --stage=grpo --seed=1 --workdir=DIR
    python -m tests.harness.check_resume --config=FILE.py:variant --config.seed=2

Runs one config from nothing twice: unbroken in DIR/whole, and in DIR/killed with SIGKILL at --kills
moments of every stage, started again after each. Without --config it is a tiny one (a few minutes
for all stages). A third of the moments lie inside the write of a checkpoint or a table, in GRPO
another third between rollout and update; one comes right after a checkpoint was read, the others at
a random time after a random step or unit. Compared are final parameters, the last checkpoint of
each stage (parameters, optimizer, key, position in the data), metrics without times, trajectories,
scores of the meta RM, and the tables.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import launch
from experiments import run as runs
from experiments.stages import benchmark, grpo, order
from grm_jax.learning.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]
# All stages with a few small steps. The weight decay moves the policy away from its reference, so
# that the KL term has a gradient although nothing is parsed at this length.
TINY = (
    f"--config={ROOT / 'configs/small_world.py'}:ci",
    "--config.mesh.data=1",
    "--config.base.optimizer.steps=8",
    "--config.base.data.checkpoint_every=2",
    "--config.cold_start.data.demonstrations=60",
    "--config.cold_start.optimizer.steps=8",
    "--config.cold_start.data.checkpoint_every=2",
    "--config.rft.data.comparisons=12",
    "--config.rft.data.checkpoint_every=2",
    "--config.rft.optimizer.steps=8",
    "--config.rft.buckets.samples=1",
    "--config.rft.buckets.samples_per_unit=8",
    "--config.grpo.optimizer.steps=8",
    "--config.grpo.optimizer.weight_decay=0.1",
    "--config.grpo.optimizer.learning_rate=0.01",
    "--config.grpo.loop.checkpoint_every=2",
    "--config.grpo.buckets.samples=1",
    "--config.grpo.buckets.samples_per_unit=8",
    "--config.meta_rm.optimizer.steps=8",
    "--config.meta_rm.loop.checkpoint_every=2",
    "--config.meta_rm.buckets.samples=1",
    "--config.meta_rm.buckets.samples_per_unit=8",
    "--config.benchmark.limit=6",
    "--config.benchmark.greedy_stages=grpo",
    "--config.benchmark.sampled_stages=grpo",
    "--config.benchmark.ks=1,2,4",
    "--config.benchmark.arms=",
    "--config.benchmark.draw.k=4",
    "--config.benchmark.buckets.samples=1",
    "--config.benchmark.buckets.samples_per_unit=8",
)


def _up_to_benchmark(run: runs.Run) -> None:
    order.up_to("meta_rm")(run)
    benchmark.run_stage(run)


# What runs up to each stage.
EXPERIMENTS = {
    "sft": order.up_to("cold_start"),
    **{stage: order.up_to(stage) for stage in ("rft", "grpo", "meta_rm")},
    "benchmark": _up_to_benchmark,
}
STAGES = tuple(EXPERIMENTS)

# Moments inside a write: the call of Python that is not reached any more, by event of the audit
# hook and name of the file.
WRITES = {
    "before the arrays of a checkpoint": ("os.mkdir", r"state\.orbax-checkpoint-tmp"),
    "amid the files of a checkpoint": ("open", "_METADATA"),
    "before the checksums of a checkpoint": ("open", "SHA256SUMS"),
    "before a checkpoint has its name": ("os.rename", r"\d+\.orbax-checkpoint-tmp"),
    "while an old checkpoint is removed": ("shutil.rmtree", r"\d+"),
    "before a table has its name": ("os.rename", r"\.main\.md\..*"),
}
TABLE = [*WRITES][-1]
# Files that must have the same bytes.
WRITTEN = r"(trajectories|meta_scores|tables|results)/|\w+\.(md|html)$"
ROLLOUT = "between rollout and update"
RESTORED = "after a checkpoint was read"
LATER = "seconds later"


def stage_of(bar: str) -> str:
    """The stage that a progress bar belongs to, by its title."""
    if bar.startswith("benchmark_") or bar == "meta RM":
        return "benchmark"
    name = bar.partition(": ")[0]
    return "sft" if name in ("base", "cold_start") else name


@dataclasses.dataclass(frozen=True)
class Kill:
    """When a process kills itself.

    Attributes:
      bar: title of a progress bar.
      done: armed when the bar has come so far.
      moment: what it waits for once armed; if it never comes, the end of the stage will do.
      seconds: of the moment LATER.
      signal: what it sends to itself.
    """

    bar: str
    done: int
    moment: str
    seconds: float = 0.0
    signal: int = signal.SIGKILL

    def __str__(self) -> str:
        at = f"{self.seconds:.2f} {LATER}" if self.moment == LATER else self.moment
        return f"{self.bar}, {self.done} done, {at}"


class _Process:
    """Patches of a process that watch its progress bars and end it at the moment of a kill."""

    def __init__(self, kill: Kill | None, journal: pathlib.Path):
        self._kill, self._journal = kill, journal
        self._armed = self._sent = False

    def _die(self, moment: str) -> None:
        if not self._sent:
            self._sent = True
            self._note(died=moment)
            os.kill(os.getpid(), self._kill.signal)

    def _note(self, **record) -> None:
        with open(self._journal, "a") as file:
            file.write(json.dumps(record) + "\n")

    def _reached(self, bar: str, done: int) -> None:
        self._note(bar=bar, done=done, time=time.monotonic())
        kill = self._kill
        if kill is None or self._armed or bar != kill.bar or done < kill.done:
            return
        self._armed = True
        if kill.moment == LATER:
            threading.Timer(kill.seconds, self._die, [str(kill)]).start()
        elif kill.moment == RESTORED:  # there was none to be read
            self._die(f"{bar}, {done} done, no checkpoint was read")

    def _watch(self, event: str, args: tuple) -> None:
        if not (self._armed and event == self._event and args):
            return
        if re.fullmatch(self._name, os.path.basename(str(args[0]))):
            self._die(str(self._kill))

    def install(self) -> None:
        """Patches the modules of this process, for good."""
        progress, kill = runs.Run.progress, self._kill

        @contextlib.contextmanager
        def watched(run, title, total, done=0):
            with progress(run, title, total, done) as advance:
                count = done

                def advance_and_look(step=1, **fields):
                    nonlocal count
                    advance(step, **fields)
                    count += step
                    self._reached(title, count)

                self._reached(title, count)
                yield advance_and_look
                if self._armed and ": " in title:  # the others have a checkpoint to be written
                    self._die(f"{title}, at the end")

        runs.Run.progress = watched
        if kill is None:
            return
        close, restore = Checkpoints.close, Checkpoints.restore

        def close_and_die(checkpoints):
            close(checkpoints)
            if self._armed:
                self._die(f"{kill.bar}, at the end")

        Checkpoints.close = close_and_die
        if kill.moment in WRITES:
            self._event, self._name = WRITES[kill.moment]
            sys.addaudithook(self._watch)
        elif kill.moment == ROLLOUT:
            make_batch = grpo.rollouts.make_batch

            def die_or_make(*args, **fields):
                if self._armed:
                    self._die(str(kill))
                return make_batch(*args, **fields)

            grpo.rollouts.make_batch = die_or_make
        elif kill.moment == RESTORED:

            def restore_and_die(checkpoints, *args, **fields):
                restored = restore(checkpoints, *args, **fields)
                if checkpoints.folder.name == kill.bar:
                    self._die(str(kill))
                return restored

            Checkpoints.restore = restore_and_die


def _child(stage: str, argv: list[str], folder: pathlib.Path, kill: Kill | None) -> None:
    """One process of a run: as `python -m experiments.STAGE` would be, with its output in a log."""
    with open(folder.with_suffix(".log"), "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _Process(kill, folder.with_suffix(".journal")).install()
    sys.argv = [stage, *argv, f"--workdir={folder}"]
    launch.start(functools.partial(runs.carry_out, EXPERIMENTS[stage]))


class Runner:
    """Starts runs as processes, each from a clean interpreter state.

    Args:
      stage: one of EXPERIMENTS, the last stage that is run.
      argv: --config and its fields.
    """

    def __init__(self, stage: str, argv: Sequence[str]):
        self._stage, self._argv = stage, list(argv)
        # Imports are half the time of a start: one process, in which jax has no backend yet, makes
        # them and forks the others.
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(["experiments.stages.order"])

    def start(self, folder: pathlib.Path, kill: Kill | None = None, *, fresh: bool = False):
        """Starts a process on a workdir.

        With `fresh` in a new interpreter, whose hashes of strings are not those of the others.
        """
        context = multiprocessing.get_context("spawn") if fresh else self._forks
        process = context.Process(target=_child, args=(self._stage, self._argv, folder, kill))
        process.start()
        return process

    def run(self, folder: pathlib.Path, kill: Kill | None = None, *, fresh: bool = False) -> None:
        """Runs a workdir to its end, or until it is killed.

        Raises:
          RuntimeError: for another end, with the last lines of the log.
        """
        process = self.start(folder, kill, fresh=fresh)
        process.join()
        wanted = 0
        if kill is not None:
            wanted = launch.STOPPED if kill.signal == signal.SIGTERM else -kill.signal
        if process.exitcode != wanted:
            log = folder.with_suffix(".log").read_text(errors="replace")
            raise RuntimeError(
                f"{folder}: exit code {process.exitcode}, not {wanted}; its log ends\n{log[-3000:]}"
            )


def read_journal(folder: pathlib.Path) -> list[dict]:
    """What the processes of a workdir noted: bars with their positions, and their deaths."""
    lines = folder.with_suffix(".journal").read_text().splitlines()
    return [json.loads(line) for line in lines]


def plan(
    journal: Sequence[dict], stages: Sequence[str], kills: int, rng: random.Random
) -> list[Kill]:
    """Moments to kill at, in the order in which a run reaches them.

    Args:
      journal: of the unbroken run.
      stages: the stages to be hit.
      kills: how many of each.
      rng: where choices come from.
    """
    reached = [(record["bar"], record["done"], record["time"]) for record in journal]
    seconds = collections.defaultdict(list)
    for (bar, _, begin), (other, _, end) in itertools.pairwise(reached):
        if bar == other:
            seconds[bar].append(end - begin)
    found = []
    for stage in stages:
        # The last position of a bar is not one to be armed at: nothing but its end comes after it.
        places = [
            (i, bar, done)
            for i, (bar, done, _) in enumerate(reached[:-1])
            if stage_of(bar) == stage and reached[i + 1][0] == bar
        ]
        training = [place for place in places if ": " not in place[1]]
        measures = stage == "benchmark"  # and has no checkpoints
        inside = [TABLE] if measures else [*WRITES][:-1]
        rng.shuffle(inside)
        moments = inside * kills
        third = -(-kills // 3)
        moments = moments[:third] + [ROLLOUT] * (third if stage == "grpo" else 0)
        moments = (moments + [LATER] * kills)[: max(1, kills - (not measures))]
        chosen = [(*rng.choice(places if m == LATER else training), m) for m in moments]
        for _, bar, done, moment in sorted(chosen):
            later = rng.uniform(0, statistics.median(seconds[bar])) if moment == LATER else 0.0
            found.append(Kill(bar, done, moment, later))
        if kills > 1 and not measures:  # where the one before has most likely left a checkpoint
            found.append(Kill(found[-1].bar, found[-1].done, RESTORED))
    return found


def read(folder: pathlib.Path):
    """The arrays of a checkpoint's state or of parameters as they were saved, on one device."""
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(folder).item_metadata.tree
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved
        )
        return checkpointer.restore(folder, abstract)


def _by_name(tree) -> dict[str, np.ndarray]:
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def _same_arrays(a: pathlib.Path, b: pathlib.Path) -> str:
    """ "" if two folders hold the same arrays bit for bit, or else the first difference."""
    if not b.is_dir():
        return "is missing"
    left, right = _by_name(read(a)), _by_name(read(b))
    if left.keys() != right.keys():
        return f"arrays {sorted(left.keys() ^ right.keys())} are only on one side"
    for name, x in left.items():
        y = right[name]
        if (x.dtype, x.shape) != (y.dtype, y.shape) or x.tobytes() != y.tobytes():
            return f"{name} differs"
    return ""


def _metrics(folder: pathlib.Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def _first_difference(a: list, b: list) -> str:
    for i, (x, y) in enumerate(itertools.zip_longest(a, b)):
        if x != y:
            return f"line {i + 1} differs: {x} and {y}"
    return ""


def compare(whole: pathlib.Path, killed: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Everything of two workdirs that must be equal: its name, and "" or the first difference."""
    for kind, item in (("params", "params"), ("checkpoints", "state")):
        for stage in sorted(path.name for path in (whole / kind).iterdir()):
            name = f"{kind}/{stage}/{item}"
            if kind == "checkpoints":
                step = Checkpoints(whole / kind / stage).latest()
                name = f"{kind}/{stage}/{step}/{item}"
                for file in ("data/metadata", "meta/metadata"):
                    file = f"{kind}/{stage}/{step}/{file}"
                    yield file, _same_bytes(whole / file, killed / file)
            yield name, _same_arrays(whole / name, killed / name)
    yield "metrics.jsonl without times", _first_difference(_metrics(whole), _metrics(killed))
    for path in sorted(whole.rglob("*")):
        name = str(path.relative_to(whole))
        if path.is_file() and re.match(WRITTEN, name):
            yield name, _same_bytes(path, killed / name)


def _same_bytes(a: pathlib.Path, b: pathlib.Path) -> str:
    if not b.is_file():
        return "is missing"
    return _first_difference(a.read_bytes().splitlines(), b.read_bytes().splitlines())


def say(text: str) -> None:
    """A line, at once also through a pipe."""
    print(text, flush=True)


def run_killed(runner: Runner, folder: pathlib.Path, kills: Sequence[Kill]) -> list[str]:
    """Runs a workdir to its end through all kills; says, and returns, where each came.

    Raises:
      RuntimeError: if a process ended otherwise than it should.
    """
    deaths = []
    for number, kill in enumerate(kills, start=1):
        began = time.monotonic()
        runner.run(folder, kill)
        deaths = [record["died"] for record in read_journal(folder) if "died" in record]
        seconds = time.monotonic() - began
        say(f"kill {number} of {len(kills)}, {stage_of(kill.bar)}: {deaths[-1]}  ({seconds:.0f} s)")
    began = time.monotonic()
    runner.run(folder)
    say(f"ran to its end  ({time.monotonic() - began:.0f} s)")
    return deaths


def check(
    folder: pathlib.Path, argv: Sequence[str], stages: Sequence[str], kills: int, seed: int
) -> bool:
    """Runs whole/ and killed/ below a folder and compares them; says what it does.

    Raises:
      RuntimeError: if a process ended otherwise than it should.
    """
    whole, killed = folder / "whole", folder / "killed"
    runner = Runner(stages[-1], argv)
    began = time.monotonic()
    say(f"unbroken run up to {stages[-1]} in {whole}")
    runner.run(whole, fresh=True)
    say(f"ran to its end  ({time.monotonic() - began:.0f} s)")
    run_killed(runner, killed, plan(read_journal(whole), stages, kills, random.Random(seed)))
    equal = True
    for name, difference in compare(whole, killed):
        equal &= not difference
        say(f"{name}: {difference or 'bitwise equal'}")
    return equal


def environment(cache: pathlib.Path) -> None:
    """What the processes inherit: the platform, and one compilation cache for all."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Of semaphores that the killed ones could not give back.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if everything is bitwise equal, otherwise 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=10, help="of each stage")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--workdir", type=pathlib.Path, help="kept; by default a temporary one")
    args, rest = parser.parse_known_args(argv)
    unknown = [arg for arg in rest if not arg.startswith("--config")]
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    if args.kills < 1:
        parser.error(f"--kills must be at least 1, got {args.kills}")
    own_config = any(re.match(r"--config(=|$)", arg) for arg in rest)
    stages = STAGES if args.stage == "all" else [args.stage]
    folder = (args.workdir or pathlib.Path(tempfile.mkdtemp(prefix="check_resume."))).absolute()
    if args.workdir and folder.exists() and any(folder.iterdir()):
        parser.error(f"--workdir: {folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    environment(folder / "cache")
    try:
        equal = check(folder, rest if own_config else [*TINY, *rest], stages, args.kills, args.seed)
    except RuntimeError as error:
        print(f"error: {error}")
        return 1
    if not args.workdir:
        shutil.rmtree(folder)
    print("a killed run equals an unbroken one" if equal else "DIFFERENT")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
