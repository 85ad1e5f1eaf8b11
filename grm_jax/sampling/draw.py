"""From comparisons to trajectories: orders, prompts, work units, parsing, the store."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import jax

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory, TrajectoryStore, UnitHeader
from grm_jax.ranges import Checked, Count, NonNegative, Range, Share, one_of
from grm_jax.sampling import keys, orders
from grm_jax.sampling.engine import Completion, Engine
from grm_jax.sampling.scheduler import Request, WorkUnit, plan_units
from grm_jax.text import prompts, scores
from grm_jax.text.prompts import Message
from grm_jax.text.tokenizers import Tokenizer

_CUT = " [...] "
ANSWERS = ("scores", "best")


class TooLong(ValueError):
    """More prompts are too long than the config allows."""


@dataclasses.dataclass(frozen=True)
class DrawConfig(Checked):
    """How trajectories of comparisons are drawn.

    Attributes:
      k: samples of each comparison.
      order_policy: "random", "balanced", "both", "identity" (see `orders.orders_for`), or "group"
        (one order for all k samples).
      max_orders: most permutations under "balanced".
      temperature: 0 is greedy.
      top_p: nucleus mass; 1 keeps everything.
      max_new_tokens: longest trajectory.
      form: form of the prompt, "full" or "compact".
      principles: principle mode, "self" or "none"; or "given", where answers begin with the
        principles of their comparison if it has any; or "query", which asks for principles from
        the query alone, and for no scores.
      reference: show the reference of a comparison.
      answer: what is asked for: "scores" of all responses, or the number of the "best" (the
        prompt of LLM-as-a-Judge, n >= 2 only), which counts as the scores 1 for it and 0 for the
        others.
      binary_singles: n = 1 is scored 0 or 1 (the form of training) instead of 1 to 10.
      max_dropped: share of comparisons that may be dropped because their prompt is too long,
        where they may be shortened: however short their texts are cut.
      max_truncated: share of prompts whose responses may be shortened instead; 0 drops.
    """

    k: Count
    order_policy: Annotated[str, one_of((*orders.POLICIES, "group"))] = "random"
    max_orders: Count = 4
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Range("above 0 and at most 1", lambda p: 0 < p <= 1)] = 1.0
    max_new_tokens: Count = 1024
    form: Annotated[str, one_of(prompts.FORMS)] = "full"
    principles: Annotated[str, one_of((*prompts.PRINCIPLE_MODES, "given", "query"))] = "self"
    reference: bool = False
    answer: Annotated[str, one_of(ANSWERS)] = "scores"
    binary_singles: bool = True
    max_dropped: Share = 0.05
    max_truncated: Share = 0.0

    def binary(self, comparison: Comparison) -> bool:
        """Whether a comparison is scored 0 or 1."""
        return comparison.n == 1 and self.binary_singles

    def unbalanced(self, comparisons: Sequence[Comparison]) -> str:
        """How many comparisons "balanced" cannot show equally often at each place; "" for none."""
        wide = sum(comparison.n > self.max_orders for comparison in comparisons)
        if self.order_policy != "balanced" or not wide:
            return ""
        return (f"orders of {wide} comparisons are not balanced: they have more responses than "
                f"draw.max_orders, {self.max_orders}")  # fmt: skip


def prompt_ids(
    comparison: Comparison,
    order: Sequence[int],
    config: DrawConfig,
    tokenizer: Tokenizer,
    *,
    hinted: bool = False,
) -> tuple[int, ...]:
    """Token ids of the GRM prompt with responses in `order`, ready to be continued."""
    text = _prompt(comparison, comparison.messages, comparison.responses, order, config, hinted)
    return _ids(text, _given(comparison, config), tokenizer)


def answer_ids(trajectory: Trajectory, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of a trajectory, its end included; of its text, if it was drawn as text."""
    if trajectory.token_ids:
        return (*tokenizer.encode(trajectory.given), *trajectory.token_ids)
    end = (tokenizer.end_of_turn_id,) if trajectory.finish == "stop" else ()
    return (*tokenizer.encode(trajectory.text), *end)


def _given(comparison: Comparison, config: DrawConfig) -> str:
    """How the answer begins, which is not generated."""
    if config.principles != "given" or not comparison.principles.strip():
        return ""
    return prompts.given_principles(comparison.principles)


