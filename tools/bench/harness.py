"""Times everything of a benchmark but the model, on the trajectories of a stub judge.

    python -m tools.bench.harness --data_dir=DATA --suites=rmb_bon,judgebench --samples=25

The stub is right with the chance --accuracy in every sample: it then scores the right responses
8 and the others at most 5, else a wrong one 9. Its trajectories are written to a store, read back,
and counted as experiments.benchmark does. Prints seconds and the peak of the memory, and the
accuracy that one sample is found to have. Everything is written under --workdir.
"""

import resource
import time
from collections.abc import Sequence

import numpy as np

from configs import small_world
from experiments import measurement
from experiments.run import Run
from experiments.stages import benchmark
from grm_jax.data.comparison import Comparison
from grm_jax.data.stores import TrajectoryStore, UnitHeader
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation.lines import Drawn, group
from grm_jax.sampling import orders
from grm_jax.sampling.prompt import make_prompt
from grm_jax.text.scores import parse_lenient, parse_strict
from tools import make_parser, run_program

UNIT = 512


def judged(
    comparison: Comparison, stage: str, sample: int, order: orders.Order, accuracy: float,
    rng: np.random.Generator,
) -> Trajectory:  # fmt: skip
    """One trajectory of the stub, parsed from its text like any other."""
    right = set(comparison.winners)
    scores = rng.integers(1, 6, size=comparison.n)
    for i in right:
        scores[i] = 8
    wrong = [i for i in range(comparison.n) if i not in right]
    if comparison.n == 1:
        scores[0] = 8 if (rng.random() < accuracy) == bool(comparison.label) else 3
    elif wrong and rng.random() >= accuracy:
        scores[rng.choice(wrong)] = 9
    text = f"Analysis: none.\nScores: \\boxed{{{', '.join(str(scores[i]) for i in order)}}}"
    strict = parse_strict(text, comparison.n)
    return Trajectory(
        fingerprint="0" * 16, stage=stage, step=0, uid=comparison.uid, sample=sample,
        seed=(0, sample), order=order, token_ids=(1,) * 16, logprobs=(-0.5,) * 16,
        sampling_logprobs=(-0.5,) * 16, text=text, scores=strict.scores,
        parse_reason=strict.reason, lenient_scores=parse_lenient(text, comparison.n).scores,
        finish="stop", correct=None,
    )  # fmt: skip


def judge(
    comparisons: Sequence[Comparison], stage: str, samples: int, accuracy: float, seed: int
) -> list[Trajectory]:
    """So many trajectories of each comparison, in balanced orders."""
    rng = np.random.default_rng(seed)
    trajectories = []
    for comparison in comparisons:
        shown = orders.orders_for("balanced", comparison.n, samples, uid=comparison.uid, seed=seed)
        for s, order in enumerate(shown):
            trajectories.append(judged(comparison, stage, s, order, accuracy, rng))
    return trajectories


def main() -> None:
    """Draws, stores, reads, counts, prints."""
    parser = make_parser(__doc__)
    flag = parser.add_argument
    flag("--data_dir", required=True)
    flag("--suites", default="rmb_bon")
    flag("--samples", type=int, default=26)
    flag("--accuracy", type=float, default=0.8)
    flag("--limit", type=int, default=100_000)
    flag("--workdir", default="runs/bench_harness")
    args = parser.parse_args()
    c = small_world.get_config("gemma_tokens")
    c.benchmark.suites, c.benchmark.data_dir = args.suites, args.data_dir
    c.benchmark.limit = args.limit
    c.benchmark.draw.k = args.samples
    c.benchmark.ks = ",".join(str(2**i) for i in range(args.samples.bit_length()))
    run = Run.open(c, args.workdir)
    config = measurement.read_config(run)
    loaded = measurement.load_comparisons(run, config)
    store_path = run.workdir.path("trajectories", "stub.jsonl")
    store_path.unlink(missing_ok=True)
    total = 0
    with TrajectoryStore(store_path) as store:
        for suite, comparisons in loaded.comparisons.items():
            stage = f"stub_{suite}"
            judgements = judge(comparisons, stage, args.samples, args.accuracy, seed=1)
            total += len(judgements)
            for unit, start in enumerate(range(0, len(judgements), UNIT)):
                header = UnitHeader("0" * 16, stage, 0, unit)
                store.append_unit(header, judgements[start : start + UNIT])
            del judgements
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name], began = time.perf_counter() - began, time.perf_counter()

    loaded = measurement.load_comparisons(run, config)
    lap("read suites")
    how = run.config.benchmark.draw
    lengths = {
        suite: [len(make_prompt(c, range(c.n), how, run.tokenizer).ids) for c in comparisons]
        for suite, comparisons in loaded.comparisons.items()
    }
    lap(f"build prompts, {sum(map(sum, lengths.values()))} tokens")
    drawn = {}
    with TrajectoryStore(store_path) as store:
        for suite, comparisons in loaded.comparisons.items():
            stored = list(store.iterate(fingerprint="0" * 16, stage=f"stub_{suite}"))
            groups = group(comparisons, stored)
            drawn[suite] = Drawn(
                "random_weights", "self", False, groups, prompt_tokens=lengths[suite],
                model=run.model,
            )  # fmt: skip
    lap("read trajectories")
    counting = benchmark.counting_rules(run, config)
    suites = benchmark.write_report(run, benchmark.to_suites(loaded, [drawn]), counting)
    lap("count, tables, figures")
    for suite in suites:
        line = suite.at[suite.drawn[0].method]
        if line.credits_C is not None:
            print(f"{suite.name}: one sample is right in {line.credits_C.mean():.4f}")
    for name, spent in seconds.items():
        print(f"{spent:8.1f} s  {name}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{sum(seconds.values()):8.1f} s  in all, {total} trajectories, peak {peak:.2f} GiB")


if __name__ == "__main__":
    run_program(main)
