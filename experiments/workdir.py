"""The folder of a run, and the files of its stages.

    workdir/config.json        the config; another config is refused
            stages/<stage>.json  the sections that decided a stage; others are refused
            data.json          result of the check of the training files
            fingerprint.json   versions, devices, commit, which tables must not hold
            tokenizer.model    the tokenizer, if it was trained here
            metrics.jsonl      one line a record; wall-clock figures under "time"
            tensorboard/  checkpoints/<stage>/  params/<stage>/  trajectories/<stage>.jsonl
            meta_scores/  baselines/<kind>/  tables/  figures/  results/  samples.md
            critiques.html

One process of several writes the logs, tables and pages into it.
"""

import atexit
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping

from experiments import arms
from experiments.config import claimed, differing_fields, filled
from grm_jax.files import read_json, write_json
from grm_jax.learning import checkpoints
from grm_jax.models.config import ModelConfig
from grm_jax.models.hub import record
from grm_jax.parallel import processes

# Written by one of several processes. All read everything else, or write their part of it.
_LOGS = ("metrics.jsonl", "tensorboard", "trajectories", "meta_scores", "baselines", "tables",
         "figures", "results", "samples.md", "critiques.html")  # fmt: skip


class Workdir:
    """A workdir, locked by one run until it is closed.

    Attributes:
      root: the folder.
      writes: whether this process, out of several, writes the logs.
      digest: of the sections and fields that no run on this workdir may change, whatever the arm;
        "" before the config is kept.
    """

    def __init__(self, root: str | os.PathLike):
        """Makes the folder if there is none, and locks it.

        Raises:
          ValueError: another process uses it.
        """
        self.root = pathlib.Path(root)
        self.writes = processes.index() == 0
        self.digest = ""
        self._logs = self.root
        self._handles: list[int] = []
        self.root.mkdir(parents=True, exist_ok=True)
        if self.writes:
            self._claim()

    def _claim(self) -> None:
        """Locks .lock and, as that may be removed, the folder if its file system allows it."""
        for path, how in ((self.root / ".lock", os.O_RDWR | os.O_CREAT), (self.root, os.O_RDONLY)):
            self._handles.append(os.open(path, how, 0o644))
            try:
                fcntl.flock(self._handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if path != self.root or isinstance(error, BlockingIOError):
                    self.close()
                    raise ValueError(f"{self.root} is in use by another process") from error

    def close(self) -> None:
        """Unlocks the workdir."""
        while self._handles:
            os.close(self._handles.pop())

    __del__ = close

    def path(self, *parts: str) -> pathlib.Path:
        """A path below the workdir, or for logs below the folder of this process."""
        return (self._logs if parts[0] in _LOGS else self.root).joinpath(*parts)

    def separate_logs(self) -> None:
        """Gives every process but the first a temporary copy of the logs to write into."""
        if not self.writes:
            name = f"grm_jax_process_{processes.index()}_"
            self._logs = pathlib.Path(tempfile.mkdtemp(prefix=name))
            atexit.register(shutil.rmtree, self._logs, ignore_errors=True)
            for name in _LOGS:
                if (self.root / name).is_dir():
                    shutil.copytree(self.root / name, self._logs / name)
                elif (self.root / name).exists():
                    shutil.copy(self.root / name, self._logs / name)
        processes.wait("logs are copied")

    def keep_config(self, fields: Mapping) -> None:
        """Writes config.json.

        Raises:
          ValueError: the workdir belongs to another config, naming the fields that differ.
        """
        path, now = self.path("config.json"), claimed(fields)
        decisive = json.dumps(arms.decisive(now), sort_keys=True)
        self.digest = hashlib.sha256(decisive.encode()).hexdigest()[:16]
        if path.exists():
            fixed = [arms.decisive(filled(config)) for config in (read_json(path), now)]
            if different := differing_fields(*fixed):
                raise ValueError(
                    f"{self.root} belongs to another config; give another --workdir, or undo: "
                    + "; ".join(different)
                )
        if self.writes:
            write_json(path, now)

    # Parameters of finished stages; `tools.convert` exports the folder params/<stage>.

    def has_params(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return self.path("params", stage, "DONE").exists()

    def save_params(
        self,
        stage: str,
        params: dict,
        model: ModelConfig,
        *,
        written_by: Mapping[str, str | int],
        source: str | None = None,
        reward: bool = False,
    ) -> None:
        """Writes the final parameters of a stage and marks it finished.

        Args:
          stage: its name on disk.
          params: of a decoder; of a reward model {"decoder", "head"}.
          model: shape of the decoder.
          written_by: seed of the run and fingerprints of its tokenizer.
          source: folder of the released weights that the run started from.
          reward: whether it is a reward model.

        Raises:
          FloatingPointError: for a value that is not finite; nothing is written.
        """
        folder = self.path("params", stage)
        checkpoints.require_finite(params, f"{folder}")
        checkpoints.save_params(folder / record.PARAMS, params)
        digest = checkpoints.params_digest(params)
        if self.writes:
            record.write(folder, model, reward=reward, source=source)
            done = {"stage": stage, "fingerprint": digest, **written_by}
            write_json(folder / "DONE", done)
        processes.wait(f"parameters of {stage}")

    def load_params(
        self, stage: str, abstract: dict, *, written_by: Mapping[str, str | int]
    ) -> dict:
        """Final parameters of a stage.

        Args:
          stage: its name on disk.
          abstract: shapes, dtypes and shardings of the parameters.
          written_by: as given to `save_params`.

        Raises:
          ValueError: if the stage has not been run in this workdir; naming the folder, if it holds
            other parameters than the stage wrote.
        """
        if not self.has_params(stage):
            raise ValueError(f"{self.root}: stage {stage!r} is not finished; run it first")
        folder = self.path("params", stage)
        done = read_json(folder / "DONE")
        # Stages of earlier versions have the fingerprint alone, or a part of the rest.
        digest = str(done.get("fingerprint"))
        now = {"fingerprint": digest, "stage": stage, **written_by}
        if different := differing_fields(now | done, now, "DONE"):
            raise ValueError(
                f"{folder}: not what stage {stage!r} left there: {'; '.join(different)}; put the "
                "folder back, or remove it to train the stage again"
            )
        return checkpoints.load_params(folder / record.PARAMS, abstract, digest)
