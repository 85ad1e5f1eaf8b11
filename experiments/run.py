"""What every experiment shares: flags, the workdir, the model, the tokenizer, the data.

    workdir/config.json        the config; another config is refused
            stages/<stage>.json  what decided a stage; another stage of its name is refused
            data.json          what the check of the training files found
            fingerprint.json   versions, devices, commit: whatever must not be in a table
            tokenizer.model    the tokenizer, if it was trained here
            metrics.jsonl      one line a record; wall-clock figures under "time"
            tensorboard/  checkpoints/<stage>/  params/<stage>/  trajectories/<stage>.jsonl
            meta_scores/  baselines/<kind>/  tables/  figures/  results/  samples.md
            critiques.html
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

import jax
import ml_collections
import numpy as np
import rich.console
from absl import app, flags, logging

from experiments import arms, command_line, launch, progress, schema, settings
from experiments.config import build, claimed, complete, filled
from experiments.metrics import Metrics
from experiments.training_data import TrainingData
from grm_jax.data.comparison import Comparison
from grm_jax.data.small_world import SmallWorld
from grm_jax.files import read_json, write_atomically
from grm_jax.learning import checkpoints
from grm_jax.learning.checkpoints import params_digest
from grm_jax.learning.state import TrainState
from grm_jax.models import hub, transformer
from grm_jax.models.config import LoRAConfig, ModelConfig
from grm_jax.models.hub import record
from grm_jax.parallel import processes, sharding
from grm_jax.parallel.mesh import MeshConfig, Rules, make_mesh
from grm_jax.ranges import split
from grm_jax.sampling import keys
from grm_jax.sampling.draw import DrawConfig
from grm_jax.sampling.engine import JittedEngine
from grm_jax.sampling.remote import RemoteEngine, Server
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text import prompts
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.tokenizers import SentencePieceTokenizer, Tokenizer, train_sentencepiece

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of everything the run writes.")

# What one process of several writes. Everything else is read, or written in parts, by all.
_LOGS = ("metrics.jsonl", "tensorboard", "trajectories", "meta_scores", "baselines", "tables",
         "figures", "results", "samples.md", "critiques.html")  # fmt: skip

STOPPED = 128 + signal.SIGTERM  # exit code of a run that was asked to stop


class Stopped(Exception):
    """The run was asked to stop and nothing that it did is lost; the message says where it is."""


class Run:
    """One experiment on one workdir. Nothing touches a device before the config is checked."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: str | os.PathLike):
        """Checks the config, claims the workdir and writes config.json and fingerprint.json.

        Raises:
          ValueError: for a bad config, or a workdir of another config or in use.
        """
        self.fields = ml_collections.FrozenConfigDict(complete(config))
        self.workdir = pathlib.Path(workdir)
        self.arm_name = arms.MAIN
        self.engines: list[JittedEngine] = []
        self.console = rich.console.Console()
        self._stop_asked = threading.Event()  # an arm shares it
        self.config = schema.check(self.fields)
        self._arms = schema.arm_configs(self.fields, all_arms=False)
        # Names what no run on this workdir may change, whatever the arm.
        decisive = json.dumps(arms.decisive(claimed(self.fields)), sort_keys=True)
        self.digest = hashlib.sha256(decisive.encode()).hexdigest()[:16]
        self.writes = processes.index() == 0
        self.workdir.mkdir(parents=True, exist_ok=True)
        if self.writes:
            self._lock = _Claim(self.workdir)
        self._check_config()
        self.console.quiet = not self.writes
        self.data = None
        if self.config.data is not None:
            self.data = TrainingData(self.config.data, self.config.seed, self.workdir, self.say)
            if self.writes and self.data.fresh:
                write_json(self.workdir / "data.json", self.data.report)
            for arm in (arms.MAIN, *split(self.fields.get("benchmark", {}).get("arms") or "")):
                if (grpo := build(self._arms[arm]).grpo) is not None:
                    field = "config.grpo.loop.prompts_per_step"
                    self.data.require_batch(grpo.loop.prompts_per_step, field)
        self.mesh = _set_up_devices(self.config.mesh)
        self._logs = launch.own_logs(self.workdir, _LOGS)
        # Made here and not on first use, which may be inside a trace.
        with jax.set_mesh(self.mesh):
            self.base_key = jax.random.key(self.config.seed)
        self.metrics = Metrics(self._logs)
        if self.writes:
            write_json(self.workdir / "fingerprint.json", _environment())

    def _check_config(self) -> None:
        path = self.workdir / "config.json"
        now = claimed(self.fields)
        if path.exists():
            fixed = [arms.decisive(filled(config)) for config in (read_json(path), now)]
            different = settings.differing_fields(*fixed)
            if different:
                raise ValueError(
                    f"{self.workdir} belongs to another config; give another --workdir, or undo: "
                    + "; ".join(different)
                )
        if self.writes:
            write_json(path, now)

    # The way out.

    def ask_to_stop(self, number: int, frame: object = None) -> None:
        """Handler of a signal: the run stops at its next safe point, or at once if it comes again.

        Safe points are the end of a training step, which is then saved, and that of a work unit.
        """
        signal.signal(number, signal.SIG_DFL)
        self._stop_asked.set()

    @property
    def stopping(self) -> bool:
        """Whether any process of the run was asked to stop.

        To be read by all of them, once a step or unit, before deciding to save.
        """
        return processes.any_of(self._stop_asked.is_set())

    def stop(self, where: str) -> NoReturn:
        """Leaves the experiment; everything that was done has to be on disk."""
        raise Stopped(f"stopped, {where} is on disk; the same command goes on from there")

    # Names and places.

    @property
    def principles(self) -> str:
        """The principle mode."""
        return self.config.template.principles

    def stage(self, name: str) -> str:
        """Name of a stage on disk, which arms share that train it in the same way.

        Raises:
          ValueError: the workdir has a stage of this name that was made in another way.
        """
        return arms.stage_name(self.workdir / "stages", self.fields, self._arms, name)

    def begin(self, name: str) -> None:
        """Keeps what decides a stage, before anything of it is written."""
        path = self.workdir / "stages" / f"{self.stage(name)}.json"
        if self.writes and not path.exists():
            write_json(path, json.loads(arms.deciding(self.fields, name)))

    def arm(self, name: str) -> "Run":
        """The same run with the changes of an arm; shares workdir, devices and metrics.

        Raises:
          ValueError: there is no such arm.
        """
        if name not in self._arms:
            arms.changed(self.fields, name)  # raises
        other = object.__new__(Run)
        # What is cached already follows from sections that no arm may change.
        own = {"fields": self._arms[name], "config": build(self._arms[name]), "arm_name": name}
        other.__dict__ = {**self.__dict__, **own}
        return other

    def path(self, *parts: str) -> pathlib.Path:
        """A path below the workdir, or for logs below where this process keeps them."""
        return (self._logs if parts[0] in _LOGS else self.workdir).joinpath(*parts)

    # Data.

    @functools.cached_property
    def world(self) -> SmallWorld | None:
        """The small world, if the config trains on one."""
        return SmallWorld(self.config.small_world) if self.config.small_world is not None else None

    def comparisons(self, split: str, count: int, *, seed: int = 0) -> list[Comparison]:
        """Comparisons of a split: of the small world, or from `data.<split>`, in one order for all.

        Raises:
          ValueError: the config has no such data, or bad files.
        """
        if self.world is not None:
            return self.world.comparisons(split, count, seed=seed)
        if self.data is None:
            raise ValueError(f"config.data.{split}: section is missing")
        return self.data.take(split, count)

    # Tokenizer, model, device.

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: of `tokenizer.path`, of released weights, or trained on the small world.

        A folder brings its own chat template, a file is a SentencePiece model with Gemma's.
        """
        path = self.config.tokenizer.path
        if not path and self.config.released is not None:
            path = self.config.released.model
        if path:
            path = os.path.expanduser(path)
            folder = pathlib.Path(path).is_dir()
            return load_tokenizer(path) if folder else SentencePieceTokenizer.from_file(path)
        path = self.path("tokenizer.model")
        if self.writes and not path.exists():
            train_sentencepiece(
                _corpus(self.world), path, vocab_size=self.config.tokenizer.vocab_size
            )
        processes.wait("tokenizer")
        return SentencePieceTokenizer.from_file(path)

    @functools.cached_property
    def _tokenized_by(self) -> dict[str, str]:
        found = self.tokenizer.fingerprints()
        return {name: found[name] for name in ("tokenizer", "tokenizer_rules")}

    def _written_by(self, stage: str) -> dict[str, str | int]:
        return {"stage": stage, "seed": self.config.seed, **self._tokenized_by}

    @functools.cached_property
    def model(self) -> ModelConfig:
        """Shape of the decoder; without released weights or a variant the vocabulary decides."""
        model = schema.model_config(self.config, self.tokenizer.vocab_size)
        hub.check_vocab(model, self.tokenizer.vocab_size, "config.tokenizer")
        return model

    def trained_model(self, name: str) -> ModelConfig:
        """The decoder as stage `name` trains it: with adapters where `config.lora` says so."""
        return dataclasses.replace(self.model, lora=self.config.adapters(name))

    @functools.cached_property
    def rollout_model(self) -> ModelConfig:
        """The same with the rules by which parameters are split while they are sampled from."""
        return dataclasses.replace(self.model, rules=self.config.mesh.table(rollout=True))

    @property
    def split_over_devices(self) -> jax.NamedSharding:
        """Leading axis over the batch axes of the mesh."""
        return self._split(self.model.rules)

    def _split(self, rules: Rules) -> jax.NamedSharding:
        axes = sharding.mesh_axes(self.mesh.shape, rules, "batch")
        return jax.NamedSharding(self.mesh, jax.P(axes))

    @property
    def on_every_device(self) -> jax.NamedSharding:
        """Replicated."""
        return jax.NamedSharding(self.mesh, jax.P())

    @property
    def param_shardings(self) -> dict:
        """Where each parameter of the decoder is."""
        return transformer.param_shardings(self.model, self.mesh)

    def for_rollout(self, params: dict, adapters: LoRAConfig | None = None) -> dict:
        """Parameters of the decoder, split and typed as they are sampled from."""
        model = dataclasses.replace(self.rollout_model, lora=adapters)
        shardings = transformer.param_shardings(model, self.mesh)
        return sharding.reshard(params, shardings, transformer.frozen_dtypes(model))

    def engine(
        self,
        name: str,
        buckets: Buckets,
        *,
        server: Server | None = None,
        adapters: LoRAConfig | None = None,
    ) -> JittedEngine | RemoteEngine:
        """The engine of a section: on the devices of the mesh, or on a server if one is given."""
        if server is not None:
            return RemoteEngine(buckets, server, self.path("partial", f"{name}.jsonl"))
        engine = JittedEngine(
            dataclasses.replace(self.rollout_model, lora=adapters),
            buckets,
            stop_ids=self.tokenizer.stop_ids,
            pad_id=self.tokenizer.pad_id,
            chunk=self.config.sampling.chunk,
            sharding=self._split(self.rollout_model.rules),
        )
        self.engines.append(engine)
        return engine

    def draw_config(self, draw: DrawConfig, **fields) -> DrawConfig:
        """A section `draw` with the template of this run, and other fields that are changed."""
        template = self.config.template
        return dataclasses.replace(
            draw, **{"form": template.form, "principles": template.principles, **fields}
        )

    # Parameters.

    def has_params(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return self.path("params", stage, "DONE").exists()

    def save_params(self, stage: str, params: dict, *, reward: bool = False) -> None:
        """Writes the final parameters of a stage and marks it finished.

        The folder params/<stage> is one that `tools.convert` exports. `reward`: a decoder and a
        scalar head.

        Raises:
          FloatingPointError: for a value that is not finite; nothing is written.
        """
        checkpoints.require_finite(params, f"{self.path('params', stage)}")
        checkpoints.save_params(self.path("params", stage, record.PARAMS), params)
        done = {"fingerprint": params_digest(params), **self._written_by(stage)}
        if self.writes:
            source = self.config.released.model if self.config.released is not None else None
            record.write(self.path("params", stage), self.model, reward=reward, source=source)
            write_json(self.path("params", stage, "DONE"), done)
        processes.wait(f"parameters of {stage}")
        if self.stopping:
            self.stop(f"stage {stage}")

    def load_params(self, stage: str, abstract=None) -> dict:
        """Final parameters of a stage, split over the mesh.

        Args:
          stage: its name on disk.
          abstract: shapes and shardings of other parameters than those of a decoder.

        Raises:
          ValueError: if the stage has not been run in this workdir; naming the folder, if it holds
            something else than what the stage wrote.
        """
        if not self.has_params(stage):
            raise ValueError(f"{self.workdir}: stage {stage!r} is not finished; run it first")
        folder = self.path("params", stage)
        done = read_json(folder / "DONE")
        # Stages of earlier versions have the fingerprint alone, or a part of the rest.
        digest = str(done.get("fingerprint"))
        now = {"fingerprint": digest, **self._written_by(stage)}
        if different := settings.differing_fields(now | done, now, "DONE"):
            raise ValueError(
                f"{folder}: not what stage {stage!r} left there: {'; '.join(different)}; put the "
                "folder back, or remove it to train the stage again"
            )
        if abstract is None:
            abstract = with_shardings(
                transformer.abstract_params(self.model), self.param_shardings
            )
        return checkpoints.load_params(folder / record.PARAMS, abstract, digest)

    def load_start(self, name: str) -> dict:
        """Parameters of "base" or "cold_start", or what stands for a stage without a section.

        Released weights are a base that needs no training, and a model that follows instructions
        is a cold start as it is; nothing is written for either.
        """
        for stage in ("cold_start", "base")[("cold_start", "base").index(name) :]:
            if getattr(self.config, stage) is not None:
                return self.load_params(self.stage(stage))
        return self.init_params()

    def init_params(self) -> dict:
        """What a run starts from, split over the mesh: released weights, or random parameters."""
        if self.config.released is not None:
            return self.load_released(self.config.released.model, self.model.param_dtype).params
        key = jax.random.fold_in(self.base_key, 0)
        init = jax.jit(
            lambda key: transformer.init(self.model, key), out_shardings=self.param_shardings
        )
        return init(key)

    def adapter_key(self, stage: str) -> jax.Array:
        """Key of the fresh adapters of a stage; each stage looks into other directions."""
        return keys.stage_key(self.base_key, f"{stage}/adapters", 0)

    def load_released(self, folder: str, param_dtype: str) -> hub.Checkpoint:
        """A checkpoint of the hub, read straight into the parts of each device."""
        self.say(f"reading {folder}")
        shape = dataclasses.replace(hub.read_config(folder), rules=self.model.rules)
        shardings = transformer.param_shardings(shape, self.mesh)
        checkpoint = hub.load(folder, param_dtype=param_dtype, shardings=shardings)
        return checkpoint._replace(
            config=dataclasses.replace(checkpoint.config, rules=self.model.rules),
            head=sharding.put(checkpoint.head, self.on_every_device),
        )

    def fingerprint(self, digest: str, draw: DrawConfig, work: Iterable = ()) -> str:
        """Names what decides a trajectory: parameters, template, tokenizer, sampling.

        `digest` is that of the parameters: to hash them takes minutes for the largest models.
        Work units count by their place in a work list, so what decides the list, such as the
        buckets and the comparisons, goes into `work` where it may change between two runs.
        """
        parts = [
            digest, prompts.template_fingerprint(), self.tokenizer.fingerprint(),
            draw.form, draw.principles, repr(draw.temperature), repr(draw.top_p),
            # Before it meant cyclic shifts, "balanced" had other orders; they are never mixed.
            draw.order_policy.replace("balanced", "cyclic"), str(draw.max_orders),
            str(self.config.seed),
            *map(repr, work),
        ]  # fmt: skip
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

    # Training.

    def resume(
        self, stage: str, state: TrainState, batches: Iterator
    ) -> tuple[checkpoints.Checkpoints, TrainState, int]:
        """Where a stage goes on: its checkpoints, the state of the latest, and its next step.

        Batches and metrics are set back to there; without a checkpoint, to the beginning.
        """
        saved = checkpoints.Checkpoints(self.path("checkpoints", stage), run=self.digest)
        first = 0
        if saved.latest() is not None:
            state, _ = saved.restore(state, data_iterator=batches)
            first = int(state.step)
        self.metrics.rewind(stage, first)
        return saved, state, first

    # What people look at.

    def say(self, text: str) -> None:
        """One line above the progress bar."""
        self.console.print(text, markup=False, highlight=False)

    def progress(
        self, title: str, total: int, done: int = 0
    ) -> contextlib.AbstractContextManager[Callable]:
        """A bar with rate and time left; yields advance(step=1, note='')."""
        return progress.bar(self.console, title, total, done)


def with_shardings(shapes: dict, shardings: dict) -> dict:
    """Shapes and dtypes that say where each leaf goes."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def write_json(path: pathlib.Path, value) -> None:
    """Replaces a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


class _Claim:
    """Exclusive locks on a workdir, until they are closed.

    On the folder itself, where the file system has locks of folders, because .lock can be removed.
    """

    def __init__(self, workdir: pathlib.Path):
        self._handles = []
        for path, how in ((workdir / ".lock", os.O_RDWR | os.O_CREAT), (workdir, os.O_RDONLY)):
            self._handles.append(os.open(path, how, 0o644))
            try:
                fcntl.flock(self._handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if path != workdir or isinstance(error, BlockingIOError):
                    self.close()
                    raise ValueError(f"{workdir} is in use by another process") from error

    def close(self) -> None:
        """Gives the locks back."""
        while self._handles:
            os.close(self._handles.pop())

    __del__ = close


def _set_up_devices(config: MeshConfig) -> jax.sharding.Mesh:
    """The mesh. A CPU gets as many devices as it wants; each works with one thread of its own.

    Of several processes each has one device of the CPU, or as many as XLA_FLAGS says.

    Raises:
      ValueError: if the mesh does not take all devices of the machine.
    """
    if config.size > 1 and not processes.several():
        flag = "--xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        with contextlib.suppress(RuntimeError):  # too late once a backend is up, as in tests
            jax.config.update("jax_num_cpu_devices", config.size)
    devices = jax.devices()
    if devices[0].platform == "cpu" and not processes.several():
        devices = devices[: config.size]
    try:
        return make_mesh(config, devices)
    except ValueError as error:
        raise ValueError(f"config.mesh: {error}") from error


def _environment() -> dict:
    commit = ""
    if shutil.which("git"):
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False,
            cwd=pathlib.Path(__file__).parent,
        ).stdout.strip()  # fmt: skip
    return {
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "devices": [str(device) for device in jax.devices()],
        "machine": platform.platform(),
        "commit": commit,
    }


def _corpus(world: SmallWorld) -> Iterator[str]:
    """Text to train the tokenizer on: prompts and demonstrations of both principle modes."""
    rng = np.random.default_rng(0)
    for comparison in world.comparisons("train", 600, seed=1):
        for mode in prompts.PRINCIPLE_MODES:
            binary = comparison.n == 1
            yield prompts.grm_prompt(
                comparison.messages, comparison.responses, form="compact", principles=mode,
                binary=binary, hint=comparison.label if binary else comparison.best,
            )  # fmt: skip
            yield world.demonstration(comparison, rng, principles=mode)
        yield prompts.meta_rm_prompt(comparison.messages, comparison.responses, form="compact")
    for messages, answer in world.general(300, seed=1):
        yield from (messages[0].content, answer)


def carry_out(
    experiment: Callable[[Run], None], config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
    """One experiment on one workdir, which SIGTERM stops at its next safe point."""
    run = Run(config, workdir)
    signal.signal(signal.SIGTERM, run.ask_to_stop)
    try:
        with jax.set_mesh(run.mesh):
            experiment(run)
        if run.stopping:  # nothing else may begin
            run.stop("all of it")
    finally:
        if run.writes:
            run._lock.close()


def main(experiment: Callable[[Run], None]) -> None:
    """Runs one experiment from the command line."""
    start(functools.partial(carry_out, experiment))


def start(program: Callable[[ml_collections.ConfigDict, pathlib.Path], None]) -> None:
    """Runs a program of a config and a workdir from the command line."""

    def with_flags(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # jax tells of each backend that is not there
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {argv[1:]}")
        sys.stdout.reconfigure(errors="replace")  # no table is lost on a terminal of ASCII
        try:
            if command_line.show_config():
                return
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        workdir = pathlib.Path(_WORKDIR.value).expanduser()
        try:
            launch.start(workdir)
            program(_CONFIG.value, workdir)
        except Stopped as stopped:
            if processes.index() == 0:
                print(stopped, flush=True)
            sys.exit(STOPPED)
        except Exception as error:
            if processes.several():
                launch.fail(workdir, error)
            if isinstance(error, ValueError | OSError | FloatingPointError):
                sys.exit(f"error: {error}")
            raise

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return app.parse_flags_with_usage(argv)
        except (AttributeError, KeyError) as error:
            if (unknown := command_line.unknown_field(error, argv)) is None:
                raise
            sys.exit(f"error: {unknown}")

    command_line.require("workdir")
    app.run(with_flags, flags_parser=parse)
