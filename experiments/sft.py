"""Supervised stages: the base model on general data, then the cold start on demonstrations.

    python -m experiments.sft --config=configs/small_world.py --workdir=DIR

See `experiments.stages.sft`. A stage that is finished is left as it is, and one that was killed
goes on from its latest checkpoint; so it is for every experiment.
"""

from experiments import launch
from experiments.stages import order

if __name__ == "__main__":
    launch.main(order.up_to("cold_start"))
