"""GRPO against an independent numpy version, with loops where the library has masks."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grm_jax.learning import grpo
from grm_jax.learning.rollouts import Rollout, RolloutBatch, make_batch
from grm_jax.learning.state import OptimizerConfig, create_state, make_optimizer
from grm_jax.models import heads, transformer
from grm_jax.models.variants import VARIANTS
from grm_jax.ranges import ranges

TINY = VARIANTS["tiny"]
CASES = {
    "paper": {},
    "no_kl": {"kl_coef": 0.0},
    "dr_grpo": {"advantage": "dr_grpo"},
    "rloo": {"advantage": "rloo"},
    "sample_std": {"advantage_std": "sample"},
    "sequence_ratio": {"ratio_level": "sequence"},
    "token_norm": {"length_norm": "token"},
    "constant_norm": {"length_norm": "constant", "length_constant": 6},
    "k1": {"kl_estimator": "k1"},
    "k2": {"kl_estimator": "k2"},
    "kl_in_reward": {"kl_place": "reward", "kl_estimator": "k1"},
    "kl_in_reward_token_norm": {"kl_place": "reward", "length_norm": "token"},
    "clip_high": {"clip_epsilon": 0.1, "clip_high": 0.4},
    "trainer": {"old_logprobs": "trainer"},
    "mixed": {
        "advantage": "rloo", "ratio_level": "sequence", "length_norm": "token",
        "kl_estimator": "k2", "clip_high": 0.15,
    },
    "mixed_reward": {
        "advantage": "dr_grpo", "length_norm": "constant", "length_constant": 9,
        "kl_place": "reward", "kl_estimator": "k1",
    },
}  # fmt: skip


DESCENT = optax.sgd(1.0)


@functools.cache
def update_step(config):
    return grpo.make_update_step(TINY, config, DESCENT)


def config_of(case, **more):
    # A large beta, so that a wrong KL term cannot hide.
    return grpo.GRPOConfig(**{"kl_coef": 0.3, **CASES[case], **more})


# ---- the numpy version: one row at a time, float64, straight from the formulas ----


def numpy_kl(logp, ref, estimator):
    if estimator == "k1":
        return logp - ref
    if estimator == "k2":
        return (logp - ref) ** 2 / 2
    return math.exp(ref - logp) - (ref - logp) - 1


def numpy_loss(config, logp, sampler, ref, rewards, fixed):
    """Minus Eq. 15. Lists of rows of different lengths; `fixed` is logp as a constant."""
    old = sampler if config.old_logprobs == "sampler" else fixed
    tokens = sum(len(row) for row in logp)

    def normaliser(row):
        if config.length_norm == "sequence":
            return 1 / len(row)
        if config.length_norm == "token":
            return len(logp) / tokens
        return 1 / config.length_constant

    shaped = list(rewards)
    if config.kl_place == "reward":
        for i, row in enumerate(sampler):
            penalty = sum(
                numpy_kl(a, b, config.kl_estimator) for a, b in zip(row, ref[i], strict=True)
            )
            shaped[i] -= config.kl_coef * penalty * normaliser(row)

    total, size = 0.0, config.group_size
    for i, row in enumerate(logp):
        start = i - i % size
        group = shaped[start : start + size]
        mean = sum(group) / size
        if config.advantage == "rloo":
            advantage = shaped[i] - (sum(group) - shaped[i]) / (size - 1)
        else:
            advantage = shaped[i] - mean
            if config.advantage == "grpo":
                divisor = size if config.advantage_std == "population" else size - 1
                std = math.sqrt(sum((r - mean) ** 2 for r in group) / divisor)
                advantage = advantage / (std + config.advantage_std_eps) if advantage else 0.0
        values = []
        for t in range(len(row)):
            if config.ratio_level == "token":
                ratio = math.exp(row[t] - old[i][t])
            else:
                ratio = math.exp(sum(a - b for a, b in zip(row, old[i], strict=True)) / len(row))
            high = config.clip_epsilon if config.clip_high is None else config.clip_high
            clipped = min(max(ratio, 1 - config.clip_epsilon), 1 + high)
            value = min(ratio * advantage, clipped * advantage)
            if config.kl_place == "loss":
                value -= config.kl_coef * numpy_kl(row[t], ref[i][t], config.kl_estimator)
            values.append(value)
        total += sum(values) * normaliser(row)
    return -total / len(logp)


def differences(function, at, step=1e-6):
    """Central differences of a scalar function of a flat float64 array."""
    grad = np.zeros_like(at)
    for i in range(at.size):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        grad[i] = (function(up) - function(down)) / (2 * step)
    return grad


def unpadded(array, lengths):
    return [list(map(float, row[:n])) for row, n in zip(array, lengths, strict=True)]


# ---- the loss core on a tabular softmax policy ----


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_of_a_tabular_policy_equal_numpy(case):
    config = config_of(case)
    rng = np.random.default_rng(0)
    lengths = [5, 3, 1, 4, 2, 5, 3, 2, 1, 1, 4, 5]
    batch, width, contexts, vocab = 12, 5, 4, 3
    states = rng.integers(contexts, size=(batch, width))
    actions = rng.integers(vocab, size=(batch, width))
    table = rng.normal(size=(contexts, vocab))
    mask = np.arange(width)[None] < np.asarray(lengths)[:, None]
    # One group is mixed in each of the three ways in which four samples can be.
    rewards = np.array([1, -1, -1, -1, 1, 1, -1, 1, -1, 1, 1, -1], float)

    def log_policy(table):
        log_probs = table - np.log(np.exp(table).sum(-1, keepdims=True))
        return log_probs[states, actions]

    sampler = log_policy(table) + rng.normal(scale=0.3, size=(batch, width))
    ref = log_policy(table + rng.normal(scale=0.5, size=table.shape))
    fixed = unpadded(log_policy(table), lengths)

    def reference(flat):
        logp = log_policy(flat.reshape(table.shape))
        return numpy_loss(
            config, unpadded(logp, lengths), unpadded(sampler, lengths), unpadded(ref, lengths),
            rewards, fixed,
        )  # fmt: skip

    mask_BU = jnp.asarray(mask, jnp.float32)
    sampler_BU = jnp.asarray(np.where(mask, sampler, 50.0), jnp.float32)
    ref_BU = jnp.asarray(np.where(mask, ref, -50.0), jnp.float32)
    scales_B = grpo.row_scales(config, mask_BU, jnp.ones(batch))
    shaped_B = jnp.asarray(rewards, jnp.float32)
    if config.kl_place == "reward":
        kl_BU = jnp.where(mask, grpo.kl_terms(sampler_BU, ref_BU, config.kl_estimator), 0.0)
        shaped_B -= config.kl_coef * jnp.sum(kl_BU, 1) * scales_B * batch
    advantages_B = grpo.advantages(shaped_B.reshape(-1, 4), config).reshape(-1)

    def ours(table):
        logp_BU = jax.nn.log_softmax(table)[states, actions]
        old_BU = sampler_BU if config.old_logprobs == "sampler" else jax.lax.stop_gradient(logp_BU)
        return grpo.policy_loss(config, logp_BU, old_BU, ref_BU, mask_BU, advantages_B, scales_B)

    loss, grad = jax.value_and_grad(ours)(jnp.asarray(table, jnp.float32))
    expected = differences(reference, table.reshape(-1)).reshape(table.shape)
    assert float(loss) == pytest.approx(reference(table.reshape(-1)), abs=2e-6)
    np.testing.assert_allclose(grad, expected, atol=2e-6)
    assert np.abs(expected).max() > 1e-2


LEVELS_AND_ESTIMATORS = [
    (level, estimator) for level in ("token", "sequence") for estimator in ("k1", "k2", "k3")
]


def two_rows(gap, place, level, estimator):
    """Loss of log pi, whose ratios to pi_old and pi_ref are `gap` at one place; and its rows."""
    config = config_of("dr_grpo", ratio_level=level, kl_estimator=estimator, group_size=2)
    logp = np.array([[-1.0, -2.0, -0.5], [-3.0, -1.5, -0.25]])
    old, ref = logp - 0.1, logp + 0.2
    # The second row has two tokens, so that its mean is `gap` at the level of sequences.
    old[place] -= gap if level == "token" or place == (1, 2) else gap * (3, 2)[place[0]]
    ref[place] += gap
    mask_BU = jnp.array([[1.0, 1, 1], [1, 1, 0]])
    scales_B = grpo.row_scales(config, mask_BU, jnp.ones(2))
    old_BU, ref_BU = jnp.asarray(old, jnp.float32), jnp.asarray(ref, jnp.float32)

    def loss(logp_BU):
        advantages_B = jnp.array([1.0, -1.0])
        return grpo.policy_loss(config, logp_BU, old_BU, ref_BU, mask_BU, advantages_B, scales_B)

    lists = [unpadded(rows, [3, 2]) for rows in (logp, old, ref)]
    return config, loss, jnp.asarray(logp, jnp.float32), lists


@pytest.mark.parametrize(("level", "estimator"), LEVELS_AND_ESTIMATORS)
@pytest.mark.parametrize("gap", [0.0, 5.0, 19.5, -5.0, -19.5])
@pytest.mark.parametrize("row", [0, 1])
def test_log_ratios_within_20_are_those_of_the_formula(level, estimator, gap, row):
    config, loss, logp_BU, (logp, old, ref) = two_rows(gap, (row, 1), level, estimator)

    def reference(flat):
        return numpy_loss(config, [flat[:3], flat[3:]], old, ref, [1.0, -1.0], None)

    at = np.concatenate([np.array(one) for one in logp])
    value, grad = jax.value_and_grad(loss)(logp_BU)
    assert float(value) == pytest.approx(reference(at), rel=1e-5, abs=1e-5)
    want = differences(reference, at)
    own = grad[np.array([[1, 1, 1], [1, 1, 0]], bool)]
    np.testing.assert_allclose(own, want, atol=1e-5 * max(1, np.abs(want).max()))


@pytest.mark.parametrize(("level", "estimator"), LEVELS_AND_ESTIMATORS)
@pytest.mark.parametrize("gap", [89.0, 500.0, 1e4, -89.0, -500.0, -1e4])
@pytest.mark.parametrize("place", [(0, 1), (1, 1), (1, 2)])  # the last is padding
def test_a_log_ratio_that_overflows_has_a_finite_gradient(level, estimator, gap, place):
    _, loss, logp_BU, _ = two_rows(gap, place, level, estimator)
    value, grad = jax.value_and_grad(loss)(logp_BU)
    assert np.isfinite(value) and np.isfinite(grad).all()
    assert float(jnp.sum(grad * grad)) < 1e30  # as the norm takes it


def test_the_exponential_goes_on_along_its_tangent():
    d = np.array([-1e4, -89.0, -20.0, -1e-4, 0.0, 1e-4, 20.0, 20.5, 89.0, 1e4])
    top, slope = np.minimum(d, 20.0), np.where(d > 20, math.exp(20), 0.0)
    k3 = np.expm1(top) + slope * (d - 20) - d
    zeros = jnp.zeros(d.shape)
    np.testing.assert_allclose(grpo.kl_terms(zeros, jnp.asarray(d), "k3"), k3, 1e-6, 1e-9)
    config, ones = grpo.GRPOConfig(), jnp.ones((1, d.size))
    ratio = grpo.ratios(config, jnp.asarray(d)[None], zeros[None], ones)[0]
    np.testing.assert_allclose(ratio, np.exp(top) + slope * (d - 20), rtol=1e-6, atol=1e-37)
    bits = jnp.linspace(-20.0, 20.0, 1001)
    same = grpo.ratios(config, bits[None], 0 * bits[None], jnp.ones((1, 1001)))[0]
    np.testing.assert_array_equal(same, jnp.exp(bits))
    np.testing.assert_array_equal(grpo.kl_terms(0 * bits, bits, "k3"), jnp.expm1(bits) - bits)
    slopes = jax.vmap(jax.grad(lambda x: grpo.kl_terms(-x, 0.0, "k3")))(bits)
    np.testing.assert_allclose(slopes, jnp.expm1(bits), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_the_gradient_is_that_of_the_policy_that_was_sampled(temperature):
    """Three arms, every one weighed by its chance at the temperature: the exact expectation."""
    table, rewards = np.array([0.5, -0.3, 1.1]), np.array([-1.0, 1.0, -1.0])

    def policy(logits):
        weights = np.exp(logits / temperature)
        return weights / weights.sum()

    model = dataclasses.replace(TINY, vocab_size=3, final_softcap=None)
    config = grpo.GRPOConfig(kl_coef=0.0, advantage="dr_grpo")
    chances = policy(table)
    old_BU = jnp.asarray(np.log(chances)[:, None], jnp.float32)
    arms_B, ones_BU = jnp.arange(3), jnp.ones((3, 1))

    def loss(table_V):
        params = {"embedding": table_V[:, None], "lm_head": table_V[:, None]}
        logprobs_BU, _ = heads.token_logprobs(
            model, params, jnp.ones((3, 1, 1)), arms_B[:, None], temperature=temperature
        )
        return grpo.policy_loss(
            config, logprobs_BU, old_BU, old_BU, ones_BU, jnp.asarray(rewards),
            jnp.asarray(chances),
        )  # fmt: skip

    want = differences(lambda logits: float(policy(logits) @ rewards), table)
    np.testing.assert_allclose(-jax.grad(loss)(jnp.asarray(table, jnp.float32)), want, atol=1e-6)


# ---- pieces ----


@pytest.mark.parametrize(
    ("right", "std", "high", "low"),
    [
        (1, "population", 1.7320508, -0.5773503),
        (2, "population", 1.0, -1.0),
        (3, "population", 0.5773503, -1.7320508),
        (1, "sample", 1.5, -0.5),
        (2, "sample", 0.8660254, -0.8660254),
        (3, "sample", 0.5, -1.5),
    ],
)
def test_advantages_of_a_group_of_four(right, std, high, low):
    rewards = [1.0] * right + [-1.0] * (4 - right)
    config = grpo.GRPOConfig(advantage_std=std, advantage_std_eps=0.0)
    found = grpo.advantages(jnp.asarray(rewards)[None], config)[0]
    np.testing.assert_allclose(found, [high] * right + [low] * (4 - right), rtol=1e-6)


def test_other_advantages_and_groups_without_signal():
    rewards_PG = jnp.array([[1.0, -1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, -1]])
    dr = grpo.advantages(rewards_PG, grpo.GRPOConfig(advantage="dr_grpo"))
    np.testing.assert_allclose(dr[0], [1.5, -0.5, -0.5, -0.5])
    rloo = grpo.advantages(rewards_PG, grpo.GRPOConfig(advantage="rloo"))
    np.testing.assert_allclose(rloo[0], [2.0, -2 / 3, -2 / 3, -2 / 3], rtol=1e-6)
    for name in ranges(grpo.GRPOConfig)["advantage"].choices:
        for eps in (0.0, 1e-6) if name == "grpo" else (1e-6,):  # the others refuse a change
            config = grpo.GRPOConfig(advantage=name, advantage_std_eps=eps)
            assert (grpo.advantages(rewards_PG, config)[1:] == 0).all()
    # 0.1 * 3 / 3 is not 0.1 in float32: rounding must not pass for a signal.
    equal = jnp.full((1, 3), 0.1)
    assert (grpo.advantages(equal, grpo.GRPOConfig(group_size=3)) == 0).all()


def test_kl_estimators():
    rng = np.random.default_rng(1)
    pi, ref = (np.log(rng.dirichlet(np.ones(6))) for _ in range(2))
    exact = float(np.sum(np.exp(pi) * (pi - ref)))
    means = {}
    for name in ranges(grpo.GRPOConfig)["kl_estimator"].choices:
        found = np.asarray(grpo.kl_terms(jnp.asarray(pi), jnp.asarray(ref), name))
        expected = [numpy_kl(a, b, name) for a, b in zip(pi, ref, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        means[name] = float(np.sum(np.exp(pi) * found))
    # k1 and k3 are unbiased; k2 is not; k3 is never negative.
    assert means["k1"] == pytest.approx(exact, rel=1e-5)
    assert means["k3"] == pytest.approx(exact, rel=1e-5)
    assert abs(means["k2"] - exact) > 1e-3
    assert (np.asarray(grpo.kl_terms(jnp.asarray(pi), jnp.asarray(ref), "k3")) >= 0).all()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"group_size": 1}, r"group_size: must be at least 2"),
        ({"advantage": "gae"}, r"advantage: must be one of .*rloo.*'gae'"),
        ({"kl_estimator": "k4"}, r"kl_estimator: .*k3"),
        ({"clip_epsilon": 1.0}, r"clip_epsilon: "),
        ({"clip_high": 0.0}, r"clip_high: "),
        ({"kl_coef": -0.1}, r"kl_coef: "),
        ({"kl_coef": float("nan")}, r"kl_coef: "),
        ({"micro_batches": 0}, r"micro_batches: "),
        ({"length_norm": "constant"}, r"length_constant: "),
        ({"length_constant": 5}, r"length_constant: "),
        ({"length_norm": "constant", "length_constant": 0}, r"length_constant: "),
        ({"old_logprobs": "trainer", "inner_epochs": 2}, r"old_logprobs: .*inner_epochs"),
        ({"advantage": "rloo", "advantage_std": "sample"}, r"^advantage_std: .*'rloo', got"),
        ({"advantage": "dr_grpo", "advantage_std_eps": 0.0}, r"^advantage_std_eps: .*'dr_grpo'"),
    ],
)
def test_impossible_choices_name_the_field(fields, match):
    with pytest.raises(ValueError, match=match):
        grpo.GRPOConfig(**fields)


# ---- the whole update on a decoder ----


@jax.jit
def all_log_probs(params, ids_1T, segment_ids_1T):
    """log pi of the whole vocabulary after each token of one row, [T, V]."""
    positions_1T = jnp.arange(ids_1T.shape[1])[None]
    hidden, _ = transformer.apply(TINY, params, ids_1T, positions_1T, segment_ids_1T)
    return jax.nn.log_softmax(heads.logits(TINY, params, hidden))[0]


def naive_log_probs(params, row, length=20):
    """log pi of the whole vocabulary before each generated token, [U, V]; one row, full logits."""
    ids = [*row.prompt_ids, *row.completion_ids]
    padding = [0] * (length - len(ids))
    log_probs = all_log_probs(
        params, jnp.asarray([ids + padding]), jnp.asarray([[1] * len(ids) + padding])
    )
    return log_probs[len(row.prompt_ids) - 1 : len(ids) - 1]


def naive_logprobs(params, rows):
    """log pi of the generated tokens of all rows, flat."""
    return jnp.concatenate(
        [
            jnp.take_along_axis(
                naive_log_probs(params, row), jnp.asarray(row.completion_ids)[:, None], axis=1
            )[:, 0]
            for row in rows
        ]
    )


def by_row(flat, rows):
    ends = np.cumsum([len(row.completion_ids) for row in rows])
    return [piece.tolist() for piece in np.split(np.asarray(flat, np.float64), ends[:-1])]


def make_rollouts(seed=0, groups=3, length=20):
    """Groups with prompts of 3 to 9 tokens and completions of 1 to 7."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        prompt = rng.integers(1, TINY.vocab_size, size=3 + 3 * (group % 3)).tolist()
        for sample in range(4):
            count = int(rng.integers(1, 8))
            rows.append(
                Rollout(
                    prompt_ids=prompt,
                    completion_ids=rng.integers(1, TINY.vocab_size, size=count).tolist(),
                    logprobs=rng.normal(-3.0, 0.5, size=count).tolist(),
                    reward=1.0 if (sample + group) % (2 + group) == 0 else -1.0,
                    hit_length_limit=sample == 3,
                    unparsed=sample == 2 and group == 0,
                )
            )
    assert length >= 16
    return rows


