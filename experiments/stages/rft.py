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
    section = run.config.rft
    comparisons = run.comparisons("train", section.data.comparisons, seed=run.config.seed + 1)
    by_uid = {comparison.uid: comparison for comparison in comparisons}
    # General data first: its errors must not come after the cost of drawing.
    general = sft.general_examples(run, section.data.general, seed=run.config.seed + 1)
    params = run.load_cold_start()
    engine = run.engine("rft", section.buckets, server=section.engine.server())

    trajectories = drawing.draw_stage(run, stage, params, comparisons, section.draw, engine)
    if section.rules.use_hinted:
        hinted = dataclasses.replace(section.draw, k=section.rules.num_hinted)
        trajectories += drawing.draw_stage(
            run, stage, params, comparisons, hinted, engine, hinted=True
        )
    rejection = reject(trajectories, section.rules)
    lines = "".join(decision.to_json() + "\n" for decision in rejection.decisions)
    decisions = run.workdir.path("trajectories", f"{stage}_decisions.jsonl")
    write_atomically(decisions, lines.encode())
    counts = {name: count for name, count in rejection.counts.items() if count}
    compared = rejection.comparisons
    run.say(
        f"{stage}: {len(rejection.kept)} of {len(trajectories)} trajectories kept, of "
        f"{compared['used']} of {compared['total']} comparisons; "
        f"{compared['too_easy']} comparisons are too easy; {counts}"
    )
    drawing.require_kept(stage, len(rejection.kept), section.data)

    examples = drawing.kept_examples(run, rejection, by_uid, section.draw)
    sft.train(run, stage, "rft", section, params, examples + general)
