"""Speed of sampling: what sharing the prefix gains, and a comparison with transformers.

    python -m tools.bench_sampling [--variant=gemma2_48m] [--no-transformers] ...

(a) One long prompt with S samples against the same prompt S times with one sample each: the same
    code, with and without the shared prefix.
(b) S samples of one short prompt, here and by `generate` of transformers on a Gemma-2 of the same
    shape, end to end. Ours returns two log-probs of each token besides; theirs returns tokens.

Weights are random and nothing stops early, so every sample has the full length. Times are the
least of --repeats after one warm-up; compilation is not part of them.

The roofline of a decode step is the time to read the weights, the prefix and the filled part of
the suffix cache once at the bandwidth of the memory. Large batches on few cores are bound by
arithmetic instead, so a small share of it is no fault there.
"""

import argparse
import concurrent.futures
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax.models import transformer
from grm_jax.models.config import VARIANTS, ModelConfig
from grm_jax.sampling import sampler

TARGET_SHARED, TARGET_TRANSFORMERS = 3.0, 2.5


class Row(NamedTuple):
    """One measurement; seconds, and bytes of memory that one decode step must read.

    `prefill` is None where it cannot be told from the decode; then `decode` holds both.
    """

    name: str
    tokens: int
    steps: int
    prefill: float | None
    decode: float
    step_bytes: int

    @property
    def total(self) -> float:
        """Seconds from the prompt to the last token."""
        return (self.prefill or 0.0) + self.decode

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, end to end."""
        return self.tokens / self.total

    def roofline(self, bandwidth: float) -> float:
        """Share of the bandwidth (bytes per second) that the decode steps would need."""
        return self.step_bytes * self.steps / bandwidth / self.decode


def measure_bandwidth(threads: int, megabytes: int = 256, repeats: int = 3) -> float:
    """Bytes per second of copying (read + write) or of reading, whichever is faster."""
    source = [np.ones(megabytes * 2**20 // threads // 8) for _ in range(threads)]
    target = [np.zeros_like(part) for part in source]
    best = 0.0
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            list(pool.map(np.copyto, target, source))
            copied = time.perf_counter()
            list(pool.map(np.max, source))
            read = time.perf_counter()
            size = sum(part.nbytes for part in source)
            best = max(best, 2 * size / (copied - began), size / (read - copied))
    return best


def _nbytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _random_params(config: ModelConfig) -> dict:
    """Parameters of the size that `init` gives them, without compiling it."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        scale = config.embed_dim**-0.5 * (len(leaf.shape) > 1)
        values = scale * rng.standard_normal(leaf.shape, np.float32)
        return jax.device_put(values.astype(leaf.dtype))

    return jax.tree.map(fill, transformer.abstract_params(config))


