"""LLM-as-a-Judge and TokenProb: a model that names the best response, instead of scoring all.

Kept from the paper (appendix C.2): the recipe of RFT, with the section of RFT in the config, on
the prompt of the judge and without single responses. Changed: no hints, and no RL after it. On the
small world the imperfect demonstrator takes the place of the cold start, which was never shown
this prompt and does not answer it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from experiments.measurement import Measurement
from experiments.run import Run
from experiments.sections import Baseline
from experiments.stages import drawing, sft
from grm_jax.data.comparison import Comparison
from grm_jax.data.pipeline import Example
from grm_jax.evaluation import token_prob
from grm_jax.evaluation.lines import (
    CountingRules,
    Drawn,
    Line,
    Suite,
    ballots_of,
    sample_facts,
    tally,
)
from grm_jax.evaluation.method import Method
from grm_jax.learning import meta_rm
from grm_jax.learning.rejection import reject
from grm_jax.parallel.sharding import fetch, put
from grm_jax.text.prompts import Message, judge_prompt

STAGE = "llm_judge"


def train(run: Run, _: Baseline) -> None:
    """Rejective fine-tuning on the prompt of the judge, unless it is finished."""
    if (stage := run.begin(STAGE)) is None:
        return
    section = run.config.rft
    data, rules = section.data, section.rules
    comparisons = run.comparisons("train", data.comparisons, seed=run.config.seed + 1)
    comparisons = [comparison for comparison in comparisons if comparison.n > 1]
    params = run.load_cold_start()
    if run.world is not None:
        examples = right_demonstrations(run, comparisons, rules.num_samples)
    else:
        config = dataclasses.replace(section.draw, answer="best")
        trajectories = drawing.draw_stage(
            run, stage, params, comparisons, config,
            run.engine("rft", section.buckets, server=section.engine.server()),
        )  # fmt: skip
        rejection = reject(trajectories, rules)
        by_uid = {comparison.uid: comparison for comparison in comparisons}
        examples = drawing.kept_examples(run, rejection, by_uid, config)
    run.say(f"{stage}: {len(examples)} right answers kept")
    drawing.require_kept(stage, len(examples), data)
    examples += sft.general_examples(run, data.general, seed=run.config.seed + 1)
    sft.train(run, stage, "rft", section, params, examples)


def right_demonstrations(run: Run, comparisons: Sequence[Comparison], each: int) -> list[Example]:
    """Of `each` demonstrations a comparison those that end at the best response."""
    examples = []
    for index, comparison in enumerate(comparisons):
        for sample in range(each):
            rng = np.random.default_rng((run.config.seed + 1, index, sample))
            shown = comparison.in_order(rng.permutation(comparison.n))
            answer, best = run.world.choice(shown, rng)
            if best == shown.best:
                text = judge_prompt(shown.messages, shown.responses, form=run.config.template.form)
                examples.append(sft.example(run, [Message("user", text)], answer))
    return examples


def measure(
    run: Run, config: Baseline, suites: Sequence[Suite], counting: CountingRules
) -> dict[str, list[Line]]:
    """The lines of a kind on every suite, of the comparisons with something to choose from."""
    kind = config.kind
    pairs_and_lists = {suite.name: [c for c in suite.comparisons if c.n > 1] for suite in suites}
    some = {name: own for name, own in pairs_and_lists.items() if own}
    measurement = Measurement(run, some, answer="best", k=config.k)
    sampled = measurement.draw(run, STAGE, k=config.k)
    drawn = {Method(kind): sampled}
    if kind == "llm_judge":
        greedy = measurement.draw(run, STAGE, k=None)
        drawn = {Method(kind, kind="greedy"): greedy, **drawn}
    found = {}
    for suite in suites:
        own = pairs_and_lists[suite.name]
        found[suite.name] = [
            line for method, one in drawn.items()
            for line in _lines(run, measurement, method, suite, own, one, counting)
        ]  # fmt: skip
    return found


def _lines(
    run: Run,
    measurement: Measurement,
    method: Method,
    suite: Suite,
    own: Sequence[Comparison],
    drawn: Mapping[str, Drawn],
    counting: CountingRules,
) -> list[Line]:
    most = 1 if method.kind == "greedy" else measurement.draw_config.k
    if not own:  # the same lines in every suite
        return [Line(dataclasses.replace(method, k=k)) for k in counting.ks if k <= most]
    part = dataclasses.replace(suite, comparisons=own)
    one = drawn[suite.name]
    ballots = ballots_of(part, one, counting)
    facts = sample_facts(one.groups)
    if method.stage == "token_prob":
        scores_CSN, told_CS = index_scores(run, measurement, own, one)
        ballots = ballots._replace(
            scores_CSN=np.zeros(ballots.scores_CSN.shape, np.float32),
            parsed_CS=np.zeros(ballots.parsed_CS.shape, bool),
        )
        samples = told_CS.shape[1]
        ballots.scores_CSN[:, :samples] = scores_CSN
        ballots.parsed_CS[:, :samples] = told_CS
        facts["unparsed"] = float(1 - told_CS.mean())
    return tally(part, ballots, counting, method, most=most, facts=facts)


def index_scores(
    run: Run,
    measurement: Measurement,
    comparisons: Sequence[Comparison],
    drawn: Drawn,
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 [C, S, N] of each number in presented order, and bool [C, S] told."""
    config = measurement.draw_config
    work = run.drawer(measurement.engine, config).plan(comparisons)
    # As they were shown: texts may have been shortened.
    shown = [request.prompt for unit in work.units for request in unit.requests]
    prompts = {(prompt.uid, prompt.order): prompt.ids for prompt in shown}
    widest = max(c.n for c in comparisons)
    shape = (len(comparisons), config.k, widest)
    scores_CSN, told_CS = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
    rows, places = [], []
    for c, own in enumerate(drawn.groups):
        for s, trajectory in enumerate(own):
            length = token_prob.opening_length(trajectory.token_ids, run.tokenizer)
            if length is not None:
                prompt = prompts[trajectory.uid, trajectory.order]
                rows.append((*prompt, *trajectory.token_ids[:length]))
                places.append((c, s))
                told_CS[c, s] = True
    if not rows:
        return scores_CSN, told_CS
    ids_I = jnp.asarray(token_prob.index_ids(run.tokenizer, widest))
    index_fn = token_prob.make_index_fn(run.model)
    params = run.load_params(run.stage(STAGE))
    length = -(-max(map(len, rows)) // 64) * 64
    size = run.config.baseline.loop.batch_size
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        batch = meta_rm.make_batch(
            piece, length=length, batch_size=size, pad_id=run.tokenizer.pad_id
        )
        probs_BI = fetch(index_fn(params, put(batch, run.split_over_devices), ids_I))
        for (c, s), probs_I in zip(places[start : start + size], probs_BI, strict=False):
            scores_CSN[c, s] = probs_I
    return scores_CSN, told_CS
