"""Judges that cannot read a whole list: their pieces of a comparison, and one trajectory of these.

A judge of pairs meets n > 2 responses in a circle, (1, 2), (2, 3), ..., (n, 1), and a judge of
single responses meets them one by one. Each piece is a comparison of its own: it is drawn like any
other, in orders and with keys of its own, and stored under its own uid. Sample i of the whole
comparison is then sample i of all its pieces. The score of a response is the sum over the pieces
that show it, which are two in a circle: of votes, that is the number of pairs it won, and half of
those it tied. A sample one of whose pieces has no scores has none: without one pair, the two
responses in it would have had fewer chances than the others.
"""

import dataclasses
from collections.abc import Sequence

from grm_jax.data.comparison import Comparison
from grm_jax.data.trajectory import Trajectory
from grm_jax.text import scores


def shown_together(n: int, mode: str) -> list[tuple[int, ...]]:
    """Indices of the responses that each piece shows, for a mode of `verdicts.MODES`."""
    if mode == "single":
        return [(i,) for i in range(n)]
    if mode == "pair" and n > 2:
        return [(i, (i + 1) % n) for i in range(n)]
    return [tuple(range(n))]


def pieces(comparison: Comparison, mode: str) -> list[Comparison]:
    """What a judge of this mode is shown at once: `comparison` itself if that is all of it.

    The rewards of a pair are those of its responses, the label of a single response of several is
    whether it is one of the best.
    """
    together = shown_together(comparison.n, mode)
    if len(together) == 1:
        return [comparison]
    parts = []
    for indices in together:
        rewards = tuple(comparison.rewards[i] for i in indices)
        if len(indices) == 1:
            rewards = (float(indices[0] in comparison.winners),)
        numbers = ", ".join(str(i + 1) for i in indices)
        parts.append(
            dataclasses.replace(
                comparison, uid=f"{comparison.uid} [{numbers}]", rewards=rewards,
                responses=tuple(comparison.responses[i] for i in indices), several_best=True,
            )
        )  # fmt: skip
    return parts


def check_uids(comparisons: Sequence[Comparison], mode: str) -> None:
    """Each piece has a uid of its own, by which its trajectories are stored.

    Raises:
      ValueError: two comparisons with a piece of the same uid, as `x` has of a row `x [1, 2]`.
    """
    owners: dict[str, str] = {}
    for comparison in comparisons:
        for piece in pieces(comparison, mode):
            owner = owners.setdefault(piece.uid, comparison.uid)
            if owner != comparison.uid:
                raise ValueError(
                    f"the comparisons {owner!r} and {comparison.uid!r} both have a prompt that is "
                    f"stored as {piece.uid!r}: expected different uids, rename one"
                )


def merge(
    comparison: Comparison, mode: str, drawn: Sequence[Sequence[Trajectory]]
) -> list[Trajectory]:
    """The trajectories of a comparison from those of its pieces.

    Args:
      comparison: the whole one.
      mode: by which `pieces` made them.
      drawn: the trajectories of each piece, sorted by sample.

    Returns:
      Those of the only piece; or one for each sample, in the order of the data: texts one after the
      other, each under a line that names its responses as they were shown, without token ids and
      log-probs.
    """
    together = shown_together(comparison.n, mode)
    if len(together) == 1:
        return list(drawn[0])
    return [_merged(comparison, together, parts) for parts in zip(*drawn, strict=True)]


def _merged(
    comparison: Comparison, together: Sequence[tuple[int, ...]], parts: Sequence[Trajectory]
) -> Trajectory:
    strict, lenient = (
        _sum(comparison.n, together, [part.original_scores(lenient=way) for part in parts])
        for way in (False, True)
    )
    places = [
        " and ".join(str(indices[j] + 1) for j in part.order)
        for indices, part in zip(together, parts, strict=True)
    ]
    silent = [
        f"responses {place}: {part.parse_reason}"
        for place, part in zip(places, parts, strict=True)
        if part.scores is None
    ]
    correct = None
    if comparison.n > 1 and len(comparison.winners) == 1:
        correct = strict is not None and scores.is_correct(strict, comparison.rewards)

    def joined(name: str) -> str:
        texts = [getattr(part, name) for part in parts]
        named = [f"[Responses {p}]\n{t}" for p, t in zip(places, texts, strict=True)]
        return "\n\n".join(named) if any(texts) else ""

    return dataclasses.replace(
        parts[0], uid=comparison.uid, order=tuple(range(comparison.n)),
        token_ids=(), logprobs=(), sampling_logprobs=(),
        text=joined("text"), thinking=joined("thinking"),
        scores=strict, parse_reason=silent[0] if silent else "ok", lenient_scores=lenient,
        finish="length" if any(part.finish == "length" for part in parts) else "stop",
        correct=correct, truncated=any(part.truncated for part in parts),
    )  # fmt: skip


def _sum(
    n: int, together: Sequence[tuple[int, ...]], found: Sequence[tuple[float, ...] | None]
) -> tuple[float, ...] | None:
    """The sums by response; None where a piece has no scores."""
    if None in found:
        return None
    totals = [0.0] * n
    for indices, values in zip(together, found, strict=True):
        for i, value in zip(indices, values, strict=True):
            totals[i] += value
    return tuple(totals)
