"""The layers of the decoder: norms, both kinds of attention, the plain feed-forward layer.

Letters: B batch, T tokens, S keys, D width, H query heads, K key/value heads, E head width, F
feed-forward width. In latent attention: R latent width of keys and values, Q that of queries, N
unrotated and E rotated part of a head, M width of values.
"""

import functools
import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from grm_jax.models import attention, attention_kernels
from grm_jax.models.config import ModelConfig
from grm_jax.parallel import sharding

ACTIVATIONS = {"gelu_tanh": functools.partial(nn.gelu, approximate=True), "silu": nn.silu}
# Suffixes to the name of a kernel: its adapter's two parameters.
LORA_A, LORA_B = "_lora_a", "_lora_b"


def parameter(module, name, scale, *, dtype=None, param_dtype=None, **sizes):
    """A random parameter with standard deviation `scale`; `sizes` are by the logical axis.

    It is kept in `param_dtype` and returned in `dtype`, by default those of the config.
    """
    init = nn.initializers.normal(scale) if scale else nn.initializers.zeros_init()
    compute = module.config.compute
    value = module.param(
        name, nn.with_logical_partitioning(init, tuple(sizes)), tuple(sizes.values()),
        jnp.dtype(param_dtype or compute.param_dtype),
    )  # fmt: skip
    return jnp.asarray(value, jnp.dtype(dtype or compute.dtype))


class Kernel(NamedTuple):
    """The weight of a projection and, if it has one, its low-rank adapter; see `contract`."""

    weight: jax.Array  # its contracted dimensions, then those that are kept
    a: jax.Array | None = None  # contracted dimensions, then the rank
    b: jax.Array | None = None  # the rank, then the kept dimensions
    scale: float = 0.0  # factor on the product of the two


def kernel(module, name, *, contracted: int = 1, **sizes) -> Kernel:
    """A parameter that is a projection; with `config.lora` an adapter stands next to it.

    The kernel starts with a standard deviation of 1 / sqrt(contracted width). A starts like the
    kernel and B at zero, so that a fresh adapter changes nothing (arXiv 2106.09685, section 4.1).

    Args:
      module, name, sizes: as in `parameter`.
      contracted: how many leading dimensions of the kernel are contracted.

    Raises:
      ValueError: for parameters that hold an adapter which the config does not know.
    """
    inner = dict(itertools.islice(sizes.items(), contracted))
    outer = {axis: size for axis, size in sizes.items() if axis not in inner}
    scale = math.prod(inner.values()) ** -0.5
    weight = parameter(module, name, scale, **sizes)
    lora = module.config.lora
    if lora is None:
        if module.has_variable("params", name + LORA_A):
            where = "/".join((*module.path, name))
            raise ValueError(f"{where} has an adapter, but model.lora is None")
        return Kernel(weight)
    a = parameter(module, name + LORA_A, scale, param_dtype="float32", **inner, lora=lora.rank)
    b = parameter(module, name + LORA_B, 0.0, param_dtype="float32", lora=lora.rank, **outer)
    return Kernel(weight, a, b, lora.scale)


def _letters(spec: str) -> tuple[str, str, str, str]:
    """Of a product with a weight: rows, contracted letters, kept columns, and the result."""
    operands, result = spec.split("->")
    rows, columns = operands.split(",")
    contracted = "".join(letter for letter in columns if letter in rows)
    return rows.removesuffix(contracted), contracted, columns.removeprefix(contracted), result


