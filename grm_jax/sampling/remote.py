"""The remote engine: draws trajectories from an OpenAI-compatible server, as text.

Any server with POST <url>/chat/completions will do (vLLM, SGLang, a provider). The paper drew its
RFT data from DeepSeek-V2.5 (appendix C.1). One request a sample, with a seed of its own: so a
sample depends on no other, a server with a prefix cache still reads each prompt once, and
providers that do not know `n` serve too. The outcomes of a call:

- An answer: a text that ended by itself or at the length limit.
- No answer, and never one to this request: a content filter, a prompt longer than the context, a
  refusal, no text. It makes a sample without scores, with the words of the server as the reason.
- A failure: no connection, no reply in time, status 408, 409, 425, 429 or 5xx, a reply that is cut
  off, too large or not of the form. The call is made again, later and later; a sample that fails
  too often ends the run, and its unit is not written.
- A refusal of every request (a wrong key, no such model, an unknown parameter) ends the run. Where
  its words do not tell it from that of one request, or nothing was answered yet, something else is
  asked after it.

A unit is written when it is whole, and a server may charge for each of its samples. So answers are
kept in a file from when they come until their unit is in the store, and the next run asks for what
is missing. Of several processes the first one asks, and the others get its answers.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import json
import os
import pathlib
import random
import re
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import jax
from absl import logging

from grm_jax.files import append, write_atomically
from grm_jax.parallel import processes
from grm_jax.ranges import Checked, Count, NonNegative, Positive, Range, split
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import Completion
from grm_jax.sampling.scheduler import Buckets, Request, WorkUnit, unit_keys
from grm_jax.text.thinking import join_thinking

KEY_VARIABLE = "OPENAI_API_KEY"
_URL = re.compile(
    r"https?://([\w-]+(?:\.[\w-]+)*\.?|\[[\da-f:.]+\])(:(\d{1,5}))?(/[^\s@?#]*)?", re.ASCII | re.I
)
_OURS = {"model", "messages", "n", "stream"}  # fields of the request
_LONGEST_WAIT, _ERROR_WAIT = 60.0, 3.0  # seconds between calls; for the body of an error
_LARGEST = 2**24  # bytes of a reply
_MANY = 32  # requests without an answer, one after the other, before something else is asked
_FAILING = ("error", "abort", "network_error", "insufficient_system_resource")  # finish reasons
# Problems of a single request, in the words of a server or as a finish reason.
_FILTERED = re.compile(
    "content.?(filter|policy|management)|content exists risk|moderation|inspection.?failed|flagged"
    "|usage polic|^(safety|sensitive|recitation|prohibited_content|blocklist|refusal|tool_calls)$",
    re.I,
)  # fmt: skip
_TOO_LONG = re.compile(
    "context.?(length|size|window)|maximum context|reduce the length|(prompt|input) is too long"
    "|(prompt|input).{0,40}tokens?.{0,60}(exceed|longer|must be <=|too large)", re.I,
)  # fmt: skip


class RemoteError(OSError):
    """The server refuses every request, or failed one too often."""


class _Failed(Exception):
    """A call that may be made again: the problem, and after how many seconds at least."""


class Answer(NamedTuple):
    """A text, whether it ended by itself, and why it is no answer and never will be, or "".

    Thinking that a server keeps apart begins the text, between its tags.
    """

    text: str
    stopped: bool
    refusal: str = ""


def read_answers(path: pathlib.Path) -> dict[str, Answer]:
    """The kept answers, by name. A line that does not read is dropped, so it is asked for again."""
    kept = {}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            name, *fields = json.loads(line)
            answer = Answer(*fields)
            (answer.text + answer.refusal).encode()
            kept[name] = answer
        except (ValueError, TypeError, RecursionError) as error:
            logging.warning("%s:%d: is asked for again: %s", path, number, error)
    if lines:
        write_atomically(path, b"".join(_line(*item) for item in kept.items()))
    return kept


def keep_answer(path: pathlib.Path, name: str, answer: Answer) -> None:
    """Adds an answer to the kept ones: a whole line, or OSError and nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "ab") as file:
            append(file.fileno(), _line(name, answer))
    except OSError as error:
        raise OSError(f"{path}: {error}") from error


def _line(name: str, answer: Answer) -> bytes:
    """The name of the request, and the fields of the answer."""
    return json.dumps([name, *answer]).encode() + b"\n"


class _Asked(NamedTuple):
    """A request: its sample in words, its name among the kept answers, and its body."""

    where: str
    name: str
    body: dict


