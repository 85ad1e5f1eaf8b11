"""From comparisons to stored trajectories."""

import copy
import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.data.comparison import Comparison
from grm_jax.data.stores import TrajectoryStore
from grm_jax.models import transformer
from grm_jax.models.variants import VARIANTS
from grm_jax.sampling import prompt as prompt_module
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.draw import Drawer, Origin, TooLong, answer_ids, to_trajectory, unanswered
from grm_jax.sampling.engine import Completion, JittedEngine
from grm_jax.sampling.prompt import make_prompt
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text import prompts
from grm_jax.text.prompts import Message
from grm_jax.text.tokenizers import train_sentencepiece

CONFIG = DrawConfig(k=4, max_new_tokens=6, form="compact")


def comparison(uid, rewards=(0.0, 1.0, 0.5), words=3):
    responses = tuple(f"answer {uid}{i} " + "word " * words for i in range(len(rewards)))
    return Comparison(uid, (Message("user", f"Query {uid}?"),), responses, tuple(rewards))


COMPARISONS = [comparison(f"c{i}", (0.0, 1.0) if i % 2 else (0.0, 1.0, 0.5)) for i in range(5)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    text = prompts.grm_prompt(
        COMPARISONS[0].messages, [f"Response {i} word answer" for i in range(3)], form="compact"
    )
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    return train_sentencepiece([text] * 4, path, vocab_size=420)


class ScriptedEngine:
    """Answers every sample with a text made from its request; needs no model."""

    def __init__(self, tokenizer, limit=400, text=None, stopped=True):
        self.buckets = Buckets((limit,), (16, 64), samples=(1, 2, 4), samples_per_unit=8)
        self.units = []
        self._tokenizer, self._stopped = tokenizer, stopped
        self._text = text or (lambda order: f"\\boxed{{{', '.join(str(i + 3) for i in order)}}}")

    def run(self, params, unit, config, stage_key):
        self.units.append(unit)
        return [
            completion(self._tokenizer, self._text(r.prompt.order), r.prompt, s, self._stopped)
            for r in unit.requests
            for s in r.samples
        ]


def completion(tokenizer, text, prompt, sample=0, stopped=True):
    ids = tokenizer.encode(text) + [tokenizer.end_of_turn_id] * stopped
    logps = (-0.5,) * len(ids)
    return Completion(prompt, sample, (3, 4), tuple(ids), logps, logps, stopped)


def judged(tokenizer, text, order, of=COMPARISONS[0], config=CONFIG, **kwargs):
    prompt = make_prompt(of, order, config, tokenizer)
    made = completion(tokenizer, text, prompt, **kwargs)
    return to_trajectory(made, of, config, tokenizer, Origin("ab", "rft", 1))


def prompt_ids(comparison, order, config, tokenizer, *, hinted=False):
    return make_prompt(comparison, order, config, tokenizer, hinted=hinted).ids


# Planning.


def planned(tokenizer, comparisons=COMPARISONS, config=CONFIG, limit=400, **kwargs):
    drawer = Drawer(ScriptedEngine(tokenizer, limit), tokenizer, config, 3)
    return drawer.plan(comparisons, **kwargs)


def requests_of(work):
    return [request for unit in work.units for request in unit.requests]


def prompts_of(work):
    return [request.prompt for request in requests_of(work)]


@pytest.mark.parametrize("policy", ["random", "balanced", "identity", "group"])
def test_plan_holds_each_sample_once_and_each_prompt_in_its_order(tokenizer, policy):
    config = dataclasses.replace(CONFIG, order_policy=policy, k=6)
    work = planned(tokenizer, config=config)
    assert work.num_samples == 5 * 6
    assert work == planned(tokenizer, config=config)
    by_uid = {c.uid: c for c in COMPARISONS}
    for c in COMPARISONS:
        own = [r for r in requests_of(work) if r.prompt.uid == c.uid]
        assert sorted(s for r in own for s in r.samples) == list(range(6))
        # widest bucket 4: six samples of one order need two requests
        assert all(len(r.samples) <= 4 for r in own)
    for prompt in prompts_of(work):
        comparison = by_uid[prompt.uid]
        assert prompt == make_prompt(comparison, prompt.order, config, tokenizer)
        text = tokenizer.decode(prompt.ids)
        places = [text.index(comparison.responses[i]) for i in prompt.order]
        assert places == sorted(places)


def test_samples_that_share_an_order_share_a_prompt(tokenizer):
    config = dataclasses.replace(CONFIG, order_policy="balanced", k=8, max_orders=2)
    own = requests_of(planned(tokenizer, config=config))
    assert len(own) == 5 * 2
    assert all(len(r.samples) == 4 for r in own)


def test_orders_that_cannot_be_balanced_are_counted():
    config = dataclasses.replace(CONFIG, order_policy="balanced", max_orders=2)
    wide = sum(c.n > 2 for c in COMPARISONS)
    assert wide and config.unbalanced(COMPARISONS).startswith(f"orders of {wide} comparisons")
    assert not dataclasses.replace(config, max_orders=3).unbalanced(COMPARISONS)
    assert not dataclasses.replace(config, order_policy="random").unbalanced(COMPARISONS)


def test_group_orders_are_one_for_all_samples_and_change_with_the_step(tokenizer):
    config = dataclasses.replace(CONFIG, order_policy="group")
    by_step = [
        [prompt.order for prompt in prompts_of(planned(tokenizer, config=config, step=step))]
        for step in range(6)
    ]
    assert all(len(orders) == len(COMPARISONS) for orders in by_step)
    assert len({tuple(orders) for orders in by_step}) > 3


def test_hinted_prompts_name_the_shown_place_of_the_best(tokenizer):
    for order in [(0, 1, 2), (2, 0, 1), (1, 2, 0)]:
        ids = prompt_ids(COMPARISONS[0], order, CONFIG, tokenizer, hinted=True)
        assert f"Response {order.index(1) + 1}" in tokenizer.decode(ids)[-80:]
        plain = prompt_ids(COMPARISONS[0], order, CONFIG, tokenizer)
        assert "best response is" not in tokenizer.decode(plain)
    single = comparison("s", (1.0,))
    text = tokenizer.decode(prompt_ids(single, (0,), CONFIG, tokenizer, hinted=True))
    assert "correct score is: 1" in text


def test_the_strength_of_a_preference_is_part_of_the_hint_only(tokenizer):
    noted = dataclasses.replace(COMPARISONS[0], hint_note="It is much better.")
    for hinted in (True, False):
        ids = prompt_ids(noted, (0, 1, 2), CONFIG, tokenizer, hinted=hinted)
        text = tokenizer.decode(ids)
        assert ("It is much better." in text) is hinted
    assert ids == prompt_ids(COMPARISONS[0], (0, 1, 2), CONFIG, tokenizer)


def test_singles_are_binary_only_if_asked(tokenizer):
    single = comparison("s", (1.0,))
    many = dataclasses.replace(CONFIG, binary_singles=False)
    assert CONFIG.binary(single) and not many.binary(single)
    assert not CONFIG.binary(COMPARISONS[0])
    texts = [tokenizer.decode(prompt_ids(single, (0,), c, tokenizer)) for c in (CONFIG, many)]
    assert "1 correct, 0 not" in texts[0]
    assert "1 to 10" in texts[1]


def long_and_short(num_long, num_short=10):
    return [comparison(f"l{i}", words=300) for i in range(num_long)] + [
        comparison(f"s{i}") for i in range(num_short)
    ]


def test_too_long_prompts_are_dropped_up_to_the_limit(tokenizer):
    config = dataclasses.replace(CONFIG, max_dropped=0.1)
    work = planned(tokenizer, long_and_short(1), config)
    assert work.dropped == ("l0",)
    assert work.shortened == ()
    assert work.num_samples == 40
    assert all(prompt.uid != "l0" for prompt in prompts_of(work))
    with pytest.raises(ValueError, match=r"2 of 12 .* 400 tokens .* dropped; .* 10% .*'l0'"):
        planned(tokenizer, long_and_short(2), config)


def test_a_plan_without_work_is_refused(tokenizer):
    everything = dataclasses.replace(CONFIG, max_dropped=1.0)
    with pytest.raises(ValueError, match="nothing is left"):
        planned(tokenizer, long_and_short(2, 0), everything)
    assert planned(tokenizer, []).units == []


def test_truncation_keeps_instructions_and_fits(tokenizer):
    config = dataclasses.replace(CONFIG, max_truncated=0.2)
    work = planned(tokenizer, long_and_short(2), config)
    assert work.shortened == ("l0", "l1")
    assert work.dropped == ()
    short = tokenizer.decode(prompt_ids(comparison("s0"), (0, 1, 2), config, tokenizer))
    instructions = [
        line for line in short.splitlines() if "answer" not in line and "Query" not in line
    ]
    for prompt in prompts_of(work):
        assert prompt.shortened == prompt.uid.startswith("l")
        assert len(prompt.ids) <= 400
        if not prompt.shortened:
            continue
        text = tokenizer.decode(prompt.ids)
        assert [line for line in instructions if line not in text] == []
        assert "Query l" in text
        # all responses are cut in the middle, to equal budgets
        shown = [line for line in text.splitlines() if line.startswith("answer")]
        assert len(shown) == 3
        assert all(" [...] " in line for line in shown)
        lengths = [len(tokenizer.encode(line)) for line in shown]
        assert max(lengths) - min(lengths) <= 3
        own = [f"answer {prompt.uid}{i}" for i in prompt.order]
        assert [line[:10] for line in shown] == [line[:10] for line in own]
        # no more is cut than needed
        assert len(prompt.ids) > 0.8 * 400


def test_what_no_cut_makes_short_enough_is_dropped_and_counted(tokenizer):
    many = comparison("many", tuple(map(float, range(40))), words=30)
    config = dataclasses.replace(CONFIG, max_truncated=1.0, max_dropped=0.1)
    work = planned(tokenizer, [many, *long_and_short(1)], config)
    assert work.dropped == ("many",) and work.shortened == ("l0",) and work.num_samples == 44
    with pytest.raises(TooLong, match=r"2 of 12 .* would be dropped; .* 10%.*'many'"):
        planned(tokenizer, [many, dataclasses.replace(many, uid="m"), *long_and_short(0)], config)
    for allowed in (0.0, 1.0):  # with and without cutting
        config = dataclasses.replace(CONFIG, max_truncated=allowed, max_dropped=1.0)
        assert planned(tokenizer, [many, *COMPARISONS], config).dropped == ("many",)


def test_responses_that_a_cut_makes_equal_are_counted_apart(tokenizer):
    words = ["word"] * 300
    middle = [" ".join([*words[:150], middle, *words[150:]]) for middle in ("answer", "box", "x")]
    cut = Comparison("cut", COMPARISONS[0].messages, tuple(middle), (0.0, 2.0, 1.0))
    same = dataclasses.replace(cut, uid="same", responses=(middle[0], middle[0], "word x"))
    ends = dataclasses.replace(cut, uid="ends", responses=tuple(f"{i} {t}" for i, t in
                                                                enumerate(middle)))  # fmt: skip
    config = dataclasses.replace(CONFIG, max_truncated=1.0)
    work = planned(tokenizer, [cut, same, ends, *COMPARISONS], config)
    assert work.shortened == ("cut", "same", "ends") and work.alike == ("cut",)


def test_a_dropped_comparison_can_be_counted_as_one_without_a_verdict(tokenizer):
    like = judged(tokenizer, "\\boxed{3, 4, 5}", (0, 1, 2))
    samples = unanswered(COMPARISONS[1], like, CONFIG, tokenizer)
    assert [t.sample for t in samples] == [0, 1, 2, 3] and {t.uid for t in samples} == {"c1"}
    assert all(t.scores is None and t.lenient_scores is None for t in samples)
    assert {t.parse_reason for t in samples} == {"too long"}
    assert not any(t.correct for t in samples) and samples[0].key[:3] == like.key[:3]


@pytest.mark.parametrize("responses", [("", ""), ("word " * 300, ""), ("", "word " * 300)])
@pytest.mark.parametrize("last", ["", "word " * 300])
def test_empty_turns_and_responses_have_prompts_of_every_length(tokenizer, responses, last):
    turns = (Message("user", ""), Message("user", "Query?"), Message("assistant", ""))
    odd = Comparison("odd", (*turns, Message("user", last)), responses, (1.0, 0.0))
    config = dataclasses.replace(CONFIG, max_truncated=1.0)
    assert planned(tokenizer, [odd], config).num_samples == 4


def test_truncation_is_bounded(tokenizer):
    config = dataclasses.replace(CONFIG, max_truncated=0.1)
    with pytest.raises(ValueError, match=r"2 of 12 .* truncated; max_truncated allows 10%"):
        planned(tokenizer, long_and_short(2), config)


def test_short_lists_are_judged_by_a_long_one(tokenizer):
    config = dataclasses.replace(CONFIG, max_dropped=0.1)
    every, step = long_and_short(1, 19), long_and_short(1, 1)
    with pytest.raises(ValueError, match="1 of 2 comparisons have prompts of more than 400"):
        planned(tokenizer, step, config)
    drawer = Drawer(ScriptedEngine(tokenizer), tokenizer, config, 3)
    work = drawer.judged_once(every).plan(step)
    assert len(work.dropped) == 1 and work.shortened == ()
    with pytest.raises(ValueError, match="2 of 12 .* would be dropped; max_dropped allows 10%"):
        drawer.judged_once(long_and_short(2))
    # What may be shortened is, and nothing is dropped for it.
    config = dataclasses.replace(config, max_truncated=0.1)
    work = dataclasses.replace(drawer, config=config).judged_once(every).plan(step)
    assert work.dropped == () and len(work.shortened) == 1


def test_truncation_shortens_the_conversation_last(tokenizer):
    query = "Query " + "word " * 400
    wordy = dataclasses.replace(comparison("w"), messages=(Message("user", query),))
    config = dataclasses.replace(CONFIG, max_truncated=1.0)
    (unit,) = planned(tokenizer, [wordy], dataclasses.replace(config, k=1)).units
    assert len(unit.requests[0].prompt.ids) <= 400
    text = tokenizer.decode(unit.requests[0].prompt.ids)
    assert "Query" in text and " [...] " in text
    with pytest.raises(ValueError, match="1 of 1 .* more than 20 tokens .* dropped.*'w'"):
        planned(tokenizer, [wordy], config, limit=20)


def test_only_orders_whose_prompt_was_cut_are_flagged(tokenizer, monkeypatch):
    real = prompt_module._text

    def longer_in_one_order(c, order, config, hinted):
        text = real(c, order, config, hinted)
        whole = any(c is pair for pair in pairs)
        return text + " word" * 400 if whole and order == (0, 1) else text

    monkeypatch.setattr(prompt_module, "_text", longer_in_one_order)
    config = dataclasses.replace(CONFIG, order_policy="balanced", max_truncated=1.0, k=2)
    pairs = [comparison(f"p{i}", (0.0, 1.0)) for i in range(6)]
    drawn = prompts_of(planned(tokenizer, pairs, config))
    assert len({prompt.order for prompt in drawn[::2]}) == 2  # either order comes first
    assert [prompt.shortened for prompt in drawn] == [prompt.order == (0, 1) for prompt in drawn]


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("order_policy", "sorted"), ("temperature", -1.0), ("temperature", float("nan")),
     ("top_p", 0.0), ("top_p", 1.1), ("max_orders", 0), ("max_new_tokens", 0)],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        DrawConfig(**{"k": 1, field: value})


