"""config.json in both of its generations, and what is refused in it."""

import dataclasses
import json
import os
import time

import pytest

from grm_jax.models import hub
from grm_jax.models.config import COMPUTE, RECORDS, ModelConfig, MoEConfig, YarnConfig
from grm_jax.models.hub import families
from grm_jax.models.hub.family import UNREAD
from grm_jax.models.variants import VARIANTS, mla_query_scale, published_variant

os.environ.setdefault("HF_HUB_OFFLINE", "1")

GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 256_000,
    "hidden_size": 4608, "intermediate_size": 36_864, "num_hidden_layers": 46,
    "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 144,
    "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "torch_dtype": "bfloat16",
    "attention_bias": False, "cache_implementation": "hybrid",
}  # fmt: skip
SCALING = {
    "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
    "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
}  # fmt: skip
V2_LITE = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "vocab_size": 102_400, "hidden_size": 2048, "intermediate_size": 10_944,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16,
    "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
    "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "routed_scaling_factor": 1.0, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
    "scoring_func": "softmax", "norm_topk_prob": False, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 10_000, "rope_scaling": SCALING,
    "torch_dtype": "bfloat16", "attention_bias": False, "tie_word_embeddings": False,
}  # fmt: skip
V3 = V2_LITE | {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "vocab_size": 129_280, "hidden_size": 7168, "intermediate_size": 18_432,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "n_shared_experts": 1, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
    "routed_scaling_factor": 2.5, "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4,
    "scoring_func": "sigmoid", "norm_topk_prob": True, "num_nextn_predict_layers": 1,
    "rope_scaling": SCALING | {"mscale": 1.0, "mscale_all_dim": 1.0},
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256,
    "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "torch_dtype": "bfloat16",
    "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "pretraining_tp": 1,
    "tie_word_embeddings": False, "max_position_embeddings": 131_072, "bos_token_id": 128_000,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
SMOLLM2 = LLAMA | {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 100_000,
    "rope_scaling": None, "rope_interleaved": False, "is_llama_config": True,
    "tie_word_embeddings": True, "max_position_embeddings": 8192,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
}  # fmt: skip
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32_000,
    "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "torch_dtype": "bfloat16",
    "sliding_window": 4096, "tie_word_embeddings": False, "max_position_embeddings": 32_768,
}  # fmt: skip
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 152_064,
    "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "torch_dtype": "bfloat16",
    "attention_dropout": 0.0, "tie_word_embeddings": False, "max_position_embeddings": 32_768,
    "max_window_layers": 28, "sliding_window": 131_072, "use_sliding_window": False,
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936,
    "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1_000_000, "rope_scaling": None,
    "torch_dtype": "bfloat16", "attention_bias": False, "attention_dropout": 0.0,
    "tie_word_embeddings": False, "max_position_embeddings": 40_960,
    "max_window_layers": 36, "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
QWEN3_MOE = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
    "intermediate_size": 6144, "num_hidden_layers": 48, "num_key_value_heads": 4,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "output_router_logits": False, "router_aux_loss_coef": 0.001, "max_window_layers": 48,
}  # fmt: skip
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 262_144,
    "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
    "sliding_window": 512, "sliding_window_pattern": 6, "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000,
    "rope_local_base_freq": 10_000, "rope_scaling": None, "torch_dtype": "bfloat16",
    "attention_bias": False, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
}  # fmt: skip
# The sizes with vision leave out what transformers has as a default.
GEMMA3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "torch_dtype": "bfloat16", "boi_token_index": 255_999, "mm_tokens_per_image": 256,
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240,
        "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152},
}  # fmt: skip
GEMMA3_27B = GEMMA3_4B | {
    "text_config": GEMMA3_4B["text_config"] | {
        "hidden_size": 5376, "intermediate_size": 21_504, "num_hidden_layers": 62,
        "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
        "query_pre_attn_scalar": 168,
    },
}  # fmt: skip


