"""From stored trajectories to the lines of a table: who wins, how often, with what left over.

Nothing is sampled here. Shape letters: C comparisons, K values of k, M subsets, S samples.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax import voting
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation import statistics
from grm_jax.evaluation.ballots import from_trajectories

STAGE_NAMES = {
    "random_weights": "random weights",
    "released": "released",
    "remote": "remote",
    "base": "base",
    "cold_start": "cold start",
    "rft": "RFT",
    "grpo": "GRPO",
}
BLIND = "content-blind baselines"
GREEDY = "greedy"
SAMPLED = "k samples"
WITHOUT = "without principles"
MISSING_SINGLE = 0.5  # what an unparsed judgement of a single response counts in its AUC


@dataclasses.dataclass(frozen=True)
class CountingRules:
    """How votes are counted.

    Attributes:
      ks: values of k, 1 among them.
      k_metas: k_meta of each.
      num_subsets: random k-subsets.
      tie_policy, parse_policy: see `voting`.
      stratified: subsets spread evenly over presentation orders.
      num_samples: S to pad all ballots to, so that all are counted by one program.
      seed: of the subsets.
    """

    ks: tuple[int, ...]
    k_metas: tuple[int, ...]
    num_subsets: int
    tie_policy: str
    parse_policy: str
    stratified: bool
    num_samples: int
    seed: int


class Drawn(NamedTuple):
    """Trajectories of one stage on one suite.

    Attributes:
      stage: such as "grpo".
      principles: principle mode.
      greedy: one greedy trajectory of each comparison, or k samples.
      groups: by comparison, in the order of the suite, sorted by sample.
      meta: meta scores in the same places, or None.
    """

    stage: str
    principles: str
    greedy: bool
    groups: list[list[Trajectory]]
    meta: list[list[float]] | None = None

    @property
    def section(self) -> str:
        """The section of the table it belongs to."""
        if self.principles == "none":
            return WITHOUT
        return GREEDY if self.greedy else SAMPLED


class Line(NamedTuple):
    """One row of a table on one suite; a property that does not apply is None.

    Attributes:
      section, label: where it stands.
      credits_C: float64, the credit of each comparison with n >= 2.
      singles_MC: float64, the score of each single response in each subset; NaN if unparsed.
      unparsed: share of samples without strict scores.
      cut: share of samples that met the length limit.
    """

    section: str
    label: str
    credits_C: np.ndarray | None = None
    singles_MC: np.ndarray | None = None
    unparsed: float | None = None
    cut: float | None = None


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite, everything drawn on it, and the lines that follow.

    Attributes:
      name: of the suite.
      coverage: such as "50 of 620 rows"; "" for a suite without an official size.
      comparisons: all of them.
      drawn: in the order in which they are reported.
    """

    name: str
    coverage: str
    comparisons: Sequence[Comparison]
    drawn: tuple[Drawn, ...]

    @property
    def several_C(self) -> np.ndarray:
        """bool: comparisons with n >= 2."""
        return np.array([comparison.n > 1 for comparison in self.comparisons])

    @property
    def labels(self) -> np.ndarray:
        """0/1 truth of the single responses."""
        return np.array([comparison.label for comparison in self.comparisons if comparison.n == 1])


def group(
    comparisons: Sequence[Comparison], trajectories: Sequence[Trajectory]
) -> list[list[Trajectory]]:
    """Trajectories by comparison.

    Raises:
      ValueError: naming the uid of a comparison without any.
    """
    by_uid: dict[str, list[Trajectory]] = {comparison.uid: [] for comparison in comparisons}
    for trajectory in trajectories:
        by_uid[trajectory.uid].append(trajectory)
    for uid, own in by_uid.items():
        if not own:
            raise ValueError(f"comparison {uid!r} has no trajectories")
        own.sort(key=lambda trajectory: trajectory.sample)
    return list(by_uid.values())


def lines(suite: Suite, rules: CountingRules, *, max_responses: int) -> list[Line]:
    """All lines of a suite: blind baselines, then whatever was drawn."""
    found = blind(suite)
    # Of each arm, the votes of its last stage are the plain "Voting@k".
    last = {drawn.principles: drawn.stage for drawn in suite.drawn if not drawn.greedy}
    for drawn in suite.drawn:
        prefix = "" if drawn.stage == last.get(drawn.principles) else STAGE_NAMES[drawn.stage]
        found += _count(suite, drawn, rules, max_responses, prefix)
    return found


