"""The decoder against the text model of Gemma-3 of transformers, and each detail broken once."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_checkpoints as tiny
import wrong_details as wrong
from tiny_checkpoints import one_torch_thread  # noqa: F401

from grm_jax.models import attention, layers
from grm_jax.models.config import ModelConfig

CAUSAL = "Gemma3ForCausalLM"
ROPE = tiny.BASES[CAUSAL]["rope_parameters"]
UNSTRETCHED = {
    "rope_parameters": {**ROPE, "full_attention": {"rope_type": "default", "rope_theta": 1000.0}}
}
# As many layers as the published 1B and 27B: four and ten groups of six, and two that are left.
NARROW = {
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 24,
    "sliding_window_pattern": 6,
}  # fmt: skip
CASES = {
    "grouped": {},
    "one kv head, every second": {"num_key_value_heads": 1, "sliding_window_pattern": 2},
    "whole groups, untied": {"num_hidden_layers": 6, "tie_word_embeddings": False},
    "no global layer": {"num_hidden_layers": 2},
    "window 1, no groups, no stretching": {
        "num_key_value_heads": 4, "sliding_window": 1, **UNSTRETCHED},
    "26 layers": {"num_hidden_layers": 26, **NARROW},
    "62 layers": {"num_hidden_layers": 62, **NARROW},
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_torch_thread")]


def compared(folder, **changes):
    """A checkpoint, tokens, their logits and what may differ."""
    pair, tokens = tiny.pair(folder, CAUSAL, **changes), tiny.random_tokens()
    want = tiny.their_logits(pair.theirs, tokens)
    return pair, tokens, want, tiny.tolerance(pair.theirs, tokens, want)


@pytest.mark.parametrize("case", CASES)
def test_logits(case, tmp_path, monkeypatch):
    if case.endswith("layers"):
        # Sharp attention in so many random layers turns a rounding into a large difference.
        monkeypatch.setattr(tiny, "SCORE", 1.0)
    pair, tokens, want, allowed = compared(tmp_path / "saved", **CASES[case])
    assert want.std() > 0.5 and allowed < 1e-4
    assert tokens.shape[1] > pair.config.sliding_window
    got = tiny.our_logits(pair.config, pair.params, tokens)
    np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("checkpoint") / "saved")


def check_noticed(right, params=None, **changes):
    pair, tokens, want, allowed = right
    config = dataclasses.replace(pair.config, **changes)
    got = tiny.eager_logits(config, params or pair.params, tokens)
    assert np.abs(got - want).max() > 10 * allowed


SETTINGS = {
    "no stretching": lambda config: {"linear_rope": None},
    "bases swapped": lambda config: {
        "rope_theta": config.local_rope_theta, "local_rope_theta": config.rope_theta},
    "one base": lambda config: {"local_rope_theta": None},
    "window too wide": lambda config: {"sliding_window": config.sliding_window + 1},
    "window too narrow": lambda config: {"sliding_window": config.sliding_window - 1},
    "scale of the head width": lambda config: {"query_scale": config.head_dim**-0.5},
    "caps of Gemma-2": lambda config: {"attn_softcap": 4.0, "final_softcap": 2.0},
    "norms times w": lambda config: {"unit_offset_norms": False},
    "no norms after": lambda config: {"post_norms": False},
    "no norms of heads": lambda config: {"qk_norm": False},
    "no embedding factor": lambda config: {"scale_embeddings": False},
}  # fmt: skip


@pytest.mark.parametrize("change", SETTINGS)
def test_a_wrong_setting_is_noticed(grouped, change):
    check_noticed(grouped, **SETTINGS[change](grouped[0].config))


def test_local_layers_are_not_stretched(grouped, monkeypatch):
    right, stretch = attention.rope_frequencies, grouped[0].config.linear_rope
    monkeypatch.setattr(
        attention, "rope_frequencies", lambda width, theta, _: right(width, theta, stretch)
    )
    check_noticed(grouped)


def test_the_global_layer_is_the_last_of_a_group(grouped, monkeypatch):
    right = ModelConfig.stacks.fget

    def shifted(config):
        return tuple(stack._replace(windows=(None, *stack.windows[:-1])) for stack in right(config))

    monkeypatch.setattr(ModelConfig, "stacks", property(shifted))
    check_noticed(grouped)


def test_halves_are_rotated_and_not_pairs(grouped):
    check_noticed(grouped, wrong.rope_in_pairs(grouped[0].config, grouped[0].params))


def test_each_norm_has_its_place(grouped):
    """The norms before attention and feed-forward and those after them, exchanged."""

    def exchanged(node):
        if not isinstance(node, dict):
            return node
        names = {"pre_attention_norm": "post_attention_norm", "pre_mlp_norm": "post_mlp_norm"}
        names |= {there: here for here, there in names.items()}
        return {names.get(name, name): exchanged(child) for name, child in node.items()}

    check_noticed(grouped, exchanged(grouped[0].params))


@pytest.mark.parametrize("name", ["q_norm", "k_norm"])
def test_queries_and_keys_are_normed(grouped, name, monkeypatch):
    wrong.without_norm(monkeypatch, name)
    check_noticed(grouped)


def test_heads_are_normed_before_they_are_rotated(grouped, monkeypatch):
    wrong.norms_after_rope(monkeypatch)
    check_noticed(grouped)


def test_the_gelu_is_that_of_tanh(grouped, monkeypatch):
    erf = {"gelu_tanh": lambda x: jax.nn.gelu(x, approximate=False)}
    monkeypatch.setattr(layers, "ACTIVATIONS", erf)
    check_noticed(grouped)
