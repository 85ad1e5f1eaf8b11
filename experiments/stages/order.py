"""The order of the stages: the stages before each, the whole loop, and its arms."""

import functools
import time
from collections.abc import Callable, Sequence

from experiments.measurement import read_config
from experiments.run import Run
from experiments.stages import benchmark, grpo, meta_rm, rft, sft
from grm_jax.evaluation.method import title
from grm_jax.ranges import split

Stage = Callable[[Run], None]

_TRAINING: dict[str, Stage] = {
    "base": sft.base, "cold_start": sft.cold_start, "rft": rft.run_stage, "grpo": grpo.run_stage,
    "meta_rm": meta_rm.run_stage,
}  # fmt: skip
_OPTIONAL = ("base", "cold_start")  # where the config lacks them, released weights take their place


def needed(last: str) -> tuple[str, ...]:
    """The stages up to `last` that a config must have; released weights replace the first two."""
    names = [*_TRAINING][: [*_TRAINING].index(last) + 1]
    return tuple(name for name in names if name not in _OPTIONAL)


def up_to(last: str) -> Stage:
    """Runs a stage after those before it; finished stages are left as they are."""

    def run_stages(run: Run) -> None:
        run.config.require(*needed(last))
        for name in [*_TRAINING][: [*_TRAINING].index(last) + 1]:
            if name in run.config.trained():
                _TRAINING[name](run)

    return run_stages


def whole(run: Run) -> list[tuple[str, Stage]]:
    """All stages of a run and of its arms, with their names; the benchmark is the last.

    Raises:
      ValueError: the config lacks a stage, as those of RFT only do.
    """
    config = read_config(run)
    guided = config.meta_rm and not meta_rm.is_released(run)
    run.config.require(*needed("grpo"), *(["meta_rm"] if config.meta_rm else []))
    stages = [("base and cold start", up_to("cold_start")), ("RFT", rft.run_stage),
              ("GRPO", grpo.run_stage)]  # fmt: skip
    if guided:
        stages.append(("meta RM", meta_rm.run_stage))
    for name in split(config.arms):
        stages.append((title(name), functools.partial(_run_arm, name=name)))
    return [*stages, ("benchmark", benchmark.run_stage)]


def _run_arm(run: Run, name: str) -> None:
    up_to("grpo")(run.arm(name))


def carry_out(run: Run, stages: Sequence[tuple[str, Stage]]) -> None:
    """Runs stages in turn, and prints the time of each."""
    seconds = {}
    for name, stage in stages:
        began = time.monotonic()
        stage(run)
        seconds[name] = time.monotonic() - began
    each = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    run.say(f"{sum(seconds.values()):.0f} s in all: {each}")


def run_whole(run: Run) -> None:
    """The whole loop, its arms and the benchmark."""
    carry_out(run, whole(run))
