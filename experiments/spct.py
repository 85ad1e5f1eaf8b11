"""The whole loop: cold start, RFT, GRPO, meta RM, the arms of the config, and the table.

    python -m experiments.spct --config=configs/small_world.py:demo --workdir=runs/demo

Finished stages are skipped and unfinished ones go on, so the same command resumes a killed run.
"""

from experiments import launch
from experiments.run import Run
from experiments.stages import order


def main(run: Run) -> None:
    """All stages in turn."""
    order.carry_out(run, order.whole(run))


if __name__ == "__main__":
    launch.main(main, requires=(*order.needed("grpo"), "benchmark"))
