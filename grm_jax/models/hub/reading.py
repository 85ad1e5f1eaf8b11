"""A folder of Hugging Face to parameters: all names first, then one tensor after the other."""

import functools
import math
import os
import pathlib
import re
from typing import Any, NamedTuple

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from grm_jax.files import mismatch, read_json
from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import config_file, families, names, tensor_files
from grm_jax.models.hub.names import EMBEDDING, HEAD, LM_HEAD, SCORE, Leaf, Path, Tensor
from grm_jax.models.hub.tensor_files import INDEX, SINGLE, Stored


class Checkpoint(NamedTuple):
    """The model in a folder."""

    config: ModelConfig  # shape of the model
    params: dict  # of the decoder. Those of a DeepSeek reward model have no "lm_head"
    # of a reward model, as `heads.scalar_init` makes it; None for a language model
    head: dict | None


def load(
    folder: str | os.PathLike,
    *,
    shardings: dict | None = None,
    param_dtype: str | None = None,
    text_only: bool = False,
) -> Checkpoint:
    """Reads a checkpoint: `model.safetensors`, or several files with an index.

    Args:
      folder: config.json and the files. Weights that are not finite are counted in a warning.
      shardings: a `Sharding` for each leaf of the parameters; the head goes where the final norm
        does. None puts all on the default device.
      param_dtype: type of the parameters; None for the type that config.json names, to which
        weights of a wider type are not rounded.

    Raises:
      FileNotFoundError: for a missing file, naming it.
      ValueError: before any tensor is read, for a config that is not computed here, a damaged
        file, and for tensors that are missing, unknown, doubled, of another shape or of a wider
        type; the message lists every name with the expected and the found tensor. Also for an
        output matrix that differs from the embedding to which config.json ties it.
    """
    folder = pathlib.Path(folder).expanduser()
    config = config_file.read_config(folder)
    reward = config_file.architecture(folder).reward
    tensors = families.tensors(config, head=reward)
    leaves = names.leaves(tensors)
    dtype = param_dtype or config.compute.param_dtype
    dtypes = {path: jnp.dtype(leaf.dtype or dtype) for path, leaf in leaves.items()}
    shardings = shardings and flatten_dict(shardings)
    boxes = _boxes(leaves, shardings)

    headers, astray = _headers(folder)
    _skip_later_layers(headers, config.num_layers, folder)
    if config_file.architecture(folder).multimodal:
        headers, astray = _text_model(headers, astray, folder, text_only)
    tied = LM_HEAD in headers and config.tied_embeddings
    extra = [Tensor(LM_HEAD, (config.vocab_size, config.embed_dim), ())] if tied else []
    narrow = None if param_dtype else dtypes
    _check([*tensors, *extra], headers, astray, narrow, folder)
    stored = {name: places[0] for name, places in headers.items()}
    if tied:
        _check_tied(stored)

    buffers = {
        path: {d: jnp.zeros(_extent(box), dtypes[path], device=d) for d, box in places.items()}
        for path, places in boxes.items()
    }
    bad = {}
    for tensor in tensors:
        data = tensor_files.open_tensor(stored[tensor.name])
        if not _assign(tensor, data, buffers, boxes):
            bad[tensor.name] = np.sum(~np.isfinite(data))
    if bad:
        absl.logging.warning("%s: %d weights of %d tensors are not finite, the first in %s",
                             folder, sum(bad.values()), len(bad), next(iter(bad)))  # fmt: skip
    arrays = {}
    for path in leaves:
        parts = list(buffers.pop(path).values())
        arrays[path] = parts[0] if shardings is None else (
            jax.make_array_from_single_device_arrays(
                leaves[path].shape, _sharding(shardings, path), parts)
        )  # fmt: skip
    params = unflatten_dict(arrays)
    head = params.pop(HEAD[0], None)
    return Checkpoint(config.replace(param_dtype=dtype), params, head)


def count_stored(folder: str | os.PathLike) -> int:
    """Elements of the decoder in the files of a folder; reads headers only.

    Left out are a reward head, an output matrix that is tied to the embedding, layers that predict
    further tokens, and weights of vision. Names and shapes are not compared with the config: `load`
    does that.

    Raises:
      FileNotFoundError, ValueError: as `load`, for missing or damaged files.
    """
    folder = pathlib.Path(folder).expanduser()
    config = config_file.read_config(folder)
    headers, _ = _headers(folder)
    _skip_later_layers(headers, config.num_layers, folder)
    if config_file.architecture(folder).multimodal:
        headers, _ = _text_model(headers, {}, folder, text_only=True)
    headers.pop(SCORE, None)
    if config.tied_embeddings:
        headers.pop(LM_HEAD, None)
    return sum(math.prod(stored.shape) for places in headers.values() for stored in places)


