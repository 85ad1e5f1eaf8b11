"""Presentation orders: which response is shown at which position.

An order is a permutation; `order[j]` is the index of the response shown at position j. Orders are
drawn from a stable hash of seed, uid and sample or step, never from a global generator.
"""

import itertools

import numpy as np

from grm_jax.sampling.keys import stable_words

POLICIES = ("random", "balanced", "both", "identity", "group")

Order = tuple[int, ...]


def _permutation(n: int, *parts) -> Order:
    rng = np.random.default_rng(stable_words("\x1f".join(map(str, parts))))
    return tuple(rng.permutation(n).tolist())


def orders_for(
    policy: str, n: int, k: int, *, uid: str, seed: int, step: int = 0, max_orders: int = 4
) -> tuple[Order, ...]:
    """The presentation order of each of the k samples of a comparison.

    Args:
      policy: "random" draws an order for each sample, as in the paper; "balanced" spreads the
        samples evenly over a random order and its cyclic shifts, so that the counts of a response
        at the places differ by at most one, and min(n, `max_orders`) prompts are prefilled; "both"
        alternates between the order of the data and its reverse, as benchmarks that judge a pair
        twice do; "identity" keeps the order of the data; "group" draws one order for all samples
        of a step, because the advantage within a GRPO group would measure luck with positions.
      n: number of responses.
      k: number of samples. A sample's order does not depend on k.
      uid: of the comparison.
      seed: of the run.
      step: of the stage; only "group" depends on it.
      max_orders: bound for "balanced", at least 1; below n, places are not balanced.

    Raises:
      ValueError: for an unknown policy.
    """
    given = tuple(range(n))
    if policy == "random":
        return tuple(_permutation(n, "order", seed, uid, sample) for sample in range(k))
    if policy == "balanced":
        base, count = _permutation(n, "balanced", seed, uid), min(max_orders, n)
        cycle = [base[shift:] + base[:shift] for shift in (i * n // count for i in range(count))]
    elif policy == "group":
        cycle = [_permutation(n, "group", seed, uid, step)]
    elif policy in ("identity", "both"):
        cycle = [given] if policy == "identity" else [given, given[::-1]]
    else:
        raise ValueError(f"order policy must be one of {POLICIES}, got {policy!r}")
    return tuple(itertools.islice(itertools.cycle(cycle), k))