def _least(repeats: int, measure: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
    """The times of the repeat with the least sum."""
    return min((measure() for _ in range(repeats)), key=sum)


def ours(
    name: str, config: ModelConfig, params: dict, prompt_T: np.ndarray, num_prompts: int,
    num_samples: int, new: int, repeats: int,
) -> Row:  # fmt: skip
    """Times P copies of a prompt with S samples each."""
    tokens_PT = jax.device_put(np.tile(prompt_T.astype(np.int32), (num_prompts, 1)))
    lengths_P = jax.device_put(np.full(num_prompts, prompt_T.size, np.int32))
    active_PS = jax.device_put(np.ones((num_prompts, num_samples), bool))
    keys_PS = jax.random.split(jax.random.key(0), (num_prompts, num_samples))

    def run(limit):
        began = time.perf_counter()
        prefix = sampler.prefill(config, params, tokens_PT, lengths_P)
        jax.block_until_ready(prefix)
        filled = time.perf_counter()
        state = sampler.begin(config, tokens_PT, lengths_P, active_PS, buffer=new, pad_id=0)
        state = sampler.decode(
            config, params, prefix, lengths_P, keys_PS, state, *sampler.scalars(limit, 1.0, 1.0),
            stop_ids=(), pad_id=0,
        )  # fmt: skip
        lengths_PS = jax.device_get(sampler.samples(state).lengths_PS)
        ended = time.perf_counter()
        assert (lengths_PS == limit).all()
        return (filled - began, ended - filled), _nbytes(prefix), _nbytes(state[-2:])

    _, prefix_bytes, suffix_bytes = run(1)
    prefill, decode = _least(repeats, lambda: run(new)[0])
    # On average half of the suffix is filled.
    step_bytes = _nbytes(params) + prefix_bytes + suffix_bytes // 2
    return Row(name, num_prompts * num_samples * new, new, prefill, decode, step_bytes)


def theirs(
    config: ModelConfig, prompt_T: np.ndarray, num_samples: int, new: int, repeats: int,
    threads: int, step_bytes: int,
) -> Iterator[Row]:  # fmt: skip
    """Times `generate` of transformers with a dynamic and a static cache."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = transformers.Gemma2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.embed_dim,
        intermediate_size=config.ffn_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        sliding_window=config.sliding_window,
        query_pre_attn_scalar=round(config.query_scale**-2),
        attn_logit_softcapping=config.attn_softcap,
        final_logit_softcapping=config.final_softcap,
        attn_implementation="eager",
    )
    model = transformers.Gemma2ForCausalLM(shape).to(torch.float32).eval()
    model.generation_config.eos_token_id = None
    prompt = torch.from_numpy(prompt_T.astype(np.int64))[None, :]

    def run(cache, limit):
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0,
                top_k=0, top_p=1.0, num_return_sequences=num_samples, max_new_tokens=limit,
                pad_token_id=0, cache_implementation=cache, disable_compile=True,
            )  # fmt: skip
        ended = time.perf_counter()
        assert out.shape == (num_samples, prompt_T.size + limit)
        return (ended - began,)

    for cache in ("dynamic", "static"):
        run(cache, 2)
        (total,) = _least(repeats, lambda cache=cache: run(cache, new))
        name = f"(b) transformers, {cache} cache"
        yield Row(name, num_samples * new, new, None, total, step_bytes)


HEADER = (
    f"{'':34}{'prefill s':>10}{'decode s':>10}{'total s':>10}{'tokens/s':>10}"
    f"{'ms/step':>9}{'MB/step':>9}{'roofline':>10}"
)


def line(row: Row, bandwidth: float) -> str:
    """One measurement as a line of the table."""
    prefill = "-" if row.prefill is None else f"{row.prefill:.2f}"
    return (
        f"{row.name:34}{prefill:>10}{row.decode:10.2f}{row.total:10.2f}"
        f"{row.tokens_per_second:10.1f}{1000 * row.decode / row.steps:9.1f}"
        f"{row.step_bytes / 1e6:9.1f}{row.roofline(bandwidth):10.1%}"
    )


def ratio(title: str, fast: float, slow: float, target: float) -> str:
    """One line that says by how much `fast` (seconds) beats `slow`, and whether that will do."""
    factor = slow / fast
    return f"{title}: {factor:.2f}x (target {target}x: {'met' if factor >= target else 'missed'})"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="gemma2_48m", choices=sorted(VARIANTS))
    parser.add_argument("--samples", type=int, default=32, help="S")
    parser.add_argument("--long_prompt", type=int, default=1024, help="tokens of the prompt of (a)")
    parser.add_argument("--short_prompt", type=int, default=256, help="tokens of the prompt of (b)")
    parser.add_argument("--new", type=int, default=128, help="generated tokens of each sample")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="cores that both may use")
    parser.add_argument("--bandwidth_gbs", type=float, help="GB/s; measured if not given")
    parser.add_argument(
        "--transformers", action=argparse.BooleanOptionalAction, default=True,
        help="compare with transformers in (b)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    for name in ("samples", "long_prompt", "short_prompt", "new", "repeats", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures and prints."""
    args = parse(argv)
    if hasattr(os, "sched_getaffinity"):
        # Before the first use of jax, which sizes its pool of threads by this.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    bandwidth = args.bandwidth_gbs * 1e9 if args.bandwidth_gbs else measure_bandwidth(args.threads)
    config = VARIANTS[args.variant]
    params = _random_params(config)
    print(
        f"{args.variant}, {_nbytes(params) / 1e6:.0f} MB of weights in {config.param_dtype}, "
        f"{jax.devices()[0].platform}, {args.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{bandwidth / 1e9:.1f} GB/s, S = {args.samples}, {args.new} new tokens"
    )
    rng = np.random.default_rng(0)
    long, short = (
        rng.integers(4, config.vocab_size, size) for size in (args.long_prompt, args.short_prompt)
    )
    counts = {"new": args.new, "repeats": args.repeats}
    print(HEADER)
    rows = []

    def add(row):
        rows.append(row)
        print(line(row, bandwidth), flush=True)
        return row

    own = add(ours("(b) grm_jax", config, params, short, 1, args.samples, **counts))
    ratios = []
    if args.transformers:
        try:
            for row in theirs(
                config, short, args.samples, args.new, args.repeats, args.threads, own.step_bytes
            ):
                add(row)
                title = f"(b) grm_jax over {row.name[4:]}"
                ratios.append(ratio(title, own.total, row.total, TARGET_TRANSFORMERS))
        except ImportError as error:
            ratios.append(f"(b) not compared: {error}")
    shared = add(ours("(a) shared prefix", config, params, long, 1, args.samples, **counts))
    repeated = add(ours("(a) repeated prompts", config, params, long, args.samples, 1, **counts))
    title = "(a) shared prefix over repeated prompts"
    ratios.append(ratio(f"{title}, end to end", shared.total, repeated.total, TARGET_SHARED))
    ratios.append(f"    decode alone: {repeated.decode / shared.decode:.2f}x")
    print(*ratios, sep="\n")
    return rows


if __name__ == "__main__":
    main()
