"""Measures the stages of a workdir: greedy, voting, guided voting, with intervals.

    python -m experiments.benchmark --config=configs/small_world.py --workdir=DIR
    python -m experiments.benchmark --config=configs/small_world.py:gemma_tokens --workdir=DIR \
        --config.benchmark.suites=judgebench,llmbar,rmb_bon --config.benchmark.data_dir=DATA

See `experiments.stages.benchmark`. The stages have to be finished.
"""

from experiments import launch
from experiments.stages import benchmark

if __name__ == "__main__":
    launch.main(benchmark.run_stage, requires=("benchmark",))
