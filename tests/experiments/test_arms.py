"""Arms: what they change, what they share, and what is refused."""

import json
import signal

import pytest
from ml_collections import ConfigDict

from configs import deepseek_v2_lite_16b, gemma2_27b, small_world
from experiments import ablation, arms, schema
from experiments import run as runs
from experiments.config import complete
from experiments.run import Run, Stopped


@pytest.fixture
def config():
    return small_world.get_config("ci")


def with_arm(config, changes: str) -> ConfigDict:
    config.ablate.arms.tried = changes
    return config


def test_an_arm_changes_its_fields_and_no_other(config):
    changed = arms.changed(with_arm(config, "grpo.kl_coef=0.5; grpo.buckets.samples=2"), "tried")
    assert changed.grpo.kl_coef == 0.5 and changed.grpo.buckets.samples == "2"
    back = ConfigDict(changed).copy_and_resolve_references()
    back.grpo.kl_coef, back.grpo.buckets.samples = 0.08, "4"
    assert back.to_dict() == complete(config).to_dict()
    assert config.grpo.kl_coef == 0.08


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ("grpo.kl=0.1", "config.ablate.arms.tried: config.grpo.kl: unknown field"),
        ("grpo.kl_coef=much", "config.grpo.kl_coef: expected float, got 'much'"),
        ("grpo.group_size=2.5", "config.grpo.group_size: expected int"),
        ("grpo.loops.start=rft", "config.grpo.loops is no section"),
        ("grpo.loop.start=base", "config.grpo.loop.start: must be one of"),
        ("cold_start.data.verdicts=random", "verdicts: must be one of"),
        ("seed=3", "expected section.field=value, got 'seed=3'"),
        ("model.num_layers=4", "arms may change"),
        ("small_world.noise=0.1", "arms may change"),
        ("benchmark.tie_policy=half", "arms may change"),
        ("benchmark.draw.k=2", "arms may change"),
        ("meta_rm.balance=none", "arms may change"),
        ("grpo.kl_coef", "expected section.field=value"),
        ("grpo.kl_coef.x=1", "config.grpo.kl_coef is no section"),
        ("grpo.loop=3", "config.grpo.loop is a section, not a field"),
        ("", "changes nothing"),
        ("grpo.kl_coef=0.08", "changes nothing"),
    ],
)
def test_a_bad_arm_is_named(config, changes, named):
    with pytest.raises(ValueError) as caught:
        arms.every(with_arm(config, changes))
    assert "config.ablate.arms.tried" in str(caught.value) and named in str(caught.value)


@pytest.mark.parametrize("name", ["greedy", "k_samples", "decisions", "KL", "a b"])
def test_a_name_that_means_something_else_is_refused(config, name):
    config.ablate.arms[name] = "grpo.kl_coef=0.5"
    with pytest.raises(ValueError, match=f"config.ablate.arms.{name}: a name has small letters"):
        arms.every(config)


def test_an_arm_that_does_not_exist_is_named(config):
    with pytest.raises(ValueError, match="no arm 'kl_7'; there are"):
        arms.changed(config, "kl_7")
    config.benchmark.arms = "kl_0,kl_7"
    with pytest.raises(ValueError, match=r"config\.benchmark\.arms: no arm 'kl_7'"):
        arms.every(config)
    config.ablate.only = "kl_7"
    with pytest.raises(ValueError, match=r"config\.ablate\.only: no arm 'kl_7'"):
        ablation.read_config(config)


@pytest.mark.parametrize("module", [small_world, gemma2_27b, deepseek_v2_lite_16b])
def test_every_arm_of_every_config_is_valid(module):
    config = module.get_config()
    names = list(config.ablate.arms)
    assert len(names) >= 5
    for name in names:
        changed = arms.changed(config, name)
        assert changed.to_dict() != complete(config).to_dict()
        if "released" not in config:  # the folder of the weights is not here
            schema.check(changed)


