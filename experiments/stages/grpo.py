"""Rule-based online RL: GRPO from the RFT model, with the RFT model as reference policy.

One iteration is two jitted programs, rollout and update; between them the host decodes and scores
text. A checkpoint holds the train state, the position in the data, and the size of the log, so a
killed run that is started again ends bitwise equal to an uninterrupted one.
"""

import pathlib
import time

import jax

from experiments.run import Run
from experiments.sections import TRAINED_STAGES, GRPOLoop
from experiments.stages import drawing, training
from grm_jax.data import pipeline
from grm_jax.data.comparison import Comparison
from grm_jax.data.stores import TrajectoryStore, UnitHeader
from grm_jax.learning import grpo, rejection, rollouts
from grm_jax.learning.checkpoints import params_digest
from grm_jax.learning.rewards import REWARDS
from grm_jax.learning.state import TrainState, make_optimizer, start_state
from grm_jax.models import lora, transformer
from grm_jax.parallel.sharding import put, reshard
from grm_jax.sampling.draw import Origin, WorkList

_SUMMARY = (
    "reward {reward_mean:+.2f}, no signal {zero_signal_share:.0%}, kl {kl:.3f}, "
    "entropy {entropy:.2f}, ratio {ratio_p01:.2f} to {ratio_p99:.2f}, "
    "log-prob gap {logprob_gap_max:.0e}, cut {truncation_share:.0%}, "
    "unparsed {parse_failure_share:.0%}, {tokens_per_second:.0f} tokens/s"
)
_PLANNED_FIRST = 2000  # comparisons from which the share of prompts that are too long is judged


def without_easy(run: Run, comparisons: list[Comparison], loop: GRPOLoop) -> list[Comparison]:
    """The comparisons that the trajectories of `loop.easy_for` do not get right every time.

    Raises:
      ValueError: no such trajectories, of several models, or of none of these comparisons.
    """
    name = loop.easy_for
    path = run.workdir.path("trajectories", f"{run.stage(name)}.jsonl")
    if name not in TRAINED_STAGES:
        path = pathlib.Path(name).expanduser()
    uids = {comparison.uid for comparison in comparisons}
    try:
        with TrajectoryStore(path, read_only=True) as store:
            trajectories = (t for t in store.iterate() if t.uid in uids)
            easy, judged = rejection.easy_comparisons(trajectories, loop.easy_samples)
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


def run_stage(run: Run) -> None:
    """GRPO, unless it is finished."""
    if (stage := run.begin("grpo")) is None:
        return
    section, seed = run.config.grpo, run.config.seed
    config, loop = section.objective, section.loop
    model = run.trained_model("grpo")
    engine = run.engine("grpo", section.buckets, adapters=model.lora)
    comparisons = run.comparisons("train", loop.comparisons, seed=seed + 2)
    if loop.easy_for:
        comparisons = without_easy(run, comparisons, loop)
    batches = pipeline.shuffled_batches(comparisons, loop.prompts_per_step, seed=seed)

    # Reference, state, log.
    from_rft = loop.start == "rft"
    reference = run.load_params(run.stage("rft")) if from_rft else run.load_cold_start()
    fingerprint = drawing.fingerprint(run, params_digest(reference), section.draw)
    optimizer = make_optimizer(section.optimizer)
    update = grpo.make_update_step(model, config, optimizer, section.draw.temperature)
    # With adapters, the reference is also the base of the policy.
    base, trained = lora.start(model, reference, run.adapter_key(stage), run.mesh)
    state = start_state(trained, optimizer, run.base_key)
    if not base:
        del trained  # the same arrays
        reference = reshard(reference, run.param_shardings, transformer.frozen_dtypes(model))
    store = TrajectoryStore(run.workdir.path("trajectories", f"{stage}.jsonl"))
    drawer = run.drawer(engine, section.draw).judged_once(comparisons[:_PLANNED_FIRST])

    def rollout(number: int, params: dict) -> tuple[WorkList, list[rollouts.Rollout]]:
        """Draws a group of each prompt and rewards it; the work and its rollouts."""
        work = drawer.plan_next(batches, step=number)
        params = run.for_rollout(params, model.lora)
        groups: dict[str, list[tuple]] = {}  # by uid: the ids of the prompt, and the trajectory
        for unit, completions, trajectories in drawer.units(
            params, work, Origin(fingerprint, stage, number)
        ):
            store.append_unit(UnitHeader(fingerprint, stage, number, unit.index), trajectories)
            for completion, trajectory in zip(completions, trajectories, strict=True):
                groups.setdefault(trajectory.uid, []).append((completion.prompt.ids, trajectory))
        rows = []
        for uid, group in groups.items():
            prompts, trajectories = zip(*group, strict=True)
            rewards = REWARDS[config.reward](work.comparisons[uid], trajectories)
            rows += map(rollouts.rollout, prompts, trajectories, rewards)
        return work, rows

    def step(number: int, state: TrainState) -> training.Stepped:
        began = time.monotonic()
        work, rows = rollout(number, lora.join(base, state.params))
        tokens = sum(len(row.completion_ids) for row in rows)
        drawn = time.monotonic()
        batch = rollouts.make_batch(
            rows,
            group_size=config.group_size,
            length=engine.buckets.prompt_lengths[-1] + engine.buckets.output_lengths[-1],
            completion_length=engine.buckets.output_lengths[-1],
            num_groups=loop.prompts_per_step,
            pad_id=run.tokenizer.pad_id,
        )
        batch = put(batch, run.split_over_devices)
        for _ in range(config.inner_epochs):
            state, metrics = update(state, reference, batch)
        jax.block_until_ready(metrics)  # the next rollout needs them, and the times are separate
        counts = {"dropped": work.dropped, "truncated": work.shortened, "alike": work.alike}
        return training.Stepped(
            state, {**metrics, **{name: len(uids) for name, uids in counts.items()}}, tokens,
            {"rollout_seconds": drawn - began, "update_seconds": time.monotonic() - drawn,
             "tokens_per_second": tokens / (drawn - began)},
        )  # fmt: skip

    steps = section.optimizer.steps // config.inner_epochs
    state = training.train(run, stage, state, batches, training.Loop(
        step, steps, loop.checkpoint_every,
        f"{steps} iterations of {loop.prompts_per_step} prompts x {config.group_size} trajectories",
        note="reward {reward_mean:+.2f}", summary=_SUMMARY, log_every=1, log=store,
    ))  # fmt: skip
    store.close()
    run.save_params(stage, lora.merge(model, lora.join(base, state.params)))
