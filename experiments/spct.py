"""The whole loop: cold start, RFT, GRPO, meta RM, the arms of the config, and the table.

    python -m experiments.spct --config=configs/small_world.py:demo --workdir=runs/demo

Finished stages are skipped and unfinished ones go on, so the same command resumes a killed run.
"""

import functools
import time
from collections.abc import Callable, Sequence

from experiments import benchmark, grpo, meta_rm, rft, sft
from experiments import run as runs
from grm_jax.evaluation.method import title

Stage = Callable[[runs.Run], None]


def _run_arm(run: runs.Run, name: str) -> None:
    grpo.main(run.arm(name))


def stages(run: runs.Run) -> list[tuple[str, Stage]]:
    """All stages with their names; the benchmark is the last.

    Raises:
      ValueError: if the config lacks a stage, as those of RFT only do.
    """
    config = benchmark.read_config(run)
    for section in ("rft", "grpo", *(["meta_rm"] if config.meta_rm else [])):
        if section not in run.config.stages():
            raise ValueError(
                f"config.{section}: section is missing; run the stages that the config has by "
                "their own experiments"
            )
    found: list[tuple[str, Stage]] = [
        ("base and cold start", sft.main),
        ("RFT", rft.run_stage),
        ("GRPO", grpo.run_stage),
    ]
    if config.meta_rm and not meta_rm.is_released(run):
        found.append(("meta RM", meta_rm.run_stage))
    for name in benchmark.arm_names(config):
        found.append((title(name), functools.partial(_run_arm, name=name)))
    found.append(("benchmark", benchmark.run_benchmark))

    return found


def main(run: runs.Run) -> None:
    """All stages in turn."""
    carry_out(run, stages(run))


def carry_out(run: runs.Run, in_turn: Sequence[tuple[str, Stage]]) -> None:
    """Runs stages, and says what each took."""
    seconds = {}
    for name, stage in in_turn:
        began = time.monotonic()
        stage(run)
        seconds[name] = time.monotonic() - began
    each = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    run.say(f"{sum(seconds.values()):.0f} s in all: {each}")


if __name__ == "__main__":
    runs.main(main)
