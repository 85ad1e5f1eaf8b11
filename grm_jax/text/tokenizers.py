"""Tokenizers behind one small protocol: SentencePiece (Gemma, small world), Hugging Face.

Two rules hold for each of them. Text from `encode` never becomes a control piece: a marker such as
`<end_of_turn>` inside text is split into ordinary pieces, so no response can end a turn, and the
text still survives `decode(encode(text))`. Control pieces enter only through `chat`. The tags of
thinking are control pieces too, which `decode` alone writes out: an answer is told from them.

Known losses: SentencePiece writes a space as U+2581, so a U+2581 in text decodes to a space. A
table that lacks a character, and its bytes, gives the unknown piece for it, which decodes to "".
"""

import hashlib
import io
import itertools
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import sentencepiece

from grm_jax.files import read_bytes, write_atomically
from grm_jax.text.chat_formats import DEEPSEEK_CHAT, GEMMA_CHAT, ChatWriter
from grm_jax.text.chat_formats import ChatFormat as ChatFormat
from grm_jax.text.prompts import Message
from grm_jax.text.thinking import CLOSING, OPENING, opens_thinking


class Tokenizer(Protocol):
    """Interface of a tokenizer to the rest of the library."""

    vocab_size: int
    pad_id: int
    bos_id: int | None  # None: conversations have none
    eos_id: int
    end_of_turn_id: int  # closes an assistant turn
    stop_ids: tuple[int, ...]  # any of them ends a generation
    opens_thinking: bool  # the generation prompt ends inside a thinking block

    def encode(self, text: str) -> list[int]: ...

    def encode_answer(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]: ...

    def fingerprint(self) -> str: ...

    def fingerprints(self) -> dict[str, str]: ...


