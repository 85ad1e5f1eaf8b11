"""What the sections of a config hold, beside the dataclasses of the library.

A section's own fields belong to one dataclass; its sections inside (`optimizer`, `draw`, ...)
belong to others. `check` builds all of them, so that a bad field stops a run at once.
"""

import dataclasses

import ml_collections

from experiments import arms, settings
from experiments.given import SOURCES
from grm_jax.data import mixture
from grm_jax.data.benchmarks import SUITES
from grm_jax.data.pipeline import PackingConfig
from grm_jax.data.small_world import VERDICTS, SmallWorldConfig
from grm_jax.learning.grpo import GRPOConfig
from grm_jax.learning.meta_rm import MetaRMConfig
from grm_jax.learning.rejection import RejectionRules
from grm_jax.learning.state import OptimizerConfig
from grm_jax.models import hub
from grm_jax.models.config import VARIANTS, LoRAConfig, ModelConfig
from grm_jax.models.hub import config_file
from grm_jax.parallel.mesh import MeshConfig
from grm_jax.sampling.draw import DrawConfig
from grm_jax.sampling.remote import Server
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text import prompts
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.voting import AGGREGATIONS, PARSE_POLICIES, TIE_POLICIES, half, resolve_k_meta

# What a run starts from, and the model behind a remote engine.
UNTRAINED_STAGES = ("random_weights", "released", "remote")
TRAINED_STAGES = ("base", "cold_start", "rft", "grpo", "meta_rm", "baseline")
BASELINES = ("bradley_terry", "pairrm", "cloud", "llm_judge", "token_prob")
MEASURED_STAGES = (*UNTRAINED_STAGES, "base", "cold_start", "rft", "grpo")
OWN_SUITES = ("small_world", "data")  # splits of what the config trains on


@dataclasses.dataclass(frozen=True)
class Released:
    """Released weights that a run starts from: folders in the format of the Hugging Face hub.

    Attributes:
      model: the policy; its config.json takes the place of section `model`, whose fields may still
        change what does not belong to the weights, such as `dtype` and `remat`.
      meta_rm: a sequence classifier with one label, of any architecture; "" for none.
      variant: published shape that the weights of `model` must have, see `models.config.VARIANTS`;
        tools.plan needs no more than that. "" for any.
    """

    model: str
    meta_rm: str = ""
    variant: str = ""

    def __post_init__(self):
        if self.variant and self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {sorted(VARIANTS)}, got {self.variant!r}")


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which stages train adapters beside frozen parameters, instead of the parameters.

    Attributes:
      stages: comma-separated names out of `TRAINED_STAGES`; "" for none.
      rank, alpha: see `models.config.LoRAConfig`.
    """

    stages: str
    rank: int
    alpha: float

    def __post_init__(self):
        given = settings.names(self.stages, "stages")
        if not set(given) <= set(TRAINED_STAGES):
            raise ValueError(f"stages must name some of {TRAINED_STAGES}, got {self.stages!r}")
        LoRAConfig(self.rank, self.alpha)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Files that a config without a small world works with; see `grm_jax.data.mixture`.

    Attributes:
      train: mixture of comparisons to train on.
      development, test: mixtures of comparisons to measure on, the suite "data".
      general: mixture of general instruction data.
      benchmark_dir: folder of the benchmarks that what is trained on is compared with: all that
        are found there.
      against: comma-separated names of those that must be there.
      overlap: what happens to rows of `train` and `general` whose prompt is in a benchmark:
        "refuse" ends the run, "drop" leaves them out, "allow" does not look for them.
    """

    train: str = ""
    development: str = ""
    test: str = ""
    general: str = ""
    benchmark_dir: str = ""
    against: str = "judgebench,llmbar,rmb_bon"
    overlap: str = "refuse"

    def __post_init__(self):
        for name in ("train", "development", "test", "general"):
            try:
                self.sources(name)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.overlap not in ("refuse", "drop", "allow"):
            raise ValueError(f"overlap must be refuse, drop or allow, got {self.overlap!r}")
        if self.overlap == "allow" or not (self.train or self.general):
            return
        if not self.benchmark_dir:
            raise ValueError(
                "benchmark_dir: name the folder of the benchmarks, so that training data can be "
                "compared with them, or set overlap=allow"
            )
        unknown = set(settings.names(self.against, "against")) - set(SUITES)
        if unknown or not self.against:
            raise ValueError(f"against must name some of {[*SUITES]}, got {self.against!r}")

    def sources(self, split: str) -> tuple[mixture.Source, ...]:
        """The mixture of a split."""
        kind = "instructions" if split == "general" else "comparisons"
        return mixture.parse(getattr(self, split), kind)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """What draws the trajectories of a section: fields of `rft` and of `benchmark` themselves.

    Attributes:
      engine: "jitted", on the devices of the mesh, or "openai", an OpenAI-compatible server.
      engine_url, engine_model, engine_parallel, engine_rate, engine_timeout, engine_tries: of the
        server; see `sampling.remote.Server`. Its key is in the environment (OPENAI_API_KEY).
    """

    engine: str = "jitted"
    engine_url: str = ""
    engine_model: str = ""
    engine_parallel: int = 16
    engine_rate: float = 0.0
    engine_timeout: float = 600.0
    engine_tries: int = 8

    def __post_init__(self):
        if self.engine not in ("jitted", "openai"):
            raise ValueError(f"engine must be jitted or openai, got {self.engine!r}")
        try:
            self.server()
        except ValueError as error:
            raise ValueError(f"engine_{error}") from None

    def server(self) -> Server | None:
        """The server, or None for the jitted engine."""
        if self.engine == "jitted":
            return None
        names = ("url", "model", "parallel", "rate", "timeout", "tries")
        return Server(**{name: getattr(self, f"engine_{name}") for name in names})


