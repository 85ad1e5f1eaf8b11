"""Vocabularies of GGUF files, as the tokenizer files of a checkpoint folder.

Two kinds: "gpt2", byte-level BPE with merges, becomes tokenizer.json; "llama", a SentencePiece
model of type BPE with scores, becomes tokenizer.model. How text is split before the merges apply is
a name in the file (`tokenizer.ggml.pre`), so it must be one that is known here.
"""

import json
import pathlib
from typing import Any, NamedTuple

from grm_jax.files import mismatch
from grm_jax.models.hub.family import Fields
from tools.gguf_files.reading import GGUF

# Types of tokens, which are also those of the pieces of a SentencePiece model.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_KINDS = ("gpt2", "llama")
_KEYS = {f"tokenizer.ggml.{key}" for key in (
    "model", "pre", "tokens", "token_type", "scores", "merges", "add_bos_token", "add_eos_token",
    "add_sep_token", "add_space_prefix", "remove_extra_whitespaces",
)}  # fmt: skip
_ENDS = ("eos", "eot", "eom")  # tokens that end a generation, if the file names them
_SPACE = "\u2581"  # how SentencePiece writes a space


class _Split(NamedTuple):
    """How text is split before merges apply, and what else its name decides.

    Attributes:
      pattern: every match is merged on its own; "" is that of GPT-2.
      digits: whether each digit is on its own before that.
      whole: whether a match that is a token is that token, whatever the merges say.
      bos: whether texts start with bos where the file does not say.
      nfc: whether texts are brought into the Unicode form NFC.
    """

    pattern: str = ""
    digits: bool = False
    whole: bool = False
    bos: bool = False
    nfc: bool = False


def _words(digits: str) -> str:
    """The pattern of tiktoken's cl100k, with its numbers of so many digits."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )  # fmt: skip


_LLAMA3 = _Split(_words(r"\p{N}{1,3}"), whole=True, bos=True)
_QWEN2 = _Split(_words(r"\p{N}"), nfc=True)
SPLITS = {
    "gpt-2": _Split(),
    "smollm": _Split(digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2._replace(nfc=False),
}


def write(file: GGUF, rows: int, folder: pathlib.Path) -> dict[str, int]:
    """Writes the tokenizer, tokenizer_config.json and generation_config.json of a file.

    Args:
      file: with a vocabulary.
      rows: of the embedding.
      folder: to write into.

    Returns:
      "bos_token_id", "eos_token_id" and "pad_token_id" as far as the file has them.

    Raises:
      ValueError: naming file and key, for a vocabulary that is missing, incomplete, damaged or of a
        kind that is not known here.
    """
    fields = Fields(str(file.path), file.metadata)
    for key in sorted(file.metadata):
        if key.startswith("tokenizer.") and not _known(key):
            raise fields.fail(key, "no key that is unknown here", "it")
    if fields.get("tokenizer.ggml.model") not in _KINDS:
        found = fields.get("tokenizer.ggml.model", "nothing")
        raise fields.fail("tokenizer.ggml.model", " or ".join(_KINDS), found)
    for switch in ("add_eos_token", "add_sep_token", "remove_extra_whitespaces"):
        fields.only(f"tokenizer.ggml.{switch}", False)
    tokens = _list(fields, "tokens", str)
    if len(tokens) > rows or len(set(tokens)) < len(tokens):
        expected = f"at most {rows} tokens, each once"
        found = f"{len(tokens)}, {len(set(tokens))} of them different"
        raise fields.fail("tokenizer.ggml.tokens", expected, found)
    ids = {
        name: _token_id(fields, key, len(tokens))
        for name, key in {"bos": "bos", "pad": "padding", "unk": "unknown"}.items()
    } | {name: _token_id(fields, name, len(tokens)) for name in _ENDS}
    ids = {name: i for name, i in ids.items() if i is not None}
    if fields.get("tokenizer.ggml.model") == "gpt2":
        own = _write_bpe(fields, tokens, ids, folder)
    else:
        own = _write_sentencepiece(fields, tokens, ids, folder)
    config = own | {
        f"{name}_token": tokens[ids[name]] for name in ("bos", "eos", "pad", "unk") if name in ids
    }
    if template := fields.get("tokenizer.chat_template"):
        config["chat_template"] = template
    _dump(folder / "tokenizer_config.json", config)
    special = {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad") if name in ids}
    ends = list(dict.fromkeys(ids[name] for name in _ENDS if name in ids))
    _dump(folder / "generation_config.json", special | ({"eos_token_id": ends} if ends else {}))
    return special


def _known(key: str) -> bool:
    """Whether a key of the vocabulary is read, or only names a token or a template."""
    named = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
    return named or key in _KEYS or key.startswith("tokenizer.chat_template")


def _list(fields: Fields, name: str, kind: type, length: int | None = None) -> list:
    """A list of the vocabulary, one entry a token if `length` is given."""
    key = f"tokenizer.ggml.{name}"
    value = fields.get(key)
    expected = f"a list of {'' if length is None else f'{length} '}{kind.__name__}"
    if not isinstance(value, list) or not all(type(x) is kind for x in value):
        raise fields.fail(key, expected, type(value).__name__)
    if length not in (None, len(value)):
        raise fields.fail(key, expected, len(value))
    return value


def _token_id(fields: Fields, name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if fields.get(key) is None:
        return None
    value = fields.number(key)
    if not 0 <= value < count:
        raise fields.fail(key, f"an id below {count}", value)
    return value


def _flag(fields: Fields, name: str, default: bool) -> bool:
    key = f"tokenizer.ggml.{name}"
    fields.only(key, False, True)
    return fields.get(key, default)


def _dump(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_bpe(fields: Fields, tokens: list[str], ids: dict, folder: pathlib.Path) -> dict:
    """Writes tokenizer.json; returns the first fields of tokenizer_config.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    name = fields.get("tokenizer.ggml.pre", "nothing")
    if name not in SPLITS:
        raise fields.fail("tokenizer.ggml.pre", f"one of {', '.join(SPLITS)}", name)
    split = SPLITS[name]
    fields.only("tokenizer.ggml.add_space_prefix", False)
    types = _list(fields, "token_type", int, len(tokens))
    # Unused tokens fill the embedding up to a round number; no text has them.
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != _UNUSED}
    merges = [tuple(merge.split(" ")) for merge in _list(fields, "merges", str)]
    for i, merge in enumerate(merges):
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocabulary.keys():
            expected = "two tokens that make a token"
            raise fields.fail(f"tokenizer.ggml.merges[{i}]", expected, repr(" ".join(merge)))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split.whole))
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _pre_tokenizer(split)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    add_bos = _flag(fields, "add_bos_token", split.bos)
    if add_bos:
        if "bos" not in ids:
            raise fields.fail("tokenizer.ggml.bos_token_id", "an id, as bos is added", "nothing")
        bos = tokens[ids["bos"]]
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"],
            special_tokens=[(bos, ids["bos"])],
        )  # fmt: skip
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [t for t, its_kind in zip(tokens, types, strict=True) if its_kind == kind]
        backend.add_tokens([AddedToken(t, normalized=False, special=special) for t in added])
    backend.save(str(folder / "tokenizer.json"))
    # This class takes the file as it is; those of the families bring a splitting of their own.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "clean_up_tokenization_spaces": False,
    }