# Judging.


def test_correctness_is_told_on_the_original_order(tokenizer):
    # rewards 0, 1, 0.5: response 1 is best. Shown as 2, 1, 0 it stands in the middle, and so on.
    for order, text, correct in [
        ((0, 1, 2), "\\boxed{2, 9, 3}", True),
        ((2, 0, 1), "\\boxed{2, 3, 9}", True),
        ((2, 0, 1), "\\boxed{2, 9, 3}", False),
        ((1, 2, 0), "\\boxed{9, 3, 2}", True),
        ((1, 2, 0), "\\boxed{9, 9, 2}", False),
    ]:
        trajectory = judged(tokenizer, "Analysis " + text, order)
        assert trajectory.correct is correct, (order, text)
        assert trajectory.original_scores()[order[0]] == trajectory.scores[0]
        assert trajectory.finish == "stop"


def test_unparsed_and_unfinished_texts_are_incorrect(tokenizer):
    broken = judged(tokenizer, "no box", (0, 1, 2))
    assert (broken.scores, broken.parse_reason, broken.correct) == (None, "no_box", False)
    cut = judged(tokenizer, "\\boxed{2, 9, 3}", (0, 1, 2), stopped=False)
    assert (cut.scores, cut.parse_reason, cut.correct) == (None, "unfinished", False)
    assert (cut.lenient_scores, cut.finish) == ((2, 9, 3), "length")


