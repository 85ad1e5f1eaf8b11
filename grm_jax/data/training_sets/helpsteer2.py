"""HelpSteer2-Preference (folder preference/ of nvidia/HelpSteer2): pairs with a strength.

Columns, by the section "Preferences" of the card: `split` ("train" or the validation part),
`prompt`, `response_1`, `response_2` and `preference_strength`, from -3 (response 1 is much better)
to 3 (response 2 is). Turns inside a prompt are parted by lines `<extra_id_1>Assistant` and
`<extra_id_1>User`. The paper puts the strength into the hint (SPCT, section 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from grm_jax.data.comparison import Comparison, FieldError
from grm_jax.data.reading import require
from grm_jax.data.training_sets.rows import Unusable, comparison, signed_preference
from grm_jax.text.prompts import Message

FILES = ("preference/preference.jsonl.gz", "preference.jsonl.gz")

_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")


def read(where: str, uid: str, row: dict[str, Any]) -> Iterator[Comparison]:
    """One pair of the training part."""
    split = require(where, row, "split", str)
    if split != "train":
        if not split.startswith("val"):
            raise FieldError(where, "split", f"expected train or validation, got {split!r}")
        raise Unusable("validation part")
    rewards, note = signed_preference(where, row, "preference_strength")
    yield comparison(
        where, uid, _messages(require(where, row, "prompt", str)),
        [require(where, row, name, str) for name in ("response_1", "response_2")],
        rewards, query="prompt", hint_note=note,
    )  # fmt: skip


def _messages(prompt: str) -> list[Message]:
    first, *rest = _TURN.split(prompt)
    turns = [("user", first)]
    turns += [(role.lower(), text) for role, text in zip(rest[::2], rest[1::2], strict=True)]
    if [role for role, _ in turns] != (["user", "assistant"] * len(turns))[: len(turns)]:
        raise Unusable("turns that do not alternate")
    return [Message(role, text) for role, text in turns]
