"""What holds for every architecture: padding, packing, bfloat16 and greedy generation.

Each is compared with transformers on one random tiny checkpoint; the files beside this one vary
the configs and break details.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_checkpoints as tiny
from tiny_checkpoints import LENGTH, one_torch_thread, torch  # noqa: F401

from grm_jax.sampling import keys
from tests import programs

# With few layers, an embedding that is the output matrix too makes a model repeat its input.
CHANGES = {
    "Gemma2ForCausalLM": {"num_hidden_layers": 8},
    "DeepseekV2ForCausalLM": {},
    "DeepseekV3ForCausalLM": {},
    "LlamaForCausalLM": {"num_hidden_layers": 4},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {},
    "Qwen3MoeForCausalLM": {"num_hidden_layers": 2},
    "Gemma3ForCausalLM": {"sliding_window_pattern": 2, "tie_word_embeddings": False},
}
NEW = 64

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_torch_thread")]


@pytest.fixture(scope="module", params=CHANGES)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "float32"
    return tiny.pair(folder, request.param, **CHANGES[request.param])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(pair, side):
    tokens = tiny.random_tokens()
    lengths = np.array([LENGTH - 7, LENGTH, LENGTH - 1, 3])
    places = np.arange(LENGTH)[None]
    real = places >= LENGTH - lengths[:, None] if side == "left" else places < lengths[:, None]
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    inputs = {"attention_mask": real.astype(int), "position_ids": positions}
    want = tiny.their_logits(pair.theirs, tokens, **inputs)
    got = tiny.our_logits(pair.config, pair.params, tokens, positions, real)
    # Row by row, without padding: in float64, transformers' mask of a padded row is too low for its
    # float32 softmax. Two roundings may differ by the sum of their errors, and which is nearer to
    # float64 depends on the processor, so ours is compared with float64 and not with theirs.
    exact = [
        tiny.exact_logits(pair.theirs, tokens[None, row, real[row]])[0]
        for row in range(len(tokens))
    ]
    theirs = max(np.abs(exact[row] - want[row, real[row]]).max() for row in range(len(tokens)))
    for row in range(len(tokens)):
        np.testing.assert_allclose(
            got[row, real[row]], exact[row], rtol=0, atol=max(1e-5, 3 * theirs)
        )


def test_packed_segments_equal_separate_texts(pair):
    tokens = tiny.random_tokens()
    first, second = 12, LENGTH - 13  # both longer than the window; the last place is empty
    positions = np.array([[*range(first), *range(second), 0]] * len(tokens))
    segments = np.array([[1] * first + [2] * second + [0]] * len(tokens))
    got = tiny.our_logits(pair.config, pair.params, tokens, positions, segments)
    for start, stop in ((0, first), (first, first + second)):
        want = tiny.their_logits(pair.theirs, tokens[:, start:stop])
        allowed = tiny.tolerance(pair.theirs, tokens[:, start:stop], want)
        np.testing.assert_allclose(got[:, start:stop], want, rtol=0, atol=allowed)


@pytest.mark.slow
def test_bfloat16_errs_no_more_than_theirs(pair, tmp_path):
    """Against float32 on the same, rounded weights, so that only activations differ."""
    model_class = type(pair.theirs)
    # .to(bfloat16) would round the rotary frequencies as well.
    rounded = model_class.from_pretrained(
        pair.folder, dtype=torch.bfloat16, attn_implementation="eager"
    )
    rounded.save_pretrained(tmp_path / "bfloat16")
    exact = model_class.from_pretrained(
        tmp_path / "bfloat16", dtype=torch.float32, attn_implementation="eager"
    )
    ours = tiny.load(tmp_path / "bfloat16", rounded)
    assert ours.config.compute.dtype == ours.config.compute.param_dtype == "bfloat16"
    # Long enough for angles that were rounded to show.
    tokens = tiny.random_tokens(rows=3, length=512)
    want = tiny.their_logits(exact, tokens)

    def error(logits):
        return np.sqrt(np.mean((logits - want) ** 2))

    theirs = error(tiny.their_logits(rounded, tokens))
    mine = error(tiny.our_logits(ours.config, ours.params, tokens))
    assert theirs < 0.2 * want.std()
    assert 0.2 * theirs < mine <= 1.5 * theirs, (mine, theirs)


@pytest.mark.slow
def test_greedy_tokens_equal_generate(pair):
    """Token for token, unless the two best logits lie within 1e-4 where a difference begins."""
    lengths = np.array([5, 12, 9, 1])
    prompts = tiny.random_tokens(len(lengths), lengths.max(), seed=2)
    want, logits = their_generation(pair.theirs, prompts, lengths)
    out = programs.sample(
        pair.config, pair.params, jnp.asarray(prompts, jnp.int32),
        jnp.asarray(lengths, jnp.int32),
        keys.sample_keys(jax.random.key(0), list("abcd"), np.zeros((len(lengths), 1), int)),
        jnp.ones((len(lengths), 1), bool), temperature=0.0, limit=NEW,
        stop_ids=(), buffer=NEW,
    )  # fmt: skip
    got = np.asarray(out.tokens_PSU[:, 0])
    assert all(len(np.unique(row)) > 4 for row in want)  # not one token for ever
    near_ties = 0
    for row, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        if (ours != theirs).any():
            second, best = np.sort(logits[row, np.argmax(ours != theirs)])[-2:]
            assert best - second < 1e-4, row
            near_ties += 1
    assert near_ties <= 1


def their_generation(model, prompts, lengths):
    """Greedy tokens and logits of `generate`, which wants prompts that end together."""
    real = np.arange(prompts.shape[1])[None] >= prompts.shape[1] - lengths[:, None]
    ended = np.zeros_like(prompts)
    ended[real] = prompts[np.arange(prompts.shape[1])[None] < lengths[:, None]]
    model.generation_config.eos_token_id = None  # all tokens count alike
    with torch.no_grad():
        out = model.generate(
            torch.tensor(ended), attention_mask=torch.tensor(real.astype(int)),
            max_new_tokens=NEW, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    tokens = out.sequences.numpy()[:, prompts.shape[1] :]
    assert tokens.shape == (len(prompts), NEW)
    return tokens, torch.stack(out.logits, dim=1).numpy()
