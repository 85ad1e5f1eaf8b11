"""Engines, which draw a work unit; the jitted one moves stragglers into smaller shapes."""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.models.config import ModelConfig
from grm_jax.parallel.sharding import fetch, put
from grm_jax.sampling import sampler
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.prompt import Prompt
from grm_jax.sampling.scheduler import Bucket, Buckets, WorkUnit, unit_keys


class Completion(NamedTuple):
    """One sample of one request."""

    prompt: Prompt  # the continued prompt
    sample: int  # index within the comparison
    seed: tuple[int, int]  # the two words of the sample's key
    # generated ids, the stop token included; () from an engine that speaks text
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # untempered log pi of each token
    # log-prob of each under the distribution that was sampled from
    sampling_logprobs: tuple[float, ...]
    stopped: bool  # ended by a stop token, not by the length limit
    # answer of an engine that speaks text; None where `token_ids` are the answer
    text: str | None = None
    refusal: str = ""  # why there is no answer and never will be; "" for an answer


class Engine(Protocol):
    """Source of samples: `JittedEngine` on our devices, `remote.RemoteEngine` on a server."""

    buckets: Buckets  # allowed shapes

    def run(
        self, params: Any, unit: WorkUnit, config: DrawConfig, stage_key: jax.Array
    ) -> list[Completion]:
        """Draws every sample of a unit, in the order of the requests and of their samples.

        Of the config only temperature, top_p and max_new_tokens count.
        """


@functools.partial(jax.jit, static_argnums=0)
def compact(config, state, prefix, lengths_P, keys_PS, rows_Q, columns_QR):
    """The same decoding with some prompts, and some samples of each, left out."""

    def pick(x, prompts, samples):
        """`prompts` and `samples` are the axes P and S of x."""
        x = jnp.moveaxis(jnp.take(x, rows_Q, axis=prompts), (prompts, samples), (0, 1))
        index = columns_QR.reshape(columns_QR.shape + (1,) * (x.ndim - 2))
        return jnp.moveaxis(jnp.take_along_axis(x, index, axis=1), (0, 1), (prompts, samples))

    state = sampler.DecodeState(
        step=state.step,
        **{
            name: tuple(pick(x, 3, 1) for x in value) if name[0] in "kv" else pick(value, 0, 1)
            for name, value in state._asdict().items()
            if name != "step"
        },
    )
    prefix = prefix._replace(
        k_LBKTE=prefix.k_LBKTE[:, rows_Q], v_LBKTE=prefix.v_LBKTE[:, rows_Q],
        positions_BT=prefix.positions_BT[rows_Q], segment_ids_BT=prefix.segment_ids_BT[rows_Q],
    )  # fmt: skip
    keys_QR = jnp.take_along_axis(keys_PS[rows_Q], columns_QR, axis=1)
    state = sampler.constrain_caches(config, state)
    prefix = sampler.constrain_prefix(config, prefix)
    return state, prefix, lengths_P[rows_Q], keys_QR


