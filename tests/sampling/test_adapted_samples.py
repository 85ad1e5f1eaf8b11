"""Samples of a model with adapters are those of the model into which they are merged."""

import dataclasses

import jax
import numpy as np
import pytest

from grm_jax.models import lora
from grm_jax.models.config import LoRAConfig
from grm_jax.models.variants import VARIANTS
from grm_jax.sampling import keys
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import JittedEngine
from grm_jax.sampling.prompt import Prompt
from grm_jax.sampling.scheduler import Buckets, Request, plan_units
from tests import programs

BUCKETS = Buckets((8,), (12,), samples=(4,), samples_per_unit=8)


def completions(config, params, temperature):
    engine = JittedEngine(config, BUCKETS, stop_ids=(1, 2), pad_id=0)
    prompts = [Prompt(f"u{i}", (0, 1), tuple(range(5 + i, 12))) for i in range(2)]
    requests = [Request(prompt, range(4)) for prompt in prompts]
    (unit,) = plan_units(requests, BUCKETS, max_new_tokens=12)
    wanted = DrawConfig(k=4, temperature=temperature, max_new_tokens=12)
    return engine.run(params, unit, wanted, keys.stage_key(jax.random.key(3), "grpo", 0))


@pytest.mark.parametrize("variant", ["tiny", "tiny_deepseek"])
def test_samples_equal_those_of_merged_parameters(variant):
    # Experts have no adapters, and take most of the time to compile.
    config = dataclasses.replace(VARIANTS[variant], moe=None, lora=LoRAConfig(rank=3, alpha=6.0))
    params = programs.random_params(config)
    plain, merged = lora.strip(config), lora.merge(config, params)
    lengths, same_as_base = [], True
    for temperature in (0.0, 1.0):
        got = completions(config, params, temperature)
        want = completions(plain, merged, temperature)
        for ours, theirs in zip(got, want, strict=True):
            # Tokens may part at near-ties of 1e-4 alone; these seeds have none.
            assert ours.token_ids == theirs.token_ids
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, rtol=0, atol=1e-4)
            lengths.append(len(ours.token_ids))
        without = completions(plain, lora.split(params)[0], temperature)
        same_as_base &= [c.token_ids for c in got] == [c.token_ids for c in without]
    assert max(lengths) > 6 and not same_as_base