def check_vocab(config: ModelConfig, tokenizer_vocab_size: int, folder: str | os.PathLike) -> None:
    """Refuses a tokenizer with more ids than the embedding has rows; fewer is padding, and fine.

    Raises:
      ValueError: naming the folder and both numbers.
    """
    if tokenizer_vocab_size > config.vocab_size:
        expected = f"at most {config.vocab_size} ids, one for each row of the embedding"
        raise mismatch(f"{folder}: tokenizer", expected, tokenizer_vocab_size)


# The tensors of the files, compared with those of the model.


def _headers(folder: pathlib.Path) -> tuple[dict[str, list[Stored]], dict[str, str]]:
    """Where each name is stored, and the names that the index has in another file."""
    index = folder / INDEX
    if index.exists():
        named = read_json(index, object_pairs_hook=tensor_files.once).get("weight_map")
        if not isinstance(named, dict):
            raise mismatch(f"{index}: weight_map", "an object", f"{named!r:.80}")
        if (folder / SINGLE).exists() and SINGLE not in named.values():
            raise ValueError(f"{folder / SINGLE}: is there beside {INDEX}, which does not name it")
    elif (folder / SINGLE).exists():
        named = dict.fromkeys(tensor_files.read_header(folder / SINGLE), SINGLE)
    else:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        raise FileNotFoundError(f"{folder}: expected {SINGLE} or {INDEX}, found {files}")
    for name, file in named.items():
        if not isinstance(file, str) or pathlib.PurePath(file).name != file:
            raise mismatch(f"{index}: {name}", "the name of a file in the folder", repr(file))
    headers: dict[str, list[Stored]] = {}
    for file in sorted(set(named.values())):
        if not (folder / file).exists():
            raise FileNotFoundError(f"{index}: names {file}, which is not in the folder")
        for name, stored in tensor_files.read_header(folder / file).items():
            headers.setdefault(name, []).append(stored)
    ignored = sorted(set(headers) - set(named))
    if ignored:
        absl.logging.warning("%s: ignored %d tensors that it does not name, such as %s",
                             index, len(ignored), ignored[0])  # fmt: skip
    headers = {name: places for name, places in headers.items() if name in named}
    astray = {
        name: f"the index says {file}"
        for name, file in named.items()
        if file not in [stored.path.name for stored in headers.get(name, ())]
    }
    return headers, astray


def _skip_later_layers(headers: dict, num_layers: int, folder: pathlib.Path) -> None:
    """Removes the layers after the last one, which predict further tokens."""
    raw = config_file.read_raw(folder)
    count = max(raw.get(field) or 0 for field in config_file.LATER_LAYERS)
    roots = tuple(f"model.layers.{layer}." for layer in range(num_layers, num_layers + count))
    skipped = [name for name in headers if name.startswith(roots)]
    for name in skipped:
        del headers[name]
    if skipped:
        absl.logging.warning(
            "%s: skipped %d tensors of %s*: layers that predict further tokens are no part of "
            "the model", folder, len(skipped), "*, ".join(roots),
        )  # fmt: skip


# Tensors of vision, and what stands before the names of the text model, in both generations.
_VISION = re.compile(r"(model\.)?(vision_tower|multi_modal_projector|vision_model)\.")
_TEXT = re.compile(r"(language_model\.model\.|model\.language_model\.)")


def _text_model(
    headers: dict, astray: dict, folder: pathlib.Path, text_only: bool
) -> tuple[dict, dict]:
    """The tensors of the text model of a multimodal one, as its own checkpoint names them."""
    vision = [name for name in headers if _VISION.match(name)]
    if vision and not text_only:
        raise ValueError(
            f"{folder}: expected a text model, found {len(vision)} tensors of vision, such as "
            f"{vision[0]}; python -m tools.convert --to=text makes a folder without them"
        )

    def text(tensors):
        return {
            _TEXT.sub("model.", name, count=1).removeprefix("language_model."): value
            for name, value in tensors.items() if not _VISION.match(name)
        }  # fmt: skip

    return text(headers), text(astray)


