"""The benchmark: measures the stages of a workdir greedily, by voting, and by guided voting.

Every number comes from stored trajectories. Writes
tables/{main,differences,protocols,bias,...}.*, figures/*.png, results/*.json (what `tools.tables`
compares), samples.md and critiques.html. Ends with an error, after everything is written, where
more samples were cut or had no scores than config.benchmark.max_cut and max_unparsed allow.
"""

from collections.abc import Mapping, Sequence

from experiments import arms, measurement
from experiments.config import claimed
from experiments.measurement import SPREAD, Loaded, Measurement, read_config
from experiments.run import Run
from experiments.sections import UNTRAINED_STAGES, Benchmark
from experiments.stages import meta_rm
from grm_jax import voting
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import report, results
from grm_jax.evaluation.lines import CountingRules, Drawn, Line, Suite
from grm_jax.ranges import split
from grm_jax.sampling import given
from grm_jax.text import prompts


def counting_rules(run: Run, config: Benchmark) -> CountingRules:
    """The counting rules of the config."""
    draw = config.draw
    k_metas = voting.resolve_k_meta(config.ks, config.k_meta or voting.half)
    by_k = {1: 1} | dict(zip(config.ks, k_metas, strict=True))
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
        # The scale of a judge is its own.
        single_middle=None if draw.judge else sum(prompts.score_range(draw.binary_singles)) / 2,
    )


def measured_stages(run: Run, config: Benchmark) -> list[str]:
    """Names on disk of the trained stages that the benchmark measures."""
    greedy = split(config.greedy_stages)
    sampled = split(config.sampled_stages)
    needs_meta = config.meta_rm and not meta_rm.is_released(run)
    stages = [*greedy, *sampled, *(["meta_rm"] if needs_meta else [])]
    of_arms = [(run.arm(name), sampled[-1]) for name in split(config.arms)]
    return [
        arm.stage(stage) for arm, stage in [*((run, stage) for stage in stages), *of_arms]
        if stage not in UNTRAINED_STAGES
    ]  # fmt: skip


def finished(run: Run, config: Benchmark) -> bool:
    """Whether all stages that the benchmark measures are trained."""
    return all(map(run.workdir.has_params, measured_stages(run, config)))


def require_finished(run: Run, config: Benchmark) -> None:
    """Raises ValueError unless all stages that the benchmark measures are trained."""
    for stage in measured_stages(run, config):
        if not run.workdir.has_params(stage):
            raise ValueError(
                f"{run.workdir.root}: stage {stage!r} is not finished and the benchmark "
                "measures it; run its experiment or experiments.spct first, or change "
                "config.benchmark (greedy_stages, sampled_stages, meta_rm, arms)"
            )


def run_stage(run: Run) -> None:
    """Draws, counts, writes and prints."""
    config = read_config(run)
    counting = counting_rules(run, config)
    require_finished(run, config)
    greedy = split(config.greedy_stages)
    sampled = split(config.sampled_stages)
    measured = [run.arm(name) for name in split(config.arms)]
    seen = set(map(run.stage, greedy))
    loaded = measurement.load_comparisons(run, config)

    on_suites = Measurement(run, loaded.comparisons)
    drawn = [on_suites.draw(run, stage, k=None) for stage in greedy]
    drawn += [on_suites.draw(run, stage, k=on_suites.draw_config.k) for stage in sampled]
    if config.meta_rm:
        drawn[-1] = on_suites.score(drawn[-1])
    for arm in measured:
        # Greedy only the stages that no earlier arm shares.
        unseen = [stage for stage in greedy if arm.stage(stage) not in seen]
        seen.update(map(arm.stage, unseen))
        try:
            of_arm = [on_suites.draw(arm, stage, k=None) for stage in unseen]
            drawn += [*of_arm, on_suites.draw(arm, sampled[-1], k=config.arm_k)]
        except given.NoPrinciples as error:
            run.say(f"arm {arm.arm_name}: left out: {error}")

    suites = to_suites(loaded, drawn, stored_baselines(run, loaded.comparisons, counting))
    suites = write_report(run, suites, counting, count_all=config.count_all)
    require_readable(suites, config)


def to_suites(
    loaded: Loaded,
    drawn: Sequence[dict[str, Drawn]],
    others: Mapping[str, tuple[Line, ...]] | None = None,
) -> list[Suite]:
    """The suites with their samples and the lines of the trained baselines."""
    return [
        Suite(
            name, loaded.coverage[name], comparisons, tuple(samples[name] for samples in drawn),
            others[name] if others else (),
        )
        for name, comparisons in loaded.comparisons.items()
    ]  # fmt: skip


def draw_of(fields: Mapping) -> dict:
    """Section `benchmark.draw` of a config, without the fields at their defaults."""
    return claimed(fields)["benchmark"]["draw"]


def stored_baselines(
    run: Run, comparisons: Mapping[str, Sequence[Comparison]], counting: CountingRules
) -> dict[str, tuple[Line, ...]]:
    """The lines of each suite of the workdir's trained baselines that were measured alike."""
    now = draw_of(run.fields)
    return results.read_baselines(
        run.workdir.path, comparisons, counting,
        lambda draw: draw_of({"benchmark": {"draw": draw}}) == now, run.say,
    )  # fmt: skip


def require_readable(suites: Sequence[Suite], config: Benchmark) -> None:
    """Raises ValueError where more samples are unparsed or cut than the config allows."""
    # Unparsed samples of an arm are its result, so arms are not checked.
    bad = [
        f"{suite.name}, {line.label}: {share:.1%} {name} (config.benchmark.max_{name}: {most:g})"
        for suite in suites
        for line in suite.lines
        if line.method.plain
        for name, share, most in (
            ("unparsed", line.unparsed, config.max_unparsed), ("cut", line.cut, config.max_cut)
        )
        if share is not None and share > most
    ]  # fmt: skip
    if bad:
        raise ValueError(f"too many samples say nothing; all is written. {'; '.join(bad)}")


def place(run: Run) -> report.Place:
    """The folder, console and settings of the report of a run."""
    return report.Place(
        run.workdir.path, run.say, run.console, run.config.benchmark.draw,
        arms.comparable(run.fields), arms.definitions(run.fields), run.world and run.world.truth,
    )  # fmt: skip


def write_report(
    run: Run, suites: Sequence[Suite], counting: CountingRules, *, count_all: bool = False
) -> list[Suite]:
    """Writes and prints tables, figures and pages; returns the suites with their lines."""
    stages = set(map(run.stage, arms.STAGES))
    training = [record for record in run.metrics.read() if record["stage"] in stages]
    return report.write_report(place(run), suites, counting, training, count_all=count_all)
