"""The small world: comparisons made by a program, with exact ground truth.

A query names a topic, an audience and four criteria out of eight families. Every audience has a
hidden order of priorities over the families; the four criteria that a query names are worth 4, 3,
2 and 1 by that order. A response is a short text whose words meet or miss each criterion. With
n >= 2 responses the preferred one meets criteria of the unique largest worth,

    worth = 4 * met(first) + 3 * met(second) + 2 * met(third) + 1 * met(fourth).

With n = 1 the truth is 1 exactly if the response meets the criterion that the audience values
most. The priorities appear nowhere in the text: a model can learn them only from which response
wins, which is what makes principles matter.

A trajectory can state only three criteria, with weights:

    score = 1 + 5 * met(first) + 3 * met(second) + 1 * met(third)        (an integer, 1 to 10).

So one trajectory is coarser than the preference, and even the right principles rank some responses
wrongly. Samples that state other principles differ in what they leave out, and the sum of their
scores is finer than each: this is the paper's account of why voting pays.

A trajectory states the criteria with their weights (principles), then checks each response in the
order of the principles (critique), then boxes the scores. Because verdicts stand in the order of
the principles, the scores depend on the principles causally; in the mode without principles the
verdicts stand in the order of the query and the weighing stays implicit. How much is lost without
principles is therefore a property of this format as well as of principles as such.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np

from grm_jax.data.comparison import Comparison
from grm_jax.ranges import Checked, NonNegative, Seed, Share, between
from grm_jax.text.prompts import Message, meta_rm_prompt
from grm_jax.text.scores import parse_strict

WORTH = (4, 3, 2, 1)  # of the criteria that a query names, in the audience's order
WEIGHTS = (5, 3, 1)  # of the criteria that a trajectory states
NUM_NAMED = len(WORTH)
SPLITS = ("train", "development", "test")


class Family(NamedTuple):
    """One family of criteria: its name, and the words that decide it."""

    name: str
    words: tuple[str, ...]
    met_by_presence: bool  # met if a response has one of the words, or if it has none


FAMILIES = (
    Family("greeting", ("hello,", "welcome,", "greetings,"), True),
    Family("polite", ("please", "kindly", "thanks"), True),
    Family("source", ("manual", "survey", "report"), True),
    Family("example", ("like", "including"), True),
    Family("numbers", ("two", "seven", "twelve"), True),
    Family("plain", ("gonna", "kinda", "yeah"), False),
    Family("careful", ("always", "never", "totally"), False),
    Family("question", ("right?", "agreed?"), True),
)
NAMES = tuple(family.name for family in FAMILIES)

AUDIENCES = (
    "nurses", "pilots", "farmers", "lawyers", "children", "bakers",
    "sailors", "teachers", "miners", "tourists", "dancers", "bankers",
)  # fmt: skip

# Order in which a trajectory checks its criteria: that of their weights in the principles, which
# gives principles a causal path to the scores, or by name, as the query has them.
VERDICTS = ("weight", "query")

TOPICS = {
    "gardens": ("seeds", "roses", "pots", "hedges"),
    "kitchens": ("knives", "pans", "stoves", "bowls"),
    "bicycles": ("wheels", "chains", "pedals", "brakes"),
    "boats": ("ropes", "sails", "anchors", "oars"),
    "letters": ("stamps", "cards", "envelopes", "pens"),
    "radios": ("cables", "dials", "speakers", "batteries"),
}
_VERBS = ("check", "clean", "store", "compare", "label")
_ARTICLES = ("the", "some", "your")
_ADVERBS = ("slowly", "early", "again", "outside", "together")


def _digest(*parts) -> int:
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _generator(*parts) -> np.random.Generator:
    return np.random.default_rng(_digest(*parts))


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    """A word: the one that `rng.choice` would draw, without an array of all of them for each."""
    return words[rng.integers(len(words))]


@dataclasses.dataclass(frozen=True)
class SmallWorldConfig(Checked):
    """Parameters of the world and of its demonstrator.

    Attributes:
      world_seed: draws the hidden priorities and the bias of the demonstrator.
      num_audiences: how many of the audiences occur; at most 12.
      bias: standard deviation of the demonstrator's misjudgement of a family, the same for every
        audience.
      noise: scale of the Gumbel noise on the demonstrator's ranking, fresh for each trajectory.
      verdict_flips: probability that the demonstrator gets one verdict wrong.
      hinted: share of demonstrations whose prompt has the hint.
      single: share of comparisons with n = 1; the rest has 2, 3 or 4 responses equally often.
    """

    world_seed: Seed = 0
    num_audiences: Annotated[int, between(1, len(AUDIENCES))] = 12
    bias: NonNegative = 0.5
    noise: NonNegative = 0.7
    verdict_flips: Share = 0.03
    hinted: Share = 0.12
    single: Share = 0.1


class Truth(NamedTuple):
    """Ground truth behind one comparison.

    Attributes:
      named: families in the order of the query.
      ranked: the same families in the audience's order of priority.
      met: per response, the names of the families it meets.
    """

    named: tuple[str, ...]
    ranked: tuple[str, ...]
    met: tuple[frozenset[str], ...]


class SmallWorld:
    """Draws comparisons, demonstrations and general data of one world.

    Everything is a pure function of the config, the split, the seed and the index.
    """

    def __init__(self, config: SmallWorldConfig):
        self.config = config
        rng = _generator("world", config.world_seed)
        spacing = np.linspace(-1.5, 1.5, len(NAMES))
        self._value = np.stack([rng.permutation(spacing) for _ in AUDIENCES])
        self._bias = config.bias * rng.standard_normal(len(NAMES))

    # Comparisons.

    def comparisons(self, split: str, count: int, *, seed: int = 0) -> list[Comparison]:
        """The first `count` comparisons of a split.

        A comparison belongs to the split that the hash of its content assigns, so that splits
        are disjoint whatever the seeds.

        Raises:
          ValueError: for an unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        drawn, seen = [], set()
        indices = itertools.count()
        while len(drawn) < count:
            comparison = self._draw(split, seed, next(indices))
            digest = comparison.content_hash()
            bucket = int(digest[:8], 16) % 10
            if SPLITS[max(0, bucket - 7)] == split and digest not in seen:
                seen.add(digest)
                drawn.append(comparison)
        return drawn

    def _draw(self, split: str, seed: int, index: int) -> Comparison:
        rng = _generator("comparison", self.config.world_seed, split, seed, index)
        topic = _pick(rng, sorted(TOPICS))
        audience = int(rng.integers(self.config.num_audiences))
        named = rng.permutation(len(NAMES))[:NUM_NAMED]
        n = 1 if rng.random() < self.config.single else int(rng.integers(2, 5))
        criteria = " ".join(NAMES[f] for f in named)
        query = f"write about {topic} for {AUDIENCES[audience]} , mind {criteria}"
        ranked = named[np.argsort(-self._value[audience, named])]
        while True:
            met = rng.random((n, len(NAMES))) < 0.5
            worth = met[:, ranked] @ np.asarray(WORTH)
            if n == 1 or np.sum(worth == worth.max()) == 1:
                break
        rewards = [float(met[0, ranked[0]])] if n == 1 else [float(w) for w in worth]
        return Comparison(
            uid=f"small-{split}-{seed}-{index}",
            messages=(Message("user", query),),
            responses=tuple(_write_response(rng, topic, row) for row in met),
            rewards=tuple(rewards),
            subset=f"n{n}",
            meta={"audience": AUDIENCES[audience]},
            principles=_stated([NAMES[f] for f in ranked]).strip(),
        )

    def truth(self, comparison: Comparison) -> Truth:
        """Reads named criteria, priorities and verdicts back from the text alone."""
        words = comparison.messages[-1].content.split()
        audience = AUDIENCES.index(words[words.index("for") + 1])
        named = tuple(words[words.index("mind") + 1 :])
        ranked = sorted(named, key=lambda name: -self._value[audience, NAMES.index(name)])
        return Truth(named, tuple(ranked), tuple(map(criteria_met, comparison.responses)))

    # Demonstrations.

    def demonstration(
        self,
        comparison: Comparison,
        rng: np.random.Generator,
        *,
        principles: str = "self",
        verdicts: str = "weight",
        hint: int | None = None,
    ) -> str:
        """One trajectory of the imperfect demonstrator, for responses in their given order.

        The demonstrator ranks criteria by priority + shared bias + Gumbel noise and flips some
        verdicts. Given a hint (index of the best response, or the 0/1 truth for n = 1) it tries
        up to eight times to end where the hint points, which is how a teacher rationalises.
        """
        truth = self.truth(comparison)
        audience = AUDIENCES.index(comparison.meta["audience"])
        named = np.asarray([NAMES.index(name) for name in truth.named])
        for _ in range(1 if hint is None else 8):
            value = self._value[audience, named] + self._bias[named]
            value = value + rng.gumbel(size=len(named)) * self.config.noise
            ranked = [truth.named[i] for i in np.argsort(-value)]
            checks = [
                {name: (name in met) ^ (rng.random() < self.config.verdict_flips)
                 for name in truth.named}
                for met in truth.met
            ]  # fmt: skip
            if hint is None or _outcome(ranked, checks) == hint:
                break
        return write_trajectory(truth.named, ranked, checks, principles=principles, by=verdicts)

    def choice(self, comparison: Comparison, rng: np.random.Generator) -> tuple[str, int | None]:
        """A demonstration that names the best response by its number, and the index of that one.

        It is one of the mode "self" with another box. Of a tie the first response is named, and the
        index is None.
        """
        text = self.demonstration(comparison, rng)
        scores = parse_strict(text, comparison.n).scores
        best = scores.index(max(scores))
        head = text[: text.rindex(_SCORES)]
        answer = f"{head}{_SCORES} \\boxed{{{best + 1}}}"
        return answer, best if scores.count(max(scores)) == 1 else None

    # General instruction data.

    def general(self, count: int, *, seed: int) -> Iterator[tuple[tuple[Message, ...], str]]:
        """General instruction data: verdicts on named criteria, no audience and no priorities.

        One to four responses are checked by criteria in the order in which these are named: four
        bare ones, or three with weights, whose sum is then asked for too. Several responses stand
        between the delimiters of a GRM prompt. So the base model can read responses and apply a
        rubric that it is given; which rubric an audience wants, it has to learn later.

        Yields (messages, answer) pairs.
        """
        for index in range(count):
            rng = _generator("general", self.config.world_seed, seed, index)
            topic = _pick(rng, sorted(TOPICS))
            weighted = bool(rng.random() < 0.5)
            size = len(WEIGHTS) if weighted else NUM_NAMED
            named = [NAMES[f] for f in rng.permutation(len(NAMES))[:size]]
            rows = rng.random((int(rng.integers(1, 5)), len(NAMES))) < 0.5
            responses = [_write_response(rng, topic, met) for met in rows]
            task = "check" + (_stated(named) if weighted else "".join(f" {n}" for n in named))
            answers = []
            for met in map(criteria_met, responses):
                score = score_of(named, {name: name in met for name in named})
                answers.append(_checks(named, met) + (f" = {score}" if weighted else ""))
            if len(responses) == 1:
                yield (Message("user", f"{task}\n{responses[0]}"),), answers[0]
                continue
            prompt = meta_rm_prompt((Message("user", task),), responses, form="compact")
            lines = [f"Response {i}: {answer}" for i, answer in enumerate(answers, start=1)]
            yield (Message("user", prompt),), "\n".join([_CRITIQUE, *lines])


