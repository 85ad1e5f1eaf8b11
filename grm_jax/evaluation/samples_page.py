"""samples.md: a few comparisons and their trajectories, as a person wants to read them.

The verdicts on the page are those of `grm_jax.voting`; nothing is decided here a second time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grm_jax import voting
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation.ballots import from_trajectories


class Sample(NamedTuple):
    """A comparison for the page.

    Attributes:
        comparison, trajectories: all its stored samples; every one counts in the verdicts.
        meta: the meta score of each trajectory, or None.
    """

    comparison: Comparison
    trajectories: Sequence[Trajectory]
    meta: Sequence[float] | None = None


def samples_page(
    samples: Sequence[Sample],
    *,
    title: str = "Samples",
    note: str = "",
    max_trajectories: int = 3,
    k_meta: int | None = None,
    aggregation: str = "sum",
    lenient: bool = False,
) -> str:
    """The page, Markdown; equal inputs give equal text.

    Args:
        note: a paragraph below the title: which model, which stage, how the samples were chosen.
        max_trajectories: how many trajectories are printed in full; the scores of all of them
            are in the table, and the page says how many texts it leaves out.
        k_meta: samples that guided voting keeps, by default half of those drawn.
        aggregation: see `voting`.
        lenient: show and count the scores of the lenient instead of the strict parser.

    Raises:
        ValueError: k_meta above the number of samples, or records that do not belong together
            (see `from_trajectories`).
    """
    blocks = [f"# {title}"]
    if note:
        blocks.append(note)
    for i, sample in enumerate(samples):
        comparison = sample.comparison
        name = f"{comparison.subset}: {comparison.uid}" if comparison.subset else comparison.uid
        blocks += [f"## {i + 1}. {_inline(name)}", *_comparison(comparison)]
        kept, verdicts = _verdicts(sample, k_meta, aggregation, lenient)
        blocks += ["### Verdicts", *verdicts, _scores(sample, kept, lenient), "### Trajectories"]
        order = _reading_order(sample.trajectories)
        for index in order[:max_trajectories]:
            blocks += _trajectory(sample, index, lenient)
        left_out = len(order) - min(len(order), max_trajectories)
        if left_out:
            blocks.append(f"*{left_out} more texts are not printed; their scores are above.*")
        blocks.append("---")
    return "\n\n".join(blocks) + "\n"


def _comparison(comparison: Comparison) -> list[str]:
    blocks = ["### Query"]
    for message in comparison.messages:
        if len(comparison.messages) > 1:
            blocks.append(f"**{message.role}**")
        blocks.append(_fence(message.content))
    for i, response in enumerate(comparison.responses):
        best = comparison.n > 1 and i in comparison.winners
        blocks += [f"### Response {i + 1}{' (gold: best)' if best else ''}", _fence(response)]
    if comparison.n == 1:
        blocks.append(f"Gold: **{'correct' if comparison.label else 'not correct'}**")
    else:
        rewards = ", ".join(f"{reward:g}" for reward in comparison.rewards)
        blocks.append(f"Gold: **{_names(comparison.winners)}** (rewards {rewards})")
    return blocks


def _verdicts(
    sample: Sample, k_meta: int | None, aggregation: str, lenient: bool
) -> tuple[np.ndarray | None, list[str]]:
    """(mask of the trajectories that guided voting keeps or None, the lines about verdicts)."""
    comparison, k = sample.comparison, len(sample.trajectories)
    meta = None if sample.meta is None else [sample.meta]
    ballots = from_trajectories(
        [sample.trajectories], [comparison.n], meta=meta, lenient=lenient
    )

    def verdict(keep_CS) -> str:
        return _verdict(voting.totals(ballots, keep_CS, aggregation), comparison)

    lines = [f"- Voting@{k}: {verdict(ballots.drawn_CS)}"]
    kept = None
    if sample.meta is not None:
        (chosen,) = voting.resolve_k_meta((k,), voting.half if k_meta is None else k_meta)
        keep_CS = voting.select_guided(ballots, ballots.drawn_CS, chosen)
        lines.append(f"- MetaRM@{k}, k_meta = {chosen}: {verdict(keep_CS)}")
        # Ballots are sorted by sample index; back to the order of the trajectories.
        by_sample = np.argsort([t.sample for t in sample.trajectories])
        kept = np.zeros(k, bool)
        kept[by_sample] = np.asarray(keep_CS)[0]
    return kept, ["\n".join(lines)]


def _verdict(verdicts: voting.Verdicts, comparison: Comparison) -> str:
    voters = int(verdicts.voters_C[0])
    if not voters:
        return "**no verdict**, no sample has scores"
    totals = np.asarray(verdicts.totals_CN)[0, : comparison.n]
    if comparison.n == 1:
        return f"mean score **{totals[0]:.2f}** of {voters} samples"
    tops = np.flatnonzero(np.asarray(verdicts.tops_CN)[0])
    right = set(tops) & set(comparison.winners)
    if len(tops) > 1:
        mark = f"tie, {'with' if right else 'without'} the best"
    else:
        mark = "✓" if right else "✗"
    sums = ", ".join(f"{total:g}" for total in totals)
    return f"**{_names(tops)}** {mark}; totals {sums} of {voters} samples"


def _names(indices: Sequence[int]) -> str:
    return " and ".join(f"Response {i + 1}" for i in indices)


def _scores(sample: Sample, kept: np.ndarray | None, lenient: bool) -> str:
    n = sample.comparison.n
    heads = ["sample", "shown order", *(f"Response {i + 1}" for i in range(n)), "correct"]
    heads += [] if sample.meta is None else ["meta score", "kept"]
    lines = [heads, ["---:"] * len(heads)]
    by_sample = sorted(enumerate(sample.trajectories), key=lambda pair: pair[1].sample)
    for index, trajectory in by_sample:
        scores = trajectory.original_scores(lenient=lenient)
        shown = ["–"] * n if scores is None else [str(score) for score in scores]
        order = " ".join(str(j + 1) for j in trajectory.order)
        cells = [str(trajectory.sample), order, *shown, _correct(trajectory)]
        if sample.meta is not None:
            cells += [f"{sample.meta[index]:.3f}", "●" if kept[index] else ""]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _trajectory(sample: Sample, index: int, lenient: bool) -> list[str]:
    trajectory = sample.trajectories[index]
    facts = [_correct(trajectory)]
    scores = trajectory.original_scores(lenient=lenient)
    if scores is None:
        facts.append(f"no scores: {trajectory.parse_reason}")
    else:
        facts.append("scores " + ", ".join(map(str, scores)))
    if sample.meta is not None:
        facts.append(f"meta score {sample.meta[index]:.3f}")
    if trajectory.order != tuple(range(len(trajectory.order))):
        order = ", ".join(str(j + 1) for j in trajectory.order)
        facts.append(f"responses were shown in the order {order}, the text numbers them so")
    if trajectory.token_ids:
        facts.append(f"{len(trajectory.token_ids)} tokens")
    if trajectory.finish == "length":
        facts.append("cut at the length limit")
    if trajectory.hinted:
        facts.append("hinted")
    if trajectory.truncated:
        facts.append("responses were shortened to fit the prompt")
    heading = f"**Sample {trajectory.sample}**: {'; '.join(facts)}"
    return [heading, _fence(trajectory.text)]


def _reading_order(trajectories: Sequence[Trajectory]) -> list[int]:
    """By sample index, but right and wrong ones in turn, so that a short page shows both."""
    by_sample = sorted(range(len(trajectories)), key=lambda i: trajectories[i].sample)
    right = [i for i in by_sample if trajectories[i].correct]
    wrong = [i for i in by_sample if not trajectories[i].correct]
    both = min(len(right), len(wrong))
    turns = [i for pair in zip(right, wrong, strict=False) for i in pair]
    return turns + right[both:] + wrong[both:]


def _correct(trajectory: Trajectory) -> str:
    return {True: "✓", False: "✗", None: "not judged"}[trajectory.correct]


def _fence(text: str) -> str:
    """The text as it is: the fence is longer than any run of backticks inside."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _inline(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", " ".join(text.split()))
