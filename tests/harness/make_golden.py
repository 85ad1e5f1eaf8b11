"""Golden logits: what transformers computes from weights that a seed makes, in small JSON files.

    python -m tests.harness.make_golden [--folder=tests/models/golden]

The ordinary tests rebuild the weights and compare, without PyTorch. Weights are uniform in our own
tree, from 53-bit integers of a seed and exact products, so that every platform has the same bits;
transformers gets them through `hub.save`. A file holds config.json as saved, the seed, digests of
the saved tensors, some logits in float32, and how far they are from those in float64.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from grm_jax.files import read_json
from grm_jax.models import hub, transformer
from grm_jax.models.config import (
    Llama3RopeConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    YarnConfig,
)
from grm_jax.models.variants import deepseek, llama

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "models" / "golden"
ROWS, LENGTH = 2, 20
POSITIONS, COLUMNS = (0, 9, 19), (0, 1, 7, 20, 33, 47, 60, 66)
# Sharper attention than by fan-in, so that caps matter and scales show.
GAINS = {"q": 2.0, "q_b": 2.0, "k": 2.0}

_GEMMA2 = ModelConfig(
    vocab_size=67, num_layers=4, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=48,
    sliding_window=6, query_scale=5**-0.5, attn_softcap=3.0, final_softcap=2.0,
)  # fmt: skip
_DEEPSEEK_V2 = deepseek(
    vocab_size=67, num_layers=3, embed_dim=32, num_heads=4, ffn_dim=48, rope_theta=100.0,
    mla=MLAConfig(kv_rank=12, nope_dim=10, rope_dim=8, value_dim=6),
    moe=MoEConfig(8, 3, expert_dim=16, shared_dim=32, first_dense=1, routed_scale=2.5),
    yarn=YarnConfig(40.0, 64, beta_fast=4.0, mscale=0.707, mscale_all_dim=0.707),
)  # fmt: skip
_DEEPSEEK_V3 = dataclasses.replace(
    _DEEPSEEK_V2, mla=dataclasses.replace(_DEEPSEEK_V2.mla, query_rank=14),
    moe=dataclasses.replace(
        _DEEPSEEK_V2.moe, scoring="sigmoid", selection_bias=True, num_groups=4, top_groups=2,
        group_top=2, normalize=True,
    ),
)  # fmt: skip
# Queries and keys of such a width that every kind of frequency shows in 20 positions.
_SIZES = {"vocab_size": 67, "num_layers": 3, "embed_dim": 36, "num_heads": 6, "num_kv_heads": 2,
          "head_dim": 8, "ffn_dim": 48}  # fmt: skip
_LLAMA = llama(**_SIZES, rope_theta=100.0, llama3_rope=Llama3RopeConfig(8.0, 40))
_QWEN3 = llama(**_SIZES, rope_theta=100.0, qk_norm=True)
# One whole group and two layers that are left.
_GEMMA3 = dataclasses.replace(
    _GEMMA2, num_layers=5, global_every=3, attn_softcap=None, final_softcap=None, qk_norm=True,
    rope_theta=1000.0, local_rope_theta=10.0, linear_rope=4.0,
)  # fmt: skip
CASES = {
    "gemma2": (_GEMMA2, False),
    "gemma2_classifier": (_GEMMA2, True),
    "deepseek_v2": (_DEEPSEEK_V2, False),
    "deepseek_v3": (_DEEPSEEK_V3, False),
    "llama": (_LLAMA, False),
    "llama_classifier": (_LLAMA, True),
    "mistral": (llama(**_SIZES, sliding_window=6), False),
    "qwen2": (llama(**_SIZES, qkv_bias=True, tied_embeddings=True), False),
    "qwen3": (_QWEN3, False),
    "qwen3_moe": (dataclasses.replace(_QWEN3, moe=MoEConfig(8, 3, 16, normalize=True)), False),
    "gemma3": (_GEMMA3, False),
    "gemma3_classifier": (_GEMMA3, True),
}


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    if name == "o":
        return shape[-3] * shape[-2]
    if name in ("embedding", "lm_head"):
        return shape[-1]
    return shape[-3] if name in ("q", "k", "v", "q_b", "k_b", "v_b") else shape[-2]


def make_params(config: ModelConfig, seed: int) -> tuple[dict, dict]:
    """Random parameters of a decoder, and of a scalar head."""
    rng = np.random.default_rng(seed)

    def uniform(shape, deviation):
        return jnp.asarray(deviation * 3**0.5 * (2 * rng.random(shape) - 1), jnp.float32)

    def fill(path, leaf):
        name = path[-1].key
        if name == "scale":
            return uniform(leaf.shape, 0.3) + (0.0 if config.unit_offset_norms else 1.0)
        if name == "router_bias":
            return uniform(leaf.shape, 0.1)
        if name.endswith("_bias"):
            return uniform(leaf.shape, 1.0)
        return uniform(leaf.shape, GAINS.get(name, 1.0) * _fan_in(name, leaf.shape) ** -0.5)

    params = jax.tree.map_with_path(fill, transformer.abstract_params(config))
    return params, {"kernel": uniform((config.embed_dim,), config.embed_dim**-0.5)}


def make_tokens(config: ModelConfig, seed: int) -> np.ndarray:
    """[ROWS, LENGTH] without the first ids, which are special to transformers."""
    return np.random.default_rng(seed).integers(3, config.vocab_size, (ROWS, LENGTH))


def digests(folder: pathlib.Path) -> dict[str, str]:
    """A few digits for each saved tensor, of its shape and bytes."""
    return {
        name: hashlib.sha256(f"{x.shape}".encode() + x.tobytes()).hexdigest()[:8]
        for name, x in sorted(load_file(folder / "model.safetensors").items())
    }


def _their_logits(folder: pathlib.Path, tokens: np.ndarray, dtype: str) -> np.ndarray:
    import torch
    import transformers

    (architecture,) = read_json(folder / "config.json")["architectures"]
    model = getattr(transformers, architecture).from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    model.config.pad_token_id = 0
    if dtype == "float64" and hub.read_config(folder).moe:
        model.set_experts_implementation("eager")  # the others are not written for float64
    with torch.no_grad():
        logits = model(torch.tensor(tokens)).logits.double().numpy()
    return logits[:, POSITIONS][..., COLUMNS] if logits.ndim == 3 else logits[:, 0]


def make(name: str, seed: int) -> dict:
    """The content of one file."""
    import torch
    import transformers

    config, reward = CASES[name]
    params, head = make_params(config, seed)
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / name
        hub.save(folder, config, params, head=head if reward else None)
        tokens = make_tokens(config, seed)
        logits = _their_logits(folder, tokens, "float32")
        gap = np.abs(logits - _their_logits(folder, tokens, "float64")).max()
        return {
            "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
            "seed": seed,
            "config": read_json(folder / "config.json"),
            "digests": digests(folder),
            "gap_to_float64": float(gap),
            "logits": np.round(logits, 8).tolist(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    folder = parser.parse_args().folder
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(CASES):
        text = json.dumps(make(name, seed), indent=1)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{folder / name}.json: {len(text)} bytes")


if __name__ == "__main__":
    main()
