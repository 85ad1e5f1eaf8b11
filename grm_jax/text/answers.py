"""Final answers of mathematical problems: equal or not, by rule."""

import re

_SPACES = re.compile(r"\\[!,;: ]|\\(?:quad|qquad|left|right)(?![A-Za-z])|[~\s]|\\\$|\$|\\%|%")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac\{(-?[\d.]+)\}\{(-?[\d.]+)\}")


def same_answer(a: str, b: str) -> bool:
    """Whether two final answers are the same, up to spacing, units of LaTeX and equal numbers.

    A rule, not a proof: `x+1` and `1+x` differ. That errs towards fewer right answers.
    """
    a, b = _plain(a), _plain(b)
    if a == b:
        return True
    left, right = _value(a), _value(b)
    return left is not None and right is not None and abs(left - right) <= 1e-9 * abs(right)


def _plain(answer: str) -> str:
    text = _SPACES.sub("", _TEXT.sub(r"\1", answer.strip())).rstrip(".")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text)  # 1,000
    return re.sub(r"^[a-zA-Z]=", "", text).casefold()


def _value(text: str) -> float | None:
    text = _FRACTION.sub(r"\1/\2", text)
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator)
        return value / float(denominator) if slash else value
    except (ValueError, ZeroDivisionError):
        return None
