"""The trained baselines of the paper, on the base model, data and harness of the GRM.

    python -m experiments.baseline --config=configs/small_world.py:demo --workdir=DIR \\
        --config.baseline.kind=bradley_terry

Kinds: bradley_terry, pairrm, cloud, llm_judge, token_prob. Stages that a kind starts from are run
first if the workdir lacks them. See `experiments.stages.baseline`.
"""

import pathlib

import ml_collections

from experiments import launch


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains one kind, measures it on all suites, and reports."""
    from experiments.run import carry_out
    from experiments.stages import baseline

    requires = ("baseline", "benchmark")
    carry_out(baseline.run_stage, config, workdir, requires=requires)


if __name__ == "__main__":
    launch.start(main)
