r"""Scores read from generated text, and the correctness rule.

Pass only the text that the model generated: a prompt contains boxes of its own.

`parse_strict` is the parser of training, voting and evaluation. `parse_lenient` is a diagnostic:
it says how many failures are failures of form only.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

REASONS = ("ok", "no_box", "unclosed_box", "count", "not_integer", "out_of_range")


class Parsed(NamedTuple):
    """Scores in presented order, or None with the reason (one of REASONS)."""

    scores: tuple[int, ...] | None
    reason: str


# TeX skips spaces between a command and its brace. `\boxed` as the very last thing was cut off.
_BRACE = re.compile(r"\\boxed\s*(?:\{|\Z)|[{}]", re.ASCII)
_CANONICAL = re.compile(r"0|-?[1-9][0-9]*")
_ASCII_SPACE = " \t\r\n\f\v"
_MAX_DIGITS = 9  # longer integers are out of any range; int() refuses very long ones


def boxes_in(text: str) -> list[slice | None]:
    r"""Where the contents of all boxes stand, as they open; None for one that never closes.

    Places instead of texts, because boxes inside boxes would be copied once a level.
    """
    boxes: list[slice | None] = []
    starts: list[int] = []
    open_braces: list[int] = []  # index of the box, or -1
    for brace in _BRACE.finditer(text) if "\\boxed" in text else ():
        if brace.group() == "{":
            open_braces.append(-1)
        elif brace.group() != "}":
            open_braces.append(len(boxes))
            starts.append(brace.end())
            boxes.append(None)
        elif open_braces and (index := open_braces.pop()) >= 0:
            boxes[index] = slice(starts[index], brace.start())
    return boxes


def _split(content: str, separator: str = ",") -> list[str]:
    return re.split(separator, content) if content.strip() else []


def parse_strict(text: str, n: int, low: int = 1, high: int = 10) -> Parsed:
    r"""The last `\boxed{...}` of generated `text`: exactly n integers in [low, high].

    - The box that opens last counts; intermediate scores before it do not. If it never closes
      (a truncated trajectory), the result is 'unclosed_box' and never an earlier box. A text that
      is cut off before its last box opens is not recognisable here: look at the finish reason.
    - One or more backslashes before `boxed`, and spaces before the brace, are the same box.
      `\Boxed`, `boxed{` without a backslash, `[[8, 9]]` and `[8, 9]` are none.
    - Items are separated by commas and may be surrounded by ASCII white space. Each is an integer
      in its one canonical form: ASCII digits, no leading zero ('08'), no plus sign, no decimals,
      no fraction, no markup, no inner braces.
    - Checked in this order: 'count', 'not_integer', 'out_of_range'.
    """
    return _strict(text, boxes_in(text), n, low, high)


def _strict(text: str, boxes: list[slice | None], n: int, low: int, high: int) -> Parsed:
    if not boxes:
        return Parsed(None, "no_box")
    if boxes[-1] is None:
        return Parsed(None, "unclosed_box")
    items = [item.strip(_ASCII_SPACE) for item in _split(text[boxes[-1]])]
    if len(items) != n:
        return Parsed(None, "count")
    if not all(_CANONICAL.fullmatch(item) for item in items):
        return Parsed(None, "not_integer")
    if any(len(item) > _MAX_DIGITS or not low <= int(item) <= high for item in items):
        return Parsed(None, "out_of_range")
    return Parsed(tuple(int(item) for item in items), "ok")


def last_box_start(text: str) -> int | None:
    r"""Index of the first character inside the box that opens last; None without an open box."""
    start = None
    for brace in _BRACE.finditer(text):
        if brace.group() not in ("{", "}"):
            start = brace.end() if brace.group().endswith("{") else None
    return start


_DOUBLE_BRACKETS = re.compile(r"\[\[([^\[\]]*)\]\]")
_SEPARATOR = r"(?<!\\)[,;，、；]|\\quad|\band\b"
# what a model wraps around a number without changing it
_WRAPPING = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed)\b|\\[,;! ]|[\[\](){}$*`~\s\u200b]")
_LABEL = re.compile(r"(?<![a-z])[a-z]+[0-9]*[:=]", re.IGNORECASE)  # from the start of a word only
_NUMBER = re.compile(r"([+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?)(?:/([0-9]{1,9}))?(?:points?|pts?)?\.?")


def _lenient_number(item: str, high: int) -> float | None:
    item = _WRAPPING.sub("", item)
    item = _LABEL.sub("", item, count=1)
    match = _NUMBER.fullmatch(item)
    if match is None or (match[2] is not None and int(match[2]) != high):
        return None
    return float(match[1])


def parse_lenient(text: str, n: int, low: int = 1, high: int = 10) -> Parsed:
    r"""The n scores as a patient reader would take them; a superset of `parse_strict`.

    Whatever the strict parser accepts is returned unchanged. Otherwise:

    - without any box, the last `[[...]]` is the box; a single `[...]` never is;
    - one box per response (`\boxed{8}, \boxed{9}`): if the last n boxes hold one item each, they
      are the n scores;
    - items may be separated by `;`, `and`, or full-width commas, and wrapped in brackets, braces,
      `\text`, `$`, `*`, spaces of any kind;
    - labels (`Response 1: 8`), a denominator equal to `high` (`8/10`), a unit (`8 points`), a plus
      sign, leading zeros and a final full stop are ignored;
    - a decimal is rounded half up (8.5 -> 9); then the score is clipped to [low, high].

    A box that never closes stays 'unclosed_box': `\boxed{8, 1` may be the start of a 10. The
    reason 'out_of_range' does not occur, except for numbers of more than 9 digits, which are
    'not_integer'.
    """
    boxes = boxes_in(text)
    strict = _strict(text, boxes, n, low, high)
    if strict.scores is not None or strict.reason == "unclosed_box":
        return strict
    boxes = boxes or [slice(*match.span(1)) for match in _DOUBLE_BRACKETS.finditer(text)]
    if not boxes:
        return strict
    items = _split(text[boxes[-1]], _SEPARATOR)
    if len(items) == 1 and n > 1 and len(boxes) >= n:
        last = [_split(text[box] if box else "", _SEPARATOR) for box in boxes[-n:]]
        if all(len(items_of_box) == 1 for items_of_box in last):
            items = [items_of_box[0] for items_of_box in last]
    if len(items) != n:
        return Parsed(None, "count")
    numbers = [_lenient_number(item, high) for item in items]
    if any(number is None for number in numbers):
        return Parsed(None, "not_integer")
    rounded = (math.floor(number + 0.5) for number in numbers)
    return Parsed(tuple(min(max(score, low), high) for score in rounded), "ok")


def is_correct(scores: Sequence[int] | None, rewards: Sequence[float]) -> bool:
    """Equation 10: does a trajectory score the best response strictly above all others?

    Args:
      scores: n scores in the order of `rewards`, or None for an unparsed trajectory (incorrect).
      rewards: n ground-truth rewards. n >= 2: the maximum must be unique; a tie of scores at the
        top is incorrect, the order among the others is irrelevant. n == 1: the score must equal
        the reward (0 or 1 in training).

    Raises:
      ValueError: no rewards, a reward that is not finite, a maximum that is not unique, or a
        number of scores other than n.
    """
    n = len(rewards)
    if n == 0:
        raise ValueError("rewards: at least one is needed")
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"rewards: must be finite, got {tuple(rewards)}")
    best = max(range(n), key=rewards.__getitem__)
    if n > 1 and sum(reward == rewards[best] for reward in rewards) > 1:
        raise ValueError(f"rewards: the maximum must be unique, got {tuple(rewards)}")
    if scores is None:
        return False
    if len(scores) != n:
        raise ValueError(f"scores: expected {n}, got {len(scores)}")
    if n == 1:
        return scores[0] == rewards[0]
    return all(scores[best] > score for i, score in enumerate(scores) if i != best)
