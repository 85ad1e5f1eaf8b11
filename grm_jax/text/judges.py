"""Judges of any kind: a Jinja template of the user makes prompts, a verdict kind reads answers.

A template states in its first line what it shows at once, and may emit several messages with roles
of its own:

    {% set mode = "pair" %}
    {% call message("system") %}Compare two answers ...{% endcall %}
    {% call message("user") %}{{ messages[-1].content }} ... {{ responses[0] }} ...{% endcall %}

A template without `message` is one message of the user. What a call of `message` wrote is handed on
as a message, apart from the others, and nothing looks for messages in a text: so no response can
open one, and the tokenizer takes control pieces from the chat format alone. Templates run in a
sandbox, as those of checkpoints do, and a name that they are not given is an error.
"""

import functools
import hashlib
import itertools
import pathlib
import re
import traceback
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from grm_jax.text.prompts import Message
from grm_jax.text.scores import Parsed
from grm_jax.text.verdicts import MODES, Verdict, parse_kind

GIVEN = ("messages", "responses", "principles", "reference", "message")
_ROLE = re.compile("[a-z][a-z0-9_]*")
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    extensions=[loopcontrols],
)  # fmt: skip
_compiled = functools.lru_cache(_ENVIRONMENT.from_string)


class Judge(NamedTuple):
    """A judge that was read by `load`.

    Attributes:
      path: of the template, for messages to people.
      source: its text.
      mode: what a prompt shows, one of `verdicts.MODES`: "list" all responses of a comparison,
        "pair" two, "single" one.
      verdict: how answers are read.
    """

    path: str
    source: str
    mode: str
    verdict: Verdict

    def prompt(
        self,
        messages: Sequence[Message],
        responses: Sequence[str],
        *,
        principles: str = "",
        reference: str = "",
    ) -> list[Message]:
        """The messages of a prompt.

        Args:
          messages: the conversation; the template gets dicts with role and content.
          responses: in presented order; as many as the mode shows. A template of the mode "single"
            gets `response` too.
          principles: given principles; "" for none.
          reference: a correct answer to the query; "" for none.

        Raises:
          ValueError: "<path>:<line>: <problem>"; the template fails, writes nothing, writes a role
            that is no name, or text outside of its messages.
        """
        written: list[Message] = []

        def message(role, caller):
            if not isinstance(role, str) or not _ROLE.fullmatch(role):
                raise ValueError(f"a role is a name in small letters, got {role!r}")
            written.append(Message(role, caller().removesuffix("\n")))
            return ""

        values = {"response": responses[0]} if self.mode == "single" else {}
        try:
            rest = _compiled(self.source).render(
                **values, messages=[turn._asdict() for turn in messages], message=message,
                responses=list(responses), principles=principles, reference=reference,
            )  # fmt: skip
        except Exception as error:  # a template is a program, and can fail in any way
            raise self._error(_line(error), f"{type(error).__name__}: {error}") from error
        if not written:
            written.append(Message("user", rest.strip("\n")))
        elif rest.strip():
            raise self._error(1, f"text outside of its messages: {rest.strip()[:60]!r}")
        if not any(content.strip() for _, content in written):
            raise self._error(1, "writes nothing")
        return written

    def read(self, text: str, n: int, *, lenient: bool = False) -> Parsed:
        """The scores of the n responses of a prompt by an answer to it; see `Verdict.read`."""
        return self.verdict.read(text, n, pair=self.mode == "pair", lenient=lenient)

    def fingerprint(self) -> str:
        """Hex digest of what decides its prompts and scores."""
        kind, limits, argument = self.verdict
        parts = (self.source, ":".join(filter(None, (kind, limits))), argument)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def chooses(self) -> bool:
        """Whether it needs two responses or more: it says which is best."""
        winner = self.verdict.kind == "letters" or "(?P<winner>" in self.verdict.argument
        return self.mode == "pair" or winner

    def described(self) -> str:
        """Words for a note below a table."""
        shown = {"list": "all responses in one prompt",
                 "pair": "pairs, of longer lists in a circle, added up",
                 "single": "one response a prompt"}[self.mode]  # fmt: skip
        verdict = ":".join(filter(None, self.verdict))
        return f"template {pathlib.Path(self.path).name}, {shown}; verdict {verdict!r}"

    def trials(self) -> Iterator[tuple[list[str], list[Message]]]:
        """Made-up responses and the messages of a prompt of them, for `load`; raises as `prompt`.

        The responses are in falling and in rising order, all alike, and long, in lines.
        """
        query = [Message("user", "q")]
        turns = [Message("system", "s"), Message("user", "u"), Message("assistant", "v"), *query]
        made_up = []
        for count in {"list": (2, 3), "pair": (2,), "single": (1,)}[self.mode]:
            rising = [f"\ue000Response {i}\ue001" for i in range(count)]
            long = [response.replace(" ", " line\n\n" * 1000) for response in rising]
            made_up += [rising[::-1], rising, rising[:1] * count, long]
        for responses, conversation, principles, reference in itertools.product(
            made_up, (query, turns), ("", "p"), ("", "r")
        ):
            yield (
                responses,
                self.prompt(conversation, responses, principles=principles, reference=reference),
            )

    def _error(self, line: int, problem: str) -> ValueError:
        return ValueError(f"{self.path}:{line}: {problem}")