def _stated(ranked: Sequence[str]) -> str:
    """Criteria with their weights: " polite 5 source 3 plain 1"."""
    return "".join(f" {name} {weight}" for name, weight in zip(ranked, WEIGHTS, strict=False))


def _checks(named: Sequence[str], met) -> str:
    """One verdict after another: "polite yes source no"."""
    return " ".join(f"{name} {_YES_NO[name in met]}" for name in named)


_YES_NO = ("no", "yes")


def _write_response(rng: np.random.Generator, topic: str, met: Sequence[bool]) -> str:
    has = {
        family.name: _pick(rng, family.words) if meets == family.met_by_presence else ""
        for family, meets in zip(FAMILIES, met, strict=True)
    }
    nouns = [TOPICS[topic][i] for i in rng.permutation(len(TOPICS[topic]))]
    words = [
        has["greeting"],
        has["polite"],
        _pick(rng, _VERBS),
        has["numbers"] or _pick(rng, _ARTICLES),
        nouns[0],
        has["plain"],
        _pick(rng, _ADVERBS),
        has["careful"],
        f"says the {has['source']}" if has["source"] else "",
        f"{has['example']} {nouns[1]}" if has["example"] else "",
        has["question"] or "done.",
    ]
    return " ".join(word for word in words if word)