class _ChatTokenizer:
    """The part that tokenizers share; a subclass supplies the raw model of pieces.

    That is `_raw_encode` and `_raw_decode`, and for fingerprints `_table_text` and `_rules_text`:
    how text becomes pieces of the table, and these text, "" for the rules of Gemma.

    `pieces` is its table. `control` has the id of every piece that text must never produce and
    `decode` must drop, but for the tags of thinking, and `unknown`, which `encode` gives for what
    the table lacks; `markers` are those of them that the raw model would recognise in text. `added`
    is (piece, digits of id) -> (special, file): more control pieces, or those of the table.
    """

    def __init__(
        self, chat_format: ChatWriter, pieces: dict, control: dict, markers: dict, added,
        unknown: int | None,
    ):  # fmt: skip
        self._added = _new_pieces(pieces, control, added or {})
        control = control | self._added
        size, vocab_size = (1 + max([*t.values()]) for t in (pieces, pieces | self._added))
        for field, piece in chat_format.pieces().items():
            if piece not in control:
                raise ValueError(f"tokenizer: no control piece {piece!r} for {field} of the chat")
        self.chat_format = chat_format
        self.vocab_size = vocab_size
        self._control = control
        not_of_text = frozenset((*control.values(), *range(size, vocab_size)))
        self._not_of_text = not_of_text - {unknown}
        self._hidden = not_of_text - {pieces.get(tag) for tag in (OPENING, CLOSING)}
        self._marker = re.compile(f"(?={_any_of(markers)})")  # look-ahead: overlapping ones too
        self._marker_starts = frozenset(marker[0] for marker in markers)
        self._control_piece = re.compile(f"({_any_of(control)})")
        self.pad_id = control[chat_format.pad]
        self.bos_id = control.get(chat_format.bos)
        self.eos_id = control[chat_format.eos]
        self.end_of_turn_id = self._closing_id()
        self.stop_ids = tuple(dict.fromkeys((self.eos_id, self.end_of_turn_id)))
        last, _ = chat_format.write([Message("user", "q")], True)[-1]
        self.opens_thinking = opens_thinking(last)
        for piece in markers:
            if len(piece) == 1 and control[piece] in self._raw_encode(piece):
                raise ValueError(f"tokenizer: the control piece {piece!r} is a character of text")

    def _pieces_text(self) -> str:
        return self._table_text() + "".join(f"\0\0{p}\0{i}" for p, i in self._added.items())

    @cached_property
    def _fingerprint(self) -> str:
        rules = self._rules_text()
        text = f"{self.chat_format!r}\0\0{self._pieces_text()}" + f"\0\0{rules}" * bool(rules)
        return hashlib.sha256(text.encode()).hexdigest()

    def fingerprint(self) -> str:
        """Hex SHA-256 of the chat, of the pieces (with scores and types, or merges), its rules.

        Of what decides `encode`, `decode` and `chat`, not of the file that holds it.
        """
        return self._fingerprint

    def fingerprints(self) -> dict[str, str]:
        """The parts of `fingerprint`: "tokenizer" (pieces), "tokenizer_rules", "chat_template"."""
        parts = {"tokenizer": self._pieces_text(), "tokenizer_rules": self._rules_text(),
                 "chat_template": repr(self.chat_format)}  # fmt: skip
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}

    def _closing_id(self) -> int:
        """Id that ends an assistant turn: the first control piece after its content, else eos."""
        turns = [Message("user", "q"), Message("assistant", "a")]
        after, _ = self.chat_format.write(turns, False)[-1]
        piece = self._control_piece.search(after)
        return self._control[piece[0]] if piece else self.eos_id

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without bos or eos, and without any control piece whatever it says."""
        if self._marker_starts.isdisjoint(text):
            return self._encode_part(text)
        ids: list[int] = []
        start = 0
        for match in self._marker.finditer(text):  # cut every marker after its first character
            ids += self._encode_part(text[start : match.start() + 1])
            start = match.start() + 1
        return ids + self._encode_part(text[start:])

    def encode_answer(self, text: str) -> list[int]:
        """Ids of an answer that is given as text and follows `chat`; without its end.

        Where the prompt opens a thinking block, the answer first closes it.
        """
        if not self.opens_thinking:
            return self.encode(text)
        closing = self._control.get(CLOSING)
        tag = self.encode(CLOSING) if closing is None else [closing]
        return [*self.encode("\n"), *tag, *self.encode(f"\n\n{text}")]

    def _encode_part(self, text: str) -> list[int]:
        """Ids of text, cut where the raw model normalises it to a control piece."""
        ids = self._raw_encode(text)
        if self._not_of_text.isdisjoint(ids):
            return ids
        half = len(text) // 2
        return self._encode_part(text[:half]) + self._encode_part(text[half:]) if half else []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`. Control pieces and ids past the table (padding rows) carry no text."""
        hidden, size = self._hidden, self.vocab_size
        return self._raw_decode([int(i) for i in ids if i < size and i not in hidden])

    def chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation in the chat format, with one bos at their start if it has a bos.

        Adjacent text is tokenised in one piece, as if the written-out conversation were. Without
        the generation prompt the last turn is closed, and what follows a closed turn is included.

        Raises:
          ValueError: no message, an unknown role, a system message that is not the first or (where
            it must be folded) not followed by a user turn, or turns that do not alternate.
        """
        ids: list[int] = []
        text = ""
        for own, data in self.chat_format.write(messages, add_generation_prompt):
            *pairs, rest = self._control_piece.split(own)  # text, piece, text, piece, .., text
            for before, piece in zip(pairs[::2], pairs[1::2], strict=True):
                ids += [*self.encode(text + before), self._control[piece]]
                text = ""
            text += rest + data
        ids += self.encode(text)
        if self.bos_id is None:
            return ids
        return [self.bos_id, *itertools.dropwhile(self.bos_id.__eq__, ids)]


def _new_pieces(pieces: dict[str, int], control: dict[str, int], added: dict) -> dict[str, int]:
    """Those of `added` that are not in the table; ValueError for text, or the id of another."""
    added = {(p, i): of for (p, i), of in added.items() if str(pieces.get(p)) != i}
    taken, new = {-1, *pieces.values()} - set(control.values()), {}
    for (piece, text), (special, path) in added.items():
        i = int(text) if text.isdecimal() and len(text) < 8 else -1
        if not piece or piece in pieces or i in taken or new.setdefault(piece, i) != i:
            raise ValueError(f"{path}: added token {piece!r}: {text} cannot be its id")
        if not (special or _is_marker(piece)):
            raise ValueError(f"{path}: added token {piece!r}: is text that the model cannot read")
    return new


def _any_of(pieces: Iterable[str]) -> str:
    """Pattern that matches the longest of `pieces`, letter by letter: Gemma-3 has 6,000 of them."""
    rests: dict[str, list[str]] = {}
    for piece in pieces:
        rests.setdefault(piece[:1], []).append(piece[1:])
    ends = rests.pop("", None) is not None
    if not rests:
        return "" if ends else "(?!)"  # (?!) never matches
    branches = [re.escape(first) + _any_of(rest) for first, rest in rests.items()]
    if len(branches) == 1 and not ends:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + "?" * ends


# --- SentencePiece ----------------------------------------------------------------------------

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # SentencePiece.Type; NORMAL is 1
# Of a TrainerSpec, by number: model_type, treat_whitespace_as_suffix, byte_fallback.
_GEMMA_RULES = {3: 2, 24: 0, 35: 1}


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a protobuf message; the Python API tells no user-defined type."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while position < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        if size is None:
            size = varint()
        yield key >> 3, message[position : position + size]
        position += size


# As text, in the vocabularies of Gemma 2 and 3. Tags of another name, such as <think> and
# <tool_call>, steer a model.
_HTML_TAG = re.compile(
    "</?(a|b|bbox|blockquote|body|caption|code|div|em|footer|h[1-6]|html|i|iframe|img|li|s|span"
    "|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)>"
)


def _is_marker(piece: str) -> bool:
    """An added piece that is no text: no character, no white space, no tag of HTML."""
    text = len(piece) == 1 or not piece.replace("\u2581", " ").strip()
    return not (text or _HTML_TAG.fullmatch(piece))


class SentencePieceTokenizer(_ChatTokenizer):
    """A SentencePiece model with identity normalisation (Gemma, or `train_sentencepiece`).

    `model` is the serialised model, so that a run can save it.
    """

    def __init__(self, model: bytes, *, chat_format: ChatWriter = GEMMA_CHAT, added=None):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        fields = list(_fields(memoryview(model)))
        trained, normalizer = (dict(_fields(dict(fields).get(n, b""))) for n in (2, 3))
        self._rules = {number: trained.get(number, 0) for number in _GEMMA_RULES}
        if normalizer.get(2) or self._processor.normalize(" \uff1c  a ") != "▁\uff1c▁▁a▁":
            raise ValueError(
                "tokenizer: needs identity normalisation, no dummy prefix and no removal of spaces"
            )
        entries = [dict(_fields(value)) for number, value in fields if number == 1]
        self._table = [  # piece, score and type, by id
            (str(e[1], "utf-8"), struct.unpack("<f", e.get(2, bytes(4)))[0], e.get(3, 1))
            for e in entries
        ]
        special = {p: i for i, (p, _, t) in enumerate(self._table) if t in (_UNKNOWN, _CONTROL)}
        defined = {p: i for i, (p, _, t) in enumerate(self._table) if t == _USER_DEFINED}
        markers = {p: i for p, i in defined.items() if _is_marker(p)}
        pieces = {piece: i for i, (piece, _, _) in enumerate(self._table)}
        unknown = self._processor.unk_id()
        super().__init__(chat_format, pieces, special | markers, markers, added, unknown)

    @classmethod
    def from_file(cls, path: str | os.PathLike, **options) -> "SentencePieceTokenizer":
        """Raises ValueError naming `path` if the file is no usable SentencePiece model."""
        data = read_bytes(path)
        try:
            return cls(data, **options)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: not a usable SentencePiece model: {error}") from error

    def _raw_encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def _raw_decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def _table_text(self) -> str:
        return "\0\0".join(f"{piece}\0{score!r}\0{kind}" for piece, score, kind in self._table)

    def _rules_text(self) -> str:
        return "" if self._rules == _GEMMA_RULES else repr(self._rules)


def train_sentencepiece(
    lines: Iterable[str], path: str | os.PathLike, *, vocab_size: int
) -> SentencePieceTokenizer:
    r"""Train a BPE model on `lines`, write it to `path` (atomically) and return it.

    Gemma's conventions: pad 0, eos 1, bos 2, unk 3, `<start_of_turn>`, `<end_of_turn>`, "\n" a
    piece of its own, identity normalisation, no dummy prefix, all spaces kept, digits one by one,
    byte fallback. Every text round-trips. Deterministic: equal lines give equal bytes.

    Args:
      lines: texts; line breaks inside them are allowed.
      vocab_size: upper bound; a small corpus gives fewer pieces (read `vocab_size` of the result).

    Raises:
      ValueError: no text at all, or a `vocab_size` below what bytes and characters need.
    """
    parts = [part for line in lines for part in line.split("\n") if part]
    if not parts:
        raise ValueError("lines: no text to train a tokenizer on")
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(parts), model_writer=writer, vocab_size=vocab_size,
            model_type="bpe", normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, byte_fallback=True,
            split_digits=True, character_coverage=1.0, hard_vocab_limit=False,
            # longer texts would be left out without a word; the library wants at least 10
            max_sentence_length=10 + max(len(part.encode()) for part in parts),
            num_threads=1, minloglevel=2, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
            pad_piece=GEMMA_CHAT.pad, eos_piece=GEMMA_CHAT.eos, bos_piece=GEMMA_CHAT.bos,
            user_defined_symbols=[GEMMA_CHAT.user.opening, GEMMA_CHAT.user.closing, "\n"],
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(f"vocab_size: training with {vocab_size} failed: {error}") from error
    tokenizer = SentencePieceTokenizer(writer.getvalue())
    write_atomically(path, tokenizer.model)
    return tokenizer


# --- Hugging Face -----------------------------------------------------------------------------


class HuggingFaceTokenizer(_ChatTokenizer):
    """A `tokenizer.json` of the Hugging Face library `tokenizers` (DeepSeek, Llama-3, Qwen)."""

    def __init__(self, backend, *, chat_format: ChatWriter = DEEPSEEK_CHAT, added=None):
        self._backend = backend
        backend.no_truncation()  # a file keeps what the program that wrote it had set
        backend.no_padding()
        if hasattr(backend.model, "dropout"):
            backend.model.dropout = None
        known = backend.get_added_tokens_decoder()
        control, self._characters = {}, {}
        for i, token in known.items():
            if token.lstrip or token.rstrip or token.single_word:
                raise ValueError(f"{token.content!r}: lstrip, rstrip, single_word are not followed")
            if len(token.content) == 1 and not token.special:
                self._characters[i] = token.content
            elif token.special or _is_marker(token.content):
                control[token.content] = i
        if hasattr(backend.model, "unk_token"):
            unknown = backend.token_to_id(backend.model.unk_token or "")
        else:  # Unigram
            unknown = self._record()["model"].get("unk_id")
        super().__init__(chat_format, backend.get_vocab(), control, control, added, unknown)

    @classmethod
    def from_file(cls, path: str | os.PathLike, **options) -> "HuggingFaceTokenizer":
        """Raises ValueError naming `path` if the file is no usable tokenizer.json."""
        import tokenizers

        data = read_bytes(path)
        try:
            return cls(tokenizers.Tokenizer.from_buffer(data), **options)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: not a usable tokenizer.json: {error}") from error

    def _raw_encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _raw_decode(self, ids: list[int]) -> str:
        # The byte-level decoder would take an added "ü" for the byte 0xFC, so it never sees one.
        characters = self._characters
        if characters.keys().isdisjoint(ids):
            return self._backend.decode(ids, skip_special_tokens=False)
        texts = []
        for added, run in itertools.groupby(ids, key=characters.__contains__):
            if added:
                texts += [characters[i] for i in run]
            else:
                texts.append(self._backend.decode(list(run), skip_special_tokens=False))
        return "".join(texts)

    def _table_text(self) -> str:
        merges = self._record()["model"].get("merges", [])
        merges = [m.split(" ") if isinstance(m, str) else m for m in merges]
        pieces = sorted(self._backend.get_vocab().items(), key=lambda item: item[1])
        return json.dumps([pieces, merges])

    def _rules_text(self) -> str:
        record = self._record()
        for part in ("version", "truncation", "padding", "post_processor"):  # are not obeyed
            record.pop(part, None)
        record["model"].pop("merges", None)
        if isinstance(record["model"]["vocab"], dict):  # else it has scores
            del record["model"]["vocab"]
        return json.dumps(record, sort_keys=True)

    def _record(self) -> dict:
        """The record in a file of the backend, without fields that are not set."""

        def set_fields(fields: dict) -> dict:
            return {k: v for k, v in fields.items() if v is not None and v is not False}

        return json.loads(self._backend.to_str(), object_hook=set_fields)
