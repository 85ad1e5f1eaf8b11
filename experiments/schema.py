"""Checks of a whole config: what no single section can see, before any device work."""

import dataclasses
import pathlib
from collections.abc import Mapping

from experiments.config import build, in_use
from experiments.config import fields as typed_fields
from experiments.sections import (
    GRPO,
    RFT,
    TRAINED_STAGES,
    Benchmark,
    Config,
    MetaRM,
    Supervised,
)
from grm_jax.models import hub
from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import config_file
from grm_jax.models.variants import VARIANTS
from grm_jax.ranges import split
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.judges import Judge
from grm_jax.text.tokenizers import SentencePieceTokenizer, Tokenizer


def check(fields: Mapping) -> Config:
    """The typed config, if it is possible as a whole.

    Args:
      fields: the config as its file and flags give it.

    Raises:
      ValueError: naming the dotted field that is unknown, missing, of a wrong type, out of its
        range, or impossible together with others.
    """
    config = build(in_use(fields))
    if config.released is not None:
        _check_released(config)
    _check_lora(config)
    _check_types(config, model_config(config, vocab_size=1))
    _check_origin(config)
    if config.benchmark is not None:
        _check_benchmark(config, config.benchmark)
    _check_batches(config)
    _check_buckets(config)
    return config


def check_files(config: Config) -> None:
    """What a run starts from is there. A plan, which has shapes only, needs none of it.

    Raises:
      ValueError: naming the field whose file, folder or weights are not there, or whose template
        writes messages that the checkpoint cannot take.
    """
    first = next(iter(config.trained()), None)
    if first in ("rft", "grpo") and config.released is None:
        raise ValueError(
            f"config.cold_start: is missing or off, and {first} has no other weights to start from "
            "(config.base, config.released)"
        )
    places = {"tokenizer.path": config.tokenizer.path}
    if config.released is not None:
        places |= {"released.model": config.released.model,
                   "released.meta_rm": config.released.meta_rm}  # fmt: skip
    if config.grpo is not None and (easy_for := config.grpo.loop.easy_for) != "rft":
        if easy_for in TRAINED_STAGES:
            raise ValueError(
                f"config.grpo.loop.easy_for: only 'rft' has trajectories by then, not {easy_for!r}"
            )
        places["grpo.loop.easy_for"] = easy_for
    for name, place in places.items():
        if place and not pathlib.Path(place).expanduser().exists():
            raise ValueError(f"config.{name}: no such file or folder: {place!r}")
    _check_thinking(config)
    if config.template.judge is not None:
        _check_messages(config, config.template.judge)


def _check_messages(config: Config, judge: Judge) -> None:
    """The chat format of the checkpoint takes what a template of the user writes."""
    tokenizer = tokenizer_of_files(config)
    if tokenizer is None:
        return
    try:
        for _, messages in judge.trials():
            tokenizer.chat(messages)
    except ValueError as error:
        raise ValueError(
            f"config.template.file: {judge.path}: its messages, with the roles "
            f"{[role for role, _ in messages]}, do not fit the chat format of the checkpoint: "
            f"{error}"
        ) from error


def tokenizer_of_files(config: Config) -> Tokenizer | None:
    """The tokenizer of `tokenizer.path` or of released weights; None for one of the small world.

    Raises:
      ValueError: an unusable tokenizer, or a template that cannot be told of `template.thinking`.
    """
    path, thinking = config.tokenizer.path, config.template.thinking
    if not path and config.released is not None:
        path = config.released.model
    place = pathlib.Path(path).expanduser()
    if path and place.is_dir():
        return load_tokenizer(place, thinking=thinking)
    if thinking:
        raise ValueError(
            f"{path or 'the small world'}: is no checkpoint folder with a chat template"
        )
    return SentencePieceTokenizer.from_file(place) if path else None


