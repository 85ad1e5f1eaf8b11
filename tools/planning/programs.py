"""The programs of a config's stages, with the shapes and shardings they really run in."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sections import RFT, Config, Supervised
from grm_jax.learning import grpo, meta_rm, sft
from grm_jax.learning.rollouts import RolloutBatch
from grm_jax.learning.state import create_state, make_optimizer, state_shardings
from grm_jax.models import cost, lora, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.parallel import sharding
from grm_jax.sampling import sampler
from grm_jax.sampling.scheduler import Bucket

SFT_STAGES = ("base", "cold_start", "rft")
STAGES = (*SFT_STAGES, "prefill", "decode", "grpo_update", "meta_rm")


class Program(NamedTuple):
    """A program of a stage, not compiled yet.

    Attributes:
      name: of `STAGES`.
      lower: gives `jax.stages.Lowered`, under the mesh.
      shape: what a person would call its size.
      runs: how often the recipe runs it; decode steps one by one.
      flops, bytes: needed, of one run on all devices together, by `models.cost`.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    shape: str
    runs: int
    flops: int
    bytes: int


def programs(config: Config, model: ModelConfig, mesh: jax.sharding.Mesh) -> Iterator[Program]:
    """Every program of the stages that a config trains, and of its rollouts.

    `model` is the shape of the config's decoder, with the rules of its mesh.
    """
    build = _Builder(config, model, mesh)
    for name, stage in config.trained().items():
        if isinstance(stage, Supervised | RFT):
            yield build.sft(name, stage)
    if config.grpo is not None or config.rft is not None:
        yield from build.rollout()
    if config.grpo is not None:
        yield build.grpo(config.grpo)
    if config.meta_rm is not None and config.meta_rm.optimizer is not None:
        yield build.meta_rm(config.meta_rm)


