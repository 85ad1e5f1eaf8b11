"""Bad configs stop before any device work, with the name of the field."""

from __future__ import annotations

import hashlib
import json
import types

import jax
import ml_collections
import pytest

from configs import small_world
from experiments import run as runs
from experiments import schema
from experiments.config import build, differing_fields
from experiments.run import Run
from experiments.stages import drawing
from experiments.workdir import Workdir
from grm_jax.sampling.config import DrawConfig
from grm_jax.text import prompts


@pytest.fixture(autouse=True)
def _no_device_work(monkeypatch):
    """A config must be refused before a device is looked at."""

    def touched(*_):
        raise AssertionError("a device was touched")

    monkeypatch.setattr(runs, "_set_up_devices", touched)
    monkeypatch.setattr(jax, "devices", touched)
    monkeypatch.setattr(jax, "device_put", touched)


def _config(variant: str = "ci", **changes) -> ml_collections.ConfigDict:
    config = small_world.get_config(variant)
    for name, value in changes.items():
        *parents, field = name.split("__")
        section = config
        for parent in parents:
            section = section[parent]
        with section.unlocked(), section.ignore_type():
            section[field] = value
    return config


@pytest.mark.parametrize("variant", small_world.VARIANTS)
def test_every_variant_is_valid(variant):
    schema.check(ml_collections.FrozenConfigDict(small_world.get_config(variant)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # Unknown fields and sections.
        ({"grpo__kl": 0.1}, "config.grpo.kl: unknown field"),
        ({"rft__draw__temprature": 1.0}, "config.rft.draw.temprature: unknown field"),
        ({"sampling__chunks": 8}, "config.sampling.chunks: unknown field"),
        ({"tokenizer__vocabulary": 8}, "config.tokenizer.vocabulary: unknown field"),
        ({"sftt": ml_collections.ConfigDict()}, "config.sftt: unknown section"),
        # Wrong types.
        ({"grpo__group_size": "4"}, "config.grpo.group_size: expected int"),
        ({"grpo__group_size": 4.0}, "config.grpo.group_size: expected int"),
        ({"grpo__group_size": True}, "config.grpo.group_size: expected int"),
        ({"meta_rm__only_mixed": 1}, "config.meta_rm.only_mixed: expected bool"),
        ({"grpo__kl_coef": "0.1"}, "config.grpo.kl_coef: expected float"),
        ({"benchmark__ks": (1, 2)}, "config.benchmark.ks: expected comma-separated integers"),
        ({"benchmark__ks": "1,two"}, "config.benchmark.ks: expected comma-separated integers"),
        ({"rft__buckets__samples": (1, 2)}, "config.rft.buckets.samples: expected comma-separated"),
        # Impossible values.
        ({"grpo__group_size": 1}, "group_size"),
        ({"template__form": "short"}, "config.template.form: must be one of"),
        ({"template__reference": True}, "config.template.reference: a small world has no"),
        ({"grpo__optimizer__schedule": "warm"}, "config.grpo.optimizer.schedule: must be one of"),
        ({"benchmark__draw__order_policy": "sorted"}, "config.benchmark.draw.order_policy: must"),
        ({"benchmark__tie_policy": "best"}, "config.benchmark.tie_policy: must be"),
        ({"benchmark__suites": "judgebench,nobench"}, "config.benchmark.suites: must be"),
        ({"benchmark__greedy_stages": "sft"}, "config.benchmark.greedy_stages: must be"),
        ({"benchmark__sampled_stages": ""}, "config.benchmark.sampled_stages: must be"),
        ({"benchmark__limit": 0}, "config.benchmark.limit: must be"),
        ({"sampling__chunk": 0}, "config.sampling.chunk: must be at least 1"),
        ({"rft__data__micro_batches": 0}, "config.rft.data.micro_batches: must be at least 1"),
        ({"base__data__checkpoint_every": 0}, "config.base.data.checkpoint_every: must be"),
        ({"grpo__loop__prompts_per_step": 0}, "config.grpo.loop.prompts_per_step: must be"),
        ({"rft__packing__bins": 0}, "config.rft.packing.bins: must be at least 1"),
        # Impossible combinations.
        ({"benchmark__draw__k": 4}, "config.benchmark.ks: 8 exceeds config.benchmark.draw.k = 4"),
        ({"benchmark__ks": "0,2"}, "config.benchmark.ks: must be different numbers of"),
        ({"benchmark__k_meta": "1,1,2,9"}, "config.benchmark.k_meta: 9"),
        ({"benchmark__k_meta": "1,1"}, "config.benchmark.k_meta: 2 values"),
        ({"benchmark__arm_k": 9}, "config.benchmark.arm_k: 9"),
        ({"benchmark__draw__order_policy": "both", "benchmark__draw__k": 1,
          "benchmark__ks": "1", "benchmark__arms": ""},
         "config.benchmark.draw.k: must be at least 2"),
        ({"grpo__optimizer__steps": 3, "grpo__inner_epochs": 2},
         "config.grpo.optimizer.steps: 3 updates are not a multiple of config.grpo.inner_epochs"),
        ({"grpo__draw__temperature": 0.0}, "config.grpo.draw.temperature: must be above 0"),
        ({"grpo__draw__top_p": 0.9}, "config.grpo.draw.top_p: must be 1, got 0.9"),
        ({"mesh__data": 2, "grpo__loop__prompts_per_step": 3},
         "config.grpo.loop.prompts_per_step: 3"),
        ({"mesh__fsdp": 3}, "config.base.packing.batch_size: 4 rows are not a multiple of 3"),
        ({"mesh__data": 2, "grpo__micro_batches": 16},
         "config.grpo.loop.prompts_per_step: 16 rows are not a multiple of 32: config.mesh splits "
         "batches in 2, and there are 16 micro-batches"),
        ({"mesh__data": 2, "grpo__buckets__samples_per_unit": 4},
         "config.grpo.buckets.samples_per_unit: 4 makes units of 1 prompts with 4 samples"),
        ({"mesh__rules": "embed=fsdpp"}, "config.mesh.rules: 'embed=fsdpp' must read"),
        ({"mesh__fsdp": 0}, "config.mesh.fsdp: must be at least 1"),
        ({"model__rules": "x"}, "config.model.rules: unknown field"),
        ({"mesh__data": 2, "meta_rm__loop__batch_size": 3}, "config.meta_rm.loop.batch_size: 3"),
        *(({f"{name}__draw__max_new_tokens": 200},
           f"config.{name}.draw.max_new_tokens: 200 exceeds the largest of config.{name}.buckets."
           "output_lengths, 96") for name in ("rft", "grpo", "meta_rm", "benchmark")),
        ({"ablate__arms": {"long": "grpo.draw.max_new_tokens=97"}, "benchmark__arms": "long"},
         "config.ablate.arms.long: config.grpo.draw.max_new_tokens: 97 exceeds"),
        # Seeds have 32 bits.
        ({"seed": -1}, "config.seed: must be from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "config.seed: must be"),
        ({"seed": "7"}, "config.seed: expected int"),
        ({"seed": True}, "config.seed: expected int"),
        ({"small_world__world_seed": -1}, "config.small_world.world_seed: must be"),
        ({"small_world__world_seed": 2**32}, "config.small_world.world_seed: must be"),
        ({"ablate__seeds": "3,-1"}, "config.ablate.seeds: must be integers from 0"),
        ({"ablate__development_seeds": "4294967296"}, "config.ablate.development_seeds: must be"),
        ({"ablate__opened": "-7"}, "config.ablate.opened: must be"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(tmp_path, changes, named):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError) as caught:
        Run.open(_config(**changes), workdir)
    assert named in str(caught.value)
    assert not workdir.exists()


@pytest.mark.parametrize(
    "name",
    ["grpo.loop.comparisons", "benchmark.ks", "rft.data", "rft.packing", "benchmark.draw",
     "grpo.buckets", "template", "model.num_heads"],
)  # fmt: skip
def test_a_missing_field_is_named(name):
    config = _config()
    *parents, field = name.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    with section.unlocked():
        del section[field]
    with pytest.raises(ValueError, match=rf"config\.{name}: (field|section) is missing"):
        schema.check(config)


def test_the_workdir_of_another_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(_config().to_json())
    with pytest.raises(ValueError) as caught:
        Run.open(_config(grpo__kl_coef=0.5, seed=7), tmp_path)
    message = str(caught.value)
    assert "config.grpo.kl_coef: 0.08 there, 0.5 now" in message
    assert "config.seed: 0 there, 7 now" in message
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_the_benchmark_section_may_change_on_a_workdir(tmp_path):
    (tmp_path / "config.json").write_text(_config().to_json())
    with pytest.raises(AssertionError, match="a device was touched"):  # the check is passed
        Run.open(_config(benchmark__limit=5), tmp_path)


def test_a_workdir_in_use_is_refused(tmp_path):
    held = Workdir(tmp_path)
    with pytest.raises(ValueError, match="is in use by another process"):
        Run.open(_config(), tmp_path)
    held.close()


def test_trajectories_of_former_balanced_orders_are_not_taken_for_balanced_ones():
    run = types.SimpleNamespace(
        tokenizer=types.SimpleNamespace(fingerprint=lambda: "t"),
        config=types.SimpleNamespace(seed=0),
    )
    for policy in ("random", "balanced"):
        draw = DrawConfig(k=2, order_policy=policy)
        parts = ["d", prompts.template_fingerprint(), "t", draw.form, draw.principles, "1.0",
                 "1.0", policy, "4", "0"]  # fmt: skip
        former = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
        assert (drawing.fingerprint(run, "d", draw) == former) == (policy == "random")


def test_ints_become_floats_and_lists_are_split():
    config = build(_config(grpo__kl_coef=1, rft__buckets__samples="1, 2,4"))
    assert config.grpo.objective.kl_coef == 1.0
    assert isinstance(config.grpo.objective.kl_coef, float)
    assert config.rft.buckets.samples == (1, 2, 4)


def test_differing_fields_name_both_values():
    a, b = {"x": {"y": 1, "z": 2}}, {"x": {"y": 1, "z": 3}, "w": 4}
    assert differing_fields(a, b) == [
        "config.w: None there, 4 now", "config.x.z: 2 there, 3 now",
    ]  # fmt: skip
