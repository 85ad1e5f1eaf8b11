"""Heads on the hidden states: token log-probs and scalar rewards.

Letters: B batch, T tokens, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp

from grm_jax.models.attention import softcap
from grm_jax.models.config import ModelConfig
from grm_jax.parallel import sharding


def logits(config: ModelConfig, params: dict, hidden: jax.Array) -> jax.Array:
    """Output logits [..., V] in float32 for hidden states [..., D]."""
    return _logits(config, _output(config, params, hidden.dtype), hidden)


def _output(config, params, dtype):
    return params["embedding" if config.tied_embeddings else "lm_head"].astype(dtype)


def _logits(config, output_VD, hidden):
    with jax.named_scope("logits"):
        # Rows are merged for the reason that `layers.product` gives.
        rows_ND = hidden.reshape(-1, hidden.shape[-1])
        out = jnp.einsum("nd,vd->nv", rows_ND, output_VD, preferred_element_type=jnp.float32)
        out = out.reshape(*hidden.shape[:-1], -1)
    names = ("batch", *(None,) * (out.ndim - 2), "vocab")
    out = sharding.constrain(config.compute.rules, out, names, "logits")
    return softcap(out, config.final_softcap)


def token_logprobs(
    config: ModelConfig,
    params: dict,
    hidden_BTD: jax.Array,
    targets_BT: jax.Array,
    *,
    chunk: int = 2048,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Log-prob of each target and entropy of each prediction, without [B, T, V] in memory.

    Positions are handled a few at a time under remat, so that neither the forward nor the backward
    pass of a device holds logits of more than about `chunk` tokens. The batch axis stays whole,
    because it is the one that is sharded.

    Args:
      config: shape of the model.
      params: decoder parameters, for the output matrix.
      hidden_BTD: hidden states after the final norm; position t predicts `targets_BT[:, t]`.
      targets_BT: int32 token ids.
      chunk: tokens of the batch on one device per step of the scan; at least one position of each
        row.
      temperature: pi is softmax(logits / temperature).

    Returns:
      log pi(target) and the entropy in nats, both [B, T] float32.
    """
    batch, length, _ = hidden_BTD.shape
    size = min(length, max(1, chunk * sharding.parts(config.compute.rules, "batch") // batch))
    count = -(-length // size)

    def cut(x):
        padding = [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2)
        pieces = jnp.pad(x, padding).reshape(batch, count, size, *x.shape[2:])
        return jnp.moveaxis(pieces, 1, 0)

    # Gathered here, or each step of the scan would gather it.
    output_VD = sharding.constrain(
        config.compute.rules, _output(config, params, hidden_BTD.dtype), ("vocab", None), "output"
    )

    def step(_, piece):
        hidden_BtD, targets_Bt = piece
        logits_BtV = _logits(config, output_VD, hidden_BtD) / temperature
        return None, _logprobs_and_entropy(logits_BtV, targets_Bt)

    if count > 1:  # the logits of a single piece are all there are, so computing them twice is vain
        step = jax.checkpoint(step)
    _, pieces = jax.lax.scan(step, None, (cut(hidden_BTD), cut(targets_BT)))
    logprobs_BT, entropy_BT = (
        jnp.moveaxis(x, 0, 1).reshape(batch, count * size)[:, :length] for x in pieces
    )
    return logprobs_BT, entropy_BT


@jax.custom_vjp
def _logprobs_and_entropy(logits_BtV, targets_Bt):
    """Log-probs of the targets and entropies, [B, t] each."""
    return _logprobs_forward(logits_BtV, targets_Bt)[0]


def _logprobs_forward(logits_BtV, targets_Bt):
    log_norm_Bt = jax.nn.logsumexp(logits_BtV, axis=-1)
    picked_Bt = jnp.take_along_axis(logits_BtV, targets_Bt[..., None], axis=-1)[..., 0]
    probs_BtV = jnp.exp(logits_BtV - log_norm_Bt[..., None])
    mean_Bt = jnp.sum(probs_BtV * logits_BtV, axis=-1)
    out = picked_Bt - log_norm_Bt, log_norm_Bt - mean_Bt
    return out, (logits_BtV, targets_Bt, log_norm_Bt, mean_Bt)


def _logprobs_backward(kept, grads):
    """In closed form, with p = softmax(logits): one pass over the vocabulary, and no scatter.

    d log p_target / d logit_v = [v = target] - p_v, and
    d entropy / d logit_v = -p_v (logit_v - sum_w p_w logit_w).
    """
    logits_BtV, targets_Bt, log_norm_Bt, mean_Bt = kept
    of_logprob_Bt1, of_entropy_Bt1 = (grad[..., None] for grad in grads)
    probs_BtV = jnp.exp(logits_BtV - log_norm_Bt[..., None])
    words_11V = jnp.arange(logits_BtV.shape[-1], dtype=targets_Bt.dtype)[None, None, :]
    hit_BtV = words_11V == targets_Bt[..., None]
    slope_BtV = of_logprob_Bt1 + of_entropy_Bt1 * (logits_BtV - mean_Bt[..., None])
    return jnp.where(hit_BtV, of_logprob_Bt1, 0.0) - probs_BtV * slope_BtV, None


_logprobs_and_entropy.defvjp(_logprobs_forward, _logprobs_backward)


def scalar_init(config: ModelConfig, key: jax.Array) -> dict:
    """Parameters of a linear head without bias: {"kernel": [D]}; float32 if adapters are."""
    scale = config.embed_dim**-0.5
    kernel_D = scale * jax.random.normal(key, (config.embed_dim,), jnp.float32)
    # It is trained together with adapters, and param_dtype is the type of a frozen base.
    dtype = config.compute.param_dtype if config.lora is None else jnp.float32
    return {"kernel": kernel_D.astype(dtype)}


def scalar_apply(head_params: dict, hidden_BD: jax.Array) -> jax.Array:
    """One unbounded float32 logit per hidden state: [B, D] -> [B]."""
    kernel_D = head_params["kernel"].astype(jnp.float32)
    return jnp.einsum("bd,d->b", hidden_BD.astype(jnp.float32), kernel_D)
