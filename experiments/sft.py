"""Supervised stages: the base model on general data, then the cold start on demonstrations.

    python -m experiments.sft --config=configs/small_world.py --workdir=DIR

See `experiments.stages.sft`. As in every experiment, finished stages are left as they are, and a
killed one resumes from its latest checkpoint.
"""

import pathlib

import ml_collections

from experiments import launch


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs both, on one workdir."""
    from experiments.run import carry_out
    from experiments.stages import order

    carry_out(order.up_to("cold_start"), config, workdir)


if __name__ == "__main__":
    launch.start(main)
