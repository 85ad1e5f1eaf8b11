"""CLoud: a model writes a critique of one response, and a scalar head reads it with the response.

Kept from the paper (appendix C.2): one model writes, without rejection, and another of the same
base has a value head, trained on the data of the RL stage without single responses; the reward of a
response is the mean over k critiques. Decided here: the cold start writes, with the prompt for
single responses; it draws one critique of each training response, with section `rft`; the loss is
Bradley-Terry on the rows with their critiques.
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
    """A comparison for each response alone, labelled 1 if it is among the best."""
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
    rft = run.config.rft
    comparisons = run.comparisons("train", config.loop.comparisons, seed=run.config.seed + 2)
    comparisons = [comparison for comparison in comparisons if comparison.n > 1]
    params = run.load_cold_start()
    drawn = drawing.draw_stage(
        run, stage, params, [single for c in comparisons for single in singles(c)],
        dataclasses.replace(rft.draw, k=1),
        run.engine("rft", rft.buckets, server=rft.engine.server()),
    )  # fmt: skip
    pairs.train_on(run, config, training_pairs(run, comparisons, drawn))


def training_pairs(
    run: Run, comparisons: Sequence[Comparison], drawn: Sequence[Trajectory]
) -> list[Pair]:
    """Pairs of the best response and each other one, with their critiques.

    Responses whose prompt was too long have no critique, and no pair.
    """
    critiques = {trajectory.uid: trajectory for trajectory in drawn}
    drawn_pairs = []
    for c in comparisons:
        written = [critiques.get(single.uid) for single in singles(c)]
        for other in range(c.n):
            if other != c.best and written[other] is not None and written[c.best] is not None:
                better, worse = (_row(run, c, i, written[i]) for i in (c.best, other))
                drawn_pairs.append(Pair(better, worse, c.uid))
    return drawn_pairs


def measure(
    run: Run, config: Baseline, suites: Sequence[Suite], counting: CountingRules
) -> dict[str, list[Line]]:
    """The lines of greedy critiques, and of the mean over k sampled ones, on every suite."""
    # Named apart from the suites, whose rows are others.
    alone = {
        f"{suite.name}_{KIND}": [single for c in suite.comparisons for single in singles(c)]
        for suite in suites
    }
    measurement = Measurement(
        run, alone, k=config.k, binary_singles=True, order_policy="identity",
    )  # fmt: skip
    writer = "released" if run.config.cold_start is None else "cold_start"
    lines: dict[str, list[Line]] = {suite.name: [] for suite in suites}
    for kind, k in (("greedy", None), ("voting", config.k)):
        drawn = measurement.draw(run, writer, k=k)
        for suite in suites:
            groups = iter(drawn[f"{suite.name}_{KIND}"].groups)
            critiques = [[next(groups) for _ in range(c.n)] for c in suite.comparisons]
            scores = _scores(run, suite.comparisons, critiques)
            lines[suite.name] += pairs.real_lines(
                suite, counting, scores, Method(KIND, kind=kind), most=k or 1
            )
    return lines


def _scores(
    run: Run,
    comparisons: Sequence[Comparison],
    critiques: Sequence[Sequence[Sequence[Trajectory]]],
) -> list[list[list[float]]]:
    """Rewards by comparison, sample and response; critiques by comparison, response and sample."""
    places = [
        (c, i, critique)
        for c, by_response in zip(comparisons, critiques, strict=True)
        for sample in zip(*by_response, strict=True)
        for i, critique in enumerate(sample)
    ]
    logits = iter(pairs.score(run, KIND, [_row(run, *place) for place in places]))
    return [[[next(logits) for _ in group] for _ in group[0]] for group in critiques]
