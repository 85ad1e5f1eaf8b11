"""Attention of a full pass by a faster kernel: splash on TPU, tiles on CPU. Reference: `attention`.

"auto" is decided for the platform that a program is lowered for, not for the default backend, so
that programs compiled ahead of time are right as well. Steps with a past (decode) and latent
attention, whose heads are 192 wide, always take the reference path.

Precondition of both kernels, which go by places in a row where the reference goes by positions:
within a segment, positions count up by one along the row. Packed rows, rollouts, prompts and
padding on either side are like that.

Letters: B batch, T tokens, H query heads, K key/value heads, E head width.
"""

import functools

import jax
import jax.numpy as jnp

from grm_jax.models import attention
from grm_jax.models.attention import Keys
from grm_jax.parallel import sharding
from grm_jax.parallel.mesh import RULES, Rules

_LANES = 128
_BLOCKS = (512, 256, 128)  # rows of queries and of keys in one step of the kernel
_TILES = 4  # at most, of a row: each is compiled for itself
_SHORTEST_TILE = 64


def attend(
    q_BTHE: jax.Array,
    blocks: tuple[Keys, ...],
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    kernel: str,
    rules: Rules,
    scale: float,
    cap: float | None,
    window: int | None,
    chunk: int,
) -> jax.Array:
    """`attention.attend`, by a faster kernel where `kernel` and the shapes allow it.

    Args (others are those of `attention.attend`):
      kernel: "reference", "splash", "tiled", or "auto": splash on TPU if it can, tiles on CPU, else
        the reference.
      rules: of logical axes; a kernel runs on each device of the mesh by itself.

    Raises:
      ValueError: if "splash" is asked for and cannot compute these shapes.
    """
    options = {"scale": scale, "cap": cap, "window": window}
    reference = functools.partial(attention.attend, chunk=chunk, **options)
    whole = (q_BTHE, blocks, positions_BT, segment_ids_BT)
    if kernel == "reference" or len(blocks) > 1:
        return reference(*whole)
    tiles = functools.partial(tiled, chunk=chunk, **options)
    if kernel == "tiled":
        return tiles(*whole)
    fast = functools.partial(splash, rules=rules, **options)
    problem = _problem(q_BTHE, blocks[0], rules)
    if kernel == "splash":
        if problem:
            raise ValueError(f"model.attention_kernel 'splash': {problem}; use 'auto'")
        return fast(*whole)
    if problem or q_BTHE.shape[1] < _LANES:  # short rows would be padding for the most part
        fast = reference
    return jax.lax.platform_dependent(*whole, tpu=fast, cpu=tiles, default=reference)


