"""Rejective fine-tuning: draw from the cold start or a teacher, keep by rule, fine-tune the former.

    python -m experiments.rft --config=configs/small_world.py --workdir=DIR

See `experiments.stages.rft`. Stages that it starts from are run first if the workdir lacks them.
"""

from experiments import launch
from experiments.stages import order

if __name__ == "__main__":
    launch.main(order.up_to("rft"), requires=order.needed("rft"))