def test_a_judge_names_the_best_shown_response(tokenizer):
    judge = dataclasses.replace(CONFIG, answer="best")
    told = judged(tokenizer, r"\boxed{2}", (2, 1, 0), config=judge)
    assert (told.scores, told.correct, told.parse_reason) == ((0, 1, 0), True, "ok")
    assert told.original_scores() == (0, 1, 0)
    told = judged(tokenizer, r"\boxed{1}", (2, 1, 0), config=judge)
    assert (told.original_scores(), told.correct) == ((0, 0, 1), False)
    for text, reason in ((r"\boxed{4}", "out_of_range"), (r"\boxed{1, 2}", "count")):
        bad = judged(tokenizer, text, (2, 1, 0), config=judge)
        assert (bad.scores, bad.parse_reason, bad.correct) == (None, reason, False)
    cut = judged(tokenizer, r"\boxed{2}", (2, 1, 0), config=judge, stopped=False)
    assert (cut.scores, cut.lenient_scores) == (None, (0, 1, 0))

    (first, *_), order = COMPARISONS, (2, 1, 0)
    ids = prompt_ids(first, order, judge, tokenizer)
    shown = [first.responses[i] for i in order]
    text = prompts.judge_prompt(first.messages, shown, form="compact")
    assert list(ids) == tokenizer.chat([Message("user", text)])
    with pytest.raises(ValueError, match="hinted: the prompt of a judge has no hint"):
        prompt_ids(first, order, judge, tokenizer, hinted=True)
    with pytest.raises(ValueError, match="answer: must be one of .*'worst'"):
        DrawConfig(k=1, answer="worst")


