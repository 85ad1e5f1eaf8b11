"""samples.md: a few comparisons and their trajectories, as a person wants to read them.

The records and their verdicts are those of `critique_page`.
"""

import re
from collections.abc import Sequence

from grm_jax.evaluation.critique_page import Item, Sample, Vote, in_turn

MARKS = {"right": "✓", "wrong": "✗", "tie": "✗", "none": "✗", "single": "not judged"}


def few(items: Sequence[Item], each: int) -> list[Item]:
    """Of the items of one suite the first right and wrong ones, and the first single response."""
    votes = [next(iter(item.drawn.values())).votes for item in items]
    results = [next(iter(by_method.values())).result for by_method in votes]  # of all samples
    picked = [i for i in range(len(items)) if len(items[i].responses) == 1][:1]
    for wanted in ("right", "wrong"):
        picked += [i for i in range(len(items)) if results[i] == wanted][:each]
    return [items[i] for i in sorted({*picked})] or list(items[:1])


def samples_page(items: Sequence[Item], *, note: str = "", max_texts: int = 3) -> str:
    """The page, Markdown; equal inputs give equal text.

    Args:
      items: whose first stage is shown.
      note: a paragraph below the title: which stage it is, how items were chosen.
      max_texts: of each item, how many trajectories are printed in full. The scores of all of them
        are in a table, and the page says how many texts it leaves out.
    """
    blocks = ["# Samples", *([note] if note else [])]
    for i, item in enumerate(items):
        name = f"{item.subset}: {item.uid}" if item.subset else item.uid
        blocks += [f"## {i + 1}. {_inline(name)}", *_comparison(item)]
        answers = next(iter(item.drawn.values()))
        verdicts = [f"- {label}: {_verdict(vote, item)}" for label, vote in answers.votes.items()]
        blocks += ["### Verdicts", "\n".join(verdicts), _scores(answers.samples, item)]
        blocks.append("### Trajectories")
        turn = in_turn([sample.result for sample in answers.samples])
        shown = [answers.samples[s] for s in turn if answers.samples[s].parts is not None]
        for sample in shown[:max_texts]:
            blocks += _trajectory(sample)
        if left_out := len(turn) - len(shown[:max_texts]):
            blocks.append(f"*{left_out} more texts are not printed; their scores are above.*")
        blocks.append("---")
    return "\n\n".join(blocks) + "\n"


def _comparison(item: Item) -> list[str]:
    blocks = ["### Query"]
    for role, text in item.messages:
        blocks += [f"**{role}**"] if len(item.messages) > 1 else []
        blocks.append(_fence(text))
    single = len(item.responses) == 1
    for i, response in enumerate(item.responses):
        best = " (gold: best)" if i in item.gold and not single else ""
        blocks += [f"### Response {i + 1}{best}", _fence(response)]
    rewards = ", ".join(f"{reward:g}" for reward in item.rewards)
    gold = f"**{_names(item.gold)}** (rewards {rewards})"
    if single:
        gold = "**correct**" if item.gold else "**not correct**"
    return [*blocks, f"Gold: {gold}"]


def _verdict(vote: Vote, item: Item) -> str:
    if not vote.voters:
        return "**no verdict**, no sample has scores"
    if vote.result == "single":
        return f"mean score **{vote.totals[0]:.2f}** of {vote.voters} samples"
    mark = MARKS[vote.result]
    if len(vote.tops) > 1:
        mark = f"tie, {'without' if vote.result == 'wrong' else 'with'} the best"
    totals = ", ".join(f"{total:g}" for total in vote.totals)
    return f"**{_names(vote.tops)}** {mark}; totals {totals} of {vote.voters} samples"


def _scores(samples: Sequence[Sample], item: Item) -> str:
    n, guided = len(item.responses), samples[0].meta is not None
    heads = ["sample", "shown order", *(f"Response {i + 1}" for i in range(n)), "correct"]
    rows = [heads + ["meta score", "kept"] * guided]
    rows.append(["---:"] * len(rows[0]))
    for sample in samples:
        order = " ".join(str(j + 1) for j in sample.order)
        cells = [str(sample.sample), order, *map(str, sample.scores or "–" * n)]
        cells.append(MARKS[sample.result])
        rows.append(cells + ([f"{sample.meta:.3f}", "●" if sample.kept else ""] if guided else []))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _trajectory(sample: Sample) -> list[str]:
    notes = list(sample.notes)
    scores = ", ".join(map(str, sample.scores or ()))
    facts = [MARKS[sample.result], f"scores {scores}" if scores else f"no scores: {notes.pop(0)}"]
    if sample.meta is not None:
        facts.append(f"meta score {sample.meta:.3f}")
    if sample.order != tuple(range(len(sample.order))):
        order = ", ".join(str(j + 1) for j in sample.order)
        facts.append(f"responses were shown in the order {order}, the text numbers them so")
    if sample.tokens:
        facts.append(f"{sample.tokens} tokens")
    heading = f"**Sample {sample.sample}**: {'; '.join([*facts, *notes])}"
    return [heading, _fence("".join(sample.parts))]


def _names(indices: Sequence[int]) -> str:
    return " and ".join(f"Response {i + 1}" for i in indices)


def _fence(text: str) -> str:
    """The text as it is: the fence is longer than any run of backticks inside."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _inline(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", " ".join(text.split()))
