"""The sampling kernels in one call, and every program that an engine may compile."""

import jax

from grm_jax.models.config import ModelConfig
from grm_jax.sampling import sampler
from grm_jax.sampling.engine import _moves
from grm_jax.sampling.scheduler import Buckets


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
