"""The whole loop in one process: what it leaves, what it compiles, and doing it again."""

import json

import pytest

from configs import small_world
from experiments import run as runs
from experiments import spct


@pytest.fixture(scope="module")
def config():
    config = small_world.get_config("ci")
    config.mesh.data = 1  # tests have one device
    return config


@pytest.mark.slow
def test_the_whole_loop(config, tmp_path, compilation_counter):
    with compilation_counter() as counter:
        run = runs.Run(config, tmp_path)
        spct.main(run)

    # The declared programs: each shape of each kernel once, each update once for all its stages.
    declared = set().union(*(engine.programs for engine in run.engines))
    assert {name for name, *_ in declared} == {"prefill", "begin", "decode"}
    for name in ("prefill", "begin", "decode"):
        assert counter.count(name) == sum(program[0] == name for program in declared), name
    for name in ("sft_update", "grpo_update", "meta_rm_update", "meta_rm_score"):
        assert counter.count(name) == 1, name

    # What people look at.
    for path in ("tables/main.md", "tables/main.csv", "tables/main.tex", "tables/main.json",
                 "figures/scaling.png", "figures/training.png", "samples.md"):  # fmt: skip
        assert (tmp_path / path).stat().st_size > 0, path
    table = (tmp_path / "tables/main.md").read_text()
    for row in ("first", "random", "longest", "shortest", "Voting@8", "MetaRM@8", "greedy"):
        assert row in table, row
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    stages = {record["stage"] for record in metrics}
    assert {"base", "cold_start", "rft", "grpo", "meta_rm", "grpo_none"} <= stages
    gaps = [record["logprob_gap_max"] for record in metrics if record["stage"] == "grpo"]
    assert gaps and max(gaps) <= 1e-4

    # Done again, nothing is trained or drawn, and equal runs give equal tables.
    before = (tmp_path / "metrics.jsonl").read_bytes()
    run._lock.close()
    with compilation_counter() as counter:
        spct.main(runs.Run(config, tmp_path))
    assert not any(counter.count(name) for name in ("sft_update", "grpo_update", "decode"))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert (tmp_path / "tables/main.md").read_text() == table
