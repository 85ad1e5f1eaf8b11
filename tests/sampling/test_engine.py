"""The engine: what is drawn does not depend on how the work was cut up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models.variants import VARIANTS
from grm_jax.sampling import engine as engine_module
from grm_jax.sampling import keys, sampler
from grm_jax.sampling.config import DrawConfig
from grm_jax.sampling.engine import JittedEngine
from grm_jax.sampling.prompt import Prompt
from grm_jax.sampling.scheduler import Bucket, Buckets, Request, WorkUnit, plan_units
from tests import programs

CONFIG = dataclasses.replace(VARIANTS["tiny"], sliding_window=6)
BUCKETS = Buckets((16,), (16,), samples=(1, 4), samples_per_unit=8)
STOPS, PAD, LIMIT = tuple(range(1, 20)), 0, 14
STAGE = keys.stage_key(jax.random.key(5), "rft", 2)
WANTED = DrawConfig(k=4, max_new_tokens=LIMIT)


PARAMS = programs.random_params(CONFIG)


def request(i, samples=range(4)):
    rng = np.random.default_rng(i)
    ids = rng.integers(4, CONFIG.vocab_size, 3 + 4 * (i % 4))
    return Request(Prompt(f"u{i}", (0, 1), tuple(ids.tolist())), tuple(samples))


REQUESTS = [request(i) for i in range(4)]


def engine(chunk=None):
    return JittedEngine(CONFIG, BUCKETS, stop_ids=STOPS, pad_id=PAD, chunk=chunk)


def draw(requests, chunk=None, **wanted):
    """Completions by (uid, sample), drawn in units planned for these requests."""
    found = {}
    for unit in plan_units(requests, BUCKETS, max_new_tokens=LIMIT):
        config = dataclasses.replace(WANTED, **wanted)
        for c in engine(chunk=chunk).run(PARAMS, unit, config, STAGE):
            assert (c.prompt.uid, c.sample) not in found
            found[c.prompt.uid, c.sample] = c
    return found


def test_declared_programs_without_moves_are_those_of_the_shapes():
    found = programs.declared(BUCKETS, moves=False)
    one, four = Bucket(8, 1, 16, 16), Bucket(2, 4, 16, 16)
    assert found == {
        ("prefill", one._replace(S=0, U=0)), ("begin", one), ("decode", one),
        ("prefill", four._replace(S=0, U=0)), ("begin", four), ("decode", four),
    }  # fmt: skip


def test_every_move_of_stragglers_is_declared():
    declared = programs.declared(BUCKETS)
    worker = engine(chunk=1)
    rng = np.random.default_rng(0)
    for bucket in BUCKETS.shapes():
        for _ in range(200):
            here = bucket
            while True:
                done_PS = rng.random((here.P, here.S)) < rng.random()
                smaller = None if done_PS.all() else worker._smaller(here, done_PS)
                if smaller is None:
                    break
                assert ("compact", here, smaller) in declared
                assert ("decode", smaller) in declared
                here = smaller


def test_programs_are_the_compiled_ones_and_warm_runs_are_quiet(compilation_counter):
    kernels = {
        "prefill": sampler.prefill, "begin": sampler.begin, "decode": sampler.decode,
        "compact": engine_module.compact,
    }  # fmt: skip
    for kernel in kernels.values():
        kernel.clear_cache()
    worker = engine(chunk=3)
    units = [
        *plan_units(REQUESTS, BUCKETS, max_new_tokens=LIMIT),
        *plan_units(REQUESTS[1:3], BUCKETS, max_new_tokens=LIMIT),
        *plan_units(REQUESTS[:1], BUCKETS, max_new_tokens=9),
    ]

    def run_all(**wanted):
        config = dataclasses.replace(WANTED, **wanted)
        return [worker.run(PARAMS, unit, config, STAGE) for unit in units]

    with compilation_counter() as compiled:
        first = run_all()
    names = [name for name, *_ in worker.programs]
    for name in kernels:
        assert compiled.count(name) == names.count(name) > 0, name
    assert names.count("prefill") == 1

    known = set(worker.programs)
    assert known <= programs.declared(BUCKETS)
    with compilation_counter() as compiled, jax.transfer_guard("disallow"):
        again = run_all()
        run_all(temperature=0.0, max_new_tokens=1)
    assert compiled.names == []
    assert worker.programs == known
    assert again == first


@pytest.fixture(scope="module")
def base():
    return draw(REQUESTS)


def assert_same(some, base):
    assert some
    for name, got in some.items():
        want = base[name]
        assert got.token_ids == want.token_ids, name
        assert (got.stopped, got.seed, got.prompt) == (want.stopped, want.seed, want.prompt)
        np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-4)
        np.testing.assert_allclose(got.sampling_logprobs, want.sampling_logprobs, atol=1e-4)


def test_completions_are_complete_and_in_order():
    drawn = [
        completion
        for unit in plan_units(REQUESTS, BUCKETS, max_new_tokens=LIMIT)
        for completion in engine().run(PARAMS, unit, WANTED, STAGE)
    ]
    expected = [(f"u{i}", s) for i in range(4) for s in range(4)]
    assert [(c.prompt.uid, c.sample) for c in drawn] == expected
    for c, r in zip(drawn, np.repeat(np.arange(4), 4), strict=True):
        assert c.prompt == REQUESTS[r].prompt
        assert 0 < len(c.token_ids) == len(c.logprobs) == len(c.sampling_logprobs) <= LIMIT
        assert c.stopped == (c.token_ids[-1] in STOPS)
        assert c.stopped or len(c.token_ids) == LIMIT
    assert sum(c.stopped for c in drawn) > 4
    key = keys.sample_keys(STAGE, ["u2"], np.array([[3]]))
    assert drawn[11].seed == tuple(np.asarray(jax.random.key_data(key))[0, 0].tolist())


def test_samples_do_not_depend_on_the_unit(base):
    # Fewer neighbours, other places, other sample indices beside them: the same programs.
    some = draw([request(3, (2, 0, 1)), request(1, (3, 1, 2))])
    assert_same(some, base)
    assert len(some) == 6


def test_samples_do_not_depend_on_the_width(base):
    for only in (request(2, (1,)), request(0, (3,))):
        unit = WorkUnit(0, Bucket(1, 1, 16, 16), (only,))
        (drawn,) = engine().run(PARAMS, unit, WANTED, STAGE)
        assert_same({(drawn.prompt.uid, drawn.sample): drawn}, base)


@pytest.mark.parametrize("chunk", [2, 3, LIMIT, 100])
def test_samples_do_not_depend_on_chunks_and_compaction(base, chunk, monkeypatch):
    moved = []

    def compact(config, state, prefix, lengths, keys_PS, rows, columns):
        moved.append((keys_PS.shape, columns.shape))
        return real(config, state, prefix, lengths, keys_PS, rows, columns)

    real = engine_module.compact
    monkeypatch.setattr(engine_module, "compact", compact)
    chunked = draw(REQUESTS, chunk=chunk)
    assert_same(chunked, base)
    assert len(chunked) == 16
    assert bool(moved) == (chunk < LIMIT)
    assert all(2 * np.prod(after) <= np.prod(before) for before, after in moved)


def test_survivors_move_to_the_smaller_shape_that_fits():
    worker = engine()
    worker.buckets = dataclasses.replace(BUCKETS, samples=(1, 2, 4))
    bucket = Bucket(4, 4, 16, 16)
    done = np.ones((4, 4), bool)
    done[2, 1] = done[2, 3] = done[0, 2] = False
    smaller = worker._smaller(bucket, done)
    assert smaller == Bucket(2, 2, 16, 16)
    rows, columns = engine_module._survivors(done, smaller)
    assert rows.tolist() == [0, 2]
    assert columns.tolist() == [[2, 0], [1, 3]]
    # 4 rows of at most 2 samples: half of the shape. A third sample anywhere needs all of it.
    done = np.ones((4, 4), bool)
    done[:, :2] = False
    assert worker._smaller(bucket, done) == Bucket(4, 2, 16, 16)
    done[1, 2] = False
    assert worker._smaller(bucket, done) is None


def test_survivors_keep_a_whole_number_of_prompts_on_each_device():
    worker = engine()
    worker._shards = 2
    done = np.ones((4, 4), bool)
    done[2, 1] = False
    assert worker._smaller(Bucket(4, 4, 16, 16), done) == Bucket(2, 1, 16, 16)


def test_temperature_top_p_and_limit_reach_the_kernel(base, compilation_counter):
    with compilation_counter() as compiled:
        greedy = draw(REQUESTS, temperature=0.0)
        narrow = draw(REQUESTS, top_p=1e-6)
        short = draw(REQUESTS, max_new_tokens=2)
    assert compiled.names == []
    for i in range(4):
        assert len({greedy[f"u{i}", s].token_ids for s in range(4)}) == 1
    assert {name: c.token_ids for name, c in narrow.items()} == {
        name: c.token_ids for name, c in greedy.items()
    }
    assert all(c.token_ids == base[name].token_ids[:2] for name, c in short.items())


def test_a_limit_outside_the_bucket_is_refused():
    unit = plan_units(REQUESTS, BUCKETS, max_new_tokens=LIMIT)[0]
    with pytest.raises(ValueError, match="max_new_tokens must be at most 16, got 17"):
        engine().run(PARAMS, unit, dataclasses.replace(WANTED, max_new_tokens=17), STAGE)
    with pytest.raises(ValueError, match="max_new_tokens: must be at least 1, got 0"):
        dataclasses.replace(WANTED, max_new_tokens=0)


def test_the_kernel_agrees_with_the_engine(base):
    r = REQUESTS[1]
    tokens = np.full((2, 16), PAD, np.int32)
    tokens[0, : len(r.prompt.ids)] = r.prompt.ids
    out = programs.sample(
        CONFIG, PARAMS, jnp.asarray(tokens), jnp.asarray([len(r.prompt.ids), 1], jnp.int32),
        keys.sample_keys(STAGE, ["u1", ""], np.broadcast_to(np.arange(4), (2, 4))),
        jnp.asarray(np.array([[True] * 4, [False] * 4])), temperature=1.0, limit=LIMIT,
        stop_ids=STOPS, buffer=16, pad_id=PAD,
    )  # fmt: skip
    for s in range(4):
        n = int(out.lengths_PS[0, s])
        assert tuple(np.asarray(out.tokens_PSU)[0, s, :n].tolist()) == base["u1", s].token_ids


def test_an_empty_place_draws_nothing():
    unit = WorkUnit(0, Bucket(2, 4, 16, 16), (request(0, (2,)),))
    (only,) = engine().run(PARAMS, unit, WANTED, STAGE)
    assert (only.prompt.uid, only.sample) == ("u0", 2)
