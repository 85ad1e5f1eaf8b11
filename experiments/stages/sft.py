"""Supervised stages: the base model on general data, then the cold start on demonstrations."""

import array
from collections.abc import Sequence

import numpy as np

from experiments.run import Run
from experiments.sections import RFT, Supervised
from experiments.stages import training
from grm_jax.data import pipeline, reference_rule
from grm_jax.learning import sft
from grm_jax.learning.state import TrainState, make_optimizer, start_state
from grm_jax.models import lora
from grm_jax.parallel.sharding import put
from grm_jax.text.prompts import Hint, Message, grm_prompt


def example(run: Run, messages: Sequence[Message], answer: str) -> pipeline.Example:
    """Token ids of a conversation and its answer, 4 bytes each: there may be a million examples."""
    prompt = run.tokenizer.chat(messages)
    closed = [*run.tokenizer.encode_answer(answer), run.tokenizer.end_of_turn_id]
    return pipeline.Example(array.array("i", prompt + closed), len(prompt))


def general_examples(run: Run, count: int, *, seed: int) -> list[pipeline.Example]:
    """General instruction data, of the small world or from `config.data.general`."""
    if not count:
        return []
    if run.world is not None:
        return [example(run, *pair) for pair in run.world.general(count, seed=seed)]
    examples, refused = [], []
    for record in run.data.take("general", count):
        try:
            examples.append(example(run, record.messages, record.answer))
        except ValueError as error:  # chat templates refuse some conversations
            refused.append(f"{record.uid}: {error}")
    if refused:
        problem = f"{len(refused)} conversations cannot be written (first: {refused[0]})"
        if len(refused) > 0.05 * (len(examples) + len(refused)):
            raise ValueError(f"config.data.general: {problem}")
        run.say(f"data.general: {problem}, dropped")
    return examples


def demonstrations(run: Run, count: int, *, seed: int, verdicts: str) -> list[pipeline.Example]:
    """Demonstrations of an imperfect demonstrator, some with the hint in the prompt.

    That is the demonstrator of the small world, or the rule of `reference_rule`. The hints of the
    rule are its own verdicts, so that it teaches without labels.
    """
    examples, template = [], run.config.template
    share = run.world.config.hinted if run.world is not None else reference_rule.HINTED
    for index, comparison in enumerate(run.comparisons("train", count, seed=seed)):
        rng = np.random.default_rng((seed, index))
        shown = comparison.in_order(rng.permutation(comparison.n))
        binary = shown.n == 1
        hinted, hint = rng.random() < share, None
        if run.world is not None:
            if hinted:
                hint = shown.label if binary else shown.best
            answer = run.world.demonstration(
                shown, rng, principles=template.principles, verdicts=verdicts, hint=hint
            )
        else:
            if hinted:
                hint = reference_rule.verdict(shown)
            answer = reference_rule.demonstration(shown, rng, principles=template.principles)
        text = grm_prompt(
            shown.messages, shown.responses, form=template.form, principles=template.principles,
            binary=binary, hint=None if hint is None else Hint(hint),
            reference=shown.reference if template.reference else "",
        )  # fmt: skip
        examples.append(example(run, [Message("user", text)], answer))
    return examples


def train(
    run: Run,
    stage: str,
    name: str,
    section: Supervised | RFT,
    params: dict,
    examples: list[pipeline.Example],
) -> None:
    """Fine-tunes on examples, packed into rows, until the stage is finished.

    Args:
      run: the arm.
      stage: its name on disk.
      name: its name in the config.
      section: its section of the config.
      params: the start. Adapters leave them frozen, and are merged into the saved parameters.
      examples: at most one in twenty may be longer than a row, and is left out.
    """
    packing, config = section.packing, section.optimizer
    examples, too_long = pipeline.split_too_long(examples, packing.row_length)
    if len(too_long) > 0.05 * (len(examples) + len(too_long)):
        raise ValueError(
            f"config.{name}.packing.row_length: {len(too_long)} examples exceed "
            f"{packing.row_length} tokens"
        )
    batches = pipeline.packed_batches(examples, packing, seed=run.config.seed)
    optimizer = make_optimizer(config)
    model = run.trained_model(name)
    update = sft.make_train_step(model, optimizer, micro_batches=section.data.micro_batches)
    frozen, trained = lora.start(model, params, run.adapter_key(stage), run.mesh)

    def step(_: int, state: TrainState) -> training.Stepped:
        state, metrics = update(state, frozen, put(next(batches), run.split_over_devices))
        return training.Stepped(state, metrics, tokens=packing.batch_size * packing.row_length)

    loop = training.Loop(
        step, config.steps, section.data.checkpoint_every,
        f"{len(examples)} examples ({len(too_long)} too long), {config.steps} steps of "
        f"{packing.batch_size} x {packing.row_length} tokens",
    )  # fmt: skip
    state = start_state(trained, optimizer, run.base_key)
    state = training.train(run, stage, state, batches, loop)
    run.save_params(stage, lora.merge(model, lora.join(frozen, state.params)))


def base(run: Run) -> None:
    """The base model on general data, unless it is finished."""
    if (stage := run.begin("base")) is None:
        return
    section = run.config.base
    examples = general_examples(run, section.data.general, seed=run.config.seed)
    train(run, stage, "base", section, run.init_params(), examples)


def cold_start(run: Run) -> None:
    """The cold start on demonstrations and general data, unless it is finished."""
    if (stage := run.begin("cold_start")) is None:
        return
    section, seed = run.config.cold_start, run.config.seed
    data = section.data
    examples = general_examples(run, data.general, seed=seed)
    examples += demonstrations(run, data.demonstrations, seed=seed, verdicts=data.verdicts)
    train(run, stage, "cold_start", section, run.load_base(), examples)