def product(spec: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """einsum(spec, x, W), with the axes of x that W does not have merged into one.

    XLA on CPU gives the gradient of a weight that is contracted over two axes in the order of
    memory of its transpose, and computes in that order whatever made its operands: a training step
    of four rows took 1.5 times as long. Merging the columns of W too would be no faster there, and
    makes programs for TPUs copy more.

    Args:
      spec: whose contracted letters end the letters of x and start those of W.
      x: activations, of which only the first of the merged axes may be split over a mesh.
      weight: a projection.
    """
    lead, contracted, kept, result = _letters(spec)
    merged = x.reshape(-1, *x.shape[len(lead) :])
    out = jnp.einsum(f"N{contracted},{contracted}{kept}->N{kept}", merged, weight)
    out = out.reshape(*x.shape[: len(lead)], *out.shape[1:])
    return jnp.einsum(f"{lead}{kept}->{result}", out)


def contract(spec: str, x: jax.Array, kernel: Kernel) -> jax.Array:
    """`product`, plus the low-rank path x A B of an adapter (arXiv 2106.09685, Eq. 3).

    A and B meet x one after the other and never each other: no array has the size of the kernel,
    neither at each token that is decoded nor in the backward pass.
    """
    out = product(spec, x, kernel.weight)
    if kernel.a is None:
        return out
    lead, contracted, kept, result = _letters(spec)
    with jax.named_scope("lora"):
        inner = f"{lead}{contracted},{contracted}R->{lead}R"
        x_R = kernel.scale * product(inner, x, kernel.a)
        return out + product(f"{lead}R,R{kept}->{result}", x_R, kernel.b)


def constrain(module, x, *axes):
    """Fixes how an activation is split over the mesh, by the logical name of each dimension.

    Parameters are initialised by a pass over a single token, which no mesh divides.
    """
    if module.is_initializing():
        return x
    array = f"{'/'.join(module.path) or 'decoder'}: activation"
    return sharding.constrain(module.config.compute.rules, x, axes, array)


class RMSNorm(nn.Module):
    """x / rms(x), times 1 + w in float32 (Gemma) or times w in the type of x."""

    config: ModelConfig
    eps: float | None = None  # None: that of the config
    axis: str = "embed"

    @nn.compact
    def __call__(self, x):
        c = self.config
        init = nn.initializers.zeros_init() if c.unit_offset_norms else nn.initializers.ones_init()
        weight = self.param(
            "scale",
            nn.with_logical_partitioning(init, (self.axis,)),
            (x.shape[-1],),
            jnp.dtype(c.compute.param_dtype),
        )
        x32 = x.astype(jnp.float32)
        eps = c.norm_eps if self.eps is None else self.eps
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
        weight = weight.reshape((1,) * (x.ndim - 1) + (-1,))
        if c.unit_offset_norms:
            return (normed * (1.0 + weight.astype(jnp.float32))).astype(x.dtype)
        return normed.astype(x.dtype) * weight.astype(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention: projections around `attention.attend`."""

    config: ModelConfig
    window: int | None

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segment_ids_BT, past):
        c, D, E = self.config, self.config.embed_dim, self.config.head_dim
        q_DHE = kernel(self, "q", embed=D, heads=c.num_heads, head_dim=E)
        k_DKE = kernel(self, "k", embed=D, kv_heads=c.num_kv_heads, head_dim=E)
        v_DKE = kernel(self, "v", embed=D, kv_heads=c.num_kv_heads, head_dim=E)
        o_HED = kernel(self, "o", contracted=2, heads=c.num_heads, head_dim=E, embed=D)
        with jax.named_scope("qkv"):
            q_BTHE = contract("btd,dhe->bthe", x_BTD, q_DHE)
            k_BTKE = contract("btd,dke->btke", x_BTD, k_DKE)
            v_BKTE = contract("btd,dke->bkte", x_BTD, v_DKE)
        if c.qkv_bias:
            q_BTHE += parameter(self, "q_bias", 0.0, heads=c.num_heads, head_dim=E)[None, None]
            k_BTKE += parameter(self, "k_bias", 0.0, kv_heads=c.num_kv_heads, head_dim=E)[
                None, None
            ]
            v_KE = parameter(self, "v_bias", 0.0, kv_heads=c.num_kv_heads, head_dim=E)
            v_BKTE += v_KE[None, :, None]
        q_BTHE = constrain(self, q_BTHE, "batch", None, "heads", None)
        k_BTKE = constrain(self, k_BTKE, "batch", None, "kv_heads", None)
        v_BKTE = constrain(self, v_BKTE, "batch", "kv_heads", None, None)
        if c.qk_norm:
            q_BTHE = RMSNorm(c, axis="head_dim", name="q_norm")(q_BTHE)
            k_BTKE = RMSNorm(c, axis="head_dim", name="k_norm")(k_BTKE)
        rotations = attention.rotations(c, self.window)
        q_BTHE = attention.rope(q_BTHE, positions_BT, rotations)
        k_BKTE = jnp.swapaxes(attention.rope(k_BTKE, positions_BT, rotations), 1, 2)
        block = attention.Keys(k_BKTE, v_BKTE, positions_BT, segment_ids_BT)
        out_BTHE = attention_kernels.attend(
            q_BTHE, (*past, block), positions_BT, segment_ids_BT,
            kernel=c.compute.attention_kernel, rules=c.compute.rules,
            chunk=c.compute.attention_chunk, scale=c.query_scale, cap=c.attn_softcap,
            window=self.window,
        )  # fmt: skip
        with jax.named_scope("attention_out"):
            out_BTD = contract("bthe,hed->btd", out_BTHE, o_HED)
        return constrain(self, out_BTD, "batch", None, None), (k_BKTE, v_BKTE)


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2, section 2.1). The cache holds latents only.

    Without a past, keys and values are expanded from the latents. With one, the expansion moves
    to the other side of both products: queries and outputs are projected instead ("absorbed"),
    and attention is that of H queries over one shared head of width R + E, whose first R columns
    are the values. Both give the same result.
    """

    config: ModelConfig
    window: int | None

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segment_ids_BT, past):
        c, mla = self.config, self.config.mla
        D, R, H, N, M = c.embed_dim, mla.kv_rank, c.num_heads, mla.nope_dim, mla.value_dim
        kv_DC = kernel(self, "kv_a", embed=D, latent=R + mla.rope_dim)
        # No adapters on these two: each stands in two products, one of them its transpose.
        k_RHN = parameter(self, "k_b", R**-0.5, latent=R, heads=H, head_dim=N)
        v_RHM = parameter(self, "v_b", R**-0.5, latent=R, heads=H, head_dim=M)
        o_HMD = kernel(self, "o", contracted=2, heads=H, head_dim=M, embed=D)
        rotations = attention.rotations(c, self.window)
        q_BTHE = constrain(self, self._queries(x_BTD), "batch", None, "heads", None)
        rotated_BTHE = attention.rope(q_BTHE[..., N:], positions_BT, rotations)
        with jax.named_scope("latent"):
            kv_BTC = constrain(self, contract("btd,dc->btc", x_BTD, kv_DC), "batch", None, None)
        latent_BTR = RMSNorm(c, mla.latent_norm_eps, "latent", name="kv_a_norm")(kv_BTC[..., :R])
        key_BT1E = attention.rope(kv_BTC[:, :, None, R:], positions_BT, rotations)

        cached_B1TC = jnp.concatenate([latent_BTR[:, None], jnp.swapaxes(key_BT1E, 1, 2)], -1)
        options = {"scale": c.query_scale, "cap": c.attn_softcap, "window": self.window,
                   "chunk": c.compute.attention_chunk}  # fmt: skip
        marks = (positions_BT, segment_ids_BT)
        if past:
            with jax.named_scope("absorb"):
                q_BTHR = jnp.einsum("bthn,rhn->bthr", q_BTHE[..., :N], k_RHN)
            # Keys stand for values too, and their rotated columns are left out of the result: to
            # cut the columns out of a cache would be to copy it.
            blocks = [block._replace(v_BKSE=block.k_BKSE) for block in past]
            blocks.append(attention.Keys(cached_B1TC, cached_B1TC, *marks))
            out_BTHC = attention.attend(
                jnp.concatenate([q_BTHR, rotated_BTHE], -1), tuple(blocks), *marks, **options
            )
            out_BTHM = jnp.einsum("bthr,rhm->bthm", out_BTHC[..., :R], v_RHM)
        else:
            with jax.named_scope("expand"):
                k_BHTN = product("btr,rhn->bhtn", latent_BTR, k_RHN)
                v_BHTM = product("btr,rhm->bhtm", latent_BTR, v_RHM)
            k_BHTN, v_BHTM = (
                constrain(self, x, "batch", "heads", None, None) for x in (k_BHTN, v_BHTM)
            )
            shared_BHTE = jnp.broadcast_to(
                jnp.swapaxes(key_BT1E, 1, 2), (*k_BHTN.shape[:3], mla.rope_dim)
            )
            block = attention.Keys(jnp.concatenate([k_BHTN, shared_BHTE], -1), v_BHTM, *marks)
            q_BTHE = jnp.concatenate([q_BTHE[..., :N], rotated_BTHE], -1)
            out_BTHM = attention.attend(q_BTHE, (block,), *marks, **options)
        with jax.named_scope("attention_out"):
            out_BTD = contract("bthm,hmd->btd", out_BTHM, o_HMD)
        out_BTD = constrain(self, out_BTD, "batch", None, None)
        return out_BTD, (cached_B1TC, cached_B1TC[..., :0])

    def _queries(self, x_BTD):
        c, mla = self.config, self.config.mla
        heads = {"heads": c.num_heads, "head_dim": c.head_dim}
        with jax.named_scope("queries"):
            if mla.query_rank is None:
                q_DHE = kernel(self, "q", embed=c.embed_dim, **heads)
                return contract("btd,dhe->bthe", x_BTD, q_DHE)
            q_DQ = kernel(self, "q_a", embed=c.embed_dim, latent=mla.query_rank)
            q_QHE = kernel(self, "q_b", latent=mla.query_rank, **heads)
            norm = RMSNorm(c, mla.latent_norm_eps, "latent", name="q_a_norm")
            q_BTQ = norm(contract("btd,dq->btq", x_BTD, q_DQ))
            return contract("btq,qhe->bthe", q_BTQ, q_QHE)


class FeedForward(nn.Module):
    """Gated feed-forward layer: act(x W_gate) * (x W_up), then W_down."""

    config: ModelConfig
    width: int

    @nn.compact
    def __call__(self, x_BTD):
        c, D, F = self.config, self.config.embed_dim, self.width
        gate_DF = kernel(self, "gate", embed=D, mlp=F)
        up_DF = kernel(self, "up", embed=D, mlp=F)
        down_FD = kernel(self, "down", mlp=F, embed=D)
        with jax.named_scope("feed_forward"):
            # The backward pass keeps the two products and computes again what lies between.
            gated = jax.checkpoint(
                lambda gate, up: ACTIVATIONS[c.activation](gate) * up, prevent_cse=False
            )
            hidden_BTF = gated(
                contract("btd,df->btf", x_BTD, gate_DF), contract("btd,df->btf", x_BTD, up_DF)
            )
            hidden_BTF = constrain(self, hidden_BTF, "batch", None, "mlp")
            out_BTD = contract("btf,fd->btd", hidden_BTF, down_FD)
            return constrain(self, out_BTD, "batch", None, None)
