"""A GRM as a callable: a query and its responses in, a judgement out.

The answer to a comparison depends on its content, k and the seed, and on nothing else: the uid
that seeds orders and keys is a hash of the content, and responses are judged in an order of their
own, so that neither the neighbours in a batch nor the place of a response in the caller's list can
change it. (Up to the near-ties of float32 where neighbours change the shape of a program.)

What cannot be said is None with a reason, never 0: a failed judge must not look like a bad answer.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from grm_jax import voting
from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import located, read_messages
from grm_jax.data.trajectory import Trajectory
from grm_jax.evaluation import statistics
from grm_jax.evaluation.ballots import from_trajectories
from grm_jax.evaluation.lines import gather
from grm_jax.learning.checkpoints import params_digest
from grm_jax.models import hub
from grm_jax.models.config import ModelConfig
from grm_jax.reward import meta as meta_rm
from grm_jax.sampling import draw
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import Engine, JittedEngine
from grm_jax.sampling.pieces import pieces
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text import parts
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message
from grm_jax.text.tokenizers import Tokenizer

_CHUNK = 128  # tokens between two checks of which samples are done
_ORIGIN = draw.Origin("", "reward")  # nothing is stored, and so nothing has to be told apart
DRAW = DrawConfig(k=8, binary_singles=False)
# A sequence of messages, each {"role", "content"} or a `Message`; or one turn of the user.
Query = str | Sequence[Message | Mapping[str, str]]


class Sample(NamedTuple):
    """One of the k samples of a judgement; responses are numbered as the caller gave them."""

    order: tuple[int, ...]  # order[j] is the response shown at position j
    scores: tuple[float, ...] | None  # of each response; None if the text has none
    reason: str  # "ok", or why there are no scores
    text: str  # without the thinking
    finish: str  # "stop" or "length"
    meta: float | None  # logit of the meta RM; None without one
    voted: bool  # it has scores, and guided voting kept it

    @property
    def principles(self) -> str:
        """What the sample says counts for this query, its heading included."""
        return parts.split_parts(self.text).principles.strip()

    @property
    def critique(self) -> str:
        """What the sample says about the responses, its heading included."""
        return parts.split_parts(self.text).critique.strip()


class Judgement(NamedTuple):
    """The judgement of one comparison of n responses, by the caller's numbers.

    Attributes:
      scores: [n] aggregated over the voting samples; None where no sample has scores.
      verdict: the one response with the highest score; None for a tie at the top, for n = 1, and
        without scores.
      reason: why there is no verdict; "" for one.
      shares: [n] share of the voting samples that put a response first, ties split; None for n = 1
        and without scores.
      samples: all k of them.
      prompt_tokens: tokens of the prompts, each counted once.
      tokens: generated tokens; 0 from an engine that speaks text.
      shortened: a prompt had to be cut to fit.
    """

    scores: tuple[float, ...] | None
    verdict: int | None
    reason: str
    shares: tuple[float, ...] | None
    samples: tuple[Sample, ...]
    prompt_tokens: int
    tokens: int
    shortened: bool

    @property
    def share(self) -> float | None:
        """The vote share of the verdict."""
        return None if self.verdict is None else self.shares[self.verdict]

    @property
    def parsed(self) -> dict[str, int]:
        """How many samples ended in which way, "ok" for those with scores."""
        return dict(Counter(sample.reason for sample in self.samples))

    def intervals(self) -> tuple[statistics.Interval, ...] | None:
        """[n] mean score over the voting samples, with its 95 % interval; None below two votes."""
        votes = [sample.scores for sample in self.samples if sample.voted]
        if len(votes) < 2:
            return None
        means = statistics.resample(np.asarray(votes, np.float64).T)
        return tuple(means.interval(i) for i in range(len(votes[0])))


def comparison(
    query: Query,
    responses: Sequence[str],
    *,
    principles: str | None = None,
    reference: str | None = None,
    where: str = "request",
) -> Comparison:
    """What `GRMReward.judge` takes, without gold.

    Args:
      query: one turn of the user, or a conversation that ends with one.
      responses: the texts to judge, at least one.
      principles: what to judge by; None or blank lets the model state its own.
      reference: a correct answer to show beside the responses.
      where: the place that an error names.

    Raises:
      ValueError: `<where>: field '<name>': <problem>`.
    """
    name = "messages"
    if isinstance(query, str):
        name, messages = "prompt", (Message("user", query),)
    elif isinstance(query, list | tuple) and all(isinstance(turn, dict) for turn in query):
        messages = read_messages(where, {name: list(query)}, name, extra=())
    else:
        messages = query
    n = len(responses) if isinstance(responses, list | tuple) else 1
    return located(
        where, where, messages, responses, (0.0,) * n or (0.0,), query=name, several_best=True,
        principles="" if principles is None else principles,
        reference="" if reference is None else reference,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class GRMReward:
    """A generative reward model that is asked for judgements.

    Attributes:
      engine: draws the samples.
      tokenizer: of the model.
      draw: how to draw, and k where a call names none.
      params: of the model; None for an engine with parameters of its own.
      meta: guides the votes where it is given.
      aggregation: one of `voting.AGGREGATIONS`. The verdicts of "mean" are those of "sum", and its
        scores stay on the scale of the model however many samples have some.
      k_meta: how many of k samples a meta RM keeps, as in `voting.resolve_k_meta`.
    """

    engine: Engine
    tokenizer: Tokenizer
    draw: DrawConfig = DRAW
    params: dict | None = None
    meta: meta_rm.MetaRM | None = None
    aggregation: str = "mean"
    k_meta: voting.KMeta = voting.half

    def __post_init__(self):
        if self.aggregation not in voting.AGGREGATIONS:
            raise ValueError(f"aggregation: must be one of {voting.AGGREGATIONS}")
        if self.draw.principles == "query":
            raise ValueError("draw.principles: 'query' asks for no scores")

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        params: dict,
        tokenizer: Tokenizer,
        *,
        draw: DrawConfig = DRAW,
        buckets: Buckets | None = None,
        **fields: Any,
    ) -> Self:
        """A model in memory; `fields` are further attributes.

        `buckets` are the shapes of sampling. By default prompts have up to 8,192 tokens.
        """
        buckets = buckets or Buckets(
            (1024, 2048, 4096, 8192), (draw.max_new_tokens,), (1, 2, 4, 8), samples_per_unit=32
        )
        engine = JittedEngine(
            model, buckets, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id, chunk=_CHUNK
        )
        return cls(engine, tokenizer, draw, params, **fields)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        *,
        meta_rm_folder: str | os.PathLike = "",
        dtype: str | None = None,
        thinking: str = "",
        **fields: Any,
    ) -> Self:
        """A model in the hub format, on the default device.

        Args:
          folder: of the GRM, with tokenizer and chat template.
          meta_rm_folder: of a meta RM; "" for none.
          dtype: of parameters and activations; None for what config.json says.
          thinking: "on", "off", or "" to leave it to the chat template.
          fields: as in `of`.

        Raises:
          FileNotFoundError, ValueError: as `hub.load` and `load_tokenizer`, or a reward model in
            the place of a GRM or the other way round.
        """
        checkpoint = hub.load(folder, param_dtype=dtype)
        if checkpoint.head is not None:
            raise ValueError(f"{folder}: expected a language model, not a reward model")
        tokenizer = load_tokenizer(folder, thinking=thinking)
        model = checkpoint.config.replace(dtype=dtype) if dtype else checkpoint.config
        hub.check_vocab(model, tokenizer.vocab_size, folder)
        if meta_rm_folder:
            fields["meta"] = meta_rm.load(meta_rm_folder, dtype=dtype, thinking=thinking)
        return cls.of(model, checkpoint.params, tokenizer, **fields)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Name of model, template, tokenizer, sampling and voting; reads every parameter once."""
        digests = [getattr(self.engine, "digest", "")] if self.params is None else []
        for params in (self.params, self.meta and self.meta.params):
            digests += [params_digest(params)] if params is not None else []
        k_meta = "" if self.meta is None else voting.resolve_k_meta((self.draw.k,), self.k_meta)
        work = (self.draw, self.engine.buckets, self.aggregation, k_meta)
        return draw.fingerprint(" ".join(digests), self._settings(None), self.tokenizer, 0, work)

    def score(
        self,
        query: Query,
        responses: Sequence[str],
        *,
        principles: str | None = None,
        reference: str | None = None,
        k: int | None = None,
        seed: int = 0,
    ) -> Judgement:
        """The judgement of one comparison; arguments as `comparison` and `judge`.

        Raises:
          ValueError: naming the field.
        """
        asked = comparison(query, responses, principles=principles, reference=reference)
        return self.judge([asked], k=k, seed=seed)[0]

    def judge(
        self, comparisons: Sequence[Comparison], *, k: int | None = None, seed: int = 0
    ) -> list[Judgement]:
        """The judgements of many comparisons, which are drawn together.

        Args:
          comparisons: neither their uids nor their gold count. Equal ones are judged once.
          k: samples of each; None for `draw.k`.
          seed: of orders and samples, an integer of 32 bits.

        Raises:
          ValueError: naming the field.
        """
        config = self._settings(k)
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(f"seed: must be an integer from 0 to {2**32 - 1}, got {seed!r}")
        for asked in comparisons:
            self.check(asked)
        own = [_canonical(asked) for asked in comparisons]
        unique = list({asked.uid: asked for asked, _ in own}.values())
        if not unique:
            return []
        counted = self._count(unique, config, seed)
        return [_in_callers_order(counted[asked.uid], order) for asked, order in own]

    def _settings(self, k: int | None) -> DrawConfig:
        """How to draw here: what is given is shown, and what is too long is left to the reason."""
        if k is not None and (type(k) is not int or k < 1):
            raise ValueError(f"k: must be an integer of at least 1, got {k!r}")
        given = "given" if self.draw.principles == "self" else self.draw.principles
        return dataclasses.replace(
            self.draw, k=k or self.draw.k, principles=given, reference=True, max_dropped=1.0,
            max_truncated=float(self.draw.max_truncated > 0),
        )  # fmt: skip

    def check(self, asked: Comparison) -> None:
        """Raises ValueError, naming the field, for what this model cannot be asked."""
        judge = self.draw.judge
        if judge is not None and judge.chooses and asked.n == 1:
            raise ValueError("responses: this judge chooses among several, got 1")
        if judge is None and asked.principles.strip():
            if self.draw.principles == "none":
                raise ValueError("principles: draw.principles is 'none', so none can be given")
            if self.tokenizer.opens_thinking:
                raise ValueError(
                    "principles: given principles begin the answer, and the chat template lets the "
                    "model think before it; load it with thinking='off'"
                )

    def _count(
        self, comparisons: list[Comparison], config: DrawConfig, seed: int
    ) -> dict[str, Judgement]:
        """The judgements of different comparisons by uid."""
        drawer = draw.Drawer(self.engine, self.tokenizer, config, seed, jax.random.key(seed))
        prompt_tokens, tokens = Counter(), Counter()

        def drawn(asked: Sequence[Comparison]) -> list[Trajectory]:
            found: list[Trajectory] = []
            try:
                work = drawer.plan(asked)
            except draw.TooLong:  # all of them
                work = draw.WorkList([], {}, (), (), ())
            for unit, _, trajectories in drawer.units(self.params, work, _ORIGIN):
                found += trajectories
                for request in unit.requests:
                    prompt_tokens[request.prompt.uid] += len(request.prompt.ids)
            for trajectory in found:
                tokens[trajectory.uid] += len(trajectory.token_ids)
            answered = set(tokens)
            for one in asked:
                if one.uid not in answered:
                    found += draw.unanswered(one, _ORIGIN, config, self.tokenizer)
            return found

        groups = gather(comparisons, config.mode, drawn)
        logits = self._logits(config, comparisons, groups)
        ballots = from_trajectories(groups, [c.n for c in comparisons], meta=logits)
        keep_CS = ballots.drawn_CS
        if logits is not None:
            (k_meta,) = voting.resolve_k_meta((config.k,), self.k_meta)
            keep_CS = np.asarray(voting.select_guided(ballots, keep_CS, k_meta))
        voted_CS = keep_CS & ballots.parsed_CS
        totals_CN, _, tops_CN = map(np.asarray, voting.totals(ballots, keep_CS, self.aggregation))
        firsts_CN = np.asarray(voting.totals(ballots, keep_CS, "majority").totals_CN)
        judgements = {}
        for c, asked in enumerate(comparisons):
            samples = tuple(
                Sample(
                    t.order, t.original_scores(), t.parse_reason, t.text, t.finish,
                    None if logits is None else logits[c][s], bool(voted_CS[c, s]),
                )
                for s, t in enumerate(groups[c])
            )  # fmt: skip
            own = {piece.uid for piece in pieces(asked, config.mode)}
            judgements[asked.uid] = _judgement(
                samples, totals_CN[c, : asked.n], firsts_CN[c, : asked.n], tops_CN[c, : asked.n]
            )._replace(
                prompt_tokens=sum(prompt_tokens[uid] for uid in own),
                tokens=sum(tokens[uid] for uid in own),
                shortened=any(t.truncated for t in groups[c]),
            )
        return judgements

    def _logits(
        self,
        config: DrawConfig,
        comparisons: Sequence[Comparison],
        groups: Sequence[Sequence[Trajectory]],
    ) -> list[list[float]] | None:
        """The meta RM's logit of each trajectory; None without one."""
        if self.meta is None:
            return None
        pairs = [(c, t) for c, own in zip(comparisons, groups, strict=True) for t in own]
        logits = iter(self.meta.logits(config.form, pairs))
        return [[next(logits) for _ in own] for own in groups]


