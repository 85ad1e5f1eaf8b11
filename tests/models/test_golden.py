"""The decoder against logits of transformers that tests/harness/make_golden.py stored.

The live comparisons beside this file vary configs; here each architecture has one, without PyTorch.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wrong_details import rope_in_pairs

from grm_jax.models import heads, hub, transformer
from tests.harness import make_golden
from tests.harness.make_golden import COLUMNS, POSITIONS

NAMES = tuple(make_golden.CASES)


@functools.cache
def stored(name):
    path = pathlib.Path(__file__).parent / "golden" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def rebuilt(request, tmp_path):
    """Name, config as the stored config.json says, and parameters of the seed."""
    golden = stored(request.param)
    (tmp_path / "config.json").write_text(json.dumps(golden["config"]), encoding="utf-8")
    config = hub.read_config(tmp_path)
    return request.param, config, *make_golden.make_params(config, golden["seed"])


def difference(name, config, params, head, **jit_options):
    """Largest difference from the stored logits, and what is allowed."""
    golden = stored(name)
    tokens = jnp.asarray(make_golden.make_tokens(config, golden["seed"]), jnp.int32)

    def run(params, head):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        hidden, _ = transformer.apply(config, params, tokens, positions, jnp.ones_like(tokens))
        if name.endswith("classifier"):
            return heads.scalar_apply(head, hidden[:, -1])
        chosen = hidden[:, np.array(POSITIONS)]
        return heads.logits(config, params, chosen)[..., np.array(COLUMNS)]

    run = jax.jit(run, **jit_options)
    found = np.abs(np.asarray(run(params, head)) - np.array(golden["logits"])).max()
    return found, max(1e-5, 3 * golden["gap_to_float64"])


@pytest.mark.parametrize("rebuilt", NAMES, indirect=True)
def test_logits(rebuilt):
    assert np.std(stored(rebuilt[0])["logits"]) > 0.1
    found, allowed = difference(*rebuilt)
    assert found <= allowed


@pytest.mark.parametrize("rebuilt", NAMES, indirect=True)
def test_saved_tensors_are_those_that_transformers_read(rebuilt, tmp_path):
    """With the logits, this holds the layout of exported weights to the published one."""
    name, config, params, head = rebuilt
    golden, reward = stored(name), name.endswith("classifier")
    hub.save(tmp_path / "saved", config, params, head=head if reward else None)
    assert make_golden.digests(tmp_path / "saved") == golden["digests"]
    again = hub.load(tmp_path / "saved")
    if reward:
        params = {key: leaf for key, leaf in params.items() if key != "lm_head"}
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == golden["config"]


def in_moe(**changes):
    return lambda config: {"moe": dataclasses.replace(config.moe, **changes)}


def wider(config):
    return {"sliding_window": config.sliding_window + 1}


def without_mscale(config):
    return {"query_scale": config.head_dim**-0.5}


MUTATIONS = {
    "no attention cap": ("gemma2", lambda config: {"attn_softcap": None}),
    "no final cap": ("gemma2", lambda config: {"final_softcap": None}),
    "window": ("gemma2", wider),
    "norms times w": ("gemma2", lambda config: {"unit_offset_norms": False}),
    "rope in pairs, gemma2": ("gemma2", None),
    "no attention cap, classifier": ("gemma2_classifier", lambda _: {"attn_softcap": None}),
    "window, classifier": ("gemma2_classifier", wider),
    "mscale, v2": ("deepseek_v2", without_mscale),
    "no yarn, v2": ("deepseek_v2", lambda config: {"yarn": None}),
    "routed scale, v2": ("deepseek_v2", in_moe(routed_scale=1.0)),
    "rope in pairs, v2": ("deepseek_v2", None),
    "mscale, v3": ("deepseek_v3", without_mscale),
    "routed scale, v3": ("deepseek_v3", in_moe(routed_scale=1.0)),
    "rope in pairs, v3": ("deepseek_v3", None),
    "no llama3 rope": ("llama", lambda config: {"llama3_rope": None}),
    "no llama3 rope, classifier": ("llama_classifier", lambda config: {"llama3_rope": None}),
    "window, mistral": ("mistral", wider),
    "rope in pairs, qwen2": ("qwen2", None),
    "no normalised weights, qwen3_moe": ("qwen3_moe", in_moe(normalize=False)),
    "local and global bases swapped": (
        "gemma3", lambda c: {"rope_theta": c.local_rope_theta, "local_rope_theta": c.rope_theta}),
    "no linear rope": ("gemma3", lambda config: {"linear_rope": None}),
    "window, gemma3": ("gemma3", wider),
    "window, gemma3 classifier": ("gemma3_classifier", wider),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rebuilt", "change"), MUTATIONS.values(), ids=MUTATIONS, indirect=["rebuilt"]
)
def test_a_wrong_detail_is_noticed(rebuilt, change):
    name, config, params, head = rebuilt
    if change is None:
        params = rope_in_pairs(config, params)
    else:
        config = dataclasses.replace(config, **change(config))
    quick = {"compiler_options": {"xla_backend_optimization_level": 0}}
    found, allowed = difference(name, config, params, head, **quick)
    assert found > 10 * allowed
