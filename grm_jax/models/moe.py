"""Mixture of experts: routing, and the feed-forward layers of many experts on sorted tokens.

Every token reaches all of its experts: nothing is dropped and no capacity is set. Two paths give
the same result:

- "blocks": plain XLA. Tokens are sorted by expert and cut into blocks that one expert owns; a
  loop multiplies one block at a time. `lax.ragged_dot` would compute every expert for every token
  on CPU and GPU.
- "megablox": the grouped matrix product of Pallas on TPU. There too `ragged_dot` is dense, in the
  gradient of the weights.

"auto" is decided by the platform that a program is lowered for, not by the default backend, so
that programs compiled ahead of time are right as well.

Letters: N tokens, A experts of a token, X experts, D width, F width of an expert, M rows sorted by
expert, Z blocks of W rows.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from grm_jax.models.config import ModelConfig, MoEConfig
from grm_jax.models.layers import ACTIVATIONS, FeedForward, constrain, parameter
from grm_jax.parallel import sharding
from grm_jax.parallel.mesh import RULES, Rules

_TILE = 128  # rows, and multiples of what megablox handles


def route(
    moe: MoEConfig, logits_NX: jax.Array, bias_X: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Chooses experts (DeepSeek-V2, equations 20 to 22; DeepSeek-V3, equations 12 to 16).

    Args:
      moe: the rules.
      logits_NX: float32 router logits.
      bias_X: float32, added to scores for the choice only, or None.

    Returns:
      ids_NA int32 and weights_NA float32, best first.
    """
    sigmoid = moe.scoring == "sigmoid"
    scores_NX = jax.nn.sigmoid(logits_NX) if sigmoid else jax.nn.softmax(logits_NX, axis=-1)
    choice_NX = scores_NX if bias_X is None else scores_NX + bias_X[None, :]
    if moe.num_groups > 1:
        by_group = choice_NX.reshape(len(choice_NX), moe.num_groups, -1)
        quality_NG = jnp.sum(jax.lax.top_k(by_group, moe.group_top)[0], axis=-1)
        _, best = jax.lax.top_k(quality_NG, moe.top_groups)
        open_NG = jnp.any(best[:, :, None] == jnp.arange(moe.num_groups)[None, None, :], axis=1)
        choice_NX = jnp.where(open_NG[..., None], by_group, -jnp.inf).reshape(choice_NX.shape)
    _, ids_NA = jax.lax.top_k(choice_NX, moe.experts_per_token)
    weights_NA = jnp.take_along_axis(scores_NX, ids_NA, axis=1)
    if moe.normalize:
        weights_NA /= jnp.sum(weights_NA, axis=1, keepdims=True) + 1e-20
    return ids_NA, weights_NA * moe.routed_scale


def _expert(activation, x_WD, gate_DF, up_DF, down_FD):
    return (ACTIVATIONS[activation](x_WD @ gate_DF) * (x_WD @ up_DF)) @ down_FD


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block_experts(activation, x_ZWD, owner_Z, used, gate_XDF, up_XDF, down_XFD):
    """The owner's feed-forward layer on each of the first `used` blocks; zero on the others."""

    def step(z, out_ZWD):
        weights = (w[owner_Z[z]] for w in (gate_XDF, up_XDF, down_XFD))
        return out_ZWD.at[z].set(_expert(activation, x_ZWD[z], *weights))

    return jax.lax.fori_loop(0, used, step, jnp.zeros_like(x_ZWD))


def _block_experts_fwd(activation, *args):
    return _block_experts(activation, *args), args


