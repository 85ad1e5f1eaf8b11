"""From stored trajectories to the lines of a table: who wins, how often, with what left over.

Nothing is sampled here. Shape letters: C comparisons, K values of k, M subsets, S samples, N
responses.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax import voting
from grm_jax.benchmarks import SUITES, metric_of, rules
from grm_jax.benchmarks.suite import Items, Metric, Outcome
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation import official, statistics
from grm_jax.evaluation.ballots import from_trajectories
from grm_jax.evaluation.method import VOTES, Method
from grm_jax.evaluation.statistics import Resampled
from grm_jax.models.config import ModelConfig
from grm_jax.sampling.pieces import merge, pieces
from grm_jax.text.thinking import UNCLOSED
from grm_jax.voting import Ballots


@dataclasses.dataclass(frozen=True)
class CountingRules:
    """How votes are counted.

    Attributes:
      ks: values of k, 1 among them.
      k_metas: k_meta of each k.
      num_subsets: random k-subsets.
      aggregation, tie_policy, parse_policy: see `voting`.
      parse: "strict" or "lenient", the parser whose scores count.
      stratified: subsets spread evenly over presentation orders.
      num_samples: S to pad all ballots to, so that all are counted by one program.
      seed: seed of the subsets.
      single_middle: middle of the range in which single responses are scored, which an unparsed
        judgement counts in their AUC; None for the median of the scores that there are.
    """

    ks: tuple[int, ...]
    k_metas: tuple[int, ...]
    num_subsets: int
    aggregation: str
    tie_policy: str
    parse_policy: str
    parse: str
    stratified: bool
    num_samples: int
    seed: int
    single_middle: float | None = 0.5


class Drawn(NamedTuple):
    """Trajectories of one stage on one suite.

    Attributes:
      stage: such as "grpo".
      principles: principle mode.
      greedy: one greedy trajectory of each comparison, or k samples.
      groups: by comparison, in the order of the suite, sorted by sample.
      meta: meta scores in the same places, or None.
      prompt_tokens: of the prompt of each comparison, in the order of its first sample.
      model: shape of the policy; None where it is not known.
      meta_model: shape of the meta RM, or None.
      arm: see `Method`.
      stratified: whether the subsets of an arm are spread evenly over orders; None follows the
        rules.
      ordered: the orders of the trajectories are those of prompts. A trajectory that was put
        together out of several prompts has none.
    """

    stage: str
    principles: str
    greedy: bool
    groups: list[list[Trajectory]]
    meta: list[list[float]] | None = None
    prompt_tokens: Sequence[int] = ()
    model: ModelConfig | None = None
    meta_model: ModelConfig | None = None
    arm: str = ""
    stratified: bool | None = None
    ordered: bool = True

    @property
    def method(self) -> Method:
        """The method of one of its samples."""
        return Method(self.stage, self.arm, "greedy" if self.greedy else "voting")


class Line(NamedTuple):
    """One row of a table on one suite; a property that does not apply is None.

    Attributes:
      method: the key of the row.
      named: see `Method.label`.
      credits_C: float64, the credit of each comparison with a choice.
      singles_MC: float64, the score of each single response in each subset; the middle of the range
        if unparsed.
      unparsed: share of samples without strict scores.
      cut: share of samples that met the length limit.
      unclosed: share of samples that never end their thinking; they are unparsed.
      values: values of the items of the suite's metric, by part; see `benchmarks.suite.Metric`.
      measured: by column, the mean and its resamples; "accuracy" is that of `credits_C`. Lines of
        one suite share their resamples.
    """

    method: Method
    named: bool = True
    credits_C: np.ndarray | None = None
    singles_MC: np.ndarray | None = None
    unparsed: float | None = None
    cut: float | None = None
    unclosed: float | None = None
    values: Mapping[str, np.ndarray] = {}
    measured: Mapping[str, Resampled] = {}

    @property
    def section(self) -> str:
        """The section of a table in which it stands."""
        return self.method.section

    @property
    def label(self) -> str:
        """Its label in tables."""
        return self.method.label(named=self.named)

    def interval(self, column: str) -> statistics.Interval | None:
        """A measured column with its interval."""
        return self.measured[column].interval(0) if column in self.measured else None


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite, everything drawn on it, and the lines that follow.

    Attributes:
      name: of the suite.
      coverage: such as "50 of 620 rows"; "" for a suite without an official size.
      comparisons: all of them.
      drawn: in the order in which they are reported.
      others: lines that were counted before, of the trained baselines; nothing is measured in them.
      lines: all of them, once they are counted.
    """

    name: str
    coverage: str
    comparisons: Sequence[Comparison]
    drawn: tuple[Drawn, ...]
    others: tuple[Line, ...] = ()
    lines: tuple[Line, ...] = ()

    @property
    def at(self) -> dict[Method, Line]:
        """The lines by their methods."""
        return {line.method: line for line in self.lines}

    @property
    def choice_C(self) -> np.ndarray:
        """bool: comparisons with right and wrong responses; ties of people have none wrong."""
        return np.array([len(c.winners) < c.n for c in self.comparisons])

    @property
    def single_C(self) -> np.ndarray:
        """bool: comparisons with n = 1."""
        return np.array([c.n == 1 for c in self.comparisons])

    @property
    def labels(self) -> np.ndarray:
        """0/1 truth of the single responses."""
        return np.array([comparison.label for comparison in self.comparisons if comparison.n == 1])

    @property
    def gold_CN(self) -> np.ndarray:
        """bool: the right responses."""
        widest = max(c.n for c in self.comparisons)
        gold_CN = np.zeros((len(self.comparisons), widest), bool)
        for c, comparison in enumerate(self.comparisons):
            gold_CN[c, list(comparison.winners)] = comparison.n > 1
        return gold_CN

    @property
    def lengths_CN(self) -> np.ndarray:
        """float64: characters of each response; NaN at padding."""
        lengths_CN = np.full(self.gold_CN.shape, np.nan)
        for c, comparison in enumerate(self.comparisons):
            lengths_CN[c, : comparison.n] = [len(text) for text in comparison.responses]
        return lengths_CN

    @property
    def choice_clusters(self) -> np.ndarray:
        """Query numbers of the comparisons of `choice_C`, which are resampled by query."""
        return rules.numbered([c.messages for c in self.comparisons if len(c.winners) < c.n])

    @property
    def metric(self) -> Metric:
        """How the suite is scored officially."""
        return metric_of(self.name)

    @property
    def private(self) -> bool:
        """Whether its texts must stay off pages."""
        return self.name in SUITES and SUITES[self.name].private

    @functools.cached_property
    def items(self) -> Items:
        """The items of the metric."""
        return self.metric.items(self.comparisons)


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
    for uid, samples in by_uid.items():
        if not samples:
            raise ValueError(f"comparison {uid!r} has no trajectories")
        samples.sort(key=lambda trajectory: trajectory.sample)
    return list(by_uid.values())


