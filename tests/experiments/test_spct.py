"""The whole loop in one process: what it leaves, what it compiles, and doing it again."""

import json

import pytest

from configs import small_world
from experiments import run as runs
from experiments.config import build
from experiments.run import Run
from experiments.stages import order
from grm_jax.sampling.engine import JittedEngine
from tests import programs


@pytest.fixture(scope="module")
def config():
    c = small_world.get_config("ci")
    c.mesh.data = 2  # nothing else draws and trains on more than one device in one process
    return c


def test_the_whole_loop(config, tmp_path, compilation_counter, monkeypatch):
    # Known before the run. No trajectory outlives `sampling.chunk`, so no straggler moves.
    declared = set()
    typed = build(config)
    for section in (typed.rft, typed.grpo, typed.meta_rm, typed.benchmark):
        assert section.draw.max_new_tokens <= typed.sampling.chunk
        declared |= programs.declared(section.buckets, moves=False)

    engines = []

    def engine(*args, **fields):
        engines.append(JittedEngine(*args, **fields))
        return engines[-1]

    monkeypatch.setattr(runs, "JittedEngine", engine)
    with compilation_counter() as counter:
        run = Run.open(config, tmp_path)
        order.run_whole(run)

    # Each declared shape of each kernel once and no other; each update once for all its stages.
    assert set().union(*(engine.programs for engine in engines)) == declared
    for name in ("prefill", "begin", "decode"):
        assert counter.count(name) == sum(program[0] == name for program in declared), name
    for name in ("sft_update", "grpo_update", "meta_rm_update", "meta_rm_score"):
        assert counter.count(name) == 1, name

    # What people look at.
    for path in ("tables/main.md", "tables/main.csv", "tables/main.tex", "tables/main.json",
                 "figures/scaling.png", "figures/training.png", "samples.md",
                 "critiques.html"):  # fmt: skip
        assert (tmp_path / path).stat().st_size > 0, path
    table = (tmp_path / "tables/main.md").read_text()
    for row in ("first", "random", "longest", "shortest", "Voting@8", "MetaRM@8", "greedy"):
        assert row in table, row
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    stages = {record["stage"] for record in metrics}
    assert {"base", "cold_start", "rft", "grpo", "meta_rm", "grpo_without_principles"} <= stages
    gaps = [record["logprob_gap_max"] for record in metrics if record["stage"] == "grpo"]
    assert gaps and max(gaps) <= 1e-4

    # Done again, nothing is trained or drawn, and equal runs give equal tables.
    before = (tmp_path / "metrics.jsonl").read_bytes()
    run.workdir.close()
    with compilation_counter() as counter:
        order.run_whole(Run.open(config, tmp_path))
    assert not any(counter.count(name) for name in ("sft_update", "grpo_update", "decode"))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert (tmp_path / "tables/main.md").read_text() == table
