"""UltraFeedback (openbmb/UltraFeedback): lists of up to four completions with ratings.

Columns read, by the "Dataset Format" of the card and of the repository OpenBMB/UltraFeedback:
`source`, `instruction` and `completions`, of which `response`, `model` and `fine-grained_score`,
the mean of the four aspects. The authors train on this mean (their answer in discussion 4 of the
data set); `overall_score` was partly wrong until December 2023.
"""

import math

from grm_jax.data.comparison import FieldError
from grm_jax.data.reading import one_turn, require, texts_of
from grm_jax.data.training_sets import rows

FILES = ("*.jsonl",)


def read(where: str, uid: str, row: rows.Row) -> rows.Comparisons:
    """One list, of the completions with a rating.

    Of several that share the best rating the first is kept and the others are left out, so that
    the best is unique; lower ones may tie.
    """
    rated = []
    for i, completion in enumerate(require(where, row, "completions", list)):
        name = f"completions[{i}]"
        texts = texts_of(where, name, completion, "response", "model")
        score = completion.get("fine-grained_score")
        if type(score) not in (int, float, type(None)):
            problem = f"expected a number, got {type(score).__name__}"
            raise FieldError(where, f"{name}.fine-grained_score", problem)
        if score is not None and math.isfinite(score):
            rated.append((*texts, float(score)))
    if len(rated) < 2:
        raise rows.Unusable("fewer than two rated completions")
    best = max(score for *_, score in rated)
    first = next(row for row in rated if row[2] == best)
    kept = [row for row in rated if row is first or row[2] < best]
    if len(kept) < 2:
        raise rows.Unusable("no single best response")
    responses, models, rewards = zip(*kept, strict=True)
    yield rows.comparison(
        where, uid, one_turn(where, row, "instruction"), responses, rewards,
        query="instruction",
        meta={"source": require(where, row, "source", str), "models": list(models)},
    )  # fmt: skip
