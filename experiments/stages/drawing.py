"""Drawing the trajectories of a stage, and turning the kept ones into examples."""

from collections.abc import Iterable, Mapping

from experiments.run import Run
from experiments.sections import RFTData
from grm_jax.data.comparison import Comparison
from grm_jax.data.pipeline import Example
from grm_jax.data.stores import TrajectoryStore
from grm_jax.data.trajectory import Trajectory
from grm_jax.learning.checkpoints import params_digest
from grm_jax.learning.rejection import Rejection
from grm_jax.sampling import draw
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.draw import Origin, answer_ids
from grm_jax.sampling.engine import Engine
from grm_jax.sampling.prompt import make_prompt
from grm_jax.sampling.remote import RemoteEngine


def fingerprint(run: Run, digest: str, config: DrawConfig, work: Iterable = ()) -> str:
    """Name of a draw, from the parameters, template, tokenizer and sampling of its trajectories.

    Args:
      run: the arm.
      digest: of the parameters.
      config: sampling.
      work: whatever else decides the work list, such as buckets and comparisons, where it may
        change between two runs: units are stored by their place in the list.
    """
    return draw.fingerprint(digest, config, run.tokenizer, run.config.seed, work)


def draw_stage(
    run: Run,
    stage: str,
    params: dict | None,
    comparisons: list[Comparison],
    config: DrawConfig,
    engine: Engine,
    *,
    hinted: bool = False,
) -> list[Trajectory]:
    """Draws k trajectories of each comparison into trajectories/<stage>.jsonl, with a bar.

    Args:
      run: the arm.
      stage: its name on disk.
      params: of a decoder; not used by a remote engine, whose server has its own.
      comparisons: the comparisons to judge.
      config: samples of each, and how to draw them.
      engine: draws the work units.
      hinted: whether prompts name the best response.

    Returns:
      The trajectories in the order of the log, including those drawn by earlier runs.

    Raises:
      Stopped: the run was asked to stop, and the last work unit is on disk.
    """
    if isinstance(engine, RemoteEngine):
        params, digest = None, engine.digest
    else:
        digest = params_digest(params)
        params = run.for_rollout(params)
    name = fingerprint(run, digest, config, (config, engine.buckets, *comparisons))
    if unbalanced := config.unbalanced(comparisons):
        run.say(f"{stage}: {unbalanced}")

    def on_unit(samples: int, drawn: list[Trajectory]) -> None:
        advance(samples)
        if drawn and run.stopping:
            run.stop(f"the last unit of {stage}")

    origin = Origin(name, f"{stage}/hinted" if hinted else stage, hinted=hinted)
    title = f"{stage}: hinted" if hinted else f"{stage}: drawing"
    with (
        TrajectoryStore(run.workdir.path("trajectories", f"{stage}.jsonl")) as store,
        run.progress(title, len(comparisons) * config.k) as advance,
    ):
        work = run.drawer(engine, config).draw(params, comparisons, store, origin, on_unit=on_unit)
        trajectories = list(store.iterate(fingerprint=name, stage=origin.stage))
    if work.dropped or work.shortened:
        run.say(
            f"{stage}: {len(work.dropped)} dropped, {len(work.shortened)} shortened, "
            f"{len(work.alike)} of them until a best response is equal to another"
        )
    return trajectories


def kept_examples(
    run: Run, rejection: Rejection, by_uid: Mapping[str, Comparison], config: DrawConfig
) -> list[Example]:
    """Examples of the kept trajectories, with prompts without the hint, in the order of drawing."""
    examples = []
    for trajectory in rejection.kept:
        comparison = by_uid[trajectory.uid]
        prompt = make_prompt(comparison, trajectory.order, config, run.tokenizer).ids
        answer = answer_ids(trajectory, run.tokenizer)
        examples.append(Example(prompt + answer, len(prompt)))
    return examples


def require_kept(stage: str, kept: int, data: RFTData) -> None:
    """Raises ValueError where a stage keeps fewer trajectories than `data.min_kept`."""
    if kept < data.min_kept:
        raise ValueError(
            f"stage {stage}: {kept} trajectories are kept, and config.rft.data.min_kept is "
            f"{data.min_kept}; what it starts from does not do the task, or config.rft.draw is not "
            "made for it"
        )
