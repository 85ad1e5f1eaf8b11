"""General instruction data: conversations in the `messages` form of chat data sets.

One column is read: `messages`, turns of {role, content}, as in the files of fine-tuning services
and in most instruction sets of the hub. Other columns, and other keys of a turn, are passed over.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from grm_jax.data.training_sets import rows
from grm_jax.text.chat_formats import checked_messages
from grm_jax.text.prompts import Message

FILES = ("*.jsonl", "*.jsonl.gz", "*.parquet", "data/*.parquet")


class Instruction(NamedTuple):
    """A conversation that ends with the user, and the answer to learn."""

    uid: str
    messages: tuple[Message, ...]
    answer: str


def read(where: str, uid: str, row: dict[str, Any]) -> Iterator[Instruction]:
    """The last turn of the assistant as the answer; earlier ones are context."""
    *messages, last = turns = rows.conversation(where, row, "messages") or (Message("", ""),)
    if last.role != "assistant" or not last.content.strip():
        raise rows.Unusable("no answer at the end")
    try:
        checked_messages(turns, fold_system=True)
    except ValueError:
        raise rows.Unusable("turns that do not alternate") from None
    checked = rows.comparison(where, uid, messages, (last.content,), (1.0,), query="messages")
    yield Instruction(uid, checked.messages, checked.responses[0])