@pytest.fixture(scope="module")
def world():
    """Policy, reference, and rollouts whose recorded log-probs are near those of the policy."""
    init = jax.jit(lambda key: transformer.init(TINY, key))
    params, noise = init(jax.random.key(0)), init(jax.random.key(1))
    ref_params = jax.tree.map(lambda a, b: a + 0.2 * b, params, noise)
    rows = make_rollouts()
    flat, vjp = jax.vjp(lambda p: naive_logprobs(p, rows), params)
    sampled = by_row(flat + 0.2 * jax.random.normal(jax.random.key(2), flat.shape), rows)
    rows = [row._replace(logprobs=old) for row, old in zip(rows, sampled, strict=True)]
    ref = naive_logprobs(ref_params, rows)
    return params, ref_params, rows, flat, ref, vjp


def test_naive_rows_do_not_need_their_padding(world):
    row = world[2][0]
    total = len(row.prompt_ids) + len(row.completion_ids)
    short, padded = (naive_log_probs(world[0], row, length) for length in (total, 20))
    np.testing.assert_allclose(short, padded, atol=1e-5)


def update(world, config, rows=None, **shape):
    """Loss, gradient (a step of plain gradient descent shows it) and metrics."""
    params, ref_params, own_rows, *_ = world
    shape = {"group_size": 4, "length": 20, "completion_length": 8, **shape}
    batch = rows if isinstance(rows, RolloutBatch) else make_batch(rows or own_rows, **shape)
    state = create_state(jax.tree.map(jnp.copy, params), DESCENT, jax.random.key(0))
    new, metrics = update_step(config)(state, ref_params, batch)
    return jax.tree.map(lambda a, b: a - b, params, new.params), jax.device_get(metrics)


