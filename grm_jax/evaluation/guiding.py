"""How good a meta RM must be for guided voting to pay.

The criterion is its ranking of the samples of one comparison: its AUC inside comparisons. A meta
RM of any such AUC is simulated on the samples of a run, as the truth of each sample plus normal
noise, and guided voting is compared with plain voting over the same samples.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grm_jax.evaluation import plots, statistics
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite, ballots_of, last_sampled, tally
from grm_jax.evaluation.statistics import Difference, WithinAUC
from grm_jax.evaluation.tables import Cell, Column, Row, Table

LEVELS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
TRAINED = "of this run"


class Guide(NamedTuple):
    """A meta RM and its gain over plain voting.

    Attributes:
      label: simulated or trained.
      auc: inside comparisons, over the samples of all of them.
      gains: by k, MetaRM@k minus Voting@k.
    """

    label: str
    auc: float
    gains: dict[int, Difference]


def within_auc(drawn: Drawn) -> WithinAUC:
    """AUC inside comparisons of the meta scores of the samples that vote: n > 1, with scores."""
    shape = (len(drawn.groups), max(map(len, drawn.groups)))
    scores_CS, correct_CS, valid_CS = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for c, (samples, meta) in enumerate(zip(drawn.groups, drawn.meta, strict=True)):
        S = len(samples)
        scores_CS[c, :S] = meta
        correct_CS[c, :S] = [bool(t.correct) for t in samples]
        valid_CS[c, :S] = [len(t.order) > 1 and None not in (t.correct, t.scores) for t in samples]
    return statistics.within_comparison_auc(scores_CS, correct_CS, valid_CS)


def simulated(drawn: Drawn, auc: float, seed: int) -> Drawn:
    """The same samples with the scores of a meta RM of this AUC inside comparisons."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    gap = math.sqrt(2) * norm.ppf(auc)  # of two normals of variance 1
    meta = [
        [gap * bool(t.correct) + float(rng.standard_normal()) for t in samples]
        for samples in drawn.groups
    ]
    return drawn._replace(meta=meta)


def guides(suite: Suite, counting: CountingRules) -> list[Guide]:
    """Simulated meta RMs of several AUCs, and that of the run; none where nothing can be ranked."""
    drawn = last_sampled(suite)
    if not within_auc(simulated(drawn, 0.5, counting.seed)).pairs:
        return []  # no comparison has right and wrong samples
    shown = [(f"simulated, {auc:g}", simulated(drawn, auc, counting.seed)) for auc in LEVELS]
    if drawn.meta is not None:
        shown.append((TRAINED, drawn))
    return [
        Guide(label, within_auc(ranked).value, _gains(suite, ranked, counting))
        for label, ranked in shown
    ]


def _gains(suite: Suite, drawn: Drawn, counting: CountingRules) -> dict[int, Difference]:
    most = min(map(len, drawn.groups))
    ballots = ballots_of(suite, drawn, counting)
    lines = tally(suite, ballots, counting, drawn.method, most=most, facts={})
    at = {(line.method.kind, line.method.k): line.credits_C for line in lines}
    clusters = suite.choice_clusters
    return {
        k: statistics.paired_difference(at["guided", k], at["voting", k], clusters=clusters)
        for k in counting.ks if 1 < k <= most
    }  # fmt: skip


def table(suite: Suite, counting: CountingRules, guides: Sequence[Guide]) -> Table:
    """AUC inside comparisons, and guided minus plain voting for each k."""
    ks = list(guides[0].gains)
    columns = [Column("AUC inside comparisons"), *(Column(f"k = {k}", signed=True) for k in ks)]
    rows = [
        Row(guide.label, (Cell(guide.auc), *(Cell.of(guide.gains[k]) for k in ks)))
        for guide in guides
    ]
    by_k = dict(zip(counting.ks, counting.k_metas, strict=True))
    kept = ", ".join(f"{by_k[k]} of {k}" for k in counting.ks if k in ks)
    notes = [
        f"MetaRM@k − Voting@k in points, 95 % bootstrap interval over comparisons; kept: {kept}; "
        "a simulated meta RM scores a sample by whether it is correct, plus normal noise"
    ]
    return Table(f"What guiding is worth: {suite.name}", columns, rows, notes, "meta RM")


def figure(path: pathlib.Path, guides: Sequence[Guide]) -> None:
    """Guided minus plain voting against the AUC inside comparisons, a curve for each k."""
    plots.guiding(
        path, [(guide.auc, guide.gains) for guide in guides if guide.label != TRAINED],
        [(guide.auc, guide.gains) for guide in guides if guide.label == TRAINED],
    )  # fmt: skip
