"""Rule-based online RL: GRPO from the RFT model, with the RFT model as reference policy.

    python -m experiments.grpo --config=configs/small_world.py --workdir=DIR

See `experiments.stages.grpo`. Stages that it starts from are run first if the workdir lacks them.
"""

import pathlib

import ml_collections

from experiments import launch


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs GRPO, after the stages before it."""
    from experiments.run import carry_out
    from experiments.stages import order

    carry_out(order.up_to("grpo"), config, workdir, requires=order.needed("grpo"))


if __name__ == "__main__":
    launch.start(main)
