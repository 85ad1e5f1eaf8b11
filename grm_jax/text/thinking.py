"""Thinking: what some models write between two tags before they answer.

It is kept apart from the answer, and nothing is read from it: a box inside it is no score. A model
opens the block itself (Qwen3), or its chat template does at the end of the prompt (R1-Distill),
so that the completion begins inside.

A model may think again later, and every block is kept apart, wherever it opens. An answer may also
speak of a tag: an opening tag right after a quotation mark or a backtick is quoted, and is text.
"""

import re

OPENING, CLOSING = "<think>", "</think>"
UNCLOSED = "unclosed_thinking"  # why there are no scores
_OPENING = re.compile(f"(?<![`\"'\u201c\u2018\u00ab]){OPENING}")
_BLANK = re.compile("[\\s\u200b\u2060\ufeff]*")  # of no width too, which models write by mistake


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends inside a thinking block; pass only what its template wrote."""
    return prompt.rfind(OPENING) > prompt.rfind(CLOSING)


def split_thinking(text: str, opened: bool | None = False) -> tuple[str, str | None]:
    """The thinking of a completion, and the answer without it.

    Args:
      text: what the model wrote.
      opened: whether the prompt ends inside a thinking block. None where only a server knows: then
        a closing tag on a line of its own, with no opening tag before it, says so.

    Returns:
      The thinking, "" for none, without its tags and without white space at its ends; blocks are
      joined by an empty line. The answer: `text` itself where there is no block; what stands
      around the blocks; None where a block never closes.
    """
    if opened is None:
        opened = f"\n{CLOSING}\n" in text.partition(OPENING)[0]
    if opened:
        text = OPENING + _without_blank(text).removeprefix(OPENING)
    thoughts, answer, end = [], [], 0
    while opening := _OPENING.search(text, end):
        answer.append(text[end : opening.start()])
        begin, end = opening.end(), text.find(CLOSING, opening.end())
        thoughts.append(text[begin : end if end >= 0 else None].strip())
        if end < 0:
            break
        end += len(CLOSING)
    if not thoughts:
        return "", text
    thinking = "\n\n".join(filter(None, thoughts))
    return thinking, None if end < 0 else _without_blank("".join([*answer, text[end:]]))


def _without_blank(text: str) -> str:
    return text[_BLANK.match(text).end() :]


def join_thinking(thinking: str, answer: str) -> str:
    """The text that `split_thinking` splits so, if the answer opens no block of its own.

    Without an answer the block stays open.
    """
    block = OPENING + thinking.replace(CLOSING, " ")
    return f"{block}{CLOSING}{answer}" if answer else block
