"""One experiment on one workdir: everything that its stages share.

The config, the devices and the base key, the tokenizer and the model, the source of comparisons,
the console, and requests to stop. The files are those of `experiments.workdir`.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import jax
import ml_collections
import numpy as np
import rich.console

from experiments import arms, progress, schema
from experiments.config import build, complete, in_use
from experiments.progress import Metrics
from experiments.sections import Config
from experiments.training_data import TrainingData
from experiments.workdir import Workdir
from grm_jax.data.comparison import Comparison
from grm_jax.data.small_world import SmallWorld
from grm_jax.files import write_json
from grm_jax.models import hub, transformer
from grm_jax.models.config import LoRAConfig, ModelConfig
from grm_jax.parallel import processes, sharding
from grm_jax.parallel.mesh import MeshConfig, Rules, make_mesh
from grm_jax.ranges import split
from grm_jax.sampling import keys
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.draw import Drawer
from grm_jax.sampling.engine import JittedEngine
from grm_jax.sampling.remote import RemoteEngine, Server
from grm_jax.sampling.scheduler import Buckets
from grm_jax.text import prompts
from grm_jax.text.tokenizers import SentencePieceTokenizer, Tokenizer, train_sentencepiece


class Stopped(Exception):
    """The run was asked to stop, and all its work is on disk; the message says where it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One arm of one experiment on one workdir.

    Attributes:
      fields: the whole config with every default, as flags and arms change it.
      config: the same, typed and checked.
      arm_name: name of this arm; `arms.MAIN` is the run itself.
      arms: `fields` of the run itself and of each of its arms.
      workdir: the folder; all arms share it and the attributes below.
      mesh: the devices.
      base_key: the key from which all others are folded.
      data: the files of section `data`; None on a small world.
      metrics: the log of training.
      console: the terminal.
      stop_asked: set once the run is asked to stop.
    """

    fields: ml_collections.FrozenConfigDict
    config: Config
    arm_name: str
    arms: Mapping[str, ml_collections.FrozenConfigDict]
    workdir: Workdir
    mesh: jax.sharding.Mesh
    base_key: jax.Array
    data: TrainingData | None
    metrics: Metrics
    console: rich.console.Console
    stop_asked: threading.Event

    @classmethod
    def open(
        cls,
        config: ml_collections.ConfigDict,
        root: str | os.PathLike,
        *,
        requires: Sequence[str] = (),
    ) -> "Run":
        """Checks the config, claims the workdir, sets up the devices; in this order.

        Args:
          config: a config file with its flags.
          root: the workdir.
          requires: sections that the experiment cannot do without.

        Raises:
          ValueError: for a bad config, or a workdir of another config or in use.
        """
        fields = ml_collections.FrozenConfigDict(complete(in_use(config)))
        typed = schema.check(fields)
        typed.require(*requires)
        schema.check_files(typed)
        of_arms = arms.every(fields, all_arms=False)
        workdir = Workdir(root)
        workdir.keep_config(fields)
        console = rich.console.Console(quiet=not workdir.writes)
        data = None
        if typed.data is not None:
            say = functools.partial(console.print, markup=False, highlight=False)
            data = TrainingData(typed.data, typed.seed, workdir.root, say)
            if workdir.writes and data.fresh:
                write_json(workdir.path("data.json"), data.report)
            measured = split(typed.benchmark.arms) if typed.benchmark is not None else []
            for arm in (arms.MAIN, *measured):
                if (grpo := build(of_arms[arm]).grpo) is not None:
                    field = "config.grpo.loop.prompts_per_step"
                    data.require_batch(grpo.loop.prompts_per_step, field)
        mesh = _set_up_devices(typed.mesh)
        workdir.separate_logs()
        # Made here and not on first use, which may be inside a trace.
        with jax.set_mesh(mesh):
            base_key = jax.random.key(typed.seed)
        if workdir.writes:
            write_json(workdir.path("fingerprint.json"), _environment())
        metrics = Metrics(workdir.path("metrics.jsonl").parent)
        return cls(
            fields=fields, config=typed, arm_name=arms.MAIN, arms=of_arms, workdir=workdir,
            mesh=mesh, base_key=base_key, data=data, metrics=metrics, console=console,
            stop_asked=threading.Event(),
        )  # fmt: skip

    def arm(self, name: str) -> "Run":
        """The same run with the changes of an arm.

        Raises:
          ValueError: there is no such arm.
        """
        if name not in self.arms:
            arms.changed(self.fields, name)  # raises the reason
        fields = self.arms[name]
        return dataclasses.replace(self, fields=fields, config=build(fields), arm_name=name)

    # Stopping.

    def ask_to_stop(self, number: int, frame: object = None) -> None:
        """Handles a signal: the run stops at its next safe point, or at the second signal at once.

        Safe points are the end of a training step, which is then saved, and the end of a work unit.
        """
        signal.signal(number, signal.SIG_DFL)
        self.stop_asked.set()

    @property
    def stopping(self) -> bool:
        """Whether any process of the run was asked to stop.

        All processes must read it together, once a step or unit, before they decide to save.
        """
        return processes.any_of(self.stop_asked.is_set())

    def stop(self, where: str) -> NoReturn:
        """Leaves the experiment; all work has to be on disk."""
        raise Stopped(f"stopped, {where} is on disk; the same command goes on from there")

    # Stages.

    def stage(self, name: str) -> str:
        """Name of a stage on disk; arms that train a stage in the same way share it.

        Raises:
          ValueError: the workdir has a stage of this name that another config decided.
        """
        return arms.stage_name(self.workdir.path("stages"), self.fields, self.arms, name)

    def begin(self, name: str) -> str | None:
        """Name on disk of a stage that is not finished; None for a finished one.

        First writes the sections that decide the stage. Raises as `stage`.
        """
        stage = self.stage(name)
        if self.workdir.has_params(stage):
            return None
        path = self.workdir.path("stages", f"{stage}.json")
        if name in arms.STAGES and self.workdir.writes and not path.exists():
            write_json(path, json.loads(arms.deciding(self.fields, name)))
        return stage

    # Data.

    @functools.cached_property
    def world(self) -> SmallWorld | None:
        """The small world, if the config trains on one."""
        return SmallWorld(self.config.small_world) if self.config.small_world is not None else None

    def comparisons(self, split: str, count: int, *, seed: int = 0) -> list[Comparison]:
        """Comparisons of a split of the small world or of `data.<split>`, always in the same order.

        Raises:
          ValueError: the config has no such data, or bad files, or shows references and no row of
            them has one.
        """
        if self.world is not None:
            return self.world.comparisons(split, count, seed=seed)
        if self.data is None:
            raise ValueError(f"config.data.{split}: section is missing")
        found = self.data.take(split, count)
        if self.config.template.reference and found and not any(c.reference for c in found):
            raise ValueError(f"config.template.reference: config.data.{split} has no references")
        return found

    # Tokenizer, model, device.

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: of `tokenizer.path`, of released weights, or trained on the small world.

        A folder brings its own chat template, a file is a SentencePiece model with Gemma's.
        """
        if (tokenizer := schema.tokenizer_of_files(self.config)) is not None:
            return tokenizer
        path = self.workdir.path("tokenizer.model")
        if self.workdir.writes and not path.exists():
            train_sentencepiece(
                _corpus(self.world), path, vocab_size=self.config.tokenizer.vocab_size
            )
        processes.wait("tokenizer")
        return SentencePieceTokenizer.from_file(path)

    @functools.cached_property
    def _written_by(self) -> dict[str, str | int]:
        digests = self.tokenizer.fingerprints()
        names = ("tokenizer", "tokenizer_rules")
        return {"seed": self.config.seed, **{name: digests[name] for name in names}}

    @functools.cached_property
    def model(self) -> ModelConfig:
        """Shape of the decoder, with the tokenizer's vocabulary if no weights or variant fix it."""
        model = schema.model_config(self.config, self.tokenizer.vocab_size)
        hub.check_vocab(model, self.tokenizer.vocab_size, "config.tokenizer")
        return model

    def trained_model(self, name: str) -> ModelConfig:
        """The decoder as stage `name` trains it: with adapters where `config.lora` says so."""
        return dataclasses.replace(self.model, lora=self.config.adapters(name))

    @functools.cached_property
    def rollout_model(self) -> ModelConfig:
        """The decoder with the sharding rules of rollouts."""
        return self.model.replace(rules=self.config.mesh.table(rollout=True))

    @property
    def split_over_devices(self) -> jax.NamedSharding:
        """Sharding of the leading axis over the batch axes of the mesh."""
        return self._split(self.model.compute.rules)

    def _split(self, rules: Rules) -> jax.NamedSharding:
        axes = sharding.mesh_axes(self.mesh.shape, rules, "batch")
        return jax.NamedSharding(self.mesh, jax.P(axes))

    @property
    def on_every_device(self) -> jax.NamedSharding:
        """Sharding that replicates an array."""
        return jax.NamedSharding(self.mesh, jax.P())

    @property
    def param_shardings(self) -> dict:
        """Shardings of the parameters of the decoder."""
        return transformer.param_shardings(self.model, self.mesh)

    def for_rollout(self, params: dict, adapters: LoRAConfig | None = None) -> dict:
        """Parameters of the decoder with the shardings and dtypes of rollouts."""
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
        """The engine of a section: on the devices of the mesh, or of a given server."""
        if server is not None:
            return RemoteEngine(buckets, server, self.workdir.path("partial", f"{name}.jsonl"))
        return JittedEngine(
            dataclasses.replace(self.rollout_model, lora=adapters),
            buckets,
            stop_ids=self.tokenizer.stop_ids,
            pad_id=self.tokenizer.pad_id,
            chunk=self.config.sampling.chunk,
            sharding=self._split(self.rollout_model.compute.rules),
        )

    def drawer(self, engine: JittedEngine | RemoteEngine, config: DrawConfig) -> Drawer:
        """A drawer with the tokenizer, the seed and the keys of this run."""
        return Drawer(engine, self.tokenizer, config, self.config.seed, self.base_key)

    # Parameters.

    def save_params(self, stage: str, params: dict, *, reward: bool = False) -> None:
        """Ends a stage with its final parameters; see `Workdir.save_params`."""
        self.workdir.save_params(
            stage, params, self.model, written_by=self._written_by, reward=reward,
            source=self.config.released.model if self.config.released is not None else None,
        )  # fmt: skip
        if self.stopping:
            self.stop(f"stage {stage}")

    def load_params(self, stage: str, abstract: dict | None = None) -> dict:
        """Final parameters of a stage, split over the mesh; see `Workdir.load_params`.

        `abstract`: shapes and shardings of the parameters, if they are not those of a decoder.
        """
        if abstract is None:
            abstract = with_shardings(transformer.abstract_params(self.model), self.param_shardings)
        return self.workdir.load_params(stage, abstract, written_by=self._written_by)

    def load_base(self) -> dict:
        """Parameters of the base model, or the initial ones of a run without that stage."""
        if self.config.base is None:
            return self.init_params()
        return self.load_params(self.stage("base"))

    def load_cold_start(self) -> dict:
        """Parameters of the cold start, or those of the base model in a run without that stage."""
        if self.config.cold_start is None:
            return self.load_base()
        return self.load_params(self.stage("cold_start"))

    def init_params(self) -> dict:
        """Initial parameters, split over the mesh: released weights, or random ones."""
        if self.config.released is not None:
            folder, param_dtype = self.config.released.model, self.model.compute.param_dtype
            return self.load_released(folder, param_dtype).params
        key = jax.random.fold_in(self.base_key, 0)
        init = jax.jit(
            lambda key: transformer.init(self.model, key), out_shardings=self.param_shardings
        )
        return init(key)

    def adapter_key(self, stage: str) -> jax.Array:
        """Key of the initial adapters of a stage."""
        return keys.stage_key(self.base_key, f"{stage}/adapters", 0)

    def load_released(self, folder: str, param_dtype: str) -> hub.Checkpoint:
        """A checkpoint in the hub format, each device reading its own part."""
        self.say(f"reading {folder}")
        shape = hub.read_config(folder).replace(rules=self.model.compute.rules)
        shardings = transformer.param_shardings(shape, self.mesh)
        checkpoint = hub.load(folder, param_dtype=param_dtype, shardings=shardings)
        return checkpoint._replace(
            config=checkpoint.config.replace(rules=self.model.compute.rules),
            head=sharding.put(checkpoint.head, self.on_every_device),
        )

    # Output for people.

    def say(self, text: str) -> None:
        """One line above the progress bar."""
        self.console.print(text, markup=False, highlight=False)

    def progress(
        self, title: str, total: int, done: int = 0
    ) -> contextlib.AbstractContextManager[Callable]:
        """A bar with rate and time left; yields advance(step=1, note='')."""
        return progress.bar(self.console, title, total, done)


