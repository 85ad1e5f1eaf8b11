"""A damaged file of a workdir ends what reads it in an error that names the file."""

import builders
import pytest

from configs import small_world
from experiments import ablation, arms, measurement, sections
from experiments.config import build, complete
from experiments.stages import baseline, benchmark
from experiments.training_data import TrainingData
from experiments.workdir import Workdir
from grm_jax.evaluation import results
from grm_jax.models.hub import record


@pytest.fixture
def run(tmp_path):
    """A run without devices on an empty workdir."""
    fields = complete(small_world.get_config("ci"))
    return builders.run(
        fields=fields, config=build(fields), arms={arms.MAIN: fields}, workdir=Workdir(tmp_path)
    )


READERS = {
    "config.json": lambda run: run.workdir.keep_config(run.fields),
    "stages/base.json": lambda run: run.stage("base"),
    "results/small_world.json": lambda run: results.read_results(run.workdir.root),
    "baselines/pairrm/config.json": lambda run: baseline.claim(run, "pairrm"),
    "baselines/pairrm/small_world.json": lambda run: benchmark.stored_baselines(
        run, {"small_world": []}, benchmark.counting_rules(run, measurement.read_config(run))
    ),
    "opened.json": lambda run: ablation.check_opening(run.workdir.root, run.fields),
    "params/base/DONE": lambda run: run.workdir.load_params("base", {}, written_by={}),
    "model.json": lambda run: record.read(run.workdir.root),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(("data", "line"), [(b"", 1), (b"\0" * 6, 1), (b'{\n "a', 2), (b"[]", 1)])
def test_the_file_is_named(run, name, data, line):
    path = run.workdir.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        READERS[name](run)
    assert f"{path}:{line}: " in str(caught.value)


def test_the_report_on_training_data_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    (tmp_path / "data.json").write_text("")
    section = sections.DataConfig(train=f"comparisons:{tmp_path}/train.jsonl", overlap="allow")
    with pytest.raises(ValueError, match=r"data\.json:1: damaged"):
        TrainingData(section, 0, tmp_path)
