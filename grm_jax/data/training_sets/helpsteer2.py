"""HelpSteer2-Preference (folder preference/ of nvidia/HelpSteer2): pairs with a strength.

Columns, by the section "Preferences" of the card: `split` ("train" or the validation part),
`prompt`, `response_1`, `response_2` and `preference_strength`, from -3 (response 1 is much better)
to 3 (response 2 is). Turns inside a prompt are parted by lines `<extra_id_1>Assistant` and
`<extra_id_1>User`. The paper puts the strength into the hint (SPCT, section 3.1).
"""

import re

from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import require, strings
from grm_jax.data.training_sets import rows

FILES = ("preference/preference.jsonl.gz", "preference.jsonl.gz")

_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")


def read(where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """One pair of the training part."""
    split = require(where, row, "split", str)
    if split != "train":
        if not split.startswith("val"):
            raise FieldError(where, "split", f"expected train or validation, got {split!r}")
        raise rows.Unusable("validation part")
    rewards, note = rows.signed_preference(where, row, "preference_strength")
    messages = rows.turns_of(["User", *_TURN.split(require(where, row, "prompt", str))])
    responses = strings(where, row, "response_1", "response_2")
    yield rows.comparison(where, uid, messages, responses, rewards, query="prompt", hint_note=note)