def carry_out(
    experiment: Callable[[Run], None],
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    requires: Sequence[str] = (),
) -> None:
    """Runs one experiment on one workdir; SIGTERM stops it at its next safe point.

    `requires` names the sections without which the experiment cannot begin.
    """
    run = Run.open(config, workdir, requires=requires)
    signal.signal(signal.SIGTERM, run.ask_to_stop)
    try:
        with jax.set_mesh(run.mesh):
            experiment(run)
        if run.stopping:  # nothing else may begin
            run.stop("all of it")
    finally:
        run.workdir.close()


def with_shardings(shapes: dict, shardings: dict) -> dict:
    """Shapes and dtypes with the sharding of each leaf."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _set_up_devices(config: MeshConfig) -> jax.sharding.Mesh:
    """The mesh. A CPU is split into as many devices as the mesh needs, with one thread each.

    Each of several processes has one CPU device, or as many as XLA_FLAGS sets.

    Raises:
      ValueError: if the mesh does not use all devices of the machine.
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
    commit, here = "", pathlib.Path(__file__).parent
    with contextlib.suppress(FileNotFoundError):  # without git
        command = ["git", "-C", here, "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "python": sys.version.split()[0], "jax": jax.__version__,
        "devices": [str(device) for device in jax.devices()],
        "machine": platform.platform(), "commit": commit,
    }  # fmt: skip


def _corpus(world: SmallWorld) -> Iterator[str]:
    """Training text of the tokenizer: prompts and demonstrations of both principle modes."""
    rng = np.random.default_rng(0)
    for comparison in world.comparisons("train", 600, seed=1):
        for mode in prompts.PRINCIPLE_MODES:
            binary = comparison.n == 1
            yield prompts.grm_prompt(
                comparison.messages, comparison.responses, form="compact", principles=mode,
                binary=binary,
                hint=prompts.Hint(comparison.label if binary else comparison.best),
            )  # fmt: skip
            yield world.demonstration(comparison, rng, principles=mode)
        yield prompts.meta_rm_prompt(comparison.messages, comparison.responses, form="compact")
    for messages, answer in world.general(300, seed=1):
        yield from (messages[0].content, answer)
