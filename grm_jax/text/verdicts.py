r"""Verdicts of judges of any kind: what a completion says of the responses that its prompt showed.

A verdict kind is spelled in one string, `config.template.verdict`:

    boxed            a whole number from 1 to 10 for each response, in one \boxed{}; see `scores`
    letters          [[A]], [[B]], ...: the response shown at this place is best; [[C]] of a pair is
                     a tie
    last_number:LOW-HIGH
                     the score of a single response, at the end
    json:KEY         the value of KEY in a JSON object: the score of a single response, a list of
                     scores, or the name of the best of several
    regex:PATTERN    named groups: score_1, score_2, ... in the order shown, or winner, a name

The scores of the last two may have a range too, before the key or pattern: json:1-5:KEY. A score
outside of the range is no verdict: votes are sums, so one year that is read as a score would
outweigh every other sample.

A name is a letter or the number of a place, such as B or 2, also after a word as in "Response 2".

The best response gets one vote and the others none; a tie of a pair is half a vote for each. Every
kind is read in two ways, as `scores.parse_strict` and `scores.parse_lenient` read boxes: strictly,
where a verdict stands in exactly its form at its place, so that a quotation of the instructions is
none; and leniently, as a patient reader would, which changes no verdict that is read strictly. Pass
only what the judge answered. No text raises, and all are read in time in proportion to their
length; a pattern of the user sees the last `WINDOW` characters, and see `patterns`.
"""

import functools
import json
import math
import re
from typing import NamedTuple

from grm_jax.text import patterns
from grm_jax.text.patterns import WINDOW
from grm_jax.text.scores import Parsed, parse_lenient, parse_strict

MODES = ("list", "pair", "single")
KINDS = ("boxed", "letters", "last_number", "json", "regex")
# Boxes have those of `scores`. The others: no verdict where it has to be, more than one there, the
# name of no response, a value that is no score or lies outside of the range, a wrong number of
# scores.
REASONS = ("ok", "no_verdict", "several_verdicts", "unknown_name", "not_a_number", "out_of_range",
           "count")  # fmt: skip