def gather(
    comparisons: Sequence[Comparison],
    mode: str,
    draw: Callable[[Sequence[Comparison]], Sequence[Trajectory]],
) -> list[list[Trajectory]]:
    """The samples of each comparison, put together where the judge reads it in pieces.

    Args:
      comparisons: the whole ones.
      mode: what a prompt shows, one of `verdicts.MODES`.
      draw: gives the trajectories of the pieces.
    """
    shown = [pieces(comparison, mode) for comparison in comparisons]
    parts = [part for own in shown for part in own]
    drawn = iter(group(parts, draw(parts)))
    return [
        merge(comparison, mode, list(itertools.islice(drawn, len(own))))
        for comparison, own in zip(comparisons, shown, strict=True)
    ]


def count(suite: Suite, counting: CountingRules) -> list[Line]:
    """All lines of a suite: blind baselines, then drawn samples, then trained baselines.

    Lines of a section stay together.
    """
    lines = blind(suite, counting)
    for drawn in suite.drawn:
        arm_counting = counting
        if drawn.stratified is not None:
            arm_counting = dataclasses.replace(counting, stratified=drawn.stratified)
        counted = tally(
            suite, ballots_of(suite, drawn, arm_counting), arm_counting, drawn.method,
            most=1 if drawn.greedy else min(map(len, drawn.groups)),
            facts=sample_facts(drawn.groups), ordered=drawn.ordered,
        )  # fmt: skip
        label = named(suite, drawn)
        counted = [line._replace(named=label) for line in counted]
        lines += sorted(counted, key=lambda line: line.method.kind == "guided")
    lines += suite.others
    sections = list(dict.fromkeys(line.section for line in lines))
    return _measured(suite, sorted(lines, key=lambda line: sections.index(line.section)))