def test_the_stop_token_is_kept_but_carries_no_text(tokenizer):
    trajectory = judged(tokenizer, "\\boxed{2, 9, 3}", (0, 1, 2))
    assert trajectory.token_ids[-1] == tokenizer.end_of_turn_id
    assert trajectory.text == "\\boxed{2, 9, 3}"
    assert len(trajectory.logprobs) == len(trajectory.token_ids)


def test_singles_are_judged_against_their_label(tokenizer):
    single = comparison("s", (1.0,))
    assert judged(tokenizer, "\\boxed{1}", (0,), single).correct is True
    assert judged(tokenizer, "\\boxed{0}", (0,), single).correct is False
    assert judged(tokenizer, "\\boxed{7}", (0,), single).parse_reason == "out_of_range"
    pointwise = dataclasses.replace(CONFIG, binary_singles=False)
    rated = judged(tokenizer, "\\boxed{7}", (0,), single, pointwise)
    assert (rated.scores, rated.correct) == ((7,), None)


# Drawing into a store.

ORIGIN = Origin("ab", "rft")


def stored(
    path, engine, tokenizer, params=None, config=CONFIG, comparisons=COMPARISONS,
    origin=ORIGIN,
):  # fmt: skip
    calls = []
    drawer = Drawer(engine, tokenizer, config, 3, jax.random.key(1))
    with TrajectoryStore(path) as store:
        work = drawer.draw(
            params, comparisons, store, origin,
            on_unit=lambda samples, drawn: calls.append((samples, len(drawn))),
        )  # fmt: skip
        return work, list(store.iterate()), calls