_STRICT_SCORE = re.compile(r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?")
_RANGE = re.compile(rf"({_STRICT_SCORE.pattern})-({_STRICT_SCORE.pattern})")
_SLASHES = "/\u2044\u2215\uff0f\u00f7"
_SIGNS = "^\u00d7\u2212"  # power, times, minus: a number beside them is a part of another one
# A number that begins no range, as 1-10 and 1 to 10 do.
_SCORE = re.compile(
    rf"(?<![\w.,{_SIGNS}])[+-]?[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?"
    rf"(?![A-Za-z0-9_]|[.,][0-9]|\s{{0,3}}(?:[-\u2013{_SIGNS}]|to\b|\*\*)\s{{0,3}}[0-9])"
)
# What the end of a scale, range or power comes after, as in 8/10, 8 out of 10, 1-10, 10^2, 10**2.
_SCALE = re.compile(
    rf"(?:(?:[{_SLASHES}{_SIGNS}]|[0-9]\s?[-\u2013]|\bof|\bto)\s{{0,3}}|[0-9]\*\*?)\Z",
    re.IGNORECASE,
)
_LAST_SCORE = re.compile(
    rf"(?<![\w.,+{_SLASHES}{_SIGNS}-])({_STRICT_SCORE.pattern})"
    r"(?:[\s.*_)\]}>\"'`$]|</\w{1,20}>)*\Z"
)
_LETTERS = re.compile(r"\[\[([^\[\]\n]{0,40})\]\]")
_NAMES = "Response|Assistant|Answer|Output|Model|Option"  # before a letter or number
_STRICT_WINNER = re.compile(rf"(?:(?:{_NAMES})[ _]?)?([A-Z]|[1-9][0-9]{{0,2}})")
_WINNER = re.compile(rf"(?:(?:{_NAMES})[\s_]{{0,3}})?([a-z]|[1-9][0-9]{{0,2}}|tie)", re.IGNORECASE)
_MARKS = " \t\r\n\"'`*_()[]{}<>.:$\\"  # around a value


class Verdict(NamedTuple):
    """A kind of verdict: one of `KINDS`, the range of its scores, and the key or the pattern.

    A range is spelled LOW-HIGH, both inclusive; "" for none.
    """

    kind: str
    range: str = ""
    argument: str = ""

    def read(self, text: str, n: int, *, pair: bool = False, lenient: bool = False) -> Parsed:
        """The scores of the n responses that were shown, in presented order, or None.

        Args:
          text: what the judge answered.
          n: the responses that its prompt showed.
          pair: whether there may be a tie, by the letter C.
          lenient: the way of reading.

        Returns:
          The scores, of which those that are whole are int, with the reason: one of `REASONS`, or
          of `scores.REASONS` for boxes.
        """
        if self.kind == "boxed":
            return (parse_lenient if lenient else parse_strict)(text, n)
        read, (low, high) = _READERS[self.kind], _limits(self.range)
        strict = read(self.argument, text, _Shown(n, pair, False, low, high))
        if strict.scores is not None or not lenient:
            return strict
        return read(self.argument, text, _Shown(n, pair, True, low, high))


def parse_kind(text: str, mode: str) -> Verdict:
    """The verdict kind that `text` spells, for prompts of one of `MODES`.

    Raises:
      ValueError: an unknown kind, a range that is empty, a pattern that does not compile, has other
        groups or may take long, or a kind that says nothing of what a prompt of this mode shows.
    """
    kind, colon, rest = text.partition(":")
    limits, _, argument = rest.partition(":")
    if kind != "last_number" and not (_RANGE.fullmatch(limits) and argument):
        limits, argument = "", rest  # a key or a pattern may have colons of its own
    if kind == "last_number":
        right = _RANGE.fullmatch(rest)
    else:
        right = bool(colon) == bool(argument) == (kind in ("json", "regex"))
    if kind not in KINDS or not right:
        raise ValueError(
            "expected boxed, letters, last_number:LOW-HIGH (such as last_number:1-10), json:KEY, "
            f"json:LOW-HIGH:KEY, regex:PATTERN or regex:LOW-HIGH:PATTERN, got {text!r}"
        )
    low, high = _limits(limits)
    if not low < high:
        raise ValueError(f"the range {limits!r} is empty: expected LOW-HIGH, such as 1-10")
    if kind == "letters" and mode == "single":
        raise ValueError("letters name the best of several responses, and mode 'single' shows one")
    if kind == "last_number" and mode != "single":
        raise ValueError(f"last_number is the score of one response, and mode {mode!r} shows more")
    if kind == "regex":
        _check_pattern(argument, mode)
    if limits and "(?P<winner>" in argument:
        raise ValueError(f"the range {limits!r} is one of scores, and the pattern names a winner")
    return Verdict(kind, limits, argument)


def _limits(spelled: str) -> tuple[float, float]:
    if not spelled:
        return -math.inf, math.inf
    low, high = _RANGE.fullmatch(spelled).groups()
    return float(low), float(high)


def one_vote(best: int, n: int) -> tuple[int, ...]:
    """A vote for the response at index `best` of n, and none for the others."""
    return tuple(int(i == best) for i in range(n))


class _Shown(NamedTuple):
    """What a prompt showed, the way of reading its answer, and the range of scores."""

    n: int
    pair: bool
    lenient: bool
    low: float
    high: float

    def scores(self, values: list[str]) -> Parsed:
        """The scores that these texts spell, one for each response."""
        if len(values) != self.n:
            return Parsed(None, "count")
        if self.lenient:
            found = [_SCORE.search(value[:WINDOW]) for value in values]
        else:
            found = [_STRICT_SCORE.fullmatch(value) for value in values]
        if not all(found):
            return Parsed(None, "not_a_number")
        numbers = [float(match[0]) for match in found]
        if not all(self.low <= number <= self.high for number in numbers):
            return Parsed(None, "out_of_range")
        return Parsed(tuple(int(x) if x.is_integer() else x for x in numbers), "ok")

    def winner(self, value: str) -> Parsed:
        """The votes for the response that a text names by its letter or place."""
        if self.lenient:
            match = _WINNER.fullmatch(value[:WINDOW].strip(_MARKS))
        else:
            match = _STRICT_WINNER.fullmatch(value)
        name = match[1].upper() if match else ""
        if self.pair and name in ("C", "TIE"):
            return Parsed((0.5, 0.5), "ok")
        place = int(name) - 1 if name.isdigit() else ord(name) - ord("A") if len(name) == 1 else -1
        if not 0 <= place < self.n or self.n == 1:
            return Parsed(None, "unknown_name")
        return Parsed(one_vote(place, self.n), "ok")


def _letters(_: str, text: str, shown: _Shown) -> Parsed:
    """Strictly the only brackets of the last line, with a capital letter; else the last ones."""
    text = text.rstrip()
    place = text if shown.lenient else text[max(text.rfind("\n"), text.rfind("\r")) + 1 :]
    found = _LETTERS.findall(place)
    if not found:
        return Parsed(None, "no_verdict")
    if len(found) > 1 and not shown.lenient:
        return Parsed(None, "several_verdicts")
    if not shown.lenient and not re.fullmatch("[A-Z]", found[-1]):
        return Parsed(None, "unknown_name")
    return shown.winner(found[-1])


def _last_number(_: str, text: str, shown: _Shown) -> Parsed:
    """Strictly the number that the text ends with; else the last one that ends no scale."""
    text = text.rstrip()
    found = _SCORE.finditer(text)
    if not shown.lenient:
        text = text[-WINDOW:]
        last = _LAST_SCORE.search(text)
        found = (last,) if last else ()
    for match in reversed([*found]):
        if not _SCALE.search(text[max(match.start() - 12, 0) : match.start()]):
            return shown.scores([match[match.re.groups]])
    return Parsed(None, "no_verdict")


def _json(key: str, text: str, shown: _Shown) -> Parsed:
    """Strictly of the object, from the start of a line, that ends the text; else the last KEY."""
    try:
        if shown.lenient:
            name = re.escape(json.dumps(key, ensure_ascii=False))
            last = [*re.finditer(rf"(?<!\\){name}\s*:\s*", text)][-1]
            value, _ = json.JSONDecoder().raw_decode(text, last.end())
        else:
            body = text.rstrip().removesuffix("```").rstrip()
            found = json.loads(body if body[:1] == "{" else body[body.rindex("\n{") + 1 :])
            value = found[key]
    except (ValueError, RecursionError, LookupError):  # no JSON, too deep, no such key
        return Parsed(None, "no_verdict")
    if shown.n > 1 and type(value) in (str, int):
        return shown.winner(str(value))
    values = value if isinstance(value, list) else [value]
    return shown.scores([_spelled(value) for value in values[: shown.n + 1]])


def _spelled(value: object) -> str:
    """A string of JSON, or a number of it as text; "" for what is neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        return ""
    if abs(value - round(value)) <= 1e-9:
        return str(round(value))
    return f"{value:.9f}".rstrip("0")


def _regex(pattern: str, text: str, shown: _Shown) -> Parsed:
    """The last match; leniently in either case."""
    compiled = re.compile(pattern, re.IGNORECASE if shown.lenient else 0)
    found = [*compiled.finditer(text[-WINDOW:])]
    if not found:
        return Parsed(None, "no_verdict")
    groups = found[-1].groupdict()
    if "winner" in groups:
        return shown.winner(groups["winner"] or "")
    names = [name for name in _score_groups(len(groups)) if groups[name] is not None]
    if names != _score_groups(len(names)):
        return Parsed(None, "count")
    return shown.scores([groups[name] for name in names])


_READERS = {"letters": _letters, "last_number": _last_number, "json": _json, "regex": _regex}


def _score_groups(count: int) -> list[str]:
    return [f"score_{i + 1}" for i in range(count)]


@functools.cache
def _check_pattern(pattern: str, mode: str) -> None:
    try:
        names = {*re.compile(pattern).groupindex}
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from error
    wanted = {"single": [{"score_1"}], "pair": [{"winner"}, {"score_1", "score_2"}],
              "list": [{"winner"}, {*_score_groups(max(len(names), 1))}]}[mode]  # fmt: skip
    if names not in wanted:
        spelled = " or ".join(", ".join(sorted(one)) for one in wanted)
        more = " and so on" if mode == "list" else ""
        raise ValueError(
            f"mode {mode!r} needs a pattern with the named groups {spelled}{more}, and {pattern!r} "
            f"has {', '.join(sorted(names)) or 'none'}"
        )
    patterns.check(pattern)