def assert_close(a, b, atol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0)


@pytest.mark.parametrize("case", ["paper", "mixed", "mixed_reward"])
def test_update_gradient_equals_numpy(world, case):
    config = config_of(case, micro_batches=2 if case == "mixed" else 1)
    _, _, rows, flat, ref, vjp = world
    rewards = [row.reward for row in rows]
    sampler = [list(map(float, np.float32(row.logprobs))) for row in rows]

    def reference(at):
        return numpy_loss(
            config, by_row(at, rows), sampler, by_row(ref, rows), rewards, by_row(flat, rows)
        )

    at = np.asarray(flat, np.float64)
    (expected,) = vjp(jnp.asarray(differences(reference, at), jnp.float32))
    grads, metrics = update(world, config, num_groups=4 if case == "mixed" else 3)
    assert metrics["loss"] == pytest.approx(reference(at), abs=2e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    assert largest > 1e-2
    assert_close(grads, expected, atol=1e-5 * max(largest, 1.0))
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(expected)), rel=1e-4)


def test_metrics_equal_numpy(world):
    config = config_of("paper")
    params, _, rows, flat, ref, _ = world
    _, metrics = update(world, config)
    new, ref = np.asarray(flat, np.float64), np.asarray(ref, np.float64)
    old = np.concatenate([np.float32(row.logprobs) for row in rows]).astype(np.float64)
    ratio = np.exp(new - old)
    rewards = np.array([row.reward for row in rows]).reshape(-1, 4)
    advantage = np.repeat(
        (rewards - rewards.mean(1, keepdims=True)).reshape(-1),
        [len(row.completion_ids) for row in rows],
    )
    clipped = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
    log_probs = np.concatenate([naive_log_probs(params, row) for row in rows])
    entropies = -np.sum(np.exp(log_probs) * log_probs, axis=1)
    expected = {
        "reward_mean": rewards.mean(),
        "zero_signal_share": np.mean([len(set(group)) == 1 for group in rewards.tolist()]),
        "kl": np.mean(np.exp(ref - new) - (ref - new) - 1),
        "entropy": np.mean(entropies),
        "ratio_min": ratio.min(),
        "ratio_p01": np.quantile(ratio, 0.01),
        "ratio_p50": np.quantile(ratio, 0.5),
        "ratio_p99": np.quantile(ratio, 0.99),
        "ratio_max": ratio.max(),
        "clip_share": clipped.mean(),
        "logprob_gap_mean": np.abs(new - old).mean(),
        "logprob_gap_max": np.abs(new - old).max(),
        "truncation_share": 3 / 12,
        "parse_failure_share": 1 / 12,
        "prompt_tokens": sum(len(row.prompt_ids) for row in rows),
        "completion_tokens": new.size,
        "completion_length": new.size / 12,
    }
    assert 0 < expected["clip_share"] < 1
    assert set(metrics) == {*expected, "loss", "grad_norm", "update_norm"}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_temperature_is_that_of_policy_and_reference(world, pieces):
    params, ref_params, rows, *_ = world
    batch_of = functools.partial(make_batch, group_size=4, length=20, completion_length=8)

    def tempered(params):
        full = jnp.concatenate([naive_log_probs(params, row) for row in rows])
        full = jax.nn.log_softmax(full / 1.5)
        ids = jnp.concatenate([jnp.asarray(row.completion_ids) for row in rows])
        return full, jnp.take_along_axis(full, ids[:, None], axis=1)[:, 0]

    full, new = map(np.asarray, tempered(params))
    d = np.asarray(tempered(ref_params)[1]) - new
    sampled = [row._replace(logprobs=own) for row, own in zip(rows, by_row(new, rows), strict=True)]
    step = grpo.make_update_step(TINY, config_of("paper", micro_batches=pieces), DESCENT, 1.5)
    state = create_state(jax.tree.map(jnp.copy, params), DESCENT, jax.random.key(0))
    _, metrics = step(state, ref_params, batch_of(sampled))
    assert metrics["logprob_gap_max"] < 1e-4
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["kl"] == pytest.approx(np.mean(np.exp(d) - d - 1), rel=1e-3)
    assert metrics["entropy"] == pytest.approx(-np.sum(np.exp(full) * full, 1).mean(), rel=1e-4)