def _check_thinking(config: Config) -> None:
    """Somebody can be told, and given principles do not begin what is thought."""
    thinking, benchmark = config.template.thinking, config.benchmark
    if thinking and benchmark is not None and benchmark.engine.server() is not None:
        guided = config.released is not None and config.released.meta_rm and benchmark.meta_rm
        trained = any(stage.optimizer is not None for stage in config.trained().values())
        if not (trained or guided):
            raise ValueError(
                f"config.template.thinking: {thinking!r} tells a checkpoint here, and "
                "config.benchmark.engine=openai asks a server alone; a server is told in its own "
                "dialect, by config.benchmark.engine_extra"
            )
    given = benchmark is not None and benchmark.principles and not config.template.file
    if not (thinking or given):
        return
    try:
        tokenizer = tokenizer_of_files(config)
    except ValueError as error:
        raise ValueError(f"config.template.thinking: {error}" if thinking else error) from error
    if given and (thinking == "on" or tokenizer is not None and tokenizer.opens_thinking):
        raise ValueError(
            "config.benchmark.principles: given principles begin the answer, and the chat template "
            "lets the model think before it; set config.template.thinking=off"
        )


def _check_released(config: Config) -> None:
    """The released folders have the expected architecture, shape and tokenizer."""
    released = config.released
    for field, reward in (("model", False), ("meta_rm", True)):
        folder = getattr(released, field)
        if not folder:
            continue
        try:
            if config_file.architecture(folder).reward != reward:
                expected = config_file.REWARD if reward else config_file.CAUSAL
                found = config_file.read_raw(folder)["architectures"][0]
                raise ValueError(f"{folder}: expected an architecture {expected}, found {found}")
            shape = hub.read_config(folder)
            hub.check_vocab(shape, load_tokenizer(folder).vocab_size, folder)
        except (ValueError, OSError) as error:
            raise ValueError(f"config.released.{field}: {error}") from error
    if released.variant:
        published = VARIANTS[released.variant]
        shape = hub.read_config(released.model)
        if dataclasses.replace(shape, compute=published.compute) != published:
            raise ValueError(
                f"config.released.model: {released.model} has another shape than "
                f"config.released.variant, {released.variant!r}"
            )
    if released.meta_rm and config.meta_rm is not None and config.meta_rm.optimizer is not None:
        raise ValueError(
            "config.meta_rm.optimizer: the meta RM is config.released.meta_rm and is not trained"
        )


def _check_origin(config: Config) -> None:
    """Every stage has its data, from either the small world or files."""
    if config.small_world is not None:
        if config.data is not None:
            raise ValueError("config.data: config.small_world brings its own data; give one only")
        if config.template.reference:
            raise ValueError("config.template.reference: a small world has no references")
        return
    for name, stage in config.trained().items():
        data, loop = getattr(stage, "data", None), getattr(stage, "loop", None)
        wanted = {
            f"{name}.data.demonstrations": (getattr(data, "demonstrations", 0), "train"),
            f"{name}.data.general": (getattr(data, "general", 0), "general"),
            f"{name}.data.comparisons": (getattr(data, "comparisons", 0), "train"),
            f"{name}.loop.comparisons": (getattr(loop, "comparisons", 0), "train"),
        }
        for dotted, (count, source) in wanted.items():
            if count and not (config.data and getattr(config.data, source)):
                raise ValueError(
                    f"config.data.{source}: is not given, and config.{dotted} needs it"
                )


def _check_lora(config: Config) -> None:
    for name in config.adapted():
        if getattr(config.trained().get(name), "optimizer", None) is None:
            raise ValueError(
                f"config.lora.stages: {name!r} is not trained without a section "
                f"config.{name}.optimizer"
            )


def _check_types(config: Config, model: ModelConfig) -> None:
    trained = [
        name
        for name, stage in config.trained().items()
        if stage.optimizer is not None and name not in config.adapted()
    ]
    if trained and model.compute.param_dtype != "float32":
        raise ValueError(
            f"config.model.param_dtype: {model.compute.param_dtype} would round away the updates "
            f"of config.{trained[0]}: train with float32 (dtype may be bfloat16), or adapters, by "
            "config.lora.stages"
        )


def model_config(config: Config, vocab_size: int) -> ModelConfig:
    """The decoder: section `model`, over the shape of released weights or of a `variant`.

    Args:
      config: the whole config.
      vocab_size: rows of the embedding where nothing else decides them.

    Raises:
      ValueError, FileNotFoundError: naming the field; and as `hub.read_config`.
    """
    given = {name: value for name, value in config.model.items() if name != "variant"}
    given["rules"] = config.mesh.table()
    variant = config.model.get("variant")
    try:
        if config.released is not None:
            shape = hub.read_config(config.released.model)
        elif variant:
            if variant not in VARIANTS:
                raise ValueError(f"variant: must be one of {sorted(VARIANTS)}, got {variant!r}")
            shape = VARIANTS[variant]
            _check_one_shape(shape, variant, given)
        else:
            return ModelConfig.of({"vocab_size": vocab_size, **given})
        return shape.replace(**given)
    except ValueError as error:
        raise ValueError(f"config.model.{error}") from error