def test_draw_stores_every_sample_and_draws_nothing_twice(tokenizer, tmp_path):
    engine = ScriptedEngine(tokenizer)
    work, trajectories, calls = stored(tmp_path / "t.jsonl", engine, tokenizer)
    assert len(trajectories) == work.num_samples == 20
    assert len(engine.units) == len(work.units) == len(calls) > 2
    assert sum(drawn for _, drawn in calls) == 20
    assert all(samples == drawn for samples, drawn in calls)
    for trajectory in trajectories:
        assert trajectory.scores == tuple(i + 3 for i in trajectory.order)
        assert trajectory.original_scores() == tuple(range(3, 3 + len(trajectory.order)))
        # the last response is scored highest: right for two responses, wrong for three
        assert trajectory.correct == (len(trajectory.order) == 2)
    again, same, calls = stored(tmp_path / "t.jsonl", engine, tokenizer)
    assert (again, same) == (work, trajectories)
    assert len(engine.units) == len(work.units)  # no more than before
    assert sum(samples for samples, _ in calls) == 20 and not any(drawn for _, drawn in calls)


def test_hinted_samples_have_a_stage_of_their_own(tokenizer, tmp_path):
    engine = ScriptedEngine(tokenizer)
    plain = stored(tmp_path / "t.jsonl", engine, tokenizer)[1]
    origin = Origin("ab", "rft/hinted", 0, True)
    both = stored(tmp_path / "t.jsonl", engine, tokenizer, origin=origin)[1]
    hinted = [t for t in both if t.hinted]
    assert [t for t in both if not t.hinted] == plain
    assert {t.stage for t in hinted} == {"rft/hinted"}
    assert len(hinted) == len(plain)


