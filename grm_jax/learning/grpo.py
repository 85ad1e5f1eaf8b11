"""Group relative policy optimisation with rule-based rewards (paper section 2.4 here, Eq. 11, 15).

One iteration is two jitted programs, the rollout and the update below, with nothing but text
scoring between them on the host. The objective, maximised over a rollout of P prompts x G samples:

    J = 1/(P G) sum_i 1/|o_i| sum_t { min[ rho A_i, clip(rho, 1 - eps, 1 + eps) A_i ] - beta KL }
    rho = pi(o_it) / pi_old(o_it)       A_i = (r_i - mean(r)) / std(r) within the group

Kept from the paper: reward +1 if correct by Eq. 10 and -1 otherwise (`rewards.correct`; no format
reward, an unparsed trajectory is incorrect), G = 4, beta = 0.08, advantages divided by the group's
standard deviation, the mean over the tokens of a sequence first and over sequences second, clipping
on both sides, the KL term inside the loss.

Changed: nothing by default. `dr_grpo`, `rloo`, sequence ratios, the other normalisers and
estimators are options on the same loss core, each a function in one of the dictionaries
`ADVANTAGES`, `RATIOS`, `LENGTH_NORMS` and `KL_ESTIMATORS`: to add one, write it and name it there.

Left open by the paper, decided here, each a field of `GRPOConfig`:
- eps = 0.2 and one update per rollout, as in the work that introduced GRPO (arXiv 2402.03300).
- The KL estimator k3, which is unbiased, never negative, and that work's choice.
- The standard deviation divides by G, so that a group with half its samples right has advantages
  of exactly +-1. Dividing by G - 1 only shrinks every advantage by the same factor.
- A group whose rewards are all equal has advantages of exactly zero. It still feels the KL term
  and it counts in the mean, so that a batch of solved prompts is not blown up.
- pi_old is read from the sampler, as the formula says: the ratio then corrects for the policy
  that was sampled, also on the second epoch and when sampler and trainer disagree (low
  precision, another kernel). "trainer" instead puts the ratio at exactly 1, which hides the
  disagreement; it therefore needs a single epoch.
- The policy is the sampled distribution: at a temperature T, pi, pi_old and pi_ref are
  softmax(logits / T). The experiments refuse a nucleus (top-p below 1): tokens outside of it have
  no gradient.
- The reference policy is an argument; the experiments pass the parameters of RFT. With adapters
  it is their frozen base, which it shares with the policy.
- Trajectories that hit the length limit are trained on like any other; without a closed box
  their reward is -1.

Everything that looks at more than one row (advantages, length normalisers, quantiles) is computed
on the global batch, before or after the scan over micro-batches, never inside it.

Letters: P prompts, G samples of a group, B = P G rows in group order, T tokens of a row, U tokens
of a completion.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from grm_jax.learning import grpo_metrics
from grm_jax.learning.rewards import REWARDS
from grm_jax.learning.rollouts import RolloutBatch
from grm_jax.learning.state import TrainState, gradient_step, join_rows, split_rows
from grm_jax.models import heads, lora, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.ranges import Checked, Count, NonNegative, Positive, Range, at_least, one_of

MAX_LOG_RATIO = 20.0  # float32 overflows at 88, and the square of a gradient at 44

# The choices of the objective are dictionaries of functions; `GRPOConfig` below lists their names.

_STD_DDOF = {"population": 0, "sample": 1}


def _centred(rewards_PG: jax.Array) -> jax.Array:
    return rewards_PG - jnp.mean(rewards_PG, axis=1, keepdims=True)


def _standardised(rewards_PG: jax.Array, config: "GRPOConfig") -> jax.Array:
    ddof = _STD_DDOF[config.advantage_std]
    std_P1 = jnp.std(rewards_PG, axis=1, keepdims=True, ddof=ddof)
    return _centred(rewards_PG) / jnp.maximum(std_P1 + config.advantage_std_eps, 1e-30)


# (rewards [P, G], config) -> [P, G]; groups of equal rewards are set to zero afterwards.
ADVANTAGES = {
    "grpo": _standardised,  # (r - mean) / std (arXiv 2402.03300)
    "dr_grpo": lambda rewards_PG, config: _centred(rewards_PG),  # r - mean (arXiv 2503.20783)
    # r - mean of the others of its group (arXiv 2402.14740)
    "rloo": lambda rewards_PG, config: (
        _centred(rewards_PG) * (config.group_size / (config.group_size - 1))
    ),
}


def _sequence_log_ratio(log_ratio_BU: jax.Array, mask_BU: jax.Array) -> jax.Array:
    """The mean log-ratio of its sequence on every token (arXiv 2507.18071)."""
    lengths_B1 = jnp.maximum(jnp.sum(mask_BU, axis=1, keepdims=True), 1.0)
    mean_B1 = jnp.sum(log_ratio_BU, axis=1, keepdims=True) / lengths_B1
    return jnp.where(mask_BU > 0, jnp.broadcast_to(mean_B1, mask_BU.shape), 0.0)


# (log(pi / pi_old) [B, U], 0 on padding; mask [B, U]) -> the log-ratio that each token carries.
RATIOS = {"token": lambda log_ratio_BU, mask_BU: log_ratio_BU, "sequence": _sequence_log_ratio}

# (completion lengths [B], config, active rows) -> [B], the divisor of the tokens of each row.
LENGTH_NORMS = {
    "sequence": lambda lengths_B, config, rows: jnp.maximum(lengths_B, 1.0) * rows,
    "token": lambda lengths_B, config, rows: jnp.full_like(
        lengths_B, jnp.maximum(jnp.sum(lengths_B), 1.0)
    ),
    "constant": lambda lengths_B, config, rows: jnp.full_like(
        lengths_B, config.length_constant * rows
    ),
}

# d = log pi_ref - log pi -> estimate of KL(pi || pi_ref), elementwise.
KL_ESTIMATORS = {
    "k1": lambda d: -d,
    "k2": lambda d: 0.5 * d * d,
    "k3": lambda d: _bounded_exp(d, jnp.expm1) - d,
}


@dataclasses.dataclass(frozen=True)
class GRPOConfig(Checked):
    """The named choices of the objective. Hashable.

    Attributes:
      reward: the rule that rewards a group of trajectories, see `rewards`.
      group_size: G, trajectories of one prompt, at least 2.
      kl_coef: beta, the weight of the KL penalty that keeps the policy near its reference.
      clip_epsilon: eps below 1; above 1 too unless `clip_high` is given.
      clip_high: eps above 1, or None.
      advantage: "grpo" (r - mean) / std; "dr_grpo" r - mean (arXiv 2503.20783); "rloo" r - mean
        of the others (arXiv 2402.14740).
      advantage_std: "population" divides by G, "sample" by G - 1. Only for "grpo".
      advantage_std_eps: added to the standard deviation.
      ratio_level: "token"; or "sequence", where every token carries the geometric mean of the
        ratios of its sequence (arXiv 2507.18071; wants a far smaller eps).
      length_norm: divisor of a token, in addition to the number of sequences: "sequence" is the
        length |o_i| (the paper); "token" the mean length, so that all tokens of the batch weigh
        the same; "constant" `length_constant`.
      length_constant: divisor of "constant", usually the longest completion.
      kl_estimator: with d = log pi_ref - log pi: "k1" -d, "k2" d^2 / 2, "k3" exp(d) - d - 1.
      kl_place: "loss" as in Eq. 15; "reward" subtracts it from the rewards before the advantages,
        at pi_old, under the same length normaliser so that beta keeps its meaning. k1 inside the
        loss has an expected gradient of zero on fresh samples: it belongs in the reward.
      old_logprobs: where log pi_old comes from: "sampler", or "trainer" (the ratio is then 1).
      inner_epochs: updates on one rollout; the caller runs the update that many times.
      micro_batches: pieces that the update splits a batch into; bounds memory, never the result.
    """

    reward: Annotated[str, one_of(tuple(REWARDS))] = "correct"
    group_size: Annotated[int, at_least(2)] = 4
    kl_coef: NonNegative = 0.08
    clip_epsilon: Annotated[float, Range("in (0, 1)", lambda eps: 0 < eps < 1)] = 0.2
    clip_high: Positive | None = None
    advantage: Annotated[str, one_of(tuple(ADVANTAGES))] = "grpo"
    advantage_std: Annotated[str, one_of(tuple(_STD_DDOF))] = "population"
    advantage_std_eps: NonNegative = 1e-6
    ratio_level: Annotated[str, one_of(tuple(RATIOS))] = "token"
    length_norm: Annotated[str, one_of(tuple(LENGTH_NORMS))] = "sequence"
    length_constant: Count | None = None
    kl_estimator: Annotated[str, one_of(tuple(KL_ESTIMATORS))] = "k3"
    kl_place: Annotated[str, one_of(("loss", "reward"))] = "loss"
    old_logprobs: Annotated[str, one_of(("sampler", "trainer"))] = "sampler"
    inner_epochs: Count = 1
    micro_batches: Count = 1

    def __post_init__(self):
        super().__post_init__()
        given = (self.length_norm == "constant") == (self.length_constant is not None)
        self.demand("length_constant", given, "given exactly when length_norm is 'constant'")
        for field in ("advantage_std", "advantage_std_eps"):
            unused = self.advantage != "grpo" and getattr(self, field) != getattr(GRPOConfig, field)
            self.demand(field, not unused, f"left out with advantage = {self.advantage!r}")
        # "trainer" takes the policy before the update as the old one.
        once = self.old_logprobs == "sampler" or self.inner_epochs == 1
        self.demand("old_logprobs", once, f"'sampler' with inner_epochs = {self.inner_epochs}")


def advantages(rewards_PG: jax.Array, config: GRPOConfig) -> jax.Array:
    """Advantage of each sample within its group, [P, G]; zeros where all rewards are equal."""
    value_PG = ADVANTAGES[config.advantage](rewards_PG, config)
    return jnp.where(grpo_metrics.has_signal(rewards_PG)[:, None], value_PG, 0.0)


def kl_terms(logprobs: jax.Array, ref_logprobs: jax.Array, estimator: str) -> jax.Array:
    """Per-token estimate of KL(pi || pi_ref) from samples of pi, elementwise."""
    return KL_ESTIMATORS[estimator](ref_logprobs - logprobs)


def _bounded_exp(log_ratio: jax.Array, exp: Callable) -> jax.Array:
    """exp or expm1, above `MAX_LOG_RATIO` along its tangent: finite, and so is its gradient."""
    excess = jnp.maximum(log_ratio - MAX_LOG_RATIO, 0.0)
    return exp(jnp.minimum(log_ratio, MAX_LOG_RATIO)) + math.exp(MAX_LOG_RATIO) * excess


def row_scales(config: GRPOConfig, mask_BU: jax.Array, weights_B: jax.Array) -> jax.Array:
    """The factor of each token of a row in the loss, [B]; needs the global batch."""
    rows = jnp.maximum(jnp.sum(weights_B), 1.0)
    return weights_B / LENGTH_NORMS[config.length_norm](jnp.sum(mask_BU, axis=1), config, rows)


def ratios(config: GRPOConfig, logprobs_BU, old_BU, mask_BU) -> jax.Array:
    """pi / pi_old of each token, or of its sequence; 1 on padding."""
    log_ratio_BU = jnp.where(mask_BU > 0, logprobs_BU - old_BU, 0.0)
    return _bounded_exp(RATIOS[config.ratio_level](log_ratio_BU, mask_BU), jnp.exp)


def _clip_range(config: GRPOConfig) -> tuple[float, float]:
    high = config.clip_epsilon if config.clip_high is None else config.clip_high
    return 1.0 - config.clip_epsilon, 1.0 + high


def policy_loss(
    config: GRPOConfig, logprobs_BU, old_BU, ref_BU, mask_BU, advantages_B, scales_B
) -> jax.Array:
    """The loss core: minus the objective, a sum over rows, so that micro-batches add up.

    Args:
      config: the objective.
      logprobs_BU: log pi of the targets, the only differentiable argument.
      old_BU: log pi_old.
      ref_BU: log pi_ref.
      mask_BU: 1 on generated tokens of active rows.
      advantages_B: see `advantages`.
      scales_B: see `row_scales`.
    """
    advantages_B1 = advantages_B[:, None]
    ratio_BU = ratios(config, logprobs_BU, old_BU, mask_BU)
    clipped_BU = jnp.clip(ratio_BU, *_clip_range(config))
    value_BU = jnp.minimum(ratio_BU * advantages_B1, clipped_BU * advantages_B1)
    if config.kl_place == "loss":
        value_BU -= config.kl_coef * kl_terms(logprobs_BU, ref_BU, config.kl_estimator)
    return -jnp.sum(scales_B[:, None] * jnp.where(mask_BU > 0, value_BU, 0.0))


def completion_logprobs(
    model_config: ModelConfig, params: dict, batch: RolloutBatch, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """log pi of the generated tokens and the entropy of their predictions, both [B, U].

    The output layer runs on completions only; prompts never meet the vocabulary.
    """
    hidden_BTD, _ = transformer.apply(
        model_config, params, batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT
    )
    offsets_1U = jnp.arange(batch.completion_BU.shape[1])[None, :]
    # The token before a target predicts it. Offsets past the row belong to padding.
    places_BU = jnp.minimum(
        batch.prompt_lengths_B[:, None] - 1 + offsets_1U, batch.tokens_BT.shape[1] - 1
    )
    hidden_BUD = jnp.take_along_axis(hidden_BTD, places_BU[:, :, None], axis=1)
    return heads.token_logprobs(
        model_config, params, hidden_BUD, batch.completion_BU, temperature=temperature
    )


def make_update_step(
    model_config: ModelConfig,
    config: GRPOConfig,
    optimizer: optax.GradientTransformation,
    temperature: float = 1.0,
) -> Callable[[TrainState, dict, RolloutBatch], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted update; `temperature` is that of the rollouts.

    Returns:
      (state, ref_params, batch) -> (state, metrics). The state is donated. Reference log-probs
      are computed inside. With `model_config.lora` the state holds adapters and `ref_params` is
      their base: the reference is the base alone, the policy the base with the adapters. Metrics:
      those of `grpo_metrics.summary`; loss; grad_norm before clipping, update_norm.
    """
    return _update_step(model_config, config, optimizer.update, temperature)