def blind(suite: Suite) -> list[Line]:
    """What verdicts without reading earn."""
    several = [comparison for comparison in suite.comparisons if comparison.n > 1]
    names = ("first", "random", "longest", "shortest")
    if not several:
        return [Line(BLIND, name) for name in names]
    credits = statistics.blind_credits(
        [[len(text) for text in comparison.responses] for comparison in several],
        [comparison.best for comparison in several],
    )
    return [Line(BLIND, name, credits[name]) for name in names]


def one_sample(stage: str) -> str:
    """Label of the row of one sample at the voting temperature."""
    return f"{STAGE_NAMES[stage]}, one sample"


def greedy(stage: str) -> str:
    """Label of the row of greedy decoding."""
    return f"{STAGE_NAMES[stage]}, greedy"


def _count(
    suite: Suite, drawn: Drawn, rules: CountingRules, max_responses: int, prefix: str
) -> list[Line]:
    ballots = from_trajectories(
        drawn.groups, [comparison.n for comparison in suite.comparisons], meta=drawn.meta,
        num_samples=rules.num_samples, max_responses=max_responses,
    )  # fmt: skip
    several_C = suite.several_C
    best_C = np.array([c.best if c.n > 1 else -1 for c in suite.comparisons], np.int32)
    common = {
        "ks": rules.ks,
        "num_subsets": rules.num_subsets,
        "key": jax.random.key(rules.seed),
        "stratified": rules.stratified,
        "k_meta": None if drawn.meta is None else rules.k_metas,
    }
    credits = voting.accuracy_curve(
        ballots, best_C, tie_policy=rules.tie_policy, parse_policy=rules.parse_policy, **common
    )
    singles = voting.single_scores(ballots, **common) if not several_C.all() else None
    trajectories = [trajectory for own in drawn.groups for trajectory in own]
    facts = {
        "unparsed": float(np.mean([t.scores is None for t in trajectories])),
        "cut": float(np.mean([t.finish == "length" for t in trajectories])),
    }
    found = []
    drawn_k = min(len(own) for own in drawn.groups)
    for i, k in enumerate(rules.ks):
        if k > drawn_k:
            continue
        for kind in ("voting", "guided"):
            credits_KC = getattr(credits, kind)
            if credits_KC is None or (kind == "guided" and k == 1):
                continue
            # Rounded, so that means of equal credits in float32 do not differ by 1e-8.
            credits_C = np.round(np.asarray(credits_KC, np.float64)[i][several_C], 6)
            line = Line(drawn.section, _label(drawn, k, kind, prefix), None)
            if credits_C.size:
                line = line._replace(credits_C=credits_C)
            if singles is not None:
                singles_MC = np.asarray(getattr(singles, kind), np.float64)[i][:, ~several_C]
                line = line._replace(singles_MC=singles_MC)
            found.append(line._replace(**facts) if k == 1 else line)
    return _in_order(found)


def _label(drawn: Drawn, k: int, kind: str, prefix: str) -> str:
    if drawn.greedy:
        return greedy(drawn.stage)
    if k == 1:
        return one_sample(drawn.stage)
    votes = f"{'MetaRM' if kind == 'guided' else 'Voting'}@{k}"
    return f"{prefix}, {votes}" if prefix else votes


def _in_order(found: list[Line]) -> list[Line]:
    """Voting before guided voting."""
    return sorted(found, key=lambda line: "MetaRM@" in line.label)


def single_auc(singles_MC: np.ndarray, labels_C: np.ndarray) -> statistics.Interval | None:
    """ROC-AUC of single responses: the mean over subsets of the AUC in each, with its interval.

    None without both classes.
    """
    positive = labels_C == 1
    if positive.all() or not positive.any():
        return None
    filled_MC = np.where(np.isnan(singles_MC), MISSING_SINGLE, singles_MC)
    above = filled_MC[:, positive, None] - filled_MC[:, None, ~positive]
    # The AUC of a resample is a weighted mean of these: ties between the classes count one half.
    wins = np.mean((above > 0) + 0.5 * (above == 0), axis=0)

    def of_items(indices):
        counts = np.bincount(indices, minlength=len(labels_C))
        up, down = counts[positive], counts[~positive]
        if not up.any() or not down.any():
            return np.nan
        return up @ wins @ down / (up.sum() * down.sum())

    try:
        return statistics.bootstrap_statistic(of_items, len(labels_C))
    except ValueError:  # both classes are in fewer than half of the resamples
        value = float(np.mean(wins))
        return statistics.Interval(value, value, value)
