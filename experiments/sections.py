"""The sections of a config: a tree of dataclasses, from `Config` at the end down to the library.

A section has the fields of its dataclass, the fields of the dataclasses that are marked flat, and
inner sections. A condition on two fields stands in the `__post_init__` of the smallest dataclass
that has both; `experiments.config` puts its dotted name before the message.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any

from grm_jax.benchmarks import SUITES
from grm_jax.data import mixture
from grm_jax.data.pipeline import PackingConfig
from grm_jax.data.small_world import VERDICTS, SmallWorldConfig
from grm_jax.evaluation import method
from grm_jax.learning.grpo import GRPOConfig
from grm_jax.learning.meta_rm import MetaRMConfig
from grm_jax.learning.rejection import RejectionRules
from grm_jax.learning.state import OptimizerConfig
from grm_jax.models.config import LoRAConfig
from grm_jax.models.variants import VARIANTS
from grm_jax.parallel.mesh import MeshConfig
from grm_jax.ranges import (
    Checked,
    Count,
    Natural,
    Positive,
    Range,
    Seed,
    Share,
    names_of,
    one_of,
    split,
)
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.given import SOURCES
from grm_jax.sampling.remote import Server
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text import judges
from grm_jax.text.chat_templates import THINKING
from grm_jax.text.prompts import FORMS, PRINCIPLE_MODES
from grm_jax.voting import AGGREGATIONS, PARSE_POLICIES, TIE_POLICIES, half, resolve_k_meta

# The start of a run, and the model behind a remote engine.
UNTRAINED_STAGES = ("random_weights", "released", "remote")
TRAINED_STAGES = ("base", "cold_start", "rft", "grpo", "meta_rm", "baseline")
BASELINES = tuple(method.BASELINES)
MEASURED_STAGES = tuple(method.STAGES)
OWN_SUITES = ("small_world", "data")  # held-out splits of the training data


def _all_positive(numbers: tuple[int, ...]) -> bool:
    return all(number >= 1 for number in numbers)


(_SEED,) = Seed.__metadata__
_Seeds = Annotated[
    tuple[int, ...], Range(f"integers {_SEED.text}", lambda seeds: all(map(_SEED.holds, seeds)))
]
_Numbers = Annotated[
    tuple[int, ...],
    Range(
        "different numbers of at least 1",
        lambda ks: bool(ks) and _all_positive(ks) and len(set(ks)) == len(ks),
    ),
]

# Fields of a dataclass that stand in the section of their parent, such as `grpo.kl_coef`.
_FLAT = {"flat": ""}  # with this prefix
# Fields of every section `draw` that the template or an experiment decides, and no config holds.
_TEMPLATE = {"form": lambda built: built["template"].form,
             "principles": lambda built: built["template"].principles,
             "judge": lambda built: built["template"].judge,
             "reference": lambda built: built["template"].reference,
             "answer": "scores"}  # fmt: skip


def _drawn(**siblings: Any) -> Any:
    """A section `draw` some of whose fields the template and the parent decide.

    Args:
      siblings: values of such fields, or functions of the sections and fields built before.
    """
    return dataclasses.field(metadata={"fixed": {**_TEMPLATE, **siblings}})


@dataclasses.dataclass(frozen=True)
class Template(Checked):
    """The prompt template.

    Attributes:
      form: one of `prompts.FORMS`.
      principles: one of `prompts.PRINCIPLE_MODES`.
      thinking: tells the chat template of the checkpoint, by enable_thinking, whether the model
        thinks before it answers: "on" or "off"; "" tells it nothing. A server is told by
        `engine_extra`.
      file: a Jinja template that makes the prompts of `benchmark` instead of ours, for judges of
        other kinds, see `text.judges`; `form` is then that of the meta RM. "" for none.
      verdict: what answers to the prompts of `file` are read as: boxed, letters,
        last_number:LOW-HIGH, json:KEY or regex:PATTERN, see `text.verdicts`.
      reference: show the reference of each comparison in the prompts that stages train on;
        `benchmark.reference` says it for those of the benchmark.
    """

    form: Annotated[str, one_of(FORMS)]
    principles: Annotated[str, one_of(PRINCIPLE_MODES)]
    thinking: Annotated[str, one_of(THINKING)] = ""
    file: str = ""
    verdict: str = "boxed"
    reference: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not self.file:
            text = "boxed without a config.template.file: our own prompts ask for boxes"
            self.demand("verdict", self.verdict == "boxed", text)
        _ = self.judge  # reads it, or says what is wrong

    @functools.cached_property
    def judge(self) -> judges.Judge | None:
        """The judge of `file`; ValueError for one that cannot be used."""
        try:
            return judges.load(self.file, self.verdict) if self.file else None
        except ValueError as error:
            raise ValueError(f"file: {error}") from error


@dataclasses.dataclass(frozen=True)
class TokenizerConfig(Checked):
    """The source of the tokenizer.

    Attributes:
      path: a SentencePiece model, or a folder of the hub; "" for the tokenizer of the released
        weights, or for one that is trained on the small world.
      vocab_size: pieces of a trained tokenizer.
    """

    path: str
    vocab_size: Natural = 0


@dataclasses.dataclass(frozen=True)
class Sampling(Checked):
    """Decoding by the jitted engine.

    Attributes:
      chunk: tokens between two checks for sequences that have ended.
    """

    chunk: Count


@dataclasses.dataclass(frozen=True)
class Released(Checked):
    """Released weights that a run starts from: folders in the format of the Hugging Face hub.

    Attributes:
      model: the policy; its config.json replaces section `model`, which may still set fields that
        the weights do not fix, such as `dtype` and `remat`.
      meta_rm: a sequence classifier with one label, of any architecture; "" for none.
      variant: published shape that the weights of `model` must have, see `models.variants`;
        enough for tools.plan. "" for any.
    """

    model: Annotated[str, Range("the name of a folder", bool)]
    meta_rm: str = ""
    variant: Annotated[str, one_of(("", *sorted(VARIANTS)))] = ""


@dataclasses.dataclass(frozen=True)
class LoRA(Checked):
    """The stages that train adapters instead of their parameters.

    Attributes:
      stages: comma-separated names out of `TRAINED_STAGES`; "" for none.
      rank, alpha: see `models.config.LoRAConfig`.
    """

    stages: Annotated[str, names_of(TRAINED_STAGES)]
    rank: Count
    alpha: Positive


@dataclasses.dataclass(frozen=True)
class DataConfig(Checked):
    """Data files of a config without a small world; see `grm_jax.data.mixture`.

    Attributes:
      train: mixture of comparisons to train on.
      development, test: mixtures of comparisons to measure on, the suite "data".
      general: mixture of general instruction data.
      benchmark_dir: folder of the benchmarks that training data is compared with.
      against: comma-separated names of the benchmarks that must be in the folder; all others that
        are there count too.
      overlap: treatment of rows of `train` and `general` whose prompt is in a benchmark: "refuse"
        ends the run, "drop" leaves them out, "allow" does not look for them.
    """

    train: str = ""
    development: str = ""
    test: str = ""
    general: str = ""
    benchmark_dir: str = ""
    against: Annotated[str, names_of(tuple(SUITES), fewest=1)] = "judgebench,llmbar,rmb_bon"
    overlap: Annotated[str, one_of(("refuse", "drop", "allow"))] = "refuse"

    def __post_init__(self):
        super().__post_init__()
        for name in ("train", "development", "test", "general"):
            try:
                self.sources(name)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.overlap != "allow" and (self.train or self.general) and not self.benchmark_dir:
            raise ValueError(
                "benchmark_dir: name the folder of the benchmarks, so that training data can be "
                "compared with them, or set overlap=allow"
            )

    def sources(self, split: str) -> tuple[mixture.Source, ...]:
        """The mixture of a split."""
        kind = "instructions" if split == "general" else "comparisons"
        return mixture.parse(getattr(self, split), kind)


@dataclasses.dataclass(frozen=True)
class EngineConfig(Checked):
    """The engine that draws the trajectories of a section: fields of `rft` and of `benchmark`.

    Attributes:
      engine: "jitted", on the devices of the mesh, or "openai", an OpenAI-compatible server.
      openai: the server, whose fields have the prefix "engine_" in configs. Its key is in the
        environment (OPENAI_API_KEY).
    """

    engine: Annotated[str, one_of(("jitted", "openai"))] = "jitted"
    openai: Server = dataclasses.field(
        default=Server(), metadata={"flat": "engine_", "fixed": {"pause": Server.pause}}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.server() is not None:
            try:
                self.openai.require()
            except ValueError as error:
                raise ValueError(f"engine_{error}") from None

    def server(self) -> Server | None:
        """The server, or None for the jitted engine."""
        return self.openai if self.engine == "openai" else None


@dataclasses.dataclass(frozen=True)
class SFTData(Checked):
    """Data of a supervised stage.

    Attributes:
      demonstrations: comparisons with one demonstrated trajectory each; where there is no small
        world, by the rule of `reference_rule`, so that `data.train` must have references.
      general: examples of general instruction data.
      micro_batches: parts of a batch whose gradients are summed.
      checkpoint_every: steps between checkpoints.
      verdicts: order in which demonstrations check their criteria, see `small_world.VERDICTS`.
    """

    demonstrations: Natural
    general: Natural
    micro_batches: Count = 1
    checkpoint_every: Count = 100
    verdicts: Annotated[str, one_of(VERDICTS)] = "weight"


@dataclasses.dataclass(frozen=True)
class Supervised:
    """A stage that learns from demonstrations: `base` and `cold_start`."""

    data: SFTData
    packing: PackingConfig
    optimizer: OptimizerConfig


@dataclasses.dataclass(frozen=True)
class RFTData(Checked):
    """Data of rejective fine-tuning.

    Attributes:
      comparisons: comparisons whose trajectories are drawn.
      general: examples of general instruction data mixed in.
      micro_batches: as in `SFTData`.
      checkpoint_every: steps between checkpoints.
      min_kept: fewest trajectories that must be kept; fewer end the run.
    """

    comparisons: Count
    general: Natural
    micro_batches: Count = 1
    checkpoint_every: Count = 100
    min_kept: Natural = 1


@dataclasses.dataclass(frozen=True)
class RFT:
    """Rejective fine-tuning."""

    rules: RejectionRules = dataclasses.field(metadata=_FLAT)
    engine: EngineConfig = dataclasses.field(metadata=_FLAT)
    data: RFTData
    draw: DrawConfig = _drawn(k=lambda built: built["rules"].num_samples)
    buckets: Buckets
    packing: PackingConfig
    optimizer: OptimizerConfig


@dataclasses.dataclass(frozen=True)
class GRPOLoop(Checked):
    """The loop around GRPO.

    Attributes:
      comparisons: comparisons to draw prompts from.
      prompts_per_step: P, groups of one iteration.
      checkpoint_every: iterations between checkpoints.
      easy_for: a stage of this workdir, such as "rft", or a trajectories file of any run:
        comparisons whose non-hinted trajectories there, at least `easy_samples`, are all correct
        are left out, as in the paper with DeepSeek-V2-Lite-Chat. "" leaves out none.
      easy_samples: fewest trajectories that make a comparison too easy.
      start: the stage that GRPO starts from and has as its reference, "rft" or "cold_start".
    """

    comparisons: Count
    prompts_per_step: Count
    checkpoint_every: Count = 10
    easy_for: str = ""
    easy_samples: Count = 3
    start: Annotated[str, one_of(("rft", "cold_start"))] = "rft"


@dataclasses.dataclass(frozen=True)
class GRPO:
    """GRPO: its objective, and the loop around it."""

    objective: GRPOConfig = dataclasses.field(metadata=_FLAT)
    loop: GRPOLoop
    draw: DrawConfig = _drawn(k=lambda built: built["objective"].group_size, order_policy="group")
    buckets: Buckets
    optimizer: OptimizerConfig

    def __post_init__(self):
        if not self.draw.temperature > 0:
            raise ValueError("draw.temperature: must be above 0, or nothing is sampled")
        if self.draw.top_p < 1:
            raise ValueError(
                f"draw.top_p: must be 1, got {self.draw.top_p}: the policy has no gradient for "
                "what is cut off"
            )
        if self.loop.prompts_per_step > self.loop.comparisons:
            raise ValueError(
                f"loop.prompts_per_step: {self.loop.prompts_per_step} different comparisons are "
                f"more than config.grpo.loop.comparisons = {self.loop.comparisons}"
            )
        if self.optimizer.steps % self.objective.inner_epochs:
            raise ValueError(
                f"optimizer.steps: {self.optimizer.steps} updates are not a multiple of "
                f"config.grpo.inner_epochs = {self.objective.inner_epochs}"
            )


@dataclasses.dataclass(frozen=True)
class ScalarLoop(Checked):
    """Data and batches of a stage that trains a scalar head.

    Attributes:
      comparisons: comparisons to train on; for the meta RM, those whose trajectories are drawn from
        the GRM.
      batch_size: examples of a batch: trajectories of the meta RM, pairs of a baseline.
      row_length: tokens of a row: query, responses, and a trajectory or critique of them.
      checkpoint_every: steps between checkpoints.
    """

    comparisons: Natural
    batch_size: Count
    row_length: Count
    checkpoint_every: Count = 100


@dataclasses.dataclass(frozen=True)
class MetaRM:
    """The meta RM. Released weights need only `loop`, the shape in which they score."""

    choices: MetaRMConfig = dataclasses.field(metadata=_FLAT)
    loop: ScalarLoop
    draw: DrawConfig | None = _drawn()
    buckets: Buckets | None
    optimizer: OptimizerConfig | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline(Checked):
    """A trained baseline.

    Attributes:
      kind: one of `BASELINES`.
      k: samples of each comparison for the kinds that generate text.
      micro_batches: parts of a batch in a training step of a scalar head.
    """

    kind: Annotated[str, one_of(BASELINES)]
    k: Count = 8
    micro_batches: Count = 1
    loop: ScalarLoop
    optimizer: OptimizerConfig | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark(Checked):
    """The measured suites and stages, and how samples are drawn and counted.

    Attributes:
      suites: comma-separated names of `grm_jax.benchmarks.SUITES`, "small_world" (the held-out
        split) or "data".
      data_dir: folder of the real suites.
      limit: rows of each suite, evenly spread; a row may be several comparisons.
      greedy_stages: stages measured greedily.
      sampled_stages: stages measured by k samples; the last is the paper's GRM.
      ks: values of k for voting.
      k_meta: samples that guided voting keeps, one number for each of `ks`; none is k // 2.
      num_subsets: random k-subsets of the drawn samples.
      aggregation: see `voting`.
      tie_policy: see `voting`.
      parse_policy: see `voting`.
      parse: parser whose scores count, "strict" or "lenient".
      max_unparsed: share of samples without strict scores above which the run ends with an error.
      max_cut: the same for samples that met the length limit.
      arms: comma-separated arms of `config.ablate.arms` that are measured as well as the run.
      arm_k: samples of each comparison for an arm.
      principles: source of given principles, one of `given.SOURCES`; "" if the GRM generates them.
      reference: show the reference of each comparison in the prompt.
      count_all: count votes by every aggregation and several k_meta, for results and ablations.
      meta_rm: measure guided voting.
      split: "development" or "test".
    """

    engine: EngineConfig = dataclasses.field(metadata=_FLAT)
    draw: DrawConfig = _drawn()
    buckets: Buckets
    suites: Annotated[str, names_of((*OWN_SUITES, *SUITES), fewest=1)]
    data_dir: str
    limit: Count
    greedy_stages: Annotated[str, names_of(MEASURED_STAGES, fewest=1)]
    sampled_stages: Annotated[str, names_of(MEASURED_STAGES, fewest=1)]
    ks: _Numbers
    k_meta: Annotated[tuple[int, ...], Range("numbers of at least 1", _all_positive)] = ()
    num_subsets: Count = 64
    aggregation: Annotated[str, one_of(AGGREGATIONS)] = "sum"
    tie_policy: Annotated[str, one_of(TIE_POLICIES)] = "uniform"
    parse_policy: Annotated[str, one_of(PARSE_POLICIES)] = "chance"
    parse: Annotated[str, one_of(("strict", "lenient"))] = "strict"
    max_unparsed: Share = 0.2
    max_cut: Share = 0.2
    arms: str = ""
    arm_k: Count = 8
    principles: Annotated[str, one_of(("", *SOURCES))] = ""
    reference: bool = False
    count_all: bool = False
    meta_rm: bool = True
    split: Annotated[str, one_of(("development", "test"))] = "development"

    def __post_init__(self):
        super().__post_init__()
        k, remote = self.draw.k, self.engine.engine == "openai"
        for field in ("greedy_stages", "sampled_stages"):
            stages = split(getattr(self, field))
            if remote != ("remote" in stages) or (remote and len(stages) > 1):
                raise ValueError(
                    f"{field}: {getattr(self, field)!r}, but the stage 'remote' is what "
                    "config.benchmark.engine=openai draws from, and all of it"
                )
        if max(self.ks) > k:
            raise ValueError(f"ks: {max(self.ks)} exceeds config.benchmark.draw.k = {k}")
        resolve_k_meta(self.ks, self.k_meta or half)
        if self.arms and self.arm_k > k:
            raise ValueError(f"arm_k: {self.arm_k} exceeds config.benchmark.draw.k = {k}")
        if self.draw.order_policy == "both" and k < 2:
            raise ValueError("draw.k: must be at least 2 where order_policy is 'both'")


@dataclasses.dataclass(frozen=True)
class AblateConfig(Checked):
    """Seeds of an ablation; its arms are in the section `ablate.arms`, see `experiments.arms`.

    Attributes:
      seeds: comma-separated held-out seeds, chosen in advance; each is measured on the split "test"
        once.
      development_seeds: seeds of the split "development", on which all choices are made.
      opened: seeds that earlier configs were measured on: no longer held out.
      only: comma-separated arms that are run; "" for all.
      listed: differences named before any of the seeds was run, as in tables/ablation ("Voting@8 −
        GRPO, greedy", "full − without principles: Voting@8"), separated by ";". Their p-values are
        corrected for their number.
      arms: the changed fields of each arm, by its name.
    """

    seeds: _Seeds
    development_seeds: _Seeds
    opened: _Seeds = ()
    only: str = ""
    listed: str = ""
    arms: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        place: dict[int, str] = {}
        for name in ("seeds", "development_seeds", "opened"):
            for seed in getattr(self, name):
                if seed in place:
                    raise ValueError(f"{name}: seed {seed} is in {place[seed]} already")
                place[seed] = name
        for arm in self.chosen():
            if arm not in self.arms:
                raise ValueError(f"only: no arm {arm!r}; there are {sorted(self.arms)}")

    def chosen(self) -> list[str]:
        """The arms that are run."""
        return list(dict.fromkeys(split(self.only) or self.arms))

    def of_split(self, name: str) -> tuple[int, ...]:
        """The seeds that a split is measured on."""
        return self.development_seeds if name == "development" else self.seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """The config of a run. A stage or source of data that is None is not part of the run.

    Attributes:
      seed: of parameters, data and samples.
      stages: comma-separated stages that are switched on, out of those with a section; "" for all.
    """

    seed: Seed = 0
    stages: Annotated[str, names_of(TRAINED_STAGES)] = ""
    mesh: MeshConfig
    template: Template
    tokenizer: TokenizerConfig
    sampling: Sampling
    model: Mapping[str, Any] = dataclasses.field(metadata={"model": True})
    released: Released | None
    lora: LoRA | None
    small_world: SmallWorldConfig | None
    data: DataConfig | None
    base: Supervised | None
    cold_start: Supervised | None
    rft: RFT | None
    grpo: GRPO | None
    meta_rm: MetaRM | None
    baseline: Baseline | None
    benchmark: Benchmark | None
    ablate: AblateConfig | None

    def require(self, *names: str) -> None:
        """The sections that an experiment cannot do without.

        Raises:
          ValueError: one of them is missing or switched off; or the prompts are those of a template
            of the user, with which only the benchmark has to do.
        """
        if self.template.file and names != ("benchmark",):
            raise ValueError(
                "config.template.file: only experiments.benchmark takes a template of your own; "
                "training, baselines and ablations are made for ours"
            )
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(
                    f"config.{name}: section is missing, or config.stages leaves it out; run the "
                    "stages that the config has by their own experiments"
                )

    def trained(self) -> dict[str, Any]:
        """The sections of the trained stages that this config has, in their order."""
        named = {name: getattr(self, name) for name in TRAINED_STAGES}
        return {name: stage for name, stage in named.items() if stage is not None}

    def sampled(self) -> dict[str, tuple[DrawConfig, Buckets]]:
        """The sampling of the sections that draw trajectories, by their names."""
        named = {name: getattr(self, name) for name in ("rft", "grpo", "meta_rm", "benchmark")}
        there = {name: section for name, section in named.items() if section is not None}
        pairs = {name: (section.draw, section.buckets) for name, section in there.items()}
        return {name: pair for name, pair in pairs.items() if None not in pair}

    def adapted(self) -> list[str]:
        """The stages that train adapters instead of all parameters."""
        return split(self.lora.stages) if self.lora is not None else []

    def adapters(self, stage: str) -> LoRAConfig | None:
        """The adapters that a stage trains; None if it trains all parameters."""
        if stage not in self.adapted():
            return None
        return LoRAConfig(self.lora.rank, self.lora.alpha)
