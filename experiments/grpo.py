"""Rule-based online RL: GRPO from the RFT model, with the RFT model as reference policy.

    python -m experiments.grpo --config=configs/small_world.py --workdir=DIR

Stages that GRPO starts from are run first if the workdir lacks them. One iteration is two jitted
programs, rollout and update; between them the host decodes and scores text. A checkpoint holds the
train state, the position in the data, and the size of the log; a killed run that is started again
ends bitwise where an unbroken one does.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator

import jax

from experiments import rft, sections, sft
from experiments import run as runs
from grm_jax.data import pipeline
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import TrajectoryStore, UnitHeader
from grm_jax.learning import grpo, rejection
from grm_jax.learning.checkpoints import Checkpoints
from grm_jax.learning.state import make_optimizer, start_state
from grm_jax.models import lora, transformer
from grm_jax.parallel.sharding import put, reshard
from grm_jax.sampling import draw

_JUDGED_BY = 2000  # comparisons that say how many prompts of the stage are too long


def without_easy(
    run: runs.Run, comparisons: list[Comparison], loop: sections.GRPOLoop
) -> list[Comparison]:
    """The comparisons that the trajectories of `loop.easy_for` do not get right every time.

    Raises:
      ValueError: no such trajectories, of several models, or of none of these comparisons.
    """
    name = loop.easy_for
    path = run.path("trajectories", f"{run.stage(name)}.jsonl")
    if name not in sections.TRAINED_STAGES:
        path = pathlib.Path(name).expanduser()
    uids = {comparison.uid for comparison in comparisons}
    try:
        with TrajectoryStore(path, read_only=True) as store:
            own = (t for t in store.iterate() if t.uid in uids)
            easy, judged = rejection.easy_comparisons(own, loop.easy_samples)
        if not judged:
            raise ValueError(
                f"{path}: no {loop.easy_samples} trajectories of any of {len(uids)} comparisons"
            )
    except ValueError as error:
        raise ValueError(f"config.grpo.loop.easy_for: {error}") from error
    kept = [comparison for comparison in comparisons if comparison.uid not in easy]
    run.say(
        f"{run.stage('grpo')}: {len(easy)} of {judged} comparisons that {name} judged are too "
        f"easy; {len(kept)} of {len(comparisons)} are left"
    )
    return kept


def next_work(batches: Iterator[list[Comparison]], *args, **kwargs) -> draw.WorkList:
    """The plan of the next batch that has a prompt which is not too long; see `draw.plan`.

    Its `dropped` begins with the comparisons of the batches before, which have none.
    """
    dropped: tuple[str, ...] = ()
    while True:
        batch = next(batches)
        try:
            work = draw.plan(batch, *args, **kwargs)
        except draw.TooLong:
            dropped += tuple(comparison.uid for comparison in batch)
            continue
        return dataclasses.replace(work, dropped=dropped + work.dropped)


def run_stage(run: runs.Run) -> None:
    """GRPO, unless it is finished."""
    stage = run.stage("grpo")
    if run.has_params(stage):
        return
    run.begin("grpo")
    own = run.config.grpo
    config, loop, optimizer_config = own.objective, own.loop, own.optimizer
    draw_config = run.draw_config(own.draw)
    model = run.trained_model("grpo")
    engine = run.engine("grpo", own.buckets, adapters=model.lora)
    comparisons = run.comparisons("train", loop.comparisons, seed=run.config.seed + 2)
    if loop.easy_for:
        comparisons = without_easy(run, comparisons, loop)
    batches = pipeline.shuffled_batches(comparisons, loop.prompts_per_step, seed=run.config.seed)
    by_uid = {comparison.uid: comparison for comparison in comparisons}

    # State, data, reference.
    if loop.start == "cold_start":
        reference = run.load_start("cold_start")
    else:
        reference = run.load_params(run.stage("rft"))
    fingerprint = run.fingerprint(runs.params_digest(reference), draw_config)
    optimizer = make_optimizer(optimizer_config)
    update = grpo.make_update_step(model, config, optimizer, draw_config.temperature)
    # With adapters, the reference is also the base of the policy.
    base, trained = lora.start(model, reference, run.adapter_key(stage), run.mesh)
    state = start_state(trained, optimizer, run.base_key)
    if not base:
        del trained  # the same arrays
        reference = reshard(reference, run.param_shardings, transformer.frozen_dtypes(model))
    store = TrajectoryStore(run.path("trajectories", f"{stage}.jsonl"))

    # Resume: logs are cut back to what the checkpoint knew.
    checkpoints = Checkpoints(run.path("checkpoints", stage), run=run.digest)
    first = 0
    if checkpoints.latest() is not None:
        state, meta = checkpoints.restore(state, data_iterator=batches)
        store.truncate(meta["store_offset"])
        first = checkpoints.latest()
    else:
        store.truncate(0)
    run.metrics.rewind(stage, first)

    draw_config = draw.judged_once(
        comparisons[:_JUDGED_BY], draw_config, run.tokenizer, engine, seed=run.config.seed
    )
    steps = optimizer_config.steps // config.inner_epochs
    run.say(
        f"{stage}: {steps} iterations of {loop.prompts_per_step} prompts x {config.group_size} "
        f"trajectories" + (f", from {first}" if first else "")
    )
    with run.progress(stage, steps, first) as advance:
        for step in range(first, steps):
            began = time.monotonic()

            # Rollout, and scoring of its text.
            work = next_work(
                batches, draw_config, run.tokenizer, engine, seed=run.config.seed, step=step
            )
            groups: dict[str, list[grpo.Rollout]] = {}
            tokens = 0
            for unit, completions, trajectories in draw.draw_units(
                engine, run.for_rollout(lora.join(base, state.params), model.lora), work, by_uid,
                draw_config, run.tokenizer,
                base_key=run.base_key, fingerprint=fingerprint, stage=stage, step=step,
            ):  # fmt: skip
                store.append_unit(UnitHeader(fingerprint, stage, step, unit.index), trajectories)
                for completion, trajectory in zip(completions, trajectories, strict=True):
                    groups.setdefault(trajectory.uid, []).append(
                        grpo.rollout(completion.prompt_ids, trajectory)
                    )
                    tokens += len(completion.token_ids)
            drawn = time.monotonic()

            # Update.
            batch = grpo.make_batch(
                [row for group in groups.values() for row in group],
                group_size=config.group_size,
                length=engine.buckets.prompt_lengths[-1] + engine.buckets.output_lengths[-1],
                completion_length=engine.buckets.output_lengths[-1],
                num_groups=loop.prompts_per_step,
                pad_id=run.tokenizer.pad_id,
            )
            batch = put(batch, run.split_over_devices)
            for _ in range(config.inner_epochs):
                state, metrics = update(state, reference, batch)
            metrics = jax.device_get(metrics)
            ended = time.monotonic()
            run.metrics.write(
                stage, step,
                {**metrics, "dropped": len(work.dropped), "truncated": len(work.truncated),
                 "alike": len(work.alike)},
                {"rollout_seconds": drawn - began, "update_seconds": ended - drawn,
                 "tokens_per_second": tokens / (drawn - began)},
            )  # fmt: skip

            stopping = run.stopping
            if (step + 1) % loop.checkpoint_every == 0 or step + 1 == steps or stopping:
                checkpoints.save(step + 1, state, {"store_offset": store.offset}, batches)
                run.say(
                    f"{stage} {step + 1}: reward {metrics['reward_mean']:+.2f}, "
                    f"no signal {metrics['zero_signal_share']:.0%}, kl {metrics['kl']:.3f}, "
                    f"entropy {metrics['entropy']:.2f}, "
                    f"ratio {metrics['ratio_p01']:.2f} to {metrics['ratio_p99']:.2f}, "
                    f"log-prob gap {metrics['logprob_gap_max']:.0e}, "
                    f"cut {metrics['truncation_share']:.0%}, "
                    f"unparsed {metrics['parse_failure_share']:.0%}, "
                    f"{tokens / (drawn - began):.0f} tokens/s"
                )
            advance(note=f"reward {metrics['reward_mean']:+.2f}")
            if stopping:
                checkpoints.close()
                run.stop(f"step {step + 1} of {stage}")
    checkpoints.close()
    store.close()
    run.save_params(stage, lora.merge(model, lora.join(base, state.params)))


def main(run: runs.Run) -> None:
    """GRPO and the stages it starts from."""
    sft.main(run)
    rft.run_stage(run)
    run_stage(run)


if __name__ == "__main__":
    runs.main(main)
