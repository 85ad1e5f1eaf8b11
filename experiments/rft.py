"""Rejective fine-tuning: draw from the cold start or a teacher, keep by rule, fine-tune the former.

    python -m experiments.rft --config=configs/small_world.py --workdir=DIR
"""

from experiments import run as runs
from experiments import sections, sft
from grm_jax.data.comparison import Comparison
from grm_jax.data.pipeline import Example
from grm_jax.data.trajectory import Trajectory, TrajectoryStore
from grm_jax.files import write_atomically
from grm_jax.learning.rejection import Rejection, reject
from grm_jax.sampling import draw
from grm_jax.sampling.engine import Engine
from grm_jax.sampling.remote import RemoteEngine


def draw_stage(
    run: runs.Run,
    stage: str,
    params: dict | None,
    comparisons: list[Comparison],
    config: draw.DrawConfig,
    engine: Engine,
    *,
    digest: str,
    hinted: bool = False,
) -> list[Trajectory]:
    """Draws k trajectories of each comparison into trajectories/<stage>.jsonl, with a bar.

    A remote engine has its own parameters: then `params` are not used, nor is their digest.
    """
    if isinstance(engine, RemoteEngine):
        params, digest = None, engine.digest
    else:
        params = run.for_rollout(params)
    fingerprint = run.fingerprint(digest, config, (config, engine.buckets, *comparisons))
    if unbalanced := config.unbalanced(comparisons):
        run.say(f"{stage}: {unbalanced}")
    with TrajectoryStore(run.path("trajectories", f"{stage}.jsonl")) as store:
        title = f"{stage}: hinted" if hinted else f"{stage}: drawing"

        def on_unit(samples: int, drawn: list[Trajectory]) -> None:
            advance(samples)
            if drawn and run.stopping:
                run.stop(f"the last unit of {stage}")

        with run.progress(title, len(comparisons) * config.k) as advance:
            work = draw.draw(
                engine, params, comparisons, config, run.tokenizer, store,
                base_key=run.base_key, seed=run.config.seed, fingerprint=fingerprint,
                stage=stage, hinted=hinted,
                on_unit=on_unit,
            )  # fmt: skip
        if work.dropped or work.truncated:
            run.say(
                f"{stage}: {len(work.dropped)} dropped, {len(work.truncated)} shortened, "
                f"{len(work.alike)} of them until a best response is equal to another"
            )
        name = f"{stage}/hinted" if hinted else stage
        return list(store.iterate(fingerprint=fingerprint, stage=name))


def kept_examples(
    run: runs.Run, rejection: Rejection, by_uid: dict[str, Comparison], config: draw.DrawConfig
) -> list[Example]:
    """Kept trajectories under the prompt without the hint, in the order they were drawn in."""
    examples = []
    for trajectory in rejection.kept:
        prompt = draw.prompt_ids(by_uid[trajectory.uid], trajectory.order, config, run.tokenizer)
        answer = draw.answer_ids(trajectory, run.tokenizer)
        examples.append(Example(prompt + answer, len(prompt)))
    return examples


def require_kept(stage: str, kept: int, data: sections.RFTData) -> None:
    """Raises ValueError where a stage has too little of its own to learn from."""
    if kept < data.min_kept:
        raise ValueError(
            f"stage {stage}: {kept} trajectories are kept, and config.rft.data.min_kept is "
            f"{data.min_kept}; what it starts from does not do the task, or config.rft.draw is not "
            "made for it"
        )


def run_stage(run: runs.Run) -> None:
    """Rejective fine-tuning, unless it is finished."""
    stage = run.stage("rft")
    if run.has_params(stage):
        return
    run.begin("rft")
    own = run.config.rft
    data, rules = own.data, own.rules
    comparisons = run.comparisons("train", data.comparisons, seed=run.config.seed + 1)
    by_uid = {comparison.uid: comparison for comparison in comparisons}
    # First, for drawing is what costs.
    general = sft.general_examples(run, data.general, seed=run.config.seed + 1)
    params = run.load_start("cold_start")
    digest = runs.params_digest(params)
    engine = run.engine("rft", own.buckets, server=own.engine.server())

    config = run.draw_config(own.draw)
    trajectories = draw_stage(run, stage, params, comparisons, config, engine, digest=digest)
    if rules.use_hinted:
        hinted = run.draw_config(own.draw, k=rules.num_hinted)
        trajectories += draw_stage(
            run, stage, params, comparisons, hinted, engine, digest=digest, hinted=True
        )
    rejection = reject(trajectories, rules)
    lines = "".join(decision.to_json() + "\n" for decision in rejection.decisions)
    write_atomically(run.path("trajectories", f"{stage}_decisions.jsonl"), lines.encode())
    counts = {name: count for name, count in rejection.counts.items() if count}
    of = rejection.comparisons
    run.say(
        f"{stage}: {len(rejection.kept)} of {len(trajectories)} trajectories kept, of {of['used']} "
        f"of {of['total']} comparisons; {of['too_easy']} comparisons are too easy; {counts}"
    )
    require_kept(stage, len(rejection.kept), data)

    examples = kept_examples(run, rejection, by_uid, config)
    sft.train(run, stage, "rft", own, params, examples + general)


if __name__ == "__main__":
    runs.main(run_stage)