def test_stages_are_shared_as_far_as_they_are_equal(config, tmp_path):
    run = Run.open(config, tmp_path)
    stages = ("base", "cold_start", "rft", "grpo")

    def of(arm):
        return [run.arm(arm).stage(stage) for stage in stages]

    assert [run.stage(stage) for stage in stages] == list(stages)
    assert of("kl_0") == ["base", "cold_start", "rft", "grpo_kl_0"]
    assert of("without_hinted_sampling")[:3] == [
        "base", "cold_start", "rft_without_hinted_sampling",
    ]  # fmt: skip
    assert of("without_principles") == ["base", *(f"{s}_without_principles" for s in stages[1:])]
    assert of("without_rejective_sampling")[2:] == ["rft", "grpo_without_rejective_sampling"]
    assert of("random_orders") == list(stages)  # the same policy, drawn otherwise
    arm = run.arm("kl_0")
    assert arm.config.grpo.objective.kl_coef == 0 and run.config.grpo.objective.kl_coef == 0.08

    assert arm.arm("").stage("grpo") == "grpo"

    # Two arms that are equal are one, and a stage is what it was when it was begun, whichever arm
    # trained it.
    run.workdir.close()
    config.ablate.arms.more = config.ablate.arms.kl_0 + "; benchmark.draw.order_policy=random"
    later = Run.open(config, tmp_path)
    assert later.arm("more").stage("grpo") == "grpo_kl_0"
    later.arm("more").begin("grpo")
    later.workdir.close()
    # Nor do arms rename it that come before it by the alphabet.
    config.ablate.arms.a_first = config.ablate.arms.more
    later = Run.open(config, tmp_path)
    for name in ("a_first", "kl_0"):
        assert later.arm(name).stage("grpo") == "grpo_kl_0"
    later.workdir.close()
    del config.ablate.arms.a_first
    config.ablate.arms.kl_0 = "grpo.kl_coef=0.01"
    with pytest.raises(ValueError, match="'grpo_kl_0' was made with another config") as caught:
        Run.open(config, tmp_path).arm("kl_0").stage("grpo")
    assert "config.grpo.kl_coef: 0.0 there, 0.01 now" in str(caught.value)


def test_without_rejective_sampling_no_field_of_it_decides_grpo(config):
    arm = ConfigDict(arms.changed(config, "without_rejective_sampling"))
    before = arms.deciding(arm, "grpo")
    arm["rft"]["num_hinted"] += 1
    assert arms.deciding(arm, "grpo") == before
    arm["grpo"]["loop"]["easy_for"] = "rft"  # it reads the trajectories of RFT
    before = arms.deciding(arm, "grpo")
    arm["rft"]["num_samples"] += 1
    assert arms.deciding(arm, "grpo") != before
    full = ConfigDict(config)
    before = arms.deciding(full, "grpo")
    full["rft"]["num_hinted"] += 1
    assert arms.deciding(full, "grpo") != before


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"seeds": "11,12,11"}, "seeds: seed 11 is in seeds already"),
        ({"development_seeds": "0,11"}, "development_seeds: seed 11 is in seeds already"),
        ({"opened": "4,11"}, "opened: seed 11 is in seeds already"),
        ({"seeds": "1;2"}, "seeds: expected comma-separated integers"),
    ],
)
def test_a_seed_has_one_use(config, fields, named):
    config.ablate.update(fields)
    with pytest.raises(ValueError, match=f"config.ablate.{named}"):
        schema.check(config)


def test_the_split_decides_the_seeds_and_shards_divide_them(config):
    config.benchmark.split = "test"
    assert ablation.seeds(config) == [11, 12, 13, 14, 15]
    assert ablation.take_shard(ablation.seeds(config), "1/2") == [12, 14]
    assert ablation.take_shard(ablation.seeds(config), "0/2") == [11, 13, 15]
    config.benchmark.split = "development"
    assert ablation.seeds(config) == [0, 1, 2, 3, 7]
    own = ablation.of_seed(config, 7)
    assert own.seed == own.small_world.world_seed == 7
    assert own.benchmark.arms.split(",") == list(config.ablate.arms)
    config.ablate.development_seeds = ""
    with pytest.raises(ValueError, match="no seeds for config.benchmark.split='development'"):
        ablation.seeds(config)
    for shard in ("2/2", "1", "a/b", "-1/2", "²/3"):
        with pytest.raises(ValueError, match="--shard: expected i/n"):
            ablation.take_shard([1], shard)


