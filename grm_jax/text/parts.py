"""A trajectory in its three parts: principles, critique, scores.

The headings are those of the templates (`grm_jax.text.prompts`). This is for people to read: scores
come from `grm_jax.text.scores`.
"""

import re
from typing import NamedTuple

# Models put marks of Markdown around headings. A match stays on its line before the heading: across
# lines, every line of a run of empty ones would be tried to the end of the run.
_HEADING = re.compile(r"^[#* \t]*(Specific Criteria|Analysis|Scores)\b[*\s]*:", re.M | re.I)


class Parts(NamedTuple):
    """Three pieces that make up the text, one after the other; a missing one is empty."""

    principles: str
    critique: str
    scores: str


def split_parts(text: str) -> Parts:
    """The parts of a generated text: the critique begins at its first heading, scores at the last.

    Without a heading of the critique, as where a text was cut, all is principles if it begins with
    their heading, and critique otherwise.
    """
    headings = [(match[1].lower(), match.start()) for match in _HEADING.finditer(text)]
    critique = next((at for name, at in headings if name == "analysis"), None)
    if critique is None:
        begins = bool(headings) and headings[0][0] == "specific criteria"
        critique = len(text) if begins else 0
    scores = [at for name, at in headings if name == "scores"]
    end = scores[-1] if scores else len(text)
    critique = min(critique, end)
    return Parts(text[:critique], text[critique:end], text[end:])
