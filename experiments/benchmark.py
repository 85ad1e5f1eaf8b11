"""Measures the stages of a workdir: greedy, voting, guided voting, with intervals.

    python -m experiments.benchmark --config=configs/small_world.py --workdir=DIR
    python -m experiments.benchmark --config=configs/small_world.py:gemma_tokens --workdir=DIR \
        --config.benchmark.suites=judgebench,llmbar,rmb_bon --config.benchmark.data_dir=DATA

Each stage is sampled once, with the largest k, into trajectories/benchmark_*.jsonl; every number
is counted from there. Writes tables/{main,differences,protocols,bias,...}.*, figures/*.png,
results/*.json (what `tools.tables` compares), samples.md and critiques.html. Ends with an error,
after everything is written, where more samples were cut or had no scores than
config.benchmark.max_cut and max_unparsed allow.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments import arms, given, meta_rm, rft, scalar, sections, settings
from experiments import run as runs
from experiments.config import claimed
from grm_jax import voting
from grm_jax.benchmarks import SUITES, load_suite
from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import MetaScoreStore, Trajectory, UnitHeader
from grm_jax.evaluation import report, results
from grm_jax.evaluation.lines import CountingRules, Drawn, Line, LinesOf, Suite, group
from grm_jax.sampling.draw import DrawConfig, TooLong, prompt_ids, unanswered
from grm_jax.sampling.remote import RemoteEngine
from grm_jax.text import prompts

META_BATCHES_PER_UNIT = 8
SPREAD = ("balanced", "both")  # order policies whose samples are spread evenly over orders


def read_config(run: runs.Run) -> sections.BenchmarkConfig:
    """Section `benchmark`."""
    if run.config.benchmark is None:
        raise ValueError("config.benchmark: section is missing")
    return run.config.benchmark.choices


def arm_names(config: sections.BenchmarkConfig) -> list[str]:
    """The arms that are measured beside the run itself."""
    return settings.names(config.arms, "config.benchmark.arms")


def counting_rules(run: runs.Run, config: sections.BenchmarkConfig) -> CountingRules:
    """How votes are counted, by the config."""
    draw = run.config.benchmark.draw
    ks = settings.numbers(config.ks, "config.benchmark.ks")
    k_metas = settings.numbers(config.k_meta, "config.benchmark.k_meta") or voting.half
    by_k = {1: 1} | dict(zip(ks, voting.resolve_k_meta(ks, k_metas), strict=True))
    return CountingRules(
        ks=tuple(sorted(by_k)),
        k_metas=tuple(by_k[k] for k in sorted(by_k)),
        num_subsets=config.num_subsets,
        aggregation=config.aggregation,
        tie_policy=config.tie_policy,
        parse_policy=config.parse_policy,
        parse=config.parse,
        stratified=draw.order_policy in SPREAD,
        num_samples=draw.k,
        seed=run.config.seed,
        single_middle=sum(prompts.score_range(draw.binary_singles)) / 2,
    )


class Loaded(NamedTuple):
    """By suite, the comparisons that are judged, and which part of the official rows was read."""

    comparisons: dict[str, list[Comparison]]
    coverage: dict[str, str]


def load_comparisons(run: runs.Run, config: sections.BenchmarkConfig) -> Loaded:
    """The comparisons of each suite.

    Raises:
      ValueError: for a suite that the config has no data for, or bad files.
    """
    found, coverage = {}, {}
    for name in settings.names(config.suites, "config.benchmark.suites"):
        if name in SUITES:
            rows = load_suite(name, config.data_dir, config.limit)
            found[name], coverage[name] = SUITES[name].judged(rows), SUITES[name].coverage(rows)
            continue
        if (name == "small_world") != (run.world is not None):
            raise ValueError(f"config.benchmark.suites: the config has no section for {name!r}")
        found[name] = run.comparisons(config.split, config.limit, seed=run.config.seed + 10)
        coverage[name] = ""
    return Loaded(found, coverage)


def _draw_config(run: runs.Run) -> DrawConfig:
    config = run.draw_config(run.config.benchmark.draw)
    # Where rows may be shortened, those that cannot be are dropped, and have no verdict.
    return config if config.max_truncated else dataclasses.replace(config, max_dropped=0.0)


def _greedy(config: DrawConfig) -> DrawConfig:
    """One greedy sample; under "both" one in each order, as JudgeBench and auto-j want them."""
    both = config.order_policy == "both"
    orders = {"k": 2} if both else {"k": 1, "order_policy": "random"}
    return dataclasses.replace(config, temperature=0.0, **orders)


class Measurement:
    """Draws on all suites; the parameters that were last needed stay loaded."""

    def __init__(self, run: runs.Run, comparisons: dict[str, list[Comparison]]):
        self.run, self.comparisons = run, comparisons
        self.draw_config = _draw_config(run)
        own = run.config.benchmark
        self.engine = run.engine("benchmark", own.buckets, server=own.engine.server())
        self._params: tuple[str, dict | None, str] | None = None  # stage, parameters, digest

    def draw(self, run: runs.Run, stage: str, *, k: int | None) -> dict[str, Drawn]:
        """k samples, or for None the greedy one (an order), of one stage on every suite.

        Args:
          run: the arm.
          stage: its stage, such as "grpo", or one of `sections.UNTRAINED_STAGES`.
          k: samples of each comparison.
        """
        own = read_config(run)
        config = _draw_config(run) if run.arm_name else self.draw_config
        config = dataclasses.replace(config, reference=own.reference)
        config = _greedy(config) if k is None else dataclasses.replace(config, k=k)
        untrained = stage in sections.UNTRAINED_STAGES
        name = stage if untrained else run.stage(stage)
        if self._params is None or self._params[0] != name:
            self._params = None  # before the next ones are read: there may be room for one only
            params = self._load(run, name, untrained)
            digest = "" if params is None else runs.params_digest(params)
            self._params = (name, params, digest)
        found = {}
        for suite, comparisons in self.comparisons.items():
            if own.reference and not any(c.reference for c in comparisons):
                raise ValueError(f"config.benchmark.reference: {suite} has no references")
            if own.principles:
                comparisons = self._given(run, suite, name, own.principles)
                config = dataclasses.replace(config, principles="given")
            trajectories = self._draw_suite(suite, name, config, comparisons)
            groups = group(comparisons, trajectories)
            limit = self.engine.buckets.prompt_lengths[-1]
            lengths = [
                min(limit, len(prompt_ids(c, drawn[0].order, config, run.tokenizer)))
                for c, drawn in zip(comparisons, groups, strict=True)
            ]
            # What a server runs is not known here.
            model = None if isinstance(self.engine, RemoteEngine) else run.model
            found[suite] = Drawn(
                stage, run.principles, k is None, groups, prompt_tokens=lengths, model=model,
                arm=run.arm_name,
                stratified=config.order_policy in SPREAD if run.arm_name and k else None,
            )  # fmt: skip
        return found

    def _given(self, run: runs.Run, suite: str, stage: str, source: str) -> list[Comparison]:
        """The comparisons of a suite with principles; those of its own greedy samples are drawn."""

        def draw(comparisons: Sequence[Comparison], mode: str) -> list[Trajectory]:
            config = dataclasses.replace(
                _greedy(_draw_config(run)), k=1, order_policy="random", principles=mode
            )
            return self._draw_suite(suite, stage, config, comparisons)

        return given.give(
            source, self.comparisons[suite], draw, mode=run.principles, seed=run.config.seed,
            max_missing=read_config(run).max_unparsed,
        )  # fmt: skip

    def _load(self, run: runs.Run, name: str, untrained: bool) -> dict | None:
        if isinstance(self.engine, RemoteEngine):
            return None
        return run.init_params() if untrained else run.load_params(name)

    def _draw_suite(
        self, suite: str, stage: str, config: DrawConfig, comparisons: Sequence[Comparison]
    ) -> list[Trajectory]:
        label = f"benchmark_{suite}_{stage}_{'sampled' if config.temperature else 'greedy'}"
        try:
            drawn = rft.draw_stage(
                self.run, label, self._params[1], comparisons, config, self.engine,
                digest=self._params[2],
            )  # fmt: skip
        except ValueError as error:
            fields = ("config.benchmark.buckets.prompt_lengths, "
                      "config.benchmark.draw.max_truncated")  # fmt: skip
            advice = f" ({fields})" if isinstance(error, TooLong) else ""
            raise ValueError(f"suite {suite}: {error}{advice}") from error
        found = {trajectory.uid for trajectory in drawn}
        for comparison in comparisons:  # no prompt of it fits: it has no verdict
            if comparison.uid not in found:
                drawn += unanswered(comparison, drawn[0], config, self.run.tokenizer)
        return drawn

    def score(self, drawn: dict[str, Drawn]) -> dict[str, Drawn]:
        """The same with the scores of the meta RM."""
        self._params = None
        judge = meta_rm.load(self.run)
        digest = runs.params_digest(judge.params)
        return {
            suite: one._replace(
                meta=meta_scores(self.run, judge, digest, self.comparisons[suite], one.groups),
                meta_model=judge.model,
            )
            for suite, one in drawn.items()
        }


def meta_scores(
    run: runs.Run,
    judge: meta_rm.Judge,
    digest: str,
    comparisons: Sequence[Comparison],
    groups: Sequence[Sequence[Trajectory]],
) -> list[list[float]]:
    """The logit of each trajectory; units that meta_scores/ holds already are not run again."""
    loop = run.config.meta_rm.loop
    pairs = [(c, t) for c, own in zip(comparisons, groups, strict=True) for t in own]
    rows = [judge.input_ids(run.config.template.form, *pair) for pair in pairs]
    length = scalar.scoring_length(run, "meta_rm", loop.row_length, rows)
    scorer = scalar.Scorer(run, judge.model, judge.tokenizer.pad_id, length, loop.batch_size)
    size = scorer.batch_size * META_BATCHES_PER_UNIT
    _, first = pairs[0]
    parts = [
        digest, judge.tokenizer.fingerprint(),
        prompts.template_fingerprint(), str(length), str(size),
    ]  # fmt: skip
    fingerprint = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
    where = (first.fingerprint, first.stage, first.step)
    path = run.path("meta_scores", f"{first.stage}.jsonl")
    with MetaScoreStore(path) as store, run.progress("meta RM", len(rows)) as advance:
        complete = store.completed_units(fingerprint, *where)
        for unit, start in enumerate(range(0, len(rows), size)):
            piece = rows[start : start + size]
            if unit not in complete:
                keys = [trajectory.key for _, trajectory in pairs[start : start + size]]
                logits = dict(zip(keys, scorer(judge.params, piece), strict=True))
                store.append_unit(fingerprint, UnitHeader(*where, unit), logits)
                if run.stopping:
                    run.stop(f"unit {unit} of the scores of {first.stage}")
            advance(len(piece))
        by_key = store.scores(fingerprint, *where)
    return [[by_key[trajectory.key] for trajectory in own] for own in groups]


def measured_stages(run: runs.Run, config: sections.BenchmarkConfig) -> list[str]:
    """Names on disk of the trained stages that the benchmark measures."""
    greedy = settings.names(config.greedy_stages, "config.benchmark.greedy_stages")
    sampled = settings.names(config.sampled_stages, "config.benchmark.sampled_stages")
    needs_meta = config.meta_rm and not meta_rm.is_released(run)
    stages = [*greedy, *sampled, *(["meta_rm"] if needs_meta else [])]
    of_arms = [(run.arm(name), sampled[-1]) for name in arm_names(config)]
    return [
        arm.stage(stage) for arm, stage in [*((run, stage) for stage in stages), *of_arms]
        if stage not in sections.UNTRAINED_STAGES
    ]  # fmt: skip


def finished(run: runs.Run, config: sections.BenchmarkConfig) -> bool:
    """Whether everything is trained that the benchmark measures."""
    return all(map(run.has_params, measured_stages(run, config)))


def require_finished(run: runs.Run, config: sections.BenchmarkConfig) -> None:
    """Raises ValueError unless everything is trained that the benchmark measures."""
    for stage in measured_stages(run, config):
        if not run.has_params(stage):
            raise ValueError(
                f"{run.workdir}: stage {stage!r} is not finished and the benchmark "
                "measures it; run its experiment or experiments.spct first, or change "
                "config.benchmark (greedy_stages, sampled_stages, meta_rm, arms)"
            )


def run_benchmark(run: runs.Run) -> None:
    """Draws, counts, writes and prints."""
    config = read_config(run)
    rules = counting_rules(run, config)
    require_finished(run, config)
    greedy = settings.names(config.greedy_stages, "config.benchmark.greedy_stages")
    sampled = settings.names(config.sampled_stages, "config.benchmark.sampled_stages")
    measured = [run.arm(name) for name in arm_names(config)]
    seen = set(map(run.stage, greedy))
    loaded = load_comparisons(run, config)

    measurement = Measurement(run, loaded.comparisons)
    drawn = [measurement.draw(run, stage, k=None) for stage in greedy]
    drawn += [measurement.draw(run, stage, k=measurement.draw_config.k) for stage in sampled]
    if config.meta_rm:
        drawn[-1] = measurement.score(drawn[-1])
    for arm in measured:
        # Greedy, what it does not share with one before it; its samples are its own anyway.
        own = [stage for stage in greedy if arm.stage(stage) not in seen]
        seen.update(map(arm.stage, own))
        try:
            of_arm = [measurement.draw(arm, stage, k=None) for stage in own]
            drawn += [*of_arm, measurement.draw(arm, sampled[-1], k=config.arm_k)]
        except given.NoPrinciples as error:
            run.say(f"arm {arm.arm_name}: left out: {error}")

    suites = to_suites(loaded, drawn, stored_baselines(run, loaded.comparisons, rules))
    lines = write_report(run, suites, rules, count_all=config.count_all)
    require_readable(suites, lines, config)


def to_suites(
    loaded: Loaded,
    drawn: Sequence[dict[str, Drawn]],
    others: Mapping[str, tuple[Line, ...]] | None = None,
) -> list[Suite]:
    """What was drawn, and the lines of the trained baselines, suite by suite."""
    return [
        Suite(
            name, loaded.coverage[name], own, tuple(one[name] for one in drawn),
            others[name] if others else (),
        )
        for name, own in loaded.comparisons.items()
    ]  # fmt: skip


def draw_of(fields: Mapping) -> dict:
    """How a config draws samples: the fields of its section that are not at their defaults."""
    return claimed(fields)["benchmark"]["draw"]


def stored_baselines(
    run: runs.Run, comparisons: Mapping[str, Sequence[Comparison]], rules: CountingRules
) -> dict[str, tuple[Line, ...]]:
    """By suite, the lines of the trained baselines of the workdir that were measured alike."""
    now = draw_of(run.fields)
    return results.read_baselines(
        run.path, comparisons, rules,
        lambda draw: draw_of({"benchmark": {"draw": draw}}) == now, run.say,
    )  # fmt: skip


def require_readable(
    suites: Sequence[Suite], lines: LinesOf, config: sections.BenchmarkConfig
) -> None:
    """Raises ValueError where more samples have no scores, or were cut, than the config allows."""
    # What an arm fails to write is its result.
    bad = [
        f"{suite.name}, {line.label}: {share:.1%} {name} (config.benchmark.max_{name}: {most:g})"
        for suite in suites
        for line in lines[suite.name]
        if line.method.plain
        for name, share, most in (
            ("unparsed", line.unparsed, config.max_unparsed), ("cut", line.cut, config.max_cut)
        )
        if share is not None and share > most
    ]  # fmt: skip
    if bad:
        raise ValueError(f"too many samples say nothing; all is written. {'; '.join(bad)}")


def place(run: runs.Run) -> report.Place:
    """Where the report of a run goes, and what it is of."""
    return report.Place(
        run.path, run.say, run.console, run.config.benchmark.draw,
        arms.comparable(run.fields), arms.definitions(run.fields), run.world and run.world.truth,
    )  # fmt: skip


def write_report(
    run: runs.Run, suites: Sequence[Suite], rules: CountingRules, *, count_all: bool = False
) -> LinesOf:
    """Tables, figures, pages, and what the terminal shows; returns the lines."""
    own = set(map(run.stage, arms.STAGES))
    training = [record for record in run.metrics.read() if record["stage"] in own]
    return report.write_report(place(run), suites, rules, training, count_all=count_all)


if __name__ == "__main__":
    runs.main(run_benchmark)
