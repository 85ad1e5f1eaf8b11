"""An ablation: the seeds of a config, each a run of its own, and the report over them."""

import datetime
import functools
import pathlib
import re
from collections.abc import Sequence

import ml_collections

from experiments import arms, schema, sections
from experiments.config import build, differing_fields, filled, in_use
from experiments.run import Run, carry_out
from experiments.stages import order
from grm_jax.evaluation import effects, results
from grm_jax.evaluation.method import title
from grm_jax.files import read_json, visible_files, write_json
from grm_jax.parallel import processes


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
    listed = list(typed.ablate.of_split(measured))
    if not listed:
        raise ValueError(f"config.ablate: no seeds for config.benchmark.split={measured!r}")
    return listed


def of_seed(
    config: ml_collections.ConfigDict, seed: int, measured: Sequence[str] = ()
) -> ml_collections.ConfigDict:
    """The config with a seed for the run and for its small world, if it has one.

    Args:
      config: of the ablation.
      seed: the seed.
      measured: arms that are counted again in addition to those that the config chooses.
    """
    seeded = ml_collections.ConfigDict(config).copy_and_resolve_references()
    seeded.seed = seed
    if "small_world" in seeded:
        seeded.small_world.world_seed = seed
    with seeded.benchmark.unlocked():
        chosen = read_config(config).ablate.chosen()
        seeded.benchmark.arms = ",".join(dict.fromkeys([*chosen, *measured]))
        seeded.benchmark.count_all = True
    return seeded


def measured_arms(config: ml_collections.ConfigDict, folder: pathlib.Path) -> list[str]:
    """Arms of the config that a seed was measured with, by the same definitions."""
    if not visible_files(folder / "results", "*.json"):
        return []
    stored: dict[str, str] = {}
    for result in results.read_results(folder).values():
        stored |= result.arms
    changes = config.ablate.arms.items()
    return [name for name, change in changes if stored.get(title(name)) == change]


def take_shard(items: list[int], shard: str) -> list[int]:
    """Every n-th item from the i-th on, for "i/n".

    Raises:
      ValueError: the text has another form.
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
    opened = filled(arms.measuring(before.get("config", {})))
    different = differing_fields(opened, filled(arms.measuring(config)))
    if different:
        raise ValueError(
            f"{folder}: seed {config.seed} was opened on {before.get('date')} with another "
            "config and is not held out any more; name fresh ones in config.ablate.seeds, this "
            f"one in config.ablate.opened: {'; '.join(different)}"
        )


def record_opening(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes opened.json: the date and config of the first measurement of a held-out seed."""
    if not (folder / "opened.json").exists():
        today = datetime.date.today().isoformat()
        write_json(folder / "opened.json", {"date": today, "config": arms.measuring(config)})


def run_seed(run: Run, *, held_out: bool) -> None:
    """Runs the loop of one seed; a held-out one is opened just before it is measured."""
    *training, benchmark = order.whole(run)
    opening = []
    if held_out and run.workdir.writes:
        config = ml_collections.ConfigDict(run.fields)
        opening = [("opening", lambda run: record_opening(run.workdir.root, config))]
    order.carry_out(run, [*training, *opening, benchmark])


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    shard: str = "0/1",
    report: bool = False,
) -> None:
    """Runs the seeds of this shard, then reports on all that are finished.

    Args:
      config: of the ablation.
      workdir: the folder of all seeds.
      shard: i/n, every n-th seed from the i-th on.
      report: run nothing; report on what is there.

    Raises:
      ValueError: at the end, naming the seeds that failed, and why; or there is nothing to report.
    """
    config = in_use(config)
    typed = schema.check(config)
    every = seeds(config)
    to_run = take_shard(every, shard)
    if report and not workdir.is_dir():
        raise ValueError(f"--workdir: there is no folder {workdir}")
    if report:
        to_run = []
    # A mistake in an arm would fail every seed.
    arms.every(of_seed(config, every[0]), all_arms=False)
    held_out = typed.benchmark.split == "test"
    for seed in to_run if held_out else ():
        check_opening(workdir / f"seed_{seed}", of_seed(config, seed))
    failed = []
    for number, seed in enumerate(to_run, start=1):
        print(f"== seed {seed}, {number} of {len(to_run)}", flush=True)
        folder = workdir / f"seed_{seed}"
        try:
            of_this = of_seed(config, seed, measured_arms(config, folder))
            carry_out(functools.partial(run_seed, held_out=held_out), of_this, folder)
        except (ValueError, FloatingPointError) as error:  # other seeds may succeed
            print(f"seed {seed}: {error}", flush=True)
            failed.append(f"seed {seed}: {error}")
    if processes.index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        comparable = arms.comparable(of_seed(config, every[0]))
        listed = [name.strip() for name in typed.ablate.listed.split(";") if name.strip()]
        reported = effects.write_report(workdir, every, comparable, listed)
        if report and not reported:
            raise ValueError(f"{workdir}: no seed of {every} was measured with this config")
    if failed:
        raise ValueError("; ".join(failed))
