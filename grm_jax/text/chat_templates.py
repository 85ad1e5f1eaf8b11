"""Tokenizers of checkpoint folders in Hugging Face hub format, with the checkpoint's own template.

A chat template is a Jinja program that comes with the weights. It runs in a sandbox, and what it
returns is one string in which text of messages and text of the template look alike. So it is
rendered with a sentinel for each content, which tells the two apart: control pieces count only
where the template itself wrote them. A second rendering, of the real contents, must give what the
first one with the contents put in gives; a template that rewrites contents is refused. It may
trim them, and leave the thinking out of what the assistant said before.

A conversation starts with exactly one bos if the tokenizer has one and the template writes it; a
template that never does gets none, as by transformers, which adds nothing to a template. With
`add_bos_token: false` a template that writes it elsewhere gets none at the start either.
`strftime_now` is not offered, because a prompt that depends on the day cannot be drawn again: a
template that writes the date takes its own default (Llama-3.x has 26 Jul 2024), and one without a
default is refused.
"""

import functools
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import jinja2
import jinja2.meta
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from grm_jax.files import read_json
from grm_jax.text.chat_formats import (
    BUILT_IN,
    DEEPSEEK_CHAT,
    GEMMA_CHAT,
    ChatFormat,
    ChatWriter,
    checked_messages,
)
from grm_jax.text.prompts import ROLES, Message
from grm_jax.text.thinking import CLOSING
from grm_jax.text.tokenizers import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer

_SLOT = re.compile("(\u2003?)\ue000([0-9]+)\ue001(\u2003?)")
THINKING = ("", "on", "off")  # "": the template is told nothing


class _Refusal(ValueError):
    """The template called raise_exception."""


def _raise_exception(message: str) -> None:
    raise _Refusal(f"the chat template refuses the conversation: {message}")


class _Generation(Extension):
    """{% generation %}, by which templates mark what to train on: its body is written as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)  # names set inside end there


# The settings for which templates on the hub are written.
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
)
_ENVIRONMENT.globals["raise_exception"] = _raise_exception
_compiled = functools.lru_cache(_ENVIRONMENT.from_string)


def _variables(source: str) -> set[str]:
    """The names that a template reads."""
    return jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(source))


def _with_thinking(source: str, thinking: str) -> str:
    """The template with thinking "on" or "off"; in its text, which the fingerprint covers."""
    if "enable_thinking" not in _variables(source):
        raise ValueError(f"does not read enable_thinking, so thinking cannot be {thinking!r}")
    # +%} keeps a line break after it, as at the start of a template.
    return f"{{% set enable_thinking = {'true' if thinking == 'on' else 'false'} +%}}{source}"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template as a `ChatWriter`; pad, bos and eos name control pieces.

    A template that refuses a system message by `raise_exception` (Gemma's) gets it folded into the
    first user turn.
    """

    source: str
    pad: str
    bos: str | None
    eos: str

    def pieces(self) -> dict[str, str]:
        bos = {} if self.bos is None else {"bos": self.bos}
        return {"pad": self.pad, **bos, "eos": self.eos}

    def write(
        self, messages: Sequence[Message], add_generation_prompt: bool
    ) -> list[tuple[str, str]]:
        """Pairs (own, data) as the template writes them; data are contents as it trims them.

        What the assistant said may lose all up to a closing tag of thinking.

        Raises:
          ValueError: as `checked_messages`, or the template fails, refuses the conversation,
            leaves out, repeats or reorders contents, or changes them by more than that.
        """
        # A template that knows more roles, as those of some judges do, knows their order too.
        if {role for role, _ in messages} <= {*ROLES}:
            messages = checked_messages(messages, fold_system=self._folds_system)
        # Private-use characters, and a space that no template writes: where U+2003 is gone, the
        # template trims. Contents cannot collide with a sentinel: no rendering that is searched
        # for them holds contents.
        sentinels = [f"\u2003\ue000{i}\ue001\u2003" for i in range(len(messages))]
        roles = [role for role, _ in messages]
        skeleton = self._render(map(Message, roles, sentinels), add_generation_prompt)
        slots = list(_SLOT.finditer(skeleton))
        if [int(match[2]) for match in slots] != list(range(len(messages))):
            raise ValueError("the chat template leaves out, repeats or reorders messages")

        own, contents, start = [], [], 0
        for match, (_, content) in zip(slots, messages, strict=True):
            content = content if match[1] else content.lstrip()
            contents.append(content if match[3] else content.rstrip())
            own.append(skeleton[start : match.start()])
            start = match.end()
        own.append(skeleton[start:])
        whole = self._render(messages, add_generation_prompt)
        if _joined(own, contents) != whole:  # each content among sentinels shows what it becomes
            for i, slot in enumerate(slots):
                alone = [*map(Message, roles, sentinels)]
                alone[i] = messages[i]
                rendered = self._render(alone, add_generation_prompt)
                contents[i] = _written(skeleton, slot, rendered, messages[i])
            if _joined(own, contents) != whole:
                raise ValueError(_TRANSFORMS)
        return [*zip(own, [*contents, ""], strict=True)]

    @functools.cached_property
    def _folds_system(self) -> bool:
        try:
            self._render([Message("system", "s"), Message("user", "u")], True)
        except _Refusal:
            return True
        return False

    def _render(self, messages: Iterable[Message], add_generation_prompt: bool) -> str:
        try:
            return _compiled(self.source).render(
                messages=[message._asdict() for message in messages],
                add_generation_prompt=add_generation_prompt,
                **{f"{name}_token": piece for name, piece in self.pieces().items()},
                tools=None,  # templates ask whether it is none, not only whether it is defined
                documents=None,
            )
        except _Refusal:
            raise
        except Exception as error:  # a template is a program, and can fail in any way
            problem = f"fails: {type(error).__name__}: {error}"
            if isinstance(error, jinja2.UndefinedError) and "strftime_now" in str(error):
                problem = ("writes the date of the day (strftime_now), and such a prompt cannot be "
                           "drawn again; put a fixed date in its place")  # fmt: skip
            raise ValueError(f"the chat template {problem}") from error