def engine_config(config: ml_collections.ConfigDict, section: str) -> EngineConfig:
    """The engine fields of a section; every other field there belongs to others."""
    others = tuple(set(config[section]) - set(_ENGINE_FIELDS))
    return settings.from_section(EngineConfig, config, section, sections=others)


@dataclasses.dataclass(frozen=True)
class SFTData:
    """Data of a supervised stage.

    Attributes:
      demonstrations: comparisons with one demonstrated trajectory each.
      general: pieces of general instruction data.
      micro_batches: pieces of a batch whose gradients are summed.
      checkpoint_every: steps between checkpoints.
      verdicts: order in which demonstrations check their criteria, see `small_world.VERDICTS`.
    """

    demonstrations: int
    general: int
    micro_batches: int = 1
    checkpoint_every: int = 100
    verdicts: str = "weight"

    def __post_init__(self):
        if self.verdicts not in VERDICTS:
            raise ValueError(f"verdicts must be one of {VERDICTS}, got {self.verdicts!r}")


@dataclasses.dataclass(frozen=True)
class RFTData:
    """Data of rejective fine-tuning.

    Attributes:
      comparisons: comparisons of which trajectories are drawn.
      general: pieces of general instruction data mixed in.
      micro_batches: as in `SFTData`.
      checkpoint_every: steps between checkpoints.
    """

    comparisons: int
    general: int
    micro_batches: int = 1
    checkpoint_every: int = 100


@dataclasses.dataclass(frozen=True)
class GRPOLoop:
    """The loop around GRPO.

    Attributes:
      comparisons: comparisons to draw prompts from.
      prompts_per_step: P, groups of one iteration.
      checkpoint_every: iterations between checkpoints.
      easy_for: a stage of this workdir, such as "rft", or a trajectories file of any run: the
        comparisons that its non-hinted trajectories get right `easy_samples` times of as many are
        left out, as the paper does with those of DeepSeek-V2-Lite-Chat. "" leaves out none.
      easy_samples: fewest trajectories that make a comparison too easy, if all are right.
      start: the stage that GRPO starts from and has as its reference, "rft" or "cold_start".
    """

    comparisons: int
    prompts_per_step: int
    checkpoint_every: int = 10
    easy_for: str = ""
    easy_samples: int = 3
    start: str = "rft"

    def __post_init__(self):
        if self.start not in ("rft", "cold_start"):
            raise ValueError(f"start must be rft or cold_start, got {self.start!r}")
        if self.easy_samples < 1:
            raise ValueError(f"easy_samples must be at least 1, got {self.easy_samples}")


