"""The remote engine against a server on localhost that fails in every way."""

import asyncio
import dataclasses
import errno
import hashlib
import itertools
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import traceback

import jax
import pytest
from chat_server import chat_server, completion, raw, reply, reset

from configs import small_world
from experiments.config import build, layout
from grm_jax.data.comparison import Comparison
from grm_jax.data.stores import TrajectoryStore
from grm_jax.learning.rejection import RejectionRules, reject
from grm_jax.sampling import remote
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.draw import Drawer, Origin, answer_ids
from grm_jax.sampling.remote import Answer, RemoteEngine, RemoteError, Server
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text.prompts import Hint, Message, grm_prompt
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


def engine_of(server, partial, **changes):
    fields = {"pause": 0.01, "timeout": 5.0, "tries": 4, "parallel": 4} | changes
    return RemoteEngine(BUCKETS, Server(server.url, "teacher", **fields), partial)


def drawn(server, tokenizer, path, comparisons=COMPARISONS, *, hinted=False, **changes):
    engine = engine_of(server, path.with_suffix(".partial"), **changes)
    with TrajectoryStore(path) as store:
        origin = Origin("fa", "rft/hinted" if hinted else "rft", 0, hinted)
        Drawer(engine, tokenizer, CONFIG, 0, jax.random.key(0)).draw(
            None, comparisons, store, origin
        )
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
    answer = answer_ids(trajectories[0], tokenizer)
    assert tokenizer.decode(answer[:-1]) == trajectories[0].text
    assert answer[-1] == tokenizer.end_of_turn_id
    cut = dataclasses.replace(trajectories[0], finish="length")
    assert answer_ids(cut, tokenizer) == answer[:-1]
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
            hint=Hint(t.order.index(0), c.hint_note),
        )  # fmt: skip
        assert want in asked and want.endswith(c.hint_note)


# What a server does, and what must come of it.

