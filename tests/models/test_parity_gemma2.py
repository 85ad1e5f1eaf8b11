"""The decoder against the PyTorch Gemma-2 of transformers, on random tiny models in float32.

The tolerance is 1e-5: leaving out the attention soft cap, or the erf instead of the tanh gelu, can
change logits by less than 1e-3. Scores are scaled up until the soft caps matter, and a second test
breaks one detail at a time to show that each would be noticed.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models import heads, layers, transformer
from grm_jax.models.config import ModelConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
LENGTH = 24
BASE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 80,
    "sliding_window": 8,
    "query_pre_attn_scalar": 11,
    "attn_logit_softcapping": 4.0,
    "final_logit_softcapping": 2.0,
}
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
    "six layers, other base": {"num_hidden_layers": 6, "rope_theta": 500.0},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torch_model(**changes):
    """A random model whose norms are not trivial and whose attention scores reach the caps."""
    options = {**BASE, **changes}
    theta = options.pop("rope_theta", 10_000.0)
    config = transformers.Gemma2Config(
        **options,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        max_position_embeddings=256,
        attn_implementation="eager",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    model = transformers.Gemma2ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    cap = config.attn_logit_softcapping or 4.0
    # Larger scores select single keys, and the float32 rounding of either side shows.
    score = min(cap, 4.0)
    # q.k grows with the square of the gain; at gain 1 it has deviation head_dim ** 0.5.
    score_gain = (score * config.query_pre_attn_scalar**0.5 / config.head_dim**0.5) ** 0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.3 if weight.ndim == 1 else weight.shape[-1] ** -0.5
            if "q_proj" in name or "k_proj" in name:
                scale *= score_gain
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model


def converted(model):
    """Our config and parameters for a PyTorch model."""
    hf = model.config
    config = ModelConfig(
        vocab_size=hf.vocab_size,
        num_layers=hf.num_hidden_layers,
        embed_dim=hf.hidden_size,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=hf.head_dim,
        ffn_dim=hf.intermediate_size,
        sliding_window=hf.sliding_window,
        query_scale=hf.query_pre_attn_scalar**-0.5,
        attn_softcap=hf.attn_logit_softcapping,
        final_softcap=hf.final_logit_softcapping,
        rope_theta=hf.rope_parameters["rope_theta"],
        norm_eps=hf.rms_norm_eps,
        attention_chunk=10,
    )
    weights = {name: w.detach().numpy() for name, w in model.named_parameters()}
    width = config.embed_dim

    def layer(index):
        def take(name):
            return weights[f"model.layers.{index}.{name}.weight"]

        def project(name, num_heads):
            return take(f"self_attn.{name}_proj").reshape(num_heads, -1, width).transpose(2, 0, 1)

        return {
            "attention": {
                "q": project("q", config.num_heads),
                "k": project("k", config.num_kv_heads),
                "v": project("v", config.num_kv_heads),
                "o": take("self_attn.o_proj").T.reshape(config.num_heads, -1, width),
            },
            "mlp": {name: take(f"mlp.{name}_proj").T for name in ("gate", "up", "down")},
            "pre_attention_norm": {"scale": take("input_layernorm")},
            "post_attention_norm": {"scale": take("post_attention_layernorm")},
            "pre_mlp_norm": {"scale": take("pre_feedforward_layernorm")},
            "post_mlp_norm": {"scale": take("post_feedforward_layernorm")},
        }

    def stacked(first):
        layers = [layer(index) for index in range(first, config.num_layers, 2)]
        return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *layers)

    params = {
        "embedding": jnp.asarray(weights["model.embed_tokens.weight"]),
        "final_norm": {"scale": jnp.asarray(weights["model.norm.weight"])},
        "layers": {"local": stacked(0), "global": stacked(1)},
    }
    expected = jax.tree.map(lambda leaf: leaf.shape, transformer.abstract_params(config))
    assert jax.tree.map(jnp.shape, params) == expected
    return config, params


def our_logits(config, params, tokens, positions=None, segment_ids=None):
    if positions is None:
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        segment_ids = np.ones_like(tokens)

    @jax.jit  # a new function each time: a mutated detail must not meet an old trace
    def run(params, *arguments):
        hidden, _ = transformer.apply(config, params, *arguments)
        return heads.logits(config, params, hidden)

    arguments = (jnp.asarray(x, jnp.int32) for x in (tokens, positions, segment_ids))
    return np.asarray(run(params, *arguments))


def their_logits(model, tokens, **inputs):
    with torch.no_grad():
        return model(torch.tensor(tokens), **inputs).logits.numpy()


def random_tokens(rows=2, length=LENGTH):
    return np.random.default_rng(1).integers(3, BASE["vocab_size"], (rows, length))


@pytest.fixture(scope="module")
def grouped():
    """The model of the first case, with its tokens and logits."""
    model, tokens = torch_model(), random_tokens()
    return model, tokens, their_logits(model, tokens)


@pytest.mark.parametrize("case", CASES)
def test_logits(case):
    model, tokens = torch_model(**CASES[case]), random_tokens()
    want = their_logits(model, tokens)
    assert want.std() > 0.3
    config, params = converted(model)
    assert tokens.shape[1] > config.sliding_window
    np.testing.assert_allclose(our_logits(config, params, tokens), want, rtol=0, atol=TOLERANCE)


MUTATIONS = {
    "no attention cap": {"attn_softcap": None},
    "no final cap": {"final_softcap": None},
    "window one too wide": {"sliding_window": BASE["sliding_window"] + 1},
    "window one too narrow": {"sliding_window": BASE["sliding_window"] - 1},
    "scale of the head width": {"query_scale": BASE["head_dim"] ** -0.5},
    "gelu with erf": {},
    "no embedding factor": {},
    "local and global swapped": {},
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_detail_is_noticed(grouped, mutation, monkeypatch):
    model, tokens, want = grouped
    config, params = converted(model)
    config = dataclasses.replace(config, **MUTATIONS[mutation])
    if mutation == "gelu with erf":
        monkeypatch.setattr(
            layers, "ACTIVATIONS", {"gelu_tanh": lambda x: jax.nn.gelu(x, approximate=False)}
        )
    elif mutation == "no embedding factor":
        # Ours: embedding * sqrt(D). The tied output must stay as it is.
        inner = dict(params, embedding=params["embedding"] / config.embed_dim**0.5)
        plain = transformer.apply
        monkeypatch.setattr(transformer, "apply", lambda c, p, *rest: plain(c, inner, *rest))
    elif mutation == "local and global swapped":
        stacks = params["layers"]
        params["layers"] = {"local": stacks["global"], "global": stacks["local"]}
    difference = np.abs(our_logits(config, params, tokens) - want).max()
    assert difference > 10 * TOLERANCE


def test_left_padding(grouped):
    model, tokens, _ = grouped
    lengths = np.array([LENGTH - 7, LENGTH])
    real = np.arange(LENGTH)[None] >= LENGTH - lengths[:, None]
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    want = their_logits(model, tokens, attention_mask=torch.tensor(real.astype(int)),
                        position_ids=torch.tensor(positions))  # fmt: skip
    got = our_logits(*converted(model), tokens, positions, real)
    np.testing.assert_allclose(got[real], want[real], rtol=0, atol=TOLERANCE)


def test_greedy_tokens_equal_generate(grouped):
    model, tokens, _ = grouped
    prompt, new = tokens[:, :6], 18
    with torch.no_grad():
        want = model.generate(
            torch.tensor(prompt), attention_mask=torch.ones(prompt.shape, dtype=torch.long),
            max_new_tokens=new, min_new_tokens=new, do_sample=False,
        ).numpy()[:, prompt.shape[1] :]  # fmt: skip
    config, params = converted(model)
    rows, start = prompt.shape
    assert start + new > config.sliding_window
    assert len(np.unique(want)) > 4  # not one token for ever

    @jax.jit
    def forward(tokens, positions, past):
        hidden, block = transformer.apply(
            config, params, tokens, positions, jnp.ones_like(tokens), past
        )
        scores = heads.logits(config, params, hidden[:, -1]).at[:, model.config.eos_token_id]
        return jnp.argmax(scores.set(-jnp.inf), axis=-1)[:, None], block

    positions = jnp.broadcast_to(jnp.arange(start)[None], prompt.shape)
    token, prefix = forward(jnp.asarray(prompt, jnp.int32), positions, ())
    shape = (config.num_layers, rows, config.num_kv_heads, new, config.head_dim)
    suffix = transformer.KVBlock(
        jnp.zeros(shape), jnp.zeros(shape), *(jnp.zeros((rows, new), jnp.int32) for _ in range(2))
    )
    got = [token]
    for step in range(new - 1):
        at = jnp.full((rows, 1), start + step, jnp.int32)
        token, block = forward(token, at, (prefix, suffix))
        suffix = transformer.KVBlock(*(
            jax.lax.dynamic_update_slice_in_dim(whole, part, step, axis)
            for whole, part, axis in zip(suffix, block, (3, 3, 1, 1), strict=True)
        ))  # fmt: skip
        got.append(token)
    np.testing.assert_array_equal(np.concatenate(got, axis=1), want)
