"""Llama, Mistral, Qwen2 and Qwen3 of transformers, and each detail of them broken once."""

import dataclasses

import numpy as np
import pytest
import tiny_checkpoints as tiny
import wrong_details as wrong
from tiny_checkpoints import one_torch_thread  # noqa: F401

LLAMA, MISTRAL, QWEN2 = "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"
QWEN3, QWEN3_MOE = "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"
DEFAULT = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}}
YARN = {
    "max_position_embeddings": 160,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
        "original_max_position_embeddings": 40, "beta_fast": 4.0,
    },
}  # fmt: skip
NINE_HEADS = {"hidden_size": 54, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 6}
CASES = {
    "Llama-3.1": (LLAMA, {}),
    "Llama-2, no groups": (LLAMA, {"num_key_value_heads": 4, "head_dim": 12, **DEFAULT}),
    "SmolLM2": (LLAMA, {"tie_word_embeddings": True, **NINE_HEADS, **DEFAULT}),
    "Llama, linear rope": (LLAMA, LINEAR),
    "Llama, yarn, one kv head": (LLAMA, {"num_key_value_heads": 1, **YARN}),
    "Mistral": (MISTRAL, {}),
    "Mistral, window 1": (MISTRAL, {"sliding_window": 1}),
    "Mistral, wide window": (MISTRAL, {"sliding_window": 4096}),
    "Mistral, no window": (MISTRAL, {"sliding_window": None}),
    "Qwen2": (QWEN2, {}),
    "Qwen2, tied, yarn": (QWEN2, {"tie_word_embeddings": True, **YARN}),
    "Qwen3": (QWEN3, {}),
    "Qwen3, tied, one kv head": (QWEN3, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "Qwen3, yarn": (QWEN3, YARN),
    "Qwen3-MoE": (QWEN3_MOE, {}),
    "Qwen3-MoE, weights not normalised": (QWEN3_MOE, {"norm_topk_prob": False}),
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_torch_thread")]


@pytest.mark.parametrize("case", CASES)
def test_logits(case, tmp_path):
    architecture, changes = CASES[case]
    pair, tokens = tiny.pair(tmp_path / "saved", architecture, **changes), tiny.random_tokens()
    want = tiny.their_logits(pair.theirs, tokens)
    assert want.std() > 0.5
    got = tiny.our_logits(pair.config, pair.params, tokens)
    allowed = tiny.tolerance(pair.theirs, tokens, want)
    np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


@pytest.fixture(scope="module")
def right(request, tmp_path_factory):
    """The checkpoint of a case, with tokens, their logits and what may differ."""
    architecture, changes = CASES[request.param]
    folder = tmp_path_factory.mktemp("checkpoint") / "saved"
    pair, tokens = tiny.pair(folder, architecture, **changes), tiny.random_tokens()
    want = tiny.their_logits(pair.theirs, tokens)
    return pair, tokens, want, tiny.tolerance(pair.theirs, tokens, want)


def check_noticed(right, params=None, **changes):
    pair, tokens, want, allowed = right
    config = dataclasses.replace(pair.config, **changes)
    logits = tiny.eager_logits if config.moe is None else tiny.broken_logits
    got = logits(config, params or pair.params, tokens)
    assert np.abs(got - want).max() > 10 * allowed


def width_of_the_residual(config):
    return {"query_scale": (config.embed_dim / config.num_heads) ** -0.5}


def normalised(value):
    # The softmax over the chosen experts alone is the normalised one over all of them.
    return lambda config: {"moe": dataclasses.replace(config.moe, normalize=value)}


SETTINGS = [
    ("Llama-3.1", "no stretching", lambda config: {"llama3_rope": None}),
    ("Llama-3.1", "stretched by a number", lambda config: {
        "llama3_rope": None, "linear_rope": config.llama3_rope.factor}),
    ("Llama-3.1", "blended elsewhere", lambda config: {
        "llama3_rope": dataclasses.replace(config.llama3_rope, low_turns=2.0)}),
    ("Llama-3.1", "tied for untied", lambda config: {"tied_embeddings": True}),
    ("Llama-3.1", "norms times 1 + w", lambda config: {"unit_offset_norms": True}),
    ("Llama-3.1", "gelu", lambda config: {"activation": "gelu_tanh"}),
    ("Llama-3.1", "scaled embeddings", lambda config: {"scale_embeddings": True}),
    ("Llama-3.1", "another query scale", width_of_the_residual),
    ("Llama, linear rope", "no stretching", lambda config: {"linear_rope": None}),
    ("Llama, yarn, one kv head", "no stretching", lambda config: {"yarn": None}),
    ("Mistral", "window too wide", lambda config: {"sliding_window": config.sliding_window + 1}),
    ("Mistral", "window too narrow", lambda config: {"sliding_window": config.sliding_window - 1}),
    ("Mistral", "no window", lambda config: {"sliding_window": None}),
    ("Qwen2", "no biases", lambda config: {"qkv_bias": False}),
    ("Qwen3", "no norms of heads", lambda config: {"qk_norm": False}),
    ("Qwen3-MoE", "weights not normalised", normalised(False)),
    ("Qwen3-MoE, weights not normalised", "weights normalised", normalised(True)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("right", "name", "change"), SETTINGS, ids=lambda x: None if callable(x) else x,
    indirect=["right"],
)  # fmt: skip
def test_a_wrong_setting_is_noticed(right, name, change):
    check_noticed(right, **change(right[0].config))


@pytest.mark.parametrize("right", ["Llama-3.1", "Qwen2", "Qwen3"], indirect=True)
def test_halves_are_rotated_and_not_pairs(right):
    check_noticed(right, wrong.rope_in_pairs(right[0].config, right[0].params))


@pytest.mark.parametrize("right", ["Llama-3.1"], indirect=True)
def test_norms_stand_before_the_blocks(right, monkeypatch):
    params = wrong.norms_after_blocks(monkeypatch, right[0].params)
    check_noticed(right, params, post_norms=True)


@pytest.mark.parametrize("name", ["q_bias", "k_bias", "v_bias"])
@pytest.mark.parametrize("right", ["Qwen2"], indirect=True)
def test_every_bias_is_added(right, name):
    check_noticed(right, wrong.zeroed(right[0].params, name))


@pytest.mark.parametrize("name", ["q_norm", "k_norm"])
@pytest.mark.parametrize("right", ["Qwen3"], indirect=True)
def test_queries_and_keys_are_normed(right, name, monkeypatch):
    wrong.without_norm(monkeypatch, name)
    check_noticed(right)


@pytest.mark.parametrize("right", ["Qwen3"], indirect=True)
def test_heads_are_normed_before_they_are_rotated(right, monkeypatch):
    wrong.norms_after_rope(monkeypatch)
    check_noticed(right)
