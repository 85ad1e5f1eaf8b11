"""Makes a folder in the format of the Hugging Face hub of a GGUF file.

    python -m tools.from_gguf --source=SmolLM2-135M-Instruct-Q4_K_M.gguf --out=smollm2-135m-instruct

The folder has config.json, safetensors, tokenizer, chat template and generation_config.json, and is
there whole or not at all. Read are Llama (Mistral, SmolLM2), Qwen2, Qwen3, Qwen3-MoE, Gemma-2 and
Gemma-3, in every type of GGUF that the package `gguf` dequantises (`pip install -e '.[gguf]'`).

Weights are the dequantised values, which are not the published ones: quantisation rounded those to
4 bits or so. They are written as float32, which has each value exactly; --dtype=bfloat16 takes half
of the disk and rounds them once more. One tensor at a time is in memory.

A key of the metadata that is unknown here and may change what the model computes is refused, as are
tensors, types of tensors, architectures and vocabularies that cannot be read; the error names them.
"""

import argparse
import collections
import json
from collections.abc import Sequence

import jax.numpy as jnp
import rich.console

from experiments.progress import bar
from grm_jax.models import hub
from grm_jax.models.hub import config_file, tensor_files, writing
from tools import make_parser, run_program, user_path
from tools.gguf_files import models, vocabulary
from tools.gguf_files.reading import GGUF


def convert(source, out, *, dtype: str = "float32", max_shard_bytes: int = 5 * 10**9) -> None:
    """Writes the folder `out` of the file `source` and prints a summary.

    Args:
      source: path of a GGUF file.
      out: new or empty folder.
      dtype: type of the weights that are written, "float32" or "bfloat16".
      max_shard_bytes: largest file, unless a single tensor is larger.

    Raises:
      FileExistsError: if the folder exists and is not empty.
      ValueError: in one line that names file and place, for a file that cannot be read.
    """
    file = GGUF(source)
    model = models.read(file)
    tensors = {tensor.name: tensor for tensor in model.tensors}
    specs = {
        name: tensor_files.Spec(jnp.dtype(dtype), tensor.shape) for name, tensor in tensors.items()
    }
    console = rich.console.Console()
    with hub.new_folder(out) as partial:
        special = vocabulary.write(file, model.config["vocab_size"], partial)
        config = model.config | special | {"torch_dtype": dtype}
        (partial / config_file.CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        with bar(console, "tensors", len(tensors)) as advance:

            def make(name):
                array = tensors[name].read(file).astype(dtype)
                advance(note=name)
                return array

            writing.write_tensors(partial, specs, make, max_shard_bytes)
    kinds = collections.Counter(stored.kind for stored in file.tensors.values())
    print(f"architecture  {config['architectures'][0]}, {config['num_hidden_layers']} layers")
    print("stored as     " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    parameters = sum(spec.nbytes // spec.dtype.itemsize for spec in specs.values())
    print(f"written       {len(specs)} tensors, {parameters:,} parameters, {dtype}")
    print(f"folder        {out}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--source", required=True, type=user_path, help="GGUF file")
    parser.add_argument("--out", required=True, type=user_path, help="new or empty folder")
    parser.add_argument(
        "--dtype", default="float32", choices=config_file.DTYPES, help="type of the weights"
    )
    parser.add_argument(
        "--max_shard_gb", type=float, default=5.0, help="size of the largest file of weights"
    )
    args = parser.parse_args(argv)
    if not args.max_shard_gb > 0:
        parser.error(f"--max_shard_gb must be positive, got {args.max_shard_gb}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Converts."""
    args = parse(argv)
    limit = int(args.max_shard_gb * 10**9)
    convert(args.source, args.out, dtype=args.dtype, max_shard_bytes=limit)


if __name__ == "__main__":
    run_program(main)
