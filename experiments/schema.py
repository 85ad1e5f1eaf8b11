"""Whether a config is possible, by itself and as a whole.

`check` builds every dataclass of it, so that a bad field stops a run at once.
"""

import dataclasses

import ml_collections

from experiments import arms, sections, settings
from grm_jax.data.pipeline import PackingConfig
from grm_jax.data.small_world import SmallWorldConfig
from grm_jax.learning.grpo import GRPOConfig
from grm_jax.learning.meta_rm import MetaRMConfig
from grm_jax.learning.rejection import RejectionRules
from grm_jax.learning.state import OptimizerConfig
from grm_jax.models import hub
from grm_jax.models.config import VARIANTS, LoRAConfig, ModelConfig
from grm_jax.models.hub import config_file
from grm_jax.parallel.mesh import MeshConfig
from grm_jax.sampling.draw import DrawConfig
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.voting import half, resolve_k_meta

_TOP = ("seed", "mesh", "template", "tokenizer", "sampling", "released", "model", "lora",
        "small_world", "data", *sections.TRAINED_STAGES, "benchmark", "ablate")  # fmt: skip

_PLAIN = {
    "template": sections.Template, "tokenizer": sections.TokenizerConfig,
    "sampling": sections.Sampling,
}  # fmt: skip
# Sections inside sections, and the fields that the experiment fills in itself.
_INNER = {
    "optimizer": (OptimizerConfig, {}),
    "packing": (PackingConfig, {}),
    "buckets": (Buckets, {}),
    "draw": (
        DrawConfig,
        {"form": "full", "principles": "self", "answer": "scores", "reference": False},
    ),
}
_SECTIONS = {
    "base": {"data": sections.SFTData},
    "cold_start": {"data": sections.SFTData},
    "rft": {"": RejectionRules, "data": sections.RFTData},
    "grpo": {"": GRPOConfig, "loop": sections.GRPOLoop},
    "meta_rm": {"": MetaRMConfig, "loop": sections.ScalarLoop},
    "baseline": {"": sections.BaselineConfig, "loop": sections.ScalarLoop},
    "benchmark": {"": sections.BenchmarkConfig},
}
# Those that a stage does not do without. A released meta RM is not trained, and baselines differ.
_REQUIRED = {
    "base": ("optimizer", "packing"),
    "cold_start": ("optimizer", "packing"),
    "rft": ("draw", "buckets", "optimizer", "packing"),
    "grpo": ("draw", "buckets", "optimizer"),
    "benchmark": ("draw", "buckets"),
}
_ENGINE_FIELDS = tuple(field.name for field in dataclasses.fields(sections.EngineConfig))
_ENGINE_SECTIONS = ("rft", "benchmark")
INNER_NAMES = (*_INNER, "data", "loop", *_ENGINE_FIELDS)


def engine_config(config: ml_collections.ConfigDict, section: str) -> sections.EngineConfig:
    """The engine fields of a section; every other field there belongs to others."""
    others = tuple(set(config[section]) - set(_ENGINE_FIELDS))
    return settings.from_section(sections.EngineConfig, config, section, sections=others)


