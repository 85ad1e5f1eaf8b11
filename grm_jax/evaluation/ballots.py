"""Stored trajectories stacked into the arrays that `grm_jax.voting` works on.

Numpy only: nothing here touches a device. Shape letters: C comparisons, S samples, N responses.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from grm_jax.data.trajectory import Trajectory
from grm_jax.voting import Ballots


def from_trajectories(
    groups: Sequence[Sequence[Trajectory]],
    num_responses: Sequence[int],
    *,
    meta: Sequence[Sequence[float]] | None = None,
    lenient: bool = False,
    num_samples: int | None = None,
) -> Ballots:
    """Stacks the trajectories of each comparison.

    Args:
        groups: the trajectories of each comparison; they are sorted by sample index.
        num_responses: n of each comparison.
        meta: the meta score of each trajectory, in the order given in `groups`.
        lenient: count the lenient instead of the strict parse.
        num_samples: S to pad to; by default the largest that occurs.

    Returns:
        `Ballots` of numpy arrays, with float32 scores if any of the counted ones is no whole
        number. `ids_C` is a hash of the uid, `order_ids_CS` numbers the distinct orders of a
        comparison.

    Raises:
        ValueError: naming the uid (and sample) of a comparison without trajectories, one that
            does not fit S, one grouped with trajectories of another, a sample given twice, a meta
            score that is missing or not finite.
    """
    if len(groups) != len(num_responses) or (meta is not None and len(meta) != len(groups)):
        raise ValueError("groups, num_responses and meta must have one entry per comparison")
    C = len(groups)
    S = max(map(len, groups), default=0) if num_samples is None else num_samples
    N = max(num_responses, default=0)
    counted = [t.lenient_scores if lenient else t.scores for group in groups for t in group]
    real = any(isinstance(score, float) for scores in counted for score in scores or ())
    ballots = _nothing_drawn(S, N, num_responses, np.float32 if real else np.int32)
    if meta is not None:
        ballots = ballots._replace(meta_CS=np.zeros((C, S), np.float32))
    for c, (group, n) in enumerate(zip(groups, num_responses, strict=True)):
        if not group:
            raise ValueError(f"comparison {c} has no trajectories")
        uid = group[0].uid
        if len(group) > S:
            raise ValueError(f"{uid}: {len(group)} samples do not fit S = {S}")
        if meta is not None and len(meta[c]) != len(group):
            raise ValueError(f"{uid}: {len(meta[c])} meta scores for {len(group)} samples")
        samples = [trajectory.sample for trajectory in group]
        if len(set(samples)) < len(samples):
            raise ValueError(f"{uid}: a sample index occurs twice in {sorted(samples)}")
        strata = {order: i for i, order in enumerate(sorted({tuple(t.order) for t in group}))}
        ballots.ids_C[c] = _ident(uid)
        for s, i in enumerate(sorted(range(len(group)), key=samples.__getitem__)):
            trajectory = group[i]
            if (trajectory.uid, len(trajectory.order)) != (uid, n):
                raise ValueError(
                    f"{uid}, sample {trajectory.sample}: grouped with a trajectory of "
                    f"{trajectory.uid}, whose order {trajectory.order} is no order of {n} responses"
                )
            scores = trajectory.lenient_scores if lenient else trajectory.scores
            if scores is not None:
                ballots.scores_CSN[c, s, :n] = scores
            if meta is not None:
                if not math.isfinite(meta[c][i]):
                    raise ValueError(f"{uid}, sample {samples[i]}: meta score {meta[c][i]}")
                ballots.meta_CS[c, s] = meta[c][i]
            ballots.orders_CSN[c, s, :n] = trajectory.order
            ballots.order_ids_CS[c, s] = strata[tuple(trajectory.order)]
            ballots.parsed_CS[c, s] = scores is not None
            ballots.drawn_CS[c, s] = True
    return ballots


def from_scores(
    uids: Sequence[str],
    num_responses: Sequence[int],
    scores: Sequence[Sequence[Sequence[float] | None]],
    *,
    num_samples: int | None = None,
) -> Ballots:
    """Stacks real scores that do not depend on the order of the responses.

    Args:
        uids, num_responses: of each comparison.
        scores: by comparison and sample, a score for each response; None for a sample without.
        num_samples: S to pad to; by default the largest that occurs.

    Returns:
        `Ballots` of numpy arrays with float32 scores and orders that are the identity.

    Raises:
        ValueError: naming the uid of a comparison whose samples do not fit S, or of a sample with
            a wrong number of scores or one that is not finite.
    """
    N = max(num_responses, default=0)
    S = max(map(len, scores), default=0) if num_samples is None else num_samples
    ballots = _nothing_drawn(S, N, num_responses, np.float32)
    ballots.ids_C[:] = [_ident(uid) for uid in uids]
    for c, (uid, n, samples) in enumerate(zip(uids, num_responses, scores, strict=True)):
        if len(samples) > S:
            raise ValueError(f"{uid}: {len(samples)} samples do not fit S = {S}")
        ballots.drawn_CS[c, : len(samples)] = True
        for s, sample in enumerate(samples):
            if sample is not None:
                if len(sample) != n or not all(map(math.isfinite, sample)):
                    raise ValueError(f"{uid}, sample {s}: {sample}: not {n} finite scores")
                ballots.parsed_CS[c, s] = True
                ballots.scores_CSN[c, s, :n] = sample
    return ballots


def _nothing_drawn(S: int, N: int, num_responses: Sequence[int], dtype) -> Ballots:
    """Ballots of numpy arrays, all padding yet, in the order of the data."""
    C = len(num_responses)
    return Ballots(
        scores_CSN=np.zeros((C, S, N), dtype),
        orders_CSN=np.tile(np.arange(N, dtype=np.int32), (C, S, 1)),
        parsed_CS=np.zeros((C, S), bool),
        drawn_CS=np.zeros((C, S), bool),
        num_responses_C=np.asarray(num_responses, np.int32),
        order_ids_CS=np.zeros((C, S), np.int32),
        ids_C=np.zeros(C, np.uint32),
    )


def _ident(uid: str) -> int:
    """A number that belongs to a comparison wherever it stands."""
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=4).digest(), "big")