def test_a_held_out_seed_is_opened_once(config, tmp_path):
    ablation.check_opening(tmp_path, config)
    ablation.record_opening(tmp_path, config)
    assert json.loads((tmp_path / "opened.json").read_text())["date"]
    config.ablate.arms.more = "grpo.kl_coef=0.5"  # a later arm, a resumed run, another machine
    config.benchmark.arms, config.benchmark.max_cut = "more", 0.3
    config.benchmark.buckets.samples_per_unit *= 2
    ablation.check_opening(tmp_path, config)
    config.benchmark.draw.temperature = 0.7
    with pytest.raises(ValueError) as caught:
        ablation.check_opening(tmp_path, config)
    assert "was opened on" in str(caught.value)
    assert "config.benchmark.draw.temperature: 0.5 there, 0.7 now" in str(caught.value)


def test_a_config_that_ablates_nothing_is_named(config):
    for section in ("benchmark", "ablate"):
        without = ConfigDict(config).copy_and_resolve_references()
        del without[section]
        with pytest.raises(ValueError, match=rf"config\.{section}: section is missing"):
            ablation.seeds(without)
    with pytest.raises(ValueError, match="split: must be one of"):
        config.benchmark.split = "tset"
        schema.check(config)


def test_a_stop_at_the_end_of_a_run_begins_no_other(config, tmp_path):
    with pytest.raises(Stopped):
        runs.carry_out(lambda run: run.ask_to_stop(signal.SIGTERM), config, tmp_path)


def test_how_a_server_is_asked_may_change_on_a_begun_workdir(config, tmp_path):
    """Its time-outs, rate and dialect; not what it is asked, nor whom."""
    config.rft.engine, config.rft.engine_url, config.rft.engine_model = "openai", "http://a", "m"

    def begun():
        run = Run.open(config, tmp_path)
        run.begin("rft")
        run.workdir.close()
        return run.stage("rft"), arms.comparable(config)

    before = begun()
    for change in (
        {"timeout": 5.0, "total_timeout": 6.0, "tries": 2, "parallel": 3, "rate": 1.0},
        {"max_tokens_field": "max_completion_tokens"},
        {"stop_reasons": "done", "length_reasons": "cut"},
    ):
        config.rft.update({f"engine_{name}": value for name, value in change.items()})
        assert begun() == before == ("rft", before[1])
    for field, value in (("url", "http://b"), ("model", "n"), ("extra", '{"top_k": 1}')):
        changed = ConfigDict(config).copy_and_resolve_references()
        changed.rft[f"engine_{field}"] = value
        with pytest.raises(ValueError, match=f"another config.*config.rft.engine_{field}: "):
            Run.open(changed, tmp_path)
        assert arms.deciding(changed, "rft") != arms.deciding(config, "rft")
        assert arms.comparable(changed) != before[1]


def test_a_stage_of_before_is_compared_without_how_its_server_was_asked(config, tmp_path):
    run = Run.open(config, tmp_path)
    run.begin("rft")
    path = tmp_path / "stages" / "rft.json"
    before = json.loads(path.read_text())
    before["rft"]["engine_timeout"] = 5.0
    path.write_text(json.dumps(before))
    assert run.stage("rft") == "rft"


def test_results_of_another_served_model_are_not_averaged(config):
    digests = set()
    for change in ({}, {"engine_model": "m"}, {"engine_extra": "{}"}, {"engine_tries": 2}):
        changed = ConfigDict(config).copy_and_resolve_references()
        changed.benchmark.update(change)
        digests.add(arms.comparable(changed))
    assert len(digests) == 3
