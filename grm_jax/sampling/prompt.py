"""From a comparison to the prompt that an engine continues: the second record of the flow.

The text of a prompt comes from `grm_jax.text.prompts`; here it gets its presentation order, its
hint or given principles, its token ids, and, where it is too long, shorter texts.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from grm_jax.data.comparison import Comparison
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.orders import Order
from grm_jax.text import prompts
from grm_jax.text.prompts import Message
from grm_jax.text.tokenizers import Tokenizer

_CUT = " [...] "
_SHORTEST = 16  # tokens of a text that was cut


class Prompt(NamedTuple):
    """One comparison in one presentation order, ready to be continued."""

    uid: str  # of the comparison
    order: Order  # presentation order; order[j] is the index of the response shown at position j
    # token ids: the messages in the chat format of the model, then `given`
    ids: tuple[int, ...]
    messages: tuple[Message, ...] = ()  # the same for engines that speak text
    given: str = ""  # the beginning of the answer, which is not generated: given principles
    shortened: bool = False  # texts of the comparison were cut to fit
    alike: bool = False  # the cut made a best response equal to one that is not


def make_prompt(
    comparison: Comparison,
    order: Sequence[int],
    config: DrawConfig,
    tokenizer: Tokenizer,
    *,
    hinted: bool = False,
    limit: int | None = None,
) -> Prompt:
    """The prompt of a comparison in one order.

    Args:
      comparison: the responses to judge.
      order: presentation order.
      config: form, principle mode, and the kind of answer; or the judge.
      tokenizer: of the model.
      hinted: tell which response is best, or the label of a single one.
      limit: most tokens; a longer prompt is shortened if `config.max_truncated` allows any to be.

    Returns:
      The prompt. It is longer than `limit` where shortening is not allowed, or no cut is enough.

    Raises:
      ValueError: a hint for the prompt of a judge, which has none; or the template of the judge, or
        the chat template of the model, does not take the comparison.
    """
    whole = _assemble(comparison, order, config, tokenizer, hinted)
    if limit is None or len(whole.ids) <= limit or config.max_truncated == 0:
        return whole
    return _shorten(whole, comparison, config, tokenizer, hinted, limit) or whole


def given_beginning(comparison: Comparison, config: DrawConfig) -> str:
    """The beginning of the answers to a comparison that is not generated; "" for none."""
    if config.judge or config.principles != "given" or not comparison.principles.strip():
        return ""
    return prompts.given_principles(comparison.principles)


def _assemble(comparison, order, config, tokenizer, hinted) -> Prompt:
    messages = [Message("user", _text(comparison, order, config, hinted))]
    if config.judge:
        messages = _judge_messages(comparison, order, config)
    given = given_beginning(comparison, config)
    beginning = tokenizer.encode(given) if given else ()
    ids = (*tokenizer.chat(messages), *beginning)
    return Prompt(comparison.uid, tuple(order), ids, tuple(messages), given)


def _judge_messages(comparison, order, config) -> list[Message]:
    return config.judge.prompt(
        comparison.messages,
        [comparison.responses[i] for i in order],
        principles=comparison.principles if config.principles == "given" else "",
        reference=comparison.reference if config.reference else "",
    )


def _text(comparison, order, config, hinted) -> str:
    if hinted and (config.answer == "best" or config.judge):
        raise ValueError("hinted: the prompt of a judge has no hint")
    if config.principles == "query":
        return prompts.principles_prompt(comparison.messages, form=config.form)
    shown = [comparison.responses[i] for i in order]
    if config.answer == "best":
        return prompts.judge_prompt(comparison.messages, shown, form=config.form)
    binary = config.binary(comparison)
    hint = None
    if hinted:
        best = comparison.label if binary else list(order).index(comparison.best)
        hint = prompts.Hint(best, comparison.hint_note)
    return prompts.grm_prompt(
        comparison.messages,
        shown,
        form=config.form,
        principles="self" if config.principles == "given" else config.principles,
        binary=binary,
        hint=hint,
        reference=comparison.reference if config.reference else "",
    )


def _shorten(whole, comparison, config, tokenizer, hinted, limit) -> Prompt | None:
    """A prompt that fits: texts are cut in the middle to equal budgets, never the instructions.

    Responses give way first, down to 16 tokens each; only then does the conversation. None if the
    prompt does not fit however short its texts are.
    """
    longest = max(len(tokenizer.encode(text)) for text in comparison.responses)
    turns = max(len(tokenizer.encode(message.content)) for message in comparison.messages)
    budgets = [(tokens, turns) for tokens in _budgets(longest)]
    budgets += [(_SHORTEST, tokens) for tokens in _budgets(turns)]
    best = None
    low, high = 0, len(budgets) - 1
    while low <= high:  # the first budget that fits; prompts shrink along the list
        middle = (low + high) // 2
        for_responses, for_turns = budgets[middle]
        shorter = dataclasses.replace(
            comparison,
            messages=tuple(m._replace(content=_cut(m.content, for_turns, tokenizer))
                           for m in comparison.messages),
            responses=tuple(_cut(text, for_responses, tokenizer) for text in comparison.responses),
        )  # fmt: skip
        prompt = _assemble(shorter, whole.order, config, tokenizer, hinted)
        if len(prompt.ids) <= limit:
            alike = _beaten(shorter) < _beaten(comparison)
            best, high = prompt._replace(shortened=True, alike=alike), middle - 1
        else:
            low = middle + 1
    return best


def _cut(text: str, budget: int, tokenizer: Tokenizer) -> str:
    """The beginning and the end of a text, `budget` tokens in all."""
    ids = tokenizer.encode(text)
    if len(ids) <= budget:
        return text
    head = (budget + 1) // 2
    tail = ids[len(ids) - (budget - head) :] if budget > head else []
    return tokenizer.decode(ids[:head]) + _CUT + tokenizer.decode(tail)


def _beaten(comparison: Comparison) -> int:
    """The number of responses that differ from every best one."""
    best = {comparison.responses[i] for i in comparison.winners}
    return sum(text not in best for text in comparison.responses)


def _budgets(longest: int) -> list[int]:
    """Token budgets from `longest` down to the shortest in steps of about 7 %."""
    budgets = [longest]
    while budgets[-1] > _SHORTEST:
        budgets.append(max(_SHORTEST, min(budgets[-1] - 1, int(budgets[-1] * 0.93))))
    return budgets
