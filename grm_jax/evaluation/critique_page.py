"""critiques.html: every comparison with the critiques of its samples, to search and to filter.

One file that opens from disk and loads nothing: its policy (CSP) allows only the style and the
script that are in it, by their hashes. The records are JSON in a script element, in which no "<" is
left; the page puts them on screen as text, never as HTML. So neither a model nor a data set can put
anything into the page but letters.

Verdicts are made elsewhere (`experiments.critiques`) and only shown here.
"""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from typing import NamedTuple

RESULTS = ("right", "wrong", "tie", "none", "single")


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
    """

    sample: int
    order: tuple[int, ...]
    scores: tuple[int, ...] | None
    result: str
    parts: tuple[str, str, str] | None
    notes: tuple[str, ...] = ()
    meta: float | None = None
    kept: bool = False


class Drawn(NamedTuple):
    """What one method drew for a comparison.

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
      drawn: by stage, such as "GRPO, greedy".
    """

    suite: str
    subset: str
    uid: str
    messages: tuple[tuple[str, str], ...]
    responses: tuple[str, ...]
    gold: tuple[int, ...]
    drawn: dict[str, Drawn]


def critique_page(items: Sequence[Item], *, title: str, notes: Sequence[str] = ()) -> str:
    """The page; equal inputs give equal text.

    Args:
      items: in the order of the list.
      title: of the page.
      notes: lines below it: what is measured, and what is left out.
    """
    folder = importlib.resources.files("grm_jax.evaluation") / "page"
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    skeleton = (folder / "page.html").read_text("utf-8")
    records = {"title": title, "notes": list(notes), "items": [_item(item) for item in items]}
    parts = {
        "{{title}}": _escaped(title),
        "{{style hash}}": _hash(style),
        "{{script hash}}": _hash(script),
        "{{style}}": style,
        "{{script}}": script,
        "{{records}}": _json(records),
    }
    for name, text in parts.items():  # records last: nothing in them is looked for
        head, tail = skeleton.split(name)
        skeleton = head + text + tail
    return skeleton


def _item(item: Item) -> dict:
    drawn = {}
    for name, one in item.drawn.items():
        votes = {label: [*vote] for label, vote in one.votes.items()}
        drawn[name] = {"votes": votes, "samples": one.samples, "disagreement": one.disagreement}
    return item._asdict() | {"drawn": drawn}


def _json(value: object) -> str:
    """ASCII, so that lone surrogates and line separators are escapes; no "<" of any element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _escaped(text: str) -> str:
    letters = (c if c.isascii() and (c.isalnum() or c == " ") else f"&#{ord(c)};" for c in text)
    return "".join(letters)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
