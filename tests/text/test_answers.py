"""Final answers by rule."""

import pytest

from grm_jax.text.answers import same_answer
from grm_jax.text.scores import last_box


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("42", " 42. "), ("1,000", "1000"), (r"\frac12", r"\dfrac{1}{2}"), ("0.5", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"), (r"x=7", "7"), (r"12\text{ cm}", "12cm"),
        (r"\$3.50", "3.5"), (r"50\%", "50"), ("-1/4", "-0.25"), (r"\text{(B)}", "(b)"),
        (r"10\!,\!000", "10000"),
    ],
)  # fmt: skip
def test_the_same_answer_in_other_words(a, b):
    assert same_answer(a, b) and same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [("42", "43"), (r"\frac{1}{2}", r"\frac{1}{3}"), ("(1,2)", "(2,1)"), ("x+1", "1+x"), ("", "0"),
     ("1/0", "2/0"), ("1,0", "10")],
)  # fmt: skip
def test_other_answers(a, b):
    assert not same_answer(a, b)


def test_last_box():
    assert last_box(r"\boxed{1} then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert last_box("none") is None
    assert last_box(r"\boxed{1} then \boxed{2") is None
