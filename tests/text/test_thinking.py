import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grm_jax.text.thinking import join_thinking, opens_thinking, split_thinking

PIECES = st.sampled_from(
    ["<think>", "`", "</think>", "<think", ">", "\n", " ", "a", "\\boxed{1}", "/"]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@pytest.mark.parametrize(
    "text, opened, thinking, answer",
    [
        ("x", False, "", "x"),
        (" x ", False, "", " x "),
        ("", False, "", ""),
        ("<think>\na \n</think>\n\nx\n", False, "a", "x\n"),
        ("\n<think>a</think>x", False, "a", "x"),
        ("<think>\n\n</think>\n\nx", False, "", "x"),
        ("<think>a", False, "a", None),
        ("<think>", False, "", None),
        ("<think>a</thin", False, "a</thin", None),
        ("<think>a</think>\n\n<think>Maybe b?", False, "a\n\nMaybe b?", None),
        ("<think>a</think>\n<think>b</think>\nx", False, "a\n\nb", "x"),
        ("<think></think><think>b</think>x", False, "b", "x"),
        ("Okay <think>a", False, "a", None),
        ("x <think>a</think>\ny", False, "a", "x \ny"),
        ("\u200b\ufeff<think>a</think>\u200bx", False, "a", "x"),
        ("\u200b<think>a", False, "a", None),
        ("\u200b<think>a</think>x", True, "a", "x"),
        ("a</think>\n<think>b", True, "a\n\nb", None),
        ('It quotes `<think>` and "<think>".', False, "", 'It quotes `<think>` and "<think>".'),
        ("<think>a</think>x `<think>` y", False, "a", "x `<think>` y"),
        ("x</think>y", False, "", "x</think>y"),
        ("<think>a</think>x</think>y", False, "a", "x</think>y"),
        ("a</think>x", True, "a", "x"),
        ("a", True, "a", None),
        ("", True, "", None),
        ("<think>a</think>x", True, "a", "x"),  # opened once more by the model
        ("</think>x", True, "", "x"),
        ("x", None, "", "x"),
        ("<think>a</think>x", None, "a", "x"),
        ("a\n</think>\n\nx", None, "a", "x"),
        ("x quotes </think> here", None, "", "x quotes </think> here"),
        ("x <think>\n</think>\n", None, "", "x \n"),
    ],
)
def test_a_completion_is_split(text, opened, thinking, answer):
    assert split_thinking(text, opened) == (thinking, answer)


@pytest.mark.parametrize(
    "prompt, opened",
    [("<|assistant|>", False), ("<|assistant|><think>\n", True), ("<think>\n\n</think>\n", False),
     ("", False), ("<think></think><think>", True), ("</think>", False)],
)  # fmt: skip
def test_a_prompt_opens_a_block(prompt, opened):
    assert opens_thinking(prompt) is opened


@given(TEXTS, st.booleans())
@example("<think>", True)
def test_as_by_a_pattern(text, opened):
    """Another way to say it: a naive reader, which cuts block after block out of the text."""
    rest = f"<think>{text.lstrip().removeprefix('<think>')}" if opened else text
    thoughts = []
    while block := re.search(r"(?<!`)<think>(.*?)(</think>|\Z)", rest, re.S):
        thoughts.append(block[1].strip())
        if not block[2]:
            break
        rest = f"{rest[: block.start()]}\0{rest[block.end() :]}"  # so that no new tag comes to be
    thinking = "\n\n".join(thought for thought in thoughts if thought)
    answer = None if block else rest.replace("\0", "").lstrip() if thoughts else text
    assert split_thinking(text, opened) == (thinking, answer)


@given(TEXTS, TEXTS)
def test_what_is_joined_is_split_again(thinking, answer):
    answer = answer.replace("<think>", "`<think>")
    split = split_thinking(join_thinking(thinking, answer))
    clean = thinking.replace("</think>", " ")
    assert split == (clean.strip(), answer.lstrip() if answer else None)