def later_generation(raw):
    """The same in the words of transformers 5."""
    raw = dict(raw)
    if "torch_dtype" in raw:
        raw["dtype"] = raw.pop("torch_dtype")
    if text := raw.get("text_config"):
        return raw | {"text_config": later_generation(text)}
    rope = {"rope_type": "default"}
    if scaling := raw.pop("rope_scaling", None):
        rope = dict(scaling)
        rope["rope_type"] = rope.pop("type", rope.get("rope_type"))
    rope["rope_theta"] = raw.pop("rope_theta", 1_000_000.0)
    if raw["model_type"] == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": raw.pop("rope_local_base_freq", 10_000.0)}
        rope = {"full_attention": rope, "sliding_attention": local}
        raw["_sliding_window_pattern"] = raw.pop("sliding_window_pattern", 6)
        raw["layer_types"] = [
            "sliding_attention" if (layer + 1) % 6 else "full_attention"
            for layer in range(raw["num_hidden_layers"])
        ]
    return raw | {"rope_parameters": rope}


def read(folder, raw):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    return hub.read_config(folder)


@pytest.mark.parametrize("generation", [dict, later_generation])
@pytest.mark.parametrize(
    ("raw", "variant"),
    [
        (GEMMA2, "gemma2_27b"), (V2_LITE, "deepseek_v2_lite_16b"), (V3, "deepseek_v3_671b"),
        (LLAMA, "llama3_1_8b"), (SMOLLM2, "smollm2_135m"),
        (MISTRAL | {"vocab_size": 32_768, "sliding_window": None, "rope_theta": 1e6}, "mistral_7b"),
        (QWEN2, "qwen2_5_7b"), (QWEN3, "qwen3_8b"), (QWEN3_MOE, "qwen3_30b_a3b"),
        (GEMMA3, "gemma3_1b"), (GEMMA3_4B, "gemma3_4b"), (GEMMA3_27B, "gemma3_27b"),
    ],
)  # fmt: skip
def test_published_configs_of_both_generations(generation, raw, variant, tmp_path):
    published = VARIANTS[variant].replace(remat="none")
    found = read(tmp_path, generation(raw))
    assert found == published
    assert published_variant(found) == variant
    assert published_variant(dataclasses.replace(found, rope_theta=5.0)) == variant
    assert published_variant(dataclasses.replace(found, ffn_dim=5)) is None


@pytest.mark.parametrize("generation", [dict, later_generation])
def test_the_first_mistral_has_a_window_in_every_layer(generation, tmp_path):
    config = read(tmp_path, generation(MISTRAL))
    later = VARIANTS["mistral_7b"].replace(remat="none")
    assert config == later.replace(vocab_size=32_000, sliding_window=4096, rope_theta=1e4)
    assert config.windows == (4096,) * 32


def test_groups_of_experts_count_only_where_they_limit(tmp_path):
    raw = V2_LITE | {"n_group": 8, "topk_group": 3}
    assert read(tmp_path, raw).moe.num_groups == 1
    moe = read(tmp_path, raw | {"topk_method": "group_limited_greedy"}).moe
    assert (moe.num_groups, moe.top_groups, moe.group_top) == (8, 3, 1)
    assert read(tmp_path, V3 | {"norm_topk_prob": False}).moe.normalize is False


def test_yarn_without_mscale(tmp_path):
    scaling = {key: value for key, value in SCALING.items() if "mscale" not in key}
    config = read(tmp_path, V2_LITE | {"rope_scaling": scaling})
    assert config.yarn == YarnConfig(40.0, 4096)
    assert config.query_scale == mla_query_scale(config.mla, None)