# A failed call is made again and is no answer.
_CHUNKED = "Transfer-Encoding: chunked\r\n"
FAILURES = {
    "a page": reply("<html>busy</html>"),
    "a reply that is cut off": reply(completion("\\boxed{1, 1}"), length=1000),
    "two choices": reply({"choices": [{}, {}]}),
    "no choice": reply({"choices": []}),
    "an error with status 200": reply({"error": {"message": "upstream", "code": 502}}),
    "a list": reply([]),
    "no message": reply({"choices": [{"message": None, "finish_reason": "stop"}]}),
    "a number for a text": reply(completion(3)),
    "deep JSON": reply('{"choices":' + "[" * 200_000),
    "bytes that are no gzip": reply(b"\\boxed{1, 1}", headers={"Content-Encoding": "gzip"}),
    "bad chunks": raw(b"zz\r\nno length\r\n", headers=_CHUNKED),
    "no text, once": reply(completion(None)),
    "the server ran out of memory": reply(completion("half of", "abort")),
    "finish reason error": reply(completion("", "error")),
    "no head": lambda to: None,
    "a head that is none": lambda to: to.wfile.write(b"SSH-2.0\r\n\r\n"),
    "a head without end": raw(headers="X: " + "x" * 500_000 + "\r\n"),
    "status 500": reply("as told", 500),
    "status 502 with a page": reply("<html>content filter is down</html>", 502),
    "status 408": reply("", 408),
    "status 409": reply("", 409),
    "status 425": reply("", 425),
    "status 429, wait": reply("", 429, {"Retry-After": "0.05"}),
    "status 429, wait until": reply("", 429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    "status 429, wait for nan": reply("", 429, {"Retry-After": "nan"}),
    "status 429 with bad chunks": raw(b"zz\r\n", status="429 Slow down", headers=_CHUNKED),
    "status 503 without its body": reply("", 503, length=1000),
    "status 503 that is reset": reset,
    "status 503 with deep JSON": reply("[" * 200_000, 503),
    "status 503 that hangs": raw(b"wai", status="503 Busy", headers=_CHUNKED, hang=True),
}


@pytest.fixture(scope="module")
def served():
    """A server, and what it does wrong: `wrong(body)` gives a fault or None."""
    wrong = [lambda body: None]
    with chat_server(judge, lambda number, body: wrong[0](body)) as server:
        server.wrong = wrong
        yield server


@pytest.fixture
def ask(served, tokenizer, tmp_path, monkeypatch):
    """Draws one unit of 3 comparisons with 2 samples while the server does something wrong."""
    monkeypatch.setattr(remote, "_ERROR_WAIT", 0.3)

    partials = (tmp_path / f"{i}.jsonl" for i in itertools.count())

    def asked(wrong, *, partial=None, **changes):
        served.wrong[0] = wrong
        del served.requests[:]
        engine = engine_of(served, partial or next(partials), **changes)
        config = dataclasses.replace(CONFIG, k=2, order_policy="identity")
        (unit,) = Drawer(engine, tokenizer, config, 0).plan(COMPARISONS[:3]).units
        wanted = dataclasses.replace(config, temperature=0.7, top_p=0.9, max_new_tokens=64)
        completions = engine.run(None, unit, wanted, jax.random.key(1))
        assert len(completions) == 6
        return completions

    return asked


def first_calls(fault):
    """The first call of each sample goes wrong."""
    seen = set()

    def wrong(body):
        again = body["seed"] in seen
        seen.add(body["seed"])
        return None if again else fault

    return wrong


def second_comparison(fault):
    """All calls for the comparison c1 go wrong."""
    return lambda body: fault if "Query 1?" in body["messages"][0]["content"] else None


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_call_is_made_again_and_is_no_answer(ask, served, name):
    want = ask(lambda body: None)
    assert ask(first_calls(FAILURES[name])) == want
    assert len(served.requests) == 12
    assert all(one.text.startswith("Analysis: fine") for one in want)


def test_what_never_ends_is_given_up_and_asked_again(ask, served):
    """A first byte that does not come; one byte after the other, for ever; and 300 MB."""
    want = ask(lambda body: None)
    silent, loris = raw(hang=True), raw(*[b" "] * 10**6, pause=0.05)
    assert ask(first_calls(silent), timeout=0.5) == want
    assert ask(first_calls(loris), total_timeout=0.7) == want
    sent = []

    def flood(to):
        to.send(200, b"", {}, length=3 * 10**8)
        for _ in range(300):
            to.wfile.write(b" " * 10**6)
            sent.append(1)

    once, c1 = first_calls(flood), second_comparison(True)
    assert ask(lambda body: c1(body) and once(body)) == want
    assert 2 * 16 <= len(sent) < 2 * 60


def refused(message, status=400, code=None):
    """A fault: an error as OpenAI writes it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return reply({"error": error}, status)


# An outcome of one request, however often it is made: what is said, and what is kept of it.
REFUSALS = {
    "filtered": (refused("It was filtered", code="content_filter"), "status 400: .*content_filter"),
    "filtered, Azure": (
        refused("The response triggered Azure OpenAI's content management policy."), "400: .*policy"
    ),
    "filtered, DeepSeek": (refused("Content Exists Risk"), "Content Exists Risk"),
    "moderation": (refused("Your input was flagged", 403), "status 403: .*flagged"),
    "context": (
        refused("This model's maximum context length is 9 tokens.", code="context_length_exceeded"),
        "status 400: .*maximum context length is 9",
    ),
    "context, vLLM": (
        reply({"object": "error", "message": "longer than the maximum model length: please reduce "
               "the length of the input", "code": 400}, 400),
        "reduce the length",
    ),
    "context, llama.cpp": (
        reply({"error": {"code": 400, "type": "exceed_context_size_error"}}, 400), "context_size"
    ),
    "context, llama.cpp of old": (
        refused("the request exceeds the available context size", 500), "status 500: .*context size"
    ),
    "context, TGI": (
        refused("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 9", 422),
        "status 422: .*must be <= 9",
    ),
    "context, Gemini": (refused("The input token count (9) exceeds the maximum"), "exceeds"),
    "context, Anthropic": (refused("prompt is too long: 9 tokens > 8 maximum", 413), "too long"),
    "words that nobody knows": (reply("das geht so nicht", 400), "status 400: das geht so nicht$"),
    "no words that anybody knows": (reply("", 422), "status 422: $"),
    "words that hang, that nobody knows": (
        raw(b"5\r\nas to\r\n", status="400 Bad", headers=_CHUNKED, hang=True), "status 400: as to$"
    ),
    "refusal": (reply(completion(None, message={"refusal": "I'm\nsorry"})), "refusal: I'm sorry$"),
    "refusal as a part": (reply(completion([{"type": "refusal", "refusal": "no"}])), "no text"),
    "no text": (reply(completion(None)), "no text"),
    "no text in no part": (reply(completion([])), "no text, finish reason stop$"),
    "no text and no reason": (reply(completion(None, None)), "no text, finish reason null$"),
    "filtered in the middle": (
        reply(completion("So far \\boxed{9, 1}", "content_filter")), "finish reason content_filter$"
    ),
    "safety": (reply(completion("", "SAFETY")), "finish reason safety$"),
    "tool calls": (reply(completion(None, "tool_calls")), "finish reason tool_calls$"),
    "a reason that nobody knows": (
        reply(completion("\\boxed{9, 1}", "tired")), "finish reason tired, not in stop_reasons$"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_an_outcome_of_one_request_is_stored_and_stops_nothing(ask, served, name):
    fault, reason = REFUSALS[name]
    want = ask(lambda body: None)
    got = ask(second_comparison(fault))
    for one, good in zip(got, want, strict=True):
        if one.prompt.uid != "c1":
            assert one == good
        else:
            assert one.stopped and not one.text.startswith("Analysis")
            assert re.search(reason, one.refusal) and "\n" not in one.refusal
    # A parser may have lost a text, once; what is doubtful is followed by one more request.
    again = 2 * reason.startswith("no text")
    assert len(served.requests) == 6 + again + ("anybody knows" in name or "nobody knows" in name)


@pytest.mark.parametrize(
    "name",
    ["no choice", "no message, filtered", "filtered, status 200", "status 500", "parts of text"],
)
def test_a_row_that_always_fails_in_one_way_blocks_no_other(ask, name):
    fault = {
        "no choice": reply({"choices": []}),
        "no message, filtered": reply({"choices": [{"finish_reason": "content_filter"}]}),
        "filtered, status 200": reply({"error": {"code": 403, "message": "flagged"}}),
        "status 500": reply("it always breaks this server", 500),
        "parts of text": reply(completion(["\\boxed{9, ", "1, 1}"])),
    }[name]
    want = ask(lambda body: None)
    got = ask(second_comparison(fault), tries=2)
    assert [x for x in got if x.prompt.uid != "c1"] == [x for x in want if x.prompt.uid != "c1"]
    own = [one for one in got if one.prompt.uid == "c1"]
    assert all(bool(one.refusal) != (name == "parts of text") for one in own)
    if name in ("no choice", "filtered, status 200", "status 500"):  # of all rows it is an end
        with pytest.raises(RemoteError, match="nothing else is answered"):
            ask(lambda body: fault, tries=2)


@pytest.mark.parametrize("scheme", ["http", "https", "HTTPS"])
def test_certificates_are_checked_however_the_scheme_is_spelled(tmp_path, monkeypatch, scheme):
    import httpx

    contexts = []

    def client(**options):
        contexts.append(options["verify"])
        raise ValueError("stop here")

    monkeypatch.setattr(httpx, "AsyncClient", client)
    engine = RemoteEngine(BUCKETS, Server(f"{scheme}://localhost/v1", "t"), tmp_path / "p.jsonl")
    with pytest.raises(ValueError, match="stop here"):
        asyncio.run(engine._ask_all([]))
    assert contexts[0].verify_mode == ssl.CERT_REQUIRED and contexts[0].check_hostname


def test_a_refusal_is_an_unparsed_trajectory_and_is_not_asked_again(tokenizer, tmp_path):
    fault = second_comparison(reply(completion("So far \\boxed{9, 1}", "content_filter")))
    with chat_server(judge, lambda number, body: fault(body)) as server:
        trajectories = drawn(server, tokenizer, tmp_path / "t.jsonl")
        assert len(trajectories) == len(server.requests) == 18
        assert drawn(server, tokenizer, tmp_path / "t.jsonl") == trajectories
        assert len(server.requests) == 18
    for t in trajectories:
        if t.uid == "c1":
            assert (t.scores, t.lenient_scores, t.correct, t.finish) == (None, None, False, "stop")
            assert t.parse_reason == "finish reason content_filter"
        else:
            assert t.correct
    decisions = reject(trajectories, RejectionRules(drop_too_easy=False)).counts
    assert decisions["unparsed"] == 3 and decisions["kept"] == 15


# An answer: the reply, and its text and whether it ended by itself.
ANSWERS = {
    **{f"finish reason {finish}": (completion("x", finish), ("x", True))
       for finish in ("stop", "eos", "eos_token", "STOP", "stop_sequence", "end_turn", None)},
    **{f"finish reason {finish}": (completion("\\boxed{9, 1", finish), ("\\boxed{9, 1", False))
       for finish in ("length", "MAX_TOKENS", "model_length")},
    "no finish reason at the limit": (
        completion("x", None, usage={"completion_tokens": 64}), ("x", False)
    ),
    "no finish reason below it": (
        completion("x", None, usage={"completion_tokens": 9}), ("x", True)
    ),
    "no usage": (completion("x", usage=None), ("x", True)),
    "no field for the finish reason": (
        b'{"choices": [{"message": {"content": "x"}}]}', ("x", True)
    ),
    "thinking until the limit": (
        completion(None, "length", {"reasoning_content": "\\boxed{9, 1}"}),
        ("<think>\\boxed{9, 1}", False),
    ),
    "thinking and nothing else": (
        completion(None, message={"reasoning_content": "\\boxed{9, 1}"}),
        ("<think>\\boxed{9, 1}", True),
    ),
    "thinking kept apart": (
        completion("x", message={"reasoning_content": "\\boxed{9, 1}"}),
        ("<think>\\boxed{9, 1}</think>x", True),
    ),
    "thinking by its other name": (
        completion("x", message={"reasoning": "a</think>b", "reasoning_content": None}),
        ("<think>a b</think>x", True),
    ),
    "no thinking": (completion("x", message={"reasoning_content": " \n"}), ("x", True)),
    "thinking of another type": (completion("x", message={"reasoning": {"a": 1}}), ("x", True)),
    "an empty text": (completion(""), ("", True)),
    "parts": (
        completion([{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]), ("xy", True)
    ),
    "parts with thinking": (
        completion([{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]},
                    {"type": "text", "text": "y"}]),
        ("<think>x</think>y", True),
    ),
    "parts with thinking as a text": (
        completion([{"type": "thinking", "thinking": "x"}, "y", {"type": "thinking"}]),
        ("<think>x</think>y", True),
    ),
    "half a surrogate pair": (completion("x\ud800"), ("x?", True)),
    "half a letter": (completion("x").replace(b"x", b"x\xc3"), ("x\ufffd", True)),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_many_dialects(ask, served, name):
    data, want = ANSWERS[name]
    for one in ask(lambda body: reply(data)):
        assert (one.text, one.stopped, one.refusal) == (*want, "")
    assert len(served.requests) == 6


def test_thinking_kept_apart_by_the_server_is_no_part_of_the_trajectory(tokenizer, tmp_path):
    """Neither the answer nor its scores are read from it, and thinking alone is no answer."""

    def thinking(number, body):
        message = {"reasoning_content": f"Perhaps \\boxed{{9, 1}} to {number}."}
        return reply(completion(None if number % 2 else judge(body), message=message))

    with chat_server(judge, thinking) as server:
        trajectories = drawn(server, tokenizer, tmp_path / "t.jsonl")
    silent = [t for t in trajectories if t.parse_reason == "unclosed_thinking"]
    assert 2 * len(silent) == len(trajectories) == 18
    assert all(t.text == "" and t.scores is t.lenient_scores is None for t in silent)
    assert all(t.thinking.startswith("Perhaps \\boxed{9, 1} to ") for t in trajectories)
    assert all(t.correct and "Perhaps" not in t.text for t in trajectories if t not in silent)


# What ends the run: what the server says to all, what is told, and after how many requests.
ENDS = {
    "a wrong key": (refused("Incorrect API key", 401), "status 401.*Incorrect", 1),
    "no money": (reply("", 402), "status 402", 1),
    "not allowed": (reply("", 403), "status 403", 1),
    "no such model": (refused("no model teacher", 404), "status 404.*no model teacher", 1),
    "elsewhere": (reply("", 302, {"Location": "http://localhost:1/v1"}), "status 302", 1),
    "accepted only": (reply("", 202), "status 202", 1),
    "no such model, by 400": (refused("no model teacher", 400), "no model teacher.*nothing", 7),
    "unknown parameter": (refused("Unknown parameter: 'seed'", 400), "'seed'.*nothing else", 7),
    "a length that no request has": (refused("maximum context length is 9"), "is 9.*nothing", 7),
    "finish reason": (reply(completion("x", "done")), "done, not in stop_reasons .*else", 7),
    "busy": (reply("later", 429), "no answer in 2 calls.*status 429: later", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_the_run_does_so_with_the_words_of_the_server(ask, served, name):
    fault, told, requests = ENDS[name]
    with pytest.raises(RemoteError, match=f"/v1: comparison 'c0' sample 0: .*{told}"):
        ask(lambda body: fault, parallel=1, tries=2)
    assert len(served.requests) == requests


def test_a_refusal_of_all_ends_the_run_before_the_data_are_used_up(
    tokenizer, tmp_path, monkeypatch
):
    """Their words fit one request, but the length limit is what does not fit, for all."""
    monkeypatch.setattr(remote, "_MANY", 4)
    fault = refused("maximum context length is 9. You requested 64 in the completion", 400)
    with chat_server(judge, lambda *_: fault) as server:
        with pytest.raises(RemoteError, match="64 in the completion"):
            drawn(server, tokenizer, tmp_path / "t.jsonl", parallel=1)
        assert len(server.requests) == 4 + 1
        assert not (tmp_path / "t.partial").exists()


def test_a_unit_without_any_answer_is_told(ask, served, monkeypatch):
    """Its rows are too long, and nothing else is."""
    told = []
    monkeypatch.setattr(remote.logging, "warning", lambda text, *args: told.append(text % args))
    fault = refused("maximum context length is 9", 400)

    def long(body):
        plain = "the word yes" in body["messages"][0]["content"]
        return reply(completion("yes")) if plain else fault

    got = ask(long)
    assert all(one.refusal for one in got) and len(served.requests) == len(got) + 1 == 7
    (line,) = told
    assert re.search("/v1: comparison 'c0' sample 0: no answer to any of 6 requests: .* is 9", line)
    ask(second_comparison(fault))
    assert len(told) == 1


def test_money_that_runs_out_is_no_outcome_of_the_rows(ask, served):
    """Status 400 after good answers: what was answered before is asked, and is not either."""
    with pytest.raises(RemoteError, match="credit balance.*nothing else"):
        ask(lambda body: len(served.requests) > 3 and refused("credit balance", 400))
    assert served.requests[-1][1]["seed"] in {body["seed"] for _, body in served.requests[:3]}


def test_fields_of_the_request(ask, served):
    for changes, there, absent in [
        ({}, {"max_tokens": 64, "top_p": 0.9}, {"max_completion_tokens"}),
        ({"max_tokens_field": "most"}, {"most": 64}, {"max_tokens"}),
        ({"max_tokens_field": ""}, {}, {"max_tokens", ""}),
        ({"extra": '{"seed": null, "top_p": null, "top_k": 1}'}, {"top_k": 1}, {"seed", "top_p"}),
    ]:  # fmt: skip
        ask(lambda body: None, **changes)
        for _, body in served.requests:
            assert there.items() <= body.items() and not absent & body.keys()


def test_samples_of_a_server_without_seeds_are_kept_apart(ask, served, tmp_path):
    """They are asked for in the same words, and the next run must not take one for all."""
    unseeded = {"extra": '{"seed": null}', "partial": tmp_path / "p"}
    number = itertools.count()

    def counted(body):
        return reply(completion(f"answer {next(number)}"))

    with pytest.raises(RemoteError):
        ask(lambda body: len(served.requests) > 3 and reply("", 401) or counted(body),
            parallel=1, **unseeded)  # fmt: skip
    got = ask(counted, **unseeded)
    assert len({one.text for one in got}) == 6 and len(served.requests) == 3


def test_the_key_is_in_no_message_and_no_file(ask, served, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " open-sesame\n")
    echo = "Incorrect API key: open-sesame, by Bearer open-sesame"
    ask(lambda body: None)
    assert {headers["Authorization"] for headers, _ in served.requests} == {"Bearer open-sesame"}
    for fault in (
        refused(echo, 401), refused(echo, 500), refused(echo, 200), refused(echo, 302),
        reply("x" * 290 + "open-sesame", 404), reply(completion("", "open-sesame")),
    ):  # fmt: skip
        with pytest.raises(RemoteError) as raised:
            ask(lambda body, fault=fault: fault, tries=1)
        assert "sesame" not in "".join(traceback.format_exception(raised.value))
    got = ask(second_comparison(refused(echo, code="content_filter")))
    assert any(one.refusal for one in got) and "sesame" not in str(got)
    for key in ("open\nsesame", "open sesame", "ö"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ValueError, match="OPENAI_API_KEY") as raised:
            Server("http://x", "m").require()
        assert "sesame" not in str(raised.value)


def test_a_server_that_stays_down_fails_the_unit_and_the_next_run_goes_on(tokenizer, tmp_path):
    """One unit is whole and one in part; the next run asks for what nobody has answered."""
    with chat_server(judge) as server:
        want = drawn(server, tokenizer, tmp_path / "good.jsonl")
    path, partial = tmp_path / "t.jsonl", tmp_path / "t.partial"
    down = [True]

    def fault(number, body):
        return reply("", 500) if down[0] and number >= 10 else None

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
        return reply("", 500) if down[0] and number >= 3 else None

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
    with pytest.raises(RemoteError, match="ConnectError"):
        drawn(server, tokenizer, tmp_path / "t.jsonl", tries=2)


def test_requests_keep_to_a_rate(tokenizer, tmp_path):
    with chat_server(judge) as server:
        began = time.monotonic()
        drawn(server, tokenizer, tmp_path / "t.jsonl", COMPARISONS[:2], rate=20.0)
    assert time.monotonic() - began > 5 / 20


@pytest.mark.parametrize(
    "fields", [{"url": "localhost:8000"}, {"url": "http://"}, {"url": "http://x y"},
               {"url": "http://x:65536"}, {"url": "http://[:::]"}, {"url": "https://[1::2::3]:80/v1"},
               {"url": "http://[1.2.3.4]"}, {"url": "http://a..b"}, {"url": "http://."},
               {"model": ""}, {"parallel": 0}, {"tries": 0},
               {"rate": -1.0}, {"timeout": 0.0}, {"total_timeout": 0.0}, {"extra": "[]"},
               {"extra": "{"}, {"extra": '{"n": 2}'}, {"extra": '{"stream": true}'}],
    ids=str,
)  # fmt: skip
def test_bad_settings(fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))}: must"):
        Server(**{"url": "http://x", "model": "m"} | fields).require()


@pytest.mark.parametrize(
    "url", ["http://user:sesame@x/v1", "user:sesame@x", "https://sesame@x", "http://x:80/?key=sesame",
            "http://u:se/same@x", "http://x/v1#sesame"],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["jitted", "openai"])
def test_an_address_with_a_secret_is_refused_and_not_printed(url, engine):
    fields = {"engine": engine, "engine_url": url, "engine_model": "m"}
    with pytest.raises(ValueError, match=r"^config\.rft\.engine_url: must start with") as raised:
        _engine(fields)
    assert "same" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    "url", ["http://[::1]:8000/v1", "https://api.x-y.org", "http://x_1:1/a/b/",
            "http://[::ffff:1.2.3.4]", "http://x."],
)  # fmt: skip
def test_addresses(url):
    assert Server(url, "m").url == url


def test_every_field_of_the_server_has_one_in_the_config():
    names = {field.name for field in dataclasses.fields(Server)} - {"pause"}
    given = {"parallel": 2, "extra": '{"top_k": 1}', "max_tokens_field": "max_completion_tokens"}
    asked = {"url": "http://x", "model": "m", **given}
    engine = _engine({"engine": "openai", **{f"engine_{name}": asked[name] for name in asked}})
    assert engine.server() == Server("http://x", "m", **given)
    assert _engine({}).server() is None
    fields = {field.name for field in layout({}).sections["rft"].values}
    assert {name for name in fields if name.startswith("engine_")} == {
        f"engine_{name}" for name in names
    }


def _engine(fields):
    config = small_world.get_config("ci")
    config.rft.update(fields)
    return build(config).rft.engine


def test_more_fields_of_the_request_make_another_model(tmp_path):
    plain, extra = (
        RemoteEngine(BUCKETS, Server("http://x", "m", extra=extra), tmp_path / "p").digest
        for extra in ("", '{"chat_template_kwargs": {"enable_thinking": false}}')
    )
    # That of all trajectories from before there were such fields.
    assert plain == hashlib.sha256(b"http://x\x1fm").hexdigest()[:16] != extra


def test_one_interrupt_ends_it_though_the_server_hangs(ask, served, tmp_path):
    """What was answered until then is kept."""
    hang = second_comparison(raw(hang=True))
    # A shell that starts pytest in the background lets it ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask(hang, partial=tmp_path / "p", timeout=600.0)
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 5
    assert len(ask(lambda body: None, partial=tmp_path / "p")) == 6
    assert len(served.requests) == 2


# The file of answers.


def test_lines_that_do_not_read_are_named_and_asked_for_again(tmp_path, caplog):
    path = tmp_path / "p.jsonl"
    assert remote.read_answers(path) == {}
    answers = {"a": Answer("x", True), "b": Answer("y", False), "c": Answer("", True, "why")}
    for item in answers.items():
        remote.keep_answer(path, *item)
    good = path.read_bytes()
    first, rest = good.split(b"\n", 1)
    bad = [first[:9] + first, b"\xff", b"[" * 100_000, b"[]", b"{}", b"3", b'["d", 1, true]', b"",
           b'["d", "\\ud800", true]', b'[["d"], "x", true]', b'["d", "x"]']  # fmt: skip
    old = b'["e", "from before there were reasons", true]'
    path.write_bytes(b"\n".join([first, *bad, old, rest]) + b'["f", "cut o')
    with caplog.at_level("WARNING"):
        found = remote.read_answers(path)
    assert found == answers | {"e": Answer("from before there were reasons", True)}
    for line in (*range(2, 2 + len(bad)), 5 + len(bad)):
        assert f"{path}:{line}: " in caplog.text
    caplog.clear()
    assert len(remote.read_answers(path)) == 4 and not caplog.text


def test_a_line_that_does_not_fit_on_the_disk_is_not_there(tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    remote.keep_answer(path, "a", Answer("x", True))
    before = path.read_bytes()
    script = f"""if True:
        import pathlib, resource, signal
        from grm_jax.sampling.remote import Answer, keep_answer
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 100}, {len(before) + 100}))
        keep_answer(pathlib.Path({str(path)!r}), "b", Answer("y" * 1000, True))
    """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1 and f"OSError: {path}: " in run.stderr
    assert path.read_bytes() == before


def test_answers_are_kept_until_their_unit_is_in_the_store(tokenizer, tmp_path, monkeypatch):
    path, partial = tmp_path / "t.jsonl", tmp_path / "t.partial"
    with chat_server(judge) as server:
        with monkeypatch.context() as patch:
            patch.setattr(TrajectoryStore, "append_unit", _full_disk)
            with pytest.raises(OSError, match="No space"):
                drawn(server, tokenizer, path)
        asked = len(server.requests)
        assert len(drawn(server, tokenizer, path)) == len(server.requests) == 18 > asked > 0
    assert not partial.exists()


def _full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
