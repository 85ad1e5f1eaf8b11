"""Meta RM: predicts which trajectories are correct. Trained from the base model, it guides votes.

It learns from the non-hinted trajectories that rejective fine-tuning drew and from trajectories
of the trained GRM, wrong ones included. Comparisons whose uid hashes to one tenth are held out:
the AUC inside them, over trajectories of the trained GRM, which are the ones that vote, shows
whether guided voting can gain anything, and the checkpoint with the highest one becomes the stage.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import optax

from experiments.run import Run
from experiments.stages import drawing, heads
from grm_jax.data.comparison import Comparison
from grm_jax.data.stores import TrajectoryStore
from grm_jax.evaluation.statistics import WithinAUC, within_comparison_auc
from grm_jax.learning import meta_rm
from grm_jax.models.config import ModelConfig
from grm_jax.reward.meta import MetaRM
from grm_jax.text.chat_templates import load_tokenizer, reads_thinking


class Row(NamedTuple):
    """Input tokens of the meta RM with the label and weight of their trajectory."""

    token_ids: tuple[int, ...]
    label: float
    weight: float
    uid: str


def is_released(run: Run) -> bool:
    """Whether the meta RM is one of `config.released`."""
    return run.config.released is not None and bool(run.config.released.meta_rm)


def load(run: Run) -> MetaRM:
    """The released meta RM, or that of the finished stage.

    Raises:
      ValueError: if the stage has not been run in this workdir.
    """
    if is_released(run):
        folder = run.config.released.meta_rm
        checkpoint = run.load_released(folder, run.model.compute.param_dtype)
        thinking = run.config.template.thinking if reads_thinking(folder) else ""
        tokenizer = load_tokenizer(folder, thinking=thinking)
        model = checkpoint.config.replace(dtype=run.model.compute.dtype)
        params = {"decoder": checkpoint.params, "head": checkpoint.head}
        return MetaRM(model, tokenizer, params, released=True)
    return trained_here(run, heads.load(run, run.stage("meta_rm")))


def trained_here(run: Run, params: dict | None = None) -> MetaRM:
    """The meta RM that this run trains, perhaps without parameters yet."""
    return MetaRM(run.model, run.tokenizer, params or {}, released=False)


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
    run: Run,
    examples: Iterable[meta_rm.Example],
    by_uid: Mapping[str, Comparison],
    row_length: int,
) -> list[Row]:
    """Rows of trajectories that fit."""
    scorer = trained_here(run)
    rows = [
        Row(scorer.input_ids(run.config.template.form, by_uid[t.uid], t), label, weight, t.uid)
        for t, label, weight in examples
    ]
    return heads.fitting(run, "meta_rm", rows, lambda row: len(row.token_ids), row_length)


def _data(run: Run) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out."""
    stage, seed, section = run.stage("meta_rm"), run.config.seed, run.config.meta_rm
    loop, choices = section.loop, section.choices
    comparisons = run.comparisons("train", loop.comparisons, seed=seed + 3)
    params = run.load_params(run.stage("grpo"))
    trajectories = drawing.draw_stage(
        run, stage, params, comparisons, section.draw, run.engine("meta_rm", section.buckets)
    )
    of_rft = run.stage("rft")
    data = run.config.rft.data
    comparisons += run.comparisons("train", data.comparisons, seed=seed + 1)
    path = run.workdir.path("trajectories", f"{of_rft}.jsonl")
    with TrajectoryStore(path, read_only=True) as store:
        trajectories += store.iterate(stage=of_rft)

    by_uid = {comparison.uid: comparison for comparison in comparisons}
    chosen = meta_rm.select((t for t in trajectories if not heads.held_out(t.uid)), choices)
    # Only mixed comparisons can be counted in the AUC; samples of the GRM with scores vote.
    voting = (t for t in trajectories if t.stage == stage and t.scores is not None)
    development = meta_rm.select(
        (t for t in voting if heads.held_out(t.uid)), meta_rm.MetaRMConfig("none", only_mixed=True)
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


def run_stage(run: Run) -> None:
    """Trains the meta RM, unless it is finished."""
    if (stage := run.begin("meta_rm")) is None:
        return
    section = run.config.meta_rm
    loop = section.loop
    rows, development = _data(run)
    scorer = heads.make_scorer(
        run, run.trained_model("meta_rm"), run.tokenizer.pad_id, loop.row_length, loop.batch_size
    )

    def evaluate(params: dict) -> dict[str, float]:
        if not development:
            return {}
        logits = scorer(params, [row.token_ids for row in development])
        return {"development_auc": within_auc(development, logits).value}

    def to_batch(picked: Sequence[Row]) -> meta_rm.MetaBatch:
        return meta_rm.make_batch(
            [row.token_ids for row in picked], length=loop.row_length,
            labels=[row.label for row in picked], weights=[row.weight for row in picked],
            pad_id=run.tokenizer.pad_id,
        )  # fmt: skip

    def make_step(model: ModelConfig, optimizer: optax.GradientTransformation):
        return meta_rm.make_train_step(model, section.choices, optimizer)

    run.say(f"{stage}: {len(development)} rows held out")
    task = heads.Task(rows, make_step, to_batch, evaluate)
    heads.train(run, stage, "meta_rm", section, task)
