"""Trains one of the baselines of the paper, measures it on all suites, and reports.

The lines are kept in baselines/<kind>/. Once all stages that config.benchmark measures are
finished, the whole report is written with every baseline of the workdir in it; before that, tables
and results of the baselines alone.
"""

from experiments import measurement, sections
from experiments.baselines import cloud, judge, pairs
from experiments.config import claimed, differing_fields, filled
from experiments.run import Run
from experiments.stages import benchmark, order
from grm_jax.evaluation import report, results
from grm_jax.evaluation.lines import counted
from grm_jax.files import read_json, write_json

# Each has train(run, config) and measure(run, config, suites, counting) -> lines by suite.
KINDS = {"bradley_terry": pairs, "pairrm": pairs, "cloud": cloud,
         "llm_judge": judge, "token_prob": judge}  # fmt: skip


def read_config(run: Run) -> sections.Baseline:
    """Section `baseline`.

    Raises:
      ValueError: if it is missing, or does not fit section `benchmark`.
    """
    run.config.require("baseline", "benchmark")
    config = run.config.baseline
    most = run.config.benchmark.draw.k
    if config.k > most:
        raise ValueError(f"config.baseline.k: {config.k} exceeds config.benchmark.draw.k = {most}")
    if run.config.benchmark.engine.server() is not None:
        raise ValueError("config.benchmark.engine: baselines are measured by the jitted engine")
    for field in ("principles", "reference"):
        if getattr(run.config.benchmark, field):
            raise ValueError(f"config.benchmark.{field}: baselines are shown none")
    return config


def claim(run: Run, kind: str) -> None:
    """Keeps the section that a kind is trained with, and refuses a different one later.

    Only `k`, which decides no parameters, may change. The section may differ from kind to kind.

    Raises:
      ValueError: naming the fields that differ.
    """
    path = run.workdir.path("baselines", kind, "config.json")
    section = claimed(run.fields)["baseline"]
    now = {"baseline": {name: value for name, value in section.items() if name != "k"}}
    if path.exists():
        before = {"baseline": dict(read_json(path)["baseline"], k=None)}
        different = differing_fields(filled(before), filled(now))
        if different:
            raise ValueError(
                f"{path.parent} belongs to another config; give another --workdir, or undo: "
                + "; ".join(different)
            )
    write_json(path, now)


def run_stage(run: Run) -> None:
    """Trains one kind, measures it on all suites, and reports."""
    config = read_config(run)
    kind, module = config.kind, KINDS[config.kind]
    claim(run, kind)
    order.up_to("base" if module is pairs else "cold_start")(run)
    module.train(run, config)

    of_benchmark = measurement.read_config(run)
    counting = benchmark.counting_rules(run, of_benchmark)
    loaded = measurement.load_comparisons(run, of_benchmark)
    suites = benchmark.to_suites(loaded, [])
    lines = module.measure(run, config, suites, counting)
    for suite in suites:
        draw = benchmark.draw_of(run.fields)
        results.write_baseline(run.workdir.path, kind, suite, counting, draw, lines[suite.name])

    if benchmark.finished(run, of_benchmark):
        benchmark.run_stage(run)
        return
    others = benchmark.stored_baselines(run, loaded.comparisons, counting)
    suites = benchmark.to_suites(loaded, [], others)
    report.write_lines(benchmark.place(run), counted(suites, counting), counting)
