"""Bradley-Terry RM and PairRM: scalar heads on the base model, trained on the data of GRPO.

Kept from the paper (appendix C.2): the base model as the start, and the data of the RL stage
without single responses. Decided here: the prompt of the meta RM as the input of both, with one or
two responses; of a list the best response against each other one, all pairs with the same weight.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.run import Run
from experiments.sections import Baseline
from experiments.stages import heads
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation.ballots import from_scores
from grm_jax.evaluation.lines import CountingRules, Line, Suite, tally
from grm_jax.evaluation.method import Method
from grm_jax.learning import meta_rm, pairs
from grm_jax.text.prompts import Message, meta_rm_prompt

SECTION = "baseline"


class Pair(NamedTuple):
    """The two rows of a pair: (query, better), (query, worse), or both responses in both orders."""

    better: tuple[int, ...]
    worse: tuple[int, ...]
    uid: str


def row(run: Run, comparison: Comparison, shown: Sequence[int]) -> tuple[int, ...]:
    """Token ids of the query and of the responses `shown`; the logit is read at the last id."""
    responses = [comparison.responses[i] for i in shown]
    text = meta_rm_prompt(comparison.messages, responses, form=run.config.template.form)
    return tuple(run.tokenizer.chat([Message("user", text)]))


def _shown(kind: str, a: int, b: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return ((a,), (b,)) if kind == "bradley_terry" else ((a, b), (b, a))


def training_pairs(run: Run, kind: str, comparisons: Sequence[Comparison]) -> list[Pair]:
    """The best response of each comparison against each of the others; singles have no pair."""
    return [
        Pair(*(row(run, c, shown) for shown in _shown(kind, c.best, other)), c.uid)
        for c in comparisons if c.n > 1
        for other in range(c.n) if other != c.best
    ]  # fmt: skip


def train(run: Run, config: Baseline) -> None:
    """Trains the head, unless it is finished."""
    kind = config.kind
    if run.begin(kind) is None:
        return
    loop = config.loop
    # The seed of GRPO: equal numbers of comparisons are the same comparisons.
    comparisons = run.comparisons("train", loop.comparisons, seed=run.config.seed + 2)
    train_on(run, config, training_pairs(run, kind, comparisons))


def train_on(run: Run, config: Baseline, every: Sequence[Pair]) -> None:
    """Trains the head of a kind on the pairs that are not held out.

    Raises:
      ValueError: naming the field, for too few pairs or too many that are too long.
    """
    loop = config.loop
    every = heads.fitting(
        run, SECTION, every, lambda pair: max(len(pair.better), len(pair.worse)), loop.row_length
    )
    training = [pair for pair in every if not heads.held_out(pair.uid)]
    development = [pair for pair in every if heads.held_out(pair.uid)]
    if len(training) < loop.batch_size:
        raise ValueError(
            f"config.{SECTION}.loop.comparisons: {len(training)} pairs are left to train on, fewer "
            f"than one batch of {loop.batch_size}"
        )
    pad_id = run.tokenizer.pad_id
    # Kinds differ in the length of their rows, so rows are padded to the longest one only.
    longest = max(len(ids) for pair in every for ids in (pair.better, pair.worse))
    length = min(loop.row_length, -(-longest // 64) * 64)
    scorer = heads.make_scorer(run, run.trained_model(SECTION), pad_id, length, loop.batch_size)

    def evaluate(params: dict) -> dict[str, float]:
        if not development:
            return {}
        logits = scorer(params, [ids for pair in development for ids in (pair.better, pair.worse)])
        better, worse = np.reshape(logits, (-1, 2)).T
        return {"development_accuracy": float(np.mean(better > worse))}

    def bradley_terry_batch(picked: Sequence[Pair]) -> meta_rm.MetaBatch:
        rows = [(pair.better, pair.worse) for pair in picked]
        return pairs.make_batch(rows, length=length, pad_id=pad_id)

    def pairrm_batch(picked: Sequence[Pair]) -> meta_rm.MetaBatch:
        rows = [ids for pair in picked for ids in (pair.better, pair.worse)]
        return meta_rm.make_batch(
            rows, length=length, labels=[1.0, 0.0] * len(picked), pad_id=pad_id
        )

    def bradley_terry_step(model, optimizer) -> Callable:
        return pairs.make_train_step(model, optimizer, micro_batches=config.micro_batches)

    def pairrm_step(model, optimizer) -> Callable:
        choices = meta_rm.MetaRMConfig(balance="none", micro_batches=config.micro_batches)
        return meta_rm.make_train_step(model, choices, optimizer)

    kind = config.kind
    run.say(f"{kind}: {len(development)} pairs held out")
    make_step, to_batch = (
        (pairrm_step, pairrm_batch) if kind == "pairrm"
        else (bradley_terry_step, bradley_terry_batch)
    )  # fmt: skip
    task = heads.Task(training, make_step, to_batch, evaluate)
    heads.train(run, kind, SECTION, config, task)


def measure(
    run: Run, config: Baseline, suites: Sequence[Suite], counting: CountingRules
) -> dict[str, list[Line]]:
    """The line of a trained head on every suite."""
    return {suite.name: _measure(run, config.kind, suite, counting) for suite in suites}


def _measure(run: Run, kind: str, suite: Suite, counting: CountingRules) -> list[Line]:
    def shown(c: Comparison) -> list[tuple[int, ...]]:
        return [*itertools.permutations(range(c.n), 1 if kind == "bradley_terry" else 2)]

    rows = [row(run, c, responses) for c in suite.comparisons for responses in shown(c)]
    logits = iter(score(run, kind, rows))
    scores = []
    for c in suite.comparisons:
        if kind == "bradley_terry":
            scores.append([[next(logits) for _ in range(c.n)]])
        else:
            logits_NN = np.zeros((c.n, c.n))
            for pair in shown(c):
                logits_NN[pair] = next(logits)
            scores.append([pairs.antisymmetric_scores(logits_NN).tolist() if c.n > 1 else None])
    lines = real_lines(suite, counting, scores, Method(kind, kind="scalar"), most=1)
    if kind == "pairrm":  # it cannot score a single response
        lines = [line._replace(singles_MC=None) for line in lines]
    return lines


def score(run: Run, kind: str, rows: Sequence[Sequence[int]]) -> list[float]:
    """The logit of each row by the finished stage; [] for no rows."""
    if not rows:
        return []
    loop = run.config.baseline.loop
    length = heads.scoring_length(run, SECTION, loop.row_length, rows)
    scorer = heads.make_scorer(run, run.model, run.tokenizer.pad_id, length, loop.batch_size)
    return scorer(heads.load(run, kind), rows)


def real_lines(
    suite: Suite,
    counting: CountingRules,
    scores: Sequence[Sequence[Sequence[float] | None]],
    method: Method,
    *,
    most: int,
) -> list[Line]:
    """Lines of real scores by comparison, sample and response, see `ballots.from_scores`."""
    ballots = from_scores(
        [c.uid for c in suite.comparisons], [c.n for c in suite.comparisons], scores,
        num_samples=counting.num_samples,
    )  # fmt: skip
    return tally(suite, ballots, counting, method, most=most, facts={}, ordered=False)
