"""The record of a model in an orbax folder, from which it is converted to the hub without a config.

params/      the parameters; {"decoder", "head"} for a reward model
model.json   the fields of ModelConfig and of Compute but `rules`, side by side under "model";
             whether it is a reward model
config.json, tokenizer files, chat template, ...   as they came from the hub, if they did
"""

import dataclasses
import json
import os
import pathlib
import shutil

from grm_jax.files import read_json
from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import config_file
from grm_jax.models.hub.writing import copy_small_files

PARAMS, MODEL = "params", "model.json"


def write(
    folder: str | os.PathLike,
    config: ModelConfig,
    *,
    reward: bool,
    source: str | os.PathLike | None = None,
) -> None:
    """Writes model.json, and copies config.json and small files of the hub's folder `source`."""
    folder = pathlib.Path(folder)
    if source is not None:
        source = pathlib.Path(source).expanduser()
        copy_small_files(source, folder)
        shutil.copyfile(source / config_file.CONFIG, folder / config_file.CONFIG)
    fields = dataclasses.asdict(config)
    fields |= fields.pop("compute")
    del fields["rules"]  # they belong to the mesh of a run, not to the model
    text = json.dumps({"model": fields, "reward": reward}, indent=2) + "\n"
    (folder / MODEL).write_text(text, encoding="utf-8")


def read(folder: str | os.PathLike) -> tuple[ModelConfig, bool]:
    """The config, and whether it is a reward model.

    Raises:
      FileNotFoundError: for a folder without model.json.
      ValueError: for fields that `ModelConfig` does not have or allow.
    """
    path = pathlib.Path(folder) / MODEL
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file, so this is no folder of parameters")
    record = read_json(path)
    try:
        return ModelConfig.of(record["model"]), record["reward"]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: no ModelConfig: {error}") from error
