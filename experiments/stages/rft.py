"""Rejective fine-tuning: draw from the cold start or a teacher, keep by rule, then fine-tune."""

import dataclasses

from experiments.run import Run
from experiments.stages import drawing, sft
from grm_jax.files import write_atomically
from grm_jax.learning.rejection import reject


def run_stage(run: Run) -> None:
    """Rejective fine-tuning, unless it is finished."""
    if (stage := run.begin("rft")) is None:
        return
    own = run.config.rft
    comparisons = run.comparisons("train", own.data.comparisons, seed=run.config.seed + 1)
    by_uid = {comparison.uid: comparison for comparison in comparisons}
    # First, for drawing is what costs.
    general = sft.general_examples(run, own.data.general, seed=run.config.seed + 1)
    params = run.load_cold_start()
    engine = run.engine("rft", own.buckets, server=own.engine.server())

    trajectories = drawing.draw_stage(run, stage, params, comparisons, own.draw, engine)
    if own.rules.use_hinted:
        hinted = dataclasses.replace(own.draw, k=own.rules.num_hinted)
        trajectories += drawing.draw_stage(
            run, stage, params, comparisons, hinted, engine, hinted=True
        )
    rejection = reject(trajectories, own.rules)
    lines = "".join(decision.to_json() + "\n" for decision in rejection.decisions)
    decisions = run.workdir.path("trajectories", f"{stage}_decisions.jsonl")
    write_atomically(decisions, lines.encode())
    counts = {name: count for name, count in rejection.counts.items() if count}
    of = rejection.comparisons
    run.say(
        f"{stage}: {len(rejection.kept)} of {len(trajectories)} trajectories kept, of {of['used']} "
        f"of {of['total']} comparisons; {of['too_easy']} comparisons are too easy; {counts}"
    )
    drawing.require_kept(stage, len(rejection.kept), own.data)

    examples = drawing.kept_examples(run, rejection, by_uid, own.draw)
    sft.train(run, stage, "rft", own, params, examples + general)
