"""How a conversation is written down: the interface to tokenizers, and two built-in formats.

A writer returns the conversation as pairs (own, data): first text of the format itself, in which
control pieces count, then text of a message, in which they never do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from grm_jax.text.prompts import Message


class ChatWriter(Protocol):
    """Interface of a chat format to a tokenizer; different formats have different reprs."""

    pad: str
    bos: str | None  # None: conversations have none
    eos: str

    def pieces(self) -> dict[str, str]:
        """The control pieces that a vocabulary must have, by the field that names them."""

    def write(
        self, messages: Sequence[Message], add_generation_prompt: bool
    ) -> list[tuple[str, str]]:
        """Pairs (own, data) in order. Raises ValueError for turns that cannot be written."""


class Turn(NamedTuple):
    """One turn in a chat format: control piece, text before, content, control piece, text after."""

    opening: str = ""
    prefix: str = ""
    closing: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class ChatFormat:
    """Control pieces by name, and how turns are written with them.

    Contents are kept as they are (Gemma's own template trims their ends).
    """

    pad: str
    bos: str
    eos: str
    user: Turn
    assistant: Turn
    generation: Turn  # what asks the model to speak; only opening and prefix
    system: Turn | None = None  # None: the system message is folded into the first user turn

    def pieces(self) -> dict[str, str]:
        pieces = {"pad": self.pad, "bos": self.bos, "eos": self.eos}
        for role in ("system", "user", "assistant", "generation"):
            for end in ("opening", "closing"):
                if piece := getattr(getattr(self, role), end, ""):
                    pieces[f"{role}.{end}"] = piece
        return pieces

    def write(
        self, messages: Sequence[Message], add_generation_prompt: bool
    ) -> list[tuple[str, str]]:
        messages = checked_messages(messages, fold_system=self.system is None)
        turns = [(getattr(self, role), content) for role, content in messages]
        if add_generation_prompt:
            turns.append((self.generation, ""))
        pairs, own = [], self.bos
        for turn, content in turns:
            pairs.append((own + turn.opening + turn.prefix, content))
            own = turn.closing + turn.suffix
        return [*pairs, (own, "")]


GEMMA_CHAT = ChatFormat(
    pad="<pad>",
    bos="<bos>",
    eos="<eos>",
    user=Turn("<start_of_turn>", "user\n", "<end_of_turn>", "\n"),
    assistant=Turn("<start_of_turn>", "model\n", "<end_of_turn>", "\n"),
    generation=Turn("<start_of_turn>", "model\n"),
)
# DeepSeek-V2: only the ends are control pieces, the roles are plain text.
DEEPSEEK_CHAT = ChatFormat(
    pad="<｜end▁of▁sentence｜>",
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    user=Turn(prefix="User: ", suffix="\n\n"),
    assistant=Turn(prefix="Assistant: ", closing="<｜end▁of▁sentence｜>"),
    generation=Turn(prefix="Assistant:"),
    system=Turn(suffix="\n\n"),
)
# By the architecture of a checkpoint; those of DeepSeek-V3 all bring a template.
BUILT_IN = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3text"), GEMMA_CHAT),
    "deepseekv2": DEEPSEEK_CHAT,
}


def checked_messages(messages: Sequence[Message], fold_system: bool) -> list[Message]:
    """`messages`, with the system message at the head of the first user turn if `fold_system`.

    Raises:
      ValueError: no message, an unknown role, a system message that is not the first or (where
        it must be folded) not followed by a user turn, or turns that do not alternate.
    """
    messages = [Message(*message) for message in messages]
    if not messages:
        raise ValueError("messages: a conversation needs at least one message")
    skip = int(messages[0].role == "system")
    for index, (role, _) in enumerate(messages[skip:]):
        expected = ("user", "assistant")[index % 2]
        if role != expected:
            raise ValueError(f"messages[{index + skip}].role: expected {expected!r}, got {role!r}")
    if not (fold_system and skip):
        return messages
    if len(messages) == 1:
        raise ValueError("messages: a system message needs a user turn to be folded into")
    system, first, *rest = messages
    return [Message("user", f"{system.content}\n\n{first.content}"), *rest]