def tiled(
    q_BTHE: jax.Array,
    blocks: tuple[Keys, ...],
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int | None,
    **options,
) -> jax.Array:
    """Causal attention of a single block to itself by plain operations, in tiles of queries.

    A tile meets only the keys from the start of its window to its last query; the reference
    computes and masks the whole row. Arguments and result are those of `attention.attend`.
    """
    (block,) = blocks
    length = q_BTHE.shape[1]
    tile = max(_SHORTEST_TILE, -(-length // _TILES))
    parts = []
    for start in range(0, length, tile):
        here = slice(start, start + tile)
        seen = slice(0 if window is None else max(0, start - window + 1), start + tile)
        keys = Keys(block.k_BKSE[:, :, seen], block.v_BKSE[:, :, seen], block.positions_BS[:, seen],
                    block.segment_ids_BS[:, seen])  # fmt: skip
        parts.append(
            attention.attend(
                q_BTHE[:, here], (keys,), positions_BT[:, here], segment_ids_BT[:, here],
                window=window, **options,
            )
        )  # fmt: skip
    return jnp.concatenate(parts, axis=1)


def _problem(q_BTHE, block: Keys, rules: Rules) -> str:
    """The reason why splash attention cannot compute these shapes; empty if it can."""
    widths = {"queries": q_BTHE.shape[-1], "values": block.v_BKSE.shape[-1]}
    for name, width in widths.items():
        if width % _LANES:
            return f"heads of {name} are {width} wide, and it needs multiples of {_LANES}"
    mesh = sharding.current_mesh()
    if mesh is not None:
        heads, kv_heads = (sharding.mesh_axes(mesh.shape, rules, name)
                           for name in ("heads", "kv_heads"))  # fmt: skip
        if heads != kv_heads:
            return f"mesh axes {heads} split query heads and {kv_heads} key and value heads"
    return ""


def splash(
    q_BTHE: jax.Array,
    blocks: tuple[Keys, ...],
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    scale: float,
    cap: float | None,
    window: int | None,
    rules: Rules = RULES,
    interpret: bool = False,
) -> jax.Array:
    """Causal attention of a single block to itself by the Pallas kernel of jax for TPU.

    Arguments and result are those of `attention.attend`, but positions are not read (see the head
    of this file). `rules` are those of logical axes; `interpret` computes with plain operations, on
    any platform.
    """
    del positions_BT
    (block,) = blocks
    length = q_BTHE.shape[1]
    padding = -length % _LANES
    rows = ((0, 0), (0, padding))
    # The kernel has no scale of its own; in float32, as the reference scales logits.
    q_BHTE = jnp.swapaxes((q_BTHE.astype(jnp.float32) * scale).astype(q_BTHE.dtype), 1, 2)
    q_BHTE, k_BKTE, v_BKTE = (
        jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0)))
        for x in (q_BHTE, block.k_BKSE, block.v_BKSE)
    )
    segments_BT = jnp.pad(segment_ids_BT, rows)

    def on_device(q_BHTE, k_BKTE, v_BKTE, segments_BT):
        kernel, segment_ids = _kernel(q_BHTE.shape[1], q_BHTE.shape[2], cap, window, interpret)
        return jax.vmap(lambda q, k, v, s: kernel(q, k, v, segment_ids=segment_ids(s, s)))(
            q_BHTE, k_BKTE, v_BKTE, segments_BT
        )

    mesh = sharding.current_mesh()
    if mesh is not None:

        def split(x, *names):
            return sharding.spec(mesh.shape, rules, names, x.shape, "attention: activation")

        q_spec = split(q_BHTE, "batch", "heads", None, None)
        specs = (
            q_spec,
            split(k_BKTE, "batch", "kv_heads", None, None),
            split(v_BKTE, "batch", "kv_heads", None, None),
            split(segments_BT, "batch", None),
        )
        on_device = jax.shard_map(on_device, in_specs=specs, out_specs=q_spec, check_vma=False)
    out_BHTE = on_device(q_BHTE, k_BKTE, v_BKTE, segments_BT)
    out_BTHE = jnp.swapaxes(out_BHTE, 1, 2)[:, :length]
    # Padding sees padding in the kernel.
    return jnp.where((segment_ids_BT > 0)[:, :, None, None], out_BTHE, 0).astype(block.v_BKSE.dtype)


def _kernel(num_heads: int, length: int, cap: float | None, window: int | None, interpret: bool):
    """The kernel for rows of one length, and the type of its segment ids."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None else (
        masks.LocalMask(shape, window_size=(window - 1, 0), offset=0)
    )  # fmt: skip
    size = next(size for size in _BLOCKS if length % size == 0)
    sizes = kernels.BlockSizes(
        block_q=size, block_kv=size, block_kv_compute=size, block_q_dkv=size,
        block_kv_dkv=size, block_kv_dkv_compute=size, block_q_dq=size, block_kv_dq=size,
    )  # fmt: skip
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * num_heads), block_sizes=sizes, head_shards=1, q_seq_shards=1,
        attn_logits_soft_cap=cap, interpret=interpret,
    )  # fmt: skip
    return kernel, kernels.SegmentIds
