"""What the sections of a config hold, beside the dataclasses of the library.

A section's own fields belong to one dataclass; its sections inside (`optimizer`, `draw`, ...)
belong to others.
"""

import dataclasses

from experiments import settings
from experiments.given import SOURCES
from grm_jax.data import mixture
from grm_jax.data.benchmarks import SUITES
from grm_jax.data.small_world import VERDICTS
from grm_jax.models.config import VARIANTS, LoRAConfig
from grm_jax.sampling.remote import Server
from grm_jax.text.prompts import FORMS, PRINCIPLE_MODES
from grm_jax.voting import AGGREGATIONS, PARSE_POLICIES, TIE_POLICIES

# What a run starts from, and the model behind a remote engine.
UNTRAINED_STAGES = ("random_weights", "released", "remote")
TRAINED_STAGES = ("base", "cold_start", "rft", "grpo", "meta_rm", "baseline")
BASELINES = ("bradley_terry", "pairrm", "cloud", "llm_judge", "token_prob")
MEASURED_STAGES = (*UNTRAINED_STAGES, "base", "cold_start", "rft", "grpo")
OWN_SUITES = ("small_world", "data")  # splits of what the config trains on


@dataclasses.dataclass(frozen=True)
class Template:
    """How prompts are written.

    Attributes:
      form: one of `prompts.FORMS`.
      principles: one of `prompts.PRINCIPLE_MODES`.
    """

    form: str
    principles: str

    def __post_init__(self):
        for name, known in (("form", FORMS), ("principles", PRINCIPLE_MODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Where the tokenizer comes from.

    Attributes:
      path: a SentencePiece model, or a folder of the hub; "" for that of the released weights, or
        for one that is trained on the small world.
      vocab_size: pieces of the one that is trained.
    """

    path: str
    vocab_size: int = 0


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the jitted engine decodes.

    Attributes:
      chunk: tokens between two looks at which sequences have ended.
    """

    chunk: int

    def __post_init__(self):
        settings.require_at_least(self, 1, "chunk")


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
        settings.require_at_least(self, 0, "demonstrations", "general")
        settings.require_at_least(self, 1, "micro_batches", "checkpoint_every")
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

    def __post_init__(self):
        settings.require_at_least(self, 0, "general")
        settings.require_at_least(self, 1, "comparisons", "micro_batches", "checkpoint_every")


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
        settings.require_at_least(
            self, 1, "comparisons", "prompts_per_step", "checkpoint_every", "easy_samples"
        )


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
        settings.require_at_least(self, 1, "batch_size", "row_length", "checkpoint_every")


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
        settings.require_at_least(self, 1, "k", "micro_batches")


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
        settings.require_at_least(self, 1, "limit", "num_subsets", "arm_k")


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
