"""Ranges of config fields: every number of every config dataclass has one, and it is checked."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest

from configs import small_world
from experiments import config, sections
from grm_jax.data.small_world import SmallWorldConfig
from grm_jax.learning.state import OptimizerConfig
from grm_jax.models.config import Compute, LoRAConfig, MLAConfig, ModelConfig, MoEConfig, YarnConfig
from grm_jax.parallel.mesh import MeshConfig
from grm_jax.ranges import Checked, between, names_of, ranges
from grm_jax.sampling.remote import Server

# Dataclasses that only hold others.
SECTIONS = (sections.Supervised, sections.RFT, sections.GRPO, sections.MetaRM)
CONFIGS = {
    cls
    for cls in (
        *(c for c in vars(sections).values() if isinstance(c, type) and issubclass(c, Checked)),
        *(one.hint for section in SECTIONS for one in config.fields(section)),
        ModelConfig, Compute, MoEConfig, MLAConfig, YarnConfig, LoRAConfig, MeshConfig,
        SmallWorldConfig, Server,
    )
    if dataclasses.is_dataclass(cls) and cls not in SECTIONS
}  # fmt: skip
# Text that is no name out of a list: paths, addresses, lists that are checked by what they name.
FREE_TEXT = {
    "Template.file", "Template.verdict",  # checked as a whole, by `text.judges.load`
    "TokenizerConfig.path", "Released.model", "Released.meta_rm", "DataConfig.train",
    "DataConfig.development", "DataConfig.test", "DataConfig.general", "DataConfig.benchmark_dir",
    "GRPOLoop.easy_for", "Server.url", "Server.model", "Server.max_tokens_field",
    "Server.stop_reasons", "Server.length_reasons",
    "Benchmark.data_dir", "Benchmark.arms", "AblateConfig.listed", "AblateConfig.only",
    "MeshConfig.rules", "MeshConfig.rollout_rules",
}  # fmt: skip
NUMBERS = (int, float, int | None, float | None, tuple[int, ...])


@pytest.mark.parametrize("cls", sorted(CONFIGS, key=lambda cls: cls.__name__))
def test_every_field_of_a_config_has_its_range(cls):
    assert issubclass(cls, Checked)
    for name, hint in typing.get_type_hints(cls).items():
        if hint in NUMBERS or (hint is str and f"{cls.__name__}.{name}" not in FREE_TEXT):
            assert name in ranges(cls), f"{cls.__name__}.{name}"


# A value that is possible for each of the fields without a default.
FIELDS = {
    OptimizerConfig: {"learning_rate": 1.0, "steps": 10},
    MeshConfig: {}, SmallWorldConfig: {}, LoRAConfig: {"rank": 1, "alpha": 1.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "field", "value", "text"),
    [
        (OptimizerConfig, "clip_norm", 0.0, "above 0"),  # would train nothing
        (OptimizerConfig, "clip_norm", -1.0, "above 0"),  # would climb
        (OptimizerConfig, "clip_norm", math.nan, "above 0"),
        (OptimizerConfig, "b1", 1.0, "at least 0 and below 1"),
        (OptimizerConfig, "b2", 1.5, "at least 0 and below 1"),
        (OptimizerConfig, "weight_decay", -1.0, "at least 0"),
        (OptimizerConfig, "warmup_steps", -5, "at least 0"),
        (OptimizerConfig, "final_fraction", -3.0, "from 0 to 1"),
        (OptimizerConfig, "learning_rate", math.inf, "above 0"),
        (OptimizerConfig, "learning_rate", math.nan, "above 0"),
        (OptimizerConfig, "steps", 0, "at least 1"),
        (SmallWorldConfig, "world_seed", -1, "from 0 to 4294967295"),
        (SmallWorldConfig, "world_seed", 2**32, "from 0 to 4294967295"),
        (SmallWorldConfig, "noise", -0.1, "at least 0"),
        (MeshConfig, "tensor", 0, "at least 1"),
        (LoRAConfig, "alpha", 0.0, "above 0"),
    ],
)
def test_a_value_outside_its_range_names_field_and_range(cls, field, value, text):
    with pytest.raises(ValueError) as caught:
        cls(**{**FIELDS[cls], field: value})
    assert str(caught.value) == f"{field}: must be {text}, got {value!r}"


def test_a_warm_up_longer_than_the_stage_is_refused():
    assert OptimizerConfig(1.0, steps=5, warmup_steps=5).warmup_steps == 5
    with pytest.raises(ValueError, match="^warmup_steps: must be at most steps = 5, to .*, got 6"):
        OptimizerConfig(1.0, steps=5, warmup_steps=6)


def test_a_section_says_where_its_field_stands():
    fields = small_world.get_config("ci")
    fields.grpo.optimizer.b2 = 1.0
    with pytest.raises(ValueError, match=r"^config\.grpo\.optimizer\.b2: must be at least 0 and"):
        config.build(fields)


def test_ends_and_lists():
    share = between(0, 1)
    assert [share.holds(value) for value in (0, 1, -1e-9, 1 + 1e-9, math.nan)] == [
        True, True, False, False, False,
    ]  # fmt: skip
    known = names_of(("a", "b"), fewest=1)
    assert [known.holds(value) for value in ("a", " b , a", "", "c", "a,a")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert "(or empty)" in names_of(("a",)).text and names_of(("a",)).holds("")