class _Builder:
    def __init__(self, config, model, mesh):
        self.config, self.model, self.mesh = config, model, mesh
        axes = sharding.mesh_axes(mesh.shape, model.compute.rules, "batch")
        self.rows = jax.NamedSharding(mesh, jax.P(axes))
        self.whole = jax.NamedSharding(mesh, jax.P())

    # Abstract arrays.

    def array(self, shape, dtype, place=None):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place or self.rows)

    def placed(self, shapes, places):
        return jax.tree.map(lambda x, s: self.array(x.shape, x.dtype, s), shapes, places)

    def params(self, model):
        """Parameters as (base that stays frozen, what is trained), split over the mesh."""
        shapes = transformer.abstract_params(model)
        whole = self.placed(shapes, transformer.param_shardings(model, self.mesh))
        return lora.split(whole) if model.lora else ({}, whole)

    def frozen(self, model):
        """Parameters of a decoder that is not trained, in the types that it is used in."""
        shapes = jax.tree.map(
            lambda x, dtype: jax.ShapeDtypeStruct(x.shape, dtype),
            transformer.abstract_params(model), transformer.frozen_dtypes(model),
        )  # fmt: skip
        return self.placed(shapes, transformer.param_shardings(model, self.mesh))

    def key(self, shape=(), place=None):
        made = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), max(1, np.prod(shape))))
        return self.array(shape, made.dtype, place or self.whole)

    def state(self, trained, config):
        """A train state of some parameters, and the optimizer's own configuration."""
        optimizer = make_optimizer(config)
        shapes = jax.eval_shape(
            functools.partial(create_state, optimizer=optimizer), trained, key=self.key()
        )
        places = state_shardings(jax.tree.map(lambda x: x.sharding, trained), optimizer, shapes)
        return self.placed(shapes, places), optimizer, config.steps

    def batch(self, record, integers, **shapes):
        """A batch whose fields have shapes by the letters that end their names."""
        return record(*(
            self.array(
                shapes[field.rpartition("_")[2]],
                jnp.int32 if field.startswith(integers) else jnp.float32,
            )
            for field in record._fields
        ))  # fmt: skip

    def trained_model(self, section):
        return dataclasses.replace(self.model, lora=self.config.adapters(section))

    # Programs.

    def sft(self, name, stage):
        packing, pieces = stage.packing, stage.data.micro_batches
        model = self.trained_model(name)
        base, trained = self.params(model)
        state, optimizer, steps = self.state(trained, stage.optimizer)
        shape = (packing.batch_size, packing.row_length)
        batch = dict.fromkeys(
            ("tokens", "targets", "positions", "segment_ids"), self.array(shape, jnp.int32)
        ) | {"weights": self.array(shape, jnp.float32)}
        step = sft.make_train_step(model, optimizer, micro_batches=pieces)
        lengths, frozen = [shape[1]] * shape[0], model.lora is not None
        return Program(
            name, lambda: step.lower(state, base, batch),
            f"{shape[0]} rows of {shape[1]} in {pieces} pieces", steps,
            cost.train_flops(model, lengths, frozen=frozen),
            cost.train_bytes(model, sum(lengths), pieces, frozen=frozen),
        )  # fmt: skip

    def grpo(self, stage):
        config, loop, buckets = stage.objective, stage.loop, stage.buckets
        rows, U = loop.prompts_per_step * config.group_size, buckets.output_lengths[-1]
        T = buckets.prompt_lengths[-1] + U
        model = self.trained_model("grpo")
        base, trained = self.params(model)
        reference = base or self.frozen(model)
        state, optimizer, steps = self.state(trained, stage.optimizer)
        integers = ("tokens", "positions", "segment", "prompt", "completion_BU")
        batch = self.batch(RolloutBatch, integers, BT=(rows, T), BU=(rows, U), B=(rows,))
        step = grpo.make_update_step(model, config, optimizer)
        lengths, outputs, frozen = [T] * rows, rows * U, model.lora is not None
        pieces = config.micro_batches
        return Program(
            "grpo_update", lambda: step.lower(state, reference, batch),
            f"{rows} rows of {T - U} + {U} in {pieces} pieces", steps,
            cost.train_flops(model, lengths, output_tokens=outputs, frozen=frozen)
            + cost.forward_flops(model, lengths, output_tokens=outputs),
            cost.train_bytes(model, sum(lengths), pieces, frozen=frozen)
            + pieces * cost.weight_bytes(_read(model), sum(lengths) // pieces),
        )  # fmt: skip

    def meta_rm(self, stage):
        config, loop = stage.choices, stage.loop
        model = self.trained_model("meta_rm")
        base, decoder = self.params(model)
        trained = {
            "decoder": decoder,
            "head": {"kernel": self.array((model.embed_dim,), jnp.float32, self.whole)},
        }
        state, optimizer, steps = self.state(trained, stage.optimizer)
        rows, T = loop.batch_size, loop.row_length
        integers = ("tokens", "positions", "segment", "last")
        batch = self.batch(meta_rm.MetaBatch, integers, BT=(rows, T), B=(rows,))
        step = meta_rm.make_train_step(model, config, optimizer)
        lengths, frozen, pieces = [T] * rows, model.lora is not None, config.micro_batches
        return Program(
            "meta_rm", lambda: step.lower(state, {"decoder": base} if base else {}, batch),
            f"{rows} rows of {T} in {pieces} pieces", steps,
            cost.train_flops(model, lengths, output_tokens=0, frozen=frozen),
            cost.train_bytes(model, sum(lengths), pieces, frozen=frozen),
        )  # fmt: skip

    def rollout(self):
        """Prefill and decode of the largest shape of the buckets of GRPO, or of RFT without it."""
        grpo, rft = self.config.grpo, self.config.rft
        shape = (grpo or rft).buckets.shapes()[-1]
        rules = self.config.mesh.table(rollout=True)
        adapters = self.config.adapters("grpo") if grpo is not None else None
        model = self.model.replace(rules=rules, lora=adapters)
        params = self.frozen(model)
        axes = sharding.mesh_axes(self.mesh.shape, rules, "batch")
        self.prompts = jax.NamedSharding(self.mesh, jax.P(axes))
        if grpo is not None:
            iterations = grpo.optimizer.steps // grpo.objective.inner_epochs
            units = iterations * -(-grpo.loop.prompts_per_step // shape.P)
        else:
            samples = rft.rules.num_samples + rft.rules.use_hinted * rft.rules.num_hinted
            units = -(-rft.data.comparisons * samples // (shape.P * shape.S))
        yield self._prefill(model, params, shape, units)
        yield self._decode(model, params, shape, units)

    def _prefill(self, model, params, shape: Bucket, units):
        tokens, lengths = self._prompts(shape)
        return Program(
            "prefill", lambda: sampler.prefill.lower(model, params, tokens, lengths),
            f"{shape.P} prompts of {shape.T}", units,
            cost.forward_flops(model, [shape.T] * shape.P, output_tokens=0),
            cost.weight_bytes(_read(model), shape.P * shape.T, output=False)
            + shape.P * shape.T * cost.cache_bytes_per_token(model),
        )  # fmt: skip

    def _decode(self, model, params, shape: Bucket, units):
        P, S, T, U = shape
        needed = cost.decode_cost(_read(model), prompts=P, samples=S, prompt_length=T, new=U)

        def lower():
            tokens, lengths = self._prompts(shape)
            active = self.array((P, S), jnp.bool_, self.prompts)
            prefix = self._results(sampler.prefill, model, params, tokens, lengths)
            state = self._results(sampler.begin, model, tokens, lengths, active, buffer=U, pad_id=0)
            scalars = [self.array((), dtype, self.whole) for dtype in ("int32", "float32")]
            return sampler.decode.lower(
                model, params, prefix, lengths, self.key((P, S), self.prompts), state,
                scalars[0], scalars[1], scalars[1], stop_ids=(1,), pad_id=0,
            )  # fmt: skip

        return Program(
            "decode", lower, f"{P} x {S} samples after {T}, {U} new; a step", units * U,
            needed.flops // U, needed.bytes // U,
        )  # fmt: skip

    def _prompts(self, shape: Bucket):
        return (
            self.array((shape.P, shape.T), jnp.int32, self.prompts),
            self.array((shape.P,), jnp.int32, self.prompts),
        )

    def _results(self, function, *args, **kwargs):
        """Shapes of a program's results, split as the program that makes them splits them."""
        lowered = function.lower(*args, **kwargs)
        return self.placed(lowered.out_info, lowered.compile().output_shardings)


def _read(model: ModelConfig) -> ModelConfig:
    """The model with parameters in the type of its activations, as inference reads them."""
    return model.replace(param_dtype=model.compute.dtype)