def _moves(bucket: Bucket, sizes: tuple[int, ...], shards: int) -> list[Bucket]:
    """Shapes that survivors of a bucket can move to: at most half as many places."""
    prompts = [bucket.P]
    while prompts[-1] % (2 * shards) == 0:
        prompts.append(prompts[-1] // 2)
    return [
        bucket._replace(P=P, S=S)
        for P in prompts
        for S in sizes
        if S <= bucket.S and 2 * P * S <= bucket.P * bucket.S
    ]


@dataclasses.dataclass(eq=False)
class JittedEngine:
    """Draws work units on the devices of a mesh, or on the default one.

    Decoding runs in chunks of tokens. When more than half of a unit's samples are done, the others
    move into the smallest bucket that holds them: which samples move, and where, depends on the
    unit alone.
    """

    config: ModelConfig  # shape of the model
    buckets: Buckets  # allowed shapes
    _: dataclasses.KW_ONLY
    stop_ids: tuple[int, ...]  # tokens that end a sample
    pad_id: int  # fills unused places
    # tokens between two checks of which samples are done; None decodes in one go
    chunk: int | None = None
    # of arrays that lead with prompts; None for the default device
    sharding: jax.sharding.Sharding | None = None
    # (name, bucket) of every program that was needed so far; ("compact", from, to)
    programs: set[tuple] = dataclasses.field(default_factory=set)

    @functools.cached_property
    def _shards(self) -> int:
        """Devices that the prompts are split over."""
        if self.sharding is None:
            return 1
        devices = self.sharding.num_devices
        return devices // self.sharding.shard_shape((devices,))[0]

    def run(
        self, params: dict, unit: WorkUnit, config: DrawConfig, stage_key: jax.Array
    ) -> list[Completion]:
        """See `Engine`. Raises ValueError if max_new_tokens exceeds the bucket."""
        P, S, T, U = unit.bucket
        if config.max_new_tokens > U:
            raise ValueError(f"max_new_tokens must be at most {U}, got {config.max_new_tokens}")
        tokens_PT = np.full((P, T), self.pad_id, np.int32)
        lengths_P = np.ones(P, np.int32)
        active_PS = np.zeros((P, S), bool)
        for p, request in enumerate(unit.requests):
            lengths_P[p] = len(request.prompt.ids)
            tokens_PT[p, : lengths_P[p]] = request.prompt.ids
            active_PS[p, : len(request.samples)] = True
        keys_PS, wanted = unit_keys(stage_key, unit)
        results = self._decode(
            params, unit.bucket, config, tokens_PT, lengths_P, keys_PS, active_PS
        )
        completions = []
        for place, (request, sample, seed) in zip(np.argwhere(active_PS), wanted, strict=True):
            place = tuple(place)
            drawn = np.s_[*place, : results.lengths_PS[place]]
            completions.append(
                Completion(
                    prompt=request.prompt,
                    sample=sample,
                    seed=seed,
                    token_ids=tuple(results.tokens_PSU[drawn].tolist()),
                    logprobs=tuple(results.logprobs_PSU[drawn].tolist()),
                    sampling_logprobs=tuple(results.sampling_logprobs_PSU[drawn].tolist()),
                    stopped=bool(results.stopped_PS[place]),
                )
            )
        return completions

    def _decode(
        self, params, bucket, config, tokens_PT, lengths_P, keys_PS, active_PS
    ) -> sampler.Samples:
        tokens, lengths, keys_now, active = (
            put(x, self.sharding) for x in (tokens_PT, lengths_P, keys_PS, active_PS)
        )
        prefix = sampler.prefill(self.config, params, tokens, lengths)
        state = sampler.begin(
            self.config, tokens, lengths, active, buffer=bucket.U, pad_id=self.pad_id
        )
        self.programs |= {("prefill", bucket._replace(S=0, U=0)), ("begin", bucket)}

        out = None  # host copy of all samples of the unit
        places_QR = np.arange(bucket.P * bucket.S).reshape(bucket.P, bucket.S)
        end, limit = 0, config.max_new_tokens
        while True:
            end = min(limit, end + (self.chunk or limit))
            state = sampler.decode(
                self.config, params, prefix, lengths, keys_now, state,
                *sampler.scalars(end, config.temperature, config.top_p),
                stop_ids=self.stop_ids, pad_id=self.pad_id,
            )  # fmt: skip
            self.programs.add(("decode", bucket))
            done_PS = fetch(state.done_PS)
            finished = end == limit or done_PS.all()
            smaller = None if finished else self._smaller(bucket, done_PS)
            if finished or smaller is not None:
                out = _scatter(out, fetch(sampler.samples(state)), places_QR)
            if finished:
                return out
            if smaller is not None:
                rows, columns = _survivors(done_PS, smaller)
                state, prefix, lengths, keys_now = compact(
                    self.config, state, prefix, lengths, keys_now, put(rows), put(columns)
                )
                self.programs.add(("compact", bucket, smaller))
                places_QR = np.take_along_axis(places_QR[rows], columns, axis=1)
                bucket = smaller

    def _smaller(self, bucket: Bucket, done_PS: np.ndarray) -> Bucket | None:
        """The smallest shape for the survivors, if they fill at most half of this one."""
        alive_P = (~done_PS).sum(axis=1)
        fits = [
            smaller
            for smaller in _moves(bucket, self.buckets.samples, self._shards)
            if (alive_P > 0).sum() <= smaller.P and alive_P.max() <= smaller.S
        ]
        return min(fits, key=lambda smaller: smaller.P * smaller.S, default=None)


def _survivors(done_PS: np.ndarray, bucket: Bucket) -> tuple[np.ndarray, np.ndarray]:
    """Prompts, and samples of each, that are decoded further; done ones fill the other places."""
    rows_Q = np.argsort(done_PS.all(axis=1), kind="stable")[: bucket.P]
    columns_QR = np.argsort(done_PS[rows_Q], axis=1, kind="stable")[:, : bucket.S]
    return rows_Q.astype(np.int32), columns_QR.astype(np.int32)


def _scatter(out, part: sampler.Samples, places_QR: np.ndarray) -> sampler.Samples:
    """Writes the samples of a compacted unit to their places in the whole one."""
    if out is None:
        return sampler.Samples(*(np.array(x) for x in part))
    rows, columns = np.unravel_index(places_QR, out.lengths_PS.shape)
    for whole, piece in zip(out, part, strict=True):
        whole[rows, columns] = piece
    return out
