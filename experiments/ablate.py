"""Ablation: the same loop without principles (principle mode "none"), on the same comparisons.

    python -m experiments.ablate --config=configs/small_world.py --workdir=DIR

Both arms share the base model and everything but the principle mode; missing stages are run.
Writes tables/ablation.*.
"""

from experiments import benchmark, grpo, report, rft, settings, sft
from experiments import run as runs


def run_stages(run: runs.Run) -> None:
    """Cold start, RFT and GRPO of the arm without principles.

    Raises:
      ValueError: if the run itself has no principles.
    """
    if run.principles == "none":
        raise ValueError("config.template.principles: 'none' leaves nothing to take away")
    arm = run.arm("none")
    sft.run_stage(arm, "base")
    sft.run_stage(arm, "cold_start")
    rft.run_stage(arm)
    grpo.run_stage(arm)


def main(run: runs.Run) -> None:
    """Runs what is missing of both arms, draws on the suites, and compares."""
    config = benchmark.read_config(run)
    if not config.ablation_k:
        raise ValueError("config.benchmark.ablation_k: 0 leaves the arm without principles out")
    stage = settings.names(config.sampled_stages, "config.benchmark.sampled_stages")[-1]
    grpo.main(run)
    run_stages(run)

    loaded = benchmark.load_comparisons(run, config)
    rules = benchmark.counting_rules(run, config)
    measurement = benchmark.Measurement(run, loaded.comparisons)
    drawn = [
        measurement.draw(arm, stage, k=k)
        for arm, most in ((run, measurement.draw_config.k), (run.arm("none"), config.ablation_k))
        for k in (None, most)
    ]
    suites = benchmark.to_suites(loaded, drawn)
    lines = benchmark.count(suites, rules)
    notes = report.notes(suites, rules, run.draw_config("benchmark"))
    report.show(run, report.ablation_table(suites, lines, notes), "ablation")


if __name__ == "__main__":
    runs.main(main)