@pytest.fixture(scope="module")
def jitted(tokenizer):
    """A real engine over a random model, with its parameters."""
    config = dataclasses.replace(
        VARIANTS["tiny"], vocab_size=tokenizer.vocab_size, sliding_window=32
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.25 * rng.normal(size=leaf.shape), leaf.dtype),
        transformer.abstract_params(config),
    )
    buckets = Buckets((400,), (6,), samples=(2,), samples_per_unit=8)
    stops = (*tokenizer.stop_ids, *range(100, 130))
    return JittedEngine(config, buckets, stop_ids=stops, pad_id=tokenizer.pad_id), params


def test_a_resumed_draw_yields_the_same_trajectories(tokenizer, jitted, tmp_path, monkeypatch):
    engine, params = jitted
    path = tmp_path / "t.jsonl"
    config = dataclasses.replace(CONFIG, order_policy="balanced", max_orders=2, top_p=0.95)
    work, whole, _ = stored(path, engine, tokenizer, params, config)
    assert len(work.units) == 3
    assert {t.finish for t in whole} == {"stop", "length"}
    bytes_whole = path.read_bytes()
    # Killed inside the second unit.
    ends = [i for i, line in enumerate(bytes_whole.splitlines(True)) if b'{"end":' in line]
    lines = bytes_whole.splitlines(True)
    cut = b"".join(lines[: ends[0] + 4]) + lines[ends[0] + 4][:50]
    path.write_bytes(cut)
    drawn, real = [], engine.run

    def run(params, unit, *rest):
        drawn.append(unit.index)
        return real(params, unit, *rest)

    monkeypatch.setattr(engine, "run", run)
    _, resumed, calls = stored(path, engine, tokenizer, params, config)
    assert drawn == [1, 2]
    assert resumed == whole
    assert path.read_bytes() == bytes_whole
    assert len(calls) == 3
    assert os.path.getsize(path) > len(cut)


def test_trajectories_depend_on_key_stage_and_step(tokenizer, jitted, tmp_path):
    engine, params = jitted
    config = dataclasses.replace(CONFIG, order_policy="identity")
    one = COMPARISONS[:2]
    first = stored(tmp_path / "a", engine, tokenizer, params, config, one)[1]
    later = Origin("ab", "rft", 1)
    other = stored(tmp_path / "b", engine, tokenizer, params, config, one, later)[1]
    assert [t.token_ids for t in first] != [t.token_ids for t in other]
    assert {t.seed for t in first}.isdisjoint({t.seed for t in other})
    # More comparisons and more samples leave the first ones as they are.
    more = dataclasses.replace(config, k=8)
    many = {t.key[3:]: t for t in stored(tmp_path / "c", engine, tokenizer, params, more)[1]}
    for t in first:
        assert many[t.key[3:]].token_ids == t.token_ids


