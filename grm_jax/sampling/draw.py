"""From comparisons to trajectories: the plan of work units, their drawing, the judging of texts."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from grm_jax.data.comparison import Comparison
from grm_jax.data.stores import TrajectoryStore, UnitHeader
from grm_jax.data.trajectory import Trajectory
from grm_jax.sampling import keys, orders
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import Completion, Engine
from grm_jax.sampling.prompt import Prompt, given_beginning, make_prompt
from grm_jax.sampling.scheduler import Request, WorkUnit, plan_units
from grm_jax.text import prompts, scores, thinking
from grm_jax.text.tokenizers import Tokenizer
from grm_jax.text.verdicts import one_vote


class TooLong(ValueError):
    """More prompts are too long than the config allows."""


class Origin(NamedTuple):
    """The draw that trajectories belong to."""

    fingerprint: str  # of parameters, template, tokenizer and sampling settings
    # name of the stage. Hinted samples have a stage of their own, and so their own units and random
    # keys: "<stage>/hinted"
    stage: str
    step: int = 0  # pass or optimisation step of the stage
    hinted: bool = False  # the prompts tell which response is best


def fingerprint(
    digest: str, config: DrawConfig, tokenizer: Tokenizer, seed: int, work: Iterable = ()
) -> str:
    """Name of a draw, from the parameters, template, tokenizer and sampling of its trajectories.

    Args:
      digest: of the parameters.
      config: sampling.
      tokenizer: of the model.
      seed: of keys and orders.
      work: whatever else tells two draws apart.
    """
    template = config.judge.fingerprint() if config.judge else prompts.template_fingerprint()
    parts = [
        digest, template, tokenizer.fingerprint(),
        config.form, config.principles, repr(config.temperature), repr(config.top_p),
        # "balanced" once meant other orders than cyclic shifts; they are never mixed.
        config.order_policy.replace("balanced", "cyclic"), str(config.max_orders),
        str(seed),
        *map(repr, work),
    ]  # fmt: skip
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class WorkList:
    """The planned work units, and the comparisons that were dropped or shortened to fit."""

    units: list[WorkUnit]  # the work units
    comparisons: Mapping[str, Comparison]  # by uid
    dropped: tuple[str, ...]  # uids of comparisons whose prompt is too long
    shortened: tuple[str, ...]  # uids of comparisons with a shortened prompt
    # uids of shortened comparisons where the cut made a best response equal to another
    alike: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        """Samples in all units."""
        return sum(unit.num_samples for unit in self.units)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawer:
    """An engine with the settings by which it draws trajectories."""

    engine: Engine  # draws the work units
    tokenizer: Tokenizer  # of the model
    config: DrawConfig  # how to draw
    seed: int  # of the presentation orders
    # of the run; stage, step, uid and sample are folded in. Not needed to plan
    base_key: jax.Array | None = None

    def plan(
        self, comparisons: Sequence[Comparison], *, step: int = 0, hinted: bool = False
    ) -> WorkList:
        """The work list of some comparisons, a pure function of fields and arguments.

        Samples that share a presentation order share one prompt, which is prefilled once.

        Raises:
          TooLong: if more comparisons are too long than `max_dropped` or `max_truncated` allows, or
            if nothing is left.
        """
        limit = self.engine.buckets.prompt_lengths[-1]
        widest = self.engine.buckets.samples[-1]
        requests: list[Request] = []
        dropped, shortened, alike = [], [], []
        for comparison in comparisons:
            by_order: dict[orders.Order, list[int]] = {}
            drawn = orders.orders_for(
                self.config.order_policy, comparison.n, self.config.k, uid=comparison.uid,
                seed=self.seed, step=step, max_orders=self.config.max_orders,
            )  # fmt: skip
            for sample, order in enumerate(drawn):
                by_order.setdefault(order, []).append(sample)
            shown = {
                order: make_prompt(
                    comparison, order, self.config, self.tokenizer, hinted=hinted, limit=limit
                )
                for order in by_order
            }
            if any(len(prompt.ids) > limit for prompt in shown.values()):
                dropped.append(comparison.uid)
                continue
            if any(prompt.shortened for prompt in shown.values()):
                shortened.append(comparison.uid)
            if any(prompt.alike for prompt in shown.values()):
                alike.append(comparison.uid)
            requests += [
                Request(shown[order], tuple(samples[i : i + widest]))
                for order, samples in by_order.items()
                for i in range(0, len(samples), widest)
            ]
        for name, uids, allowed in (
            ("dropped", dropped, self.config.max_dropped),
            ("truncated", shortened, self.config.max_truncated),
        ):
            if len(uids) > allowed * len(comparisons):
                raise TooLong(
                    f"{len(uids)} of {len(comparisons)} comparisons have prompts of more than "
                    f"{limit} tokens and would be {name}; max_{name} allows {allowed:.0%} (first: "
                    f"{uids[0]!r})"
                )
        if comparisons and not requests:
            raise TooLong(f"all {len(comparisons)} comparisons are too long; nothing is left")
        units = plan_units(requests, self.engine.buckets, self.config.max_new_tokens)
        by_uid = {comparison.uid: comparison for comparison in comparisons}
        return WorkList(units, by_uid, tuple(dropped), tuple(shortened), tuple(alike))

    def plan_next(self, batches: Iterator[Sequence[Comparison]], *, step: int) -> WorkList:
        """The work list of the next batch that has a prompt which is not too long.

        Its `dropped` begins with the comparisons of the batches that were passed over.
        """
        dropped: tuple[str, ...] = ()
        while True:
            batch = next(batches)
            try:
                work = self.plan(batch, step=step)
            except TooLong:
                dropped += tuple(comparison.uid for comparison in batch)
                continue
            return dataclasses.replace(work, dropped=dropped + work.dropped)

    def judged_once(self, comparisons: Sequence[Comparison]) -> "Drawer":
        """A drawer for many work lists that are too short to hold a share of long prompts against.

        Prompts that are too long are counted here, over `comparisons`. Each list then drops its
        long prompts, however many, or shortens them if the config allows any to be shortened.

        Raises:
          TooLong: as `plan`, for all of `comparisons`.
        """
        self.plan(comparisons)
        shorten = float(self.config.max_truncated > 0)
        config = dataclasses.replace(self.config, max_dropped=1.0, max_truncated=shorten)
        return dataclasses.replace(self, config=config)

    def units(
        self,
        params: dict | None,
        work: WorkList,
        origin: Origin,
        *,
        skip: set[int] = frozenset(),
    ) -> Iterator[tuple[WorkUnit, list[Completion], list[Trajectory]]]:
        """Draws the units of a work list one after the other, except the indices in `skip`.

        `params` are the decoder's; None for an engine with parameters of its own.
        """
        key = keys.stage_key(self.base_key, origin.stage, origin.step)
        for unit in work.units:
            if unit.index in skip:
                continue
            completions = self.engine.run(params, unit, self.config, key)
            comparisons = work.comparisons
            trajectories = [
                to_trajectory(c, comparisons[c.prompt.uid], self.config, self.tokenizer, origin)
                for c in completions
            ]
            yield unit, completions, trajectories

    def draw(
        self,
        params: dict | None,
        comparisons: Sequence[Comparison],
        store: TrajectoryStore,
        origin: Origin,
        *,
        on_unit: Callable[[int, list[Trajectory]], None] = lambda samples, trajectories: None,
    ) -> WorkList:
        """Draws what the store does not hold yet, one append a unit.

        Args:
          params: decoder parameters; None for an engine with parameters of its own.
          comparisons: the work, in an order that must be the same when a run is resumed.
          store: where trajectories go; complete units are not drawn again.
          origin: the draw that the trajectories belong to.
          on_unit: called after each unit with its number of samples and its trajectories; none
            for a unit that the store holds already.

        Returns:
          The work list, with the dropped and the shortened comparisons.
        """
        work = self.plan(comparisons, step=origin.step, hinted=origin.hinted)
        complete = store.completed_units(origin.fingerprint, origin.stage, origin.step)
        for unit in work.units:
            if unit.index in complete:
                on_unit(unit.num_samples, [])
        for unit, _, trajectories in self.units(params, work, origin, skip=complete):
            header = UnitHeader(origin.fingerprint, origin.stage, origin.step, unit.index)
            store.append_unit(header, trajectories)
            # The answers that a server was paid for are in the store now.
            getattr(self.engine, "forget", lambda: None)()
            on_unit(len(trajectories), trajectories)
        return work


def answer_ids(trajectory: Trajectory, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of a trajectory, its thinking and end included; of its answer, if drawn as text."""
    if trajectory.token_ids:
        return (*tokenizer.encode(trajectory.given), *trajectory.token_ids)
    end = (tokenizer.end_of_turn_id,) if trajectory.finish == "stop" else ()
    return (*tokenizer.encode_answer(trajectory.text), *end)


