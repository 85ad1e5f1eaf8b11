"""The sampling kernels against a loop without a cache, the trainer's log-probs and numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models import heads, transformer
from grm_jax.models.variants import VARIANTS, llama
from grm_jax.sampling import keys, sampler
from tests import programs

# The window is shorter than the prompts, so that local layers lose sight of their beginning.
CONFIG = dataclasses.replace(VARIANTS["tiny"], sliding_window=6)
VOCAB, PAD, STOPS = CONFIG.vocab_size, 0, (3, 17, 40)
LENGTHS = (5, 14, 1)
T, S, U = 14, 4, 12
LONGEST = T + U


PARAMS = programs.random_params(CONFIG)
PROMPTS = [np.random.default_rng(i).integers(4, VOCAB, n) for i, n in enumerate(LENGTHS)]
KEYS_PS = keys.sample_keys(
    jax.random.key(11), ["a", "b", "c"], np.broadcast_to(np.arange(S), (3, S))
)


def draw(
    rows=(0, 1, 2), columns=range(S), *, length=T, buffer=U, active=None, temperature=1.0,
    top_p=1.0, limit=U, stops=STOPS, config=CONFIG, params=PARAMS,
):  # fmt: skip
    """Samples of some of the prompts, in some shape."""
    rows, columns = list(rows), list(columns)
    tokens_PT = np.full((len(rows), length), PAD, np.int32)
    for p, row in enumerate(rows):
        tokens_PT[p, : LENGTHS[row]] = PROMPTS[row]
    if active is None:
        active = np.ones((len(rows), len(columns)), bool)
    out = programs.sample(
        config, params, jnp.asarray(tokens_PT),
        jnp.asarray([LENGTHS[row] for row in rows], jnp.int32),
        KEYS_PS[np.array(rows)][:, np.array(columns)], jnp.asarray(active),
        temperature=temperature, top_p=top_p, limit=limit, stop_ids=stops,
        buffer=buffer, pad_id=PAD,
    )  # fmt: skip
    return sampler.Samples(*(np.asarray(x) for x in out))


@jax.jit
def next_logits(params, tokens_1T, length):
    """Logits after the first `length` tokens, by a plain forward pass over everything."""
    positions_1T = jnp.arange(tokens_1T.shape[1], dtype=jnp.int32)[None, :]
    hidden, _ = transformer.apply(
        CONFIG, params, tokens_1T, positions_1T, (positions_1T < length).astype(jnp.int32)
    )
    return heads.logits(CONFIG, params, hidden[0, length - 1])


def log_softmax(x):
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


def nucleus_by_sorting(logprobs, top_p):
    """Renormalised log-probs of the nucleus (float64); ties with the last member belong to it."""
    probs = np.exp(logprobs)
    ranked = np.sort(probs)[::-1]
    least = ranked[np.searchsorted(np.cumsum(ranked), top_p).clip(max=len(ranked) - 1)]
    kept = np.where(probs >= least, logprobs, -np.inf)
    return log_softmax(kept)


def naive(row, column, *, temperature, top_p=1.0, limit=U):
    """Tokens, log pi and sampling log-probs, one full pass for each token."""
    tokens = list(PROMPTS[row])
    generated, logps, sampled = [], [], []
    for t in range(limit):
        padded = np.zeros((1, LONGEST), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(next_logits(PARAMS, padded, len(tokens)), np.float64)
        if temperature == 0:
            token, tempered = int(logits.argmax()), 0.0
        else:
            logprobs = log_softmax(logits / temperature)
            if top_p < 1:
                logprobs = nucleus_by_sorting(logprobs, top_p)
            key = jax.random.fold_in(KEYS_PS[row, column], t)
            token = int((logprobs + np.asarray(jax.random.gumbel(key, (VOCAB,)))).argmax())
            tempered = logprobs[token]
        tokens.append(token)
        generated.append(token)
        logps.append(log_softmax(logits)[token])
        sampled.append(tempered)
        if token in STOPS:
            break
    return generated, logps, sampled


@pytest.fixture(scope="module")
def base():
    return draw()


def assert_same(part, whole, rows, columns):
    """`part` holds the samples of some rows and columns of `whole`."""
    width = min(part.tokens_PSU.shape[-1], whole.tokens_PSU.shape[-1])
    for name, got in part._asdict().items():
        want = getattr(whole, name)[np.ix_(rows, columns)]
        if got.ndim == 3:
            got, want = got[..., :width], want[..., :width]
        if got.dtype == np.float32:
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (0.0, 1.0)])
def test_sampling_from_a_shared_prefix_equals_naive_sampling(temperature, top_p):
    out = draw(temperature=temperature, top_p=top_p)
    for row in range(3):
        for column in range(S if temperature else 1):
            generated, logps, sampled = naive(row, column, temperature=temperature, top_p=top_p)
            n = len(generated)
            assert out.lengths_PS[row, column] == n
            assert out.tokens_PSU[row, column, :n].tolist() == generated
            assert out.stopped_PS[row, column] == (generated[-1] in STOPS)
            np.testing.assert_allclose(out.logprobs_PSU[row, column, :n], logps, atol=1e-4)
            np.testing.assert_allclose(
                out.sampling_logprobs_PSU[row, column, :n], sampled, atol=1e-4
            )


def test_greedy_samples_of_a_prompt_are_one():
    out = draw(temperature=0.0)
    assert (out.tokens_PSU == out.tokens_PSU[:, :1]).all()
    assert not out.sampling_logprobs_PSU.any()
    assert (out.logprobs_PSU[:, :, 0] < 0).all()


def check_against_the_trainer(config, params, base):
    """Compares log-probs of samples with those of one full pass over prompt and sample."""
    rows = [(p, s) for p in range(3) for s in range(S)]
    tokens_BT = np.full((len(rows), LONGEST), PAD, np.int32)
    segment_ids_BT = np.zeros_like(tokens_BT)
    for b, (p, s) in enumerate(rows):
        whole = [*PROMPTS[p], *base.tokens_PSU[p, s, : base.lengths_PS[p, s]]]
        tokens_BT[b, : len(whole)] = whole
        segment_ids_BT[b, : len(whole)] = 1

    @jax.jit
    def score(params, tokens_BT, segment_ids_BT):
        positions_BT = jnp.broadcast_to(
            jnp.arange(LONGEST, dtype=jnp.int32)[None, :], tokens_BT.shape
        )
        hidden_BTD, _ = transformer.apply(config, params, tokens_BT, positions_BT, segment_ids_BT)
        return heads.token_logprobs(config, params, hidden_BTD[:, :-1], tokens_BT[:, 1:], chunk=64)[
            0
        ]

    trained_BT = np.asarray(score(params, tokens_BT, segment_ids_BT))
    for b, (p, s) in enumerate(rows):
        n = base.lengths_PS[p, s]
        begin = LENGTHS[p] - 1
        np.testing.assert_allclose(
            base.logprobs_PSU[p, s, :n], trained_BT[b, begin : begin + n], rtol=0, atol=1e-4
        )


def test_sampler_logprobs_equal_trainer_logprobs(base):
    check_against_the_trainer(CONFIG, PARAMS, base)


# A local layer after the last group, with a base of its own; and windows in every layer.
OTHERS = {
    "gemma3": dataclasses.replace(
        CONFIG, num_layers=3, num_kv_heads=1, attn_softcap=None,
        final_softcap=None, qk_norm=True, rope_theta=1000.0, local_rope_theta=10.0,
        linear_rope=4.0),
    "mistral": llama(
        vocab_size=VOCAB, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8,
        ffn_dim=64, sliding_window=6),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_sampler_logprobs_of_other_families_equal_trainer_logprobs(name):
    config, params = OTHERS[name], programs.random_params(OTHERS[name])
    drawn = draw(config=config, params=params)
    assert (drawn.lengths_PS > config.sliding_window).any()
    check_against_the_trainer(config, params, drawn)


def test_samples_differ_and_stop_tokens_end_them(base):
    assert len({tuple(x) for x in base.tokens_PSU.reshape(-1, U)}) == 3 * S
    ends = np.take_along_axis(base.tokens_PSU, base.lengths_PS[..., None] - 1, -1)[..., 0]
    np.testing.assert_array_equal(np.isin(ends, STOPS), base.stopped_PS)
    assert 0 < base.stopped_PS.sum() < base.stopped_PS.size
    assert (base.lengths_PS[~base.stopped_PS] == U).all()
    after = np.arange(U) >= base.lengths_PS[..., None]
    assert (base.tokens_PSU[after] == PAD).all()
    assert not base.logprobs_PSU[after].any()
    assert not base.sampling_logprobs_PSU[after].any()
    assert not np.isin(base.tokens_PSU, STOPS)[
        np.arange(U) < base.lengths_PS[..., None] - 1
    ].any()  # fmt: skip


def test_at_temperature_one_both_logprobs_agree(base):
    np.testing.assert_allclose(base.sampling_logprobs_PSU, base.logprobs_PSU, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_sampling_logprobs_are_those_of_the_tempered_truncated_distribution(temperature, top_p):
    out = draw(temperature=temperature, top_p=top_p)
    p, s = 1, 2
    for t in range(min(4, out.lengths_PS[p, s])):
        tokens = [*PROMPTS[p], *out.tokens_PSU[p, s, :t]]
        padded = np.zeros((1, LONGEST), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(next_logits(PARAMS, padded, len(tokens)), np.float64)
        wanted = log_softmax(logits / temperature)
        if top_p < 1:
            wanted = nucleus_by_sorting(wanted, top_p)
        token = out.tokens_PSU[p, s, t]
        assert abs(out.sampling_logprobs_PSU[p, s, t] - wanted[token]) <= 1e-4
        assert abs(out.logprobs_PSU[p, s, t] - log_softmax(logits)[token]) <= 1e-4


@pytest.mark.parametrize(
    ("rows", "columns", "length", "buffer"),
    [
        pytest.param((1, 0, 2), (3, 1, 0, 2), T, U, id="other places"),
        pytest.param((1,), (2,), 19, 15, id="alone, more padding"),
    ],
)
def test_a_sample_depends_on_its_prompt_and_key_only(base, rows, columns, length, buffer):
    part = draw(rows, columns, length=length, buffer=buffer)
    assert_same(part, base, rows, columns)


def test_padding_of_the_prompt_is_never_read(base):
    tokens_PT = np.random.default_rng(5).integers(4, VOCAB, (3, T)).astype(np.int32)
    for p, prompt in enumerate(PROMPTS):
        tokens_PT[p, : LENGTHS[p]] = prompt
    out = programs.sample(
        CONFIG, PARAMS, jnp.asarray(tokens_PT), jnp.asarray(LENGTHS, jnp.int32), KEYS_PS,
        jnp.ones((3, S), bool), temperature=1.0, limit=U, stop_ids=STOPS,
        buffer=U, pad_id=PAD,
    )  # fmt: skip
    np.testing.assert_array_equal(out.tokens_PSU, base.tokens_PSU)


def test_absent_samples_are_empty_and_change_nothing(base):
    active = np.ones((3, S), bool)
    active[0, 1] = active[2] = False
    out = draw(active=active)
    np.testing.assert_array_equal(out.lengths_PS[~active], 0)
    assert not out.stopped_PS[~active].any()
    assert (out.tokens_PSU[~active] == PAD).all()
    assert not out.logprobs_PSU[~active].any()
    np.testing.assert_array_equal(out.tokens_PSU[active], base.tokens_PSU[active])


def test_a_shorter_limit_is_the_beginning_of_a_longer_one(base):
    out = draw(limit=5)
    np.testing.assert_array_equal(out.tokens_PSU[..., :5], base.tokens_PSU[..., :5])
    assert (out.tokens_PSU[..., 5:] == PAD).all()
    np.testing.assert_array_equal(out.lengths_PS, np.minimum(base.lengths_PS, 5))
    np.testing.assert_array_equal(out.stopped_PS, base.stopped_PS & (base.lengths_PS <= 5))


def test_one_prefill_program_serves_any_number_of_samples(base, compilation_counter):
    with compilation_counter() as compiled:
        out = draw(columns=(1,), stops=())
    assert compiled.count("prefill") == 0  # that of `base`
    assert compiled.count("decode") == 1
    # Without stop tokens every sample has full length, and begins as it would with them.
    assert (out.lengths_PS == U).all()
    assert not out.stopped_PS.any()
    alike = np.arange(U) < base.lengths_PS[:, 1, None]
    np.testing.assert_array_equal(out.tokens_PSU[:, 0][alike], base.tokens_PSU[:, 1][alike])


def test_limit_temperature_and_top_p_are_traced(base, compilation_counter):
    with compilation_counter() as compiled:
        draw(limit=1, temperature=0.0)
        draw(limit=U - 1, temperature=1.5, top_p=0.3)
    assert [compiled.count(name) for name in ("prefill", "begin", "decode")] == [0, 0, 0]


@pytest.mark.parametrize("top_p", [1e-6, 0.05, 0.5, 0.9, 0.999, 0.9999999])
def test_truncate_top_p_equals_sorting(top_p):
    rng = np.random.default_rng(0)
    rows = [
        log_softmax(rng.normal(size=300) * scale).astype(np.float32) for scale in (0.1, 1, 3, 10)
    ]
    got = np.asarray(jax.jit(sampler.truncate_top_p)(jnp.asarray(rows), jnp.float32(top_p)))
    for logprobs, truncated in zip(rows, got, strict=True):
        np.testing.assert_allclose(np.exp(truncated).sum(), 1.0, atol=1e-5)
        wanted = nucleus_by_sorting(logprobs.astype(np.float64), top_p)
        differ = np.isfinite(truncated) != np.isfinite(wanted)
        # float32 sums may place the edge of a nucleus differently only inside their rounding
        assert np.exp(logprobs[differ]).sum() <= 2e-6
        both = np.isfinite(truncated) & np.isfinite(wanted)
        np.testing.assert_allclose(truncated[both], wanted[both], atol=1e-4)


def test_truncate_top_p_keeps_ties_and_the_likeliest():
    tied = jnp.log(jnp.asarray([0.4, 0.2, 0.2, 0.1, 0.1], jnp.float32))
    kept = np.isfinite(sampler.truncate_top_p(tied, jnp.float32(0.5)))
    assert kept.tolist() == [True, True, True, False, False]
    kept = np.isfinite(sampler.truncate_top_p(tied, jnp.float32(1e-9)))
    assert kept.tolist() == [True, False, False, False, False]
    certain = jnp.asarray([0.0, -jnp.inf, -jnp.inf], jnp.float32)
    np.testing.assert_array_equal(
        sampler.truncate_top_p(certain, jnp.float32(0.5)), np.asarray(certain)
    )


# What a decode costs: the prefix is computed once, stored once and read once.

WIDE = dataclasses.replace(CONFIG, head_dim=32)
LONG, SHORT = 256, 4
SIZES = (1, 8, 32)


def shapes(num_samples, config=WIDE, num_prompts=1, buffer=SHORT):
    """Shapes of the arguments of `prefill` and `decode`; allocates nothing."""
    params = transformer.abstract_params(config)
    tokens = jax.ShapeDtypeStruct((num_prompts, LONG), jnp.int32)
    lengths = jax.ShapeDtypeStruct((num_prompts,), jnp.int32)
    prefix = jax.eval_shape(lambda *x: sampler.prefill(config, *x), params, tokens, lengths)
    state = jax.eval_shape(
        lambda *x: sampler.begin(config, *x, buffer=buffer, pad_id=PAD),
        tokens, lengths, jax.ShapeDtypeStruct((num_prompts, num_samples), bool),
    )  # fmt: skip
    drawn = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (num_prompts, num_samples)))
    number = jax.ShapeDtypeStruct((), jnp.float32)
    rest = (lengths, drawn, state, jax.ShapeDtypeStruct((), jnp.int32), number, number)
    return params, tokens, lengths, prefix, rest


def nbytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_prefill_never_meets_samples_or_vocabulary():
    config = WIDE.replace(vocab_size=8192, attention_kernel="reference")
    for num_samples in SIZES:
        params, tokens, lengths, prefix, _ = shapes(num_samples, config)
        assert nbytes(prefix) == 4 * (4 * LONG * WIDE.num_kv_heads * WIDE.head_dim + 2 * LONG)
    compiled = sampler.prefill.lower(config, params, tokens, lengths).compile()
    flops = compiled.cost_analysis()["flops"]
    layers = sum(x.size for x in jax.tree.leaves(params["layers"]))
    attention = 4 * LONG * LONG * WIDE.num_heads * WIDE.head_dim * WIDE.num_layers
    # XLA may leave out what comes after the last keys and values. Logits would add 1.5 times this.
    expected = 2 * LONG * layers + attention
    assert 0.4 * expected < flops < 1.1 * expected


def test_decode_holds_one_prefix_whatever_the_number_of_samples():
    memory = {}
    for num_samples in (SIZES[0], SIZES[-1]):
        params, _, _, prefix, rest = shapes(num_samples)
        compiled = sampler.decode.lower(
            WIDE, params, prefix, *rest, stop_ids=STOPS, pad_id=PAD
        ).compile()
        memory[num_samples] = compiled.memory_analysis()
        keys_and_state = 8 * num_samples + nbytes(rest[2])
        given = memory[num_samples].argument_size_in_bytes
        assert abs(given - nbytes((params, prefix)) - keys_and_state) < 200  # a few scalars
    growth = memory[32].temp_size_in_bytes - memory[1].temp_size_in_bytes
    # Scores [S, H, T] of one layer may exist a few times; 31 more prefixes may not.
    assert growth < 0.5 * 31 * nbytes(prefix)


@pytest.mark.parametrize("num_prompts", [1, 4])
def test_decode_never_copies_a_whole_cache(num_prompts):
    config = dataclasses.replace(CONFIG, num_layers=8)
    params, _, _, prefix, rest = shapes(32 // num_prompts, config, num_prompts, 64)
    compiled = sampler.decode.lower(
        config, params, prefix, *rest, stop_ids=STOPS, pad_id=PAD
    ).compile()
    (cache,) = rest[2].k_JSIPKUE
    # Weights, keys and values of a layer may be sliced out and rearranged. Copying both caches
    # whole, as another order of their axes would need at every step, takes three times this.
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * nbytes(cache)
