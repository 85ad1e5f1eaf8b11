"""Random parameters, of norms too, which `transformer.init` leaves at their neutral value."""

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.models import transformer


def random_params(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), x.dtype),
        transformer.abstract_params(config),
    )
