"""Supervised stages: the base model on general data, then the cold start on demonstrations.

    python -m experiments.sft --config=configs/small_world.py --workdir=DIR
"""

import array
import time
from collections.abc import Sequence

import jax
import numpy as np

from experiments import run as runs
from experiments.config import RFT, Supervised
from grm_jax.data import pipeline
from grm_jax.learning import sft
from grm_jax.learning.state import make_optimizer, start_state
from grm_jax.models import lora
from grm_jax.parallel.sharding import put
from grm_jax.text.prompts import Message, grm_prompt


def example(run: runs.Run, messages: Sequence[Message], answer: str) -> pipeline.Example:
    """One conversation and its answer as token ids, 4 bytes each: there may be a million."""
    prompt = run.tokenizer.chat(messages)
    closed = [*run.tokenizer.encode(answer), run.tokenizer.end_of_turn_id]
    return pipeline.Example(array.array("i", prompt + closed), len(prompt))


def general_examples(run: runs.Run, count: int, *, seed: int) -> list[pipeline.Example]:
    """General instruction data, of the small world or from `config.data.general`."""
    if not count:
        return []
    if run.world is not None:
        return [example(run, *pair) for pair in run.world.general(count, seed=seed)]
    examples, refused = [], []
    for one in run.data.take("general", count):
        try:
            examples.append(example(run, one.messages, one.answer))
        except ValueError as error:  # a chat template may refuse what others write
            refused.append(f"{one.uid}: {error}")
    if refused:
        problem = f"{len(refused)} conversations cannot be written (first: {refused[0]})"
        if len(refused) > 0.05 * (len(examples) + len(refused)):
            raise ValueError(f"config.data.general: {problem}")
        run.say(f"data.general: {problem}, dropped")
    return examples


def demonstrations(
    run: runs.Run, count: int, *, seed: int, verdicts: str
) -> list[pipeline.Example]:
    """Trajectories of the imperfect demonstrator, some of them with the hint in the prompt."""
    examples = []
    for index, comparison in enumerate(run.comparisons("train", count, seed=seed)):
        rng = np.random.default_rng((seed, index))
        shown = comparison.in_order(rng.permutation(comparison.n))
        binary = shown.n == 1
        hint = None
        if rng.random() < run.world.config.hinted:
            hint = shown.label if binary else shown.best
        text = grm_prompt(
            shown.messages, shown.responses, form=run.config.template.form,
            principles=run.principles, binary=binary, hint=hint,
        )  # fmt: skip
        answer = run.world.demonstration(
            shown, rng, principles=run.principles, verdicts=verdicts, hint=hint
        )
        examples.append(example(run, [Message("user", text)], answer))
    return examples


def train(
    run: runs.Run,
    stage: str,
    section: str,
    own: Supervised | RFT,
    params: dict,
    examples: list[pipeline.Example],
) -> None:
    """Trains one stage to its end, from its latest checkpoint if there is one.

    `section` is what the stage is called in the config, `own` what stands there. With adapters,
    `params` stay frozen and what is saved at the end has them merged.
    """
    data, packing, config = own.data, own.packing, own.optimizer
    examples, too_long = pipeline.split_too_long(examples, packing.row_length)
    if len(too_long) > 0.05 * (len(examples) + len(too_long)):
        raise ValueError(
            f"config.{section}.packing.row_length: {len(too_long)} examples exceed "
            f"{packing.row_length} tokens"
        )
    batches = pipeline.packed_batches(examples, packing, seed=run.config.seed)
    optimizer = make_optimizer(config)
    model = run.trained_model(section)
    step_fn = sft.make_train_step(model, optimizer, micro_batches=data.micro_batches)
    base, trained = lora.start(model, params, run.adapter_key(stage), run.mesh)
    state = start_state(trained, optimizer, run.base_key)

    checkpoints, state, first = run.resume(stage, state, batches)
    run.say(
        f"{stage}: {len(examples)} examples ({len(too_long)} too long), {config.steps} steps of "
        f"{packing.batch_size} x {packing.row_length} tokens" + (f", from {first}" if first else "")
    )
    pending = None
    with run.progress(stage, config.steps, first) as advance:
        for step in range(first, config.steps):
            began = time.monotonic()
            batch = put(next(batches), run.split_over_devices)
            state, metrics = step_fn(state, base, batch)
            note = ""
            if pending is not None:  # of the step before: logging never stalls the device
                note = _log(run, stage, *pending)
            pending = (step, metrics, began, packing.batch_size * packing.row_length)
            stopping = run.stopping
            if (step + 1) % data.checkpoint_every == 0 or step + 1 == config.steps or stopping:
                _log(run, stage, *pending)
                pending = None
                checkpoints.save(step + 1, state, {}, batches)
            advance(note=note)
            if stopping:
                checkpoints.close()
                run.stop(f"step {step + 1} of {stage}")
    checkpoints.close()
    run.save_params(stage, lora.merge(model, lora.join(base, state.params)))


def _log(run, stage, step, metrics, began, tokens) -> str:
    metrics = run.metrics.check(stage, step, jax.device_get(metrics))
    seconds = time.monotonic() - began
    if (step + 1) % 10 == 0 or step == 0:
        run.metrics.write(stage, step, metrics, {"tokens_per_second": tokens / seconds})
    return f"loss {metrics['loss']:.3f}"


def run_stage(run: runs.Run, name: str) -> None:
    """Runs "base" or "cold_start", unless it is finished or the config has no section for it."""
    stage = run.stage(name)
    own = run.config.stages().get(name)
    if own is None or run.has_params(stage):
        return
    run.begin(name)
    data, seed = own.data, run.config.seed
    examples = general_examples(run, data.general, seed=seed)
    if name == "base":
        params = run.init_params()
    else:
        examples += demonstrations(
            run, data.demonstrations, seed=seed, verdicts=data.verdicts
        )
        params = run.load_start("base")
    train(run, stage, name, own, params, examples)


def main(run: runs.Run) -> None:
    """Base, then cold start."""
    run_stage(run, "base")
    run_stage(run, "cold_start")


if __name__ == "__main__":
    runs.main(main)
