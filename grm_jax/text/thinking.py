"""Thinking: what some models write between two tags before they answer.

It is kept apart from the answer, and nothing is read from it: a box inside it is no score. A model
opens the block itself (Qwen3), or its chat template does at the end of the prompt (R1-Distill),
so that the completion begins inside.
"""

OPENING, CLOSING = "<think>", "</think>"
UNCLOSED = "unclosed_thinking"  # why there are no scores


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends inside a thinking block; pass only what its template wrote."""
    return prompt.rfind(OPENING) > prompt.rfind(CLOSING)


def split_thinking(text: str, opened: bool | None = False) -> tuple[str, str | None]:
    """The thinking at the beginning of a completion, and the answer after it.

    Args:
      text: what the model wrote.
      opened: whether the prompt ends inside a thinking block. None where only a server knows: then
        a closing tag on a line of its own, with no opening tag before it, says so.

    Returns:
      The thinking, "" for none, without its tags and without white space at its ends. The answer:
      `text` itself where there is no block; None where the block never closes.
    """
    block = text.lstrip()
    if opened is None:
        opened = f"\n{CLOSING}\n" in text.partition(OPENING)[0]
    if not (opened or block.startswith(OPENING)):
        return "", text
    thinking, closing, answer = block.removeprefix(OPENING).partition(CLOSING)
    return thinking.strip(), answer.lstrip() if closing else None


def join_thinking(thinking: str, answer: str) -> str:
    """The text that `split_thinking` splits so; without an answer the block stays open."""
    block = OPENING + thinking.replace(CLOSING, " ")
    return f"{block}{CLOSING}{answer}" if answer else block
