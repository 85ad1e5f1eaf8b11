"""Ablations over seeds: the whole loop and its arms, compared comparison by comparison.

    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR
    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR --shard=0/2
    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR --report

Each seed of config.ablate is a run of `experiments.spct` in DIR/seed_S, of the arms that
config.ablate.only names ("" for all of config.ablate.arms); stages that arms share are trained
once, and arms that a seed was measured with before stay in its results. The split decides the
seeds: `seeds` for "test", `development_seeds` for "development". Writes DIR/figures/ablation.png
and DIR/tables/{ablation,seeds}.* over the seeds that are finished; with --report it does only that,
and needs nothing but DIR/seed_S/results, from whichever machines.
"""

import datetime
import functools
import pathlib
import re
from collections.abc import Sequence

import ml_collections
from absl import flags

from experiments import arms, launch, schema, sections
from experiments.config import build, differing_fields, filled, in_use
from experiments.run import Run
from experiments.stages import order
from grm_jax.evaluation import effects, results
from grm_jax.evaluation.method import title
from grm_jax.files import read_json, visible_files, write_json
from grm_jax.parallel import processes

_SHARD = flags.DEFINE_string(
    "shard", "0/1", "i/n: this process takes every n-th seed from the i-th on, counted from 0."
)
_REPORT = flags.DEFINE_boolean("report", False, "Run nothing; report on what is there.")


def read_config(config: ml_collections.ConfigDict) -> sections.Config:
    """The typed config. Raises ValueError without sections `ablate` and `benchmark`."""
    typed = build(config)
    typed.require("ablate", "benchmark")
    return typed


def seeds(config: ml_collections.ConfigDict) -> list[int]:
    """The seeds of the split that the config measures.

    Raises:
      ValueError: there are none.
    """
    typed = read_config(config)
    measured = typed.benchmark.split
    found = list(typed.ablate.of_split(measured))
    if not found:
        raise ValueError(f"config.ablate: no seeds for config.benchmark.split={measured!r}")
    return found


def of_seed(
    config: ml_collections.ConfigDict, seed: int, measured: Sequence[str] = ()
) -> ml_collections.ConfigDict:
    """The config of one seed: of the run, and of its small world if it has one.

    Args:
      config: of the ablation.
      seed: the seed.
      measured: arms that are counted again beside those that the config chooses.
    """
    own = ml_collections.ConfigDict(config).copy_and_resolve_references()
    own.seed = seed
    if "small_world" in own:
        own.small_world.world_seed = seed
    with own.benchmark.unlocked():
        chosen = read_config(config).ablate.chosen()
        own.benchmark.arms = ",".join(dict.fromkeys([*chosen, *measured]))
        own.benchmark.count_all = True
    return own


def measured_arms(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[str]:
    """Arms of the config that the results of a seed have, defined as they are now."""
    if not visible_files(folder / "results", "*.json"):
        return []
    found: dict[str, str] = {}
    for one in results.read_results(folder).values():
        found |= one.arms
    return [name for name, change in config.ablate.arms.items()
            if found.get(title(name)) == change]  # fmt: skip


def take_shard(items: list[int], shard: str) -> list[int]:
    """Every n-th item from the i-th on, for "i/n".

    Raises:
      ValueError: the text does not read so.
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard: expected i/n with i below n, got {shard!r}")
    return items[int(match[1]) :: int(match[2])]


def check_opening(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Refuses to measure a held-out seed of this folder a second time in another way.

    Raises:
      ValueError: naming the fields that differ.
    """
    path = folder / "opened.json"
    if not path.exists():
        return
    before = read_json(path)
    both = [filled(arms.measuring(one)) for one in (before.get("config", {}), config)]
    different = differing_fields(*both)
    if different:
        raise ValueError(
            f"{folder}: seed {config.seed} was opened on {before.get('date')} with another "
            "config and is not held out any more; name fresh ones in config.ablate.seeds, this "
            f"one in config.ablate.opened: {'; '.join(different)}"
        )


def record_opening(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Notes in opened.json when a held-out seed was first measured, and with what."""
    if not (folder / "opened.json").exists():
        today = datetime.date.today().isoformat()
        write_json(folder / "opened.json", {"date": today, "config": arms.measuring(config)})


def run_seed(run: Run, *, held_out: bool) -> None:
    """The loop of one seed; a held-out one is opened when nothing is left but to measure it."""
    *training, benchmark = order.whole(run)
    opening = []
    if held_out and run.workdir.writes:
        config = ml_collections.ConfigDict(run.fields)
        opening = [("opening", lambda run: record_opening(run.workdir.root, config))]
    order.carry_out(run, [*training, *opening, benchmark])


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs the seeds of this shard, then reports on all that are finished.

    Raises:
      ValueError: at the end, naming the seeds that failed, and why; or nothing is to be reported.
    """
    config = in_use(config)
    typed = schema.check(config)
    every = seeds(config)
    shard = take_shard(every, _SHARD.value)
    if _REPORT.value and not workdir.is_dir():
        raise ValueError(f"--workdir: there is no folder {workdir}")
    own = [] if _REPORT.value else shard
    # A mistake in an arm is one of every seed.
    arms.every(of_seed(config, every[0]), all_arms=False)
    held_out = typed.benchmark.split == "test"
    for seed in own if held_out else ():
        check_opening(workdir / f"seed_{seed}", of_seed(config, seed))
    failed = []
    for number, seed in enumerate(own, start=1):
        print(f"== seed {seed}, {number} of {len(own)}", flush=True)
        folder = workdir / f"seed_{seed}"
        try:
            of_this = of_seed(config, seed, measured_arms(config, folder))
            launch.carry_out(functools.partial(run_seed, held_out=held_out), of_this, folder)
        except (ValueError, FloatingPointError) as error:  # the others may be well
            print(f"seed {seed}: {error}", flush=True)
            failed.append(f"seed {seed}: {error}")
    if processes.index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        comparable = arms.comparable(of_seed(config, every[0]))
        listed = [name.strip() for name in typed.ablate.listed.split(";") if name.strip()]
        reported = effects.write_report(workdir, every, comparable, listed)
        if _REPORT.value and not reported:
            raise ValueError(f"{workdir}: no seed of {every} was measured with this config")
    if failed:
        raise ValueError("; ".join(failed))


if __name__ == "__main__":
    launch.start(main)