def criteria_met(response: str) -> frozenset[str]:
    """Names of the families that a response meets, decided from its words alone."""
    words = set(response.split())
    return frozenset(
        family.name
        for family in FAMILIES
        if bool(words.intersection(family.words)) == family.met_by_presence
    )


def score_of(ranked: Sequence[str], verdicts) -> int:
    """1 + the weights of the met criteria, given criteria in order of weight."""
    return 1 + sum(w * bool(verdicts[name]) for w, name in zip(WEIGHTS, ranked, strict=False))


def _outcome(ranked, verdicts) -> int | None:
    """Index of the unique best response; the 0/1 judgement for one; None for a tie."""
    if len(verdicts) == 1:
        return int(verdicts[0][ranked[0]])
    scores = [score_of(ranked, v) for v in verdicts]
    best = max(scores)
    return scores.index(best) if scores.count(best) == 1 else None


# The form of a trajectory.

_PRINCIPLES = "Specific Criteria:"
_CRITIQUE = "Analysis:"
_SCORES = "Scores:"


def write_trajectory(named, ranked, verdicts, *, principles: str, by: str = "weight") -> str:
    """Principles, critique and scores as text.

    Args:
      named: criteria in the order of the query.
      ranked: the same in the order of their weight.
      verdicts: per response, criterion -> met.
      principles: "self" states the weighted criteria and checks in their order; "none" checks
        all named criteria in the order of the query.
      by: one of `VERDICTS`.
    """
    scores = [score_of(ranked, v) for v in verdicts]
    if len(verdicts) == 1:
        scores = [int(verdicts[0][ranked[0]])]
    checked = ranked[: len(WEIGHTS)] if principles == "self" else named
    if by == "query":
        checked = [name for name in named if name in checked]
    lines = []
    if principles == "self":
        lines.append(_PRINCIPLES + _stated(ranked))
    lines.append(_CRITIQUE)
    for i, (v, score) in enumerate(zip(verdicts, scores, strict=True)):
        checks = _checks(checked, {name for name in checked if v[name]})
        lines.append(f"Response {i + 1}: {checks} = {score}")
    lines.append(f"{_SCORES} \\boxed{{{', '.join(map(str, scores))}}}")
    return "\n".join(lines)


