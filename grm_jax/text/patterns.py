r"""How long a regular expression of the user may take, decided before it meets a text.

Python's matcher goes back over its choices, and a text that fails at the very end makes it try
every combination of them. Two kinds of patterns are therefore refused: those that repeat a group
which repeats or chooses inside, as `(a+)+` does, whose combinations are exponential in the text;
and those whose remaining choices multiply to more than `MOST_WAYS`. A repetition is a choice only
where what it repeats can also be read as what comes next: `[^0-9]*[0-9]` ends at the first digit
and nowhere else, `.*[0-9]` at any of them.

The pattern is read as text, since Python's own parser of patterns is private. Characters stand for
classes: ASCII, those of the pattern, and two others. Where it is unsure, it counts more.
"""

import collections
import itertools
import math
import re
import string
from typing import NamedTuple

WINDOW = 1000  # characters that a pattern meets, so also the ways to end a repetition
MOST_WAYS = 4 * WINDOW  # one such repetition and a small choice or two: less than half a minute

_TOKENS = re.compile(
    r"(?P<skip>\(\?#[^)]*\)|\(\?[a-zA-Z]+\)|\\[AbBZ]|[\^$])"
    r"|(?P<reference>\(\?P=\w+\)|\\[1-9][0-9]?)"
    r"|(?P<open>\((?:\?(?:P?<[^=!>][^>]*>|<?[=!]|[>:]|\(\w+\)|[a-zA-Z-]+:))?)"
    r"|(?P<close>\))|(?P<or>\|)"
    r"|(?P<repeat>(?:[*+?]|\{(?:[0-9]+|[0-9]*,[0-9]*)\})[?+]?)"
    r"|(?P<one>\\x..|\\u.{4}|\\U.{8}|\\N\{[^}]*\}|\\0[0-7]{0,2}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.)",
    re.DOTALL,
)
_VERBOSE = re.compile(r"\(\?[a-wyzA-Z]*x[a-zA-Z]*(?:-[a-zA-Z]+)?[:)]")


class _Piece(NamedTuple):
    """A class or character of a pattern, or after such pieces the choice that is made of them.

    Attributes:
      characters: it may be, or of a choice: those that, coming next, leave it open.
      ways: of a choice; 1 for what is none.
      certain: whether every match has to pass it.
    """

    characters: frozenset[str]
    ways: int = 1
    certain: bool = True


class _Group:
    """A group that is open: where its pieces begin, its branches, whether it is around a place."""

    def __init__(self, start: int, opening: str = ""):
        self.start, self.branches = start, [start]
        self.beside = opening[:3] in ("(?=", "(?!") or opening[:4] in ("(?<=", "(?<!")
        self.varies = opening[:3] == "(?("


def check(pattern: str) -> None:
    """Refuses a pattern, one that compiles, that may take long.

    Raises:
      ValueError: what it repeats or chooses, or that it is verbose: with the flag x, spaces and
        comments hide what is repeated.
    """
    if _VERBOSE.search(pattern):
        raise ValueError(f"the pattern {pattern!r} has the flag x; spell it without")
    pieces = _pieces(pattern)
    ways = math.prod(
        piece.ways for i, piece in enumerate(pieces) if piece.characters & _next(pieces[i + 1 :])
    )
    if ways > MOST_WAYS:
        raise ValueError(
            f"the pattern {pattern!r} has several repetitions whose ends are open, as in .*.*x, "
            "and may take minutes; let them repeat only what cannot come next, as in [^0-9]*[0-9]"
        )


def _next(pieces: list[_Piece]) -> frozenset[str]:
    """The characters that may come first of what follows."""
    found = frozenset()
    for piece in pieces:
        if piece.ways == 1:
            found |= piece.characters
        if piece.certain:
            break
    return found


def _pieces(pattern: str) -> list[_Piece]:
    known = frozenset(string.printable + pattern + "\u00e9\u4e2d")
    pieces: list[_Piece] = []
    groups = [_Group(0)]
    last = _Group(0)  # the group or single piece that a repetition is about
    for token in _TOKENS.finditer(pattern):
        text, kind = token[0], token.lastgroup
        if kind == "one":
            last = _Group(len(pieces))
            pieces.append(_Piece(_characters(text, known)))
        elif kind == "reference":
            last = _Group(len(pieces))
            pieces.append(_Piece(known, certain=False))
        elif kind == "open":
            groups.append(_Group(len(pieces), text))
        elif kind == "or":
            groups[-1].branches.append(len(pieces))
        elif kind == "close":
            last = groups.pop()
            _close(pieces, last, known)
            groups[-1].varies |= last.varies
        elif kind == "repeat":
            _repeat(pattern, pieces, last, text)
            groups[-1].varies |= last.varies
    _close(pieces, groups[0], known)
    return pieces


def _close(pieces: list[_Piece], group: _Group, known: frozenset[str]) -> None:
    """Of a group with branches and of one beside the text no piece is certain."""
    branches = [
        pieces[start:end] for start, end in itertools.pairwise([*group.branches, len(pieces)])
    ]
    if len(branches) > 1 or group.beside:
        _unsure(pieces, group.start)
    if len(branches) > 1:
        group.varies = True
        firsts = [_next(own) if any(p.certain for p in own) else known for own in branches]
        ways = max(collections.Counter(itertools.chain(*firsts)).values())
        if ways > 1:  # the branches that begin alike may all read the same
            pieces.append(_Piece(known, ways, False))


def _repeat(pattern: str, pieces: list[_Piece], unit: _Group, text: str) -> None:
    least, most = _bounds(text)
    if most > 1 and unit.varies:
        raise ValueError(
            f"the pattern {pattern!r} repeats a group that repeats or chooses inside, as (a+)+ "
            "does, and may take exponential time; spell it without"
        )
    if least == 0:
        _unsure(pieces, unit.start)
    if most > least:
        unit.varies = True
        inside = frozenset().union(*(piece.characters for piece in pieces[unit.start :]))
        pieces.append(_Piece(inside, min(most - least + 1, WINDOW), False))


def _bounds(text: str) -> tuple[int, int]:
    """The least and the most repetitions."""
    if text[0] != "{":
        return int(text[0] == "+"), 1 if text[0] == "?" else WINDOW
    least, comma, most = text[1 : text.index("}")].partition(",")
    return int(least or 0), int(most or WINDOW) if comma else int(least)


def _unsure(pieces: list[_Piece], start: int) -> None:
    pieces[start:] = [piece._replace(certain=False) for piece in pieces[start:]]


def _characters(text: str, known: frozenset[str]) -> frozenset[str]:
    """Those that a class or a character may be, by any flags; all where it is not among them."""
    if re.search(r"\\[xuUN0-9]", text):
        return known
    try:
        one = re.compile(text, re.DOTALL | re.IGNORECASE)
    except re.error:
        one = re.compile(re.escape(text), re.IGNORECASE)  # such as a brace of its own
    return frozenset(filter(one.fullmatch, known)) or known
