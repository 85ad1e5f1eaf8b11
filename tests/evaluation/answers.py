"""Answers to count: trajectories by hand, and those of a stub judge of known accuracy."""

from builders import trajectory

from grm_jax.data.comparison import Comparison
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite, group
from grm_jax.models.variants import VARIANTS
from grm_jax.text.prompts import Message
from tools.bench.harness import judge

TWO = CountingRules((1, 2), (1, 1), 4, "sum", "uniform", "chance", "strict", False, 2, 0)
K = 8
EIGHT = CountingRules(
    ks=(1, 2, 4, 8), k_metas=(1, 1, 2, 4), num_subsets=16, aggregation="sum",
    tie_policy="uniform", parse_policy="chance", parse="strict", stratified=True, num_samples=K,
    seed=0,
)  # fmt: skip
MODEL = VARIANTS["gemma2_2b"]


def drawn(stage, scores, greedy=False):
    """A stage that answers every comparison alike."""
    groups = [[trajectory(f"c{i}", s, scores) for s in range(1 if greedy else 2)] for i in range(4)]
    return Drawn(stage, "self", greedy, groups)


def pairs(count, subset="", several_best=(), **meta):
    """Pairs of which every other one has the second response right."""
    found = []
    for i in range(count):
        tie = i in several_best
        rewards = (1.0, 1.0) if tie else (float(i % 2 == 0), float(i % 2))
        found.append(
            Comparison(f"{subset}/{i}", (Message("user", f"Which? {i}"),),
                       ("a" * (1 + i % 7), "b" * (1 + i % 5)), rewards, subset, meta,
                       several_best=tie)
        )  # fmt: skip
    return found


def suite_of(name, comparisons, accuracy=0.8, coverage="", k=K, seed=1):
    """A suite on which the stub drew k samples of each comparison."""
    found = judge(comparisons, "stub", k, accuracy, seed)
    groups = group(comparisons, found)
    lengths = [100 + i for i in range(len(comparisons))]
    drawn = Drawn("random_weights", "self", False, groups, prompt_tokens=lengths, model=MODEL)
    return Suite(name, coverage, comparisons, (drawn,))


def value(lines, label, column="accuracy"):
    (line,) = (line for line in lines if line.label == label)
    return line.interval(column)
