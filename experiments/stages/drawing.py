"""Drawing the trajectories of a stage, and those of them that become examples."""

import hashlib
from collections.abc import Iterable, Mapping

from experiments.run import Run
from experiments.sections import RFTData
from grm_jax.data.comparison import Comparison
from grm_jax.data.pipeline import Example
from grm_jax.data.stores import TrajectoryStore
from grm_jax.data.trajectory import Trajectory
from grm_jax.learning.checkpoints import params_digest
from grm_jax.learning.rejection import Rejection
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.draw import Origin, answer_ids
from grm_jax.sampling.engine import Engine
from grm_jax.sampling.prompt import make_prompt
from grm_jax.sampling.remote import RemoteEngine
from grm_jax.text import prompts


def fingerprint(run: Run, digest: str, config: DrawConfig, work: Iterable = ()) -> str:
    """Names what decides a trajectory: parameters, template, tokenizer, sampling.

    `digest` is that of the parameters. Work units count by their place in a work list, so what
    decides the list, such as the buckets and the comparisons, goes into `work` where it may change
    between two runs.
    """
    parts = [
        digest, prompts.template_fingerprint(), run.tokenizer.fingerprint(),
        config.form, config.principles, repr(config.temperature), repr(config.top_p),
        # Before it meant cyclic shifts, "balanced" had other orders; they are never mixed.
        config.order_policy.replace("balanced", "cyclic"), str(config.max_orders),
        str(run.config.seed),
        *map(repr, work),
    ]  # fmt: skip
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


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
      params: of a decoder. A remote engine has its own, and these are not used.
      comparisons: what is judged.
      config: how, and how often.
      engine: what draws.
      hinted: whether prompts name the right answer.

    Returns:
      The trajectories in the order of the log, also those that were drawn before.

    Raises:
      Stopped: the run was asked to stop, and the last work unit is on disk.
    """
    if isinstance(engine, RemoteEngine):
        params, digest = None, engine.digest
    else:
        digest = params_digest(params)
        params = run.for_rollout(params)
    own = fingerprint(run, digest, config, (config, engine.buckets, *comparisons))
    if unbalanced := config.unbalanced(comparisons):
        run.say(f"{stage}: {unbalanced}")

    def on_unit(samples: int, drawn: list[Trajectory]) -> None:
        advance(samples)
        if drawn and run.stopping:
            run.stop(f"the last unit of {stage}")

    origin = Origin(own, f"{stage}/hinted" if hinted else stage, hinted=hinted)
    title = f"{stage}: hinted" if hinted else f"{stage}: drawing"
    with (
        TrajectoryStore(run.workdir.path("trajectories", f"{stage}.jsonl")) as store,
        run.progress(title, len(comparisons) * config.k) as advance,
    ):
        work = run.drawer(engine, config).draw(params, comparisons, store, origin, on_unit=on_unit)
        trajectories = list(store.iterate(fingerprint=own, stage=origin.stage))
    if work.dropped or work.truncated:
        run.say(
            f"{stage}: {len(work.dropped)} dropped, {len(work.truncated)} shortened, "
            f"{len(work.alike)} of them until a best response is equal to another"
        )
    return trajectories


def kept_examples(
    run: Run, rejection: Rejection, by_uid: Mapping[str, Comparison], config: DrawConfig
) -> list[Example]:
    """Kept trajectories under the prompt without the hint, in the order they were drawn in."""
    examples = []
    for trajectory in rejection.kept:
        comparison = by_uid[trajectory.uid]
        prompt = make_prompt(comparison, trajectory.order, config, run.tokenizer).ids
        answer = answer_ids(trajectory, run.tokenizer)
        examples.append(Example(prompt + answer, len(prompt)))
    return examples


def require_kept(stage: str, kept: int, data: RFTData) -> None:
    """Raises ValueError where a stage has too little of its own to learn from."""
    if kept < data.min_kept:
        raise ValueError(
            f"stage {stage}: {kept} trajectories are kept, and config.rft.data.min_kept is "
            f"{data.min_kept}; what it starts from does not do the task, or config.rft.draw is not "
            "made for it"
        )
