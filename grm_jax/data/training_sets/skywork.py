"""Skywork-Reward-Preference-80K-v0.2 (Skywork): pairs of whole conversations.

Columns, by `dataset_info` of the card: `chosen` and `rejected`, lists of {content, role}, and
`source`. Both conversations are the same up to the last turn, which is the response.
"""

from grm_jax.data.reading import require
from grm_jax.data.training_sets import rows

FILES = ("data/*.parquet", "*.parquet", "*.jsonl")


def read(where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """One pair; the files put the better response first, orders are drawn later."""
    sides = {name: rows.conversation(where, row, name) for name in ("chosen", "rejected")}
    if not all(side and side[-1].role == "assistant" for side in sides.values()):
        raise rows.Unusable("no response at the end")
    chosen, rejected = sides.values()
    if chosen[:-1] != rejected[:-1]:
        raise rows.Unusable("two different conversations")
    yield rows.comparison(
        where, uid, chosen[:-1], (chosen[-1].content, rejected[-1].content), (1.0, 0.0),
        query="chosen", meta={"source": require(where, row, "source", str)},
    )  # fmt: skip
