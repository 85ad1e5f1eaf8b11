"""The decoder against the PyTorch DeepSeek-V2 and V3 of transformers, each detail broken once."""

import dataclasses
import math
import types

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_checkpoints as tiny
from tiny_checkpoints import GROUPS, YARN, one_torch_thread  # noqa: F401
from wrong_details import all_keys_before_all_values, rope_in_pairs

from grm_jax.models import attention, layers, moe
from grm_jax.models.config import yarn_mscale

V2, V3 = "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"
NO_YARN = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
PUBLISHED_YARN = {
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

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize("case", CASES)
def test_logits(case, tmp_path):
    architecture, changes = CASES[case]
    pair, tokens = tiny.pair(tmp_path / "saved", architecture, **changes), tiny.random_tokens()
    want = tiny.their_logits(pair.theirs, tokens)
    assert want.std() > 0.5
    got = tiny.our_logits(pair.config, pair.params, tokens)
    allowed = tiny.tolerance(pair.theirs, tokens, want)
    np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


@pytest.fixture(scope="module", params=[V2, V3])
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


MUTATIONS = {
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


def check_noticed(plain, changes=None, params=None, **options):
    pair, tokens, want, allowed = plain
    config = dataclasses.replace(pair.config, **(changes or {}))
    got = tiny.our_logits(config, params or pair.params, tokens, **options)
    assert np.abs(got - want).max() > 10 * allowed


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS | IN_V2 | IN_V3)
def test_a_wrong_setting_is_noticed(plain, mutation):
    config = plain[0].config
    version = IN_V3 if config.moe.selection_bias else IN_V2
    if mutation not in MUTATIONS | version:
        pytest.skip("a setting of the other version")
    check_noticed(plain, (MUTATIONS | version)[mutation](config))


def test_a_wrong_layout_is_noticed(plain):
    pair = plain[0]
    check_noticed(plain, params=rope_in_pairs(pair.config, pair.params))
    check_noticed(plain, params=all_keys_before_all_values(pair.params))


def test_yarn_rounds_the_ends_of_its_blend(plain, monkeypatch):
    exact = types.SimpleNamespace(floor=float, ceil=float, log=math.log, pi=math.pi)
    monkeypatch.setattr(attention, "math", exact)
    check_noticed(plain, retrace=True)


@pytest.mark.parametrize("name", ["kv_a_norm", "q_a_norm"])
def test_latents_are_normed(plain, name, monkeypatch):
    if name == "q_a_norm" and plain[0].config.mla.query_rank is None:
        pytest.skip("no latents of queries")

    class Missing(layers.RMSNorm):
        @nn.nowrap
        def __call__(self, x):
            return x if self.name == name else super().__call__(x)

    monkeypatch.setattr(layers, "RMSNorm", Missing)
    check_noticed(plain, retrace=True)


def test_the_bias_of_experts_chooses_and_does_not_weigh(plain, monkeypatch):
    pair = plain[0]
    if not pair.config.moe.selection_bias:
        pytest.skip("V2 has none")
    check_noticed(plain, params=jax.tree.map_with_path(
        lambda path, x: 0 * x if path[-1].key == "router_bias" else x, pair.params))  # fmt: skip

    def biased_scores(logits):
        return jax.nn.sigmoid(logits) + bias

    bias, route = 0, moe.route

    def weighing(rules, logits, bias_X):
        nonlocal bias
        bias = bias_X[None]
        return route(rules, logits, None)

    monkeypatch.setattr(moe, "route", weighing)
    monkeypatch.setattr(moe, "jax", types.SimpleNamespace(**vars(jax)))
    monkeypatch.setattr(moe.jax, "nn", types.SimpleNamespace(
        **{**vars(jax.nn), "sigmoid": biased_scores}))  # fmt: skip
    check_noticed(plain, retrace=True)