def load(path: str, verdict: str) -> Judge:
    """The judge of a template file, tried out on made-up comparisons.

    Args:
      path: the file, UTF-8.
      verdict: spells its verdict kind, see `verdicts`.

    Raises:
      ValueError: "<path>:<line>: <problem>"; the file is not there, does not compile, states no
        mode, uses a name that it is not given, does not show each response whole and in the given
        order (breaks between lines and words may be its own), or fails; or the verdict kind does
        not fit the mode.
    """
    try:
        source = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    try:
        tree = _ENVIRONMENT.parse(source)
        _compiled(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: does not compile: {error.message}") from error
    line, mode = _mode(tree)
    if mode not in MODES:
        found = "states no mode" if mode is None else f"the mode is {mode!r}"
        raise ValueError(f'{path}:{line}: {found}; expected {{% set mode = "..." %}} with one of '
                         f"{MODES}")  # fmt: skip
    given = {*GIVEN, *(["response"] if mode == "single" else [])}
    unknown = meta.find_undeclared_variables(tree) - given - {*_ENVIRONMENT.globals}
    for name in tree.find_all(nodes.Name):
        if name.ctx == "load" and name.name in unknown:
            raise ValueError(
                f"{path}:{name.lineno}: {name.name!r} is not given to a template of the mode "
                f"{mode!r}; known are {sorted(given)}"
            )
    try:
        judge = Judge(path, source, mode, parse_kind(verdict, mode))
    except ValueError as error:
        raise ValueError(f"{path}:{line}: the verdict {verdict!r}: {error}") from error
    for responses, messages in judge.trials():
        wanted = list(range(1, len(responses) + 1))
        found = _places_shown(responses, "".join(content for _, content in messages))
        if found != wanted:
            uses = [name.lineno for name in tree.find_all(nodes.Name)
                    if name.name in ("response", "responses")]  # fmt: skip
            alike = " that are alike" if len({*responses}) < len(responses) else ""
            raise ValueError(
                f"{path}:{min(uses, default=1)}: does not show every response, whole and in the "
                f"order of `responses`: expected responses {wanted}{alike}, found {found}"
                + ("; use `response`" if mode == "single" else "")
            )
    return judge


def _places_shown(responses: Sequence[str], text: str) -> list[int]:
    """The numbers of the responses that a text shows whole, as they first appear in it."""
    text = "".join(text.split())
    found: dict[int, int] = {}
    ends: dict[str, int] = {}  # where to look for a further response that is alike
    for number, response in enumerate(responses, 1):
        marker = "".join(response.split())
        if (place := text.find(marker, ends.get(marker, 0))) >= 0:
            found[number], ends[marker] = place, place + len(marker)
    return sorted(found, key=found.__getitem__)


def _mode(tree: nodes.Template) -> tuple[int, str | None]:
    """The line and the value of the first `set mode` that is outside of all blocks."""
    for node in tree.body:
        if isinstance(node, nodes.Assign) and getattr(node.target, "name", "") == "mode":
            return node.lineno, getattr(node.node, "value", "an expression")
    return 1, None


def _line(error: BaseException) -> int:
    """The line of a template at which it failed."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    return lines[-1] if lines else 1
