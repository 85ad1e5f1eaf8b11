"""The remote engine against a server on localhost that fails in every way."""

import dataclasses
import time

import jax
import pytest
from chat_server import chat_server

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import TrajectoryStore
from grm_jax.learning.rejection import RejectionRules, reject
from grm_jax.sampling import draw
from grm_jax.sampling.draw import DrawConfig
from grm_jax.sampling.remote import RemoteEngine, RemoteError, Server
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text.prompts import Message, grm_prompt
from grm_jax.text.tokenizers import train_sentencepiece

COMPARISONS = [
    Comparison(
        f"c{i}", (Message("user", f"Query {i}?"),), (f"good {i}", f"bad {i}"), (1.0, 0.0),
        hint_note="It is better than the other response.",
    )
    for i in range(6)
]  # fmt: skip
CONFIG = DrawConfig(k=3, max_new_tokens=64, form="compact", temperature=0.7)
BUCKETS = Buckets((400,), (64,), samples=(1, 2, 4), samples_per_unit=8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    c = COMPARISONS[0]
    text = grm_prompt(c.messages, c.responses, form="compact") + " Query good bad 0123456789"
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    return train_sentencepiece([text] * 4, path, vocab_size=400)


def judge(body):
    """Scores the response that says good best, wherever it is shown."""
    time.sleep(0.01)
    (message,) = body["messages"]
    prompt = message["content"]
    first = prompt.index("\ngood") < prompt.index("\nbad")
    return f"Analysis: fine\nScores: \\boxed{{{'9, 2' if first else '2, 9'}}}", "stop"


def drawn(server, tokenizer, path, comparisons=COMPARISONS, *, hinted=False, **changes):
    fields = {"pause": 0.01, "timeout": 5.0, "tries": 4, "parallel": 4} | changes
    engine = RemoteEngine(
        BUCKETS, Server(server.url, "teacher", **fields), path.with_suffix(".partial")
    )
    with TrajectoryStore(path) as store:
        draw.draw(
            engine, None, comparisons, CONFIG, tokenizer, store, base_key=jax.random.key(0),
            seed=0, fingerprint="fa", stage="rft", hinted=hinted,
        )  # fmt: skip
        return list(store.iterate())


def test_trajectories_are_text(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with chat_server(judge) as server:
        trajectories = drawn(server, tokenizer, tmp_path / "t.jsonl")
    assert len(trajectories) == len(server.requests) == 18
    assert {t.key[3:5] for t in trajectories} == {(f"c{i}", s) for i in range(6) for s in range(3)}
    for t in trajectories:
        assert t.token_ids == t.logprobs == t.sampling_logprobs == ()
        assert t.text.startswith("Analysis: fine") and t.finish == "stop"
        assert t.correct and t.original_scores() == (9, 2)
    for headers, body in server.requests:
        assert headers["Authorization"] == "Bearer sesame"
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("teacher", 0.7, 64)
        assert 0 <= body["seed"] < 2**31
    assert len({body["seed"] for _, body in server.requests}) == 18
    assert 1 < server.most_at_once <= 4
    # What is learnt from a text: its tokens, and the end that it had.
    answer = draw.answer_ids(trajectories[0], tokenizer)
    assert tokenizer.decode(answer[:-1]) == trajectories[0].text
    assert answer[-1] == tokenizer.end_of_turn_id
    cut = dataclasses.replace(trajectories[0], finish="length")
    assert draw.answer_ids(cut, tokenizer) == answer[:-1]
    assert not reject(trajectories, RejectionRules()).kept  # too easy, all of them
    assert b"sesame" not in (tmp_path / "t.jsonl").read_bytes()


def test_prompts_are_those_of_the_order_with_hint_and_note(tokenizer, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with chat_server(judge) as server:
        trajectories = drawn(server, tokenizer, tmp_path / "t.jsonl", hinted=True)
    asked = {body["messages"][0]["content"] for _, body in server.requests}
    assert all("Authorization" not in headers for headers, _ in server.requests)
    for t in trajectories:
        c = COMPARISONS[int(t.uid[1:])]
        want = grm_prompt(
            c.messages, [c.responses[i] for i in t.order], form="compact",
            hint=t.order.index(0), hint_note=c.hint_note,
        )  # fmt: skip
        assert want in asked and want.endswith(c.hint_note)


def once(wrong):
    """The first call of each sample goes wrong."""
    seen = set()

    def fault(number, body):
        again = body["seed"] in seen
        seen.add(body["seed"])
        return None if again else wrong

    return fault


@pytest.mark.parametrize(
    "wrong",
    ["garbage", "cut", "two", "no text", ("slow", 0.6), ("status", 500, {}), ("status", 503, {}),
     ("status", 429, {"Retry-After": "0.05"}), ("status", 429, {"Retry-After": "Wed, 21 Oct"})],
    ids=str,
)  # fmt: skip
def test_a_failed_call_is_made_again_and_is_no_answer(tokenizer, tmp_path, wrong):
    with chat_server(judge) as server:
        want = drawn(server, tokenizer, tmp_path / "good.jsonl", COMPARISONS[:2])
    with chat_server(judge, once(wrong)) as server:
        got = drawn(server, tokenizer, tmp_path / "bad.jsonl", COMPARISONS[:2], timeout=0.3)
    assert len(server.requests) == 12
    assert got == want


def test_a_server_that_stays_down_fails_the_unit_and_the_next_run_goes_on(tokenizer, tmp_path):
    """One unit is whole and one in part; the next run asks for what nobody has answered."""
    with chat_server(judge) as server:
        want = drawn(server, tokenizer, tmp_path / "good.jsonl")
    path, partial = tmp_path / "t.jsonl", tmp_path / "t.partial"
    down = [True]

    def fault(number, body):
        return ("status", 500, {}) if down[0] and number >= 10 else None

    with chat_server(judge, fault) as server:
        with pytest.raises(RemoteError, match=r"comparison 'c\d' sample \d: no answer in 2 calls"):
            drawn(server, tokenizer, path, tries=2)
        with TrajectoryStore(path) as store:
            before = len(list(store.iterate()))
        kept = partial.read_bytes()
        assert 0 < before < before + kept.count(b"\n") == 10
        # The process may have been killed while it wrote the last of them.
        partial.write_bytes(kept[:-5])
        down[0], asked = False, len(server.requests)
        assert drawn(server, tokenizer, path) == want
        assert len(server.requests) - asked == 18 - 10 + 1
    assert not partial.exists()


def test_answers_to_another_request_are_not_taken(tokenizer, tmp_path):
    """The unit that failed asked other questions, of equal names and seeds."""
    path = tmp_path / "t.jsonl"
    other = [
        dataclasses.replace(c, messages=(Message("user", "Another?"),)) for c in COMPARISONS[:2]
    ]
    down = [True]

    def fault(number, body):
        return ("status", 500, {}) if down[0] and number >= 3 else None

    with chat_server(judge, fault) as server:
        with pytest.raises(RemoteError):
            drawn(server, tokenizer, path, other, tries=1)
        assert path.with_suffix(".partial").read_bytes().count(b"\n") == 3
        down[0], asked = False, len(server.requests)
        got = drawn(server, tokenizer, path, COMPARISONS[:2])
        assert len(server.requests) - asked == len(got) == 6


def test_no_server_at_all(tokenizer, tmp_path):
    with chat_server(judge) as server:
        pass
    with pytest.raises(RemoteError, match="refused"):
        drawn(server, tokenizer, tmp_path / "t.jsonl", tries=2)


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_ends_at_once_with_the_words_of_the_server(tokenizer, tmp_path, status):
    wrong = ("status", status, {"Location": "http://localhost:1/v1"})
    with (
        chat_server(judge, lambda *_: wrong) as server,
        pytest.raises(RemoteError, match=f"refused with status {status}.*as told"),
    ):
        drawn(server, tokenizer, tmp_path / "t.jsonl", COMPARISONS[:1], parallel=1)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("text", "finish", "kept"), [("\\boxed{9, 2", "length", True), ("x", "content_filter", False)]
)
def test_finish_reasons(tokenizer, tmp_path, text, finish, kept):
    with chat_server(lambda body: (text, finish)) as server:
        if not kept:
            with pytest.raises(RemoteError, match="finish reason 'content_filter'"):
                drawn(server, tokenizer, tmp_path / "t.jsonl", COMPARISONS[:1], tries=1)
            return
        for t in drawn(server, tokenizer, tmp_path / "t.jsonl", COMPARISONS[:1]):
            assert (t.finish, t.correct, t.scores, t.text) == ("length", False, None, text)


def test_requests_keep_to_a_rate(tokenizer, tmp_path):
    with chat_server(judge) as server:
        began = time.monotonic()
        drawn(server, tokenizer, tmp_path / "t.jsonl", COMPARISONS[:2], rate=20.0)
    assert time.monotonic() - began > 5 / 20


@pytest.mark.parametrize(
    "fields", [{"url": "localhost:8000"}, {"model": ""}, {"parallel": 0}, {"tries": 0},
               {"rate": -1.0}, {"timeout": 0.0}],
    ids=str,
)  # fmt: skip
def test_bad_settings(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Server(**{"url": "http://x", "model": "m"} | fields)