def _check_one_shape(shape: ModelConfig, variant: str, given: Mapping) -> None:
    """Some fields may override a published size; all the required ones are another shape."""
    needed = {
        field.name for field in typed_fields(ModelConfig)
        if field.default is dataclasses.MISSING and not field.optional
    } - {"vocab_size"}  # fmt: skip
    other = [name for name in sorted(needed) if given.get(name) != getattr(shape, name)]
    if other and given.keys() >= needed:
        raise ValueError(
            f"variant: {variant!r} has another shape than the one that section model spells, "
            f"{', '.join(f'{name}={given[name]}' for name in other)}; keep one of the two"
        )


def _check_benchmark(config: Config, benchmark: Benchmark) -> None:
    for field in ("greedy_stages", "sampled_stages"):
        stages = split(getattr(benchmark, field))
        impossible = "released" if config.released is None else "random_weights"
        if impossible in stages:
            raise ValueError(
                f"config.benchmark.{field}: {impossible!r} is not there "
                f"{'without' if config.released is None else 'with'} a section config.released"
            )
    if config.template.file:
        if benchmark.principles not in ("", "given"):
            raise ValueError(
                f"config.benchmark.principles: {benchmark.principles!r} are written in the form of "
                "our own templates; a config.template.file takes those of the comparisons, 'given'"
            )
        return
    if config.template.principles == "none" and benchmark.principles:
        raise ValueError(
            "config.benchmark.principles: config.template.principles='none' has no place for them"
        )
    if benchmark.engine.server() is not None and benchmark.principles:
        raise ValueError(
            "config.benchmark.principles: no principles can be given to a server, which begins its "
            "answers itself"
        )


def _check_buckets(config: Config) -> None:
    """Buckets hold the samples of their section, and split evenly over the mesh."""
    parts = config.mesh.parts("batch", rollout=True)
    for name, (draw, buckets) in config.sampled().items():
        longest = buckets.output_lengths[-1]
        if draw.max_new_tokens > longest:
            raise ValueError(
                f"config.{name}.draw.max_new_tokens: {draw.max_new_tokens} exceeds the largest "
                f"of config.{name}.buckets.output_lengths, {longest}"
            )
        for bucket in buckets.shapes():
            if bucket.P % parts:
                raise ValueError(
                    f"config.{name}.buckets.samples_per_unit: {buckets.samples_per_unit} makes "
                    f"units of {bucket.P} prompts with {bucket.S} samples each, and config.mesh "
                    f"splits prompts in {parts}"
                )


def _check_batches(config: Config) -> None:
    """Batches split evenly over the mesh, each micro-batch included."""
    parts = config.mesh.parts("batch")
    batches = []  # fields, rows of a batch, micro-batches
    for name, stage in config.trained().items():
        if isinstance(stage, Supervised | RFT):
            rows = stage.packing.batch_size
            batches.append((f"{name}.packing.batch_size", rows, stage.data.micro_batches))
        elif isinstance(stage, GRPO):
            prompts, objective = stage.loop.prompts_per_step, stage.objective
            batches.append(("grpo.loop.prompts_per_step", prompts, 1))  # whole groups on a device
            rows = prompts * objective.group_size
            batches.append(("grpo.loop.prompts_per_step", rows, objective.micro_batches))
        else:
            choices = stage.choices if isinstance(stage, MetaRM) else stage
            rows, pieces = stage.loop.batch_size, choices.micro_batches
            batches.append((f"{name}.loop.batch_size", rows, pieces))
    for name, rows, pieces in batches:
        if rows % (parts * pieces):
            raise ValueError(
                f"config.{name}: {rows} rows are not a multiple of {parts * pieces}: "
                f"config.mesh splits batches in {parts}"
                + (f", and there are {pieces} micro-batches" if pieces > 1 else "")
            )