def api_key() -> str:
    """The key in the environment; ValueError, without its text, if no header can hold it."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not re.fullmatch("[!-~]*", key):
        raise ValueError(f"url: its key, in {KEY_VARIABLE}, has a character that is not printable")
    return key


def _is_address(url: str) -> bool:
    parts = _URL.fullmatch(url)
    with contextlib.suppress(ValueError):
        if parts and parts[1].startswith("["):
            ipaddress.IPv6Address(parts[1][1:-1])
        return parts is not None and int(parts[3] or 0) < 2**16
    return False


def check_url(url: str) -> None:
    """Raises ValueError, without the text, for a URL that is not an address and nothing more."""
    if not _is_address(url):
        raise ValueError(
            "url: must start with http:// or https:// and a host, without user, password or query; "
            f"a key belongs into the environment, as {KEY_VARIABLE}"
        )


def _is_extra(text: str) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(text or "{}")
        return isinstance(fields, dict) and not fields.keys() & _OURS
    return False


@dataclasses.dataclass(frozen=True)
class Server(Checked):
    """Where to ask, how hard, and in which dialect.

    Attributes:
      url: up to and without /chat/completions, such as http://localhost:8000/v1; "" for a server
        that is not used.
      model: its name there.
      parallel: requests at the same time.
      rate: most requests a second; 0 for no limit.
      timeout: seconds without a byte of the reply.
      total_timeout: seconds for one call in all.
      tries: calls for one sample.
      max_tokens_field: the name of the length limit in the request, such as
        "max_completion_tokens"; "" sends none.
      extra: a JSON object of more fields of the request. null leaves a field out, such as
        {"seed": null} for a server that knows none.
      stop_reasons: comma-separated finish reasons of a text that ended by itself, in lower case;
        "null" is none at all.
      length_reasons: finish reasons of a text that hit the length limit.
      pause: seconds before the second call; it doubles each time, up to a minute.
    """

    url: str = ""
    model: str = ""
    parallel: Count = 16
    rate: NonNegative = 0.0
    timeout: Positive = 600.0
    total_timeout: Positive = 3600.0
    tries: Count = 8
    max_tokens_field: str = "max_tokens"
    extra: Annotated[str, Range(f"a JSON object without {sorted(_OURS)}", _is_extra)] = ""
    stop_reasons: str = "stop,eos,eos_token,stop_sequence,end_turn,null"
    length_reasons: str = "length,max_tokens,model_length"
    pause: NonNegative = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.url:  # also of a server that is not used: configs are written to disk
            check_url(self.url)

    def require(self) -> None:
        """Raises ValueError, naming the field, unless there is an address, a model and a key."""
        check_url(self.url)
        api_key()
        self.demand("model", bool(self.model), "named")


class RemoteEngine:
    """Draws work units from a server; see `engine.Engine`.

    Attributes:
      buckets: the shapes by which prompts are limited and units are cut.
      digest: names the model in the fingerprint of its trajectories.
    """

    def __init__(self, buckets: Buckets, server: Server, partial: str | os.PathLike):
        """Connects to nothing. The key comes from the environment variable OPENAI_API_KEY.

        Args:
          buckets: see above.
          server: where to ask, how hard, and in which dialect.
          partial: the file for the answers of a unit that is not whole; no other engine may use it
            at the same time.
        """
        server.require()
        self.buckets = buckets
        self._partial = pathlib.Path(partial)
        self._server, self._key = server, api_key()
        model = "\x1f".join(filter(None, (server.url, server.model, server.extra)))
        self.digest = hashlib.sha256(model.encode()).hexdigest()[:16]
        self._next_start = 0.0
        self._answered: dict = {}  # the last request that was
        self._silent = 0  # requests since then that got none

    def run(
        self, params: None, unit: WorkUnit, config: DrawConfig, stage_key: jax.Array
    ) -> list[Completion]:
        """See `engine.Engine`; completions of text, without token ids and log-probs.

        Raises:
          RemoteError: the server refuses every request, or failed one as often as is allowed.
        """
        del params
        wanted = unit_keys(stage_key, unit)[1]
        answers = b""
        if processes.index() == 0:
            settings = {"temperature": config.temperature, "top_p": config.top_p,
                        self._server.max_tokens_field: config.max_new_tokens}  # fmt: skip
            asked = [self._asked(*sample, settings) for sample in wanted]
            answers = json.dumps(asyncio.run(self._ask_all(asked))).encode()
        answers = json.loads(processes.bytes_from_first(answers))
        return [
            Completion(
                prompt=request.prompt, sample=sample, seed=seed, token_ids=(), logprobs=(),
                sampling_logprobs=(), **Answer(*answer)._asdict(),
            )
            for (request, sample, seed), answer in zip(wanted, answers, strict=True)
        ]  # fmt: skip

    def forget(self) -> None:
        """Gives up the answers to a unit, which is in the store now."""
        if processes.index() == 0:
            self._partial.unlink(missing_ok=True)

    def _asked(self, request: Request, sample: int, seed: tuple, settings: dict) -> _Asked:
        seed = seed[1] & 0x7FFFFFFF
        messages = [message._asdict() for message in request.prompt.messages]
        body = {"model": self._server.model, "messages": messages, **settings, "seed": seed}
        body |= json.loads(self._server.extra or "{}")
        body = {name: value for name, value in body.items() if name and value is not None}
        # Samples differ in their seed, also where the server gets none.
        sent = json.dumps({"url": self._server.url, **body, "seed": seed}, sort_keys=True)
        name = hashlib.sha256(sent.encode()).hexdigest()
        return _Asked(f"comparison {request.prompt.uid!r} sample {sample}", name, body)

    async def _ask_all(self, unit: list[_Asked]) -> list[Answer]:
        import httpx

        server = self._server
        kept = read_answers(self._partial)
        places, self._ending = asyncio.Semaphore(server.parallel), asyncio.Event()
        doubtful: list[tuple[_Asked, Answer]] = []

        async def outcome(asked: _Asked) -> Answer:
            if asked.name in kept:
                return kept[asked.name]
            try:
                async with places:
                    answer, sure = await self._ask(asked)
                    if not sure:
                        doubtful.append((asked, answer))
                    elif self._answered:  # else the server may yet turn out to refuse everything
                        keep_answer(self._partial, asked.name, answer)
                    if answer.refusal and self._silent % _MANY == 0:
                        await self._ask_another(asked, answer)
            except BaseException:
                self._ending.set()  # calls under way may be charged for: they go on
                raise
            return answer

        # A connection a request: one that is kept may be closed just when it is used again.
        async with httpx.AsyncClient(
            base_url=server.url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=httpx.Timeout(server.timeout, connect=min(server.timeout, 60.0)),
            verify=ssl.create_default_context(),
        ) as self._client:
            answers = await asyncio.gather(*map(outcome, unit), return_exceptions=True)
            for answer in sorted(answers, key=lambda answer: isinstance(answer, _Failed)):
                if isinstance(answer, BaseException):
                    raise answer
            refused = [pair for pair in zip(unit, answers, strict=True) if pair[1].refusal]
            if doubtful or refused and not self._answered:
                await self._ask_another(*(doubtful or refused)[0])
            if unit and len(refused) == len(unit):
                problem = f"no answer to any of {len(unit)} requests: {refused[0][1].refusal}"
                logging.warning("%s", self._error(refused[0][0], problem))
        return answers

    async def _ask_another(self, asked: _Asked, answer: Answer) -> None:
        """Raises RemoteError unless the server answers something else after this."""
        plain = {"messages": [{"role": "user", "content": "Answer with the word yes."}]}
        try:
            other, _ = await self._ask(asked._replace(body=self._answered or asked.body | plain))
        except RemoteError as error:
            other = Answer("", True, str(error))
        if other.refusal:
            raise self._error(asked, f"{answer.refusal} (and nothing else is answered)")

    async def _ask(self, asked: _Asked) -> tuple[Answer, bool]:
        """The outcome of a request after all its calls, and whether it surely is the request's own.

        Raises:
          RemoteError: see `run`.
          _Failed: another request has ended the run.
        """
        wait, doubtful = 0.0, False
        for attempt in range(self._server.tries):
            await self._sleep(wait)
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + (1 / self._server.rate if self._server.rate else 0)
            await self._sleep(start - now)
            if self._ending.is_set():
                raise _Failed("another request has ended the run", 0.0, False)
            try:
                answer, sure = await self._call(asked)
            except _Failed as failed:
                problem, least, doubtful = failed.args
                wait = self._server.pause * 2.0 ** min(attempt, 9) * (1 + random.random())
                wait = min(_LONGEST_WAIT, max(wait, least))  # in part by chance: not all at once
                continue
            if answer.refusal.startswith("no text") and attempt == 0 < self._server.tries - 1:
                continue  # it may have been an accident
            self._silent = self._silent + 1 if answer.refusal else 0
            self._answered = self._answered if answer.refusal else asked.body
            return answer, sure
        problem = f"no answer in {self._server.tries} calls; the last: {problem}"
        if doubtful:  # whether the server answers another request decides whose fault it is
            self._silent += 1
            return Answer("", True, problem), False
        raise self._error(asked, problem)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _said(self, text: str, most: int = 300) -> str:
        """Somebody else's words for a message: in one line, and without the key."""
        written = json.dumps(self._key)[1:-1]
        for key in filter(None, (self._key, written, written.replace("/", "\\/"))):
            text = text.replace(key, "***")
        return " ".join(text.encode(errors="replace").decode().split())[:most]

    def _error(self, asked: _Asked, problem: str) -> RemoteError:
        return RemoteError(self._said(f"{self._server.url}: {asked.where}: {problem}", 1000))

    async def _call(self, asked: _Asked) -> tuple[Answer, bool]:
        import httpx

        raw, status, wait = bytearray(), 0, 0.0
        content, headers = json.dumps(asked.body), {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._server.total_timeout) as deadline,
                self._client.stream(
                    "POST", "chat/completions", content=content, headers=headers
                ) as reply,
            ):
                status = reply.status_code
                if re.fullmatch(r"\d{1,9}(\.\d*)?", retry := reply.headers.get("Retry-After", "")):
                    wait = float(retry)
                if status != 200:
                    soon = asyncio.get_running_loop().time() + _ERROR_WAIT
                    deadline.reschedule(min(deadline.when(), soon))
                async for piece in reply.aiter_bytes():
                    raw += piece
                    if len(raw) > _LARGEST:
                        break
        except (httpx.HTTPError, OSError) as error:
            if status in (0, 200):  # of an error, a part of its words will do
                raise _Failed(f"{type(error).__name__}: {error}", wait, False) from None
        text = raw.decode(errors="replace")
        if status == 200:
            return self._outcome(text, asked.body.get(self._server.max_tokens_field, 0))
        refusal = f"refused with status {status}: {self._said(text)}"
        sure = bool(_TOO_LONG.search(text) or status < 500 and _FILTERED.search(text))
        if status in (408, 409, 425, 429) or status >= 500 and not sure:
            raise _Failed(refusal, wait, status == 500)
        if status in (400, 413, 422, 451) or sure and (status >= 500 or status == 403):
            return Answer("", True, refusal), sure
        raise self._error(asked, refusal)

    def _outcome(self, raw: str, limit: int) -> tuple[Answer, bool]:
        """The outcome in the body of a reply, and whether it is surely this request's own."""
        try:
            reply = json.loads(raw)
            (choice,) = reply["choices"]
            message, finish = choice.get("message") or {}, choice.get("finish_reason")
            text, refusal = _text(message), message.get("refusal") or ""
            spent = (reply.get("usage") or {}).get("completion_tokens")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _Failed(f"no chat completion: {self._said(raw)}", 0.0, True) from None
        name = "null" if finish is None else str(finish).lower()
        if name in _FAILING:
            raise _Failed(f"finish reason {name}", 0.0, True)
        cut = name in split(self._server.length_reasons) or finish is None and spent == limit
        known = cut or name in split(self._server.stop_reasons)
        sure = bool(known or refusal or _FILTERED.search(name))
        if refusal:
            refusal = f"refusal: {refusal}"
        elif not known:
            refusal = f"finish reason {name}" + ", not in stop_reasons" * (not sure)
        elif text is None and not cut:  # if it was cut, it was still thinking
            refusal = f"no text, finish reason {name}"
        return Answer(text or "", not cut, self._said(refusal)), sure


def _text(message: dict) -> str | None:
    """The text of a message after its thinking, both of which may come in parts; None for none."""
    content = message.get("content")
    thoughts = [message.get("reasoning_content") or message.get("reasoning")]
    if isinstance(content, list):
        parts = [{"text": part} if isinstance(part, str) else part for part in content]
        thoughts += _thoughts(part for part in parts if part.get("type") == "thinking")
        texts = [part["text"] for part in parts if part.get("type", "text") == "text"]
        content = "".join(texts) if texts else None
    thought = "".join(text for text in thoughts if isinstance(text, str))
    if thought.strip():
        content = join_thinking(thought, content or "")
    return content and content.encode(errors="replace").decode()


def _thoughts(parts: Iterable[dict]) -> Iterator[object]:
    """What parts of a message hold as thinking: texts, or parts that have one each."""
    for part in parts:
        inner = part.get("thinking")
        yield from [inner] if isinstance(inner, str) else [p.get("text") for p in inner or ()]
