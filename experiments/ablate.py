"""Ablations over seeds: the whole loop and its arms, compared comparison by comparison.

    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR
    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR --shard=0/2

Each seed of config.ablate is a run of `experiments.spct` in DIR/seed_S, of the arms that
config.ablate.only names ("" for all of config.ablate.arms); stages that arms share are trained
once. The split decides the seeds: `seeds` for "test", `development_seeds` for "development". Writes
DIR/tables/{ablation,seeds}.* and DIR/figures/ablation.png over the seeds that are finished.
"""

import datetime
import json
import pathlib

import ml_collections
from absl import flags

from experiments import arms, effects, schema, settings, spct
from experiments import run as runs

_SHARD = flags.DEFINE_string(
    "shard", "0/1", "i/n: this process takes every n-th seed from the i-th on, counted from 0."
)


def read_config(config: ml_collections.ConfigDict) -> schema.AblateConfig:
    """Section `ablate`.

    Raises:
      ValueError: naming the field, or an arm that does not exist.
    """
    section = settings.from_section(schema.AblateConfig, config, "ablate", sections=("arms",))
    unknown = set(_chosen(config, section)) - set(config.ablate.arms)
    if unknown:
        raise ValueError(
            f"config.ablate.only: no arm {sorted(unknown)[0]!r}; there are "
            f"{sorted(config.ablate.arms)}"
        )
    return section


def _chosen(config, section: schema.AblateConfig) -> list[str]:
    return settings.names(section.only, "config.ablate.only") or list(config.ablate.arms)


def seeds(config: ml_collections.ConfigDict) -> list[int]:
    """The seeds of the split that the config measures.

    Raises:
      ValueError: there are none.
    """
    split = config.benchmark.get("split", "development")
    found = read_config(config).of_split(split)
    if not found:
        raise ValueError(f"config.ablate: no seeds for config.benchmark.split={split!r}")
    return found


def of_seed(config: ml_collections.ConfigDict, seed: int) -> ml_collections.ConfigDict:
    """The config of one seed: of the run, and of its small world if it has one."""
    own = ml_collections.ConfigDict(config).copy_and_resolve_references()
    own.seed = seed
    if "small_world" in own:
        own.small_world.world_seed = seed
    own.benchmark.arms = ",".join(_chosen(config, read_config(config)))
    with own.benchmark.unlocked():
        own.benchmark.count_all = True
    return own


def take_shard(items: list[int], shard: str) -> list[int]:
    """Every n-th item from the i-th on, for "i/n".

    Raises:
      ValueError: the text does not read so.
    """
    index, slash, count = shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f"--shard: expected i/n with i below n, got {shard!r}")
    return items[int(index) :: int(count)]


def record_opening(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Notes in opened.json when a held-out seed was first measured, and with what.

    Raises:
      ValueError: it was measured with another config before.
    """
    now = json.loads(config.to_json())
    for name in set(arms.FREE_SECTIONS) - {"benchmark"}:
        now.pop(name, None)
    # An arm may be added later, and is compared with the same run; counting draws nothing.
    for name in ("arms", "count_all"):
        now["benchmark"].pop(name, None)
    path = folder / "opened.json"
    if not path.exists():
        today = datetime.date.today().isoformat()
        runs.write_json(path, {"date": today, "config": now})
        return
    before = json.loads(path.read_text())
    different = settings.differing_fields(before["config"], now)
    if different:
        raise ValueError(
            f"{folder}: seed {config.seed} was opened on {before['date']} with another config and "
            "is not held out any more; name fresh ones in config.ablate.seeds, this one in "
            f"config.ablate.opened: {'; '.join(different)}"
        )


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs the seeds of this shard, then reports on all that are finished."""
    schema.check(config)
    every = seeds(config)
    own = take_shard(every, _SHARD.value)
    for number, seed in enumerate(own, start=1):
        print(f"== seed {seed}, {number} of {len(own)}", flush=True)
        folder, of_this = workdir / f"seed_{seed}", of_seed(config, seed)
        if config.benchmark.get("split") == "test":
            record_opening(folder, of_this)
        runs.carry_out(spct.main, of_this, folder)
    effects.write_report(workdir, every)


if __name__ == "__main__":
    runs.start(main)