def test_thinking_is_kept_apart_and_never_read(tokenizer):
    """Blocks are opened by the model here, and by the prompt below."""
    order, plain = (0, 1, 2), "Scores: \\boxed{1, 9, 1}"
    thought = "<think>\nSpecific Criteria: x \\boxed{9, 1, 1}"
    got = judged(tokenizer, f"{thought}\n</think>\n\n{plain}", order)
    assert got.thinking == "Specific Criteria: x \\boxed{9, 1, 1}"
    assert (got.text, got.scores, got.correct) == (plain, (1, 9, 1), True)
    assert tokenizer.decode(answer_ids(got, tokenizer)).startswith(thought)  # it is trained on
    for stopped in (True, False):
        got = judged(tokenizer, thought, order, stopped=stopped)
        assert (got.text, got.parse_reason, got.correct) == ("", "unclosed_thinking", False)
        assert got.scores is got.lenient_scores is None
        assert got.thinking == thought.removeprefix("<think>\n")
    got = judged(tokenizer, f"{thought}\n</think>\n\n<think>Maybe {plain}?", order)
    assert (got.scores, got.lenient_scores, got.parse_reason) == (None, None, "unclosed_thinking")
    got = judged(tokenizer, f"{plain}</think>", order)
    assert (got.thinking, got.text, got.scores) == ("", f"{plain}</think>", (1, 9, 1))


def test_a_prompt_that_opens_a_block_decides_what_is_thinking(tokenizer):
    inside, order = copy.copy(tokenizer), (0, 1, 2)
    inside.opens_thinking = True
    text = "\\boxed{1, 9, 1}</think>\\boxed{9, 1, 1}"
    got = judged(inside, text, order)
    assert (got.thinking, got.scores) == ("\\boxed{1, 9, 1}", (9, 1, 1))
    got = judged(inside, "\\boxed{9, 1, 1}", order)
    assert (got.thinking, got.text, got.scores) == ("\\boxed{9, 1, 1}", "", None)
    assert got.parse_reason == "unclosed_thinking"


def test_given_principles_begin_the_answer_and_are_not_generated(tokenizer):
    given = dataclasses.replace(COMPARISONS[0], principles="answer 5\n\\boxed{9, 1, 1}")
    config = dataclasses.replace(CONFIG, principles="given")
    order = (2, 0, 1)
    ids = prompt_ids(given, order, config, tokenizer)
    plain = prompt_ids(given, order, CONFIG, tokenizer)
    beginning = "Specific Criteria: answer 5\n\\fbox{9, 1, 1}\n"
    assert ids == (*plain, *tokenizer.encode(beginning))
    # Nobody gave any: the judge writes its own.
    assert prompt_ids(COMPARISONS[0], order, config, tokenizer) == plain

    got = judged(tokenizer, "Scores: \\boxed{1, 2, 3}", order, of=given, config=config)
    assert got.given == beginning and got.text == beginning + "Scores: \\boxed{1, 2, 3}"
    assert got.scores == (1, 2, 3) and len(got.token_ids) == len(got.logprobs)
    assert tokenizer.decode(got.token_ids[:-1]) == "Scores: \\boxed{1, 2, 3}"
    both = answer_ids(got, tokenizer)
    assert both == (*tokenizer.encode(beginning), *got.token_ids)


def test_a_reference_is_shown_only_if_the_config_says_so(tokenizer):
    shown = dataclasses.replace(COMPARISONS[0], reference="the answer of Query 9")
    order = (0, 1, 2)
    config = dataclasses.replace(CONFIG, reference=True)
    text = tokenizer.decode(prompt_ids(shown, order, config, tokenizer))
    at = text.index("#### Reference Answer ####\nthe answer of Query 9")
    assert text.index("Conversation Context") < at < text.index("Responses to be Scored")
    hidden = tokenizer.decode(prompt_ids(shown, order, CONFIG, tokenizer))
    assert "Reference" not in hidden and "Query 9" not in hidden


def test_principles_of_the_query_are_asked_without_responses(tokenizer):
    config = dataclasses.replace(CONFIG, principles="query", k=1)
    text = tokenizer.decode(prompt_ids(COMPARISONS[0], (0, 1, 2), config, tokenizer))
    assert "Query c0?" in text and "Specific Criteria:" in text
    assert "answer c0" not in text and "boxed" not in text