REFUSED = [
    (MISTRAL, "model_type", "llama"),  # transformers would read it as that
    (GEMMA2, "architectures", ["GemmaForCausalLM"]),
    (GEMMA2, "architectures", None),
    (GEMMA2, "architectures", [["Gemma2ForCausalLM"]]),
    (GEMMA2, "attention_bias", True),
    (GEMMA2, "attention_dropout", 0.1),
    (GEMMA2, "quantization_config", {"quant_method": "fp8"}),
    (GEMMA2, "hidden_activation", "gelu"),
    (GEMMA2, "layer_types", ["full_attention"] * 46),
    (GEMMA2, "use_bidirectional_attention", True),
    (GEMMA2, "head_dim", None),
    (GEMMA2, "num_hidden_layers", "46"),
    (GEMMA2, "rms_norm_eps", True),
    (GEMMA2, "torch_dtype", "float64"),
    (GEMMA2, "dtype", "float32"),  # against the torch_dtype
    (GEMMA2, "rope_scaling", {"rope_type": "linear", "factor": 2.0}),
    (GEMMA2, "rope_parameters", {**SCALING, "rope_type": "yarn", "rope_theta": 1e4}),
    (GEMMA2, "logits_scaling", 2.0),  # a field of another family
    (V2_LITE, "mlp_bias", True),
    (V2_LITE, "hidden_act", "gelu"),
    (V2_LITE, "moe_layer_freq", 2),
    (V2_LITE, "num_key_value_heads", 4),
    (V2_LITE, "norm_topk_prob", True),
    (V2_LITE, "scoring_func", "sigmoid"),
    (V2_LITE, "topk_method", "noaux_tc"),
    (V2_LITE, "rope_scaling", SCALING | {"attention_factor": 1.5}),
    (V2_LITE, "rope_scaling", SCALING | {"truncate": False}),
    (V2_LITE, "rope_scaling", SCALING | {"mscale": 0.0}),
    (V2_LITE, "rope_scaling", SCALING | {"factor": None}),
    (V2_LITE, "rope_scaling", "yarn"),
    (V3, "scoring_func", "softmax"),
    (V3, "topk_method", "greedy"),
    (V3, "rope_interleave", False),
    (V3, "first_k_dense_replace", 61),
    (LLAMA, "residual_multiplier", 0.2),  # a field of another family
    (LLAMA, "sliding_window", 4096),
    (LLAMA, "partial_rotary_factor", 0.5),
    (LLAMA, "attention_bias", True),
    (LLAMA, "mlp_bias", True),
    (LLAMA, "hidden_act", "gelu"),
    (LLAMA, "rope_interleaved", True),
    (LLAMA, "quantization_config", {"quant_method": "gptq"}),
    (LLAMA, "num_key_value_heads", 5),
    (LLAMA, "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
    (LLAMA, "rope_scaling", {"rope_type": "longrope", "short_factor": [1.0]}),
    (LLAMA, "rope_scaling", LLAMA["rope_scaling"] | {"low_freq_factor": None}),
    (LLAMA, "rope_scaling", LLAMA["rope_scaling"] | {"attention_factor": 1.1}),
    (MISTRAL, "sliding_window", -1),
    (MISTRAL, "attention_bias", True),
    (MISTRAL, "rope_scaling", LLAMA["rope_scaling"]),
    (QWEN2, "use_sliding_window", True),
    (QWEN2, "layer_types", ["full_attention"] * 27 + ["sliding_attention"]),
    (QWEN2, "attention_bias", False),
    (QWEN2, "use_mrope", True),
    (QWEN2, "rope_scaling", {"rope_type": "linear", "factor": 2.0}),
    (QWEN3, "use_sliding_window", True),
    (QWEN3, "attention_bias", True),
    (QWEN3, "rope_scaling", LLAMA["rope_scaling"]),
    (QWEN3, "num_experts", 128),
    (QWEN3_MOE, "mlp_only_layers", [0]),
    (QWEN3_MOE, "decoder_sparse_step", 2),
    (QWEN3_MOE, "norm_topk_prob", "yes"),
    (QWEN3_MOE, "num_experts", None),
    (QWEN3_MOE, "num_local_experts", 64),
    (QWEN3_MOE, "shared_expert_intermediate_size", 512),
    (GEMMA3, "attn_logit_softcapping", 50.0),
    (GEMMA3, "final_logit_softcapping", 30.0),
    (GEMMA3, "use_bidirectional_attention", True),
    (GEMMA3, "hidden_activation", "gelu"),
    (GEMMA3, "sliding_window_pattern", 1),
    (GEMMA3, "layer_types", ["full_attention", "sliding_attention"] * 13),
    (GEMMA3, "rope_scaling", SCALING),
    (GEMMA3, "rope_parameters", {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}}),
    (GEMMA3_4B, "text_config", None),
    (GEMMA3_4B, "text_config", GEMMA3_4B["text_config"] | {"altup_num_inputs": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "field", "value"), REFUSED)
def test_what_is_not_computed_is_refused_by_name(raw, field, value, tmp_path):
    read(tmp_path, raw)
    with pytest.raises(ValueError) as caught:
        read(tmp_path, raw | {field: value})
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "config.json"))
    named = {
        "num_hidden_layers": "num_", "torch_dtype": "dtype", "first_k_dense_replace": "first_dense",
        "rope_scaling": "rope_", "sliding_window_pattern": "global_every",
        "num_key_value_heads": "num_",
    }  # fmt: skip
    assert named.get(field, field) in message


