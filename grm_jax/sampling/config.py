"""How trajectories are drawn: how many, in which orders, at which temperature, on which prompt."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from grm_jax.data.comparison import Comparison
from grm_jax.ranges import Checked, Count, NonNegative, Range, Share, one_of
from grm_jax.sampling import orders
from grm_jax.text import prompts
from grm_jax.text.judges import Judge

ANSWERS = ("scores", "best")


@dataclasses.dataclass(frozen=True)
class DrawConfig(Checked):
    """How trajectories of comparisons are drawn.

    Attributes:
      k: samples of each comparison.
      order_policy: "random", "balanced", "both", "identity" or "group", see `orders.orders_for`.
      max_orders: most permutations under "balanced".
      temperature: 0 is greedy.
      top_p: nucleus mass; 1 keeps everything.
      max_new_tokens: longest trajectory.
      form: form of the prompt, "full" or "compact".
      principles: principle mode, "self" or "none"; or "given", where answers begin with the
        principles of their comparison if it has any; or "query", which asks for principles from
        the query alone, and for no scores.
      reference: show the reference of a comparison.
      answer: "scores" asks for scores of all responses; "best" for the number of the best response
        (the prompt of LLM-as-a-Judge, n >= 2 only), which counts as score 1, the others as 0.
      binary_singles: n = 1 is scored 0 or 1 (the form of training) instead of 1 to 10.
      max_dropped: share of comparisons that may be dropped because their prompt is too long, even
        when shortened as far as `max_truncated` allows.
      max_truncated: share of comparisons whose prompt may be shortened instead; 0 drops them.
      judge: makes prompts and reads answers instead of our own templates; None for these.
    """

    k: Count
    order_policy: Annotated[str, one_of(orders.POLICIES)] = "random"
    max_orders: Count = 4
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Range("above 0 and at most 1", lambda p: 0 < p <= 1)] = 1.0
    max_new_tokens: Count = 1024
    form: Annotated[str, one_of(prompts.FORMS)] = "full"
    principles: Annotated[str, one_of((*prompts.PRINCIPLE_MODES, "given", "query"))] = "self"
    reference: bool = False
    answer: Annotated[str, one_of(ANSWERS)] = "scores"
    binary_singles: bool = True
    max_dropped: Share = 0.05
    max_truncated: Share = 0.0
    # Not in the repr, which names what older configs drew: `Judge.fingerprint` names the judge.
    judge: Judge | None = dataclasses.field(default=None, repr=False)

    @property
    def mode(self) -> str:
        """What a prompt shows, one of `verdicts.MODES`; our own templates show lists."""
        return self.judge.mode if self.judge else "list"

    def binary(self, comparison: Comparison) -> bool:
        """Whether a comparison is scored 0 or 1; a judge has a scale of its own."""
        return comparison.n == 1 and self.binary_singles and self.judge is None

    def unbalanced(self, comparisons: Sequence[Comparison]) -> str:
        """How many comparisons "balanced" cannot show equally often at each place; "" for none."""
        shown = {"pair": 2, "single": 1}.get(self.mode)
        wide = sum((shown or comparison.n) > self.max_orders for comparison in comparisons)
        if self.order_policy != "balanced" or not wide:
            return ""
        return (f"orders of {wide} comparisons are not balanced: they have more responses than "
                f"draw.max_orders, {self.max_orders}")  # fmt: skip
