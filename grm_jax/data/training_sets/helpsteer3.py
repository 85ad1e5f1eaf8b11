"""HelpSteer3-Preference (folder preference/ of nvidia/HelpSteer3): pairs with a strength.

Columns, by the card and by `format_helpsteer3` of NVIDIA-NeMo/RL: `domain`, `language`, `context`
(turns of {role, content}), `response1`, `response2` and `overall_preference`, from -3 (response 1
is much better) to 3 (response 2 is).
"""

from grm_jax.data.reading import require, strings
from grm_jax.data.training_sets import rows

FILES = ("preference/train.jsonl.gz", "train.jsonl.gz")


def read(where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """One pair, with the strength in the note of the hint as for HelpSteer2."""
    rewards, note = rows.signed_preference(where, row, "overall_preference")
    yield rows.comparison(
        where, uid, rows.conversation(where, row, "context"),
        strings(where, row, "response1", "response2"), rewards, query="context", hint_note=note,
        meta={name: require(where, row, name, str) for name in ("domain", "language")},
    )  # fmt: skip