def counted(suites: Sequence[Suite], counting: CountingRules) -> list[Suite]:
    """The suites with their lines."""
    return [dataclasses.replace(s, lines=tuple(count(s, counting))) for s in suites]


def named(suite: Suite, drawn: Drawn) -> bool:
    """Whether labels of votes name the stage: those of the last sampled stage of an arm do not."""
    sampled = [other.stage for other in suite.drawn if other.arm == drawn.arm and not other.greedy]
    return drawn.stage not in sampled[-1:]


def arms_in_figures(suite: Suite) -> list[str]:
    """Arms whose curves a figure has room for: one or two, or none."""
    arms = list(dict.fromkeys(drawn.arm for drawn in suite.drawn if drawn.arm))
    return arms if len(arms) <= 2 else []


def _measured(suite: Suite, lines: list[Line]) -> list[Line]:
    """The lines with their means and intervals, all on the same resamples."""
    measured: list[dict[str, Resampled]] = [{} for _ in lines]
    counted = [i for i, line in enumerate(lines) if line.credits_C is not None]
    if counted:
        credits = [lines[i].credits_C for i in counted]
        both = statistics.resample(credits, clusters=suite.choice_clusters)
        for at, i in enumerate(counted):
            measured[i]["accuracy"] = Resampled(both.values_L[[at]], both.draws_BL[:, [at]])
    columns = official.measure(suite.metric.columns, suite.items, [line.values for line in lines])
    for name, by_line in columns.items():
        for i, mean in by_line.items():
            measured[i][name] = mean
    return [
        line._replace(measured=columns_of) for line, columns_of in zip(lines, measured, strict=True)
    ]


def blind(suite: Suite, counting: CountingRules) -> list[Line]:
    """Lines of verdicts that read no content: the first, a random, the longest, the shortest."""
    choice_C, single_C, lengths_CN = suite.choice_C, suite.single_C, suite.lengths_CN
    there_CN = np.where(np.isnan(lengths_CN), np.nan, 0.0)
    rng = np.random.default_rng((counting.seed, 1))
    scores = {
        "first": there_CN + (np.arange(there_CN.shape[1]) == 0),
        "random": there_CN + rng.random((counting.num_subsets, *there_CN.shape)),
        "longest": lengths_CN,
        "shortest": -lengths_CN,
    }
    lines = []
    for name, scores_MCN in scores.items():
        totals_MCN = scores_MCN.reshape(-1, *there_CN.shape)
        # A coin earns its expectation; ties in length share the credit evenly.
        sure_CN = there_CN if name == "random" else scores_MCN
        tops_CN = sure_CN == np.nanmax(sure_CN, axis=1, keepdims=True)
        shares_C = (tops_CN & suite.gold_CN).sum(axis=1) / tops_CN.sum(axis=1)
        credits_C = np.where(choice_C, shares_C, np.nan)
        line = Line(
            Method(name, kind="blind"), credits_C=credits_C[choice_C] if choice_C.any() else None
        )
        if single_C.any():
            constant = name in ("first", "random")
            line = line._replace(
                singles_MC=totals_MCN[:1, single_C, 0] * (0.0 if constant else 1.0)
            )
        games = None
        if "games" in suite.metric.needs:
            # What is shown first is the other response in the other order. Coins are thrown anew:
            # two games on the same draws would agree too often.
            shares_C4 = rules.shares(rules.verdicts(totals_MCN[..., :2]))
            if name == "random":
                shares_C4 = np.broadcast_to([0.5, 0.5, 0.0, 0.0], shares_C4.shape)
            other_C4 = shares_C4[:, [1, 0, 2, 3]] if name == "first" else shares_C4
            games = (shares_C4, other_C4)
        lines.append(_valued(suite, line, Outcome(credits_C, totals_MCN, games)))
    return lines


