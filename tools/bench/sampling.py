"""Speed of sampling: what sharing the prefix gains, and a comparison with transformers.

    python -m tools.bench.sampling [--variant=gemma2_48m] [--no-transformers] ...

(a) One long prompt with S samples against the same prompt S times with one sample each: the same
    code, with and without the shared prefix.
(b) S samples of one short prompt, here and by `generate` of transformers on a Gemma-2 of the same
    shape, type and device, end to end. Ours returns two log-probs of each token besides; theirs
    returns tokens.

Weights are random and nothing stops early, so every sample has the full length. Times are the
least of --repeats after one warm-up; compilation is not part of them.

Beside the rates stands what is needed at least, as `grm_jax.models.cost` counts it: the FLOPs of
prefill and of decode as shares of the peak of the device ("MFU"), and the bytes that decode must
move (weights once a step, the prefix once for all samples, their own suffixes, what is written) as
a share of its bandwidth ("of HBM"). Each of S repeated prompts needs a prefix of its own. Large
batches on few cores are bound by arithmetic, so a small share of the bandwidth is no fault there.
Where prefill and decode cannot be timed apart, the shares are those of both together.

transformers runs in eager mode, as its code stands: `torch.compile` is off on every device.

On a GPU, with weights in bfloat16 as the variant says:

    python -m tools.bench.sampling --variant=gemma2_2b --long_prompt=4096 --threads=16
"""

import argparse
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from grm_jax.models import cost
from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import config_file
from grm_jax.sampling import sampler
from tools import make_parser, random_model
from tools.bench import peaks

TARGET_SHARED, TARGET_TRANSFORMERS = 3.0, 2.5