def check(config: ml_collections.ConfigDict) -> None:
    """Builds every dataclass of a config.

    Raises:
      ValueError: naming the dotted field that is unknown, missing, of a wrong type, or impossible.
    """
    for name in config:
        if name not in _TOP:
            raise ValueError(f"config.{name}: unknown section; known are {list(_TOP)}")
    settings.require_seed(config.get("seed"), "config.seed")
    for name, cls in _PLAIN.items():
        settings.from_section(cls, config, name)
    if "released" in config:
        _check_released(config)
    if "lora" in config:
        _check_lora(config)
    _check_types(config, model_config(config, vocab_size=1))
    settings.from_section(MeshConfig, config, "mesh")
    if "small_world" in config:
        settings.from_section(SmallWorldConfig, config, "small_world")
    if "data" in config:
        settings.from_section(sections.DataConfig, config, "data")
    _check_origin(config)
    if "ablate" in config:
        settings.from_section(sections.AblateConfig, config, "ablate", sections=("arms",))
    built = {}
    for name, own in _SECTIONS.items():
        if name not in config:
            continue
        if name in _ENGINE_SECTIONS:
            built[f"{name}.engine"] = engine_config(config, name)
        elif misplaced := sorted(set(config[name]) & set(_ENGINE_FIELDS)):
            raise ValueError(
                f"config.{name}.{misplaced[0]}: engines are chosen in {_ENGINE_SECTIONS} only"
            )
        for part, cls in own.items():
            dotted = f"{name}.{part}" if part else name
            built[dotted] = settings.from_section(cls, config, dotted, sections=INNER_NAMES)
        for part, (cls, extra) in _INNER.items():
            if part in config[name] or part in _REQUIRED.get(name, ()):
                fixed = dict(extra)
                if (name, part) == ("grpo", "draw"):
                    fixed |= {"k": built["grpo"].group_size, "order_policy": "group"}
                if (name, part) == ("rft", "draw"):
                    fixed |= {"k": built["rft"].num_samples}
                dotted = f"{name}.{part}"
                built[dotted] = settings.from_section(cls, config, dotted, **fixed)
    _check_together(config, built)


def arm_configs(
    config: ml_collections.ConfigDict,
) -> dict[str, ml_collections.FrozenConfigDict]:
    """Checked configs of the run itself, as arm "", and of its arms.

    Raises:
      ValueError: naming the arm, and the field that it makes impossible.
    """
    found = {arms.MAIN: ml_collections.FrozenConfigDict(config)}
    for name in config.get("ablate", {}).get("arms", {}):
        found[name] = arms.changed(config, name)
        try:
            check(found[name])
        except ValueError as error:
            raise ValueError(f"config.ablate.arms.{name}: {error}") from error
    if "benchmark" in config:
        for name in settings.names(config.benchmark.get("arms", ""), "config.benchmark.arms"):
            if name not in found:
                raise ValueError(
                    f"config.benchmark.arms: no arm {name!r} in config.ablate.arms; there are "
                    f"{[*found][1:]}"
                )
    return found


def _check_released(config) -> None:
    """Kinds, configs and tokenizers of the folders, and that nothing here contradicts them."""
    released = settings.from_section(sections.Released, config, "released")
    for field, kind in (("model", config_file.CAUSAL), ("meta_rm", config_file.REWARD)):
        folder = getattr(released, field)
        if not folder:
            continue
        try:
            found = config_file.architecture(folder)
            if not found.endswith(kind):
                raise ValueError(f"{folder}: expected an architecture {kind}, found {found}")
            shape = hub.read_config(folder)
            hub.check_vocab(shape, load_tokenizer(folder).vocab_size, folder)
        except (ValueError, OSError) as error:
            raise ValueError(f"config.released.{field}: {error}") from error
    if released.variant:
        same = {name: getattr(VARIANTS[released.variant], name) for name in config_file.HOW}
        found = dataclasses.replace(hub.read_config(released.model), **same)
        if found != VARIANTS[released.variant]:
            raise ValueError(
                f"config.released.model: {released.model} has another shape than "
                f"config.released.variant, {released.variant!r}"
            )
    fixed = sorted(set(config.model) - set(config_file.HOW))
    if fixed:
        raise ValueError(
            f"config.model.{fixed[0]}: belongs to the weights of config.released.model; section "
            f"model may hold {list(config_file.HOW)}"
        )
    if released.meta_rm and "optimizer" in config.get("meta_rm", {}):
        raise ValueError(
            "config.meta_rm.optimizer: the meta RM is config.released.meta_rm and is not trained"
        )


def _check_origin(config) -> None:
    """Every stage has its data: from the small world, or from files, never from both."""
    if "small_world" in config:
        if "data" in config:
            raise ValueError("config.data: config.small_world brings its own data; give one only")
        return
    data = config.get("data", {})
    for dotted, split in (
        ("base.data.general", "general"),
        ("cold_start.data.general", "general"),
        ("cold_start.data.demonstrations", ""),
        ("base.data.demonstrations", ""),
        ("rft.data.general", "general"),
        ("rft.data.comparisons", "train"),
        ("grpo.loop.comparisons", "train"),
        ("meta_rm.loop.comparisons", "train"),
        ("baseline.loop.comparisons", "train"),
    ):
        section, part, field = dotted.split(".")
        if not config.get(section, {}).get(part, {}).get(field, 0):
            continue
        if not split:
            raise ValueError(f"config.{dotted}: must be 0, only a small world demonstrates")
        if not data.get(split):
            raise ValueError(f"config.data.{split}: is not given, and config.{dotted} needs it")