@functools.lru_cache
def _update_step(model_config, config, update, temperature):
    pieces = config.micro_batches
    logprobs_of = functools.partial(completion_logprobs, temperature=temperature)
    reference_config = lora.strip(model_config)

    def grpo_update(state: TrainState, ref_params: dict, batch: RolloutBatch):
        rows = batch.rewards_B.shape[0]
        for name in ("group_size", "micro_batches"):
            if rows % getattr(config, name):
                raise ValueError(
                    f"grpo.{name} ({getattr(config, name)}) must divide the {rows} rows of a batch"
                )
        mask_BU = batch.completion_mask_BU * batch.weights_B[:, None]

        # All that needs the reference or the whole batch comes before the split.
        ref_BU = _reference_logprobs(logprobs_of, reference_config, ref_params, batch, pieces)
        scales_B = row_scales(config, mask_BU, batch.weights_B)
        shaped_B = batch.rewards_B
        if config.kl_place == "reward":
            kl_BU = kl_terms(batch.logprobs_BU, ref_BU, config.kl_estimator) * mask_BU
            per_row_B = jnp.sum(kl_BU, axis=1) * scales_B * jnp.sum(batch.weights_B)
            shaped_B = shaped_B - config.kl_coef * per_row_B
        advantages_PG = advantages(shaped_B.reshape(-1, config.group_size), config)

        base = {} if model_config.lora is None else ref_params

        def loss_fn(params, piece):
            part, ref_bU, advantages_b, scales_b, mask_bU, rows_b = piece
            policy = lora.join(base, params)
            logprobs_bU, entropy_bU = logprobs_of(model_config, policy, part)
            fixed_bU = jax.lax.stop_gradient(logprobs_bU)
            old_bU = part.logprobs_BU if config.old_logprobs == "sampler" else fixed_bU
            loss = policy_loss(config, logprobs_bU, old_bU, ref_bU, mask_bU, advantages_b, scales_b)
            # Sums over micro-batches put every row in its place of the global array.
            empty_BU = jnp.zeros(mask_BU.shape, jnp.float32)
            return loss, {
                "logprobs": empty_BU.at[rows_b].set(fixed_bU),
                "entropy": empty_BU.at[rows_b].set(jax.lax.stop_gradient(entropy_bU)),
            }

        inputs = (batch, ref_BU, advantages_PG.reshape(-1), scales_B, mask_BU, jnp.arange(rows))
        state, metrics = gradient_step(
            state, update, loss_fn, inputs, pieces,
            functools.partial(transformer.constrain_params, model_config),
        )  # fmt: skip
        logprobs_BU, entropy_BU = metrics.pop("logprobs"), metrics.pop("entropy")
        old_BU = batch.logprobs_BU if config.old_logprobs == "sampler" else logprobs_BU
        ratio_BU = ratios(config, logprobs_BU, old_BU, mask_BU)
        low, high = _clip_range(config)
        advantages_B1 = advantages_PG.reshape(-1, 1)
        above_BU = (ratio_BU > high) & (advantages_B1 > 0)
        below_BU = (ratio_BU < low) & (advantages_B1 < 0)
        metrics |= grpo_metrics.summary(
            batch, config.group_size, mask_BU, ratio_BU, logprobs_BU - batch.logprobs_BU,
            kl=kl_terms(logprobs_BU, ref_BU, config.kl_estimator), entropy=entropy_BU,
            clip_share=above_BU | below_BU,
        )  # fmt: skip
        return state, metrics

    return jax.jit(grpo_update, donate_argnums=0)


def _reference_logprobs(logprobs_of, model_config, ref_params, batch, pieces):
    if pieces == 1:
        return logprobs_of(model_config, ref_params, batch)[0]
    split = jax.tree.map(functools.partial(split_rows, pieces=pieces), batch)
    ref = jax.lax.map(lambda part: logprobs_of(model_config, ref_params, part)[0], split)
    return join_rows(ref)
