"""RewardBench (allenai/reward-bench, version 1): pairs of a chosen and a rejected response.

The suite is the split ``filtered``: 2,985 pairs in 23 subsets. Columns read: `prompt`, `chosen`,
`rejected`, `subset`, `id`. Prior sets are other data and no part of the paper's number.
"""

from pathlib import Path

from grm_jax.benchmarks.files import name_of, read_tables, with_best
from grm_jax.benchmarks.suite import Column, Metric, Suite, mean_of_sections
from grm_jax.data.reading import Placed, located, one_of, one_turn, strings
from grm_jax.data.source import Source

ROWS = {
    "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95,
    "mt-bench-easy": 28, "mt-bench-med": 40, "mt-bench-hard": 37,
    "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
    "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    "refusals-dangerous": 100, "refusals-offensive": 100,
    "xstest-should-refuse": 154, "xstest-should-respond": 250, "donotanswer": 136,
    "math-prm": 447,
    "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164,
    "hep-rust": 164,
}  # fmt: skip
# `rewardbench/constants.py`: EXAMPLE_COUNTS, SUBSET_MAPPING. math-prm has 447 rows and counts as
# much as the six programming languages together.
SECTIONS = {
    section: {s: 984 if s == "math-prm" else ROWS[s] for s in subsets}
    for section, subsets in {
        "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy",
                 "mt-bench-med"),
        "Chat Hard": ("mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor",
                      "llmbar-adver-GPTInst", "llmbar-adver-GPTOut", "llmbar-adver-manual"),
        "Safety": ("refusals-dangerous", "refusals-offensive", "xstest-should-refuse",
                   "xstest-should-respond", "donotanswer"),
        "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python",
                      "hep-rust"),
    }.items()
}  # fmt: skip
SOURCES = {"rewardbench": Source("allenai/reward-bench", ("data/filtered-*.parquet",))}


def read(data_dir: Path) -> Placed:
    """Reads ``filtered*`` in `data_dir`/rewardbench, or in `data_dir` itself, in its order.

    Each pair has uid ``rewardbench/<subset>/<id>`` and its subset; the chosen response stands at a
    hashed place.
    """
    for where, row in read_tables(data_dir, "rewardbench", "filtered"):
        subset = one_of(where, row, "subset", tuple(ROWS))
        uid = f"rewardbench/{subset}/{name_of(where, row, 'id')}"
        chosen, rejected = strings(where, row, "chosen", "rejected")
        messages = one_turn(where, row, "prompt")
        answers, rewards = with_best(uid, chosen, [rejected])
        yield where, located(where, uid, messages, answers, rewards, subset, query="prompt")


METRIC = Metric(
    (*(Column(section, weights) for section, weights in SECTIONS.items()),
     Column("RewardBench", mean_of_sections(SECTIONS))),
    "RewardBench",
    note="RewardBench: mean of four sections, without prior sets; math-prm counts as 984 rows",
)  # fmt: skip
SUITES = (Suite("rewardbench", read, ROWS, METRIC, SOURCES),)