class Reading(NamedTuple):
    """Contents of a trajectory and their consistency, which show the stage that fails.

    Attributes:
      well_formed: principles, one line per response and a box were all found.
      follows: every boxed score follows from the stated principles and verdicts; None in the mode
        without principles, where nothing states the weights.
      verdicts_right: share of verdicts that are true of the responses.
      order_right: the stated criteria are exactly the audience's, in its order of priority.
    """

    well_formed: bool
    follows: bool | None
    verdicts_right: float
    order_right: bool | None


_LINE = re.compile(r"^Response (\d+): (.*) = (\d{1,9})$")


def read_trajectory(
    text: str, truth: Truth, order: Sequence[int], *, principles: str = "self"
) -> Reading:
    """Reads a trajectory of responses shown in `order` against the ground truth."""
    malformed = Reading(False, False if principles == "self" else None, 0.0, False)
    lines = text.strip().split("\n")
    ranked = None
    if principles == "self":
        words = lines[0].removeprefix(_PRINCIPLES).split()
        ranked = words[0::2]
        stated = len(ranked) == len(WEIGHTS) and words[1::2] == [str(w) for w in WEIGHTS]
        if not lines[0].startswith(_PRINCIPLES) or not stated:
            return malformed
        lines = lines[1:]
    single = len(order) == 1
    parsed = parse_strict(text, len(order), *((0, 1) if single else (1, 10)))
    matches = [_LINE.match(line) for line in lines[1:-1]]
    if parsed.scores is None or len(matches) != len(order) or not all(matches):
        return malformed
    right, total, follows = 0, 0, True
    for j, match in enumerate(matches):
        words = match[2].split()
        verdicts = dict(zip(words[0::2], (w == "yes" for w in words[1::2]), strict=False))
        met = truth.met[order[j]]
        right += sum(v == (name in met) for name, v in verdicts.items())
        total += len(verdicts)
        if ranked is not None:
            if set(verdicts) != set(ranked):
                return malformed
            expected = int(verdicts[ranked[0]]) if single else score_of(ranked, verdicts)
            follows &= expected == parsed.scores[j] == int(match[3])
    return Reading(
        True,
        follows if ranked is not None else None,
        right / max(total, 1),
        tuple(ranked) == truth.ranked[: len(WEIGHTS)] if ranked is not None else None,
    )
