"""LLM-as-a-Judge and TokenProb: a model that names the best response instead of scoring all.

Kept from the paper (appendix C.2): the recipe of RFT, with the section of RFT in the config, on
the prompt of the judge and without single responses. Changed: no hints, and no RL after it. On the
small world the imperfect demonstrator replaces the cold start, which was not trained on this prompt
and does not answer it.
"""

import dataclasses
from collections.abc import Sequence

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
from grm_jax.text.scores import last_box_start

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
    """The right ones of `each` demonstrations of every comparison."""
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
    """The lines of a kind on every suite, over its comparisons with several responses."""
    kind = config.kind
    several = {suite.name: [c for c in suite.comparisons if c.n > 1] for suite in suites}
    measured = {name: comparisons for name, comparisons in several.items() if comparisons}
    measurement = Measurement(run, measured, answer="best", k=config.k)
    sampled = measurement.draw(run, STAGE, k=config.k)
    drawn = {Method(kind): sampled}
    if kind == "llm_judge":
        greedy = measurement.draw(run, STAGE, k=None)
        drawn = {Method(kind, kind="greedy"): greedy, **drawn}
    lines = {suite.name: [] for suite in suites}
    for suite in suites:
        part = dataclasses.replace(suite, comparisons=several[suite.name])
        for method, samples in drawn.items():
            most = 1 if method.kind == "greedy" else config.k
            if part.comparisons:
                new = _lines(measurement, method, part, samples[suite.name], counting, most)
            else:  # the same lines in every suite
                new = [Line(dataclasses.replace(method, k=k)) for k in counting.ks if k <= most]
            lines[suite.name] += new
    return lines


def _lines(
    measurement: Measurement,
    method: Method,
    suite: Suite,
    drawn: Drawn,
    counting: CountingRules,
    most: int,
) -> list[Line]:
    ballots = ballots_of(suite, drawn, counting)
    facts = sample_facts(drawn.groups)
    if method.stage == "token_prob":
        scores_CSN, valid_CS = index_scores(measurement, suite.comparisons, drawn)
        ballots = ballots._replace(
            scores_CSN=np.zeros(ballots.scores_CSN.shape, np.float32),
            parsed_CS=np.zeros(ballots.parsed_CS.shape, bool),
        )
        samples = valid_CS.shape[1]
        ballots.scores_CSN[:, :samples] = scores_CSN
        ballots.parsed_CS[:, :samples] = valid_CS
        facts["unparsed"] = float(1 - valid_CS.mean())
    return tally(suite, ballots, counting, method, most=most, facts=facts)


def index_scores(
    measurement: Measurement, comparisons: Sequence[Comparison], drawn: Drawn
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the numbers in presented order, float32 [C, S, N], and bool [C, S] valid."""
    run, config = measurement.run, measurement.draw_config
    work = run.drawer(measurement.engine, config).plan(comparisons)
    # The prompts of the samples, whose texts may have been shortened.
    shown = [request.prompt for unit in work.units for request in unit.requests]
    prompts = {(prompt.uid, prompt.order): prompt.ids for prompt in shown}
    widest = max(c.n for c in comparisons)
    shape = (len(comparisons), config.k, widest)
    scores_CSN, valid_CS = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
    rows, places = [], []
    for c, group in enumerate(drawn.groups):
        for s, trajectory in enumerate(group):
            length = token_prob.opening_length(trajectory.token_ids, run.tokenizer)
            # A box in thinking alone names nothing.
            if length is not None and last_box_start(trajectory.text) is not None:
                prompt = prompts[trajectory.uid, trajectory.order]
                rows.append((*prompt, *trajectory.token_ids[:length]))
                places.append((c, s))
                valid_CS[c, s] = True
    if not rows:
        return scores_CSN, valid_CS
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
    return scores_CSN, valid_CS
