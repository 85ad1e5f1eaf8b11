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
        out = jnp.einsum("...d,vd->...v", hidden, output_VD, preferred_element_type=jnp.float32)
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

    @jax.checkpoint
    def step(_, piece):
        hidden_BtD, targets_Bt = piece
        logits_BtV = _logits(config, output_VD, hidden_BtD) / temperature
        log_norm_Bt = jax.nn.logsumexp(logits_BtV, axis=-1)
        picked_Bt = jnp.take_along_axis(logits_BtV, targets_Bt[..., None], axis=-1)[..., 0]
        probs_BtV = jnp.exp(logits_BtV - log_norm_Bt[..., None])
        entropy_Bt = log_norm_Bt - jnp.sum(probs_BtV * logits_BtV, axis=-1)
        return None, (picked_Bt - log_norm_Bt, entropy_Bt)

    _, pieces = jax.lax.scan(step, None, (cut(hidden_BTD), cut(targets_BT)))
    logprobs_BT, entropy_BT = (
        jnp.moveaxis(x, 0, 1).reshape(batch, count * size)[:, :length] for x in pieces
    )
    return logprobs_BT, entropy_BT


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
