"""Checkpoints: everything that decides the next step, written whole or not at all.

A thin wrapper around the orbax `CheckpointManager`. One checkpoint holds up to four items:

    state   any tree of arrays, typed PRNG keys included (usually a `TrainState`)
    meta    JSON: byte offsets of logs, rollouts not yet consumed, fingerprints
    data    the state of a grain iterator, when one is passed. As JSON and not by grain's handler,
            which writes a file for each process: all processes share the position
    metrics the score, where it was measured

Saving is asynchronous: `save` returns when its arguments may change, and orbax writes into a
temporary folder, lists the checksum of every file and renames the folder at the end. A process
killed at any moment leaves the previous checkpoint as the latest one; later damage is detected by
the checksums.
"""

import contextlib
import copy
import hashlib
import logging
import os
import pathlib
import shutil
import weakref
from collections.abc import Iterator
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from grm_jax.parallel import processes
from grm_jax.parallel.sharding import fetch

_NEW, _OLD = ".new", ".old"
_UNFINISHED = ".orbax-checkpoint-tmp"
_DAMAGED = ".damaged"
# Fields of the meta data by which a misplaced checkpoint is refused: folder and step, and `run`.
_PLACE, _RUN = "checkpoint", "checkpoint_of"
_SUMS = "SHA256SUMS"  # in the form that `sha256sum --check` reads
_last_digest: tuple[dict[str, weakref.ref], str | None] = ({}, None)  # leaves, digest


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not record.pathname.startswith(os.path.dirname(ocp.__file__))


def _quiet() -> None:
    """Keeps orbax, which logs every file through absl, out of the terminal.

    By a filter and not by the verbosity, because its threads write on after a call has returned.
    Failures in them are raised here.
    """
    absl.logging.get_absl_logger().addFilter(_not_of_orbax)


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


