"""Routing against numpy, and every path of the experts against a plain loop over tokens."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import equations

from grm_jax.models import moe
from grm_jax.models.config import MoEConfig
from grm_jax.models.variants import VARIANTS

V2 = MoEConfig(num_experts=8, experts_per_token=3, expert_dim=16)
V3 = dataclasses.replace(
    V2, scoring="sigmoid", selection_bias=True, num_groups=4, top_groups=2, group_top=2,
    normalize=True, routed_scale=2.5,
)  # fmt: skip
GROUPED_V2 = dataclasses.replace(V2, num_groups=4, top_groups=2, routed_scale=16.0)


def route_one(rules, logits, bias):
    """One token, in float64 and plain Python."""
    scores = np.exp(logits - logits.max())
    scores = scores / scores.sum() if rules.scoring == "softmax" else 1 / (1 + np.exp(-logits))
    choice = scores + bias
    size = len(choice) // rules.num_groups
    groups = [range(g * size, (g + 1) * size) for g in range(rules.num_groups)]
    quality = [sum(sorted((choice[x] for x in g), reverse=True)[: rules.group_top]) for g in groups]
    best = sorted(range(len(groups)), key=lambda g: -quality[g])[: rules.top_groups]
    allowed = [x for g in best for x in groups[g]]
    ids = sorted(allowed, key=lambda x: -choice[x])[: rules.experts_per_token]
    weights = np.array([scores[x] for x in ids])
    if rules.normalize:
        weights = weights / weights.sum()
    return ids, weights * rules.routed_scale


@pytest.mark.parametrize("rules", [V2, GROUPED_V2, V3], ids=["V2", "V2 with groups", "V3"])
def test_route(rules):
    rng = np.random.default_rng(0)
    logits, bias = rng.normal(size=(40, 8)), 0.3 * rng.normal(size=8) * rules.selection_bias
    ids, weights = moe.route(
        rules, jnp.asarray(logits, jnp.float32),
        jnp.asarray(bias, jnp.float32) if rules.selection_bias else None,
    )  # fmt: skip
    for n in range(len(logits)):
        want_ids, want_weights = route_one(rules, logits[n], bias)
        assert list(ids[n]) == want_ids
        np.testing.assert_allclose(weights[n], want_weights, rtol=1e-5)


def test_a_selection_bias_changes_the_choice_and_not_the_weights():
    logits = jnp.zeros((1, 8))
    ids, weights = moe.route(V3, logits, jnp.asarray([0, 0, 0, 0, 0, 0.1, 0.2, 0.3], jnp.float32))
    assert set(np.asarray(ids[0])) == {5, 6, 7}
    np.testing.assert_allclose(weights, 2.5 / 3, rtol=1e-6)


def make_case(tokens, per_token, experts=8, width=12, hidden=16, seed=0, skew=False):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) * shape[-2] ** -0.5, jnp.float32)

    if skew:  # everything goes to the first experts
        ids = np.broadcast_to(np.arange(per_token), (tokens, per_token))
    else:
        ids = np.stack([rng.permutation(experts)[:per_token] for _ in range(tokens)])
    weights = jnp.asarray(rng.uniform(0.1, 1, size=(tokens, per_token)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(tokens, width)), jnp.float32)
    return (x, jnp.asarray(ids, jnp.int32), weights, normal(experts, width, hidden),
            normal(experts, width, hidden), normal(experts, hidden, width))  # fmt: skip


def plain_loop(x, ids, weights, gate, up, down):
    """Token by token, expert by expert."""
    rows = []
    for n in range(len(x)):
        row = jnp.zeros_like(x[n])
        for a in range(ids.shape[1]):
            e = int(ids[n, a])
            hidden = jax.nn.silu(x[n] @ gate[e]) * (x[n] @ up[e])
            row += weights[n, a] * (hidden @ down[e])
        rows.append(row)
    return jnp.stack(rows)


def assert_same_values_and_gradients(fast, case):
    x, ids, *rest = case
    cotangent = jnp.asarray(np.random.default_rng(9).normal(size=x.shape), jnp.float32)

    def run(f):
        value, pull = jax.vjp(lambda x, *rest: f(x, ids, *rest), x, *rest)
        return value, pull(cotangent)

    got, want = jax.jit(functools.partial(run, fast))(), run(plain_loop)
    assert float(jnp.abs(want[0]).max()) > 0.1
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "per_token", "skew"), [(1, 3, False), (5, 2, False), (21, 3, False), (17, 2, True)]
)
def test_blocks_equal_a_loop_over_experts(tokens, per_token, skew):
    """Also with experts that nobody chose, and with all tokens on few: none is dropped."""
    fast = functools.partial(moe.apply_experts, "silu", "blocks")
    assert_same_values_and_gradients(fast, make_case(tokens, per_token, skew=skew))


@pytest.mark.slow
def test_megablox_equals_a_loop_over_experts(monkeypatch):
    """Interpreted; that it lowers for TPU is another test."""
    interpreted = functools.partial(moe._by_megablox, interpret=True)
    monkeypatch.setattr(moe, "_by_megablox", interpreted)
    fast = functools.partial(moe.apply_experts, "silu", "megablox")
    case = make_case(9, 2, experts=3, width=128, hidden=128)
    assert_same_values_and_gradients(fast, case)


def test_the_platform_of_the_program_decides_the_path():
    case = make_case(9, 2, experts=3, width=128, hidden=128)
    fast = jax.jit(functools.partial(moe.apply_experts, "silu", "auto"))
    np.testing.assert_allclose(fast(*case), plain_loop(*case), rtol=1e-4, atol=1e-5)
    assert "tpu_custom_call" not in fast.lower(*case).as_text()
    on_tpu = jax.export.export(fast, platforms=["tpu"])(*case)
    assert "tpu_custom_call" in on_tpu.mlir_module()


def test_mapped_tokens_become_tokens_of_one_call():
    """Members share the weights: no array of the size of a copy for each may appear."""
    members = 4
    cases = [make_case(5, 2, seed=s) for s in range(members)]
    tokens = [jnp.stack(parts) for parts in zip(*(case[:3] for case in cases), strict=True)]
    weights = cases[0][3:]
    fast = functools.partial(moe.apply_experts, "silu", "blocks")
    mapped = jax.vmap(fast, in_axes=(0, 0, 0, None, None, None))
    for s, out in enumerate(jax.jit(mapped)(*tokens, *weights)):
        want = plain_loop(*(x[s] for x in tokens), *weights)
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)
    whole = weights[0].size
    jaxpr = jax.make_jaxpr(mapped)(*tokens, *weights)
    sizes = [math.prod(v.aval.shape) for eqn in equations(jaxpr.jaxpr) for v in eqn.outvars]
    assert sizes and max(sizes) <= whole
    shared = jax.vmap(fast, in_axes=(0, None, 0, None, None, None))  # ids are the same for all
    got = shared(tokens[0], tokens[1][0], tokens[2], *weights)
    np.testing.assert_allclose(
        got[1], plain_loop(tokens[0][1], tokens[1][0], tokens[2][1], *weights), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("scoring", "relu"), ("num_groups", 3), ("top_groups", 2), ("experts_per_token", 9)],
)
def test_impossible_rules_are_named(field, value):
    with pytest.raises(ValueError, match=rf"^num_experts: .*{field} = {value}|^{field}: .*{value}"):
        dataclasses.replace(V2, **{field: value})


def test_experts_choose_among_all_of_the_published_ones():
    config = VARIANTS["deepseek_v2_lite_16b"].moe
    assert (config.num_experts, config.experts_per_token, config.shared_dim) == (64, 6, 2 * 1408)
