"""How trajectories become verdicts: voting and guided voting over k samples.

Shape letters: C comparisons, S drawn samples of one comparison, N responses (padded to the
longest list), K values of k, M random subsets.

Terms of the paper that are kept: responses are put back into their original order before the
scores are added (section 3), the sum of Eq. 14 with its argmax, and guided voting, which adds
only the k_meta samples with the highest meta score (section 2.5).
What the paper leaves open, decided here and named in every signature:
  - a sample without parsed scores is dropped and casts no vote;
  - for n = 1 the *mean* over parsed samples is reported, so that dropping one cannot lower it;
  - k_meta is `max(1, k // 2)` by default, equal meta scores go to the lower sample index, and
    the k_meta samples are taken among the *parsed* ones (a sample without scores would only
    waste a place);
  - what a tie at the top earns (`TIE_POLICIES`) and what no verdict at all earns
    (`PARSE_POLICIES`) have no default: the caller says so, and the table prints it.

Sample once with the largest k: every smaller k is the mean over many random k-subsets of the
stored samples, all values of k in one jitted call. Subsets only remove the noise of *which*
samples were taken; confidence intervals are over comparisons (`evaluation.statistics`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
KMeta = int | Sequence[int] | Callable[[int], int] | None

TIE_POLICIES = ("strict", "half", "uniform", "shuffle_argmax")
PARSE_POLICIES = ("wrong", "chance")


class Ballots(NamedTuple):
    """All drawn samples of C comparisons, padded to S samples and N responses.

    `evaluation.ballots.from_trajectories` makes them from stored trajectories.

    Attributes:
        scores_CSN: int32, in *presented* order; anything where not parsed or padded.
        orders_CSN: int32, `orders_CSN[c, s, j]` is the original index of the response shown at
            position j; a permutation of range(N), the identity at padded positions.
        parsed_CS: bool, the sample has scores.
        drawn_CS: bool, the sample exists; False is padding, which is never parsed.
        num_responses_C: int32, the number n of responses.
        order_ids_CS: int32, samples of one comparison with the same order share a number.
        ids_C: uint32, a number that belongs to the comparison wherever it stands in a batch.
        meta_CS: float32 logits of the meta RM, or None.
    """

    scores_CSN: Array
    orders_CSN: Array
    parsed_CS: Array
    drawn_CS: Array
    num_responses_C: Array
    order_ids_CS: Array
    ids_C: Array
    meta_CS: Array | None = None


class Verdicts(NamedTuple):
    """Attributes:
    totals_CN: float32, by original response; -inf at padding, zero where nobody voted.
    voters_C: int32, the number of samples in the total; 0 means that there is no verdict.
    tops_CN: bool, the responses at the top; all False where there is no verdict.
    """

    totals_CN: jax.Array
    voters_C: jax.Array
    tops_CN: jax.Array


class Curves(NamedTuple):
    """One value of each (k, comparison), float32 [K, C] (`single_scores`: [K, M, C]).

    `guided` is None when no k_meta was given.
    """

    voting: jax.Array
    guided: jax.Array | None


def half(k: int) -> int:
    """k_meta of the paper's default, k / 2, rounded down for odd k and 1 for k = 1."""
    return max(1, k // 2)


def resolve_k_meta(ks: Sequence[int], k_meta: KMeta) -> tuple[int, ...] | None:
    """One k_meta for each k, from a function of k, one number, or one number for each k.

    Raises:
        ValueError: a k_meta below 1 or above its k, or a list of another length than `ks`.
    """
    if k_meta is None:
        return None
    if callable(k_meta):
        chosen = tuple(int(k_meta(k)) for k in ks)
    elif isinstance(k_meta, int):
        chosen = (k_meta,) * len(ks)
    else:
        chosen = tuple(int(value) for value in k_meta)
    if len(chosen) != len(ks):
        raise ValueError(f"k_meta: {len(chosen)} values for {len(ks)} values of k")
    for k, value in zip(ks, chosen, strict=True):
        if not 1 <= value <= k:
            raise ValueError(f"k_meta: {value} must be between 1 and k = {k}")
    return chosen


@jax.jit
def undo_order(scores_CSN: Array, orders_CSN: Array) -> jax.Array:
    """Scores by original response: `out[..., orders[..., j]] = scores[..., j]`."""
    return jnp.take_along_axis(scores_CSN, jnp.argsort(orders_CSN, axis=-1), axis=-1)


@jax.jit
def totals(ballots: Ballots, keep_CS: Array) -> Verdicts:
    """Eq. 14 over the kept and parsed samples (n = 1: their mean)."""
    scores_CSN = undo_order(ballots.scores_CSN, ballots.orders_CSN)
    keep_CS = keep_CS & ballots.drawn_CS & ballots.parsed_CS
    return jax.vmap(_tally)(scores_CSN, keep_CS, ballots.num_responses_C)


@functools.partial(jax.jit, static_argnames="k_meta")
def select_guided(ballots: Ballots, keep_CS: Array, k_meta: int) -> jax.Array:
    """bool [C, S]: of the kept and parsed samples, the k_meta with the highest meta score.

    Where fewer than k_meta are kept and parsed, all of those are selected.
    """
    if ballots.meta_CS is None:
        raise ValueError("meta: guided voting needs the meta scores of the samples")
    if k_meta < 1:
        raise ValueError(f"k_meta: {k_meta} must be at least 1")

    def row(meta_S, keep_S, parsed_S):
        first_S = _by_meta(meta_S)
        chosen_S = _first(keep_S[first_S] & parsed_S[first_S], k_meta)
        return jnp.zeros_like(chosen_S).at[first_S].set(chosen_S)

    keep_CS = keep_CS & ballots.drawn_CS
    return jax.vmap(row)(ballots.meta_CS, keep_CS, ballots.parsed_CS)


def accuracy_curve(
    ballots: Ballots,
    best_C: Array,
    *,
    ks: Sequence[int],
    num_subsets: int,
    key: Array,
    tie_policy: str,
    parse_policy: str,
    stratified: bool,
    k_meta: KMeta = None,
) -> Curves:
    """Voting@k, and with `k_meta` guided voting, for all ks in one jitted call.

    The credit of one (k, comparison) is the mean over `num_subsets` random k-subsets of the drawn
    samples, without replacement; where k equals the number drawn, it is the one evaluation of all
    of them. Plain and guided voting see the same subsets, and k_meta is applied anew inside each.
    Subsets depend on (key, `ballots.ids_C`, subset, sample index) only: not on the batch, its
    order, or its padding.

    Args:
        best_C: int32, original index of the best response.
        ks: the values of k; static, like every argument but `ballots`, `best_C` and `key`.
        tie_policy: credit of a tie at the top that includes the best response: 'strict' 0,
            'half' 0.5, 'uniform' 1 / number tied, 'shuffle_argmax' a seeded random pick, which
            is the paper's evaluation (shuffle, then the first maximum).
        parse_policy: credit without any verdict: 'wrong' 0, 'chance' 1 / n.
        stratified: draw the subsets evenly over presentation orders (for balanced orders).
        k_meta: None, a function of k such as `half`, one number, or one number for each k.

    Returns:
        `Curves` with credits in [0, 1]. NaN, never a silent number, marks what has no argmax
        accuracy: n = 1, a `best_C` outside the responses, k above the number drawn.

    Raises:
        ValueError: naming the argument: an unknown policy, a bad k or k_meta, no meta scores.
    """
    if tie_policy not in TIE_POLICIES:
        raise ValueError(f"tie_policy: {tie_policy!r} is not one of {TIE_POLICIES}")
    if parse_policy not in PARSE_POLICIES:
        raise ValueError(f"parse_policy: {parse_policy!r} is not one of {PARSE_POLICIES}")
    ks, k_metas = _check_ks(ballots, ks, num_subsets, k_meta)
    return _accuracy_curve(
        ballots,
        best_C,
        key,
        ks=ks,
        k_metas=k_metas,
        num_subsets=num_subsets,
        tie_policy=tie_policy,
        parse_policy=parse_policy,
        stratified=stratified,
    )


def single_scores(
    ballots: Ballots,
    *,
    ks: Sequence[int],
    num_subsets: int,
    key: Array,
    stratified: bool,
    k_meta: KMeta = None,
) -> Curves:
    """For n = 1: the mean score in each of the M random k-subsets, float32 [K, M, C].

    Subsets are kept apart on purpose: an AUC of scores averaged over subsets would give every k
    the quality of the largest one. Take the AUC inside each subset, then the mean. The subsets
    are those of `accuracy_curve` with the same key.

    NaN where nothing in the subset was parsed, n is not 1, or k is above the number drawn.

    Raises:
        ValueError: as `accuracy_curve`.
    """
    ks, k_metas = _check_ks(ballots, ks, num_subsets, k_meta)
    return _single_scores(
        ballots,
        key,
        ks=ks,
        k_metas=k_metas,
        num_subsets=num_subsets,
        stratified=stratified,
    )


# What follows is written for one comparison and vmapped over C.


def subset_positions(bits_S, drawn_S, order_ids_S, *, stratified: bool):
    """int32 [S]: the place of each sample of one comparison in the random ordering by `bits_S`.

    The first k places are a uniformly random k-subset of the drawn samples, for every k at once.
    Stratified, the first k places hold as equal numbers of every presentation order as the drawn
    samples allow, again for every k. Samples that were not drawn get place S.
    """
    S = drawn_S.shape[0]
    index_S = jnp.arange(S)
    # earlier_SS[s, t]: t comes before s. Counting beats sorting at the sizes of S that occur.
    earlier_SS = (bits_S[None, :] < bits_S[:, None]) | (
        (bits_S[None, :] == bits_S[:, None]) & (index_S[None, :] < index_S[:, None])
    )
    earlier_SS &= drawn_S[None, :]
    if stratified:
        # First one sample of every order, then a second of every order, and so on.
        same_SS = order_ids_S[None, :] == order_ids_S[:, None]
        round_S = jnp.sum(earlier_SS & same_SS, axis=1)
        before_SS = round_S[None, :] < round_S[:, None]
        level_SS = round_S[None, :] == round_S[:, None]
        earlier_SS = drawn_S[None, :] & (before_SS | (level_SS & earlier_SS))
    return jnp.where(drawn_S, jnp.sum(earlier_SS, axis=1, dtype=jnp.int32), S)


def _draws(key, ident, subset, S, N):
    """Random words of one subset: uint32 [S] that order the samples, [N] that break ties."""
    key = jax.random.fold_in(jax.random.fold_in(key, ident), subset)
    # The padded axis comes first, so padding to a larger S or N only appends words.
    words = jax.random.bits(key, (max(S, N), 2))
    return words[:S, 0], words[:N, 1]


def _by_meta(meta_S):
    """Sample indices, best meta score first, equal scores by index."""
    return jnp.argsort(-meta_S, stable=True)


def _first(keep_S, count):
    """The first `count` True entries."""
    return keep_S & (jnp.cumsum(keep_S) <= count)


def _tally(scores_SN, keep_S, n) -> Verdicts:
    voters = jnp.sum(keep_S, dtype=jnp.int32)
    totals_N = jnp.sum(jnp.where(keep_S[:, None], scores_SN, 0), axis=0).astype(jnp.float32)
    totals_N = jnp.where(n == 1, totals_N / jnp.maximum(voters, 1), totals_N)
    real_N = jnp.arange(scores_SN.shape[1]) < n
    totals_N = jnp.where(real_N, totals_N, -jnp.inf)
    return Verdicts(totals_N, voters, real_N & (voters > 0) & (totals_N == jnp.max(totals_N)))


def _credit(tops_N, lots_N, n, best, tie_policy, parse_policy):
    tied = jnp.sum(tops_N)
    hit = jnp.any(tops_N & (jnp.arange(tops_N.shape[0]) == best))
    if tie_policy == "strict":
        credit = jnp.where(tied == 1, 1.0, 0.0)
    elif tie_policy == "half":
        credit = jnp.where(tied == 1, 1.0, 0.5)
    elif tie_policy == "uniform":
        credit = 1.0 / jnp.maximum(tied, 1)
    else:
        lots_N = (lots_N >> 1).astype(jnp.int32)  # never negative, so -1 is never drawn
        credit = jnp.where(jnp.argmax(jnp.where(tops_N, lots_N, -1)) == best, 1.0, 0.0)
    silent = 1.0 / jnp.maximum(n, 1) if parse_policy == "chance" else 0.0
    return jnp.where(tied == 0, silent, jnp.where(hit, credit, 0.0))


def _for_subsets(ballot: Ballots, key, ks, k_metas, num_subsets, stratified, evaluate) -> Curves:
    """Stacks `evaluate(verdict, lots_N)` over random subsets: [M, K] for both kinds of voting."""
    S, N = ballot.scores_CSN.shape
    parsed_S = ballot.parsed_CS & ballot.drawn_CS
    scores_SN = undo_order(ballot.scores_CSN, ballot.orders_CSN)
    # In this order "the best k_meta of a subset" is "the first k_meta that are in it".
    by_meta_S = None if k_metas is None else _by_meta(ballot.meta_CS)

    def one(subset):
        bits_S, lots_N = _draws(key, ballot.ids_C, subset, S, N)
        position_S = subset_positions(
            bits_S, ballot.drawn_CS, ballot.order_ids_CS, stratified=stratified
        )

        def voting(k):
            keep_S = (position_S < k) & parsed_S
            return evaluate(_tally(scores_SN, keep_S, ballot.num_responses_C), lots_N)

        def guided(k, k_meta):
            keep_S = _first(((position_S < k) & parsed_S)[by_meta_S], k_meta)
            return evaluate(_tally(scores_SN[by_meta_S], keep_S, ballot.num_responses_C), lots_N)

        return Curves(
            jax.vmap(voting)(jnp.array(ks)),
            None if k_metas is None else jax.vmap(guided)(jnp.array(ks), jnp.array(k_metas)),
        )

    return jax.lax.map(one, jnp.arange(num_subsets))


@functools.partial(
    jax.jit,
    static_argnames=("ks", "k_metas", "num_subsets", "tie_policy", "parse_policy", "stratified"),
)
def _accuracy_curve(
    ballots, best_C, key, *, ks, k_metas, num_subsets, tie_policy, parse_policy, stratified
):
    def comparison(ballot, best):
        n, drawn, ks_K = ballot.num_responses_C, jnp.sum(ballot.drawn_CS), jnp.array(ks)
        valid_K = (n >= 2) & (best >= 0) & (best < n) & (ks_K <= drawn)

        def credit(verdict, lots_N):
            return _credit(verdict.tops_CN, lots_N, n, best, tie_policy, parse_policy)

        def over_subsets(credit_MK):
            # Where k takes all drawn samples, every subset is the whole set: one of them is exact.
            mean_K = jnp.where(ks_K == drawn, credit_MK[0], jnp.mean(credit_MK, axis=0))
            return jnp.where(valid_K, mean_K, jnp.nan)

        credits = _for_subsets(ballot, key, ks, k_metas, num_subsets, stratified, credit)
        return jax.tree.map(over_subsets, credits)

    return jax.vmap(comparison, out_axes=1)(ballots, best_C)


@functools.partial(jax.jit, static_argnames=("ks", "k_metas", "num_subsets", "stratified"))
def _single_scores(ballots, key, *, ks, k_metas, num_subsets, stratified):
    def comparison(ballot):
        enough_K = jnp.array(ks) <= jnp.sum(ballot.drawn_CS)
        valid_1K = ((ballot.num_responses_C == 1) & enough_K)[None, :]

        def mean(verdict, _):
            return jnp.where(verdict.voters_C > 0, verdict.totals_CN[0], jnp.nan)

        scores = _for_subsets(ballot, key, ks, k_metas, num_subsets, stratified, mean)
        return jax.tree.map(lambda scores_MK: jnp.where(valid_1K, scores_MK, jnp.nan).T, scores)

    return jax.vmap(comparison, out_axes=2)(ballots)


def _check_ks(ballots: Ballots, ks: Sequence[int], num_subsets: int, k_meta: KMeta):
    ks = tuple(int(k) for k in ks)
    S = ballots.drawn_CS.shape[1]
    if not ks or len(set(ks)) < len(ks) or min(ks) < 1 or max(ks) > S:
        raise ValueError(f"ks: {ks} must be different numbers between 1 and the {S} samples")
    if num_subsets < 1:
        raise ValueError(f"num_subsets: {num_subsets} must be at least 1")
    if k_meta is not None and ballots.meta_CS is None:
        raise ValueError("k_meta: guided voting needs the meta scores of the samples")
    return ks, resolve_k_meta(ks, k_meta)