def _check(
    tensors: list[Tensor],
    headers: dict[str, list[Stored]],
    astray: dict[str, str],
    dtypes: dict[Path, np.dtype] | None,
    folder: pathlib.Path,
) -> None:
    """Compares all names before anything is read; `dtypes` are those that must not be rounded."""
    good, bad = [], []
    wanted = {tensor.name: tensor for tensor in tensors}
    for name in [*wanted, *sorted(set(headers) - set(wanted))]:
        tensor, stored = wanted.get(name), headers.get(name, [])
        expected = str(list(tensor.shape)) if tensor else "-"
        there = ", ".join(f"{list(s.shape)} {s.dtype} in {s.path.name}" for s in stored) or "-"
        fault = (
            "unknown" if tensor is None
            else "missing" if not stored
            else "doubled" if len(stored) > 1
            else "other shape" if stored[0].shape != tensor.shape
            else astray.get(name) or _too_wide(tensor, stored[0], dtypes)
        )  # fmt: skip
        row = f"{name}: expected {expected}, found {there}"
        (bad if fault else good).append(f"{row}: {fault}" if fault else row)
    if bad:
        # A terminal shows the end of a long message.
        lines = "\n  ".join([*good, *bad])
        raise ValueError(
            f"{folder}: {len(bad)} of {len(good) + len(bad)} tensors do not fit, listed last:\n"
            f"  {lines}"
        )


def _too_wide(tensor: Tensor, stored: Stored, dtypes: dict[Path, np.dtype] | None) -> str:
    types = {dtypes[place.path] for place in tensor.places} if dtypes else ()
    if all(jnp.promote_types(stored.dtype, dtype) == dtype for dtype in types):
        return ""
    return f"wider than {', '.join(map(str, types))}: choose param_dtype"


def _check_tied(stored: dict[str, Stored]) -> None:
    ours, theirs = (
        tensor_files.open_tensor(stored[name]).view(np.uint8) for name in (EMBEDDING, LM_HEAD)
    )
    if ours.shape != theirs.shape or not all(map(np.array_equal, ours, theirs)):
        expected = f"the bits of {EMBEDDING}, to which tie_word_embeddings ties it"
        raise mismatch(f"{stored[LM_HEAD].path}: {LM_HEAD}", expected, "others")


# Our leaves.


def _sharding(shardings: dict[Path, Any], path: Path):
    place = ("final_norm", "scale") if path == HEAD else path
    if place not in shardings:
        raise mismatch("shardings", f"one for {'/'.join(path)}", "none")
    return shardings[place]


def _boxes(leaves: dict[Path, Leaf], shardings: dict | None) -> dict[Path, dict]:
    """For each leaf: device -> the slices of the leaf that it holds."""
    boxes = {}
    for path, leaf in leaves.items():
        everything = {None: (slice(None),) * len(leaf.shape)}
        places = everything if shardings is None else (
            _sharding(shardings, path).addressable_devices_indices_map(leaf.shape)
        )  # fmt: skip
        boxes[path] = {
            device: tuple(
                slice(*part.indices(size)[:2]) for part, size in zip(box, leaf.shape, strict=True)
            )
            for device, box in places.items()
        }
    return boxes


def _extent(box: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in box)


# Two programs: as one, XLA for CPU transposes five times slower.


@functools.partial(jax.jit, static_argnums=(1, 2))
def _arrange(piece, axes, dtype):
    return piece.transpose(axes).astype(dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _update(buffer, piece, start):
    # As plain bits: XLA for CPU would convert a whole bfloat16 buffer to float32 and back.
    bits = f"uint{8 * buffer.dtype.itemsize}"
    start = (*start, *([0] * piece.ndim))
    piece = piece.reshape((1,) * (buffer.ndim - piece.ndim) + piece.shape)
    buffer, piece, dtype = buffer.view(bits), piece.view(bits), buffer.dtype
    return jax.lax.dynamic_update_slice(buffer, piece, start).view(dtype)


def _assign(tensor: Tensor, data: np.ndarray, buffers: dict, boxes: dict) -> bool:
    """Writes a tensor into the buffers of all devices that own a part; whether it is finite."""
    finite = True
    for place in tensor.places:
        view, lead = place.view(data), len(place.index)
        for device, box in boxes[place.path].items():
            start = [i - part.start for i, part in zip(place.index, box, strict=False)]
            if not all(0 <= s < n for s, n in zip(start, _extent(box), strict=False)):
                continue
            *outer, last = box[lead:]
            piece = view[(*outer, last if place.order is None else slice(None))]
            if place.order is not None:
                piece = piece[..., place.order[last]]
            # In the order of the file it need not be copied; the device transposes faster.
            order = np.argsort([-stride for stride in piece.strides], kind="stable")
            axes = tuple(int(axis) for axis in np.argsort(order))
            piece = jax.device_put(np.ascontiguousarray(piece.transpose(order)), device)
            finite &= bool(jnp.isfinite(piece).all())
            buffer = buffers[place.path][device]
            if axes != tuple(range(piece.ndim)) or piece.dtype != buffer.dtype:
                piece = _arrange(piece, axes, buffer.dtype)
            start = tuple(np.int32(s) for s in start)
            # Waiting keeps pieces of many tensors from piling up in memory.
            buffers[place.path][device] = jax.block_until_ready(_update(buffer, piece, start))
    return finite
