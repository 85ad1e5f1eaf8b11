"""PRNG keys of samples: a path of fold-ins that no batch, bucket, sharding or resume can change.

base key -> stage -> step or pass -> uid (two words of a stable hash) -> sample -> token index
"""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.parallel.sharding import put


def stable_words(text: str) -> tuple[int, int]:
    """Two 32-bit words of a hash that is the same in every process and on every machine."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")


def stage_key(base_key: jax.Array, stage: str, step: int) -> jax.Array:
    """Key of one stage at one step or pass."""
    for word in stable_words(stage):
        base_key = jax.random.fold_in(base_key, jnp.uint32(word))
    return jax.random.fold_in(base_key, jnp.uint32(step))


@jax.jit
def _fold(key, words_P2, samples_PS):
    def prompt(words_2, samples_S):
        prompt_key = jax.random.fold_in(jax.random.fold_in(key, words_2[0]), words_2[1])
        return jax.vmap(lambda sample: jax.random.fold_in(prompt_key, sample))(samples_S)

    return jax.vmap(prompt)(words_P2, samples_PS)


def sample_keys(key: jax.Array, uids: Sequence[str], samples_PS: np.ndarray) -> jax.Array:
    """Typed keys [P, S] of samples, by the index of each sample within its comparison.

    `key` is that of the stage, from `stage_key`; `uids` are those of the P comparisons.
    """
    words_P2 = np.asarray([stable_words(uid) for uid in uids], np.uint32)
    return _fold(key, *put((words_P2, samples_PS.astype(np.uint32))))
