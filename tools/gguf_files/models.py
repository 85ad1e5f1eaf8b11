"""Models in GGUF files: their config.json, and their tensors as transformers has them.

What the writers of GGUF changed is undone: Llama's rows of q and k, which are stored in the order
of another rotation; Gemma's norms, to which 1 was added; experts, which are stacked. A key of the
architecture that is not in its list is refused, as is a tensor.

A GGUF file does not have everything. Gemma's scale of queries follows from the shape, as in
llama.cpp. The window of 4,096 tokens of Mistral-7B-v0.1 is lost by the writers, so such a file is a
model without a window. Mistral without a window is Llama in every respect, and is written as Llama.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import absl.logging
import numpy as np

from grm_jax.files import mismatch
from grm_jax.models.hub.family import Fields
from tools.gguf_files import rope
from tools.gguf_files.reading import GGUF

_ROPE_FREQS = "rope_freqs.weight"


def _same(stored: np.ndarray) -> np.ndarray:
    return stored


class Tensor(NamedTuple):
    """A tensor of a checkpoint of transformers, and where it comes from."""

    name: str
    shape: tuple[int, ...]
    source: str  # name in the GGUF file
    index: tuple[int, ...] = ()  # of a part of the source
    undo: Callable[[np.ndarray], np.ndarray] = _same

    def read(self, file: GGUF) -> np.ndarray:
        """The tensor, float32."""
        return self.undo(file.read(self.source, self.index))


class Model(NamedTuple):
    """A model of a GGUF file, for transformers."""

    config: dict  # fields of config.json, without the type of the weights and the special tokens
    tensors: list[Tensor]


class _Architecture(NamedTuple):
    """An architecture of GGUF.

    Attributes:
      keys: of the metadata, besides `_KEYS`.
      config: (metadata, config so far) -> further fields of config.json.
      theta: base of the rotary frequencies, if the file has none.
      norms: of a layer besides the two that all have; GGUF's name and that of transformers.
      biases: of a layer.
      always_head_dim: whether published config.json files state it where it is width / heads too.
      permuted: whether rows of q and k are reordered.
      norm_offset: what was added to the weights of norms.
    """

    keys: tuple[str, ...]
    config: Callable[[Fields, dict], dict]
    theta: float = 10_000.0
    norms: dict[str, str] = {}
    biases: tuple[str, ...] = ()
    always_head_dim: bool = False
    permuted: bool = False
    norm_offset: int = 0


# Keys of every architecture, after its name, and the fields that they become without ado.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
}
_KEYS = (
    *_FIELDS, "vocab_size", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
    "rope.freq_base", *(f"rope.scaling.{key}" for key in rope.KEYS),
)  # fmt: skip
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA_NORMS = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def _llama(fields: Fields, config: dict) -> dict:
    fields.only("llama.expert_count", 0)
    fields.only("llama.expert_used_count", 0)
    family = {"hidden_act": "silu"}
    if fields.get("llama.attention.sliding_window"):
        names = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
        window = _count(fields, "llama.attention.sliding_window")
        return names | family | {"sliding_window": window}
    names = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    return names | family | {"attention_bias": False, "mlp_bias": False}


def _qwen2(fields: Fields, config: dict) -> dict:
    names = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    return names | {"hidden_act": "silu", "use_sliding_window": False}


def _qwen3(fields: Fields, config: dict) -> dict:
    names = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    return names | {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}


def _qwen3moe(fields: Fields, config: dict) -> dict:
    names = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    return _qwen3(fields, config) | names | {
        "num_experts": _count(fields, "qwen3moe.expert_count"),
        "num_experts_per_tok": _count(fields, "qwen3moe.expert_used_count"),
        "moe_intermediate_size": _count(fields, "qwen3moe.expert_feed_forward_length"),
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip


def _gemma(prefix: str, fields: Fields, config: dict, largest: int) -> dict:
    """Fields of both; the model of `largest` layers, 27B, scales by its width and heads."""
    layers, scalar = config["num_hidden_layers"], config["head_dim"]
    if layers == largest:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    return {
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "sliding_window": _count(fields, f"{prefix}.attention.sliding_window"),
    }  # fmt: skip


def _gemma2(fields: Fields, config: dict) -> dict:
    names = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
    caps = {
        name: fields.number(f"gemma2.{name}", float)
        for name in ("attn_logit_softcapping", "final_logit_softcapping")
    }
    return names | _gemma("gemma2", fields, config, largest=46) | caps


def _gemma3(fields: Fields, config: dict) -> dict:
    fields.only("gemma3.attention.sliding_window_pattern", 6)
    layers = config["num_hidden_layers"]
    return _gemma("gemma3", fields, config, largest=62) | {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
        "rope_local_base_freq": _real(fields, "gemma3.rope.freq_base_swa", 10_000.0),
        "layer_types": [
            "sliding_attention" if (layer + 1) % 6 else "full_attention" for layer in range(layers)
        ],
        "attn_logit_softcapping": None, "final_logit_softcapping": None,
    }  # fmt: skip


ARCHITECTURES = {
    "llama": _Architecture(
        ("attention.sliding_window", "expert_count", "expert_used_count"), _llama, permuted=True
    ),
    "qwen2": _Architecture((), _qwen2, theta=1e6, biases=("attn_q", "attn_k", "attn_v")),
    "qwen3": _Architecture((), _qwen3, theta=1e6, norms=_QK_NORMS, always_head_dim=True),
    "qwen3moe": _Architecture(
        ("expert_count", "expert_used_count", "expert_feed_forward_length"), _qwen3moe,
        theta=1e6, norms=_QK_NORMS, always_head_dim=True,
    ),
    "gemma2": _Architecture(
        ("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"), _gemma2,
        norms=_GEMMA_NORMS, always_head_dim=True, norm_offset=1,
    ),
    "gemma3": _Architecture(
        ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"),
        _gemma3, theta=1e6, norms=_GEMMA_NORMS | _QK_NORMS, always_head_dim=True, norm_offset=1,
    ),
}  # fmt: skip


def read(file: GGUF) -> Model:
    """The model of a file; reads no data but the divisors of the rotary frequencies.

    Raises:
      ValueError: naming file and key or tensor, for what is unknown, missing or of another value or
        shape than it must be.
    """
    fields = Fields(str(file.path), file.metadata)
    name = fields.get("general.architecture")
    if name not in ARCHITECTURES:
        raise fields.fail("general.architecture", f"one of {', '.join(ARCHITECTURES)}", name)
    architecture = ARCHITECTURES[name]
    fields.only("general.type", "model")
    fields.only("split.count", 0, 1)
    known = {f"{name}.{key}" for key in (*_KEYS, *architecture.keys)}
    for key in sorted(file.metadata):
        if key.startswith(f"{name}.") and key not in known:
            raise fields.fail(key, "no key that is unknown here", _short(file.metadata[key]))
    config = _config(file, fields, name)
    tensors = [*_tensors(file, config, architecture)]
    _check(file, tensors, config)
    return Model(config, tensors)


def _config(file: GGUF, fields: Fields, name: str) -> dict:
    """The fields of config.json."""
    architecture = ARCHITECTURES[name]
    config = {field: _count(fields, f"{name}.{key}") for key, field in _FIELDS.items()}
    heads = config["num_attention_heads"]
    usual = config["hidden_size"] // heads
    head_dim = _count(fields, f"{name}.attention.key_length", usual)
    fields.only(f"{name}.attention.value_length", head_dim)
    fields.only(f"{name}.rope.dimension_count", head_dim)
    theta = _real(fields, f"{name}.rope.freq_base", architecture.theta)
    divisors = file.read(_ROPE_FREQS) if _ROPE_FREQS in file.tensors else None
    config |= {
        "num_key_value_heads": _count(fields, f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _real(fields, f"{name}.attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": rope.scaling(fields, f"{name}.rope.scaling.", theta, divisors),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "vocab_size": _vocab_size(file, fields, name),
    }
    if name == "llama" and divisors is None and config["rope_scaling"] is None:
        _warn_of_llama3(file, config)
    config |= architecture.config(fields, config)
    if head_dim == usual and not architecture.always_head_dim:
        del config["head_dim"]
    return config


def _warn_of_llama3(file: GGUF, config: dict) -> None:
    """Llama-3.1 stretches its rotations; Llama-3, with the same base, has 8,192 tokens."""
    if config["rope_theta"] == 500_000 and config["max_position_embeddings"] > 8192:
        absl.logging.warning(
            "%s: has no %s, so its rotations are not stretched; a file of Llama-3.1 or later "
            "without it was written by an old converter, and is another model than the published",
            file.path, _ROPE_FREQS,
        )  # fmt: skip


def _vocab_size(file: GGUF, fields: Fields, name: str) -> int:
    """Rows of the embedding, which the metadata may repeat."""
    if "token_embd.weight" not in file.tensors:
        raise mismatch(f"{file.path}: token_embd.weight", "a tensor", "nothing")
    rows = file.tensors["token_embd.weight"].shape[0]
    fields.only(f"{name}.vocab_size", rows)
    return rows


def _count(fields: Fields, key: str, default: int | None = None) -> int:
    value = fields.number(key, int, default)
    if value < 1:
        raise fields.fail(key, "1 or more", value)
    return value


def _real(fields: Fields, key: str, default: float | None = None) -> float:
    """The shortest decimal that is this float32, above 0: 1e-05, not 9.999999747378752e-06."""
    value = float(str(np.float32(fields.number(key, float, default))))
    if value <= 0:
        raise fields.fail(key, "a number above 0", value)
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def _tensors(file: GGUF, config: dict, architecture: _Architecture) -> Iterator[Tensor]:
    """Every tensor of the checkpoint."""
    width, vocab = config["hidden_size"], config["vocab_size"]
    add = architecture.norm_offset

    def norm(name, source, size=width):
        # In float32 this gives back each weight for which writing 1 + weight lost no bit.
        return Tensor(name, (size,), source, undo=lambda stored: stored - np.float32(add))

    yield Tensor("model.embed_tokens.weight", (vocab, width), "token_embd.weight")
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        norms = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
        for stored, name in (norms | architecture.norms).items():
            size = _head_dim(config) if stored in _QK_NORMS else width
            yield norm(f"{ours}{name}.weight", f"{theirs}{stored}.weight", size)
        yield from _attention(config, architecture, ours, theirs)
        yield from _feed_forward(config, ours + "mlp.", theirs)
    yield norm("model.norm.weight", "output_norm.weight")
    if not config["tie_word_embeddings"]:
        yield Tensor("lm_head.weight", (vocab, width), "output.weight")


def _head_dim(config: dict) -> int:
    return config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])


def _attention(config: dict, architecture: _Architecture, ours: str, theirs: str):
    width, size = config["hidden_size"], _head_dim(config)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for letter, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        name, source = f"{ours}self_attn.{letter}_proj", f"{theirs}attn_{letter}"
        undo = _Unpermute(size) if architecture.permuted and letter != "v" else _same
        yield Tensor(f"{name}.weight", (count * size, width), f"{source}.weight", undo=undo)
        if f"attn_{letter}" in architecture.biases:
            yield Tensor(f"{name}.bias", (count * size,), f"{source}.bias", undo=undo)
    output = f"{theirs}attn_output.weight"
    yield Tensor(f"{ours}self_attn.o_proj.weight", (width, heads * size), output)


class _Unpermute(NamedTuple):
    """Gives rows of q and k of each head, [H * E, ...], the order of transformers.

    Stored are pairs that rotate together one after the other; transformers has all first members,
    then all second ones.
    """

    head_dim: int

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        pairs = stored.reshape(-1, self.head_dim // 2, 2, *stored.shape[1:])
        return pairs.swapaxes(1, 2).reshape(stored.shape)


def _feed_forward(config: dict, ours: str, theirs: str) -> Iterator[Tensor]:
    width, experts = config["hidden_size"], config.get("num_experts", 0)
    inner = config["moe_intermediate_size" if experts else "intermediate_size"]
    shapes = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    if not experts:
        for name, shape in shapes.items():
            yield Tensor(f"{ours}{name}_proj.weight", shape, f"{theirs}ffn_{name}.weight")
        return
    yield Tensor(f"{ours}gate.weight", (experts, width), f"{theirs}ffn_gate_inp.weight")
    for expert in range(experts):
        for name, shape in shapes.items():
            place = f"{ours}experts.{expert}.{name}_proj.weight"
            yield Tensor(place, shape, f"{theirs}ffn_{name}_exps.weight", (expert,))


def _check(file: GGUF, tensors: list[Tensor], config: dict) -> None:
    """Raises ValueError for tensors that are missing, unknown or of another shape."""
    expected = {}
    for tensor in tensors:
        stack = (config["num_experts"],) if tensor.index else ()
        expected[tensor.source] = (*stack, *tensor.shape)
    for name in sorted(set(file.tensors) - set(expected) - {_ROPE_FREQS}):
        place, shape = f"{file.path}: {name}", file.tensors[name].shape
        raise mismatch(place, "no tensor that is unknown here", f"one of shape {shape}")
    for name, shape in expected.items():
        found = file.tensors[name].shape if name in file.tensors else "no such tensor"
        if found != shape:
            raise mismatch(f"{file.path}: {name}", f"a tensor of shape {shape}", found)