def _valued(suite: Suite, line: Line, outcome: Outcome) -> Line:
    return line._replace(values=suite.metric.parts(suite.comparisons, outcome))


def last_sampled(suite: Suite) -> Drawn:
    """The stage that votes."""
    return [drawn for drawn in suite.drawn if not drawn.arm and not drawn.greedy][-1]


def ballots_of(suite: Suite, drawn: Drawn, counting: CountingRules) -> Ballots:
    """The ballots of what was drawn, by the parser that counts."""
    return from_trajectories(
        drawn.groups, [comparison.n for comparison in suite.comparisons], meta=drawn.meta,
        num_samples=counting.num_samples, lenient=counting.parse == "lenient",
    )  # fmt: skip


def sample_facts(groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
    """The shares "unparsed", "cut" and "unclosed" of samples, for a `Line`."""
    trajectories = [trajectory for samples in groups for trajectory in samples]
    return {
        "unparsed": float(np.mean([t.scores is None for t in trajectories])),
        "cut": float(np.mean([t.finish == "length" for t in trajectories])),
        "unclosed": float(np.mean([t.parse_reason == UNCLOSED for t in trajectories])),
    }


def tally(
    suite: Suite,
    ballots: Ballots,
    counting: CountingRules,
    method: Method,
    *,
    most: int,
    facts: Mapping[str, float],
    ordered: bool = True,
) -> list[Line]:
    """Lines of ballots, nothing measured in them yet.

    Args:
      suite: all of its comparisons were judged.
      ballots: whole or real scores, padded to `counting.num_samples` samples.
      counting: the rules.
      method: of one sample. There are guided lines too if the ballots have meta scores.
      most: largest k.
      facts: fields of the line of one sample, see `sample_facts`.
      ordered: the presentation order may change scores; otherwise a verdict in one order is that
        in the other.
    """
    choice_C, single_C = suite.choice_C, suite.single_C
    common = {
        "num_subsets": counting.num_subsets,
        "key": jax.random.key(counting.seed),
        "aggregation": counting.aggregation,
    }
    every = common | {"ks": counting.ks, "stratified": counting.stratified}
    guide = ballots.meta_CS is not None
    every["k_meta"] = counting.k_metas if guide else None
    credits = voting.accuracy_curve(
        ballots, suite.gold_CN, tie_policy=counting.tie_policy, parse_policy=counting.parse_policy,
        **every,
    )  # fmt: skip
    totals = None
    if "totals_MCN" in suite.metric.needs or single_C.any() or not ordered:
        totals = voting.score_curve(ballots, **every)
    games = _games(suite, ballots, counting, common, guide) if ordered else {}
    lines = []
    for i, k in enumerate(counting.ks):
        if k > most:
            continue
        for kind in VOTES:
            credits_KC = getattr(credits, kind)
            if credits_KC is None or (kind == "guided" and k == 1):
                continue
            # Rounded, so that means of equal credits in float32 do not differ by 1e-8.
            credits_C = np.round(np.asarray(credits_KC, np.float64)[i], 6)
            by_votes = {"kind": kind, "k": k} if method.kind in VOTES else {}
            line = Line(dataclasses.replace(method, **by_votes))
            if choice_C.any():
                line = line._replace(credits_C=credits_C[choice_C])
            totals_MCN = None
            if totals is not None:
                totals_MCN = np.asarray(getattr(totals, kind)[i], np.float64)
            if single_C.any():
                singles_MC = totals_MCN[:, single_C, 0]
                middle = counting.single_middle
                if middle is None:
                    read = singles_MC[~np.isnan(singles_MC)]
                    middle = np.median(read) if read.size else 0.0
                line = line._replace(singles_MC=np.where(np.isnan(singles_MC), middle, singles_MC))
            game = games.get((k, kind))
            if not ordered and "games" in suite.metric.needs:
                game = (rules.shares(rules.verdicts(totals_MCN[..., :2])),) * 2
            line = _valued(suite, line, Outcome(credits_C, totals_MCN, game))
            lines.append(line._replace(**facts) if k == 1 else line)
    return lines


def _games(suite, ballots: Ballots, counting: CountingRules, common: dict, guide: bool) -> dict:
    """Verdict shares of the two orders of pairs, by (k, kind), as far as both have k samples."""
    if "games" not in suite.metric.needs:
        return {}
    swapped_CS = np.asarray(ballots.orders_CSN)[:, :, 0] == 1
    orders = [ballots.drawn_CS & ~swapped_CS, ballots.drawn_CS & swapped_CS]
    most = min(int(drawn_CS.sum(axis=1).min()) for drawn_CS in orders)
    at = {k: k_meta for k, k_meta in zip(counting.ks, counting.k_metas, strict=True) if k <= most}
    if not at:
        return {}
    games: dict[tuple[int, str], list[np.ndarray]] = {}
    for drawn_CS in orders:
        totals = voting.score_curve(
            ballots._replace(drawn_CS=drawn_CS), ks=tuple(at), stratified=False,
            k_meta=tuple(at.values()) if guide else None, **common,
        )  # fmt: skip
        for kind in [*VOTES][: 1 + guide]:
            for k, totals_MCN in zip(at, np.asarray(getattr(totals, kind)), strict=True):
                shares_C4 = rules.shares(rules.verdicts(totals_MCN[..., :2]))
                games.setdefault((k, kind), []).append(shares_C4)
    return {key: (first, second) for key, (first, second) in games.items()}


def single_auc(
    singles_MC: np.ndarray, labels_C: np.ndarray, subsets: Sequence[str] | None = None
) -> statistics.Interval | None:
    """ROC-AUC of single responses: the mean over subsets of samples of the AUC in each.

    Args:
      singles_MC: scores.
      labels_C: 0/1 truth.
      subsets: names of rows; if given, the AUC of each name apart, and their mean.

    Returns:
      With an interval over comparisons; None where some AUC has only one class.
    """
    names = np.array([""] * len(labels_C) if subsets is None else subsets)
    parts = []
    for name in np.unique(names):
        up, down = (np.flatnonzero((names == name) & (labels_C == label)) for label in (1, 0))
        if not len(up) or not len(down):
            return None
        above = singles_MC[:, up, None] - singles_MC[:, None, down]
        # The AUC of a resample is a weighted mean of these: ties between classes count one half.
        parts.append((up, down, np.mean((above > 0) + 0.5 * (above == 0), axis=0)))

    def of_items(indices):
        counts = np.bincount(indices, minlength=len(labels_C))
        found = []
        for up, down, wins in parts:
            if not counts[up].any() or not counts[down].any():
                return np.nan
            pairs = counts[up].sum() * counts[down].sum()
            found.append(counts[up] @ wins @ counts[down] / pairs)
        return float(np.mean(found))

    try:
        return statistics.bootstrap_statistic(of_items, len(labels_C))
    except ValueError:  # both classes are in fewer than half of the resamples
        value = float(np.mean([np.mean(wins) for _, _, wins in parts]))
        return statistics.Interval(value, value, value)