_TRANSFORMS = "the chat template transforms contents in an unknown way"


def _joined(own: Sequence[str], contents: Sequence[str]) -> str:
    return "".join(map("".join, zip(own, [*contents, ""], strict=True)))


def _written(skeleton: str, slot: re.Match, rendered: str, message: Message) -> str:
    """What a template wrote of the one content that stands in `rendered` for its sentinel."""
    before, after = skeleton[: slot.start()], skeleton[slot.end() :]
    written = rendered[len(before) : len(rendered) - len(after)]
    said = message.content
    if message.role == "assistant":
        said = said.rpartition(CLOSING)[2]
    trimmed = written in said and written.strip() == said.strip()
    if not trimmed or before + written + after != rendered:
        raise ValueError(_TRANSFORMS)
    return written


# --- Checkpoint folders -----------------------------------------------------------------------


def load_tokenizer(folder: str | os.PathLike, *, thinking: str = "") -> Tokenizer:
    """The tokenizer of a checkpoint folder, which writes conversations as the checkpoint wants.

    `thinking`, one of `THINKING`, is told to the chat template as `enable_thinking`.

    Files, all but the first optional:
      tokenizer.model: a SentencePiece model (Gemma); else tokenizer.json of `tokenizers`.
      tokenizer_config.json: bos_token, eos_token, pad_token (else eos), chat_template,
        add_bos_token.
      tokenizer_config.json, added_tokens.json, tokenizer.json next to a model: tokens past it.
      chat_template.jinja: the chat template; it wins over the one in tokenizer_config.json.
      generation_config.json, else config.json: eos_token_id adds to `stop_ids`.
      config.json: its architecture decides which built-in format writes the conversations where
        there is no template. Without the file a tokenizer.model is taken for one of Gemma.

    Raises:
      ValueError: neither tokenizer file, one that is unusable, named with its field, neither a
        template nor an architecture with a built-in format, or no template that reads
        `enable_thinking` where it is to be told.
    """
    folder = pathlib.Path(folder).expanduser()
    added = {"tokenizer_config.json": "added_tokens_decoder"}
    if (folder / "tokenizer.model").exists():
        read, path, usual = SentencePieceTokenizer.from_file, "tokenizer.model", GEMMA_CHAT
        added["tokenizer.json"] = "added_tokens"
    elif (folder / "tokenizer.json").exists():
        read, path, usual = HuggingFaceTokenizer.from_file, "tokenizer.json", DEEPSEEK_CHAT
    else:
        raise ValueError(f"{folder}: neither tokenizer.model nor tokenizer.json is there")
    writer = _chat_writer(folder, usual, thinking)
    tokenizer = read(folder / path, chat_format=writer, added=_added_tokens(folder, added))
    ends = folder / "generation_config.json"  # transformers takes config.json for a missing one
    more = _stop_ids(ends if ends.exists() else folder / "config.json", tokenizer.vocab_size)
    tokenizer.stop_ids = tuple(dict.fromkeys((*tokenizer.stop_ids, *more)))
    return tokenizer


