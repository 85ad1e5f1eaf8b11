"""Measures the stages of a workdir: greedy, voting, guided voting, with intervals.

    python -m experiments.benchmark --config=configs/small_world.py --workdir=DIR
    python -m experiments.benchmark --config=configs/small_world.py:gemma_tokens --workdir=DIR \
        --config.benchmark.suites=judgebench,llmbar,rmb_bon --config.benchmark.data_dir=DATA

See `experiments.stages.benchmark`. The stages have to be finished.
"""

import pathlib

import ml_collections

from experiments import launch


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures what the config names."""
    from experiments.run import carry_out
    from experiments.stages import benchmark

    carry_out(benchmark.run_stage, config, workdir, requires=("benchmark",))


if __name__ == "__main__":
    launch.start(main)
