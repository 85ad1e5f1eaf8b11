"""A meta RM as it reads trajectories: its input, and the logits of many."""

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.learning import meta_rm
from grm_jax.models import hub
from grm_jax.models.config import ModelConfig
from grm_jax.sampling.draw import answer_ids
from grm_jax.text.chat_templates import load_tokenizer, reads_thinking
from grm_jax.text.prompts import Message, meta_rm_prompt
from grm_jax.text.thinking import CLOSING
from grm_jax.text.tokenizers import Tokenizer

_BATCH, _SHORTEST = 4, 64  # rows that are scored at once; tokens of the shortest shape


class MetaRM(NamedTuple):
    """A meta RM with its tokenizer.

    Attributes:
      model: shape of its decoder.
      tokenizer: of the decoder.
      params: as made by `grm_jax.learning.meta_rm.init`.
      released: whether it was trained elsewhere, and so reads the text of a trajectory instead of
        its token ids.
    """

    model: ModelConfig
    tokenizer: Tokenizer
    params: dict
    released: bool

    def input_ids(
        self, form: str, comparison: Comparison, trajectory: Trajectory
    ) -> tuple[int, ...]:
        """Query and responses as they were shown, then the trajectory as the answer (Figure 5).

        One that was trained elsewhere reads the whole conversation as its chat template writes it,
        and so ends where `apply_chat_template` of transformers ends, behind the closing token.
        """
        shown = [comparison.responses[i] for i in trajectory.order]
        text = meta_rm_prompt(comparison.messages, shown, form=form)
        turn = Message("user", text)
        if not self.released:
            return (*self.tokenizer.chat([turn]), *answer_ids(trajectory, self.tokenizer))
        # A template would take what stands before a stray tag for thinking.
        answer = Message("assistant", trajectory.text.replace(CLOSING, " "))
        return tuple(self.tokenizer.chat([turn, answer], add_generation_prompt=False))

    def logits(self, form: str, pairs: Sequence[tuple[Comparison, Trajectory]]) -> list[float]:
        """The logit of each trajectory of a comparison.

        A row is padded to the next power of two, so that its shape is its own and not that of the
        longest neighbour.
        """
        rows = [self.input_ids(form, *pair) for pair in pairs]
        lengths = [max(_SHORTEST, 1 << (len(ids) - 1).bit_length()) for ids in rows]
        found = [0.0] * len(rows)
        for length in sorted(set(lengths)):
            places = [i for i, own in enumerate(lengths) if own == length]
            scored = meta_rm.score_all(
                _score(self.model), self.params, [rows[i] for i in places], length=length,
                batch_size=_BATCH, pad_id=self.tokenizer.pad_id,
            )  # fmt: skip
            for i, logit in zip(places, scored, strict=True):
                found[i] = logit
        return found


_score = functools.lru_cache(maxsize=4)(meta_rm.make_score_fn)


def load(folder: str | os.PathLike, *, dtype: str | None = None, thinking: str = "") -> MetaRM:
    """A released meta RM, in the hub format.

    Args:
      folder: of a sequence classifier with one label.
      dtype: of parameters and activations; None for what config.json says.
      thinking: told to its chat template, if that asks.

    Raises:
      FileNotFoundError, ValueError: as `hub.load` and `load_tokenizer`, or a language model.
    """
    checkpoint = hub.load(folder, param_dtype=dtype)
    if checkpoint.head is None:
        raise ValueError(f"{folder}: expected a reward model with one label, not a language model")
    tokenizer = load_tokenizer(folder, thinking=thinking if reads_thinking(folder) else "")
    model = checkpoint.config.replace(dtype=dtype) if dtype else checkpoint.config
    hub.check_vocab(model, tokenizer.vocab_size, folder)
    params = {"decoder": checkpoint.params, "head": checkpoint.head}
    return MetaRM(model, tokenizer, params, released=True)