def _ids(prompt: str, given: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    beginning = tokenizer.encode(given) if given else ()
    return (*tokenizer.chat([Message("user", prompt)]), *beginning)


def _prompt(comparison, messages, responses, order, config, hinted) -> str:
    if config.principles == "query":
        return prompts.principles_prompt(messages, form=config.form)
    if config.answer == "best":
        if hinted:
            raise ValueError("hinted: the prompt of the judge has no hint")
        return prompts.judge_prompt(messages, [responses[i] for i in order], form=config.form)
    binary = config.binary(comparison)
    hint = None
    if hinted:
        hint = comparison.label if binary else list(order).index(comparison.best)
    return prompts.grm_prompt(
        messages,
        [responses[i] for i in order],
        form=config.form,
        principles="self" if config.principles == "given" else config.principles,
        binary=binary,
        hint=hint,
        hint_note=comparison.hint_note if hinted else "",
        reference=comparison.reference if config.reference else "",
    )


def _shortened(text: str, budget: int, tokenizer: Tokenizer) -> str:
    """The beginning and the end of a text, `budget` tokens in all."""
    ids = tokenizer.encode(text)
    if len(ids) <= budget:
        return text
    head = (budget + 1) // 2
    tail = ids[len(ids) - (budget - head) :] if budget > head else []
    return tokenizer.decode(ids[:head]) + _CUT + tokenizer.decode(tail)


def _truncate(comparison, order, config, tokenizer, hinted, limit) -> tuple[str, bool] | None:
    """A prompt that fits: texts are cut in the middle to equal budgets, never the instructions.

    Responses give way first, down to 16 tokens each; only then does the conversation.

    Returns:
      The prompt, and whether the cut made a best response equal to another one; None if it does
      not fit however short the texts are.
    """
    longest = max(len(tokenizer.encode(text)) for text in comparison.responses)
    turns = max(len(tokenizer.encode(message.content)) for message in comparison.messages)
    budgets = [(b, turns) for b in _halvings(longest, 16)]
    budgets += [(16, b) for b in _halvings(turns, 16)]
    best = None
    low, high = 0, len(budgets) - 1
    while low <= high:  # the first budget that fits; prompts shrink along the list
        middle = (low + high) // 2
        for_responses, for_turns = budgets[middle]
        shown = [_shortened(text, for_responses, tokenizer) for text in comparison.responses]
        text = _prompt(
            comparison,
            [Message(m.role, _shortened(m.content, for_turns, tokenizer))
             for m in comparison.messages],
            shown, order, config, hinted,
        )  # fmt: skip
        if len(_ids(text, _given(comparison, config), tokenizer)) <= limit:
            alike = _beaten(comparison, shown) < _beaten(comparison, comparison.responses)
            best, high = (text, alike), middle - 1
        else:
            low = middle + 1
    return best


def _beaten(comparison: Comparison, responses: Sequence[str]) -> int:
    """How many responses differ from every best one."""
    return sum(text not in {responses[i] for i in comparison.winners} for text in responses)


def _halvings(longest: int, shortest: int) -> list[int]:
    """Budgets from `longest` down to `shortest` in steps of about 7 %."""
    budgets = [longest]
    while budgets[-1] > shortest:
        budgets.append(max(shortest, min(budgets[-1] - 1, int(budgets[-1] * 0.93))))
    return budgets


@dataclasses.dataclass(frozen=True)
class WorkList:
    """What is to be drawn, and what had to give.

    Attributes:
      units: the work units.
      dropped: uids of comparisons whose prompt is too long.
      truncated: uids of comparisons with shortened texts.
      alike: those of `truncated` where the cut made a best response equal to another one.
    """

    units: list[WorkUnit]
    dropped: tuple[str, ...]
    truncated: tuple[str, ...]
    alike: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        """Samples in all units."""
        return sum(len(request.samples) for unit in self.units for request in unit.requests)


def plan(
    comparisons: Sequence[Comparison],
    config: DrawConfig,
    tokenizer: Tokenizer,
    engine: Engine,
    *,
    seed: int,
    step: int = 0,
    hinted: bool = False,
) -> WorkList:
    """The work list of some comparisons: a pure function of its arguments.

    Samples that share a presentation order share one prompt, which is prefilled once.

    Raises:
      TooLong: if more comparisons are too long than `max_dropped` or `max_truncated` allows, or if
        nothing is left.
    """
    limit = engine.buckets.prompt_lengths[-1]
    widest = engine.buckets.samples[-1]
    requests: list[Request] = []
    dropped, truncated, alike = [], [], []
    for comparison in comparisons:
        if config.order_policy == "group":
            order = orders.group_order(comparison.n, uid=comparison.uid, step=step, seed=seed)
            shown = (order,) * config.k
        else:
            shown = orders.orders_for(
                config.order_policy, comparison.n, config.k,
                uid=comparison.uid, seed=seed, max_orders=config.max_orders,
            )  # fmt: skip
        by_order: dict[orders.Order, list[int]] = {}
        for sample, order in enumerate(shown):
            by_order.setdefault(order, []).append(sample)
        own, shortened = [], {}
        for order, indices in by_order.items():
            text = _prompt(
                comparison, comparison.messages, comparison.responses, order, config, hinted
            )
            given = _given(comparison, config)
            ids = _ids(text, given, tokenizer)
            may_cut = len(ids) > limit and config.max_truncated > 0
            if may_cut and (cut := _truncate(comparison, order, config, tokenizer, hinted, limit)):
                text, shortened[order] = cut
                ids = _ids(text, given, tokenizer)
            own += [
                Request(
                    comparison.uid, order, ids, tuple(indices[i : i + widest]), order in shortened,
                    text,
                )
                for i in range(0, len(indices), widest)
            ]
        if any(len(request.prompt_ids) > limit for request in own):
            dropped.append(comparison.uid)
            continue
        if shortened:
            truncated.append(comparison.uid)
        if any(shortened.values()):
            alike.append(comparison.uid)
        requests += own
    for name, uids, allowed in (
        ("dropped", dropped, config.max_dropped),
        ("truncated", truncated, config.max_truncated),
    ):
        if len(uids) > allowed * len(comparisons):
            raise TooLong(
                f"{len(uids)} of {len(comparisons)} comparisons have prompts of more than {limit} "
                f"tokens and would be {name}; max_{name} allows {allowed:.0%} (first: {uids[0]!r})"
            )
    if comparisons and not requests:
        raise TooLong(f"all {len(comparisons)} comparisons are too long; nothing is left")
    units = plan_units(requests, engine.buckets, max_new_tokens=config.max_new_tokens)
    return WorkList(units, tuple(dropped), tuple(truncated), tuple(alike))


def judged_once(
    comparisons: Sequence[Comparison],
    config: DrawConfig,
    tokenizer: Tokenizer,
    engine: Engine,
    *,
    seed: int,
) -> DrawConfig:
    """A config for many work lists that are each too short to judge a share of their prompts.

    Prompts that are too long are counted here, over `comparisons`; the lists then drop theirs, or
    shorten them where `config` lets any be shortened, however many they are.

    Raises:
      TooLong: as `plan`, for all of `comparisons`.
    """
    plan(comparisons, config, tokenizer, engine, seed=seed)
    shorten = float(config.max_truncated > 0)
    return dataclasses.replace(config, max_dropped=1.0, max_truncated=shorten)


def to_trajectory(
    completion: Completion,
    comparison: Comparison,
    config: DrawConfig,
    tokenizer: Tokenizer,
    *,
    fingerprint: str,
    stage: str,
    step: int,
    hinted: bool = False,
) -> Trajectory:
    """Decodes, parses and judges one completion (Eq. 10, on the original order)."""
    text = completion.text
    if text is None:
        text = tokenizer.decode(
            completion.token_ids[:-1] if completion.stopped else completion.token_ids
        )
    given = _given(comparison, config)
    text = given + text
    # A text that was cut off may end in an intermediate box: it has no scores.
    strict = _parsed(scores.parse_strict, text, comparison, config)
    if not completion.stopped and strict.scores is not None:
        strict = scores.Parsed(None, "unfinished")
    lenient = _parsed(scores.parse_lenient, text, comparison, config)
    if completion.refusal:
        strict = lenient = scores.Parsed(None, completion.refusal)
    correct = None
    told = len(comparison.winners) == 1 if comparison.n > 1 else config.binary(comparison)
    if told:
        shown = [comparison.rewards[i] for i in completion.order]
        correct = strict.scores is not None and scores.is_correct(strict.scores, shown)
    return Trajectory(
        fingerprint=fingerprint,
        stage=stage,
        step=step,
        uid=comparison.uid,
        sample=completion.sample,
        seed=completion.seed,
        order=completion.order,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        sampling_logprobs=completion.sampling_logprobs,
        text=text,
        scores=strict.scores,
        parse_reason=strict.reason,
        lenient_scores=lenient.scores,
        finish="stop" if completion.stopped else "length",
        correct=correct,
        hinted=hinted,
        truncated=completion.truncated,
        given=given,
    )


def unanswered(
    comparison: Comparison, like: Trajectory, config: DrawConfig, tokenizer: Tokenizer
) -> list[Trajectory]:
    """Samples without scores of a comparison that `plan` dropped, of the draw that `like` is of."""
    nothing = Completion(
        comparison.uid, tuple(range(comparison.n)), (), True, 0, (0, 0), (), (), (), True, ""
    )
    first = to_trajectory(
        nothing, comparison, config, tokenizer,
        fingerprint=like.fingerprint, stage=like.stage, step=like.step,
    )  # fmt: skip
    first = dataclasses.replace(first, parse_reason="too long")
    return [dataclasses.replace(first, sample=sample) for sample in range(config.k)]


def _parsed(parse: Callable, text: str, comparison: Comparison, config: DrawConfig):
    """Scores in presented order by one of the parsers, whatever was asked for."""
    if config.answer == "scores":
        return parse(text, comparison.n, *prompts.score_range(config.binary(comparison)))
    best = parse(text, 1, 1, comparison.n)
    if best.scores is None:
        return best
    one_hot = tuple(int(best.scores[0] == j + 1) for j in range(comparison.n))
    return scores.Parsed(one_hot, best.reason)


def draw_units(
    engine: Engine,
    params: dict,
    work: WorkList,
    by_uid: Mapping[str, Comparison],
    config: DrawConfig,
    tokenizer: Tokenizer,
    *,
    base_key: jax.Array,
    fingerprint: str,
    stage: str,
    step: int = 0,
    hinted: bool = False,
    skip: set[int] = frozenset(),
) -> Iterator[tuple[WorkUnit, list[Completion], list[Trajectory]]]:
    """Draws the units of a work list one after the other, except those in `skip`."""
    key = keys.stage_key(base_key, stage, step)
    for unit in work.units:
        if unit.index in skip:
            continue
        completions = engine.run(
            params, unit, stage_key=key, temperature=config.temperature, top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
        )  # fmt: skip
        trajectories = [
            to_trajectory(
                completion, by_uid[completion.uid], config, tokenizer,
                fingerprint=fingerprint, stage=stage, step=step, hinted=hinted,
            )
            for completion in completions
        ]  # fmt: skip
        yield unit, completions, trajectories


def draw(
    engine: Engine,
    params: dict,
    comparisons: Sequence[Comparison],
    config: DrawConfig,
    tokenizer: Tokenizer,
    store: TrajectoryStore,
    *,
    base_key: jax.Array,
    seed: int,
    fingerprint: str,
    stage: str,
    step: int = 0,
    hinted: bool = False,
    on_unit: Callable[[int, list[Trajectory]], None] = lambda samples, trajectories: None,
) -> WorkList:
    """Draws what the store does not hold yet, one append a unit.

    Args:
      engine: draws the units.
      params: decoder parameters; None for an engine that has its own.
      comparisons: the work, in an order that must be the same when a run is resumed.
      config: how to draw.
      tokenizer: of the model.
      store: where trajectories go; complete units are not drawn again.
      base_key: of the run; the stage, step, uid and sample are folded in.
      seed: of the presentation orders.
      fingerprint: of parameters, template, tokenizer and sampling settings.
      stage: name of the stage; with `hinted`, units are recorded under "<stage>/hinted".
      step: pass or step.
      hinted: give the hint in the prompt.
      on_unit: called after each unit with its number of samples and what was drawn; a unit that
        was found complete has samples and no trajectories.

    Returns:
      The work list, with what was dropped and truncated.
    """
    # Units and PRNG streams of hinted samples are their own.
    stage = f"{stage}/hinted" if hinted else stage
    work = plan(comparisons, config, tokenizer, engine, seed=seed, step=step, hinted=hinted)
    complete = store.completed_units(fingerprint, stage, step)
    for unit in work.units:
        if unit.index in complete:
            on_unit(sum(len(request.samples) for request in unit.requests), [])
    by_uid = {comparison.uid: comparison for comparison in comparisons}
    for unit, _, trajectories in draw_units(
        engine, params, work, by_uid, config, tokenizer, base_key=base_key,
        fingerprint=fingerprint, stage=stage, step=step, hinted=hinted, skip=complete,
    ):  # fmt: skip
        store.append_unit(UnitHeader(fingerprint, stage, step, unit.index), trajectories)
        getattr(engine, "forget", lambda: None)()  # what a server was paid for is in the store now
        on_unit(len(trajectories), trajectories)
    return work
