"""The whole loop: cold start, RFT, GRPO, meta RM, the arms of the config, and the table.

    python -m experiments.spct --config=configs/small_world.py:demo --workdir=runs/demo

Finished stages are skipped and unfinished ones go on, so the same command resumes a killed run.
"""

import pathlib

import ml_collections

from experiments import launch


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs all stages in turn."""
    from experiments.run import carry_out
    from experiments.stages import order

    requires = (*order.needed("grpo"), "benchmark")
    carry_out(order.run_whole, config, workdir, requires=requires)


if __name__ == "__main__":
    launch.start(main)
