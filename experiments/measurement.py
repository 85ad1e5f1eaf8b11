"""The data of a benchmark: its comparisons, the trajectories of each stage, and their meta scores.

Each stage is sampled once, with the largest k, into trajectories/benchmark_*.jsonl; a unit that is
already there is not drawn again.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from experiments.run import Run
from experiments.sections import UNTRAINED_STAGES, Benchmark
from experiments.stages import drawing, heads, meta_rm
from grm_jax.benchmarks import SUITES, load_suite
from grm_jax.data.comparison import Comparison
from grm_jax.data.stores import MetaScoreStore, UnitHeader
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation.lines import Drawn, gather
from grm_jax.learning.checkpoints import params_digest
from grm_jax.ranges import split
from grm_jax.sampling import given
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.draw import TooLong, unanswered
from grm_jax.sampling.pieces import check_uids, shown_together
from grm_jax.sampling.prompt import make_prompt
from grm_jax.sampling.remote import RemoteEngine
from grm_jax.text import prompts

META_BATCHES_PER_UNIT = 8
SPREAD = ("balanced", "both")  # order policies whose samples are spread evenly over orders


def read_config(run: Run) -> Benchmark:
    """Section `benchmark`."""
    run.config.require("benchmark")
    return run.config.benchmark


class Loaded(NamedTuple):
    """The comparisons of each suite, and the part of its official rows that was read."""

    comparisons: dict[str, list[Comparison]]
    coverage: dict[str, str]


def load_comparisons(run: Run, config: Benchmark) -> Loaded:
    """The comparisons of each suite.

    Raises:
      ValueError: for a suite that the config has no data for, or bad files.
    """
    comparisons, coverage = {}, {}
    for name in split(config.suites):
        if name in SUITES:
            suite, rows = SUITES[name], load_suite(name, config.data_dir, config.limit)
            comparisons[name], coverage[name] = suite.judged(rows), suite.coverage(rows)
            continue
        if (name == "small_world") != (run.world is not None):
            raise ValueError(f"config.benchmark.suites: the config has no section for {name!r}")
        comparisons[name] = run.comparisons(config.split, config.limit, seed=run.config.seed + 10)
        coverage[name] = ""
    if config.draw.judge is not None and config.draw.judge.chooses:
        for name, loaded in comparisons.items():
            if single := [comparison.uid for comparison in loaded if comparison.n == 1]:
                raise ValueError(
                    f"suite {name}: {len(single)} comparisons have one response (first: "
                    f"{single[0]!r}), and the judge of config.template.file chooses among several"
                )
    for name, loaded in comparisons.items():
        try:
            check_uids(loaded, config.draw.mode)
        except ValueError as error:
            raise ValueError(f"suite {name}: {error}") from error
    return Loaded(comparisons, coverage)


def _draw_config(run: Run) -> DrawConfig:
    config = run.config.benchmark.draw
    # Where prompts may be shortened, those that stay too long are dropped and have no verdict.
    return config if config.max_truncated else dataclasses.replace(config, max_dropped=0.0)


def _greedy(config: DrawConfig) -> DrawConfig:
    """One greedy sample; with the policy "both" one in each order, as in JudgeBench and auto-j."""
    both = config.order_policy == "both"
    orders = {"k": 2} if both else {"k": 1, "order_policy": "random"}
    return dataclasses.replace(config, temperature=0.0, **orders)


class Measurement:
    """Draws trajectories of stages on all suites; the parameters of the last stage stay loaded.

    Attributes:
      run: the main run.
      comparisons: by suite.
      draw_config: section `benchmark.draw` of the main run, with `changes`.
      engine: draws the work units.
    """

    def __init__(self, run: Run, comparisons: dict[str, list[Comparison]], **changes):
        self.run, self.comparisons = run, comparisons
        self.draw_config = dataclasses.replace(_draw_config(run), **changes)
        section = run.config.benchmark
        self.engine = run.engine("benchmark", section.buckets, server=section.engine.server())
        self._params: tuple[str, dict | None] | None = None  # stage, parameters

    def draw(self, run: Run, stage: str, *, k: int | None) -> dict[str, Drawn]:
        """Draws k samples of a stage on every suite, or the greedy sample (one in each order).

        Args:
          run: the arm.
          stage: its stage, such as "grpo", or one of `UNTRAINED_STAGES`.
          k: samples of each comparison; None for greedy.
        """
        section = read_config(run)
        config = _draw_config(run) if run.arm_name else self.draw_config
        config = dataclasses.replace(config, reference=section.reference)
        config = _greedy(config) if k is None else dataclasses.replace(config, k=k)
        untrained = stage in UNTRAINED_STAGES
        name = stage if untrained else run.stage(stage)
        if self._params is None or self._params[0] != name:
            self._params = None  # freed first: there may be room for one stage only
            self._params = (name, self._load(run, name, untrained))
        drawn = {}
        for suite, comparisons in self.comparisons.items():
            if section.reference and not any(c.reference for c in comparisons):
                raise ValueError(f"config.benchmark.reference: {suite} has no references")
            if section.principles:
                comparisons = self._given(run, suite, name, section.principles)
                config = dataclasses.replace(config, principles="given")
            draw = functools.partial(self._draw_suite, suite, name, config)
            groups = gather(comparisons, config.mode, draw)
            whole = all(len(shown_together(c.n, config.mode)) == 1 for c in comparisons)
            limit = self.engine.buckets.prompt_lengths[-1]
            lengths = [
                min(limit, len(make_prompt(c, samples[0].order, config, run.tokenizer).ids))
                for c, samples in zip(comparisons, groups, strict=True)
                if whole
            ]
            # The shape of a model behind a server is unknown, and so are the tokens of samples that
            # were put together.
            model = None if isinstance(self.engine, RemoteEngine) or not whole else run.model
            drawn[suite] = Drawn(
                stage, run.config.template.principles, k is None, groups, prompt_tokens=lengths,
                model=model, arm=run.arm_name, ordered=whole,
                stratified=config.order_policy in SPREAD if run.arm_name and k else None,
            )  # fmt: skip
        return drawn

    def _given(self, run: Run, suite: str, stage: str, source: str) -> list[Comparison]:
        """The comparisons of a suite with given principles, which the stage may have to draw."""

        def draw(comparisons: Sequence[Comparison], mode: str) -> list[Trajectory]:
            config = dataclasses.replace(
                _greedy(_draw_config(run)), k=1, order_policy="random", principles=mode
            )
            return self._draw_suite(suite, stage, config, comparisons)

        return given.give(
            source, self.comparisons[suite], draw, mode=run.config.template.principles,
            seed=run.config.seed, max_missing=read_config(run).max_unparsed,
        )  # fmt: skip

    def _load(self, run: Run, name: str, untrained: bool) -> dict | None:
        if isinstance(self.engine, RemoteEngine):
            return None
        return run.init_params() if untrained else run.load_params(name)

    def _draw_suite(
        self, suite: str, stage: str, config: DrawConfig, comparisons: Sequence[Comparison]
    ) -> list[Trajectory]:
        label = f"benchmark_{suite}_{stage}_{'sampled' if config.temperature else 'greedy'}"
        try:
            drawn = drawing.draw_stage(
                self.run, label, self._params[1], comparisons, config, self.engine
            )
        except ValueError as error:
            fields = "config.benchmark.buckets.prompt_lengths, config.benchmark.draw.max_truncated"
            advice = f" ({fields})" if isinstance(error, TooLong) else ""
            raise ValueError(f"suite {suite}: {error}{advice}") from error
        answered = {trajectory.uid for trajectory in drawn}
        for comparison in comparisons:  # without a verdict where no prompt fits
            if comparison.uid not in answered:
                drawn += unanswered(comparison, drawn[0], config, self.run.tokenizer)
        return drawn

    def score(self, drawn: dict[str, Drawn]) -> dict[str, Drawn]:
        """The samples with the scores of the meta RM."""
        self._params = None
        meta = meta_rm.load(self.run)
        digest = params_digest(meta.params)
        scored = {}
        for suite, samples in drawn.items():
            logits = meta_scores(self.run, meta, digest, self.comparisons[suite], samples.groups)
            scored[suite] = samples._replace(meta=logits, meta_model=meta.model)
        return scored


def meta_scores(
    run: Run,
    meta: meta_rm.MetaRM,
    digest: str,
    comparisons: Sequence[Comparison],
    groups: Sequence[Sequence[Trajectory]],
) -> list[list[float]]:
    """The meta RM's logit of each trajectory; units in meta_scores/ are not scored again."""
    loop = run.config.meta_rm.loop
    pairs = [(c, t) for c, group in zip(comparisons, groups, strict=True) for t in group]
    rows = [meta.input_ids(run.config.template.form, *pair) for pair in pairs]
    length = heads.scoring_length(run, "meta_rm", loop.row_length, rows)
    scorer = heads.make_scorer(run, meta.model, meta.tokenizer.pad_id, length, loop.batch_size)
    size = loop.batch_size * META_BATCHES_PER_UNIT
    _, first = pairs[0]
    parts = [
        digest, meta.tokenizer.fingerprint(),
        prompts.template_fingerprint(), str(length), str(size),
        *["whole chat"] * meta.released,  # as `input_ids` writes it
    ]  # fmt: skip
    fingerprint = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
    where = (first.fingerprint, first.stage, first.step)
    path = run.workdir.path("meta_scores", f"{first.stage}.jsonl")
    with MetaScoreStore(path) as store, run.progress("meta RM", len(rows)) as advance:
        complete = store.completed_units(fingerprint, *where)
        for unit, start in enumerate(range(0, len(rows), size)):
            piece = rows[start : start + size]
            if unit not in complete:
                keys = [trajectory.key for _, trajectory in pairs[start : start + size]]
                logits = dict(zip(keys, scorer(meta.params, piece), strict=True))
                store.append_unit(fingerprint, UnitHeader(*where, unit), logits)
                if run.stopping:
                    run.stop(f"unit {unit} of the scores of {first.stage}")
            advance(len(piece))
        by_key = store.scores(fingerprint, *where)
    return [[by_key[trajectory.key] for trajectory in group] for group in groups]
