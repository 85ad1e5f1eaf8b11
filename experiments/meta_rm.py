"""Meta RM: which trajectories are correct? Trained from the base model, used by guided voting.

    python -m experiments.meta_rm --config=configs/small_world.py --workdir=DIR

See `experiments.stages.meta_rm`. Stages that it starts from are run first if the workdir lacks
them.
"""

import pathlib

import ml_collections

from experiments import launch


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains the meta RM, after the stages before it."""
    from experiments.run import carry_out
    from experiments.stages import order

    carry_out(order.up_to("meta_rm"), config, workdir, requires=order.needed("meta_rm"))


if __name__ == "__main__":
    launch.start(main)
