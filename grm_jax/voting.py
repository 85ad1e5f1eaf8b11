"""Voting and guided voting over k samples: from trajectories to verdicts.

Shape letters: C comparisons, S drawn samples of one comparison, N responses (padded to the
longest list), K values of k, M random subsets.

Terms of the paper that are kept: responses are put back into their original order before the
scores are added (section 3), the sum of Eq. 14 with its argmax, and guided voting, which adds
only the k_meta samples with the highest meta score (section 2.5). The other aggregations are the
mean of Eq. 12, the majority of Eq. 13, and two that the paper does not have (`AGGREGATIONS`).
Left open by the paper, decided here and named in every signature:
  - a sample without parsed scores is dropped and casts no vote;
  - for n = 1 the *mean* over parsed samples is reported, so that dropping one cannot lower it;
  - k_meta is `max(1, k // 2)` by default, equal meta scores go to the lower sample index, and
    the k_meta samples are taken among the *parsed* ones (a sample without scores would only
    waste a place);
  - the credit of a tie at the top (`TIE_POLICIES`) and of a comparison without a verdict
    (`PARSE_POLICIES`) have no default: the caller chooses them, and the table prints them.

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

AGGREGATIONS = ("sum", "mean", "median", "majority", "borda")
TIE_POLICIES = ("strict", "half", "uniform", "shuffle_argmax")
PARSE_POLICIES = ("wrong", "chance")


class Ballots(NamedTuple):
    """All drawn samples of C comparisons, padded to S samples and N responses.

    `evaluation.ballots.from_trajectories` makes them from stored trajectories.

    Attributes:
        scores_CSN: int32, or float32 for scores that are real numbers, in *presented* order;
            arbitrary where not parsed or padded.
        orders_CSN: int32, `orders_CSN[c, s, j]` is the original index of the response shown at
            position j; a permutation of range(N), the identity at padded positions.
        parsed_CS: bool, the sample has scores.
        drawn_CS: bool, the sample exists; False is padding, which is never parsed.
        num_responses_C: int32, the number n of responses.
        order_ids_CS: int32, samples of one comparison with the same order share a number.
        ids_C: uint32, an identifier of the comparison that does not depend on the batch.
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
    """The outcome of a vote on each comparison: the aggregated scores and the winners.

    Attributes:
        totals_CN: float32 aggregated scores by original response; -inf at padding, zero without a
            vote.
        voters_C: int32, the number of samples that voted; 0 means that there is no verdict.
        tops_CN: bool, the responses with the highest total; all False without a verdict.
    """

    totals_CN: jax.Array
    voters_C: jax.Array
    tops_CN: jax.Array


class Curves(NamedTuple):
    """A value for each k and comparison, float32 [K, C] (`score_curve`: [K, M, C, N]).

    `guided` is None without a k_meta.
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


@functools.partial(jax.jit, static_argnames="aggregation")
def totals(ballots: Ballots, keep_CS: Array, aggregation: str = "sum") -> Verdicts:
    """Eq. 14, or another aggregation, over the kept and parsed samples (n = 1: their mean)."""
    _check_name("aggregation", aggregation, AGGREGATIONS)

    def row(scores_SN, keep_S, n):
        return _tally(_votes(scores_SN, n, aggregation), keep_S, n, aggregation)

    scores_CSN = undo_order(ballots.scores_CSN, ballots.orders_CSN)
    keep_CS = keep_CS & ballots.drawn_CS & ballots.parsed_CS
    return jax.vmap(row)(scores_CSN, keep_CS, ballots.num_responses_C)


@jax.jit
def weigh(ballots: Ballots) -> Ballots:
    """Ballots whose scores are multiplied by the sigmoid of the meta score, without meta scores.

    Their sum over all samples is guided voting that drops no sample; it is not in the paper.

    Raises:
        ValueError: there are no meta scores.
    """
    if ballots.meta_CS is None:
        raise ValueError("meta: weights need the meta scores of the samples")
    weights_CS = jax.nn.sigmoid(jnp.asarray(ballots.meta_CS, jnp.float32))
    scores_CSN = jnp.asarray(ballots.scores_CSN, jnp.float32) * weights_CS[:, :, None]
    return ballots._replace(scores_CSN=scores_CSN, meta_CS=None)


@functools.partial(jax.jit, static_argnames="k_meta")
def select_guided(ballots: Ballots, keep_CS: Array, k_meta: int) -> jax.Array:
    """The k_meta kept and parsed samples with the highest meta score, bool [C, S].

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


