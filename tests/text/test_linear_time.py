"""Whatever a model writes, reading it takes time in proportion to its length."""

import gc
import time

import pytest

from grm_jax.data.training_sets.math_answers import final_answer, same_answer
from grm_jax.text.parts import split_parts
from grm_jax.text.prompts import guard
from grm_jax.text.scores import last_box_start, parse_lenient, parse_strict
from grm_jax.text.thinking import split_thinking
from grm_jax.text.verdicts import parse_kind

MEGABYTE = 1_000_000
TEXTS = {
    "newlines": "\n", "spaces": " ", "letters": "a", "words": "analysis ", "commas": ",",
    "headings": "Analysis\n", "hashes": "#", "braces": "{", "nested boxes": "\\boxed{",
    "boxes": "\\boxed{8, 9} ", "brackets": "[[8", "labels": "a1", "fractions": "\\frac1",
    "double brackets": "[[A]] ", "keys": '"s": ', "objects": '{"s": ', "ranges": "1-10 of ",
    "open delimiters": "[The ", "escapes": "\\", "digits": "1", "equations": "x=",
    "opened thinking": "<think>", "closed thinking": "\n</think>", "half tags": "</think",
    "blocks of thinking": "<think></think>", "quoted thinking": "`<think>`",
}  # fmt: skip


def verdict_reader(kind, lenient):
    mode, n = ("pair", 2) if kind == "letters" else ("single", 1)
    verdict = parse_kind(kind, mode)
    return lambda text: verdict.read(text, n, lenient=lenient)


READERS = {
    "split_parts": split_parts,
    "parse_strict": lambda text: parse_strict(text, 2),
    "parse_lenient": lambda text: parse_lenient(text, 2),
    "parse_lenient of a box": lambda text: parse_lenient(f"\\boxed{{{text}}}", 1),
    "parse_lenient of brackets": lambda text: parse_lenient(f"[[{text}]]", 1),
    "last_box_start": last_box_start,
    "final_answer": final_answer,
    "same_answer": lambda text: same_answer(text, "1"),
    "same_answer, of a gold": lambda text: same_answer("1", text),
    "same_answer, of a number": lambda text: same_answer("1", f"{text}x"),
    "guard": guard,
    **{
        f"{kind}, {'lenient' if lenient else 'strict'}": verdict_reader(kind, lenient)
        for kind in ("letters", "last_number:1-9", "json:s", "regex:s.*(?P<score_1>[0-9]+) 1")
        for lenient in (False, True)
    },
    "split_thinking": split_thinking,
    "split_thinking inside": lambda text: split_thinking(text, opened=True),
    "split_thinking of a server": lambda text: split_thinking(text, opened=None),
}


def seconds(reader, text):
    gc.disable()  # to walk through what other tests have left is not the reader's work
    try:
        began = time.process_time()
        reader(text)
        return time.process_time() - began
    finally:
        gc.enable()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_megabyte_is_read_in_a_second(reader, text):
    piece = TEXTS[text]
    whole = piece * (MEGABYTE // len(piece)) + ("}" * 100_000 if text == "nested boxes" else "")
    # A tenth first, so that a square ends here and not after minutes.
    assert seconds(READERS[reader], whole[: len(whole) // 10]) < 0.5
    assert any(seconds(READERS[reader], whole) < 1 for _ in range(3))  # others use the machine too