def _canonical(asked: Comparison) -> tuple[Comparison, tuple[int, ...]]:
    """The comparison that stands for all of the same content, and the places of its responses."""
    order = tuple(sorted(range(asked.n), key=asked.responses.__getitem__))
    shown = asked.in_order(order)
    content = [shown.messages, shown.responses, shown.principles, shown.reference]
    uid = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    plain = dataclasses.replace(
        shown, uid=uid, rewards=(0.0,) * asked.n, several_best=True, subset="", meta={},
        hint_note="",
    )  # fmt: skip
    return plain, order


def _judgement(
    samples: tuple[Sample, ...], totals_N: np.ndarray, firsts_N: np.ndarray, tops_N: np.ndarray
) -> Judgement:
    """What a vote says; its tokens are not counted yet."""
    votes = sum(sample.voted for sample in samples)
    tops = np.flatnonzero(tops_N).tolist()
    scores = shares = verdict = None
    reason = ""
    if votes:
        scores = tuple(totals_N.tolist())
    else:
        counts = Counter(sample.reason for sample in samples)
        reason = "no sample has scores: " + ", ".join(f"{n} {why}" for why, n in counts.items())
    if len(totals_N) == 1:
        reason = reason or "one response has a score and no rival"
    elif votes:
        shares = tuple((firsts_N / votes).tolist())
        verdict = tops[0] if len(tops) == 1 else None
        reason = "" if len(tops) == 1 else "several responses have the highest score"
    return Judgement(scores, verdict, reason, shares, samples, 0, 0, False)


def _in_callers_order(found: Judgement, order: Sequence[int]) -> Judgement:
    """`order[i]` is the caller's number of response i of `found`."""

    def placed(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return values and tuple(values[order.index(i)] for i in range(len(order)))

    return found._replace(
        scores=placed(found.scores), shares=placed(found.shares),
        verdict=None if found.verdict is None else order[found.verdict],
        samples=tuple(
            sample._replace(
                order=tuple(order[i] for i in sample.order), scores=placed(sample.scores)
            )
            for sample in found.samples
        ),
    )  # fmt: skip