def test_micro_batches_equal_the_whole_batch(world):
    whole = update(world, config_of("paper"))
    parts = update(world, config_of("paper", micro_batches=4))
    assert_close(parts[0], whole[0], atol=1e-6)
    for name, value in whole[1].items():
        assert parts[1][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_rows_of_absent_groups_may_hold_anything(world):
    config = config_of("mixed", micro_batches=2)
    shape = {"group_size": 4, "length": 20, "completion_length": 8}
    batch = make_batch(world[2], **shape, num_groups=4)
    rubbish = make_batch(make_rollouts(seed=5, groups=4), **shape)
    rubbish = jax.tree.map(lambda x, y: np.concatenate([x[:12], y[12:]]), batch, rubbish)
    rubbish = rubbish._replace(weights_B=batch.weights_B)
    rubbish.logprobs_BU[12:] = -200.0
    grads, metrics = update(world, config, batch)
    padded_grads, padded_metrics = update(world, config, rubbish)
    assert_close(padded_grads, grads, atol=1e-6)
    for name, value in metrics.items():
        assert padded_metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert metrics["completion_tokens"] == sum(len(row.completion_ids) for row in world[2])


def test_groups_without_signal_feel_only_the_kl_term(world):
    rows = world[2]
    solved = [row._replace(reward=1.0) for row in rows]
    failed = [row._replace(reward=-1.0) for row in rows]
    config = config_of("paper")
    with_kl, metrics = update(world, config, solved)
    assert metrics["zero_signal_share"] == 1.0
    assert metrics["grad_norm"] > 1e-3
    assert_close(update(world, config, failed)[0], with_kl, atol=0)
    # The KL of a policy to itself is at its minimum.
    own = (world[0], world[0], *world[2:])
    at_reference, metrics = update(own, config, solved)
    assert metrics["kl"] == 0.0
    assert_close(at_reference, jax.tree.map(jnp.zeros_like, with_kl), atol=1e-6)


def test_updates_compile_once_transfer_nothing_and_raise_the_objective(world, compilation_counter):
    config = config_of("paper", micro_batches=2, kl_coef=0.01)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3, steps=9, schedule="constant"))
    params, ref_params, rows, flat, *_ = world
    rows = [row._replace(logprobs=old) for row, old in zip(rows, by_row(flat, rows), strict=True)]
    shape = {"group_size": 4, "length": 20, "completion_length": 8}
    batch = jax.device_put(make_batch(rows, **shape))
    state = create_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0))
    ref_params = jax.tree.map(jnp.copy, ref_params)
    step = grpo.make_update_step(TINY, config, optimizer)
    history = []
    with compilation_counter() as compiled:
        for i in range(6):
            before = state
            with jax.transfer_guard("disallow" if i else "allow"):
                state, metrics = step(before, ref_params, batch)
            history.append(jax.device_get(metrics))
            assert all(x.is_deleted() for x in jax.tree.leaves(before.params))
        step(state, ref_params, jax.device_put(make_batch(make_rollouts(seed=1), **shape)))
    assert compiled.count("grpo_update") == 1
    assert not any(x.is_deleted() for x in jax.tree.leaves(ref_params))
    # The first update is on policy to rounding; later epochs leave it, and the gap shows it.
    assert history[0]["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert history[0]["logprob_gap_max"] < 1e-4 < history[1]["logprob_gap_mean"]
    assert history[0]["clip_share"] == 0 < history[-1]["clip_share"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.05


def test_rows_that_do_not_divide_name_the_field(world):
    with pytest.raises(ValueError, match=r"grpo\.micro_batches \(5\).*12 rows"):
        update(world, config_of("paper", micro_batches=5))
