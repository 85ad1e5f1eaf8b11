"""Rejective fine-tuning: draw from the cold start or a teacher, keep by rule, fine-tune the former.

    python -m experiments.rft --config=configs/small_world.py --workdir=DIR

See `experiments.stages.rft`. Stages that it starts from are run first if the workdir lacks them.
"""

import pathlib

import ml_collections

from experiments import launch


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs RFT, after the stages before it."""
    from experiments.run import carry_out
    from experiments.stages import order

    carry_out(order.up_to("rft"), config, workdir, requires=order.needed("rft"))


if __name__ == "__main__":
    launch.start(main)
