"""The whole loop: cold start, RFT, GRPO, meta RM, the arm without principles, and the table.

    python -m experiments.spct --config=configs/small_world.py:demo --workdir=runs/demo

Finished stages are skipped and unfinished ones go on, so the same command resumes a killed run.
"""

import time
from collections.abc import Callable

from experiments import ablate, benchmark, grpo, meta_rm, rft, sft
from experiments import run as runs


def main(run: runs.Run) -> None:
    """All stages in turn.

    Raises:
      ValueError: if the config lacks a stage, as those of RFT only do.
    """
    config = benchmark.read_config(run)
    for section in ("rft", "grpo", *(["meta_rm"] if config.meta_rm else [])):
        if section not in run.config:
            raise ValueError(
                f"config.{section}: section is missing; run the stages that the config has by "
                "their own experiments"
            )
    stages: list[tuple[str, Callable[[runs.Run], None]]] = [
        ("base and cold start", sft.main),
        ("RFT", rft.run_stage),
        ("GRPO", grpo.run_stage),
    ]
    if config.meta_rm:
        stages.append(("meta RM", meta_rm.run_stage))
    if config.ablation_k:
        stages.append(("without principles", ablate.run_stages))
    stages.append(("benchmark", benchmark.run_benchmark))

    seconds = {}
    for name, stage in stages:
        began = time.monotonic()
        stage(run)
        seconds[name] = time.monotonic() - began
    each = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    run.say(f"{sum(seconds.values()):.0f} s in all: {each}")


if __name__ == "__main__":
    runs.main(main)