def to_trajectory(
    completion: Completion,
    comparison: Comparison,
    config: DrawConfig,
    tokenizer: Tokenizer,
    origin: Origin,
) -> Trajectory:
    """Decodes, parses and judges one completion (Eq. 10, on the original order)."""
    prompt = completion.prompt
    thought, answer = _thought_and_answer(completion, tokenizer)
    text = prompt.given + (answer or "")
    # A text that hit the length limit may end in an intermediate box: it has no scores.
    strict = _parsed(text, comparison, config, lenient=False)
    if not completion.stopped and strict.scores is not None:
        strict = scores.Parsed(None, "unfinished")
    lenient = _parsed(text, comparison, config, lenient=True)
    if completion.refusal or answer is None:
        strict = lenient = scores.Parsed(None, completion.refusal or thinking.UNCLOSED)
    correct = None
    labelled = len(comparison.winners) == 1 if comparison.n > 1 else config.binary(comparison)
    if labelled:
        shown = [comparison.rewards[i] for i in prompt.order]
        correct = strict.scores is not None and scores.is_correct(strict.scores, shown)
    return Trajectory(
        fingerprint=origin.fingerprint,
        stage=origin.stage,
        step=origin.step,
        uid=comparison.uid,
        sample=completion.sample,
        seed=completion.seed,
        order=prompt.order,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        sampling_logprobs=completion.sampling_logprobs,
        text=text,
        scores=strict.scores,
        parse_reason=strict.reason,
        lenient_scores=lenient.scores,
        finish="stop" if completion.stopped else "length",
        correct=correct,
        hinted=origin.hinted,
        truncated=prompt.shortened,  # the stored name
        given=prompt.given,
        thinking=thought,
    )


