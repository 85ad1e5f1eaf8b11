"""The loop in which every stage trains: resume, step, log, checkpoint, stop."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax

from experiments.run import Run
from grm_jax.data.stores import TrajectoryStore
from grm_jax.learning.checkpoints import Checkpoints
from grm_jax.learning.state import TrainState

LOG_EVERY = 10  # steps between two records of the metrics


class Stepped(NamedTuple):
    """A dispatched step, which may still run on the device.

    Attributes:
      state: the state after the step.
      metrics: numbers on the device.
      tokens: tokens of the step.
      times: wall-clock figures in addition to `tokens_per_second` of the whole step.
    """

    state: TrainState
    metrics: Mapping[str, jax.Array | float]
    tokens: int
    times: Mapping[str, float] = {}


class Loop(NamedTuple):
    """The steps of a stage, and their logs.

    Attributes:
      step: (number, state) -> the dispatched step.
      steps: their number.
      checkpoint_every: steps between checkpoints; the last step has one too.
      title: one line for people about the data and the steps.
      note: format of the metrics, shown behind the progress bar.
      summary: format of the metrics and times, printed at every checkpoint; "" for none.
      log_every: steps between records of the metrics.
      log: the store to which steps append trajectories; a resumed run cuts it to the checkpoint.
      evaluate: metrics of a state at each checkpoint. The first one is the score, higher is better,
        and the best checkpoint becomes the stage; without metrics the last does.
    """

    step: Callable[[int, TrainState], Stepped]
    steps: int
    checkpoint_every: int
    title: str
    note: str = "loss {loss:.3f}"
    summary: str = ""
    log_every: int = LOG_EVERY
    log: TrajectoryStore | None = None
    evaluate: Callable[[TrainState], dict[str, float]] = lambda state: {}


def train(run: Run, stage: str, state: TrainState, batches: Iterator, loop: Loop) -> TrainState:
    """Trains one stage to its end, from its latest checkpoint if there is one.

    A step is logged after the next one was dispatched, so that logging never stalls the device. A
    run that is killed and started again repeats the same steps and leaves the same records.

    Args:
      run: the arm.
      stage: its name on disk.
      state: before the first step; donated.
      batches: grain iterator that the steps read from; a checkpoint holds its position.
      loop: the steps.

    Returns:
      The last state, or the best.

    Raises:
      FloatingPointError: a metric or the state is not finite.
      Stopped: the run was asked to stop, and the last step is saved.
    """
    checkpoints = Checkpoints(run.workdir.path("checkpoints", stage), run=run.workdir.digest)
    first, meta = 0, {"store_offset": 0}
    if checkpoints.latest() is not None:
        initial = state
        state, meta = checkpoints.restore(initial, data_iterator=batches)
        jax.tree.map(lambda x: x.delete(), initial)  # the caller holds it, and there is no room
        first = checkpoints.latest()
    if loop.log is not None:
        loop.log.truncate(meta["store_offset"])
    run.metrics.rewind(stage, first)
    run.say(f"{stage}: {loop.title}" + (f", from {first}" if first else ""))

    def is_checkpoint(number: int) -> bool:
        return (number + 1) % loop.checkpoint_every == 0 or number + 1 == loop.steps

    def finish(number: int, done: Stepped, evaluated: Mapping[str, float]) -> str:
        """Waits for a step and logs it with the metrics of an evaluation; returns the note."""
        nonlocal began
        metrics = run.metrics.check(stage, number, jax.device_get(done.metrics)) | evaluated
        now = time.monotonic()
        times = {"tokens_per_second": done.tokens / (now - began), **done.times}
        began = now
        if (number + 1) % loop.log_every == 0 or number == 0 or evaluated:
            run.metrics.write(stage, number, metrics, times)
        if loop.summary and is_checkpoint(number):
            run.say(f"{stage} {number + 1}: {loop.summary.format(**metrics, **times)}")
        return loop.note.format(**metrics) + "".join(f"  {k} {v:.3f}" for k, v in evaluated.items())

    shown, pending, began = "", None, time.monotonic()
    with run.progress(stage, loop.steps, first) as advance:
        for number in range(first, loop.steps):
            done = loop.step(number, state)
            state = done.state
            if pending is not None:
                shown = finish(*pending, {})
            pending = (number, done._replace(state=None))  # the next step may donate the state
            stopping = run.stopping
            if is_checkpoint(number) or stopping:
                evaluated = loop.evaluate(state) if is_checkpoint(number) else {}
                shown, pending = finish(*pending, evaluated), None
                meta = {} if loop.log is None else {"store_offset": loop.log.offset}
                score = next(iter(evaluated.values()), None)
                checkpoints.save(number + 1, state, meta, batches, score)
                began = time.monotonic()
            advance(note=shown)
            if stopping:
                checkpoints.close()
                run.stop(f"step {number + 1} of {stage}")
    if (best := checkpoints.best()) not in (None, loop.steps):
        state, _ = checkpoints.restore(state, best)
        run.say(
            f"{stage}: the parameters of step {best} of {loop.steps}, the best on what is held out"
        )
    checkpoints.close()
    return state
