"""Metrics of a GRPO update, over the active rows of the global batch.

Letters: P prompts, G samples of a group, B = P G rows, U tokens of a completion.
"""

import jax
import jax.numpy as jnp

from grm_jax.learning.rollouts import RolloutBatch

RATIO_QUANTILES = {"min": 0.0, "p01": 0.01, "p50": 0.5, "p99": 0.99, "max": 1.0}


def has_signal(rewards_PG: jax.Array) -> jax.Array:
    """Whether the rewards of a group differ, [P]; without a difference nothing is learnt."""
    return jnp.max(rewards_PG, axis=1) > jnp.min(rewards_PG, axis=1)


def summary(
    batch: RolloutBatch,
    group_size: int,
    mask_BU: jax.Array,
    ratio_BU: jax.Array,
    gap_BU: jax.Array,
    **by_token: jax.Array,
) -> dict[str, jax.Array]:
    """Float32 scalars by name.

    reward_mean; zero_signal_share: groups whose rewards are all equal; kl: token mean by the
    configured estimator; entropy: token mean in nats; clip_share: tokens whose gradient the clip
    removes; ratio_{min,p01,p50,p99,max}: over tokens; logprob_gap_{mean,max}: absolute difference
    of the trainer's and the sampler's log-probs over tokens (on a second epoch it contains the
    first update); truncation_share: rows that hit the length limit; parse_failure_share: of rows;
    prompt_tokens, completion_tokens, completion_length.

    Args:
      batch: the rollouts.
      group_size: G.
      mask_BU: 1 on generated tokens of active rows.
      ratio_BU: pi / pi_old.
      gap_BU: log-probs of the trainer less those of the sampler.
      by_token: kl, entropy and clip_share of each token, [B, U].
    """
    weights_B, tokens = batch.weights_B, jnp.sum(mask_BU)
    signal_P = has_signal(batch.rewards_B.reshape(-1, group_size))
    gap_BU = jnp.abs(gap_BU) * mask_BU

    def mean(values, weights):
        return jnp.sum(jnp.where(weights > 0, values, 0.0)) / jnp.maximum(jnp.sum(weights), 1.0)

    return {
        **{name: mean(values_BU, mask_BU) for name, values_BU in by_token.items()},
        **_ratio_quantiles(ratio_BU, mask_BU),
        "reward_mean": mean(batch.rewards_B, weights_B),
        "zero_signal_share": mean(1.0 - signal_P, weights_B.reshape(-1, group_size)[:, 0]),
        "logprob_gap_mean": mean(gap_BU, mask_BU),
        "logprob_gap_max": jnp.max(gap_BU),
        # The name in metrics.jsonl from before completions "hit the length limit".
        "truncation_share": mean(batch.hit_length_limit_B, weights_B),
        "parse_failure_share": mean(batch.unparsed_B, weights_B),
        "prompt_tokens": jnp.sum(batch.prompt_lengths_B * weights_B),
        "completion_tokens": tokens,
        "completion_length": tokens / jnp.maximum(jnp.sum(weights_B), 1.0),
    }


def _ratio_quantiles(ratio_BU, mask_BU):
    """Quantiles, linearly interpolated, of the ratios whose mask is set."""
    ordered = jnp.sort(jnp.where(mask_BU > 0, ratio_BU, jnp.inf).reshape(-1))
    last = jnp.maximum(jnp.sum(mask_BU > 0), 1) - 1

    def quantile(q):
        place = q * last.astype(jnp.float32)
        below = jnp.floor(place).astype(jnp.int32)
        low, high = ordered[below], ordered[jnp.minimum(below + 1, last)]
        return low + (place - below) * (high - low)

    return {f"ratio_{name}": quantile(q) for name, q in RATIO_QUANTILES.items()}
