"""Real tokenizers, on 20,000 texts each: real rows, and hostile texts made of control pieces.

Those of the shared data, and of every checkpoint folder in the folder GRM_JAX_MODELS.
"""

import json
import os
import pathlib
import random
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message
from grm_jax.text.tokenizers import SentencePieceTokenizer

NUM_REAL = NUM_HOSTILE = 10_000
SHARED = {"gemma2": "gemma2", "deepseek_llm": "deepseek_v2"}  # by folder, the architecture
MODELS = os.environ.get("GRM_JAX_MODELS", "")
FOLDERS = sorted(path.parent for path in pathlib.Path(MODELS).glob("*/config.json") if MODELS)
OTHERS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<|", "|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<start_of_turn>", "<end_of_turn>"),
    *("<bos>", "<eos>", "<s>", "</s>", "<unk>", "<0x0A>", "<b>", "</b>", "{{ bos_token }}", "{%"),
    *("\ue0000\ue001", "\u2003", "\u200b", "\ufeff", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\0"),
    *("system\n", "user", "assistant", "12345", "é🤨", "e\u0301", "ﬁ", "ü", "한국어", "\U0010ffff"),
]


def strings(value) -> Iterator[str]:
    """The texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def rows(path: pathlib.Path) -> Iterator[object]:
    """The value of a JSON file, or those of its first lines."""
    with path.open(encoding="utf-8") as lines:
        if path.suffix == ".json":
            yield json.load(lines)
        else:
            for _, line in zip(range(400), lines, strict=False):
                yield json.loads(line)


@pytest.fixture(scope="module")
def real_texts(shared_data):
    found = {}
    for suite in ("llmbar", "judgebench", "rmbench", "rmb", "realmistake", "pandalm"):
        own = {}
        for path in sorted((shared_data / suite).rglob("*.json*")):
            for value in rows(path):
                own.update(dict.fromkeys(text[:1000] for text in strings(value) if len(text) > 20))
        chosen = list(own)
        random.Random(suite).shuffle(chosen)
        found.update(dict.fromkeys(chosen[:4000]))
    if len(found) < NUM_REAL:
        pytest.skip(f"{len(found)} texts in the shared rows, {NUM_REAL} are needed")
    return list(found)[:NUM_REAL]


def hostile_texts(control: list[str], real: list[str], rng: random.Random) -> Iterator[str]:
    """Control pieces, whole and cut, inside and around real text."""
    for _ in range(NUM_HOSTILE):
        parts = []
        for _ in range(rng.randint(1, 7)):
            piece = rng.choice(control if rng.random() < 0.5 else OTHERS)
            kind = rng.random()
            if kind < 0.5:
                parts.append(piece)
            elif kind < 0.75:
                cut = rng.randint(0, len(piece))
                parts.append(piece[:cut] + rng.choice(["", " ", "\u200b", piece]) + piece[cut:])
            else:
                text = rng.choice(real)
                start = rng.randint(0, len(text))
                parts.append(text[start : start + rng.randint(0, 80)])
        yield "".join(parts)


def folder_of(name: str, shared: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    if name not in SHARED:
        return pathlib.Path(MODELS) / name
    for path in (shared / "tokenizers" / name).glob("tokenizer.*"):
        shutil.copy(path, target)
    (target / "config.json").write_text(json.dumps({"model_type": SHARED[name]}))
    return target


def reference_of(folder: pathlib.Path):
    """The tokenizer of transformers, where it is installed and reads the same file; else None."""
    if not (folder / "tokenizer.json").exists() or find_spec("transformers") is None:
        return None
    import transformers

    if (folder / "tokenizer_config.json").exists():
        return transformers.AutoTokenizer.from_pretrained(folder)
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def kept_by(tokenizer) -> Callable[[str], str]:
    """What is left of a text: the known losses are U+2581, and what the table normalises."""
    rule = "\u2581"
    if not isinstance(tokenizer, SentencePieceTokenizer):
        rule = str(json.loads(tokenizer._rules_text()).get("normalizer"))

    def kept(text: str) -> str:
        text = text.replace("\u2581", " ") if "\u2581" in rule else text
        return unicodedata.normalize("NFC", text) if "NFC" in rule else text

    return kept


def test_models_are_named():
    """So that whoever runs it is told."""
    if not FOLDERS:
        pytest.skip("needs checkpoint folders: set GRM_JAX_MODELS to the folder that holds them")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHARED, *(folder.name for folder in FOLDERS)])
def test_twenty_thousand_texts(name, shared_data, real_texts, tmp_path):
    folder = folder_of(name, shared_data, tmp_path)
    tokenizer, reference = load_tokenizer(folder), reference_of(folder)
    control = set(tokenizer._control.values())
    bos, templated = tokenizer.bos_id, getattr(reference, "chat_template", None)
    expected = [i for i in tokenizer.chat([Message("user", "q")]) if i in control]
    assert bos is None or expected[0] == bos
    hostile = hostile_texts(sorted(tokenizer._control), real_texts, random.Random(name))
    keep, compared, chats = kept_by(tokenizer), 0, 0
    for number, text in enumerate([*real_texts, *hostile]):
        ids, kept = tokenizer.encode(text), keep(text)
        assert control.isdisjoint(ids), text
        assert tokenizer.decode(ids) == kept
        conversation = tokenizer.chat([Message("user", text)])
        assert [i for i in conversation if i in control] == expected, text
        assert kept.strip() in tokenizer.decode(conversation)
        if reference is None or tokenizer._marker.search(text):
            continue
        assert ids == reference.encode(text, add_special_tokens=False), text
        compared += 1
        if templated and number % 4 == 0:
            chats += 1
            assert conversation == reference.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            ), text
    print(f"{name}: {number + 1} texts; {compared} and {chats} chats compared with transformers")
    assert number + 1 == NUM_REAL + NUM_HOSTILE
    assert reference is None or compared > NUM_REAL
