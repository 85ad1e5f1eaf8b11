"""Rule-based online RL: GRPO from the RFT model, with the RFT model as reference policy.

    python -m experiments.grpo --config=configs/small_world.py --workdir=DIR

See `experiments.stages.grpo`. Stages that it starts from are run first if the workdir lacks them.
"""

from experiments import launch
from experiments.stages import order

if __name__ == "__main__":
    launch.main(order.up_to("grpo"), requires=order.needed("grpo"))