def test_a_classifier_of_several_labels_is_refused(tmp_path):
    raw = GEMMA2 | {"architectures": ["Gemma2ForSequenceClassification"]}
    read(tmp_path, raw | {"id2label": {"0": "reward"}})
    for labels in ({}, {"id2label": {"0": "good", "1": "bad"}}):
        with pytest.raises(ValueError, match="id2label: expected one label"):
            read(tmp_path, raw | labels)


@pytest.mark.parametrize("raw", [GEMMA2, V2_LITE, QWEN3_MOE, GEMMA3],
                         ids=lambda raw: raw["model_type"])  # fmt: skip
@pytest.mark.parametrize("value", [10**6 - 1, 10**9, 10**30, "9", float("nan")])
def test_absurd_counts_are_refused_at_once(raw, value, tmp_path):
    """They would have every layer, expert or rotary element listed before a file is looked at."""
    listed = {
        "num_hidden_layers", "n_routed_experts", "num_experts", "num_nextn_predict_layers",
    }  # fmt: skip
    others = {"query_pre_attn_scalar", "rope_theta", "rope_local_base_freq", "moe_layer_freq",
              "n_group", "topk_group", "max_window_layers", *UNREAD}  # fmt: skip
    fields = {name for name, number in raw.items() if type(number) is int} - others
    fields |= {"num_nextn_predict_layers", "q_lora_rank"} if raw is V2_LITE else set()
    start = time.monotonic()
    for field in sorted(fields & listed if value == 10**6 - 1 else fields):
        with pytest.raises(ValueError, match=f"{tmp_path.name}/config.json: "):
            read(tmp_path, raw | {field: value})
    assert time.monotonic() - start < 5


