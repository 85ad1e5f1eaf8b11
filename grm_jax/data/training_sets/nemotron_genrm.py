r"""Nemotron-RLHF-GenRM-v1 (nvidia): prompts of a pairwise judge with the ranking it should give.

Columns, by the card and the preview of its file: `messages` (a list that holds one list of turns),
`uuid`, `num_responses`, `score_1` and `score_2` (1 to 5, or null), `ranking` from 1 (response 1 is
far better) to 6 (response 2 is); there is no tie.

The card says which parts a prompt has; the markers between them are those of NVIDIA's published
templates for this judge, of which one writes Begin and one Start:

    #### Conversation Context ####     User: ..  Assistant: ..  User: ..   (parted by blank lines)
    #### Responses to be Scored ####   [The Begin of Response 1] .. [The End of Response 1] ..
    #### Evaluation Plan ####          left out here: our own prompts say how to judge
"""

import re

from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import require
from grm_jax.data.training_sets import rows
from grm_jax.text.prompts import Message

FILES = ("data/train.jsonl", "train.jsonl")

_PROMPT = re.compile(
    r"#### Conversation Context ####\n(?P<context>.*?)\n"
    r"#### Responses to be Scored ####\n+"
    r"\[The (?:Begin|Start) of Response 1\]\n(?P<first>.*?)\n?\[The End of Response 1\]\n+"
    r"\[The (?:Begin|Start) of Response 2\]\n(?P<second>.*?)\n?\[The End of Response 2\]\n+"
    r"#### Evaluation Plan ####",
    re.DOTALL,
)
_MARKERS = (
    "#### Conversation Context ####", "#### Responses to be Scored ####",
    "#### Evaluation Plan ####", " of Response 1]\n", " of Response 2]\n",
)  # fmt: skip
_TURN = re.compile(r"(?:^|\n\n)(System|User|Assistant): ")


def read(where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """One pair, named by its uuid; the strength of the ranking is in the note of the hint."""
    ranking = require(where, row, "ranking", int)
    if not 1 <= ranking <= 6:
        raise FieldError(where, "ranking", f"expected an integer from 1 to 6, got {ranking}")
    count = require(where, row, "num_responses", int)
    if count != 2:
        raise FieldError(where, "num_responses", f"expected 2, got {count}")
    prompt = _prompt(where, row)
    # First, because a search among many markers takes long.
    if any(prompt.count(marker) > (2 if "Response " in marker else 1) for marker in _MARKERS):
        raise rows.Unusable("markers inside a text")
    match = _PROMPT.search(prompt)
    if match is None:
        raise FieldError(where, "messages", "no context with two responses between the markers")
    yield rows.comparison(
        where, f"{uid.partition('/')[0]}/{require(where, row, 'uuid', str)}",
        _messages(match["context"]), (match["first"], match["second"]),
        (1.0, 0.0) if ranking <= 3 else (0.0, 1.0),
        query="messages", hint_note=rows.strength_note(max(4 - ranking, ranking - 3)),
    )  # fmt: skip


def _prompt(where: str, row: rows.Row) -> str:
    """Text of the only user turn."""
    outer = require(where, row, "messages", list)
    if len(outer) != 1 or not isinstance(outer[0], list):
        raise FieldError(where, "messages", "expected a list with one list of turns")
    turns = rows.conversation(where, {"messages[0]": outer[0]}, "messages[0]")
    asked = [turn.content for turn in turns if turn.role == "user"]
    if len(asked) != 1:
        raise FieldError(where, "messages[0]", f"expected one user turn, got {len(asked)}")
    return asked[0]


def _messages(context: str) -> list[Message]:
    """The turns of a context that was written as one text."""
    before, *rest = _TURN.split(context.strip())
    if before:
        raise rows.Unusable("a context without roles")
    return rows.turns_of(rest)