def _block_experts_bwd(activation, args, grad_ZWD):
    x_ZWD, owner_Z, used, *weights = args

    def step(z, grads):
        x_grad, *weight_grads = grads
        own_weights = (w[owner_Z[z]] for w in weights)
        _, pull = jax.vjp(functools.partial(_expert, activation), x_ZWD[z], *own_weights)
        x_part, *parts = pull(grad_ZWD[z])
        added = (g.at[owner_Z[z]].add(p.astype(g.dtype))
                 for g, p in zip(weight_grads, parts, strict=True))  # fmt: skip
        return (x_grad.at[z].set(x_part), *added)

    # In float32: an expert's gradient is a sum over its blocks.
    zeros = (jnp.zeros_like(x_ZWD), *(jnp.zeros(w.shape, jnp.float32) for w in weights))
    x_grad, *weight_grads = jax.lax.fori_loop(0, used, step, zeros)
    weight_grads = [g.astype(w.dtype) for g, w in zip(weight_grads, weights, strict=True)]
    return (x_grad, None, None, *weight_grads)


_block_experts.defvjp(_block_experts_fwd, _block_experts_bwd)


def _sorted_rows(ids_NA: jax.Array, num_experts: int, block: int, size: int):
    """Places (token, expert) pairs in rows sorted by expert, each expert at a multiple of `block`.

    Pairs whose id is `num_experts` belong to nobody here; their rows come last.

    Returns:
      row_NA, the row of each pair; token_M, the token of each row, N for an empty one; and the
      end of each expert's rows, [X].
    """
    N, A = ids_NA.shape
    flat = ids_NA.reshape(-1)
    counts_X = jnp.zeros(num_experts + 1, jnp.int32).at[flat].add(1)
    ends_X = jnp.cumsum(-(-counts_X // block) * block)
    starts_X = ends_X - (-(-counts_X // block) * block)
    order = jnp.argsort(flat, stable=True)
    # Rank of a pair among those of its expert: its place in the sorted list minus the first's.
    rank = jnp.arange(N * A, dtype=jnp.int32) - (jnp.cumsum(counts_X) - counts_X)[flat[order]]
    rows = jnp.zeros(N * A, jnp.int32).at[order].set(starts_X[flat[order]] + rank)
    token_M = jnp.full(size, N, jnp.int32).at[rows].set(jnp.arange(N * A, dtype=jnp.int32) // A)
    return rows.reshape(N, A), token_M, ends_X[:-1]


def _with_rows(ids_NA, num_experts, block, x_ND, compute):
    """Gathers tokens into sorted rows, computes, and returns each pair's result, [N, A, D]."""
    N, A = ids_NA.shape
    # Each expert with a token, and nobody, wastes less than a block.
    size = -(-(N * A + min(num_experts + 1, N * A) * (block - 1)) // block) * block
    row_NA, token_M, ends_X = _sorted_rows(ids_NA, num_experts, block, size)
    x_MD = jnp.concatenate([x_ND, jnp.zeros_like(x_ND[:1])])[token_M]
    return compute(x_MD, ends_X)[row_NA]


def _by_blocks(activation, x_ND, ids_NA, gate_XDF, up_XDF, down_XFD):
    num_experts = len(gate_XDF)
    block = 8
    while block < _TILE and block * num_experts < ids_NA.size:
        block *= 2

    def compute(x_MD, ends_X):
        x_ZWD = x_MD.reshape(-1, block, x_MD.shape[-1])
        first_Z = jnp.arange(len(x_ZWD), dtype=jnp.int32) * block
        owner_Z = jnp.searchsorted(ends_X, first_Z, side="right").astype(jnp.int32)
        owner_Z = jnp.minimum(owner_Z, num_experts - 1)
        out_ZWD = _block_experts(
            activation, x_ZWD, owner_Z, ends_X[-1] // block, gate_XDF, up_XDF, down_XFD
        )
        return out_ZWD.reshape(x_MD.shape)

    return _with_rows(ids_NA, num_experts, block, x_ND, compute)


def _by_megablox(activation, x_ND, ids_NA, gate_XDF, up_XDF, down_XFD, *, interpret=False):
    from jax.experimental.pallas.ops.tpu import megablox

    num_experts = len(gate_XDF)

    def compute(x_MD, ends_X):
        rows = -(-len(x_MD) // _TILE) * _TILE
        x_MD = jnp.pad(x_MD, ((0, rows - len(x_MD)), (0, 0)))
        sizes_X = jnp.diff(ends_X, prepend=0)
        # Rows of nobody are not computed and come back uninitialised, in the gradient as well.
        mine_M1 = (jnp.arange(rows, dtype=jnp.int32) < ends_X[-1])[:, None]
        x_MD = jnp.where(mine_M1, x_MD, 0)

        def product(lhs, rhs):
            return megablox.gmm(lhs, rhs, sizes_X, preferred_element_type=lhs.dtype,
                                interpret=interpret)  # fmt: skip

        hidden = ACTIVATIONS[activation](product(x_MD, gate_XDF)) * product(x_MD, up_XDF)
        return jnp.where(mine_M1, product(hidden, down_XFD), 0)

    return _with_rows(ids_NA, num_experts, 1, x_ND, compute)


def _local_experts(activation, path, x_ND, ids_NA, weights_NA, *weights):
    """The weighted sum in float32; ids that no expert has here add nothing."""
    blocks = functools.partial(_by_blocks, activation)
    tiles = functools.partial(_by_megablox, activation)
    if path == "auto" and any(size % _TILE for size in weights[0].shape[1:]):
        path = "blocks"  # megablox works in tiles
    if path == "auto":
        out_NAD = jax.lax.platform_dependent(x_ND, ids_NA, *weights, tpu=tiles, default=blocks)
    else:
        out_NAD = {"blocks": blocks, "megablox": tiles}[path](x_ND, ids_NA, *weights)
    return jnp.einsum("nad,na->nd", out_NAD.astype(jnp.float32), weights_NA)


def _all_experts(activation, path, rules, x_ND, ids_NA, weights_NA, *weights):
    """`_local_experts` on each device of the mesh, with the experts that the device keeps.

    Devices that share out experts see the tokens of all of them, compute those of their own
    experts, and add up: every token reaches its experts however uneven the choice is.
    """
    local = functools.partial(_local_experts, activation, path)
    mesh = sharding.current_mesh()
    if mesh is None:
        return local(x_ND, ids_NA, weights_NA, *weights).astype(x_ND.dtype)
    batch, parts, widths = (
        sharding.mesh_axes(mesh.shape, rules, name) for name in ("batch", "experts", "expert_mlp")
    )
    gathered = tuple(axis for axis in parts if axis in batch)
    summed = (*widths, *(axis for axis in parts if axis not in batch))

    def on_device(x_nD, ids_nA, weights_nA, *experts):
        tokens = (x_nD, ids_nA, weights_nA)
        if gathered:
            tokens = (jax.lax.all_gather(x, gathered, tiled=True) for x in tokens)
        x_ND, ids_NA, weights_NA = tokens
        if parts:
            ids_NA = ids_NA - jax.lax.axis_index(parts) * len(experts[0])
            here_NA = (ids_NA >= 0) & (ids_NA < len(experts[0]))
            ids_NA = jnp.where(here_NA, ids_NA, len(experts[0]))
        out = local(x_ND, ids_NA, weights_NA, *experts)
        out = jax.lax.psum(out, summed) if summed else out
        out = jax.lax.psum_scatter(out, gathered, tiled=True) if gathered else out
        return out.astype(x_nD.dtype)

    def split(names, x):
        return sharding.spec(mesh.shape, rules, names, x.shape, "experts: activation or weights")

    tokens = split(("batch", None), x_ND)
    outer, inner = ("experts", None, "expert_mlp"), ("experts", "expert_mlp", None)
    specs = [split(names, w) for names, w in zip((outer, outer, inner), weights, strict=True)]
    return jax.shard_map(
        on_device, in_specs=(tokens, tokens, tokens, *specs), out_specs=tokens, check_vma=False
    )(x_ND, ids_NA, weights_NA, *weights)


def apply_experts(
    activation: str,
    path: str,
    x_ND: jax.Array,
    ids_NA: jax.Array,
    weights_NA: jax.Array,
    gate_XDF: jax.Array,
    up_XDF: jax.Array,
    down_XFD: jax.Array,
    *,
    rules: Rules = RULES,
) -> jax.Array:
    """sum over a of weights[n, a] * feed_forward[ids[n, a]](x[n]), [N, D].

    Under vmap the mapped tokens become more tokens of one call, so that weights are read once; a
    loop over blocks, mapped as it stands, would gather a copy of the weights for each member.

    Args:
      activation: of the gate.
      path: "auto", "blocks" or "megablox".
      x_ND: tokens.
      ids_NA: int32 experts of each token.
      weights_NA: float32 weight of each.
      gate_XDF, up_XDF, down_XFD: weights of the experts; may not be mapped.
      rules: which mesh axes split tokens ("batch"), experts and their width.
    """
    plain = functools.partial(_all_experts, activation, path, rules)

    @jax.custom_batching.custom_vmap
    def foldable(*args):
        return plain(*args)

    @foldable.def_vmap
    def fold(size, is_mapped, *args):
        *tokens, gate, up, down = args
        if any(is_mapped[3:]):
            raise ValueError("moe: weights of experts cannot be mapped, only tokens")
        # Tokens lead, as they are split over the mesh, and their mapped copies follow.
        tokens = [jnp.swapaxes(x, 0, 1) if mapped
                  else jnp.broadcast_to(x[:, None], (len(x), size, *x.shape[1:]))
                  for x, mapped in zip(tokens, is_mapped[:3], strict=True)]  # fmt: skip
        merged = (x.reshape(-1, *x.shape[2:]) for x in tokens)
        out = foldable(*merged, gate, up, down)
        return jnp.swapaxes(out.reshape(tokens[0].shape), 0, 1), True

    # custom_vmap knows no reverse mode; the backward pass is that of the plain function.
    @jax.custom_vjp
    def call(*args):
        return foldable(*args)

    call.defvjp(lambda *args: (foldable(*args), args),
                lambda args, grad: jax.vjp(plain, *args)[1](grad))  # fmt: skip
    return call(x_ND, ids_NA, weights_NA, gate_XDF, up_XDF, down_XFD)


class Experts(nn.Module):
    """Routed experts, and shared ones that see every token."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        c, moe = self.config, self.config.moe
        X, F = moe.num_experts, moe.expert_dim
        scale = c.embed_dim**-0.5
        router_DX = parameter(self, "router", scale, dtype="float32", embed=c.embed_dim, experts=X)
        bias_X = None
        if moe.selection_bias:
            bias_X = self.param("router_bias", nn.with_logical_partitioning(
                nn.initializers.zeros_init(), ("experts",)), (X,), jnp.float32)  # fmt: skip
        inner = {"experts": X, "embed": c.embed_dim, "expert_mlp": F}
        gate_XDF = parameter(self, "gate", scale, **inner)
        up_XDF = parameter(self, "up", scale, **inner)
        down_XFD = parameter(self, "down", F**-0.5, experts=X, expert_mlp=F, embed=c.embed_dim)
        x_ND = x_BTD.reshape(-1, c.embed_dim)
        with jax.named_scope("router"):
            # Exact float32: a rounded logit sends a token to another expert.
            logits_NX = jnp.einsum("nd,dx->nx", x_ND.astype(jnp.float32), router_DX,
                                   precision=jax.lax.Precision.HIGHEST)  # fmt: skip
            ids_NA, weights_NA = route(moe, logits_NX, bias_X)
        with jax.named_scope("experts"):
            out_ND = x_ND
            if not self.is_initializing():  # which needs no result, and its token fits no mesh
                out_ND = apply_experts(
                    c.activation, c.compute.expert_path, x_ND, ids_NA, weights_NA, gate_XDF, up_XDF,
                    down_XFD, rules=c.compute.rules,
                )  # fmt: skip
        out_BTD = constrain(self, out_ND.reshape(x_BTD.shape), "batch", None, None)
        if moe.shared_dim:
            out_BTD += FeedForward(c, moe.shared_dim, name="shared")(x_BTD)
        return out_BTD