@contextlib.contextmanager
def _failing_as(kind: type[Exception], what: str) -> Iterator[None]:
    """Raises any error inside as an error of one kind, with the failed action in its message."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise kind(f"{what}: {reason}") from error


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(x).all() for x in leaves]


def require_finite(tree, where: str) -> None:
    """Raises FloatingPointError for arrays with a value that is not finite; waits for them."""
    if not all(fetch(_finite([x for x in jax.tree.leaves(tree) if not _is_key(x)]))):
        raise FloatingPointError(f"{where}: not all values are finite")


def _digests(checkpoint: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of the items of a checkpoint, by its path inside the checkpoint."""
    digests = {}
    for path in sorted(checkpoint.glob("*/**/*")):  # files of orbax above the items still change
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(checkpoint).as_posix()] = digest
    return digests


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

    def __init__(self, folder: str | os.PathLike, keep: int = 2, run: str = ""):
        """Opens or creates the folder and removes what a killed process left half written.

        Args:
          folder: holds a folder for each checkpoint; made if absent.
          keep: how many of the latest checkpoints survive, in addition to the best one.
          run: name of the run, "" if it is not known; checkpoints of another run are refused.
        """
        if keep < 1:
            raise ValueError(f"checkpoints.keep must be at least 1, got {keep}")
        self.folder, self.run = pathlib.Path(folder).absolute(), run
        # Called when all files are written, before the folder gets its final name.
        last = ocp.AsyncOptions(post_finalization_callback=self._write_sums)
        managers = ocp.checkpoint_managers
        best = managers.BestN(n=1, get_metric_fn=_score, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
            best_fn=_score, async_options=last,
        )  # fmt: skip
        self._pending: int | None = None  # the step whose write is not waited for yet
        # Orbax can do this too, but in a thread that runs on after the constructor.
        self._remove_unfinished()
        _quiet()
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def _remove_unfinished(self) -> None:
        if processes.index() == 0:
            for unfinished in self.folder.glob(f"*{_UNFINISHED}*"):
                shutil.rmtree(unfinished)

    def _write_sums(self) -> None:
        (checkpoint,) = self.folder.glob(f"*{_UNFINISHED}")
        lines = [f"{digest}  {name}\n" for name, digest in _digests(checkpoint).items()]
        (checkpoint / _SUMS).write_text("".join(lines))

    def wait(self) -> None:
        """Returns when all saved checkpoints are complete on disk.

        Raises:
          OSError: if it could not be written; the checkpoints before it are as they were.
        """
        if self._pending is None:
            return
        step, self._pending = self._pending, None
        with self._step_named(step):
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _step_named(self, step: int) -> Iterator[None]:
        try:
            what = f"{self.folder / str(step)}: the checkpoint could not be written"
            with _failing_as(OSError, what):
                yield
        except OSError:
            self._remove_unfinished()  # on a full disk its room is needed
            raise

    def save(
        self, step: int, state, meta: dict, data_iterator=None, score: float | None = None
    ) -> None:
        """Starts to write one checkpoint, as things are now; waits for the one before it.

        The state may be donated, and meta and the iterator may move on, as soon as this returns.

        Args:
          step: number of the checkpoint; must be larger than every step on disk.
          state: tree of arrays.
          meta: JSON data; tuples come back as lists.
          data_iterator: grain iterator whose position is saved too, or None.
          score: how good the state is, the higher the better; None if that was not measured.

        Raises:
          ValueError: for a step that is not beyond the latest one.
          FloatingPointError: for a state with a value that is not finite; nothing is written.
          OSError: naming the checkpoint, this one or the one before it, that could not be written.
        """
        latest = self.latest()
        if latest is not None and step <= latest:
            raise ValueError(f"{self.folder}: step {step} is not beyond the latest, {latest}")
        require_finite(state, f"{self.folder / str(step)}")
        place = {_PLACE: f"{self.folder.name}/{step}", _RUN: self.run}
        items: dict[str, Any] = {
            "state": ocp.args.StandardSave(state),
            "meta": ocp.args.JsonSave(copy.deepcopy(meta) | place),  # read later, in another thread
        }
        if data_iterator is not None:
            items["data"] = ocp.args.JsonSave(copy.deepcopy(data_iterator.get_state()))
        with self._step_named(step):
            metrics = None if score is None else {"score": float(score)}
            self._manager.save(step, metrics=metrics, args=ocp.args.Composite(**items), force=True)
        self._pending = step

    def latest(self) -> int | None:
        """The step of the latest complete checkpoint, None without one. Waits for a write."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the highest score, of equals the latest; None if none has a score."""
        self.wait()
        return self._manager.best_step()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending. Waits for a write."""
        self.wait()
        return sorted(self._manager.all_steps())

    def _damage(self, step: int) -> str:
        """The damage of a checkpoint; empty if its files are equal to the written ones."""
        checkpoint = self.folder / str(step)
        try:
            lines = (checkpoint / _SUMS).read_text().splitlines()
            listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
            present = _digests(checkpoint)
        except (OSError, UnicodeDecodeError) as error:
            return f"not complete or not readable ({error})"
        if not listed:
            return f"{_SUMS} lists nothing"
        hidden = {name for name in present if name.rpartition("/")[2].startswith(".")}
        if absent := sorted(listed.keys() ^ present.keys() - (hidden - listed.keys())):
            return f"{absent[0]} is missing" + ("" if absent[0] in listed else f" in {_SUMS}")
        if changed := [name for name in listed if listed[name] != present[name]]:
            return f"{changed[0]} is not what was written (SHA-256)"
        return ""

    def _latest_sound(self) -> int:
        """The latest checkpoint without damage; later ones are moved aside, with a warning.

        Of several processes the first one looks and moves; the others get its result.
        """
        steps = self.steps()
        step = self._put_damaged_aside(steps) if processes.index() == 0 else 0
        step = processes.from_first(step)
        if step != steps[-1]:
            self._manager.reload()
        return step

    def _put_damaged_aside(self, steps: list[int]) -> int:
        damaged: dict[int, str] = {}
        for step in reversed(steps):
            damage = self._damage(step)
            if not damage:
                break
            damaged[step] = damage
        else:
            raise ValueError(
                "every checkpoint is damaged: "
                + "; ".join(f"{self.folder / str(bad)}: {what}" for bad, what in damaged.items())
                + f". Put the files back, or remove {self.folder} to begin the stage again"
            )
        for bad, what in damaged.items():
            path = self.folder / str(bad)
            aside = path.with_name(path.name + _DAMAGED)
            if aside.exists():
                shutil.rmtree(aside)
            path.rename(aside)
            absl.logging.warning(
                "%s: damaged checkpoint: %s; moved to %s, going on from step %d",
                path, what, aside.name, step,
            )  # fmt: skip
        return step

    def restore(self, abstract_state, step: int | None = None, data_iterator=None):
        """Reads one checkpoint.

        Args:
          abstract_state: tree of the saved structure whose leaves carry shape and dtype, and a
            sharding where one is wanted (`jax.eval_shape` of what makes the state will do). The
            mesh need not be the one that the state was saved from.
          step: which checkpoint; for None the latest one that is not damaged. Damaged ones beyond
            it are moved aside to `<step>.damaged`, with a warning.
          data_iterator: grain iterator that is moved, in place, to the saved position.

        Returns:
          The state and the meta data.

        Raises:
          FileNotFoundError: without such a checkpoint.
          ValueError: for a saved state of another structure or shape; if the checkpoint, or for
            None every one, is damaged; if it was saved as another one.
        """
        if step is None and self.steps():
            step = self._latest_sound()
        elif step not in self.steps():
            raise FileNotFoundError(f"{self.folder}: no checkpoint of step {step}")
        elif damage := self._damage(step):
            raise ValueError(f"{self.folder / str(step)}: damaged checkpoint: {damage}")
        items: dict[str, Any] = {
            "state": ocp.args.StandardRestore(_targets(abstract_state)),
            "meta": ocp.args.JsonRestore(),
        }
        if data_iterator is not None:
            items["data"] = ocp.args.JsonRestore()
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        if data_iterator is not None:
            data_iterator.set_state(restored.data)
        here = f"{self.folder.name}/{step}"
        place, run = restored.meta.pop(_PLACE, here), restored.meta.pop(_RUN, "")
        other = " of another seed or config" * bool(run and self.run and run != self.run)
        if place != here or other:
            raise ValueError(f"{self.folder / str(step)}: a checkpoint of {place}{other}")
        return _uncommit(restored.state, abstract_state), restored.meta

    def close(self) -> None:
        """Waits for unfinished writes and releases the threads of orbax. Raises as `wait`."""
        self.wait()
        self._manager.close()


def save_params(folder: str | os.PathLike, params) -> None:
    """Writes the final parameters of a stage, in place of older ones.

    The new tree is complete on disk before the old one is touched; `load_params` finds one of the
    two whatever the moment of a kill.

    Raises:
      OSError: naming the folder, if the parameters could not be written.
    """
    path = pathlib.Path(folder).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = path.with_name(path.name + _NEW), path.with_name(path.name + _OLD)
    _quiet()
    failing = _failing_as(OSError, f"{path}: the parameters could not be written")
    with failing, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(new, params, force=True)
        checkpointer.wait_until_finished()
    if processes.index() == 0:
        # A copy under the old name is only stale while the current one exists.
        if path.exists():
            if old.exists():
                shutil.rmtree(old)
            path.rename(old)
        new.rename(path)
        if old.exists():
            shutil.rmtree(old)
    processes.wait(f"{path} has its name")


def params_digest(params) -> str:
    """Hash of all parameters, in the order of the tree. The last result is kept."""
    global _last_digest
    leaves = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    known, last = _last_digest
    if last and known.keys() == leaves.keys() and all(known[k]() is x for k, x in leaves.items()):
        return last
    sha = hashlib.sha256()
    for name, leaf in leaves.items():
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(fetch(leaf)).tobytes())
    digest = sha.hexdigest()[:16]
    _last_digest = {name: weakref.ref(leaf) for name, leaf in leaves.items()}, digest
    return digest


def saved_leaves(folder: str | os.PathLike) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Shape and dtype of each leaf that `save_params` wrote to `folder`, by its keys."""
    _quiet()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(pathlib.Path(folder).absolute()).item_metadata.tree
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in flatten_dict(tree).items()
    }


def load_params(folder: str | os.PathLike, abstract, digest: str | None = None):
    """Reads parameters written by `save_params`.

    Args:
      folder: as given to `save_params`.
      abstract: tree with shape and dtype at each leaf, and a sharding where one is wanted.
      digest: `params_digest` of the saved parameters, if it is known.

    Raises:
      FileNotFoundError: when nothing was saved there.
      ValueError: naming the folder, for a saved tree of another structure or shape, another digest,
        or damage.
    """
    path = pathlib.Path(folder).absolute()
    if not path.exists():
        path = path.with_name(path.name + _OLD)
    if not path.exists():
        raise FileNotFoundError(f"no parameters saved in {pathlib.Path(folder).absolute()}")
    _quiet()
    failing = _failing_as(ValueError, f"{path}: the parameters could not be read")
    with failing, ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(path, _targets(abstract))
    params = _uncommit(restored, abstract)
    if digest is not None and params_digest(params) != digest:
        raise ValueError(f"{path}: damaged, not the parameters that were saved (SHA-256)")
    return params
