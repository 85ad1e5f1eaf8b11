r"""MATH-style problems with sampled answers: graded by rule, as pairs and 0/1 singles.

Columns of the problems are those of MATH (Hendrycks et al., 2021; card of
hendrycks/competition_math and its copies): `problem`, and either `answer` or a `solution` with its
answer in a box. The samples are a list of texts, `responses`, in the same row; no published set has
them, so a script of the user's puts them there. The paper samples its own (appendix C.1).

An answer is the content of the last `\boxed{}`. Two are the same if they are after the rewriting in
`normal_answer`, or as exact numbers; nothing is computed. A sample without a closed box is wrong.
"""

import re
from fractions import Fraction

from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import one_turn, require
from grm_jax.data.training_sets import rows
from grm_jax.text.scores import boxes_in

FILES = ("*.jsonl", "*.jsonl.gz", "*.parquet")


def read(where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """The i-th right sample against the i-th wrong one; each sample left over is a single.

    The right one stands first in a pair; a single has reward 1 if it is right, else 0.
    """
    if row.get("answer") is not None:
        gold = require(where, row, "answer", str)
    else:
        gold = final_answer(require(where, row, "solution", str))
    if gold is None:
        raise rows.Unusable("no final answer")
    messages = one_turn(where, row, "problem")
    samples = require(where, row, "responses", list)
    for i, sample in enumerate(samples):
        if not isinstance(sample, str):
            raise FieldError(where, f"responses[{i}]", "expected a string")
    right = [s for s in samples if same_answer(final_answer(s), gold)]
    wrong = [s for s in samples if not same_answer(final_answer(s), gold)]
    pairs = min(len(right), len(wrong))
    if not samples:
        raise rows.Unusable("no samples")
    for i in range(pairs):
        pair = right[i], wrong[i]
        yield rows.comparison(where, f"{uid}/{i}", messages, pair, (1.0, 0.0), query="problem")
    rest = [(s, 1.0) for s in right[pairs:]] + [(s, 0.0) for s in wrong[pairs:]]
    for i, (sample, reward) in enumerate(rest, start=pairs):
        yield rows.comparison(where, f"{uid}/{i}", messages, (sample,), (reward,), query="problem")


_MAX_LENGTH = 1000  # of an answer; int() refuses numbers of some thousand digits
# TeX boxes what follows `\boxed` without braces too.
_BARE_BOX = re.compile(r"\\boxed[ \t]+([^\s{}$]+)")


def final_answer(text: str) -> str | None:
    r"""Content of the `\boxed{}` that opens last; None without one, or if it never closes.

    Where no box has braces, `\boxed 5` counts.
    """
    boxes = boxes_in(text)
    if not boxes:
        return (_BARE_BOX.findall(text) or [None])[-1]
    return None if boxes[-1] is None else text[boxes[-1]]


def same_answer(answer: str | None, gold: str) -> bool:
    """Whether an answer is the right one, by its form; None, or a text without end, is not."""
    if answer is None or len(answer) > _MAX_LENGTH:
        return False
    variables = [match[1] for side in (answer, gold) if (match := _VARIABLE.match(side))]
    if len(set(variables)) == 2:  # x=5 is not y=5
        return False
    left, right = normal_answer(answer), normal_answer(gold)
    if left == right:
        return True
    numbers = _number(left), _number(right)
    return numbers[0] is not None and numbers[0] == numbers[1]


# LaTeX that changes how an answer looks and not what it is.
_LOOKS = re.compile(
    r"\\(?:left|right|displaystyle|limits|quad|qquad)(?![a-zA-Z])|\\[,;:! ]|\{,\}"
    r"|\^\{?\\circ\}?|\\degree|\\?%|\\?\$|~"
)
_UNIT = re.compile(r"(?<=[\d})])\s*\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?$")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|mathbf|textbf|textrm|boldsymbol)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dtc]?frac")
# An argument without braces is one character: \frac12, \frac1{2}, \sqrt3.
_BARE = re.compile(r"(\\frac(?:\{[^{}]*\})?|\\sqrt)([0-9a-zA-Z])")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_VARIABLE = re.compile(r"[\s$]*([a-zA-Z])\s*=")
_DEFINED = re.compile(r"[a-zA-Z]=(.+)")
_CHOICE = re.compile(r"\(([a-zA-Z])\)")


def normal_answer(text: str) -> str:
    r"""One spelling for answers that differ in looks only.

    Spaces, `\left`, `$`, degrees and percent signs, a unit in `\text{}` after a number, `x=`
    before and a full stop after the answer, and the brackets of a choice `(A)` are dropped;
    `\dfrac`, `\tfrac` and `\frac12` become `\frac{}{}`; commas of thousands go; words do not
    distinguish case.
    """
    text = _LOOKS.sub("", text.replace("\N{MINUS SIGN}", "-")).strip().rstrip(".")
    text = _TEXT.sub(r"\1", _UNIT.sub("", text))
    text = _FRAC.sub(r"\\frac", re.sub(r"\s+", "", text))
    while (braced := _BARE.sub(r"\1{\2}", text)) != text:
        text = braced
    for pattern in (_DEFINED, _CHOICE):
        if inner := pattern.fullmatch(text):
            text = inner[1]
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return text.casefold() if len(text) > 1 and text.isalpha() else text


_DECIMAL = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
# Whole part of a mixed number and fraction, or a ratio.
_RATIO = re.compile(r"([+-]?)(\d*)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|([+-]?\d+)/(\d+)", re.ASCII)


def _number(text: str) -> Fraction | None:
    if len(text) > _MAX_LENGTH:
        return None
    if re.fullmatch(_DECIMAL, text, re.ASCII):
        return Fraction(text.rstrip("."))
    if match := _RATIO.fullmatch(text):
        sign, whole, *ratio = match.groups()
        top, bottom = (int(part) for part in ratio if part)
        if bottom:
            size = int(whole or 0) + Fraction(top, bottom)
            return -size if sign == "-" else size
    return None
