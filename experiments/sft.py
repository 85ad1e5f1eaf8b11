"""Supervised stages: the base model on general data, then the cold start on demonstrations.

    python -m experiments.sft --config=configs/small_world.py --workdir=DIR

See `experiments.stages.sft`. As in every experiment, finished stages are left as they are, and a
killed one resumes from its latest checkpoint.
"""

from experiments import launch
from experiments.stages import order

if __name__ == "__main__":
    launch.main(order.up_to("cold_start"))
