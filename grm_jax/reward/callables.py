"""A GRM behind the trainers that ask for a callable; none of them is imported.

    TRLReward      reward_funcs(prompts, completions, **columns) -> list[float | None]
    TunixReward    reward_fns(prompts, completions, **columns) -> float32 array
    VerlReward     compute_score(data_source, solution_str, ground_truth, extra_info) -> dict

The completions of a prompt are judged together, in one prompt, wherever they stand in the batch.
A completion without a score is None for TRL, which leaves it out. The other two need a number:
they get the mean of its group, else that of the batch, else `otherwise`, and `counts` says how
often. A number in a group that is all made up gives no advantage, and so teaches nothing.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from grm_jax.reward.judging import GRMReward, Query, comparison
from grm_jax.text import prompts

Completion = str | Sequence[Mapping[str, str]]


@dataclasses.dataclass(eq=False)
class _Callable:
    """What all of them share.

    Attributes:
      reward: judges.
      k: samples of each comparison; None for `reward.draw.k`.
      seed: of orders and samples.
      pointwise: judge each completion alone instead of the group of its prompt.
      otherwise: the number where nothing in a call has a score; by default the middle of 1 to 10.
      counts: completions that were "asked" for, had no score ("silent"), and got a number instead
        ("filled").
    """

    reward: GRMReward
    k: int | None = None
    seed: int = 0
    pointwise: bool = False
    otherwise: float = sum(prompts.score_range(binary=False)) / 2
    counts: Counter = dataclasses.field(default_factory=Counter)

    def _scores(
        self,
        queries: Sequence[Query],
        completions: Sequence[Completion],
        columns: Mapping[str, Any],
    ) -> tuple[list[float | None], list[Hashable]]:
        """The score of each completion, and the group that it belongs to.

        Columns "principles" and "reference" are shown to the judge, the others are not looked at.
        Rows that differ in one of these two are of different groups.
        """
        if len(queries) != len(completions):
            problem = f"{len(completions)} for {len(queries)} prompts"
            raise ValueError(f"completions: {problem}")
        shown = [_column(columns, name, len(queries)) for name in ("principles", "reference")]
        # Written out: prompts may be lists of dicts, which have no hash.
        groups = [
            json.dumps([query, *rest], sort_keys=True, default=str)
            for query, *rest in zip(queries, *shown, strict=True)
        ]
        members: dict[Hashable, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault((group, i) if self.pointwise else group, []).append(i)
        asked = [
            comparison(
                queries[rows[0]],
                [_text(completions[i], i) for i in rows],
                principles=shown[0][rows[0]],
                reference=shown[1][rows[0]],
                where=f"prompts[{rows[0]}]",
            )
            for rows in members.values()
        ]
        scores: list[float | None] = [None] * len(queries)
        judged = self.reward.judge(asked, k=self.k, seed=self.seed)
        for rows, told in zip(members.values(), judged, strict=True):
            for i, score in zip(rows, told.scores or (None,) * len(rows), strict=True):
                scores[i] = score
        self.counts.update(asked=len(scores), silent=scores.count(None))
        return scores, groups

    def _filled(self, scores: Sequence[float | None], groups: Sequence[Hashable]) -> list[float]:
        """The scores, with the fallback in the place of None."""
        known: dict[Hashable, list[float]] = {}
        for score, group in zip(scores, groups, strict=True):
            if score is not None:
                known.setdefault(group, []).append(score)
        batch = [score for own in known.values() for score in own] or [self.otherwise]
        self.counts.update(filled=list(scores).count(None))
        return [
            float(np.mean(known.get(group, batch))) if score is None else score
            for score, group in zip(scores, groups, strict=True)
        ]


class TRLReward(_Callable):
    """A function of `reward_funcs` of TRL's trainers: None for a completion without a score."""

    __name__ = "grm_reward"  # what TRL logs it as

    def __call__(
        self, prompts: Sequence[Query], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        """See the head of this file.

        Args:
          prompts: of each completion: a text, or a conversation that ends with the user.
          completions: texts, or lists of one message of the assistant.
          columns: of the data set, and whatever else TRL passes.

        Raises:
          ValueError: naming the field and the row.
        """
        return self._scores(prompts, completions, columns)[0]


class TunixReward(_Callable):
    """A function of `reward_fns` of Tunix: a number for every completion."""

    __name__ = "grm_reward"

    def __call__(
        self, prompts: Sequence[Query], completions: Sequence[Completion], **columns: Any
    ) -> np.ndarray:
        """As `TRLReward`, but float32 [N] with the fallback instead of None."""
        return np.asarray(self._filled(*self._scores(prompts, completions, columns)), np.float32)


@dataclasses.dataclass(eq=False)
class VerlReward(_Callable):
    """A `compute_score` of verl, whose default manager asks for one sample a call.

    Attributes:
      prompt_key: the key of `extra_info` with the prompt, which verl does not pass otherwise.
      show_truth: show `ground_truth` to the judge as the reference.
    """

    prompt_key: str = "prompt"
    show_truth: bool = False

    def __call__(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> dict[str, float]:
        """ "score", and "silent": 1 where that is the fallback.

        Raises:
          ValueError: `extra_info` has no prompt, or a bad one.
        """
        if not extra_info or self.prompt_key not in extra_info:
            raise ValueError(
                f"extra_info: {self.prompt_key!r} is missing, the prompt of the sample"
            )
        query = extra_info[self.prompt_key]
        if isinstance(query, np.ndarray):  # a list that came out of Parquet
            query = query.tolist()
        columns = {"reference": [str(ground_truth)]} if self.show_truth else {}
        scores, groups = self._scores([query], [solution_str], columns)
        (score,) = self._filled(scores, groups)
        return {"score": score, "silent": float(scores[0] is None)}


def _column(columns: Mapping[str, Any], name: str, rows: int) -> list[str | None]:
    """A column that may be missing, as may any of its values."""
    values = columns.get(name)
    if values is None:
        return [None] * rows
    if isinstance(values, str) or len(values) != rows:
        raise ValueError(f"{name}: expected a list of {rows} texts, one for each completion")
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name}[{i}]: expected a text, got {type(value).__name__}")
    return list(values)


def _text(completion: Completion, row: int) -> str:
    """The text of a completion, of which a conversation must have one turn."""
    if isinstance(completion, str):
        return completion
    turns = list(completion) if isinstance(completion, list | tuple) else [completion]
    if len(turns) != 1 or not isinstance(turns[0], Mapping):
        raise ValueError(f"completions[{row}]: expected a text, or one message of the assistant")
    content = turns[0].get("content")
    if not isinstance(content, str):
        raise ValueError(f"completions[{row}].content: expected a text")
    return content
