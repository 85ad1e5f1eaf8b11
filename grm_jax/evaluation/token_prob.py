r"""TokenProb: what a judge's probabilities say about each response, beyond the one it names.

A judge ends with the number of the best response in a box. The score of response j is the
probability of the token "j" right after `\boxed{`, given everything the judge wrote before
(paper section 2.1, the variant of LLM-as-a-Judge; Table 3).

Letters: B batch, I indices, T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from grm_jax.learning.meta_rm import MetaBatch
from grm_jax.models import heads, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.text.scores import last_box_start
from grm_jax.text.tokenizers import Tokenizer


def index_ids(tokenizer: Tokenizer, count: int) -> tuple[int, ...]:
    """Ids of the tokens that name responses 1 to `count` inside a box.

    Raises:
      ValueError: for a number that is no single token there, as all from 10 on are for tokenizers
        that split digits.
    """
    opened = tokenizer.encode("\\boxed{")
    found = []
    for number in range(1, count + 1):
        ids = tokenizer.encode(f"\\boxed{{{number}")
        if ids[:-1] != opened:
            raise ValueError(f"token_prob: this tokenizer has no token of its own for {number}")
        found.append(ids[-1])
    return tuple(found)


def opening_length(token_ids: Sequence[int], tokenizer: Tokenizer) -> int | None:
    """How many tokens lead up to the inside of the box that opens last.

    None if there is no such box, or no token ends with its brace.
    """
    text = tokenizer.decode(token_ids)
    start = last_box_start(text)
    if start is None:
        return None
    low, high = 0, len(token_ids)
    while low < high:  # the fewest tokens that reach the place; decoded texts only grow
        middle = (low + high) // 2
        if len(tokenizer.decode(token_ids[:middle])) < start:
            low = middle + 1
        else:
            high = middle
    return low if tokenizer.decode(token_ids[:low]) == text[:start] else None


def make_index_fn(model_config: ModelConfig) -> Callable[[dict, MetaBatch, jax.Array], jax.Array]:
    """The jitted (decoder params, batch, ids [I]) -> probabilities float32 [B, I].

    Probability, among the whole vocabulary, of each id right after the last real token of a row.
    """

    def index_probs(params: dict, batch: MetaBatch, ids_I: jax.Array) -> jax.Array:
        hidden_BTD, _ = transformer.apply(model_config, params, *batch[:3])
        hidden_B1D = jnp.take_along_axis(hidden_BTD, batch.last_B[:, None, None], axis=1)
        logits_BV = heads.logits(model_config, params, hidden_B1D)[:, 0]
        return jax.nn.softmax(logits_BV, axis=-1)[:, ids_I]

    return jax.jit(index_probs)