def reads_thinking(folder: str | os.PathLike) -> bool:
    """Whether the chat template of a checkpoint folder reads `enable_thinking`.

    Raises:
      ValueError: a template that is unusable.
    """
    where, source = _template(pathlib.Path(folder).expanduser())
    try:
        return source is not None and "enable_thinking" in _variables(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{where}: {error}") from error


def _template(folder: pathlib.Path) -> tuple[str, str | None]:
    """Where the chat template of a folder is, and its text, None for none."""
    jinja, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if jinja.exists():
        return str(jinja), _read(jinja)
    return f"{path}: chat_template", _template_of_config(path, _read_json(path))


def _chat_writer(folder: pathlib.Path, usual: ChatFormat, thinking: str) -> ChatWriter:
    """The template, else the format of the architecture; `usual` has the names of bos and eos."""
    path = folder / "tokenizer_config.json"
    config, architecture = _read_json(path), _read_json(folder / "config.json")
    names = architecture.get("architectures") or [architecture.get("model_type")]
    family = str(names[0]).split("For")[0].replace("_", "").lower()
    bare = GEMMA_CHAT if usual is GEMMA_CHAT and not architecture else None
    built_in = BUILT_IN.get(family, bare)
    usual = built_in or usual
    bos = _token(path, config, "bos_token")
    if bos is None and (built_in or not config):
        bos = usual.bos
    eos = _token(path, config, "eos_token") or usual.eos
    pad = _token(path, config, "pad_token") or (eos if config else usual.pad)
    where, source = _template(folder)
    if source is None:
        if built_in is None:
            raise ValueError(f"{folder}: has no chat template, and none is built in for the "
                             f"architecture {names[0]} of config.json")  # fmt: skip
        if thinking:
            raise ValueError(f"{folder}: has no chat template, so thinking cannot be {thinking!r}")
        assistant = built_in.assistant
        if assistant.closing == built_in.eos:
            assistant = assistant._replace(closing=eos)
        return replace(built_in, pad=pad, bos=bos, eos=eos, assistant=assistant)
    template = ChatTemplate(source, pad=pad, bos=bos, eos=eos)
    try:  # now, with the name of the file at hand, rather than in the middle of a run
        turns = [Message("user", "q"), Message("assistant", "a")]
        first, _ = template.write(turns, False)[0]
        if thinking:
            template = replace(template, source=_with_thinking(source, thinking))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    elsewhere = config.get("add_bos_token") is not False and "bos_token" in _variables(source)
    if not (first.startswith(bos or "") or elsewhere):
        template = replace(template, bos=None)
    return template


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from error


def _read_json(path: pathlib.Path) -> dict:
    """The object in `path`, {} if there is no such file."""
    return read_json(path) if path.exists() else {}


def _added_tokens(folder: pathlib.Path, files: dict[str, str]) -> dict:
    """(piece, id) -> (special, file) of what added_tokens.json and fields of other files add."""
    path = folder / "added_tokens.json"
    found = {(piece, str(i)): (False, path) for piece, i in _read_json(path).items()}
    for file, field in files.items():
        path = folder / file
        tokens = _read_json(path).get(field) or {}
        try:
            for i, token in tokens.items() if isinstance(tokens, dict) else enumerate(tokens):
                found["" + token["content"], str(token.get("id", i))] = token.get("special"), path
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: {field}: expected added tokens: {error!r}") from error
    return found


def _token(path: pathlib.Path, config: dict, field: str) -> str | None:
    value = config.get(field)
    if isinstance(value, dict):
        value = value.get("content", value)
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError(f"{path}: {field}: expected a piece, got {config[field]!r}")
    return value


def _template_of_config(path: pathlib.Path, config: dict) -> str | None:
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        if "default" not in named:
            raise ValueError(f"{path}: chat_template: none of {list(named)} is 'default'")
        value = named["default"]
    if not isinstance(value, str | None):
        raise ValueError(f"{path}: chat_template: expected text, got {type(value).__name__}")
    return value


def _stop_ids(path: pathlib.Path, vocab_size: int) -> list[int]:
    value = _read_json(path).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab_size:
            raise ValueError(f"{path}: eos_token_id: expected ids below {vocab_size}, got {i!r}")
    return ids
