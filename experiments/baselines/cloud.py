"""CLoud: a model writes a critique of one response, and a scalar head reads it with the response.

Kept from the paper (appendix C.2): one model that writes, without rejection, another of the same
base with a value head, trained on the data of the RL stage without single responses; the reward of
a response is the mean over k critiques. Decided here: the cold start writes, in the form in which
single responses are scored 0 or 1 in training; it draws one critique of each response to train on,
with the section of RFT; the loss is Bradley-Terry on the rows with their critiques.
"""

import dataclasses
from collections.abc import Sequence

from experiments.baselines import pairs
from experiments.baselines.pairs import Pair
from experiments.measurement import Measurement
from experiments.run import Run
from experiments.sections import Baseline
from experiments.stages import drawing
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation.lines import CountingRules, Line, Suite
from grm_jax.evaluation.method import Method
from grm_jax.sampling.draw import answer_ids

KIND = "cloud"


def singles(comparison: Comparison) -> list[Comparison]:
    """Each response alone, labelled 1 if it is among the best; of a single response itself."""
    if comparison.n == 1:
        return [comparison]
    return [
        Comparison(
            uid=f"{comparison.uid}/{i}", messages=comparison.messages, responses=(response,),
            rewards=(float(i in comparison.winners),), subset=comparison.subset,
        )
        for i, response in enumerate(comparison.responses)
    ]  # fmt: skip


def _row(run: Run, comparison: Comparison, shown: int, critique: Trajectory) -> tuple[int, ...]:
    ids = pairs.row(run, comparison, (shown,))
    return (*ids, *answer_ids(critique, run.tokenizer))


def train(run: Run, config: Baseline) -> None:
    """Draws a critique of each response and trains the head on them, unless it is finished."""
    if (stage := run.begin(KIND)) is None:
        return
    own, loop = run.config.rft, config.loop
    comparisons = run.comparisons("train", loop.comparisons, seed=run.config.seed + 2)
    comparisons = [comparison for comparison in comparisons if comparison.n > 1]
    params = run.load_cold_start()
    drawn = drawing.draw_stage(
        run, stage, params, [one for c in comparisons for one in singles(c)],
        dataclasses.replace(own.draw, k=1),
        run.engine("rft", own.buckets, server=own.engine.server()),
    )  # fmt: skip
    pairs.train_on(run, config, training_pairs(run, comparisons, drawn))


def training_pairs(
    run: Run, comparisons: Sequence[Comparison], drawn: Sequence[Trajectory]
) -> list[Pair]:
    """The best response with its critique against each other one with its own.

    Responses whose prompt was too long have no critique, and no pair.
    """
    critiques = {trajectory.uid: trajectory for trajectory in drawn}
    found = []
    for c in comparisons:
        own = [critiques.get(one.uid) for one in singles(c)]
        for other in range(c.n):
            if other != c.best and own[other] is not None and own[c.best] is not None:
                better, worse = (_row(run, c, i, own[i]) for i in (c.best, other))
                found.append(Pair(better, worse, c.uid))
    return found


def measure(
    run: Run, config: Baseline, suites: Sequence[Suite], counting: CountingRules
) -> dict[str, list[Line]]:
    """The lines of greedy critiques, and of the mean over k sampled ones, on every suite."""
    alone = {s.name: [one for c in s.comparisons for one in singles(c)] for s in suites}
    # Names of their own, since these are other rows than those of the suite.
    measurement = Measurement(
        run, {f"{name}_{KIND}": own for name, own in alone.items()},
        k=config.k, binary_singles=True, order_policy="identity",
    )  # fmt: skip
    writer = "released" if run.config.cold_start is None else "cold_start"
    found: dict[str, list[Line]] = {suite.name: [] for suite in suites}
    for kind, k in (("greedy", None), ("voting", config.k)):
        drawn = measurement.draw(run, writer, k=k)
        for suite in suites:
            groups = iter(drawn[f"{suite.name}_{KIND}"].groups)
            critiques = [[next(groups) for _ in range(c.n)] for c in suite.comparisons]
            scores = _scores(run, suite.comparisons, critiques)
            found[suite.name] += pairs.real_lines(
                suite, counting, scores, Method(KIND, kind=kind), most=k or 1
            )
    return found


def _scores(
    run: Run,
    comparisons: Sequence[Comparison],
    critiques: Sequence[Sequence[Sequence[Trajectory]]],
) -> list[list[list[float]]]:
    """Rewards by comparison, sample and response; critiques by comparison, response and sample."""
    places = [
        (c, i, critique)
        for c, own in zip(comparisons, critiques, strict=True)
        for sample in zip(*own, strict=True)
        for i, critique in enumerate(sample)
    ]
    logits = iter(pairs.score(run, KIND, [_row(run, *place) for place in places]))
    return [[[next(logits) for _ in own] for _ in own[0]] for own in critiques]
