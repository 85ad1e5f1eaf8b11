"""Random parameters, the sampling kernels in one call, and every program of an engine."""

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.models import transformer
from grm_jax.models.config import ModelConfig
from grm_jax.sampling import sampler
from grm_jax.sampling.engine import _moves
from grm_jax.sampling.scheduler import Buckets


def random_params(config: ModelConfig, seed: int = 0) -> dict:
    """Parameters without compiling `init`; norms, which `init` leaves at one, are random too."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        centre = 1.0 if path[-1].key == "scale" and not config.unit_offset_norms else 0.0
        return jnp.asarray(centre + 0.25 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(fill, transformer.abstract_params(config))


def sample(
    config: ModelConfig,
    params: dict,
    prompts_PT: jax.Array,
    lengths_P: jax.Array,
    keys_PS: jax.Array,
    active_PS: jax.Array,
    *,
    temperature: float,
    limit: int,
    stop_ids: tuple[int, ...],
    buffer: int,
    top_p: float = 1.0,
    pad_id: int = 0,
) -> sampler.Samples:
    """S samples of each of P prompts: `prefill`, then `decode` to the end in one shape."""
    prefix = sampler.prefill(config, params, prompts_PT, lengths_P)
    state = sampler.begin(config, prompts_PT, lengths_P, active_PS, buffer=buffer, pad_id=pad_id)
    state = sampler.decode(
        config, params, prefix, lengths_P, keys_PS, state,
        *sampler.scalars(limit, temperature, top_p), stop_ids=stop_ids, pad_id=pad_id,
    )  # fmt: skip
    return sampler.samples(state)


def declared(buckets: Buckets, *, moves: bool = True) -> set[tuple]:
    """Every program that an engine with these buckets may ever compile, known before it runs.

    Without `moves` no straggler moves, as with a chunk that no sample outlives. They are (name,
    bucket) pairs, and ("compact", from, to), as in `JittedEngine.programs`.
    """
    programs, waiting = set(), buckets.shapes()
    while waiting:
        bucket = waiting.pop()
        programs |= {("prefill", bucket._replace(S=0, U=0)), ("begin", bucket), ("decode", bucket)}
        reached = _moves(bucket, buckets.samples, 1) if moves else []
        programs |= {("compact", bucket, smaller) for smaller in reached}
        waiting += [b for b in reached if ("decode", b) not in programs]
    return programs
