"""critiques.html: every comparison of a benchmark, with what its samples say and who is right.

Texts of benchmarks whose licence forbids it (`Suite.private`) never get there.
"""

import collections
from collections.abc import Sequence

import jax
import numpy as np

from experiments import counting
from experiments import run as runs
from experiments.counting import CountingRules, Drawn, Suite
from grm_jax import voting
from grm_jax.benchmarks import evenly
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import critique_page
from grm_jax.evaluation.critique_page import Item, Sample, Vote
from grm_jax.files import write_atomically
from grm_jax.text.sections import split_sections

MAX_TEXTS = 10_000  # a page of 30 MB; what it leaves out is told, and counts in its verdicts


def write_page(run: runs.Run, suites: Sequence[Suite], rules: CountingRules) -> None:
    """critiques.html of the stage that votes and of its greedy samples."""
    shown = [suite for suite in suites if not suite.private]
    if not shown:
        return
    notes = [
        "right: every response with the highest total is; tie: some of them; no verdict: no sample "
        f"has scores (parser {rules.parse!r}). Totals: aggregation {rules.aggregation!r}. Differ: "
        "share of the samples that score another response highest than the vote does. Responses "
        "are numbered as in the data; a text numbers them as they were shown."
    ]
    items = []
    most = MAX_TEXTS // len(shown)
    for suite in shown:
        own, note = suite_items(suite, rules, most)
        items += own
        notes.append(note)
    names = ", ".join(suite.name for suite in shown)
    text = critique_page.critique_page(items, title=f"Critiques: {names}", notes=notes)
    write_atomically(run.path("critiques.html"), text.encode())


def suite_items(suite: Suite, rules: CountingRules, most: int) -> tuple[list[Item], str]:
    """Comparisons for the page, with at most so many texts, and a line that says which they are.

    All comparisons, or `most` evenly spread ones; of their samples, all or equally many, right and
    wrong ones in turn.
    """
    voter = counting.last_sampled(suite)
    greedy = [one for one in suite.drawn if one.stage == voter.stage
              and one.section == counting.GREEDY]  # fmt: skip
    chosen = evenly(range(len(suite.comparisons)), most)
    texts = max(1, most // len(chosen) - len(greedy))
    stages: list[dict[str, critique_page.Drawn]] = [{} for _ in chosen]
    for drawn in (voter, *greedy):
        label, votes, kept_CS = _votes(suite, drawn, rules)
        for own, c in zip(stages, chosen, strict=True):
            comparison = suite.comparisons[c]
            by_name = {name: _vote(one, c, comparison) for name, one in votes.items()}
            samples = _samples(suite, drawn, c, kept_CS[c], texts, rules)
            differ = _disagreement(samples, by_name[next(iter(by_name))], comparison)
            own[label] = critique_page.Drawn(by_name, samples, differ)
    found = [_item(suite, c, own) for own, c in zip(stages, chosen, strict=True)]
    per = len(voter.groups[0])
    rows = f" ({suite.coverage})" if suite.coverage else ""
    return found, (
        f"{suite.name}: {len(chosen):,} of {len(suite.comparisons):,} comparisons{rows}; texts of "
        f"{min(texts, per)} of {per} samples"
    )


def _item(suite: Suite, c: int, drawn: dict[str, critique_page.Drawn]) -> Item:
    comparison = suite.comparisons[c]
    gold = tuple(comparison.winners)
    if comparison.n == 1:
        gold = (0,) if comparison.label else ()
    messages = tuple((message.role, message.content) for message in comparison.messages)
    names = (suite.name, comparison.subset, comparison.uid)
    return Item(*names, messages, comparison.responses, gold, drawn)


def _votes(
    suite: Suite, drawn: Drawn, rules: CountingRules
) -> tuple[str, dict[str, voting.Verdicts], np.ndarray]:
    """(what was drawn, the verdicts of all its samples, which of them guided voting keeps)."""
    ballots = counting.ballots_of(suite, drawn, rules)
    k = min(map(len, drawn.groups))
    label, vote = f"{counting.STAGE_NAMES[drawn.stage]}, {k} samples", f"Voting@{k}"
    if drawn.greedy:
        label = vote = counting.greedy(drawn.stage)
    kept_CS = {vote: ballots.drawn_CS}
    guided_CS = np.zeros(ballots.drawn_CS.shape, bool)
    if drawn.meta is not None:
        k_meta = dict(zip(rules.ks, rules.k_metas, strict=True)).get(k, voting.half(k))
        guided_CS = np.asarray(voting.select_guided(ballots, ballots.drawn_CS, k_meta))
        kept_CS[f"MetaRM@{k}"] = guided_CS
    votes = {
        name: jax.device_get(voting.totals(ballots, keep_CS, rules.aggregation))
        for name, keep_CS in kept_CS.items()
    }
    return label, votes, guided_CS


def _vote(verdicts: voting.Verdicts, c: int, comparison: Comparison) -> Vote:
    tops = tuple(np.flatnonzero(verdicts.tops_CN[c]).tolist())
    totals = verdicts.totals_CN[c, : comparison.n].astype(float)
    totals = tuple(np.round(totals, 4).tolist()) if tops else ()
    return Vote(_result(tops, comparison), tops, totals, int(verdicts.voters_C[c]))


def _result(tops: Sequence[int], comparison: Comparison) -> str:
    if not tops:
        return "none"
    if comparison.n == 1:
        return "single"
    right = len({*tops} & {*comparison.winners})
    return "right" if right == len(tops) else "tie" if right else "wrong"


def _samples(
    suite: Suite, drawn: Drawn, c: int, kept_S: np.ndarray, texts: int, rules: CountingRules
) -> tuple[Sample, ...]:
    comparison, trajectories = suite.comparisons[c], drawn.groups[c]
    lenient = rules.parse == "lenient"
    scores = [one.original_scores(lenient=lenient) or () for one in trajectories]
    results = [_result(_tops(own), comparison) for own in scores]
    with_text = set(_in_turn([result == "right" for result in results])[:texts])
    found = []
    for s, trajectory in enumerate(trajectories):
        notes = [] if scores[s] else [trajectory.parse_reason]
        if trajectory.finish == "length":
            notes.append("cut at the length limit")
        if trajectory.truncated:
            notes.append("the responses were shortened to fit the prompt")
        parts = tuple(split_sections(trajectory.text)) if s in with_text else None
        meta = None if drawn.meta is None else round(float(drawn.meta[c][s]), 4)
        found.append(
            Sample(trajectory.sample, trajectory.order, scores[s] or None, results[s], parts,
                   tuple(notes), meta, bool(kept_S[s]))
        )  # fmt: skip
    return tuple(found)


def _tops(scores: Sequence[int]) -> list[int]:
    return [i for i, score in enumerate(scores) if score == max(scores)]


def _in_turn(right: Sequence[bool]) -> list[int]:
    """Right and wrong samples in turn, so that a few texts show both."""
    rank: collections.Counter[bool] = collections.Counter()
    keys = []
    for s, value in enumerate(right):
        keys.append((rank[value], not value, s))
        rank[value] += 1
    return [s for *_, s in sorted(keys)]


def _disagreement(
    samples: Sequence[Sample], vote: Vote, comparison: Comparison
) -> float | None:
    voters = [sample.scores for sample in samples if sample.scores]
    if comparison.n == 1 or not voters:
        return None
    return round(float(np.mean([not {*_tops(own)} & {*vote.tops} for own in voters])), 4)
