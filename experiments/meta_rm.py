"""Meta RM: which trajectories are correct? Trained from the base model, used by guided voting.

    python -m experiments.meta_rm --config=configs/small_world.py --workdir=DIR

It learns from the non-hinted trajectories that rejective fine-tuning drew and from trajectories
of the trained GRM, wrong ones included. Comparisons whose uid hashes to one tenth are held out:
the AUC inside them is the metric that says whether guided voting can gain anything.
"""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments import grpo as grpo_experiment
from experiments import rft, schema, settings
from experiments import run as runs
from grm_jax.data import pipeline
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory, TrajectoryStore
from grm_jax.evaluation.statistics import WithinAUC, within_comparison_auc
from grm_jax.learning import meta_rm
from grm_jax.learning.checkpoints import Checkpoints
from grm_jax.learning.state import OptimizerConfig, make_optimizer, start_state
from grm_jax.models import lora, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.parallel.sharding import fetch, put
from grm_jax.sampling import draw
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message, meta_rm_prompt
from grm_jax.text.tokenizers import Tokenizer


class Row(NamedTuple):
    """What the meta RM reads, with its label and weight."""

    token_ids: tuple[int, ...]
    label: float
    weight: float
    uid: str


class Judge(NamedTuple):
    """A meta RM and how it reads.

    Attributes:
      model: shape of its decoder.
      tokenizer: its own.
      params: as made by `grm_jax.learning.meta_rm.init`.
      released: it was not trained here, and reads the text of a trajectory, not its token ids.
    """

    model: ModelConfig
    tokenizer: Tokenizer
    params: dict
    released: bool

    def input_ids(
        self, form: str, comparison: Comparison, trajectory: Trajectory
    ) -> tuple[int, ...]:
        """Query and responses as they were shown, then the trajectory as the answer (Figure 5)."""
        shown = [comparison.responses[i] for i in trajectory.order]
        text = meta_rm_prompt(comparison.messages, shown, form=form)
        prompt = self.tokenizer.chat([Message("user", text)])
        if self.released:
            answer = self.tokenizer.encode(trajectory.text)
            return (*prompt, *answer, self.tokenizer.end_of_turn_id)
        return (*prompt, *draw.answer_ids(trajectory, self.tokenizer))


def held_out(uid: str) -> bool:
    """Whether a comparison is for development: about one in ten, by the hash of its uid."""
    return hashlib.sha256(uid.encode()).digest()[0] % 10 == 0


def is_released(run: runs.Run) -> bool:
    """Whether the meta RM is one of `config.released`."""
    return "released" in run.config and bool(run.config.released.get("meta_rm"))


def load(run: runs.Run) -> Judge:
    """The released meta RM, or that of the finished stage.

    Raises:
      ValueError: if the stage has not been run in this workdir.
    """
    if is_released(run):
        folder = run.config.released.meta_rm
        checkpoint = run.load_released(folder, run.model.param_dtype)
        tokenizer = load_tokenizer(folder)
        model = dataclasses.replace(checkpoint.config, dtype=run.model.dtype)
        params = {"decoder": checkpoint.params, "head": checkpoint.head}
        return Judge(model, tokenizer, params, released=True)
    decoder = transformer.abstract_params(run.model)
    init = functools.partial(meta_rm.init, run.model)
    shapes = jax.eval_shape(init, decoder, run.base_key)
    abstract = runs.with_shardings(shapes, _shardings(run))
    return own_judge(run, run.load_params(run.stage("meta_rm"), abstract))


def _shardings(run: runs.Run) -> dict:
    """Where the parameters of a meta RM that is trained here are."""
    return {"decoder": run.param_shardings, "head": {"kernel": run.on_every_device}}


def own_judge(run: runs.Run, params: dict | None = None) -> Judge:
    """The meta RM that is trained here, perhaps without parameters yet."""
    return Judge(run.model, run.tokenizer, params or {}, released=False)


