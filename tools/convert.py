"""Converts a checkpoint: a Hugging Face folder to an orbax folder, or back, or to its text model.

    python -m tools.convert --to=orbax --source=gemma-2-2b-it --target=checkpoints/gemma
    python -m tools.convert --to=hf --source=checkpoints/gemma --target=gemma-2-2b-it-tuned
    python -m tools.convert --to=hf --source=WORKDIR/params/grpo --target=gemma-2-2b-grm
    python -m tools.convert --to=text --source=gemma-3-4b-it --target=gemma-3-4b-it-text

Either way the target is new, and is there whole or not at all. Every weight keeps its bits, unless
--param_dtype asks for another type.

An orbax folder holds

    params/      the parameters; {"decoder", "head"} for a reward model
    model.json   the fields of ModelConfig and of Compute but `rules`, side by side under "model";
                 whether it is a reward model
    DONE         the digest of the parameters
    config.json, tokenizer files, chat template, generation_config.json   as they came

so that the way back needs nothing else. A Hugging Face folder has config.json and
model.safetensors, or several such files with model.safetensors.index.json, of one of the families
in `grm_jax/models/hub/families`, as ForCausalLM or as ForSequenceClassification with one label.
--to=text makes such a folder of the text model of a multimodal one (Gemma-3), without vision.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from grm_jax.files import read_json
from grm_jax.learning import checkpoints
from grm_jax.models import hub
from grm_jax.models.hub import config_file, families, names, record
from tools import make_parser, run_program, user_path

DONE = "DONE"  # as a finished stage has it


def write_orbax(folder, checkpoint: hub.Checkpoint, source=None) -> None:
    """Writes a new orbax folder, whole or not at all.

    `source` is the Hugging Face folder whose small files and config.json belong to the model.
    """
    config, params, head = checkpoint
    with hub.new_folder(folder) as partial:
        tree = params if head is None else {"decoder": params, "head": head}
        checkpoints.save_params(partial / record.PARAMS, tree)
        done = {"fingerprint": checkpoints.params_digest(tree)}
        (partial / DONE).write_text(json.dumps(done) + "\n", encoding="utf-8")
        record.write(partial, config, reward=head is not None, source=source)


def read_orbax(folder) -> hub.Checkpoint:
    """Reads an orbax folder, written by this tool or as a finished stage (WORKDIR/params/STAGE).

    Raises:
      FileNotFoundError: for a folder without model.json or parameters.
      ValueError: for fields that `ModelConfig` does not have or allow, or parameters that are
        damaged or others than those that were saved.
    """
    folder = pathlib.Path(folder)
    config, reward = record.read(folder)
    abstract = {}
    for leaf_path, leaf in names.leaves(families.tensors(config, head=reward)).items():
        inside = ("decoder", *leaf_path) if reward and leaf_path != names.HEAD else leaf_path
        dtype = jnp.dtype(leaf.dtype or config.compute.param_dtype)
        abstract[inside] = jax.ShapeDtypeStruct(leaf.shape, dtype)
    spare = ("decoder", "lm_head")
    if reward and not config.tied_embeddings:
        # A stage keeps the output matrix of the language model that it started from.
        saved = checkpoints.saved_leaves(folder / record.PARAMS)
        abstract |= {spare: saved[spare]} if spare in saved else {}
    done = read_json(folder / DONE) if (folder / DONE).exists() else {}  # of an earlier version
    abstract = unflatten_dict(abstract)
    tree = checkpoints.load_params(folder / record.PARAMS, abstract, done.get("fingerprint"))
    if reward:
        return hub.Checkpoint(config, tree["decoder"], tree["head"])
    return hub.Checkpoint(config, tree, None)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--to", required=True, choices=["orbax", "hf", "text"], help="format of the target"
    )
    parser.add_argument("--source", required=True, type=user_path, help="folder to read")
    parser.add_argument("--target", required=True, type=user_path, help="new or empty folder")
    parser.add_argument(
        "--param_dtype", choices=config_file.DTYPES,
        help="with --to=orbax: type of the parameters, if another than that of the source",
    )  # fmt: skip
    parser.add_argument(
        "--max_shard_gb",
        type=float,
        default=5.0,
        help="with --to=hf or text: size of the largest file",
    )
    args = parser.parse_args(argv)
    if not args.max_shard_gb > 0:
        parser.error(f"--max_shard_gb must be positive, got {args.max_shard_gb}")
    if args.param_dtype and args.to != "orbax":
        parser.error("--param_dtype is for --to=orbax")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Converts."""
    args = parse(argv)
    if args.to == "orbax":
        checkpoint = hub.load(args.source, param_dtype=args.param_dtype)
        write_orbax(args.target, checkpoint, args.source)
    else:
        text = args.to == "text"
        loaded = hub.load(args.source, text_only=True) if text else read_orbax(args.source)
        source = args.source if (args.source / config_file.CONFIG).exists() else None
        hub.save(args.target, loaded.config, loaded.params, head=loaded.head, source=source,
                 max_shard_bytes=int(args.max_shard_gb * 10**9))  # fmt: skip
    print(f"{args.target}: written")


if __name__ == "__main__":
    run_program(main)
