"""PPE Preference (lmarena-ai/PPE-Human-Preference-V1): pairs with the vote of a person.

The suite is the split ``test``, 16,038 rows. Columns read: `question_id`, `winner` ("model_a",
"model_b", or a tie), `prompt`, `response_1` (of model_a), `response_2`, `language`. Human ties
(about 5,800 rows) are read, so that rows can be counted, but not judged: see `Suite.judged`.
"""

from pathlib import Path

from grm_jax.benchmarks.files import name_of, read_tables
from grm_jax.benchmarks.suite import Suite
from grm_jax.data.reading import Placed, located, one_of, one_turn, strings
from grm_jax.data.source import Source

ROWS = {"": 16_038}
WINNERS = ("model_a", "model_b", "tie", "tie (bothbad)")
SOURCES = {
    "ppe_preference": Source(
        "lmarena-ai/PPE-Human-Preference-V1", ("*.parquet",), folder="ppe/preference"
    )
}


def read(data_dir: Path) -> Placed:
    """Reads ``test*`` in `data_dir`/ppe/preference, or in `data_dir` itself, in its order.

    Each row has uid ``ppe_preference/<question_id>`` and `language` in meta. In a tie both
    responses are best.
    """
    for where, row in read_tables(data_dir, "ppe/preference", "test"):
        winner = one_of(where, row, "winner", WINNERS)
        rewards = {"model_a": (1.0, 0.0), "model_b": (0.0, 1.0)}.get(winner, (1.0, 1.0))
        yield where, located(
            where, f"ppe_preference/{name_of(where, row, 'question_id')}",
            one_turn(where, row, "prompt"), strings(where, row, "response_1", "response_2"),
            rewards, "", {"language": row.get("language")},
            several_best=rewards[0] == rewards[1], query="prompt",
        )  # fmt: skip


SUITES = (Suite("ppe_preference", read, ROWS, sources=SOURCES),)
