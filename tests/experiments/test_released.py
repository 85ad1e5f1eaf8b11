"""Released weights: from folders in hub format to a table, and folders that do not fit."""

import dataclasses
import shutil
import types

import jax
import numpy as np
import pytest
from builders import write_comparisons
from ml_collections import ConfigDict, FrozenConfigDict
from tiny_release import COMPARISONS, write_release

from configs import deepseek_grm_16b, deepseek_grm_27b, small_models, small_world, unirrm_8b
from experiments import measurement, schema
from experiments.config import build
from experiments.run import Run
from experiments.stages import benchmark, meta_rm, order
from grm_jax.text.prompts import Message


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("released")
    policy = write_release(root / "policy")
    judge = write_release(root / "judge", reward=True, seed=7)
    write_comparisons(root / "rows.jsonl", COMPARISONS)
    return root, policy, judge


def released(root, **changes):
    c = deepseek_grm_27b.get_config("runlocal")
    c.released = ConfigDict({"model": str(root / "policy"), "meta_rm": str(root / "judge")})
    c.data = ConfigDict({"development": f"comparisons:{root / 'rows.jsonl'}"})
    c.benchmark.suites = "data"
    c.benchmark.ks = "1,2"
    c.benchmark.draw.k = 2
    c.benchmark.draw.max_new_tokens = 4
    c.benchmark.buckets.output_lengths = "4"
    c.benchmark.buckets.samples = "1,2"
    c.update_from_flattened_dict(changes)
    return c


