"""The typed config: every field a flag, defaults that are the same spelled out, `--show_config`."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict

from configs import deepseek_grm_27b, gemma2_27b, small_world
from experiments import arms, command_line, schema
from experiments.config import build, claimed, complete, docs, in_use, shown

# ml_collections loads config files in the old way of Python.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CI = "configs/small_world.py:ci"
PINNED = pathlib.Path(__file__).with_name("defaults.txt")

# Values that are possible beside the rest of the config, where another one than the usual is not.
VALUES = {
    "stages": "base,cold_start,rft,grpo,meta_rm,baseline",
    "mesh.rules": "embed=", "mesh.rollout_rules": "embed=", "model.variant": "tiny",
    "model.head_dim": 10, "model.num_layers": 4, "model.num_kv_heads": 1, "model.num_heads": 8,
    "small_world.num_audiences": 3, "lora.stages": "rft", "grpo.group_size": 3,
    "grpo.inner_epochs": 3, "rft.engine_url": "http://x", "benchmark.engine_url": "http://x",
    "rft.engine_extra": '{"seed": null}', "benchmark.engine_extra": '{"seed": null}',
    "grpo.clip_epsilon": 0.5, "benchmark.suites": "data", "benchmark.ks": "1,2",
    "benchmark.k_meta": "1,1,1,1", "benchmark.arms": "kl_0", "ablate.only": "kl_0",
    "ablate.seeds": "21", "ablate.development_seeds": "22", "ablate.opened": "23",
    "benchmark.greedy_stages": "rft", "benchmark.sampled_stages": "rft",
}  # fmt: skip
# Combinations that are refused, with what the message says.
REFUSED = {
    "template.reference=True": "a small world has no references",
    "grpo.length_norm=constant": "length_constant: must be given exactly when",
    "grpo.length_constant=1": "length_constant: must be given exactly when",
    "model.variant=tiny": "config.model.variant: 'tiny' has another shape than",
    "model.param_dtype=bfloat16": "would round away the updates",
    "grpo.draw.top_p=0.25": "config.grpo.draw.top_p: must be 1",
    "rft.engine=openai": "engine_url: must start with http",
    "benchmark.engine=openai": "engine_url: must start with http",
    "template.file=7": "config.template.file: 7: cannot be read",
    "template.verdict=7": "config.template.verdict: must be boxed without a config.template.file",
}


def parsed(*argv: str, path: str = CI):
    """The config flag after a command line."""
    values = flags.FlagValues()
    argv = ["program", f"--config={path}", *argv]
    holder = command_line.define_config(values, sys_argv=argv)
    values(argv)
    return holder.value


def other_value(line) -> object:
    """A value of a field that is not the one it has."""
    if line.name in VALUES:
        return VALUES[line.name]
    if line.field.choices and "comma-separated" not in line.doc:
        return next(one for one in line.field.choices if one != line.value)
    if line.field.hint is bool:
        return not line.value
    if line.field.hint is float:
        return 0.25 if line.value != 0.25 else 0.75
    if line.field.hint is int:
        return (line.value or 0) + 1 or 1
    if line.name.endswith(".output_lengths"):
        return "96,128"
    return "7" if line.value != "7" else "8"


def fields():
    config = small_world.get_config("ci")
    return [line for line in shown(config, config, config, ()) if line.name != "ablate.arms"]


@pytest.mark.parametrize("section", sorted({line.name.split(".")[0] for line in fields()}))
def test_every_field_is_a_flag(section):
    for line in fields():
        if line.name.split(".")[0] != section:
            continue
        value = other_value(line)
        changed = parsed(f"--config.{line.name}={value}")
        now = next(x.value for x in shown(changed, changed, changed, ()) if x.name == line.name)
        assert now == value, line
        try:
            schema.check(changed)
            said = None
        except ValueError as error:
            said = str(error)
        refused = REFUSED.get(f"{line.name}={value}")
        assert (said is None) == (refused is None), (line.name, value, said)
        assert said is None or refused in said


@pytest.mark.parametrize("change", ["kl_estimator=k2", "clip_high=0.3", "inner_epochs=3"])
def test_fields_that_no_file_spells_are_flags(change):
    objective = build(parsed("--config.grpo.advantage=dr_grpo", f"--config.grpo.{change}"))
    assert objective.grpo.objective.advantage == "dr_grpo"
    field, value = change.split("=")
    assert str(getattr(objective.grpo.objective, field)) == value


def test_an_optional_field_may_be_none_by_flag(tmp_path):
    (tmp_path / "c.py").write_text(
        "from configs import small_world\n"
        "def get_config():\n"
        "    c = small_world.get_config('ci')\n"
        "    with c.grpo.unlocked():\n"
        "        c.grpo.clip_high, c.grpo.length_constant = 0.3, 5\n"
        "        c.grpo.length_norm = 'constant'\n"
        "    return c\n"
    )
    flags_ = ["grpo.clip_high=None", "grpo.length_norm=token", "grpo.length_constant=None",
              "model.sliding_window=None"]  # fmt: skip
    changed = parsed(*(f"--config.{flag}" for flag in flags_), path=f"{tmp_path}/c.py")
    objective = build(changed).grpo.objective
    assert (objective.clip_high, objective.length_constant) == (None, None)
    assert schema.model_config(build(changed), 1).sliding_window is None
    last = parsed("--config.grpo.clip_high=None", "--config.grpo.clip_high=0.5")
    assert build(last).grpo.objective.clip_high == 0.5
    assert claimed(parsed("--config.grpo.clip_high=None")) == claimed(parsed())


@pytest.mark.parametrize(
    ("flag", "said"),
    [("model.final_softcap", "stands for the default, 30.0"), ("grpo.kl_coef", "float")],
)
def test_none_of_a_field_that_is_never_none_is_refused(flag, said):
    with pytest.raises(flags.IllegalFlagValueError, match=said):
        parsed(f"--config.{flag}=None")


def test_a_flag_of_an_unknown_field_names_the_nearest():
    with pytest.raises(AttributeError, match="advantage"):
        parsed("--config.grpo.advantag=dr_grpo")
    config = small_world.get_config("ci")
    with config.grpo.unlocked():
        config.grpo.advantag = "dr_grpo"
    with pytest.raises(ValueError, match="grpo.advantag: unknown field; did you mean 'advantage'"):
        build(config)


def defaults():
    """Every default of every section, a line each."""
    config = small_world.get_config("ci")
    config.released = ConfigDict({"model": "x"})
    config.data = ConfigDict({"overlap": "allow"})
    with_weights = shown(config, {}, {}, ())
    del config.released
    found = {line.name: line.field.default for line in (*with_weights, *shown(config, {}, {}, ()))}
    return sorted(
        f"{name} = {default!r}"
        for name, default in found.items() if default is not dataclasses.MISSING
    )  # fmt: skip


def test_defaults_are_pinned():
    """A default is part of what a config means: workdirs keep only what differs from it.

    To change one is to change what older configs say: give the field another name, or write the
    old default into every config that relied on it, and say so in BUILD_NOTES.md.
    """
    assert defaults() == PINNED.read_text().splitlines()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.nosuch.x=1", "no field or section 'nosuch'"),
        ("--config.data.train=x", "--config.data.train: data is off, for the config has no"),
        ("--config.grpo.draw.k=3", "--config.grpo.draw.k: no field or section 'k'"),
        ("--config.grpo.advantag=x", "--config.grpo.advantag: no field or section 'advantag'; did"),
    ],
)
def test_a_flag_that_the_config_lacks_is_told_apart_from_errors_of_the_file(flag, said):
    with pytest.raises((AttributeError, KeyError)) as caught:
        parsed(flag)
    assert said in command_line.unknown_field(caught.value, ["program", flag])
    own = KeyError("own")
    try:
        raise own
    except KeyError:
        assert command_line.unknown_field(own, []) is None


@pytest.mark.parametrize(
    "flag", ["grpo.kl_coef=0", "rft.data.general=0", "template.principles=none"]
)
def test_a_flag_may_have_the_value_of_an_arm(flag):
    config = parsed(f"--config.{flag}", "--config.benchmark.arms=kl_0_32")
    assert {"", "kl_0_32"} <= set(arms.every(config, all_arms=False))
    with pytest.raises(ValueError, match=r"config\.ablate\.arms\."):
        arms.every(config)


def test_stages_are_switched_off_and_on(tmp_path):
    config = parsed("--config.stages=base,cold_start,rft")
    typed = schema.check(config)
    assert [*typed.trained()] == ["base", "cold_start", "rft"] and typed.grpo is None
    fewer = small_world.get_config("ci")
    for name in ("grpo", "meta_rm", "baseline"):
        del fewer[name]
    assert claimed(in_use(config)) == claimed(fewer)  # a workdir keeps what is on
    assert claimed(in_use(parsed("--config.stages="))) == claimed(small_world.get_config("ci"))
    fewer.stages = "rft,grpo"
    with pytest.raises(ValueError, match=r"config\.stages: 'grpo' has no section; there are"):
        schema.check(fewer)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.rft", f"--config={CI}", f"--workdir={tmp_path}/w",
         "--config.stages=rft", "--config.grpo.kl_coef=0.5"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 1 and not (tmp_path / "w").exists()
    message = "--config.grpo.kl_coef: grpo is off: config.stages=rft leaves it out"
    assert message in done.stderr


def test_an_arm_of_nothing_is_refused():
    config = small_world.get_config("ci")
    for change in ("grpo.kl_coef=None", "grpo.buckets.samples= 4", "grpo.optimizer.b2=0.98"):
        config.ablate.arms.kl_0 = change
        with pytest.raises(ValueError, match="kl_0: .* changes nothing"):
            arms.every(config)


def test_a_variant_by_flag_is_the_variant_of_a_file():
    """Defaults are those of the variant, not of the fields."""
    config = deepseek_grm_27b.get_config()
    del config.released
    config.model = ConfigDict({"dtype": "float32"})
    config.benchmark.greedy_stages = config.benchmark.sampled_stages = "random_weights"
    flagged, spelled = complete(config), complete(config)
    flagged.model.variant = "deepseek_v2_lite_16b"  # as a flag does, after the defaults were laid
    spelled = ConfigDict(config).copy_and_resolve_references()
    spelled.model.variant = "deepseek_v2_lite_16b"
    assert claimed(flagged) == claimed(spelled)
    models = [schema.model_config(build(one), 1) for one in (flagged, spelled)]
    assert models[0] == models[1] and models[0].activation == "silu"


def test_a_variant_beside_a_whole_shape_names_both():
    config = parsed("--config.model.variant=gemma2_2b")
    with pytest.raises(ValueError, match=r"'gemma2_2b' has another shape .*embed_dim=") as caught:
        schema.model_config(build(config), 1)
    assert "config.model.variant" in str(caught.value)
    part = {"variant": "gemma2_2b", "num_layers": 2}
    config.model = ConfigDict(part)
    model = schema.model_config(build(config), 1)
    assert (model.num_layers, model.embed_dim) == (2, 2304)  # a part of a shape overrides it
    whole = vars(model) | vars(model.compute)
    whole = {name: whole[name] for name in small_world.get_config("ci").model}
    config.model = ConfigDict({**whole, **part})
    with pytest.raises(ValueError, match="spells, num_layers=2; keep"):
        schema.model_config(build(config), 1)


CONFIGS = [(small_world, variant) for variant in small_world.VARIANTS] + [
    (gemma2_27b, ""), (gemma2_27b, "runlocal"), (deepseek_grm_27b, ""),
]  # fmt: skip


@pytest.mark.parametrize(("module", "variant"), CONFIGS)
def test_a_default_that_is_spelled_out_is_the_same_config(module, variant):
    config = module.get_config(variant)
    whole = complete(config)
    assert complete(whole).to_dict() == whole.to_dict()
    assert complete(FrozenConfigDict(whole)).to_dict() == whole.to_dict()
    assert claimed(whole) == claimed(config)
    assert claimed(claimed(config)) == claimed(config)  # as a workdir keeps it
    assert claimed(json.loads(FrozenConfigDict(whole).to_json())) == claimed(config)
    assert build(whole) == build(config)
    assert set(claimed(config)) == set(config) - ({"seed"} if not config.seed else set())


def test_what_differs_is_claimed():
    assert claimed({"grpo": {"kl_coef": 0.08, "group_size": 8, "draw": {"top_p": 1}}}) == {
        "grpo": {"group_size": 8, "draw": {}}
    }
    # Of a published size nothing is a default but what is not said.
    shape = {"model": {"variant": "gemma2_2b", "dtype": "float32"}}
    assert claimed(shape)["model"] == shape["model"]
    assert claimed({"model": {"dtype": "float32", "embed_dim": 8}})["model"] == {"embed_dim": 8}


def test_every_field_has_a_line_of_documentation():
    for line in fields():
        assert line.doc and len(line.doc) > 5, line.name
    assert docs(type(build(small_world.get_config("ci")).mesh))["fsdp"].startswith("parts of")


def test_show_config_names_value_and_origin():
    def show(*argv):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.grpo", f"--config={CI}", *argv],
            capture_output=True, text=True, timeout=120, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, err = show("--config.grpo.advantage=dr_grpo", "--show_config=grpo")
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("config.")]
    assert all(line.startswith("config.grpo.") for line in lines)
    for line in (
        "config.grpo.advantage = 'dr_grpo'    (flag)",
        "config.grpo.kl_estimator = 'k3'    (default)",
        "config.grpo.group_size = 4    (file)", "config.grpo.optimizer.steps = 3    (variant)",
    ):  # fmt: skip
        assert line in lines
    assert "Known: grpo, dr_grpo, rloo." in out
    code, _, err = show("--show_config=grop")
    assert code == 1 and "error: --show_config=grop: no such section" in err
    code, out, err = show("--config.grpo.advantage=drgrpo", "--show_config=grpo")
    assert code == 1 and "config.grpo.advantage = 'drgrpo'    (flag)" in out
    assert "error: config.grpo.advantage: must be one of" in err