def _check_lora(config) -> None:
    section = settings.from_section(sections.LoRA, config, "lora")
    for name in settings.names(section.stages, "config.lora.stages"):
        if "optimizer" not in config.get(name, {}):
            raise ValueError(
                f"config.lora.stages: {name!r} is not trained without a section "
                f"config.{name}.optimizer"
            )


def _check_types(config, model: ModelConfig) -> None:
    trained = [
        name for name in sections.TRAINED_STAGES
        if "optimizer" in config.get(name, {}) and adapters(config, name) is None
    ]
    if trained and model.param_dtype != "float32":
        raise ValueError(
            f"config.model.param_dtype: {model.param_dtype} would round away the updates of "
            f"config.{trained[0]}: train with float32 (dtype may be bfloat16), or adapters, by "
            "config.lora.stages"
        )


def adapters(config: ml_collections.ConfigDict, stage: str) -> LoRAConfig | None:
    """The adapters that a stage trains; None if it trains all parameters.

    Args:
      config: the whole config.
      stage: one of `TRAINED_STAGES`, whatever the arm.
    """
    if "lora" not in config:
        return None
    section = settings.from_section(sections.LoRA, config, "lora")
    chosen = stage in settings.names(section.stages, "config.lora.stages")
    return LoRAConfig(section.rank, section.alpha) if chosen else None


def model_config(config: ml_collections.ConfigDict, vocab_size: int) -> ModelConfig:
    """Section `model`: all fields, or some that differ from released weights or a `variant`.

    Args:
      config: the whole config.
      vocab_size: rows of the embedding where nothing else decides them.

    Raises:
      ValueError, FileNotFoundError: as `settings.from_section` and `hub.read_config`.
    """
    rules = settings.from_section(MeshConfig, config, "mesh").table()
    if "released" in config:
        shape = hub.read_config(config.released.model)
    elif "variant" in config.model:
        if config.model.variant not in VARIANTS:
            raise ValueError(
                f"config.model.variant: must be one of {sorted(VARIANTS)}, "
                f"got {config.model.variant!r}"
            )
        shape = VARIANTS[config.model.variant]
    else:
        return settings.from_section(
            ModelConfig, config, "model", vocab_size=vocab_size, rules=rules
        )
    return settings.from_section(
        ModelConfig, config, "model", sections=("variant",), defaults=shape, rules=rules
    )


