"""critiques.html: every comparison with the critiques of its samples, to search and to filter.

One file that opens from disk and loads nothing: its policy (CSP) allows only the style and the
script that are in it, by their hashes. The records are JSON in a script element, in which no "<" is
left; the page puts them on screen as text, never as HTML. So neither a model nor a data set can put
anything into the page but letters.

`samples_page` shows a few of the same records as Markdown. Shape letters: C comparisons, S samples.
"""

import base64
import collections
import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax import voting
from grm_jax.benchmarks import evenly
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite, ballots_of, last_sampled
from grm_jax.evaluation.method import STAGES, VOTES, Method
from grm_jax.text.parts import split_parts

RESULTS = ("right", "wrong", "tie", "none", "single")
MAX_TEXTS = 10_000  # a page of 30 MB; it says how many texts it leaves out, and counts them


class Vote(NamedTuple):
    """A verdict over samples, or of a greedy one.

    Attributes:
      result: "right" if all responses at the top are, "wrong" if none is, "tie" otherwise; "none"
        without any scores, "single" for one response, which is neither right nor wrong.
      tops: indices of the responses at the top.
      totals: what the aggregation makes of the scores, by response; () without scores.
      voters: samples that count.
    """

    result: str
    tops: tuple[int, ...]
    totals: tuple[float, ...]
    voters: int


class Sample(NamedTuple):
    """A trajectory on the page.

    Attributes:
      sample: its index.
      order: original indices of the responses as they were shown, which is how the text numbers
        them.
      scores: by original response, or None.
      result: of this sample alone; see `Vote`.
      parts: principles, critique, scores as text; None if the page leaves the text out.
      notes: such as "cut at the length limit".
      meta: score of the meta RM, or None.
      kept: guided voting counts it.
      tokens: that were generated; in samples.md only.
    """

    sample: int
    order: tuple[int, ...]
    scores: tuple[int, ...] | None
    result: str
    parts: tuple[str, str, str] | None
    notes: tuple[str, ...] = ()
    meta: float | None = None
    kept: bool = False
    tokens: int = 0


class Answers(NamedTuple):
    """Samples of one stage for a comparison, and the votes over them.

    Attributes:
      votes: by name of a method of the suite, such as "Voting@8"; the first one is that of all
        samples.
      samples: by index.
      disagreement: share of the samples with scores whose highest score is not on a response at
        the top of the vote; None for a single response, or without scores.
    """

    votes: dict[str, Vote]
    samples: tuple[Sample, ...]
    disagreement: float | None


class Item(NamedTuple):
    """A comparison on the page.

    Attributes:
      suite, subset, uid: what names it.
      messages: (role, text).
      responses: their texts.
      gold: indices of the right ones; for a single response () or (0,), not correct or correct.
      drawn: by stage, such as "GRPO, greedy"; first that of the stage that votes.
      rewards: of each response; in samples.md only.
    """

    suite: str
    subset: str
    uid: str
    messages: tuple[tuple[str, str], ...]
    responses: tuple[str, ...]
    gold: tuple[int, ...]
    drawn: dict[str, Answers]
    rewards: tuple[float, ...] = ()


