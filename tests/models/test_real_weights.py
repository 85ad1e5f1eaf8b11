"""Pretrained models on every path: logits, samples, export, a step of adapters and a full one.

GRM_JAX_MODELS names a folder of checkpoint folders, small enough for this machine; without it these
tests are skipped. The weights may have been dequantised from a GGUF file (tools.from_gguf): parity
is with transformers on the same folder.
"""

import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.learning import sft
from grm_jax.learning.state import OptimizerConfig, create_state, make_optimizer
from grm_jax.models import hub, lora
from grm_jax.models.config import LoRAConfig
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import JittedEngine
from grm_jax.sampling.prompt import Prompt
from grm_jax.sampling.scheduler import Buckets, Request, plan_units
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message
from tools import check_parity, outputs

pytestmark = pytest.mark.slow

_NAMED = os.environ.get("GRM_JAX_MODELS")
_FOLDERS = sorted(path.parent for path in pathlib.Path(_NAMED or "/none").glob("*/config.json"))
QUESTIONS = (
    "How do I keep a cut apple from turning brown?",
    "Name three rivers in Europe, and say for each of them which sea it flows into in the end.",
)
ANSWER = "Sprinkle it with lemon juice and keep it cold: the acid slows the browning of the flesh."


@pytest.fixture(scope="module", params=_FOLDERS or [None], ids=lambda path: path and path.name)
def folder(request):
    if request.param is None:
        pytest.skip("GRM_JAX_MODELS names no folder of pretrained checkpoints")
    return request.param


@pytest.fixture(scope="module")
def checkpoint(folder):
    return outputs.load(folder, "float32")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def test_logits_and_greedy_tokens_are_those_of_transformers(folder, shared_data):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    flags = [f"--checkpoint={folder}", f"--data_dir={shared_data}", "--rows=2", "--max_tokens=200"]
    assert check_parity.main(flags) == 0


def test_log_probs_of_samples_are_those_of_the_trainer(checkpoint, tokenizer):
    """Two prompts of unequal length, three samples each, at a temperature other than 1."""
    ids = [tokenizer.chat([Message("user", question)]) for question in QUESTIONS]
    length, new = max(map(len, ids)), 24
    buckets = Buckets((length,), (new,), (3,), 6)
    engine = JittedEngine(checkpoint.config, buckets, stop_ids=(), pad_id=tokenizer.pad_id)
    requests = [Request(Prompt(f"{i}", (0,), tuple(p)), (0, 1, 2)) for i, p in enumerate(ids)]
    (unit,) = plan_units(requests, buckets, max_new_tokens=new)
    draw = DrawConfig(k=3, temperature=0.7, max_new_tokens=new)
    drawn = list(engine.run(checkpoint.params, unit, draw, jax.random.key(0)))
    assert len({sample.token_ids for sample in drawn}) > 2
    for sample in drawn:
        start, row = len(sample.prompt.ids), [*sample.prompt.ids, *sample.token_ids]
        tokens = np.asarray([row + [0] * (length + new - len(row))])
        real = (np.arange(tokens.shape[1]) < len(row))[None].astype(int)
        logits = outputs.outputs(checkpoint, tokens, real)[0, start - 1 : len(row) - 1]
        logprobs = jax.nn.log_softmax(logits.astype(np.float64))
        picked = logprobs[np.arange(new), list(sample.token_ids)]
        np.testing.assert_allclose(sample.logprobs, picked, rtol=0, atol=1e-4)


def test_export_keeps_every_bit(folder, checkpoint, tmp_path):
    hub.save(tmp_path / "out", checkpoint.config, checkpoint.params, source=folder)
    again = outputs.load(tmp_path / "out", "float32")
    assert again.config == checkpoint.config
    jax.tree.map(np.testing.assert_array_equal, again.params, checkpoint.params)
    assert (tmp_path / "out/config.json").read_text() == (folder / "config.json").read_text()
    assert load_tokenizer(tmp_path / "out").fingerprint() == load_tokenizer(folder).fingerprint()


@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "all parameters"])
def test_steps_lower_the_loss(adapters, checkpoint, tokenizer):
    """The first loss is that of the forward pass, which parity covers; each step lowers it."""
    config = checkpoint.config.replace(remat="full")
    prompt = tokenizer.chat([Message("user", QUESTIONS[0])])
    row = np.asarray([[*prompt, *tokenizer.encode(ANSWER)]])
    tokens, targets, first = row[:, :-1], row[:, 1:], len(prompt) - 1
    positions = np.arange(tokens.shape[1])[None]
    batch = {
        "tokens": tokens, "targets": targets, "positions": positions,
        "segment_ids": np.ones_like(tokens), "weights": (positions >= first).astype(np.float32),
    }  # fmt: skip
    base, trained = {}, jax.tree.map(jnp.copy, checkpoint.params)  # a step donates its state
    if adapters:
        config = dataclasses.replace(config, lora=LoRAConfig(rank=4, alpha=8.0))
        base, trained = trained, lora.init_adapters(config, jax.random.key(0))
    rate = 1e-3 if adapters else 1e-5
    optimizer = make_optimizer(OptimizerConfig(rate, steps=9, schedule="constant"))
    step = sft.make_train_step(config, optimizer)
    state, losses = create_state(trained, optimizer, jax.random.key(0)), []
    for _ in range(3):
        state, metrics = step(state, base, jax.tree.map(jnp.asarray, batch))
        losses.append(float(metrics["loss"]))
    logits = outputs.outputs(checkpoint, tokens, np.ones_like(tokens))[0]
    logprobs = jax.nn.log_softmax(logits.astype(np.float64))
    picked = logprobs[np.arange(first, len(logits)), targets[0, first:]]
    assert losses[0] == pytest.approx(-float(picked.mean()), abs=1e-4)
    assert losses[0] > losses[1] > losses[2] > 0
