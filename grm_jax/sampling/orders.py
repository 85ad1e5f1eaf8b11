"""Presentation orders: which response is shown at which position.

An order is a permutation; `order[j]` is the index of the response shown at position j. Orders are
drawn from a stable hash of seed, uid and sample or step, never from a global generator.
"""

import itertools

import numpy as np

from grm_jax.sampling.keys import stable_words

POLICIES = ("random", "balanced", "both", "identity")

Order = tuple[int, ...]


def _generator(*parts) -> np.random.Generator:
    return np.random.default_rng(stable_words("\x1f".join(map(str, parts))))


def _permutation(n: int, rng: np.random.Generator) -> Order:
    return tuple(int(i) for i in rng.permutation(n))


def group_order(n: int, *, uid: str, step: int, seed: int) -> Order:
    """The order that all trajectories of a GRPO group share.

    If each had its own order, the advantage would measure luck with positions.
    """
    return _permutation(n, _generator("group", seed, uid, step))


def orders_for(
    policy: str, n: int, k: int, *, uid: str, seed: int, max_orders: int = 4
) -> tuple[Order, ...]:
    """The presentation order of each of the k samples of a comparison.

    Args:
      policy: "random" draws an order for each sample, as in the paper; "balanced" spreads the
        samples evenly over a random order and its cyclic shifts, so that the counts of a response
        at the places differ by at most one, and min(n, `max_orders`) prompts are prefilled; "both"
        alternates between the order of the data and its reverse, as benchmarks that judge a pair
        twice do; "identity" keeps the order of the data.
      n: number of responses.
      k: number of samples. A sample's order does not depend on k.
      uid: of the comparison.
      seed: of the run.
      max_orders: bound for "balanced", at least 1; below n, places are not balanced.

    Raises:
      ValueError: for an unknown policy.
    """
    given = tuple(range(n))
    if policy == "identity":
        return (given,) * k
    if policy == "both":
        return tuple(itertools.islice(itertools.cycle((given, given[::-1])), k))
    if policy == "random":
        return tuple(_permutation(n, _generator("order", seed, uid, s)) for s in range(k))
    if policy == "balanced":
        base, count = _permutation(n, _generator("balanced", seed, uid)), min(max_orders, n)
        orders = [base[shift:] + base[:shift] for shift in (i * n // count for i in range(count))]
        return tuple(itertools.islice(itertools.cycle(orders), k))
    raise ValueError(f"order policy must be one of {POLICIES}, got {policy!r}")