class Row(NamedTuple):
    """One measurement: seconds, and what it needs at least.

    `prefill` is None where it cannot be timed apart from the decode; then `decode` holds both.
    FLOPs and bytes are those of all prompts, and of all steps.
    """

    name: str
    tokens: int
    steps: int
    prefill: float | None
    decode: float
    prefill_flops: int
    decode_flops: int
    decode_bytes: int

    @property
    def total(self) -> float:
        """Seconds from the prompt to the last token."""
        return (self.prefill or 0.0) + self.decode

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, end to end."""
        return self.tokens / self.total


def _least(repeats: int, measure: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
    """The times of the repeat with the least sum."""
    return min((measure() for _ in range(repeats)), key=sum)


def needed(
    config: ModelConfig, prompt_length: int, num_prompts: int, num_samples: int, new: int
) -> dict[str, int]:
    """Least FLOPs and bytes of a row, as its fields."""
    decode = cost.decode_cost(
        config, prompts=num_prompts, samples=num_samples, prompt_length=prompt_length, new=new
    )
    # The last token of a prompt is not prefilled.
    lengths = [prompt_length - 1] * num_prompts
    prefill_flops = cost.forward_flops(config, lengths, output_tokens=0)
    return {
        "prefill_flops": prefill_flops,
        "decode_flops": decode.flops,
        "decode_bytes": decode.bytes,
    }


def sampling_run(
    config: ModelConfig, params: dict, prompt_T: np.ndarray, shape: tuple[int, int], new: int
) -> Callable[[int], tuple[float, float]]:
    """Samples P copies of a prompt with S samples each; `shape` is (P, S).

    Returns a function of the tokens to generate, at most `new`, that returns the seconds of prefill
    and of decode. The first call compiles.
    """
    num_prompts, num_samples = shape
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
        return filled - began, ended - filled

    return run


def ours(
    name: str, config: ModelConfig, params: dict, prompt_T: np.ndarray, shape: tuple[int, int],
    new: int, repeats: int,
) -> Row:  # fmt: skip
    """Times P copies of a prompt with S samples each; `shape` is (P, S)."""
    run = sampling_run(config, params, prompt_T, shape, new)
    run(1)
    prefill, decode = _least(repeats, lambda: run(new))
    num_prompts, num_samples = shape
    return Row(
        name, num_prompts * num_samples * new, new, prefill, decode,
        **needed(config, prompt_T.size, num_prompts, num_samples, new),
    )  # fmt: skip


def peer(config: ModelConfig, threads: int):
    """The model of transformers of the same shape and type, and random weights, with its device.

    Raises:
      ImportError: without PyTorch or transformers, or without a PyTorch for the device of jax.
      ValueError: for latent attention, which transformers samples without a cache of latents.
    """
    import torch
    import transformers

    if config.mla is not None:
        raise ValueError("there are no rows of transformers for latent attention")
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise ImportError("this PyTorch sees no GPU, and jax computes on one")
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = transformers.AutoConfig.for_model(
        **config_file.write_config(config), attn_implementation="eager"
    )
    with device:
        model = transformers.AutoModelForCausalLM.from_config(shape)
    return model.to(getattr(torch, config.compute.dtype)), device


def generate_runs(
    config: ModelConfig, prompt_T: np.ndarray, num_samples: int, threads: int
) -> dict[str, Callable[[int], float]]:
    """`generate` of transformers by its cache: the tokens to generate -> seconds. Raises as `peer`.

    The first call prepares what later ones have.
    """
    model, device = peer(config, threads)
    import torch

    model.eval()
    model.generation_config.eos_token_id = None
    prompt = torch.from_numpy(prompt_T.astype(np.int64))[None, :].to(device)

    def run(cache, limit):
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0,
                top_k=0, top_p=1.0, num_return_sequences=num_samples, max_new_tokens=limit,
                pad_token_id=0, cache_implementation=cache, disable_compile=True,
            )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize()
        ended = time.perf_counter()
        assert out.shape == (num_samples, prompt_T.size + limit)
        return ended - began

    return {cache: functools.partial(run, cache) for cache in ("dynamic", "static")}


def theirs(
    config: ModelConfig, prompt_T: np.ndarray, num_samples: int, new: int, repeats: int,
    threads: int,
) -> Iterator[Row]:  # fmt: skip
    """Times `generate` of transformers with a dynamic and a static cache. Raises as `peer`."""
    runs = generate_runs(config, prompt_T, num_samples, threads)
    for cache in [*runs]:
        run = runs.pop(cache)
        run(2)
        total = min(run(new) for _ in range(repeats))
        yield Row(
            f"(b) transformers, {cache} cache", num_samples * new, new, None, total,
            **needed(config, prompt_T.size, 1, num_samples, new),
        )  # fmt: skip
    if jax.default_backend() == "gpu":  # PyTorch would keep the memory, and jax needs it next
        import torch

        del run
        torch.cuda.empty_cache()


HEADER = (
    f"{'':34}{'prefill s':>10}{'MFU':>7}{'decode s':>10}{'total s':>9}{'tokens/s':>10}"
    f"{'ms/step':>9}{'MB/step':>9}{'of HBM':>8}{'MFU':>7}"
)


def line(row: Row, peak: peaks.Peaks) -> str:
    """One measurement as a line of the table; "-" is unknown."""
    prefill, mfu = "-", "-"
    if row.prefill is not None:
        prefill = f"{row.prefill:.2f}"
        mfu = peaks.share(row.prefill_flops / row.prefill, peak.flops)
    return (
        f"{row.name:34}{prefill:>10}{mfu:>7}{row.decode:10.2f}{row.total:9.2f}"
        f"{row.tokens_per_second:10.1f}{1000 * row.decode / row.steps:9.1f}"
        f"{row.decode_bytes / row.steps / 1e6:9.1f}"
        f"{peaks.share(row.decode_bytes / row.decode, peak.bandwidth):>8}"
        f"{peaks.share(row.decode_flops / row.decode, peak.flops):>7}"
    )


def ratio(title: str, fast: float, slow: float, target: float) -> str:
    """One line that says by how much `fast` (seconds) beats `slow`, and whether that will do."""
    factor = slow / fast
    return f"{title}: {factor:.2f}x (target {target}x: {'met' if factor >= target else 'missed'})"


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, ModelConfig]:
    """Command line; an impossible one ends the program by name."""
    parser = make_parser(__doc__)
    random_model.add_flags(parser)
    parser.add_argument("--samples", type=int, default=32, help="S")
    parser.add_argument("--long_prompt", type=int, default=1024, help="tokens of the prompt of (a)")
    parser.add_argument("--short_prompt", type=int, default=256, help="tokens of the prompt of (b)")
    parser.add_argument("--new", type=int, default=128, help="generated tokens of each sample")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="cores that both may use")
    peaks.add_flags(parser)
    parser.add_argument(
        "--transformers", action=argparse.BooleanOptionalAction, default=True,
        help="compare with transformers in (b)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    for name in ("samples", "long_prompt", "short_prompt", "new", "repeats", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args, random_model.from_flags(parser, args)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures and prints."""
    args, config = parse(argv)
    # Both before the first use of jax: it sizes its pool of threads by the former, and would take
    # most of a GPU's memory for itself without the latter.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    if args.transformers:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device, how = jax.devices()[0], config.compute
    peak = peaks.of_devices([device], how.dtype, tflops=args.peak_tflops, gbps=args.peak_gbps)
    params = random_model.random_params(config)
    print(
        f"{args.variant}, {config.num_layers} layers, {random_model.nbytes(params) / 1e6:.0f} MB of"
        f" weights in {how.param_dtype}, activations in {how.dtype}, {device.device_kind},"
        f" {args.threads} threads, load {os.getloadavg()[0]:.1f}, S = {args.samples},"
        f" {args.new} new tokens"
    )
    print(peaks.describe(peak))
    rng = np.random.default_rng(0)
    long, short = (
        rng.integers(4, config.vocab_size, size) for size in (args.long_prompt, args.short_prompt)
    )
    counts = {"new": args.new, "repeats": args.repeats}
    print(HEADER)
    rows = []

    def add(row):
        rows.append(row)
        print(line(row, peak), flush=True)
        return row

    grm_jax_row = add(ours("(b) grm_jax", config, params, short, (1, args.samples), **counts))
    ratios = []
    if args.transformers:
        try:
            for row in theirs(config, short, args.samples, args.new, args.repeats, args.threads):
                add(row)
                title = f"(b) grm_jax over {row.name[4:]}"
                ratios.append(ratio(title, grm_jax_row.total, row.total, TARGET_TRANSFORMERS))
        except (ImportError, ValueError) as error:
            ratios.append(f"(b) not compared: {error}")
    shared = add(ours("(a) shared prefix", config, params, long, (1, args.samples), **counts))
    repeated = add(ours("(a) repeated prompts", config, params, long, (args.samples, 1), **counts))
    title = "(a) shared prefix over repeated prompts"
    ratios.append(ratio(f"{title}, end to end", shared.total, repeated.total, TARGET_SHARED))
    ratios.append(f"    decode alone: {repeated.decode / shared.decode:.2f}x")
    print(*ratios, sep="\n")
    return rows


if __name__ == "__main__":
    main()