def _pre_tokenizer(split: _Split):
    from tokenizers import Regex, pre_tokenizers

    parts = [pre_tokenizers.Digits(individual_digits=True)] if split.digits else []
    if split.pattern:
        parts.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split.pattern)
    return pre_tokenizers.Sequence([*parts, bytes_of])


def _write_sentencepiece(fields: Fields, tokens: list[str], ids: dict, folder) -> dict:
    """Writes tokenizer.model; returns the first fields of tokenizer_config.json."""
    from sentencepiece import sentencepiece_model_pb2

    types = _list(fields, "token_type", int, len(tokens))
    scores = _list(fields, "scores", float, len(tokens))
    if "unk" not in ids:
        raise fields.fail("tokenizer.ggml.unknown_token_id", "an id", "nothing")
    model = sentencepiece_model_pb2.ModelProto()
    for i, (token, kind, score) in enumerate(zip(tokens, types, scores, strict=True)):
        if kind not in range(_NORMAL, _BYTE + 1):
            raise fields.fail(f"tokenizer.ggml.token_type[{i}]", "a number from 1 to 6", kind)
        if kind == _USER_DEFINED:  # the writers of GGUF undid this for these alone
            token = token.replace(" ", _SPACE)
        if i == ids["unk"]:  # is written as a control token too; a model must have exactly one
            kind = _UNKNOWN
        model.pieces.add(piece=token, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = types.count(_BYTE) == 256
    for name in ("unk", "bos", "eos", "pad"):
        setattr(trainer, f"{name}_id", ids.get(name, -1))
        if name in ids:
            setattr(trainer, f"{name}_piece", tokens[ids[name]])
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = _flag(fields, "add_space_prefix", True)
    normalizer.remove_extra_whitespaces = False
    data = model.SerializeToString()
    _check_model(fields, data)
    (folder / "tokenizer.model").write_bytes(data)
    gemma = fields.get("general.architecture", "").startswith("gemma")
    return {
        "tokenizer_class": "GemmaTokenizer" if gemma else "LlamaTokenizer",
        "add_bos_token": _flag(fields, "add_bos_token", True),
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }


def _check_model(fields: Fields, data: bytes) -> None:
    import sentencepiece

    try:
        sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise mismatch(f"{fields.where}: tokenizer.ggml.tokens", "a usable model", error) from error
