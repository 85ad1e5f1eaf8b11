"""Tiny GGUF files as the converter of llama.cpp writes them, with the weights that went in."""

import pathlib
from typing import NamedTuple

import gguf
import numpy as np
from tokenizers import pre_tokenizers

WIDTH, HEADS, KV_HEADS, INNER, EXPERTS = 64, 4, 2, 96, 3
_BASE = {
    "block_count": 2, "embedding_length": WIDTH, "feed_forward_length": INNER,
    "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "context_length": 512,
    "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 50_000.0,
}  # fmt: skip
_GEMMA = {"attention.key_length": 256, "attention.value_length": 256, "attention.sliding_window": 8}
# Keys of each architecture. Heads of Qwen3 and Gemma, and experts, are as wide as the reader of
# transformers takes for granted, which does not read these keys.
KEYS = {
    "llama": _BASE | {"rope.dimension_count": 16},
    "qwen2": _BASE,
    "qwen3": _BASE | {"attention.key_length": 128, "attention.value_length": 128},
    "qwen3moe": _BASE | {
        "attention.key_length": 32, "expert_count": EXPERTS, "expert_used_count": 2,
        "expert_feed_forward_length": 768,
    },
    "gemma2": _BASE | _GEMMA | {
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rope.freq_base": 10_000.0
    },
    "gemma3": _BASE | _GEMMA | {"block_count": 7, "rope.freq_base": 1e6},
}  # fmt: skip
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA_NORMS = {
    "attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
NORMS = {
    "llama": _NORMS, "qwen2": _NORMS, "qwen3": _NORMS | _HEAD_NORMS,
    "qwen3moe": _NORMS | _HEAD_NORMS, "gemma2": _GEMMA_NORMS, "gemma3": _GEMMA_NORMS | _HEAD_NORMS,
}  # fmt: skip


class Content(NamedTuple):
    """What a file is written from; tests change it before."""

    metadata: dict  # by key
    tensors: dict[str, np.ndarray]  # as they are stored, float32
    weights: dict[str, np.ndarray]  # of the same model, as transformers has them


def content(architecture: str, *, tied: bool = True, vocabulary: dict | None = None) -> Content:
    """A random model and a vocabulary; weights have few bits, so that norms plus 1 lose none."""
    metadata = {f"{architecture}.{key}": value for key, value in KEYS[architecture].items()}
    metadata |= byte_level() if vocabulary is None else vocabulary
    keys, random = KEYS[architecture], np.random.default_rng(0)
    rows = len(metadata["tokenizer.ggml.tokens"])
    size = keys.get("attention.key_length", WIDTH // HEADS)
    stored, weights = {}, {}

    def add(source, name, shape, change=lambda x: x):
        x = (random.integers(-128, 128, shape) / 512).astype(np.float32)
        stored[source], weights[name] = change(x), x

    def add_norm(source, name, shape):
        add(source, name, shape, lambda x: x + 1 if architecture.startswith("gemma") else x)

    def permuted(x):  # row 2j of a head is its row j, and row 2j + 1 its row j + size / 2
        if architecture != "llama":
            return x
        new = np.empty_like(x)
        for row in range(len(x)):
            head, place = divmod(row, size)
            half, j = divmod(place, size // 2)
            new[head * size + 2 * j + half] = x[row]
        return new

    add("token_embd.weight", "model.embed_tokens.weight", (rows, WIDTH))
    add_norm("output_norm.weight", "model.norm.weight", (WIDTH,))
    if not tied:
        add("output.weight", "lm_head.weight", (rows, WIDTH))
    for layer in range(keys["block_count"]):
        blk, ours = f"blk.{layer}.", f"model.layers.{layer}."
        for source, name in NORMS[architecture].items():
            shape = (size if source in _HEAD_NORMS else WIDTH,)
            add_norm(f"{blk}{source}.weight", f"{ours}{name}.weight", shape)
        for letter, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            change = permuted if letter in "qk" else lambda x: x
            names = f"{blk}attn_{letter}", f"{ours}self_attn.{letter}_proj"
            add(*(f"{name}.weight" for name in names), (heads * size, WIDTH), change)
            if architecture == "qwen2":
                add(*(f"{name}.bias" for name in names), (heads * size,))
        add(f"{blk}attn_output.weight", f"{ours}self_attn.o_proj.weight", (WIDTH, HEADS * size))
        if architecture == "qwen3moe":
            add(f"{blk}ffn_gate_inp.weight", f"{ours}mlp.gate.weight", (EXPERTS, WIDTH))
            _add_experts(add, stored, weights, blk, ours)
            continue
        for name, shape in (
            ("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))
        ):  # fmt: skip
            add(f"{blk}ffn_{name}.weight", f"{ours}mlp.{name}_proj.weight", shape)
    return Content(metadata, stored, weights)


def _add_experts(add, stored, weights, blk, ours):
    inner = KEYS["qwen3moe"]["expert_feed_forward_length"]
    for name, shape in (
        ("gate", (inner, WIDTH)), ("up", (inner, WIDTH)), ("down", (WIDTH, inner))
    ):  # fmt: skip
        stack = f"{blk}ffn_{name}_exps.weight"
        add(stack, "", (EXPERTS, *shape))
        for expert, weight in enumerate(weights.pop("")):
            weights[f"{ours}mlp.experts.{expert}.{name}_proj.weight"] = weight


def byte_level(pre: str = "qwen2") -> dict:
    """A vocabulary of bytes, two merges, three control tokens, one tag and unused tokens."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "\u0120he"]
    types = [1] * len(tokens)
    tokens += ["<|end|>", "<|im_start|>", "<|im_end|>", "<think>", "[PAD262]", "[PAD263]"]
    types += [3, 3, 3, 4, 5, 5]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": ["h e", "\u0120 he"],
        "tokenizer.ggml.bos_token_id": 258, "tokenizer.ggml.eos_token_id": 260,
        "tokenizer.ggml.eot_token_id": 258, "tokenizer.ggml.padding_token_id": 258,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip


def sentencepiece(prefix: bool = False) -> dict:
    """A vocabulary of scored pieces, with Gemma's special tokens."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n", "  "]
    types, scores = [3] * 6 + [4] * 2, [-1000.0] * 8
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types, scores = types + [6] * 256, scores + [0.0] * 256
    pieces = ["ab", "\u2581ab", "\u2581", *"abcdefgh"]
    tokens, types = tokens + pieces, types + [1] * len(pieces)
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores + [-float(i) for i in range(len(pieces))],
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3, "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }  # fmt: skip


def write(path: pathlib.Path, model: Content, *, kind: str = "F32", big_endian=False) -> None:
    """Writes a file whose matrices are quantised to `kind`."""
    metadata = dict(model.metadata)
    named = next(key.split(".")[0] for key in metadata if key.endswith(".block_count"))
    architecture = metadata.pop("general.architecture", named)
    endian = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    for key, value in metadata.items():
        add = {
            bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
            str: writer.add_string, list: writer.add_array,
        }[type(value)]  # fmt: skip
        add(key, value)
    for name, x in model.tensors.items():
        if x.ndim == 1 or x.dtype != np.float32 or kind == "F32":
            writer.add_tensor(name, x)
            continue
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(x, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
