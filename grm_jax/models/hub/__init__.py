"""Checkpoints of Hugging Face in and out: folders of safetensors files with a config.json.

    config, params, head = hub.load(folder)
    hub.save(new_folder, config, params, head=head, source=folder)

Loading compares names, types and shapes of all tensors before it reads any, then moves one tensor
after the other to where it belongs: besides the parameters, memory holds about one tensor. Saving
is the way back, bit for bit. Language models and reward models of the families in `families`.
"""

from grm_jax.models.hub.config_file import read_config, write_config
from grm_jax.models.hub.reading import Checkpoint, check_vocab, count_stored, load
from grm_jax.models.hub.writing import copy_small_files, new_folder, save

__all__ = [
    "Checkpoint",
    "check_vocab",
    "copy_small_files",
    "count_stored",
    "load",
    "new_folder",
    "read_config",
    "save",
    "write_config",
]