def test_float16_is_float32_to_us(tmp_path):
    for field in ("dtype", "torch_dtype"):
        raw = {name: value for name, value in GEMMA2.items() if name != "torch_dtype"}
        config = read(tmp_path, raw | {field: "float16"})
        assert (config.compute.dtype, config.compute.param_dtype) == ("float32", "float32")


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        hub.read_config(tmp_path)
    for text, message in (
        ("{", "not JSON"),
        ("[]", "expected a JSON object, found list"),
        ("[" * 200_000, "config.json:1: .*recursion"),
        ("version https://git-lfs.github.com/spec/v1\n", "config.json: .*git lfs pull"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            hub.read_config(tmp_path)


WRITABLE = [name for name in VARIANTS if name != "tiny_deepseek"]


@pytest.mark.parametrize("reward", [False, True])
@pytest.mark.parametrize("name", WRITABLE)
def test_written_configs_read_back(name, reward, tmp_path):
    config = VARIANTS[name].replace(remat="none")
    raw = hub.write_config(config, head=reward)
    assert raw["architectures"][0].endswith("SequenceClassification" if reward else "CausalLM")
    assert read(tmp_path, raw) == config


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITABLE)
def test_transformers_reads_written_configs(name, tmp_path):
    """Through its own classes and back: nothing that decides the model is lost or changed."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = VARIANTS[name].replace(remat="none")
    read(tmp_path, hub.write_config(config, head=True))
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    assert again.num_labels == 1
    again.save_pretrained(tmp_path / "again")
    assert hub.read_config(tmp_path / "again") == config


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.architecture)
def test_tables_name_fields_that_there_are(family):
    for row in family.table:
        if row.ours is not None:
            *record, name = row.ours.split(".")
            kind = RECORDS[record[0]] if record else ModelConfig
            assert name in {field.name for field in dataclasses.fields(kind)}, row
            assert row.ours not in COMPUTE


@pytest.mark.parametrize("name", VARIANTS)
def test_a_shape_is_of_the_family_that_its_name_says(name):
    named = {
        "tiny": "gemma2", "gemma2": "gemma2", "gemma3": "gemma3_text", "llama3": "llama",
        "smollm2": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
        "tiny_deepseek": "deepseek_v2", "deepseek_v2": "deepseek_v2", "deepseek_v3": "deepseek_v3",
    }  # fmt: skip
    expected = named[max(filter(name.startswith, named), key=len)]
    if VARIANTS[name].moe and expected == "qwen3":
        expected = "qwen3_moe"
    assert families.of(VARIANTS[name]).model_type == expected


def _moe(**changes):
    config = VARIANTS["deepseek_v2_lite_16b"]
    return dataclasses.replace(config, moe=dataclasses.replace(config.moe, **changes))


UNWRITABLE = {
    "model.attn_softcap": dataclasses.replace(VARIANTS["tiny"], post_norms=False),
    "model.unit_offset_norms": dataclasses.replace(VARIANTS["llama3_1_8b"], unit_offset_norms=True),
    "model.qkv_bias": dataclasses.replace(VARIANTS["qwen3_8b"], qkv_bias=True),
    "rope_scaling": dataclasses.replace(VARIANTS["qwen3_8b"], linear_rope=2.0),
    "model.local_rope_theta": dataclasses.replace(VARIANTS["gemma3_1b"], local_rope_theta=None),
    "model.global_every": dataclasses.replace(VARIANTS["tiny"], global_every=3),
    "model.sliding_window": dataclasses.replace(VARIANTS["tiny"], sliding_window=None),
    "model.query_scale": dataclasses.replace(VARIANTS["tiny"], query_scale=0.3),
    "model.moe:": dataclasses.replace(VARIANTS["deepseek_v2_lite_16b"], moe=None),
    "model.activation": dataclasses.replace(
        VARIANTS["deepseek_v2_lite_16b"], activation="gelu_tanh"),
    "model.moe.shared_dim": _moe(shared_dim=100),
    "model.moe.normalize": _moe(normalize=True),
    "model.moe.selection_bias": _moe(scoring="sigmoid", group_top=2),
    "model.moe.group_top": dataclasses.replace(
        VARIANTS["deepseek_v3_671b"],
        moe=MoEConfig(8, 2, 16, scoring="sigmoid", selection_bias=True)),
    "model.yarn.mscale": dataclasses.replace(
        VARIANTS["deepseek_v2_lite_16b"], yarn=YarnConfig(40.0, 4096, mscale=0.5),
        query_scale=192**-0.5),
}  # fmt: skip


@pytest.mark.parametrize("field", UNWRITABLE)
def test_shapes_that_no_architecture_has_are_not_written(field):
    with pytest.raises(ValueError, match=field):
        hub.write_config(UNWRITABLE[field])


@pytest.mark.parametrize(
    ("value", "found"), [("absent", 50.0), (None, None), (7, 7.0), (-1, "error"), ("50", "error")]
)
def test_an_absent_soft_cap_is_the_default_and_null_is_none(tmp_path, value, found):
    raw = hub.write_config(VARIANTS["tiny"])
    raw["attn_logit_softcapping"] = value
    if value == "absent":
        del raw["attn_logit_softcapping"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    if found == "error":
        with pytest.raises(ValueError, match=r"config.json: attn_logit_softcapping: expected"):
            hub.read_config(tmp_path)
    else:
        assert hub.read_config(tmp_path).attn_softcap == found


@pytest.mark.parametrize("raw", [QWEN3, GEMMA3], ids=["qwen3", "gemma3"])
def test_two_sections_on_rotations_are_refused(raw, tmp_path):
    """transformers takes `rope_scaling` and drops the base that stands in `rope_parameters`."""
    raw = later_generation(raw)
    scaling = {"rope_type": "linear", "factor": 8.0}
    with pytest.raises(ValueError, match="rope_scaling: expected nothing beside rope_parameters"):
        read(tmp_path, raw | {"rope_scaling": scaling})
    assert read(tmp_path, raw | {"rope_scaling": raw["rope_parameters"]}) == read(tmp_path, raw)


def test_sections_of_gemma3_are_those_of_its_kinds_of_layers(tmp_path):
    raw = later_generation(GEMMA3)
    with pytest.raises(ValueError, match="rope_parameters: expected a section"):
        read(tmp_path, raw | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    without = {kind: {"rope_type": "default"} for kind in raw["rope_parameters"]}
    config = read(tmp_path, raw | {"rope_parameters": without, "rope_local_base_freq": 50.0})
    assert (config.rope_theta, config.local_rope_theta) == (1e6, 50.0)
    # transformers reads the list of layers, and a pattern without the underscore.
    kept = {
        name: x for name, x in raw.items() if name not in ("layer_types", "sliding_window_pattern")
    }
    assert read(tmp_path, kept | {"_sliding_window_pattern": 3}).global_every == 6