@functools.partial(jax.jit, static_argnames=("tie_policy", "parse_policy"))
def credits(
    ballots: Ballots, verdicts: Verdicts, gold_CN: Array, key: Array, *, tie_policy: str,
    parse_policy: str,
) -> jax.Array:  # fmt: skip
    """Credit of the verdicts of `totals`, float32 [C]; arguments as `accuracy_curve`.

    Equal to `accuracy_curve` at the k that takes all drawn samples, but never NaN: where none or
    all of the responses are right, the number means nothing.
    """

    def row(tops_N, gold_N, n, ident):
        _, lots_N = _draws(key, ident, 0, ballots.drawn_CS.shape[1], tops_N.shape[0])
        return _credit(tops_N, gold_N, lots_N, n, tie_policy, parse_policy)

    return jax.vmap(row)(verdicts.tops_CN, gold_CN, ballots.num_responses_C, ballots.ids_C)


def accuracy_curve(
    ballots: Ballots,
    gold_CN: Array,
    *,
    ks: Sequence[int],
    num_subsets: int,
    key: Array,
    aggregation: str,
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
        gold_CN: bool, by original response: the right ones, usually one.
        ks: the values of k; static, like every argument but `ballots`, `gold_CN` and `key`.
        aggregation: the quantity added up over the voting samples. 'sum' (Eq. 14) and 'mean'
            (Eq. 12, the same verdicts): scores; 'median': the middle score, between two the mean;
            'majority' (Eq. 13): one vote a sample, split among its highest scores; 'borda': the
            number of responses that the sample scores lower, ties one half.
        tie_policy: credit of a tie at the top of right and wrong responses: 'strict' 0, 'half'
            0.5, 'uniform' the share of right ones, 'shuffle_argmax' a seeded random pick, which
            is the paper's evaluation (shuffle, then the first maximum).
        parse_policy: credit without any verdict: 'wrong' 0, 'chance' number right / n.
        stratified: draw the subsets evenly over presentation orders (for balanced orders).
        k_meta: None, a function of k such as `half`, one number, or one number for each k.

    Returns:
        `Curves` with credits in [0, 1]. NaN, never a silent number, marks what has no argmax
        accuracy: n = 1, none or all of the responses right, k above the number drawn.

    Raises:
        ValueError: naming the argument: an unknown policy, a bad k or k_meta, no meta scores.
    """
    _check_name("tie_policy", tie_policy, TIE_POLICIES)
    _check_name("parse_policy", parse_policy, PARSE_POLICIES)
    vote = _checked_vote(ballots, ks, k_meta, num_subsets, aggregation, stratified)
    return _accuracy_curve(ballots, gold_CN, key, vote, tie_policy, parse_policy)


def score_curve(
    ballots: Ballots,
    *,
    ks: Sequence[int],
    num_subsets: int,
    key: Array,
    aggregation: str,
    stratified: bool,
    k_meta: KMeta = None,
) -> Curves:
    """The totals in each of the M random k-subsets, float32 [K, M, C, N] by original response.

    For measures other than argmax accuracy: an AUC of single responses (n = 1: the mean score,
    whatever the aggregation), verdicts with ties as a class, margins. Subsets are kept apart on
    purpose: an AUC of scores averaged over subsets would give every k the quality of the largest
    one. Take the measure inside each subset, then the mean. The subsets are those of
    `accuracy_curve` with the same key.

    NaN at padding, where nothing in the subset was parsed, and where k is above the number drawn.

    Raises:
        ValueError: as `accuracy_curve`.
    """
    vote = _checked_vote(ballots, ks, k_meta, num_subsets, aggregation, stratified)
    return _score_curve(ballots, key, vote)


class _Vote(NamedTuple):
    """The static arguments of a curve, see `accuracy_curve`; one of `k_metas` for each of `ks`."""

    ks: tuple[int, ...]
    k_metas: tuple[int, ...] | None
    num_subsets: int
    aggregation: str
    stratified: bool


def _checked_vote(
    ballots: Ballots, ks: Sequence[int], k_meta: KMeta, num_subsets: int, aggregation: str,
    stratified: bool,
) -> _Vote:  # fmt: skip
    _check_name("aggregation", aggregation, AGGREGATIONS)
    ks = tuple(int(k) for k in ks)
    S = ballots.drawn_CS.shape[1]
    if not ks or len(set(ks)) < len(ks) or min(ks) < 1 or max(ks) > S:
        raise ValueError(f"ks: {ks} must be different numbers between 1 and the {S} samples")
    if num_subsets < 1:
        raise ValueError(f"num_subsets: {num_subsets} must be at least 1")
    if k_meta is not None and ballots.meta_CS is None:
        raise ValueError("k_meta: guided voting needs the meta scores of the samples")
    return _Vote(ks, resolve_k_meta(ks, k_meta), num_subsets, aggregation, stratified)


def _check_name(argument: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{argument}: {name!r} is not one of {known}")


# The functions below are written for one comparison and vmapped over C.


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


def _votes(scores_SN, n, aggregation):
    """The vote of each sample for each response, float32 [S, N]."""
    scores_SN = scores_SN.astype(jnp.float32)
    if aggregation in ("sum", "mean", "median"):
        return scores_SN
    real_1N = jnp.arange(scores_SN.shape[1])[None] < n
    if aggregation == "majority":
        masked_SN = jnp.where(real_1N, scores_SN, -jnp.inf)
        top_SN = real_1N & (masked_SN == jnp.max(masked_SN, axis=1, keepdims=True))
        votes_SN = top_SN / jnp.maximum(jnp.sum(top_SN, axis=1, keepdims=True), 1)
    else:
        above_SNN = scores_SN[:, :, None] > scores_SN[:, None, :]
        equal_SNN = scores_SN[:, :, None] == scores_SN[:, None, :]
        votes_SN = jnp.sum((above_SNN + 0.5 * equal_SNN) * real_1N[None], axis=2) - 0.5
    return jnp.where(n == 1, scores_SN, votes_SN)


def _tally(votes_SN, keep_S, n, aggregation) -> Verdicts:
    voters = jnp.sum(keep_S, dtype=jnp.int32)
    totals_N = jnp.sum(jnp.where(keep_S[:, None], votes_SN, 0), axis=0)
    means_N = totals_N / jnp.maximum(voters, 1)
    if aggregation == "mean":
        totals_N = means_N
    elif aggregation == "median":
        sorted_SN = jnp.sort(jnp.where(keep_S[:, None], votes_SN, jnp.inf), axis=0)
        last = jnp.maximum(voters - 1, 0)
        middle_N = (sorted_SN[last // 2] + sorted_SN[(last + 1) // 2]) / 2
        totals_N = jnp.where(voters > 0, middle_N, 0)
    elif aggregation == "majority":
        # Thirds do not add up exactly: without this, three of them would not tie with one vote.
        totals_N = jnp.round(totals_N * 4096) / 4096
    totals_N = jnp.where(n == 1, means_N, totals_N)
    real_N = jnp.arange(votes_SN.shape[1]) < n
    totals_N = jnp.where(real_N, totals_N, -jnp.inf)
    return Verdicts(totals_N, voters, real_N & (voters > 0) & (totals_N == jnp.max(totals_N)))


def _credit(tops_N, gold_N, lots_N, n, tie_policy, parse_policy):
    tied, right = jnp.sum(tops_N), jnp.sum(tops_N & gold_N)
    if tie_policy == "strict":
        shared = 0.0
    elif tie_policy == "half":
        shared = 0.5
    elif tie_policy == "uniform":
        shared = right / jnp.maximum(tied, 1)
    else:
        lots_N = (lots_N >> 1).astype(jnp.int32)  # never negative, so -1 is never drawn
        shared = gold_N[jnp.argmax(jnp.where(tops_N, lots_N, -1))].astype(jnp.float32)
    silent = jnp.sum(gold_N) / jnp.maximum(n, 1) if parse_policy == "chance" else 0.0
    credit = jnp.where(right == tied, 1.0, jnp.where(right == 0, 0.0, shared))
    return jnp.where(tied == 0, silent, credit)


def _for_subsets(ballot: Ballots, key, vote: _Vote, evaluate) -> Curves:
    """Stacks `evaluate(verdict, lots_N)` over random subsets: [M, K] for both kinds of voting."""
    S, N = ballot.scores_CSN.shape
    n = ballot.num_responses_C
    parsed_S = ballot.parsed_CS & ballot.drawn_CS
    votes_SN = _votes(undo_order(ballot.scores_CSN, ballot.orders_CSN), n, vote.aggregation)
    guides = vote.k_metas is not None
    # In this order "the best k_meta of a subset" is "the first k_meta that are in it".
    by_meta_S = _by_meta(ballot.meta_CS) if guides else None

    def in_subset(subset):
        bits_S, lots_N = _draws(key, ballot.ids_C, subset, S, N)
        position_S = subset_positions(
            bits_S, ballot.drawn_CS, ballot.order_ids_CS, stratified=vote.stratified
        )

        def voting(k):
            keep_S = (position_S < k) & parsed_S
            return evaluate(_tally(votes_SN, keep_S, n, vote.aggregation), lots_N)

        def guided(k, k_meta):
            keep_S = _first(((position_S < k) & parsed_S)[by_meta_S], k_meta)
            return evaluate(_tally(votes_SN[by_meta_S], keep_S, n, vote.aggregation), lots_N)

        ks_K = jnp.array(vote.ks)
        return Curves(
            jax.vmap(voting)(ks_K),
            jax.vmap(guided)(ks_K, jnp.array(vote.k_metas)) if guides else None,
        )

    return jax.lax.map(in_subset, jnp.arange(vote.num_subsets))


@functools.partial(jax.jit, static_argnames=("vote", "tie_policy", "parse_policy"))
def _accuracy_curve(ballots, gold_CN, key, vote: _Vote, tie_policy, parse_policy):
    def comparison(ballot, gold_N):
        n, drawn, ks_K = ballot.num_responses_C, jnp.sum(ballot.drawn_CS), jnp.array(vote.ks)
        gold_N &= jnp.arange(gold_N.shape[0]) < n
        right = jnp.sum(gold_N)
        valid_K = (right > 0) & (right < n) & (ks_K <= drawn)

        def credit(verdict, lots_N):
            return _credit(verdict.tops_CN, gold_N, lots_N, n, tie_policy, parse_policy)

        def over_subsets(credit_MK):
            # Where k takes all drawn samples, every subset is the whole set: one of them is exact.
            mean_K = jnp.where(ks_K == drawn, credit_MK[0], jnp.mean(credit_MK, axis=0))
            return jnp.where(valid_K, mean_K, jnp.nan)

        return jax.tree.map(over_subsets, _for_subsets(ballot, key, vote, credit))

    return jax.vmap(comparison, out_axes=1)(ballots, gold_CN)


@functools.partial(jax.jit, static_argnames="vote")
def _score_curve(ballots, key, vote: _Vote):
    def comparison(ballot):
        enough_1K1 = (jnp.array(vote.ks) <= jnp.sum(ballot.drawn_CS))[None, :, None]
        real_N = jnp.arange(ballot.scores_CSN.shape[1]) < ballot.num_responses_C

        def given(verdict, _):
            return jnp.where((verdict.voters_C > 0) & real_N, verdict.totals_CN, jnp.nan)

        def by_k(totals_MKN):
            return jnp.swapaxes(jnp.where(enough_1K1, totals_MKN, jnp.nan), 0, 1)

        return jax.tree.map(by_k, _for_subsets(ballot, key, vote, given))

    return jax.vmap(comparison, out_axes=2)(ballots)
