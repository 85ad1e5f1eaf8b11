"""Parameters to a folder of Hugging Face: the same tensors, the same bits, the same small files."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import config_file, families, names, tensor_files
from grm_jax.models.hub.names import HEAD, Leaf, Path, Tensor
from grm_jax.models.hub.tensor_files import INDEX, SINGLE

# What a checkpoint needs besides config and weights: tokenizer, templates, and code that
# config.json may refer to.
SMALL_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "spiece.model", "chat_template*", "additional_chat_templates/*", "generation_config.json",
    "*.py",
)  # fmt: skip
_PARTIAL = ".partial"


def save(
    folder: str | os.PathLike,
    config: ModelConfig,
    params: dict,
    *,
    head: dict | None = None,
    source: str | os.PathLike | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a checkpoint that transformers loads, whole or not at all.

    Args:
      folder: new, or empty.
      config: shape of the model.
      params: of the decoder, float32 or bfloat16; tensors keep their type.
      head: a scalar head, which makes it a sequence classification model with one label; an
        output matrix ("lm_head") is then left out, because such a model has none.
      source: folder the model came from: its small files are copied, and its config.json is
        kept as it is but for what has changed: type of weights, kind of head, and the count of
        layers for further tokens, which are not part of our models. That of a multimodal model
        is replaced by one of its text model.
      max_shard_bytes: largest file, unless a single tensor is larger.

    Raises:
      FileExistsError: if the folder exists and is not empty.
      ValueError: for parameters of another shape than `config` says, a config that no architecture
        has, or a source of another shape.
    """
    with new_folder(folder) as partial:
        tensors = families.tensors(config, head=head is not None)
        arrays = flatten_dict(params)
        if head is not None:
            arrays = {path: x for path, x in arrays.items() if path != ("lm_head",)}
            arrays |= flatten_dict({HEAD[0]: head})
        _check_leaves(arrays, names.leaves(tensors))
        specs = {
            t.name: tensor_files.Spec(jnp.dtype(arrays[t.places[0].path].dtype), t.shape)
            for t in tensors
        }
        text = _config_text(config, str(arrays["embedding",].dtype), head is not None, source)
        by_name = {tensor.name: tensor for tensor in tensors}

        def make(name):
            return _collect(by_name[name], specs[name], arrays)

        write_tensors(partial, specs, make, max_shard_bytes)
        if source is not None:
            copy_small_files(source, partial)
        (partial / config_file.CONFIG).write_text(text, encoding="utf-8")


def write_tensors(
    folder: pathlib.Path,
    specs: Mapping[str, tensor_files.Spec],
    make: Callable[[str], np.ndarray],
    max_shard_bytes: int,
) -> None:
    """Writes model.safetensors, or several such files and their index, a tensor at a time.

    Args:
      folder: that has none of these files.
      specs: type and shape of each tensor by its name, in the order of the files.
      make: makes the tensor of a name.
      max_shard_bytes: largest file, unless a single tensor is larger.
    """
    groups = _groups(specs, max_shard_bytes)
    files = [SINGLE] if len(groups) == 1 else [
        f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)
    ]  # fmt: skip
    for name, group in zip(files, groups, strict=True):
        tensor_files.write(folder / name, group, make)
    if len(groups) > 1:
        index = {
            "metadata": {"total_size": sum(spec.nbytes for spec in specs.values())},
            "weight_map": {
                name: file for file, group in zip(files, groups, strict=True) for name in group
            },
        }
        (folder / INDEX).write_text(_dump(index), encoding="utf-8")


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder next to the wanted one, which gets its name when the block ends without an error.

    A killed process leaves it behind, as <folder>.partial-<random>.

    Raises:
      FileExistsError: if the wanted folder exists and is not empty.
    """
    target = pathlib.Path(folder).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: expected no such folder or an empty one")
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: another conversion to the same place, or somebody's folder, stays whole.
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{target.name}{_PARTIAL}-", dir=target.parent))
    partial.chmod(0o777 & ~_umask())
    try:
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def copy_small_files(source: str | os.PathLike, target: pathlib.Path) -> None:
    """Copies tokenizer, templates and generation_config.json, whichever are there."""
    source = pathlib.Path(source).expanduser()
    for path in {path for pattern in SMALL_FILES for path in source.glob(pattern)}:
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)


def _check_leaves(arrays: dict[Path, Any], leaves: dict[Path, Leaf]) -> None:
    """Shapes and types; all but leaves with a type of their own have that of the embedding."""
    common = arrays["embedding",].dtype if ("embedding",) in arrays else "none"
    lines = []
    if str(common) not in config_file.DTYPES:
        lines.append(f"embedding: expected {' or '.join(config_file.DTYPES)}, found {common}")
    for path in [*leaves, *sorted(set(arrays) - set(leaves))]:
        expected = found = "nothing"
        if path in leaves:
            expected = f"{leaves[path].shape} {leaves[path].dtype or common}"
        if path in arrays:
            found = f"{tuple(arrays[path].shape)} {arrays[path].dtype}"
        if expected != found:
            lines.append(f"{'/'.join(path)}: expected {expected}, found {found}")
        elif not getattr(arrays[path], "is_fully_addressable", True):
            lines.append(f"{'/'.join(path)}: expected all shards here, found those of a process")
    if lines:
        raise ValueError("parameters do not fit the config:\n  " + "\n  ".join(lines))


def _collect(tensor: Tensor, spec: tensor_files.Spec, arrays: dict[Path, Any]) -> np.ndarray:
    """A tensor as files have it, from our leaves."""
    out = np.empty(spec.shape, spec.dtype)
    for place in tensor.places:
        part = np.asarray(arrays[place.path][place.index])
        place.view(out)[..., slice(None) if place.order is None else place.order] = part
    return out


def _groups(specs: dict, limit: int) -> list[dict]:
    """Tensors of each file, in order."""
    groups, room = [{}], limit
    for name, spec in specs.items():
        if groups[-1] and spec.nbytes > room:
            groups.append({})
            room = limit
        groups[-1][name] = spec
        room -= spec.nbytes
    return groups


def _config_text(config: ModelConfig, dtype: str, reward: bool, source) -> str:
    """config.json: the one of the source where nothing changed, letter for letter."""
    if source is None or config_file.architecture(source).multimodal:
        config = config.replace(param_dtype=dtype)
        return _dump(config_file.write_config(config, head=reward))
    path = pathlib.Path(source).expanduser() / config_file.CONFIG
    theirs = dataclasses.replace(config_file.read_config(source), compute=config.compute)
    config_file.check_equal(f"{path}: model", config, theirs)
    raw = config_file.read_raw(source)
    changed = config_file.with_head(raw, reward) | {
        field: dtype for field in ("dtype", "torch_dtype") if raw.get(field)
    }
    changed |= {field: 0 for field in config_file.LATER_LAYERS if raw.get(field)}
    return path.read_text(encoding="utf-8") if changed == raw else _dump(changed)


def _dump(value: dict) -> str:
    return json.dumps(value, indent=2) + "\n"
