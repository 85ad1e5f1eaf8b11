"""The recipes: every config says what it reproduces, fits the schema, and one runs to the end."""

import importlib

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from tiny_release import write_release

from experiments import schema
from experiments.run import Run
from experiments.stages import order
from grm_jax.data.small_world import SmallWorld, SmallWorldConfig
from grm_jax.models import hub
from grm_jax.text.prompts import grm_prompt
from tools import convert, make_training_data

RECIPES = ("gemma2_27b", "gemma2_9b", "gemma2_2b", "deepseek_v2_lite_16b", "deepseek_v2_236b",
           "deepseek_v3_671b", "llama3_1_8b", "qwen3_8b", "smollm2_135m")  # fmt: skip
MODULES = [importlib.import_module(f"configs.{name}") for name in RECIPES]
VARIANTS = [(module, variant) for module in MODULES for variant in module.VARIANTS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipes")
    shown = SmallWorld(SmallWorldConfig()).comparisons("train", 60)
    lines = [grm_prompt(c.messages, c.responses, form="compact") for c in shown]
    write_release(root / "weights", lines=lines, vocab_size=700)
    make_training_data.make(root / "data")
    return root


def placed(module, variant, root):
    """A config whose files are those of the test."""
    c = module.get_config(variant)
    assert c.released.variant == ("" if variant == "runlocal" else module.__name__[8:])
    c.released.model, c.released.variant = str(root / "weights"), ""
    for field in ("train", "development", "test", "general"):
        c.data[field] = c.data[field].replace("runs/tiny/data", str(root / "data"))
    c.benchmark.data_dir = c.benchmark.data_dir.replace("runs/tiny/data", str(root / "data"))
    return c


@pytest.mark.parametrize("module", MODULES, ids=RECIPES)
def test_docstrings_state_claim_hardware_and_commands(module):
    text, file = module.__doc__, module.__name__.replace(".", "/") + ".py"
    for part in ("Claim (arXiv 2504.02495, ", "greedy", "Hardware:", "Wall time:",
                 f"--config={file} --workdir=", f"--config={file}:runlocal"):  # fmt: skip
        assert part in text
    for variant in module.VARIANTS:
        assert f"\n    {variant or '(none)'} " in text
    with pytest.raises(ValueError, match="unknown variant 'demo'"):
        module.get_config("demo")


@pytest.mark.parametrize(
    ("module", "variant"), VARIANTS, ids=[f"{m.__name__}:{v}" for m, v in VARIANTS]
)
def test_every_variant_fits_the_schema(module, variant, folders):
    schema.check(FrozenConfigDict(placed(module, variant, folders)))


def test_numbers_of_the_paper():
    c = MODULES[0].get_config()
    assert (c.rft.optimizer.learning_rate, c.rft.optimizer.steps) == (5e-6, 900)
    assert (c.grpo.optimizer.learning_rate, c.grpo.optimizer.steps) == (4e-7, 900)
    assert (c.grpo.group_size, c.grpo.kl_coef) == (4, 0.08)
    assert c.grpo.loop.prompts_per_step * c.grpo.group_size == 512
    assert (c.meta_rm.optimizer.learning_rate, c.meta_rm.loop.batch_size) == (1e-5, 512)
    assert (c.rft.num_samples, c.rft.num_hinted) == (3, 1)
    lite = importlib.import_module("configs.deepseek_v2_lite_16b").get_config()
    assert lite.grpo.kl_coef == 0.002


@pytest.mark.slow
def test_one_recipe_from_raw_files_and_a_released_folder_to_an_exported_one(folders, tmp_path):
    module = importlib.import_module("configs.gemma2_2b")
    c = placed(module, "runlocal", folders)
    assert c.lora.stages == "rft,grpo,meta_rm,baseline" and c.model.param_dtype == "bfloat16"
    run = Run.open(c, tmp_path / "w")
    order.run_whole(run)
    for row in ("released, greedy", "RFT, greedy", "GRPO, greedy", "Voting@2", "MetaRM@2"):
        assert f"| {row} " in (tmp_path / "w" / "tables" / "main.md").read_text()

    # No stage of its own for what released weights are already.
    assert sorted(p.name for p in (tmp_path / "w" / "params").iterdir()) == [
        "grpo", "meta_rm", "rft",
    ]  # fmt: skip
    for stage in ("grpo", "meta_rm"):
        source, target = tmp_path / "w" / "params" / stage, tmp_path / stage
        convert.main(["--to=hf", f"--source={source}", f"--target={target}"])
        loaded = hub.load(target)
        assert (loaded.head is not None) == (stage == "meta_rm")
        assert (target / "tokenizer.model").exists()
    policy = hub.load(tmp_path / "grpo")
    kept = run.load_params("grpo")
    jax.tree.map(np.testing.assert_array_equal, policy.params, jax.device_get(kept))
    assert not np.array_equal(kept["layers"]["local"]["mlp"]["up"],
                              run.init_params()["layers"]["local"]["mlp"]["up"])  # fmt: skip


@pytest.mark.slow
def test_a_rule_teaches_the_recipe_on_human_labels(folders, tmp_path):
    module = importlib.import_module("configs.smollm2_135m")
    run = Run.open(placed(module, "runlocal", folders), tmp_path / "w")
    order.run_whole(run)
    main = (tmp_path / "w" / "tables" / "main.md").read_text()
    for row in ("released, greedy", "cold start, greedy", "GRPO, greedy", "Voting@2", "MetaRM@2"):
        assert f"| {row} " in main
    assert "of 471 rows" in main and "of 4560 rows" in main
    # Its adapters are merged, and its references were in every prompt.
    assert run.config.adapted() == ["grpo"] and run.config.grpo.draw.reference
    assert sorted(p.name for p in (tmp_path / "w" / "params").iterdir()) == [
        "cold_start", "grpo", "meta_rm", "rft",
    ]  # fmt: skip


def test_the_whole_loop_of_a_config_without_grpo_is_refused_before_it_starts(folders, tmp_path):
    module = importlib.import_module("configs.deepseek_v2_236b")
    run = Run.open(placed(module, "runlocal", folders), tmp_path / "w")
    with pytest.raises(ValueError, match=r"config\.grpo: section is missing, .*; run the stages"):
        order.run_whole(run)
    assert not (tmp_path / "w/trajectories").exists()
