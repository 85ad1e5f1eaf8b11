"""Ablations over seeds: the whole loop and its arms, compared comparison by comparison.

    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR
    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR --shard=0/2
    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR --report

Each seed of config.ablate is a run of `experiments.spct` in DIR/seed_S with the arms that
config.ablate.only names ("" for all of config.ablate.arms); stages that arms share are trained
once, and arms measured earlier stay in the results of a seed. The split decides the seeds: `seeds`
for "test", `development_seeds` for "development". Writes DIR/figures/ablation.png and
DIR/tables/{ablation,seeds}.* over the finished seeds; --report does only that, and needs only
DIR/seed_S/results, from any machines.
"""

import pathlib

import ml_collections
from absl import flags

from experiments import launch

_SHARD = flags.DEFINE_string(
    "shard", "0/1", "i/n: this process takes every n-th seed from the i-th on, counted from 0."
)
_REPORT = flags.DEFINE_boolean("report", False, "Run nothing; report on what is there.")


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs the seeds of this shard, then reports on all that are finished."""
    from experiments import ablation

    ablation.run(config, workdir, shard=_SHARD.value, report=_REPORT.value)


if __name__ == "__main__":
    launch.start(main)