@pytest.mark.slow
def test_released_weights_are_benchmarked_with_the_released_meta_rm(folders, tmp_path):
    root, (params, _), (_, head) = folders
    run = Run.open(released(root), tmp_path / "w")
    benchmark.run_stage(run)
    table = (tmp_path / "w" / "tables" / "main.md").read_text()
    for row in ("released, greedy", "released, one sample", "Voting@2", "MetaRM@2"):
        assert f"| {row} " in table
    for got, want in zip(jax.tree.leaves(run.init_params()), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(got, want)

    # The meta RM reads with its own tokenizer, and its head is the one in the folder.
    (path,) = (tmp_path / "w" / "meta_scores").glob("*.jsonl")
    assert len(path.read_text().splitlines()) > 1
    judge = meta_rm.load(run)
    assert judge.released and judge.tokenizer.fingerprint() != run.tokenizer.fingerprint()
    np.testing.assert_array_equal(judge.params["head"]["kernel"], head["kernel"])


def test_what_is_released_is_neither_trained_nor_waited_for(folders, tmp_path):
    config = released(folders[0])
    config.ablate = ConfigDict({"seeds": "", "development_seeds": ""})
    config.ablate.arms = ConfigDict({"own_principles": "benchmark.principles=own"})
    config.benchmark.arms, config.benchmark.arm_k = "own_principles", 2
    run = Run.open(config, tmp_path / "w")
    assert benchmark.measured_stages(run, measurement.read_config(run)) == []
    # A config that trains the rest leaves the released meta RM as it is.
    trained = build(small_world.get_config("ci"))
    config.benchmark.arms = ""
    whole = dataclasses.replace(build(config), rft=trained.rft, grpo=trained.grpo)
    names = [name for name, _ in order.whole(types.SimpleNamespace(config=whole))]
    assert names == ["base and cold start", "RFT", "GRPO", "benchmark"]


OPTIMIZER = {"learning_rate": 1.0, "steps": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"released.model": "nowhere"}, "config.released.model: .*nowhere"),
        ({"released.meta_rm": "nowhere"}, "config.released.meta_rm: .*nowhere"),
        ({"benchmark.greedy_stages": "random_weights"}, "greedy_stages: 'random_weights'"),
        ({"model.attn_softcap": 1.0}, "config.model.attn_softcap: belongs to the weights"),
        ({"meta_rm.optimizer": ConfigDict(OPTIMIZER)}, "config.meta_rm.optimizer: .* not trained"),
        (
            {
                "model.param_dtype": "bfloat16",
                "base": ConfigDict(
                    {
                        "optimizer": OPTIMIZER,
                        "packing": {"row_length": 8, "batch_size": 1},
                        "data": {"demonstrations": 0, "general": 0},
                    }
                ),
            },
            "config.model.param_dtype: bfloat16 would round away the updates of config.base",
        ),
    ],
)
def test_what_does_not_fit_stops_before_any_work(folders, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        schema.check(FrozenConfigDict(released(folders[0], **changes)))


HYBRID = """{{ bos_token }}{% for turn in messages %}<start_of_turn>{{ turn.role }}
{{ turn.content }}<end_of_turn>{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% if enable_thinking is defined %}{{ '<think>' if enable_thinking else '<think></think>' }}
{% endif %}{% endif %}"""


def with_template(folders, tmp_path, template, **changes):
    config = released(folders[0], **changes)
    config.released.model = str(shutil.copytree(folders[0] / "policy", tmp_path / "told"))
    (tmp_path / "told" / "chat_template.jinja").write_text(template)
    return config


@pytest.mark.parametrize(("thinking", "end"), [("", ""), ("on", "<think>"), ("off", "</think>")])
def test_the_template_is_told_whether_to_think(folders, tmp_path, thinking, end):
    config = with_template(folders, tmp_path, HYBRID, **{"template.thinking": thinking})
    run = Run.open(config, tmp_path / "w")
    text = run.tokenizer.decode(run.tokenizer.chat([Message("user", "q")]))
    assert text.endswith(f"model\n{end}") or text.endswith(f"{end}\n")
    assert run.tokenizer.opens_thinking is (thinking == "on")


@pytest.mark.parametrize(
    ("template", "changes", "message"),
    [
        (None, {"template.thinking": "on"}, "template.thinking: .*policy: has no chat template"),
        (
            HYBRID.replace("enable_thinking", "other"),
            {"template.thinking": "off"},
            "template.thinking: .*chat_template.jinja: does not read enable_thinking",
        ),
        (
            HYBRID,
            {"template.thinking": "on", "benchmark.principles": "own"},
            "benchmark.principles: .*template.thinking=off",
        ),
        (
            HYBRID + "{% if add_generation_prompt %}<think>{% endif %}",
            {"benchmark.principles": "own"},
            "benchmark.principles: .*template.thinking=off",
        ),
    ],
)
def test_a_template_that_cannot_be_told_stops_before_any_work(
    folders, tmp_path, template, changes, message
):
    config = released(folders[0], **changes)
    if template is not None:
        config = with_template(folders, tmp_path, template, **changes)
    with pytest.raises(ValueError, match=f"config.{message}"):
        Run.open(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("path", ["", "tokenizer.model"])
def test_thinking_needs_a_checkpoint_folder(folders, tmp_path, path):
    config = small_world.get_config("ci")
    config.template.thinking = "off"
    config.tokenizer.path = path and str(folders[0] / "policy" / path)
    with pytest.raises(ValueError, match="template.thinking: .*no checkpoint folder with a chat"):
        Run.open(config, tmp_path / "w")


def test_thinking_is_not_for_a_server(folders, tmp_path):
    config = with_template(folders, tmp_path, HYBRID, **{"template.thinking": "off"})
    config.benchmark.greedy_stages = config.benchmark.sampled_stages = "remote"
    config.benchmark.engine, config.benchmark.engine_model = "openai", "judge"
    config.benchmark.engine_url = "http://localhost:1"
    schema.check_files(schema.check(FrozenConfigDict(config)))  # for the meta RM
    config.benchmark.meta_rm = False
    with pytest.raises(ValueError, match="template.thinking: 'off' .*benchmark.engine_extra"):
        Run.open(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


# What follows the closing token belongs to the end of a turn, as in ChatML.
JUDGE = """{{ bos_token }}{% for turn in messages %}<start_of_turn>{{ turn.role }}
{{ turn.content }}<end_of_turn>
{% endfor %}{% if enable_thinking is defined and not enable_thinking %}no{% endif %}"""


@pytest.mark.parametrize("thinking", ["", "off"])
@pytest.mark.parametrize("told", [True, False])
def test_a_released_meta_rm_reads_as_its_template_writes(folders, tmp_path, thinking, told):
    """Told of thinking like the policy, but only where its template asks."""
    config = with_template(folders, tmp_path, HYBRID, **{"template.thinking": thinking})
    config.released.meta_rm = str(shutil.copytree(folders[0] / "judge", tmp_path / "judge"))
    source = JUDGE if told else JUDGE.replace("enable_thinking", "other")
    (tmp_path / "judge" / "chat_template.jinja").write_text(source)
    judge = meta_rm.load(Run.open(config, tmp_path / "w"))
    text = "Scores: \\boxed{1, 9} or</think>not"
    trajectory = types.SimpleNamespace(order=(1, 0, 2), text=text)
    ids = judge.input_ids("full", COMPARISONS[0], trajectory)
    assert ids[-1] != judge.tokenizer.end_of_turn_id in ids
    written = judge.tokenizer.decode(ids)
    end = "no" if told and thinking else ""
    assert written.endswith(f"assistant\nScores: \\boxed{{1, 9}} or not\n{end}")


@pytest.mark.parametrize(
    ("field", "folder", "message"),
    [
        ("meta_rm", "policy", "config.released.meta_rm: .*ForSequenceClassification, found Gemma"),
        ("model", "judge", "config.released.model: .*ForCausalLM, found Gemma2ForSequence"),
    ],
)
def test_policy_and_meta_rm_cannot_be_swapped(folders, field, folder, message):
    config = released(folders[0], **{f"released.{field}": str(folders[0] / folder)})
    with pytest.raises(ValueError, match=message):
        schema.check(FrozenConfigDict(config))


@pytest.mark.parametrize("variant", ["", "runlocal"])
@pytest.mark.parametrize("module", [small_models, unirrm_8b])
def test_measured_models_have_no_meta_rm_and_fit_the_schema(module, variant, folders, tmp_path):
    config = module.get_config(variant)
    config.released.model = str(folders[0] / "policy")
    if module is unirrm_8b:
        path = tmp_path / "judge.jinja"
        path.write_text('{% set mode = "list" %}{% for r in responses %}{{ r }}\n{% endfor %}')
        config.template.file = str(path)
    typed = schema.check(FrozenConfigDict(config))
    assert typed.meta_rm is None and not typed.benchmark.meta_rm


@pytest.mark.parametrize("config", [deepseek_grm_16b, deepseek_grm_27b, small_models, unirrm_8b])
def test_docstrings_state_claim_hardware_and_command(config):
    for part in ("Claim", "Hardware", "Wall time", "python -m experiments.benchmark", "runlocal"):
        assert part in config.__doc__
    name = config.__name__.replace(".", "/") + ".py"
    assert f"--config={name} " in config.__doc__ and f"--config={name}:runlocal" in config.__doc__
    with pytest.raises(ValueError, match="unknown variant 'demo'"):
        config.get_config("demo")