def _check_together(config, built) -> None:
    for name, buckets in built.items():
        section, _, part = name.rpartition(".")
        if part == "buckets" and f"{section}.draw" in built:
            longest, wanted = buckets.output_lengths[-1], built[f"{section}.draw"].max_new_tokens
            if wanted > longest:
                raise ValueError(
                    f"config.{section}.draw.max_new_tokens: {wanted} exceeds the largest of "
                    f"config.{section}.buckets.output_lengths, {longest}"
                )
    if "benchmark" in built:
        for field in ("greedy_stages", "sampled_stages"):
            stages = settings.names(config.benchmark[field], f"config.benchmark.{field}")
            remote = built["benchmark.engine"].engine == "openai"
            if remote != ("remote" in stages) or (remote and len(stages) > 1):
                raise ValueError(
                    f"config.benchmark.{field}: {config.benchmark[field]!r}, but the stage "
                    "'remote' is what config.benchmark.engine=openai draws from, and all of it"
                )
            if remote and config.benchmark.get("principles"):
                raise ValueError(
                    "config.benchmark.principles: no principles can be given to a server, which "
                    "begins its answers itself"
                )
            impossible = "random_weights" if "released" in config else "released"
            if impossible in stages:
                raise ValueError(
                    f"config.benchmark.{field}: {impossible!r} is not there "
                    f"{'with' if 'released' in config else 'without'} a section config.released"
                )
        ks = settings.numbers(built["benchmark"].ks, "config.benchmark.ks")
        k = built["benchmark.draw"].k
        if not ks or not 1 <= min(ks) <= max(ks) <= k or len(set(ks)) < len(ks):
            raise ValueError(
                f"config.benchmark.ks: {built['benchmark'].ks!r} must be different numbers from 1 "
                f"to config.benchmark.draw.k = {k}"
            )
        k_meta = settings.numbers(built["benchmark"].k_meta, "config.benchmark.k_meta")
        try:
            resolve_k_meta(ks, k_meta or half)
        except ValueError as error:
            raise ValueError(f"config.benchmark.k_meta: {error}") from error
        if config.template.principles == "none" and built["benchmark"].principles:
            raise ValueError(
                "config.benchmark.principles: config.template.principles='none' has no place for "
                "them"
            )
        if built["benchmark"].arms and built["benchmark"].arm_k > k:
            raise ValueError(
                f"config.benchmark.arm_k: {built['benchmark'].arm_k} exceeds "
                f"config.benchmark.draw.k = {k}"
            )
        if built["benchmark.draw"].order_policy == "both" and k < 2:
            raise ValueError(
                "config.benchmark.draw.k: must be at least 2 where order_policy is 'both'"
            )
    if "grpo" in built:
        draw = built["grpo.draw"]
        if not draw.temperature > 0:
            raise ValueError("config.grpo.draw.temperature: must be above 0, or nothing is sampled")
        if draw.top_p < 1:
            raise ValueError(
                f"config.grpo.draw.top_p: must be 1, got {draw.top_p}: the policy has no gradient "
                "for what is cut off"
            )
        loop = built["grpo.loop"]
        if loop.prompts_per_step > loop.comparisons:
            raise ValueError(
                f"config.grpo.loop.prompts_per_step: {loop.prompts_per_step} different comparisons "
                f"are more than config.grpo.loop.comparisons = {loop.comparisons}"
            )
        steps, epochs = built["grpo.optimizer"].steps, built["grpo"].inner_epochs
        if steps % epochs:
            raise ValueError(
                f"config.grpo.optimizer.steps: {steps} updates are not a multiple of "
                f"config.grpo.inner_epochs = {epochs}"
            )
    _check_divisible(config, built)


def _check_divisible(config, built) -> None:
    """Batches split evenly over the mesh, each micro-batch included."""
    mesh = settings.from_section(MeshConfig, config, "mesh")
    parts, rollout_parts = mesh.parts("batch"), mesh.parts("batch", rollout=True)
    # Fields, their sizes, rows for one of them, micro-batches.
    batches = [
        (f"{stage}.packing.batch_size", 1, built[f"{stage}.data"].micro_batches)
        for stage in ("base", "cold_start", "rft") if f"{stage}.data" in built
    ]
    if "grpo" in built:
        grpo = built["grpo"]
        batches.append(("grpo.loop.prompts_per_step", 1, 1))  # whole groups on a device
        batches.append(("grpo.loop.prompts_per_step", grpo.group_size, grpo.micro_batches))
    for stage in ("meta_rm", "baseline"):
        if stage in built:
            batches.append((f"{stage}.loop.batch_size", 1, built[stage].micro_batches))
    for name, rows, pieces in batches:
        section, _, field = name.rpartition(".")
        if section not in built:
            continue
        size = getattr(built[section], field)
        if size * rows % (parts * pieces):
            raise ValueError(
                f"config.{name}: {size * rows} rows are not a multiple of {parts * pieces}: "
                f"config.mesh splits batches in {parts}"
                + (f", and there are {pieces} micro-batches" if pieces > 1 else "")
            )
    for name, buckets in built.items():
        if name.endswith(".buckets"):
            for bucket in buckets.shapes():
                if bucket.P % rollout_parts:
                    raise ValueError(
                        f"config.{name}.samples_per_unit: {buckets.samples_per_unit} makes units "
                        f"of {bucket.P} prompts with {bucket.S} samples each, and config.mesh "
                        f"splits prompts in {rollout_parts}"
                    )
