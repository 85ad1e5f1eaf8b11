"""Does compile time grow with depth? Layers are scanned, so it should not.

    python -m tools.bench.compile

Lowers and compiles, from shapes alone, a training step (cross-entropy, gradient, remat) and the
decode loop for a few and for many layers of narrow Gemma-2 and DeepSeek-V2 models, and prints the
seconds, the least of --repeats, and their ratio.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from grm_jax.models import heads, transformer
from grm_jax.models.config import ModelConfig
from grm_jax.models.variants import VARIANTS
from grm_jax.sampling import sampler
from tools import make_parser, run_program

# (variant, few layers, many layers): the depths of Gemma-2-27B and DeepSeek-V2.
CASES = (("tiny", 6, 46), ("tiny_deepseek", 6, 60))


def train_step(config: ModelConfig):
    """Lowers value and gradient of the cross-entropy of 4 rows of 256 tokens."""
    row = jax.ShapeDtypeStruct((4, 256), jnp.int32)

    def loss(params, tokens_BT):
        ones_BT = jnp.ones_like(tokens_BT)
        hidden_BTD, _ = transformer.apply(config, params, tokens_BT, tokens_BT, ones_BT)
        logprobs_BT, _ = heads.token_logprobs(config, params, hidden_BTD, tokens_BT)
        return -jnp.mean(logprobs_BT)

    return jax.jit(jax.value_and_grad(loss)).lower(transformer.abstract_params(config), row)


def decode(config: ModelConfig):
    """Lowers the decode loop: 2 prompts of 256 tokens, 8 samples, 64 new tokens."""
    P, S = 2, 8
    lengths_P = jax.ShapeDtypeStruct((P,), jnp.int32)
    row = jax.ShapeDtypeStruct((P, 256), jnp.int32)
    state = jax.eval_shape(
        lambda *x: sampler.begin(config, *x, buffer=64, pad_id=0),
        row, lengths_P, jax.ShapeDtypeStruct((P, S), bool),
    )  # fmt: skip
    params = transformer.abstract_params(config)
    _, prefix = jax.eval_shape(
        lambda p, t: transformer.apply(config, p, t, t, jnp.ones_like(t)), params, row
    )
    keys_PS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (P, S)))
    number, limit = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    # A function of its own each time: the lowering must not come out of a cache.
    return jax.jit(
        lambda *args: sampler.decode.__wrapped__(config, *args, stop_ids=(1,), pad_id=0)
    ).lower(params, prefix, lengths_P, keys_PS, state, limit, number, number)


def seconds(program, config: ModelConfig) -> float:
    """Time to lower and compile, without any cache."""
    jax.clear_caches()
    began = time.perf_counter()
    program(config).compile()
    return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="compilations of each program")
    repeats = parser.parse_args(argv).repeats
    print("| model | program | layers | s | layers | s | ratio |")
    print("| :--- | :--- | ---: | ---: | ---: | ---: | ---: |")
    for variant, few, many in CASES:
        for name, program in (("training step", train_step), ("decode", decode)):
            cells, least = [], []
            for layers in (few, many):
                config = VARIANTS[variant].replace(num_layers=layers, remat="full")
                least.append(min(seconds(program, config) for _ in range(repeats)))
                cells += [str(layers), f"{least[-1]:.2f}"]
            cells.append(f"{least[1] / least[0]:.2f}")
            print("| " + " | ".join([variant, name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    run_program(main)
