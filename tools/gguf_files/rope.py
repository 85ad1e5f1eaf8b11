"""How a GGUF file stretches rotary positions, as the field `rope_scaling` of config.json.

Keys `rope.scaling.*` have a linear stretch or YaRN. For Llama-3.x there is a tensor instead,
`rope_freqs.weight`, with a divisor for each frequency; the setting that made it is recovered.
"""

import math

import numpy as np

from grm_jax.files import mismatch
from grm_jax.models.hub.family import Fields

_YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
# What may follow "<architecture>.rope.scaling."; other settings of YaRN are refused by name.
KEYS = ("type", "factor", "original_context_length", "finetuned", *_YARN)
# Published settings of Llama: 3.1 and 3.3; 3.2.
_LLAMA3 = tuple(
    {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    for factor in (8.0, 32.0)
)  # fmt: skip


def scaling(fields: Fields, prefix: str, theta: float, divisors: np.ndarray | None) -> dict | None:
    """The value of `rope_scaling`.

    Args:
      fields: metadata.
      prefix: of the keys, as "llama.rope.scaling.".
      theta: base of the frequencies.
      divisors: the tensor `rope_freqs.weight`, [head_dim / 2], if the file has one.

    Raises:
      ValueError: for another kind, incomplete keys, or divisors of no published setting.
    """
    factor = fields.number(prefix + "factor", float, 1.0)
    kind = fields.get(prefix + "type", "linear")  # as llama.cpp has it
    fields.only(prefix + "type", "none", "linear", "yarn")
    if kind == "none":
        fields.only(prefix + "factor", 1.0)
    stretched = kind == "yarn" or factor != 1.0
    if divisors is not None:
        if stretched:
            raise fields.fail("rope_freqs.weight", f"no such tensor next to {prefix}*", "both")
        return _published(fields, theta, divisors)
    if not stretched:
        return None
    setting = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        length = fields.number(prefix + "original_context_length")
        setting["original_max_position_embeddings"] = length
        for key, name in _YARN.items():
            if fields.get(prefix + key) is not None:
                setting[name] = fields.number(prefix + key, float)
    return setting


def _published(fields: Fields, theta: float, divisors: np.ndarray) -> dict | None:
    """The setting whose divisors these are; none if they are all 1."""
    if (divisors == 1).all():
        return None
    for setting in _LLAMA3:
        # The writer of the file computed in float32.
        if np.allclose(divisors, llama3_divisors(setting, theta, divisors.size), rtol=1e-5, atol=0):
            return setting
    factors = " and ".join(f"{setting['factor']:g}" for setting in _LLAMA3)
    expected = f"the divisors of Llama-3.x with factor {factors}"
    raise mismatch(f"{fields.where}: rope_freqs.weight", expected, f"up to {divisors.max():g}")


def llama3_divisors(setting: dict, theta: float, count: int) -> np.ndarray:
    """What `rope_scaling` of kind llama3 divides each of `count` frequencies by, float64 [count].

    Frequencies that turn `high_freq_factor` times or more within the original length stay; those
    that turn `low_freq_factor` times or less are divided by `factor`; in between the frequencies,
    not the divisors, are interpolated linearly in the number of turns.
    """
    low, high = setting["low_freq_factor"], setting["high_freq_factor"]
    frequencies = theta ** -(np.arange(count) / count)
    turns = setting["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / (share + (1 - share) / setting["factor"])