def _thought_and_answer(completion: Completion, tokenizer: Tokenizer) -> tuple[str, str | None]:
    """The only place where thinking is told from the answer; see `thinking.split_thinking`."""
    if completion.text is not None:
        return thinking.split_thinking(completion.text, opened=None)
    ids = completion.token_ids[:-1] if completion.stopped else completion.token_ids
    return thinking.split_thinking(tokenizer.decode(ids), opened=tokenizer.opens_thinking)


def unanswered(
    comparison: Comparison, like: Trajectory | Origin, config: DrawConfig, tokenizer: Tokenizer
) -> list[Trajectory]:
    """Samples without scores of a comparison that a plan dropped, in the draw of `like`."""
    given = given_beginning(comparison, config)
    prompt = Prompt(comparison.uid, tuple(range(comparison.n)), (), given=given, shortened=True)
    nothing = Completion(prompt, 0, (0, 0), (), (), (), True, "")
    origin = Origin(like.fingerprint, like.stage, like.step)
    first = to_trajectory(nothing, comparison, config, tokenizer, origin)
    first = dataclasses.replace(first, parse_reason="too long")
    return [dataclasses.replace(first, sample=sample) for sample in range(config.k)]


def _parsed(text: str, comparison: Comparison, config: DrawConfig, *, lenient: bool):
    """Scores in presented order; a best response counts 1, others 0."""
    if config.judge:
        return config.judge.read(text, comparison.n, lenient=lenient)
    parse = scores.parse_lenient if lenient else scores.parse_strict
    if config.answer == "scores":
        return parse(text, comparison.n, *prompts.score_range(config.binary(comparison)))
    best = parse(text, 1, 1, comparison.n)
    if best.scores is None:
        return best
    return scores.Parsed(one_vote(best.scores[0] - 1, comparison.n), best.reason)
