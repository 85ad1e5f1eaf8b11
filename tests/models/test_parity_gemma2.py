"""The decoder against the PyTorch Gemma-2 of transformers, and each detail broken once."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_checkpoints as tiny
from tiny_checkpoints import LENGTH, one_torch_thread  # noqa: F401
from wrong_details import rope_in_pairs

from grm_jax.models import heads, layers, transformer

CAUSAL, REWARD = "Gemma2ForCausalLM", "Gemma2ForSequenceClassification"
CASES = {
    "grouped": {},
    "one kv head, window 5": {"num_key_value_heads": 1, "sliding_window": 5, "head_dim": 6},
    "no groups, window 1": {"num_key_value_heads": 4, "sliding_window": 1},
    "published caps": {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 144,
    },
    "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    "six layers, other base": {
        "num_hidden_layers": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_torch_thread")]


@pytest.mark.parametrize("case", CASES)
def test_logits(case, tmp_path):
    pair, tokens = tiny.pair(tmp_path / "saved", CAUSAL, **CASES[case]), tiny.random_tokens()
    want = tiny.their_logits(pair.theirs, tokens)
    assert want.std() > 0.3
    assert tokens.shape[1] > pair.config.sliding_window
    got = tiny.our_logits(pair.config, pair.params, tokens)
    allowed = tiny.tolerance(pair.theirs, tokens, want)
    np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """The checkpoint of the first case, with tokens, their logits and what may differ."""
    pair = tiny.pair(tmp_path_factory.mktemp("checkpoint") / "saved", CAUSAL)
    tokens = tiny.random_tokens()
    want = tiny.their_logits(pair.theirs, tokens)
    return pair, tokens, want, tiny.tolerance(pair.theirs, tokens, want)


WINDOW = tiny.BASES[CAUSAL]["sliding_window"]
MUTATIONS = {
    "no attention cap": {"attn_softcap": None},
    "no final cap": {"final_softcap": None},
    "window one too wide": {"sliding_window": WINDOW + 1},
    "window one too narrow": {"sliding_window": WINDOW - 1},
    "no window": {"sliding_window": LENGTH},
    "scale of the head width": {"query_scale": tiny.BASES[CAUSAL]["head_dim"] ** -0.5},
    "norms times w": {"unit_offset_norms": False},
    "no norms after": {"post_norms": False},
    "gelu with erf": {},
    "no embedding factor": {},
    "local and global swapped": {},
    "rope in pairs": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_detail_is_noticed(grouped, mutation, monkeypatch):
    pair, tokens, want, allowed = grouped
    config, params = dataclasses.replace(pair.config, **MUTATIONS[mutation]), pair.params
    if mutation == "gelu with erf":
        monkeypatch.setattr(
            layers, "ACTIVATIONS", {"gelu_tanh": lambda x: jax.nn.gelu(x, approximate=False)}
        )
    elif mutation == "no embedding factor":
        # Ours: embedding * sqrt(D). The tied output must stay as it is.
        plain = transformer.apply
        monkeypatch.setattr(transformer, "apply", lambda c, p, *rest: plain(
            c, {**p, "embedding": p["embedding"] / config.embed_dim**0.5}, *rest))  # fmt: skip
    elif mutation == "local and global swapped":
        stacks = params["layers"]
        params = {**params, "layers": {"local": stacks["global"], "global": stacks["local"]}}
    elif mutation == "rope in pairs":
        params = rope_in_pairs(config, params)
    got = tiny.broken_logits(config, params, tokens)
    assert np.abs(got - want).max() > 10 * allowed


@pytest.mark.parametrize("side", ["left", "right"])
def test_score_of_the_last_token(side, tmp_path):
    """A reward model: one logit for a text, read where the padding begins or the text ends."""
    pair, tokens = tiny.pair(tmp_path / "saved", REWARD), tiny.random_tokens()
    lengths = np.array([LENGTH, LENGTH - 1, 9, 1])
    places = np.arange(LENGTH)[None]
    real = places >= LENGTH - lengths[:, None] if side == "left" else places < lengths[:, None]
    tokens = np.where(real, tokens, pair.theirs.config.pad_token_id)
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    inputs = {"attention_mask": real.astype(int), "position_ids": positions}
    want = tiny.their_logits(pair.theirs, tokens, **inputs)
    assert want.shape == (len(tokens), 1) and want.std() > 0.2
    hidden = tiny.our_hidden(pair.config, pair.params, tokens, positions, real)
    last = np.argmax(np.where(real, places, -1), axis=1)
    got = heads.scalar_apply(pair.head, hidden[np.arange(len(tokens)), last])
    allowed = max(  # the rows without their padding, whose mask float64 does not bear
        tiny.tolerance(pair.theirs, tokens[None, row, real[row]], want[None, row])
        for row in range(len(tokens))
    )
    np.testing.assert_allclose(got, want[:, 0], rtol=0, atol=allowed)
    # A neighbour's state would not do.
    before = heads.scalar_apply(pair.head, hidden[np.arange(len(tokens)), last - 1])
    assert np.abs(before - want[:, 0]).max() > 10 * allowed