class Scorer:
    """Logits of token sequences, in batches of one static shape."""

    def __init__(self, run: runs.Run, judge: Judge, length: int, batch_size: int):
        self._run, self._length, self.batch_size = run, length, batch_size
        self._pad_id = judge.tokenizer.pad_id
        self._score = meta_rm.make_score_fn(judge.model)

    def __call__(self, params: dict, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One logit for each sequence."""
        logits: list[float] = []
        for start in range(0, len(sequences), self.batch_size):
            piece = sequences[start : start + self.batch_size]
            batch = meta_rm.make_batch(
                piece, length=self._length, batch_size=self.batch_size,
                pad_id=self._pad_id,
            )  # fmt: skip
            batch = put(batch, self._run.split_over_devices)
            logits += fetch(self._score(params, batch))[: len(piece)].tolist()
        return logits


def within_auc(rows: Sequence[Row], logits: Sequence[float]) -> WithinAUC:
    """AUC inside the comparisons of some rows."""
    by_uid: dict[str, list[tuple[float, float]]] = {}
    for row, logit in zip(rows, logits, strict=True):
        by_uid.setdefault(row.uid, []).append((logit, row.label))
    shape = (len(by_uid), max(map(len, by_uid.values()), default=0))
    scores, correct, valid = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for c, pairs in enumerate(by_uid.values()):
        scores[c, : len(pairs)], correct[c, : len(pairs)] = zip(*pairs, strict=True)
        valid[c, : len(pairs)] = True
    return within_comparison_auc(scores, correct, valid)


def _rows(
    run: runs.Run,
    examples: Iterable[meta_rm.Example],
    by_uid: Mapping[str, Comparison],
    row_length: int,
) -> list[Row]:
    """Rows that fit; those that do not are counted, and too many of them are an error."""
    rows, too_long, judge = [], 0, own_judge(run)
    for trajectory, label, weight in examples:
        ids = judge.input_ids(run.config.template.form, by_uid[trajectory.uid], trajectory)
        if len(ids) > row_length:
            too_long += 1
        else:
            rows.append(Row(ids, label, weight, trajectory.uid))
    if too_long > 0.05 * (len(rows) + too_long):
        raise ValueError(
            f"config.meta_rm.loop.row_length: {too_long} of {len(rows) + too_long} rows exceed "
            f"{row_length} tokens"
        )
    if too_long:
        run.say(f"{run.stage('meta_rm')}: {too_long} rows too long, dropped")
    return rows


def _data(
    run: runs.Run, config: meta_rm.MetaRMConfig, loop: schema.MetaRMLoop
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out."""
    stage, seed = run.stage("meta_rm"), run.config.seed
    comparisons = run.comparisons("train", loop.comparisons, seed=seed + 3)
    params = run.load_params(run.stage("grpo"))
    trajectories = rft.draw_stage(
        run, stage, params, comparisons, run.draw_config("meta_rm"), run.engine("meta_rm"),
        digest=runs.params_digest(params),
    )
    of_rft = run.stage("rft")
    data = settings.from_section(schema.RFTData, run.config, "rft.data")
    comparisons += run.comparisons("train", data.comparisons, seed=seed + 1)
    with TrajectoryStore(
        run.path("trajectories", f"{of_rft}.jsonl"), read_only=True
    ) as store:
        trajectories += store.iterate(stage=of_rft)

    by_uid = {comparison.uid: comparison for comparison in comparisons}
    chosen = meta_rm.select(
        (t for t in trajectories if not held_out(t.uid)),
        only_mixed=config.only_mixed, balance=config.balance,
    )  # fmt: skip
    # Only mixed comparisons can be counted in the AUC.
    development = meta_rm.select(
        (t for t in trajectories if held_out(t.uid)), only_mixed=True, balance="none"
    )
    counts = {name: count for name, count in chosen.counts.items() if count}
    run.say(f"{stage}: of {len(trajectories)} trajectories {counts}")
    rows = _rows(run, chosen.examples, by_uid, loop.row_length)
    if len(rows) < loop.batch_size:
        raise ValueError(
            f"config.meta_rm.loop.comparisons: {len(rows)} rows are left to train on, fewer than "
            f"one batch of {loop.batch_size}: {chosen.counts}"
        )
    return rows, _rows(run, development.examples, by_uid, loop.row_length)


def run_stage(run: runs.Run) -> None:
    """Trains the meta RM, unless it is finished."""
    stage = run.stage("meta_rm")
    if run.has_params(stage):
        return
    config = settings.from_section(
        meta_rm.MetaRMConfig, run.config, "meta_rm", sections=schema.INNER_NAMES
    )
    loop = settings.from_section(schema.MetaRMLoop, run.config, "meta_rm.loop")
    optimizer_config = settings.from_section(OptimizerConfig, run.config, "meta_rm.optimizer")
    rows, development = _data(run, config, loop)
    batches = pipeline.shuffled_batches(rows, loop.batch_size, seed=run.config.seed)
    optimizer = make_optimizer(optimizer_config)
    model = run.trained_model("meta_rm")
    step_fn = meta_rm.make_train_step(model, config, optimizer)
    scorer = Scorer(run, own_judge(run)._replace(model=model), loop.row_length, loop.batch_size)

    frozen, trained = lora.start(
        model, run.load_start("base"), run.adapter_key(stage), run.mesh
    )
    base = {"decoder": frozen}
    places = {"decoder": jax.tree.map(lambda x: x.sharding, trained),
              "head": {"kernel": run.on_every_device}}  # fmt: skip
    init = jax.jit(functools.partial(meta_rm.init, model), out_shardings=places)
    params = init(trained, jax.random.fold_in(run.base_key, 1))
    state = start_state(params, optimizer, run.base_key)

    # Resume.
    checkpoints = Checkpoints(run.path("checkpoints", stage))
    first = 0
    if checkpoints.latest() is not None:
        state, _ = checkpoints.restore(state, data_iterator=batches)
        first = int(state.step)
    run.metrics.rewind(stage, first)

    # Train.
    steps = optimizer_config.steps
    run.say(
        f"{stage}: {len(rows)} rows, {len(development)} held out, {steps} steps of "
        f"{loop.batch_size} x {loop.row_length} tokens" + (f", from {first}" if first else "")
    )
    note = ""
    with run.progress(stage, steps, first) as advance:
        for step in range(first, steps):
            began = time.monotonic()
            picked = next(batches)
            batch = meta_rm.make_batch(
                [row.token_ids for row in picked], length=loop.row_length,
                labels=[row.label for row in picked], weights=[row.weight for row in picked],
                pad_id=run.tokenizer.pad_id,
            )  # fmt: skip
            state, metrics = step_fn(state, base, put(batch, run.split_over_devices))
            at_checkpoint = (step + 1) % loop.checkpoint_every == 0 or step + 1 == steps
            if at_checkpoint or step % 10 == 0:
                metrics = jax.device_get(metrics)
                seconds = time.monotonic() - began
                note = f"loss {metrics['loss']:.3f}"
            if at_checkpoint and development:
                params = lora.join(base, state.params)
                logits = scorer(params, [row.token_ids for row in development])
                metrics |= {"development_auc": within_auc(development, logits).value}
                note += f"  held-out AUC {metrics['development_auc']:.3f}"
            if at_checkpoint or step % 10 == 0:
                tokens = sum(len(row.token_ids) for row in picked)
                run.metrics.write(stage, step, metrics, {"tokens_per_second": tokens / seconds})
            stopping = run.stopping
            if at_checkpoint or stopping:
                checkpoints.save(step + 1, state, {}, batches)
            advance(note=note)
            if stopping:
                checkpoints.close()
                run.stop(f"step {step + 1} of {stage}")
    checkpoints.close()
    run.save_params(stage, meta_rm.finished(model, lora.join(base, state.params)), reward=True)


def main(run: runs.Run) -> None:
    """The meta RM and the stages it starts from."""
    grpo_experiment.main(run)
    run_stage(run)


if __name__ == "__main__":
    runs.main(main)
