"""PPE Preference (lmarena-ai/PPE-Human-Preference-V1): pairs with the vote of a person.

The suite is the split ``test``, 16,038 rows. Columns read: `question_id`, `winner` ("model_a",
"model_b", or a tie), `prompt`, `response_1` (of model_a), `response_2`, `language`. Human ties
(about 5,800 rows) are read, so that rows can be counted, but not judged: see `Suite.judged`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from grm_jax.benchmarks.files import name_of, one_of, one_turn, read_tables, strings
from grm_jax.benchmarks.suite import Suite
from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import located
from grm_jax.data.source import Source

ROWS: Mapping[str, int] = {"": 16_038}
WINNERS = ("model_a", "model_b", "tie", "tie (bothbad)")
SOURCES = {
    "ppe_preference": Source(
        "lmarena-ai/PPE-Human-Preference-V1", ("*.parquet",), folder="ppe/preference"
    )
}


def read(data_dir: str | os.PathLike) -> Iterator[tuple[str, Comparison]]:
    """Reads ``test*`` in `data_dir`/ppe/preference, or in `data_dir` itself, in its order.

    Each row has uid ``ppe_preference/<question_id>`` and `language` in meta. In a tie both
    responses are best.

    Raises:
      ValueError: the file is missing; or a bad row, as ``path[row]: field 'x': ...``.
    """
    for where, row in read_tables(data_dir, "ppe/preference", "test"):
        winner = one_of(where, row, "winner", WINNERS)
        rewards = {"model_a": (1.0, 0.0), "model_b": (0.0, 1.0)}.get(winner, (1.0, 1.0))
        yield where, located(
            where,
            f"ppe_preference/{name_of(where, row, 'question_id')}",
            one_turn(where, row, "prompt"),
            strings(where, row, "response_1", "response_2"),
            rewards,
            "",
            {"language": row.get("language")},
            several_best=rewards[0] == rewards[1],
            query="prompt",
        )


SUITES = (Suite("ppe_preference", read, ROWS, sources=SOURCES),)
