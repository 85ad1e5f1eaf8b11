"""The decoder against the PyTorch DeepSeek-V2 and V3 of transformers, each detail broken once."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_checkpoints as tiny
from tiny_checkpoints import GROUPS, YARN, one_torch_thread  # noqa: F401
from wrong_details import all_keys_before_all_values, rope_in_pairs, without_norm

from grm_jax.models import attention, moe
from grm_jax.models.config import yarn_mscale

V2, V3 = "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"
NO_YARN = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
PUBLISHED_YARN = {
    "max_position_embeddings": 40 * 4096,
    "rope_parameters": YARN | {
        "rope_theta": 10_000.0, "beta_fast": 32, "original_max_position_embeddings": 4096,
        "mscale": 1.0, "mscale_all_dim": 1.0,
    }
}  # fmt: skip
CASES = {
    "V2-Lite": (V2, {}),
    "V2-Lite, no dense layer": (V2, {"first_k_dense_replace": 0, **PUBLISHED_YARN}),
    "V2": (V2, {"q_lora_rank": 20, "topk_method": "group_limited_greedy", **GROUPS}),
    "V2, two dense layers": (V2, {"q_lora_rank": 20, "first_k_dense_replace": 2, **NO_YARN}),
    "V3": (V3, {}),
    "V3, no dense layer": (V3, {"first_k_dense_replace": 0, **NO_YARN}),
    "V3, two dense layers": (V3, {"first_k_dense_replace": 2, "norm_topk_prob": False}),
    "V3, plain queries": (V3, {"q_lora_rank": None, **PUBLISHED_YARN}),
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
def plain(request, tmp_path_factory):
    """A checkpoint with experts in all layers, tokens, their logits and what may differ."""
    folder = tmp_path_factory.mktemp("checkpoint") / "saved"
    pair, tokens = tiny.pair(folder, request.param, first_k_dense_replace=0), tiny.random_tokens()
    want = tiny.their_logits(pair.theirs, tokens)
    return pair, tokens, want, tiny.tolerance(pair.theirs, tokens, want)


def in_moe(**changes):
    return lambda config: {"moe": dataclasses.replace(config.moe, **changes)}


def scale(power, dims=("nope_dim", "rope_dim")):
    """Factor on q.k from some of the dimensions, with a power of YaRN's term."""

    def change(config):
        term = yarn_mscale(config.yarn.factor, config.yarn.mscale_all_dim)
        width = sum(getattr(config.mla, dim) for dim in dims)
        return {"query_scale": width**-0.5 * term**power}

    return change


BOTH = {
    "no yarn": lambda config: {"yarn": None},
    "no mscale on the scale": scale(0),
    "mscale once": scale(1),
    "scale of the unrotated width": scale(2, ("nope_dim",)),
    "no shared experts": in_moe(shared_dim=0),
    "no routed scale": in_moe(routed_scale=1.0),
}
IN_V2 = {
    "sigmoid": in_moe(scoring="sigmoid"),
    "normalised weights": in_moe(normalize=True),
}
IN_V3 = {
    "softmax": in_moe(scoring="softmax"),
    "weights not normalised": in_moe(normalize=False),
    "no groups": in_moe(num_groups=1, top_groups=1),
    "groups as good as their best": in_moe(group_top=1),
}


def check_noticed(plain, changes=None, params=None):
    pair, tokens, want, allowed = plain
    config = dataclasses.replace(pair.config, **(changes or {}))
    got = tiny.broken_logits(config, params or pair.params, tokens)
    assert np.abs(got - want).max() > 10 * allowed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plain", "mutation"),
    [(V2, name) for name in BOTH | IN_V2] + [(V3, name) for name in BOTH | IN_V3],
    indirect=["plain"],
)
def test_a_wrong_setting_is_noticed(plain, mutation):
    check_noticed(plain, (BOTH | IN_V2 | IN_V3)[mutation](plain[0].config))


@pytest.mark.parametrize("plain", [V2, V3], indirect=True)
def test_a_wrong_layout_is_noticed(plain):
    pair = plain[0]
    check_noticed(plain, params=rope_in_pairs(pair.config, pair.params))
    check_noticed(plain, params=all_keys_before_all_values(pair.params))


@pytest.mark.parametrize("plain", [V2, V3], indirect=True)
def test_yarn_rounds_the_ends_of_its_blend(plain, monkeypatch):
    exact = types.SimpleNamespace(floor=float, ceil=float, log=math.log, pi=math.pi)
    monkeypatch.setattr(attention, "math", exact)
    check_noticed(plain)


@pytest.mark.parametrize(
    ("plain", "name"), [(V2, "kv_a_norm"), (V3, "kv_a_norm"), (V3, "q_a_norm")],
    indirect=["plain"],
)  # fmt: skip
def test_latents_are_normed(plain, name, monkeypatch):
    without_norm(monkeypatch, name)
    check_noticed(plain)


@pytest.mark.parametrize("plain", [V3], indirect=True)
def test_the_bias_of_experts_chooses_and_does_not_weigh(plain, monkeypatch):
    params = plain[0].params
    check_noticed(plain, params=jax.tree.map_with_path(
        lambda path, x: 0 * x if path[-1].key == "router_bias" else x, params))  # fmt: skip
    right = moe.route

    def weighing(rules, logits_NX, bias_X):
        ids_NA, _ = right(rules, logits_NX, bias_X)
        scores_NX = jax.nn.sigmoid(logits_NX) + bias_X[None]
        weights_NA = jnp.take_along_axis(scores_NX, ids_NA, axis=1)
        return ids_NA, rules.routed_scale * weights_NA / weights_NA.sum(axis=1, keepdims=True)

    monkeypatch.setattr(moe, "route", weighing)
    check_noticed(plain)
