"""Meta RM: which trajectories are correct? Trained from the base model, used by guided voting.

    python -m experiments.meta_rm --config=configs/small_world.py --workdir=DIR

See `experiments.stages.meta_rm`. Stages that it starts from are run first if the workdir lacks
them.
"""

from experiments import launch
from experiments.stages import order

if __name__ == "__main__":
    launch.main(order.up_to("meta_rm"), requires=order.needed("meta_rm"))
