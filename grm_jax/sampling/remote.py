"""The remote engine: draws trajectories from an OpenAI-compatible server, as text.

Any server with POST <url>/chat/completions will do (vLLM, SGLang, a provider). The paper drew its
RFT data from DeepSeek-V2.5 (appendix C.1). One request a sample, with a seed of its own: so a
sample depends on no other, a server with a prefix cache still reads each prompt once, and
providers that do not know `n` serve too.

An answer is a text with finish reason "stop" or "length". Everything else is a failed call: no
connection, no reply in time, status 408, 409, 425, 429 or 5xx, a reply that is cut off or is not of
the form. A failed call is made again, later and later, and in the end fails its whole work unit,
which is then not written; it never becomes an answer. Any other status is a refusal, which no
repetition mends, and ends the run with the words of the server. The next run asks for what is
missing: the answers of the unit that failed, or in which the process was killed, are kept.

Of several processes the first one asks, and the others get what it got.
"""

import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import jax
import numpy as np

from grm_jax.parallel import processes
from grm_jax.parallel.sharding import fetch
from grm_jax.ranges import Checked, Count, NonNegative, Positive
from grm_jax.sampling import keys
from grm_jax.sampling.engine import Completion
from grm_jax.sampling.partial import PartialUnit
from grm_jax.sampling.scheduler import Buckets, Request, WorkUnit

KEY_VARIABLE = "OPENAI_API_KEY"
_AGAIN = (408, 409, 425, 429)
_LONGEST_WAIT = 60.0


class RemoteError(OSError):
    """The server refused a request, or failed it too often."""


class _Failed(Exception):
    """A call without an answer that may be made again; `wait` seconds, if the server said so."""

    def __init__(self, problem: str, wait: float = 0.0):
        super().__init__(problem)
        self.wait = wait