def suite_items(suite: Suite, counting: CountingRules, most: int) -> tuple[list[Item], str]:
    """Comparisons for the page, with at most so many texts, and a line that says which they are.

    All comparisons, or `most` evenly spread ones; of their samples, all or equally many, right and
    wrong ones in turn.
    """
    voter = last_sampled(suite)
    greedy = [d for d in suite.drawn if d.method == Method(voter.stage, kind="greedy")]
    chosen = evenly(range(len(suite.comparisons)), most)
    texts = max(1, most // len(chosen) - len(greedy))
    stages: list[dict[str, Answers]] = [{} for _ in chosen]
    for drawn in (voter, *greedy):
        label, votes, kept_CS = _votes(suite, drawn, counting)
        for answers, c in zip(stages, chosen, strict=True):
            comparison = suite.comparisons[c]
            by_name = {name: _vote(verdicts, c, comparison) for name, verdicts in votes.items()}
            samples = _samples(suite, drawn, c, kept_CS[c], texts, counting)
            differ = _disagreement(samples, by_name[next(iter(by_name))], comparison)
            answers[label] = Answers(by_name, samples, differ)
    items = [_item(suite, c, answers) for answers, c in zip(stages, chosen, strict=True)]
    per = len(voter.groups[0])
    rows = f" ({suite.coverage})" if suite.coverage else ""
    return items, (
        f"{suite.name}: {len(chosen):,} of {len(suite.comparisons):,} comparisons{rows}; texts of "
        f"{min(texts, per)} of {per} samples"
    )


def _item(suite: Suite, c: int, drawn: dict[str, Answers]) -> Item:
    comparison = suite.comparisons[c]
    gold = tuple(comparison.winners)
    if comparison.n == 1:
        gold = (0,) if comparison.label else ()
    messages = tuple((message.role, message.content) for message in comparison.messages)
    names = (suite.name, comparison.subset, comparison.uid)
    return Item(*names, messages, comparison.responses, gold, drawn, tuple(comparison.rewards))


def _votes(
    suite: Suite, drawn: Drawn, counting: CountingRules
) -> tuple[str, dict[str, voting.Verdicts], np.ndarray]:
    """(what was drawn, the verdicts of all its samples, which of them guided voting keeps)."""
    ballots = ballots_of(suite, drawn, counting)
    k = min(map(len, drawn.groups))
    if drawn.greedy:
        label = vote = drawn.method.label()
    else:
        label = f"{STAGES[drawn.stage]}, {k} samples"
        vote, guided = (Method(drawn.stage, kind=kind, k=k).label(named=False) for kind in VOTES)
    kept_CS = {vote: ballots.drawn_CS}
    guided_CS = np.zeros(ballots.drawn_CS.shape, bool)
    if drawn.meta is not None:
        k_meta = dict(zip(counting.ks, counting.k_metas, strict=True)).get(k, voting.half(k))
        guided_CS = np.asarray(voting.select_guided(ballots, ballots.drawn_CS, k_meta))
        kept_CS[guided] = guided_CS
    votes = {
        name: jax.device_get(voting.totals(ballots, keep_CS, counting.aggregation))
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
    suite: Suite, drawn: Drawn, c: int, kept_S: np.ndarray, texts: int, counting: CountingRules
) -> tuple[Sample, ...]:
    comparison, trajectories = suite.comparisons[c], drawn.groups[c]
    lenient = counting.parse == "lenient"
    scores = [trajectory.original_scores(lenient=lenient) or () for trajectory in trajectories]
    results = [_result(_tops(sample_scores), comparison) for sample_scores in scores]
    with_text = set(in_turn(results)[:texts])
    samples = []
    for s, trajectory in enumerate(trajectories):
        notes = [] if scores[s] else [trajectory.parse_reason]
        if trajectory.finish == "length":
            notes.append("cut at the length limit")
        if trajectory.truncated:
            notes.append("the responses were shortened to fit the prompt")
        parts = tuple(split_parts(trajectory.text)) if s in with_text else None
        meta = None if drawn.meta is None else round(float(drawn.meta[c][s]), 4)
        samples.append(
            Sample(trajectory.sample, trajectory.order, scores[s] or None, results[s], parts,
                   tuple(notes), meta, bool(kept_S[s]), len(trajectory.token_ids))
        )  # fmt: skip
    return tuple(samples)


def _tops(scores: Sequence[int]) -> list[int]:
    return [i for i, score in enumerate(scores) if score == max(scores)]


def in_turn(results: Sequence[str]) -> list[int]:
    """Places of right and of other samples in turn, so that the first few show both."""
    rank: collections.Counter[bool] = collections.Counter()
    keys = []
    for s, result in enumerate(results):
        right = result == "right"
        keys.append((rank[right], not right, s))
        rank[right] += 1
    return [s for *_, s in sorted(keys)]


def _disagreement(samples: Sequence[Sample], vote: Vote, comparison: Comparison) -> float | None:
    voters = [sample.scores for sample in samples if sample.scores]
    if comparison.n == 1 or not voters:
        return None
    return round(float(np.mean([not {*_tops(scores)} & {*vote.tops} for scores in voters])), 4)


def legend(counting: CountingRules) -> str:
    """Explanation of the words and numbers of the page."""
    return (
        "right: every response with the highest total is; tie: some of them; no verdict: no sample "
        f"has scores (parser {counting.parse!r}). Totals: aggregation {counting.aggregation!r}. "
        "Differ: share of the samples that score another response highest than the vote does. "
        "Responses are numbered as in the data; a text numbers them as they were shown."
    )


def critique_page(items: Sequence[Item], *, title: str, notes: Sequence[str] = ()) -> str:
    """The page of the items in their order, notes below its title; equal inputs, equal text."""
    folder = importlib.resources.files("grm_jax.evaluation") / "page"
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    skeleton = (folder / "page.html").read_text("utf-8")
    records = {"title": title, "notes": list(notes), "items": [_record(item) for item in items]}
    parts = {
        "{{title}}": _escaped(title),
        "{{style hash}}": _hash(style),
        "{{script hash}}": _hash(script),
        "{{style}}": style,
        "{{script}}": script,
        # ASCII, so that lone surrogates and line separators are escapes; no "<" of any element.
        "{{records}}": json.dumps(
            records, ensure_ascii=True, allow_nan=False, separators=(",", ":")
        ).replace("<", "\\u003c"),
    }
    for name, text in parts.items():  # records last: nothing in them is looked for
        head, tail = skeleton.split(name)
        skeleton = head + text + tail
    return skeleton


def _record(item: Item) -> dict:
    """The JSON of an item: all but what is in samples.md only."""
    shown = Sample._fields.index("tokens")
    drawn = {
        name: answers._asdict() | {"samples": [sample[:shown] for sample in answers.samples]}
        for name, answers in item.drawn.items()
    }
    return {key: drawn if key == "drawn" else value
            for key, value in item._asdict().items() if key != "rewards"}  # fmt: skip


def _escaped(text: str) -> str:
    letters = (c if c.isascii() and (c.isalnum() or c == " ") else f"&#{ord(c)};" for c in text)
    return "".join(letters)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
