"""OffsetBias (NCSOFT/offsetbias): pairs whose worse response has what judges wrongly like.

Columns, by "Data Fields" of the card: `instruction`, `output_1`, `output_2` and `label`, the number
of the better output, 1 or 2.
"""

from grm_jax.data.reading import one_of, one_turn, strings
from grm_jax.data.training_sets import rows

FILES = ("train.jsonl",)


def read(where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """One pair."""
    rewards = (1.0, 0.0) if one_of(where, row, "label", (1, 2)) == 1 else (0.0, 1.0)
    responses = strings(where, row, "output_1", "output_2")
    messages = one_turn(where, row, "instruction")
    yield rows.comparison(where, uid, messages, responses, rewards, query="instruction")
