"""Checkpoints: everything that decides the next step, written whole or not at all.

A thin wrapper around the orbax `CheckpointManager`. One checkpoint holds up to three items:

    state   any tree of arrays, typed PRNG keys included (usually a `TrainState`)
    meta    whatever JSON holds: byte offsets of logs, rollouts not yet consumed, fingerprints
    data    the state of a grain iterator, when one is passed

Saving is synchronous: orbax writes into a temporary folder and renames it at the end, so that a
process killed at any moment leaves the previous checkpoint as the latest one.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

_NEW, _OLD = ".new", ".old"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax, which logs every file through absl, out of the terminal."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)


def _is_key(x) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _targets(abstract):
    """Shapes to restore into; leaves without a sharding go to the default device."""
    default = jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)

    def target(x):
        sharding = getattr(x, "sharding", None) or default
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(target, abstract)


def _uncommit(restored, abstract):
    """Frees the leaves for which no sharding was asked from the device they were read to.

    Orbax returns arrays bound to a device, and `jax.jit` compiles a program a second time for
    bound arguments. A resumed run must compile what an unbroken one compiles, and no more.
    """

    def free(x, target):
        if getattr(target, "sharding", None) is not None:
            return x
        if _is_key(x):
            data = jnp.asarray(np.asarray(jax.random.key_data(x)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return jnp.asarray(np.asarray(x))

    return jax.tree.map(free, restored, abstract)


class Checkpoints:
    """The checkpoints of one stage, numbered by step."""

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        """Opens or creates the folder and removes what a killed process left half written.

        Args:
          folder: home of the checkpoints of one stage; made if absent.
          keep: how many of the latest checkpoints survive.
        """
        if keep < 1:
            raise ValueError(f"checkpoints.keep must be at least 1, got {keep}")
        self._folder = pathlib.Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=False,
        )
        # Orbax can do this too, but in a thread that runs on after the constructor.
        for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished)
        with _quiet():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state, meta: dict, data_iterator=None) -> None:
        """Writes one checkpoint and returns when it is complete.

        Args:
          step: number of the checkpoint; must be larger than every step on disk.
          state: tree of arrays.
          meta: JSON data; tuples come back as lists.
          data_iterator: grain iterator whose position is saved too, or None.

        Raises:
          ValueError: for a step that is not beyond the latest one.
        """
        latest = self.latest()
        if latest is not None and step <= latest:
            raise ValueError(f"{self._folder}: step {step} is not beyond the latest, {latest}")
        items: dict[str, Any] = {
            "state": ocp.args.StandardSave(state),
            "meta": ocp.args.JsonSave(meta),
        }
        if data_iterator is not None:
            import grain

            items["data"] = grain.checkpoint.CheckpointSave(item=data_iterator)
        with _quiet():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The step of the latest complete checkpoint, None without one."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def restore(self, abstract_state, step: int | None = None, data_iterator=None):
        """Reads one checkpoint.

        Args:
          abstract_state: tree of the saved structure whose leaves carry shape and dtype, and a
            sharding where one is wanted (`jax.eval_shape` of what makes the state will do).
          step: which checkpoint; the latest for None.
          data_iterator: grain iterator that is moved, in place, to the saved position.

        Returns:
          The state and the meta data.

        Raises:
          FileNotFoundError: without such a checkpoint.
          ValueError: for a saved state of another structure or shape.
        """
        step = self.latest() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise FileNotFoundError(f"{self._folder}: no checkpoint of step {step}")
        items: dict[str, Any] = {
            "state": ocp.args.StandardRestore(_targets(abstract_state)),
            "meta": ocp.args.JsonRestore(),
        }
        if data_iterator is not None:
            import grain

            items["data"] = grain.checkpoint.CheckpointRestore(item=data_iterator)
        with _quiet():
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return _uncommit(restored.state, abstract_state), restored.meta

    def close(self) -> None:
        """Releases the threads of orbax."""
        with _quiet():
            self._manager.close()


def save_params(folder: str | os.PathLike, params) -> None:
    """Writes the final parameters of a stage, replacing what was there.

    The new tree is complete on disk before the old one is touched; `load_params` finds one of the
    two whatever the moment of a kill.
    """
    path = pathlib.Path(folder).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = path.with_name(path.name + _NEW), path.with_name(path.name + _OLD)
    with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(new, params, force=True)
        checkpointer.wait_until_finished()
    # A copy under the old name is only stale while the current one exists.
    if path.exists():
        if old.exists():
            shutil.rmtree(old)
        path.rename(old)
    new.rename(path)
    if old.exists():
        shutil.rmtree(old)


def load_params(folder: str | os.PathLike, abstract):
    """Reads parameters written by `save_params`.

    Args:
      folder: as given to `save_params`.
      abstract: tree with shape and dtype at each leaf, and a sharding where one is wanted.

    Raises:
      FileNotFoundError: when nothing was saved there.
      ValueError: for a saved tree of another structure or shape.
    """
    path = pathlib.Path(folder).absolute()
    if not path.exists():
        path = path.with_name(path.name + _OLD)
    if not path.exists():
        raise FileNotFoundError(f"no parameters saved in {pathlib.Path(folder).absolute()}")
    with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(path, _targets(abstract))
    return _uncommit(restored, abstract)