@dataclasses.dataclass(frozen=True)
class Server(Checked):
    """Where to ask, and how hard.

    Attributes:
      url: up to and without /chat/completions, such as http://localhost:8000/v1.
      model: its name there.
      parallel: requests at the same time.
      rate: most requests a second; 0 for no limit.
      timeout: seconds without a byte of the reply.
      tries: calls for one sample.
      pause: seconds before the second call; it doubles each time, up to a minute.
    """

    url: str
    model: str
    parallel: Count = 16
    rate: NonNegative = 0.0
    timeout: Positive = 600.0
    tries: Count = 8
    pause: NonNegative = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: must start with http:// or https://, got {self.url!r}")
        if not self.model:
            raise ValueError("model: must be named")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


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
          server: where to ask, and how hard.
          partial: the file for the answers of a unit that is not whole; no other engine may use it
            at the same time.
        """
        self.buckets = buckets
        self._partial = PartialUnit(partial)
        self.digest = hashlib.sha256(f"{server.url}\x1f{server.model}".encode()).hexdigest()[:16]
        self._server = server
        self._key = os.environ.get(KEY_VARIABLE, "")
        self._open = urllib.request.build_opener(_NoRedirects).open
        self._turn = threading.Lock()
        self._next_start = 0.0
        self._ending = threading.Event()

    def run(
        self,
        params: None,
        unit: WorkUnit,
        *,
        stage_key: jax.Array,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
    ) -> list[Completion]:
        """Draws every sample of a unit; `params` are the server's own.

        Returns:
          Completions of text, without token ids and log-probs, in the order of the requests and of
          their samples.

        Raises:
          RemoteError: a request was refused, or failed as often as is allowed.
        """
        del params
        indices_PS = np.zeros((len(unit.requests), unit.bucket.S), np.int32)
        for p, request in enumerate(unit.requests):
            indices_PS[p, : len(request.samples)] = request.samples
        uids = [request.uid for request in unit.requests]
        seeds_PS2 = fetch(jax.random.key_data(keys.sample_keys(stage_key, uids, indices_PS)))
        wanted = [
            (request, sample, tuple(int(word) for word in seeds_PS2[p, s]))
            for p, request in enumerate(unit.requests)
            for s, sample in enumerate(request.samples)
        ]
        settings = {"temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}
        answers = b""
        if processes.index() == 0:
            answers = json.dumps(self._ask_all(wanted, settings)).encode()
        answers = json.loads(processes.bytes_from_first(answers))
        return [
            Completion(
                uid=request.uid, order=request.order, prompt_ids=request.prompt_ids,
                truncated=request.truncated, sample=sample, seed=seed, token_ids=(), logprobs=(),
                sampling_logprobs=(), stopped=stopped, text=text,
            )
            for (request, sample, seed), (text, stopped) in zip(wanted, answers, strict=True)
        ]  # fmt: skip

    def _ask_all(self, wanted, settings) -> list[tuple[str, bool]]:
        self._ending.clear()
        kept = self._partial.read()
        with concurrent.futures.ThreadPoolExecutor(self._server.parallel) as pool:
            try:
                futures = [
                    pool.submit(
                        self._ask, request, sample, {**settings, "seed": seed[1] & 0x7FFFFFFF}, kept
                    )
                    for request, sample, seed in wanted
                ]
                concurrent.futures.wait(futures)
            finally:
                self._ending.set()  # an interrupt need not wait for all of them
        for future in futures:
            if isinstance(future.exception(), RemoteError):
                raise future.exception()
        answers = [future.result() for future in futures]
        self._partial.clear()
        return answers

    def _ask(
        self, request: Request, sample: int, settings: dict, kept: dict[str, tuple[str, bool]]
    ) -> tuple[str, bool]:
        """Text of one sample and whether it ended by itself, after as many calls as it takes."""
        where = f"comparison {request.uid!r} sample {sample}"
        body = {
            "model": self._server.model, "messages": [{"role": "user", "content": request.text}],
            **settings,
        }  # fmt: skip
        key = self._partial.key({"url": self._server.url, **body})
        if key in kept:
            return kept[key]
        wait = 0.0
        for attempt in range(self._server.tries):
            if self._ending.wait(wait):
                raise _Failed("another sample has failed the unit")
            self._wait_for_turn()
            try:
                answer = self._call(where, body)
                self._partial.add(key, *answer)
                return answer
            except RemoteError:
                self._ending.set()
                raise
            except _Failed as error:
                problem = str(error)
                wait = self._server.pause * 2**attempt * (1 + random.random())  # not all at once
                wait = min(max(error.wait, wait), _LONGEST_WAIT)
        self._ending.set()
        raise RemoteError(
            f"{self._server.url}: {where}: no answer in {self._server.tries} calls; the last one: "
            f"{problem}"
        )

    def _wait_for_turn(self) -> None:
        if not self._server.rate:
            return
        with self._turn:
            start = max(self._next_start, time.monotonic())
            self._next_start = start + 1 / self._server.rate
        time.sleep(max(0.0, start - time.monotonic()))

    def _call(self, where: str, body: dict) -> tuple[str, bool]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        call = urllib.request.Request(
            self._server.url.rstrip("/") + "/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with self._open(call, timeout=self._server.timeout) as reply:
                raw = reply.read()
        except urllib.error.HTTPError as error:
            said = error.read(500).decode(errors="replace")
            if error.code in _AGAIN or error.code >= 500:
                raise _Failed(f"status {error.code}: {said}", _retry_after(error)) from None
            raise RemoteError(
                f"{self._server.url}: {where}: refused with status {error.code}: {said}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(f"{type(error).__name__}: {error}") from None
        return _answer(raw)


def _retry_after(error: urllib.error.HTTPError) -> float:
    try:
        return float(error.headers.get("Retry-After", 0))
    except ValueError:  # a date
        return 0.0


def _answer(raw: bytes) -> tuple[str, bool]:
    """The text of a reply and whether it ended by itself; _Failed if the reply is none."""
    try:
        (choice,) = json.loads(raw)["choices"]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    except (ValueError, KeyError, TypeError):
        raise _Failed(f"not a chat completion with one choice: {raw[:200]!r}") from None
    if text is None and finish == "length":
        text = ""  # cut off while it was thinking
    if not isinstance(text, str) or finish not in ("stop", "length"):
        raise _Failed(f"no text, or finish reason {finish!r}")
    return text.encode(errors="replace").decode(), finish == "stop"