@dataclasses.dataclass(frozen=True)
class ScalarLoop:
    """Data and batches of a stage that trains a scalar head.

    Attributes:
      comparisons: comparisons to train on; of the meta RM, those of which trajectories are drawn
        from the GRM.
      batch_size: examples of a batch: trajectories of the meta RM, pairs of a baseline.
      row_length: tokens of a row: query, response or responses, and what was written about them.
      checkpoint_every: steps between checkpoints.
    """

    comparisons: int
    batch_size: int
    row_length: int
    checkpoint_every: int = 100

    def __post_init__(self):
        for name in ("batch_size", "row_length", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """A trained baseline; its data and batches are section `baseline.loop`.

    Attributes:
      kind: one of `BASELINES`.
      k: samples of each comparison that kinds which write are measured with.
      micro_batches: pieces that a training step of a scalar head splits a batch into.
    """

    kind: str
    k: int = 8
    micro_batches: int = 1

    def __post_init__(self):
        if self.kind not in BASELINES:
            raise ValueError(f"kind must be one of {BASELINES}, got {self.kind!r}")
        for name in ("k", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured, and how it is counted.

    Attributes:
      suites: comma-separated names of `grm_jax.data.benchmarks.SUITES`, "small_world" (the held-out
        split) or "data".
      data_dir: folder of the real suites.
      limit: rows of each suite, evenly spread; a row may be several comparisons.
      greedy_stages: stages measured greedily.
      sampled_stages: stages of which k samples are drawn; the votes of the last are the paper's.
      ks: values of k for voting.
      k_meta: samples that guided voting keeps, one number for each of `ks`; "" is k // 2.
      num_subsets: random k-subsets of the drawn samples.
      aggregation: see `voting`.
      tie_policy: see `voting`.
      parse_policy: see `voting`.
      parse: whose scores count, those of the "strict" or of the "lenient" parser.
      max_unparsed: share of samples without strict scores above which the run ends with an error.
      max_cut: the same for samples that met the length limit.
      arms: comma-separated arms of `config.ablate.arms` that are measured beside the run itself.
      arm_k: samples of each of them.
      principles: whose principles the judge is given, one of `given.SOURCES`; "" if it writes its
        own.
      reference: show the reference of each comparison in the prompt.
      count_all: count votes by every aggregation and several k_meta, for results and ablations.
      meta_rm: measure guided voting.
      split: "development" or "test".
    """

    suites: str
    data_dir: str
    limit: int
    greedy_stages: str
    sampled_stages: str
    ks: str
    k_meta: str = ""
    num_subsets: int = 64
    aggregation: str = "sum"
    tie_policy: str = "uniform"
    parse_policy: str = "chance"
    parse: str = "strict"
    max_unparsed: float = 0.2
    max_cut: float = 0.2
    arms: str = ""
    arm_k: int = 8
    principles: str = ""
    reference: bool = False
    count_all: bool = False
    meta_rm: bool = True
    split: str = "development"

    def __post_init__(self):
        for name, known in (
            ("aggregation", AGGREGATIONS), ("tie_policy", TIE_POLICIES),
            ("parse_policy", PARSE_POLICIES), ("parse", ("strict", "lenient")),
            ("principles", ("", *SOURCES)), ("split", ("development", "test")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name, known in (
            ("suites", (*OWN_SUITES, *SUITES)),
            ("greedy_stages", MEASURED_STAGES),
            ("sampled_stages", MEASURED_STAGES),
        ):
            given = settings.names(getattr(self, name), name)
            bad = [part for part in given if part not in known]
            if not given or bad:
                raise ValueError(f"{name} must name some of {known}, got {getattr(self, name)!r}")
        for name, lowest in (("limit", 1), ("num_subsets", 1), ("arm_k", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """Seeds of an ablation; its arms are in the section `ablate.arms`, see `experiments.arms`.

    Attributes:
      seeds: comma-separated, listed before any of them is run; each is measured on the split "test"
        once.
      development_seeds: for the split "development", on which everything is chosen.
      opened: seeds that earlier configs were measured on: no longer held out.
      only: comma-separated arms that are run; "" for all.
    """

    seeds: str
    development_seeds: str
    opened: str = ""
    only: str = ""

    def __post_init__(self):
        place = {}
        for name in ("seeds", "development_seeds", "opened"):
            for seed in settings.numbers(getattr(self, name), name):
                if seed in place:
                    raise ValueError(f"{name}: seed {seed} is in {place[seed]} already")
                place[seed] = name

    def of_split(self, split: str) -> list[int]:
        """The seeds that a split is measured on."""
        name = "development_seeds" if split == "development" else "seeds"
        return settings.numbers(getattr(self, name), name)


_TOP = ("seed", "mesh", "template", "tokenizer", "sampling", "released", "model", "lora",
        "small_world", "data", *TRAINED_STAGES, "benchmark", "ablate")  # fmt: skip

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
    "base": {"data": SFTData},
    "cold_start": {"data": SFTData},
    "rft": {"": RejectionRules, "data": RFTData},
    "grpo": {"": GRPOConfig, "loop": GRPOLoop},
    "meta_rm": {"": MetaRMConfig, "loop": ScalarLoop},
    "baseline": {"": BaselineConfig, "loop": ScalarLoop},
    "benchmark": {"": BenchmarkConfig},
}
_ENGINE_FIELDS = tuple(field.name for field in dataclasses.fields(EngineConfig))
_ENGINE_SECTIONS = ("rft", "benchmark")
INNER_NAMES = (*_INNER, "data", "loop", *_ENGINE_FIELDS)


def check(config: ml_collections.ConfigDict) -> None:
    """Builds every dataclass of a config.

    Raises:
      ValueError: naming the dotted field that is unknown, missing, of a wrong type, or impossible.
    """
    for name in config:
        if name not in _TOP:
            raise ValueError(f"config.{name}: unknown section; known are {list(_TOP)}")
    _check_template(config)
    if "released" in config:
        _check_released(config)
    if "lora" in config:
        _check_lora(config)
    _check_types(config, model_config(config, vocab_size=1))
    settings.from_section(MeshConfig, config, "mesh")
    if "small_world" in config:
        settings.from_section(SmallWorldConfig, config, "small_world")
    if "data" in config:
        settings.from_section(DataConfig, config, "data")
    _check_origin(config)
    if "ablate" in config:
        settings.from_section(AblateConfig, config, "ablate", sections=("arms",))
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
            if part in config[name]:
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
    released = settings.from_section(Released, config, "released")
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
    section = settings.from_section(LoRA, config, "lora")
    for name in settings.names(section.stages, "config.lora.stages"):
        if "optimizer" not in config.get(name, {}):
            raise ValueError(
                f"config.lora.stages: {name!r} is not trained without a section "
                f"config.{name}.optimizer"
            )


def _check_types(config, model: ModelConfig) -> None:
    trained = [
        name for name in TRAINED_STAGES
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
    section = settings.from_section(LoRA, config, "lora")
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


def _check_template(config) -> None:
    if unknown := sorted(set(config.template) - {"form", "principles"}):
        raise ValueError(f"config.template.{unknown[0]}: unknown field")
    for field, known in (("form", prompts.FORMS), ("principles", prompts.PRINCIPLE_MODES)):
        if config.template[field] not in known:
            raise ValueError(
                f"config.template.{field}: must be one of {known}, got {config.template[field]!r}"
            )


def _check_together(config, built) -> None:
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
