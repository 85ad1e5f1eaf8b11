"""Random tiny checkpoints: saved by transformers, loaded by us, and both sides' logits.

A module that imports this one is skipped where torch or transformers is missing.

Weights have fan-in scale, so that every layer changes the result; norms lie around their neutral
value; queries and keys are scaled up until attention scores reach a cap of 4. Without that, a
missing cap or the erf instead of the tanh gelu changes logits by less than 1e-3. Where queries and
keys are normed, their norms have the gain, because they would undo one of the projections.
"""

import copy
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models import heads, hub, transformer
from grm_jax.models.config import ModelConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")  # names of config fields

VOCAB, LENGTH = 97, 24  # longer than every window
SCORE = 4.0  # deviation of attention scores, unless the cap is lower
DEEPSEEK_GAIN = 1.5  # of queries, on top of YaRN's scale

_GEMMA2 = {
    "vocab_size": VOCAB,
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
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}
# All frequencies but the first are stretched or blended, and rounding the ends of the blend shows.
YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 40.0, "beta_fast": 4.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 64, "mscale": 0.707, "mscale_all_dim": 0.707,
}  # fmt: skip
_DEEPSEEK = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 80,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 2560,
    "rope_parameters": YARN,
}
GROUPS = {"n_group": 4, "topk_group": 2}
_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 80,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
# In 24 tokens every kind of frequency shows: kept, blended and divided.
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 40,
}  # fmt: skip
EXPERTS = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}  # fmt: skip
# One whole group of layers and two that are left.
_GEMMA3 = {
    **_LLAMA,
    "num_hidden_layers": 5,
    "sliding_window": 8,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 11,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
    },
}
BASES = {
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma2ForSequenceClassification": {**_GEMMA2, "num_labels": 1},
    "DeepseekV2ForCausalLM": {**_DEEPSEEK, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "DeepseekV3ForCausalLM": {**_DEEPSEEK, "q_lora_rank": 20, **GROUPS, "norm_topk_prob": True},
    "LlamaForCausalLM": {**_LLAMA, "rope_parameters": LLAMA3_ROPE},
    "MistralForCausalLM": {**_LLAMA, "sliding_window": 8},
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "Qwen3MoeForCausalLM": {**_LLAMA, **EXPERTS},
    "Gemma3ForCausalLM": _GEMMA3,
}


class Pair(NamedTuple):
    """One checkpoint on both sides."""

    folder: pathlib.Path
    theirs: Any
    config: ModelConfig
    params: dict
    head: dict | None


@pytest.fixture(scope="module")
def one_torch_thread():
    """Two libraries with a thread for each core stand in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torch_model(architecture: str, **changes):
    """A random model of transformers: its base config with some fields changed."""
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(
        **copy.deepcopy({**BASES[architecture], **changes}),  # it keeps and may fill its sections
        attn_implementation="eager", pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    model = model_class(config).eval()
    gains = _gains(model)
    centre = 0.0 if architecture.startswith("Gemma") else 1.0
    generator = torch.Generator().manual_seed(0)

    def noise(weight, scale):
        return scale * torch.randn(weight.shape, generator=generator)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            leaf = name.removesuffix(".weight").rpartition(".")[2]
            gain = gains.get(leaf, 1.0)
            if leaf == "bias":
                weight.copy_(noise(weight, 1.0))
            elif weight.ndim == 1:
                weight.copy_(noise(weight, 0.3 * gain) + gain - 1.0 + centre)
            else:
                weight.copy_(noise(weight, gain * weight.shape[-1] ** -0.5))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(noise(buffer, 0.1))
    return model


def _gains(model) -> dict[str, float]:
    """Factors on weights of queries and keys, by the last part of their name."""
    config = model.config
    if hasattr(config, "kv_lora_rank"):
        # Norms between the two factors of keys and queries undo a gain on the first.
        return {"q_b_proj": DEEPSEEK_GAIN, "q_proj": DEEPSEEK_GAIN}
    # q.k grows with the square of the gain; at gain 1 it has deviation head_dim ** 0.5.
    score = min(getattr(config, "attn_logit_softcapping", None) or SCORE, SCORE)
    scalar = getattr(config, "query_pre_attn_scalar", config.head_dim)
    gain = (score * (scalar / config.head_dim) ** 0.5) ** 0.5
    normed = any("q_norm" in name for name, _ in model.named_parameters())
    return dict.fromkeys(("q_norm", "k_norm") if normed else ("q_proj", "k_proj"), gain)


def load(folder: pathlib.Path, theirs) -> Pair:
    """Our reading of a checkpoint; keys are taken a few at a time, so that blocks are merged."""
    config, params, head = hub.load(folder)
    return Pair(
        folder, theirs, config.replace(attention_chunk=10, dtype=config.compute.param_dtype),
        params, head,
    )  # fmt: skip


def pair(folder: pathlib.Path, architecture: str, **changes) -> Pair:
    """A random checkpoint: made and saved to `folder` by transformers, loaded by us."""
    model = torch_model(architecture, **changes)
    model.save_pretrained(folder)
    return load(folder, model)


def random_tokens(rows: int = 4, length: int = LENGTH, seed: int = 1) -> np.ndarray:
    """Tokens other than the special ones."""
    return np.random.default_rng(seed).integers(3, VOCAB, (rows, length))


def their_logits(model, tokens: np.ndarray, **inputs) -> np.ndarray:
    """Logits of transformers, or the classifier's scores; inputs are numpy arrays."""
    inputs = {name: torch.tensor(x) for name, x in inputs.items()}
    with torch.no_grad():
        return model(torch.tensor(tokens), **inputs).logits.double().numpy()


def exact_logits(model, tokens: np.ndarray) -> np.ndarray:
    """Their logits in float64."""
    wide = copy.deepcopy(model).double()
    if hasattr(model.config, "num_experts_per_tok"):
        wide.set_experts_implementation("eager")  # the others are not written for float64
    return their_logits(wide, tokens)


def tolerance(model, tokens: np.ndarray, want: np.ndarray) -> float:
    """max(1e-5, three times the difference between their float32 and float64)."""
    gap = np.abs(exact_logits(model, tokens) - want).max()
    assert np.isfinite(gap)
    return max(1e-5, 3 * gap)


def _hidden(config, params, tokens, positions, segment_ids):
    return transformer.apply(config, params, tokens, positions, segment_ids)[0]


def _forward(config, params, *arguments):
    return heads.logits(config, params, _hidden(config, params, *arguments))


def _arguments(tokens, positions=None, segment_ids=None):
    if positions is None:
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    if segment_ids is None:
        segment_ids = np.ones_like(tokens)
    return (jnp.asarray(x, jnp.int32) for x in (tokens, positions, segment_ids))


_cached_forward = jax.jit(_forward, static_argnums=0)
_cached_hidden = jax.jit(_hidden, static_argnums=0)


def our_logits(config: ModelConfig, params: dict, tokens, *marks) -> np.ndarray:
    """Our logits; `marks` are positions and segments."""
    return np.asarray(_cached_forward(config, params, *_arguments(tokens, *marks)))


def broken_logits(config: ModelConfig, params: dict, tokens: np.ndarray) -> np.ndarray:
    """The same, traced anew: a patched detail must not meet an old trace. Compiles in half."""
    forward = jax.jit(lambda *arguments: _forward(config, *arguments),
                      compiler_options={"xla_backend_optimization_level": 0})  # fmt: skip
    return np.asarray(forward(params, *_arguments(tokens)))


def eager_logits(config: ModelConfig, params: dict, tokens: np.ndarray) -> np.ndarray:
    """The same, one operation after the other: each is compiled once for all mistakes together.

    Without experts this is the quicker way. All keys are one block.
    """
    with jax.disable_jit():
        return np.asarray(
            _forward(config.replace(attention_chunk=1024), params, *_arguments(tokens))
        )


def our_hidden(config: ModelConfig, params: dict, tokens, *marks) -> jax.Array:
    """Our hidden states after the final norm."""
    return _cached_hidden(config, params, *_arguments(tokens, *marks))
