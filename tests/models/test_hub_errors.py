"""What stops an import or an export, and that it stops before anything is read or left behind."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grm_jax.models import hub, transformer
from grm_jax.models.config import MLAConfig, MoEConfig
from grm_jax.models.hub import reading, tensor_files
from grm_jax.models.hub.tensor_files import INDEX, SINGLE, Spec
from grm_jax.models.variants import VARIANTS, deepseek

TINY = VARIANTS["tiny"]
V3 = deepseek(
    vocab_size=64, num_layers=3, embed_dim=32, num_heads=4, ffn_dim=64, yarn=None,
    mla=MLAConfig(kv_rank=12, nope_dim=8, rope_dim=4, value_dim=6, query_rank=10),
    moe=MoEConfig(
        num_experts=4, experts_per_token=2, expert_dim=16, shared_dim=16, first_dense=1,
        scoring="sigmoid", selection_bias=True, group_top=2, normalize=True),
)  # fmt: skip


@functools.cache
def _params_of(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype),
        transformer.abstract_params(config),
    )


def params_of(config):
    """Random parameters, in dicts of the caller's own."""
    return jax.tree.map(lambda x: x, _params_of(config))


def assert_same(ours, theirs):
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.fixture
def folder(tmp_path):
    hub.save(tmp_path / "model", TINY, params_of(TINY))
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
    hub.save(tmp_path / "model", TINY, params_of(TINY), max_shard_bytes=20_000)
    assert len(list((tmp_path / "model").glob("model-*"))) > 2
    return tmp_path / "model"


@pytest.fixture
def no_reading(monkeypatch):
    monkeypatch.setattr(reading, "_assign", lambda *_: pytest.fail("read"))


def rewrite(path, change):
    """Writes a file of tensors again after `change` has edited the dict of its arrays."""
    stored = tensor_files.read_header(path)
    arrays = {name: np.array(tensor_files.open_tensor(place)) for name, place in stored.items()}
    change(arrays)
    path.unlink()
    specs = {name: Spec(array.dtype, array.shape) for name, array in arrays.items()}
    tensor_files.write(path, specs, arrays.__getitem__)


def rename(arrays):
    arrays["model.normal.weight"] = arrays.pop("model.norm.weight")


def reshape(arrays):
    name = "model.layers.1.self_attn.o_proj.weight"
    arrays[name] = arrays[name].T[:16]


def test_names_and_shapes_stop_the_load_before_reading(folder, no_reading):
    rewrite(folder / SINGLE, lambda arrays: (rename(arrays), reshape(arrays)))
    with pytest.raises(ValueError) as caught:
        hub.load(folder)
    head, *table = str(caught.value).splitlines()
    assert head == f"{folder}: 3 of 25 tensors do not fit, listed last:"
    assert len(table) == 25
    wrong = [line.strip() for line in table[-3:]]
    assert wrong == [
        "model.layers.1.self_attn.o_proj.weight: expected [32, 32], found [16, 32] float32 in "
        "model.safetensors: other shape",
        "model.norm.weight: expected [32], found -: missing",
        "model.normal.weight: expected -, found [32] float32 in model.safetensors: unknown",
    ]
    assert "model.embed_tokens.weight: expected [64, 32], found [64, 32] float32" in table[0]


def test_a_doubled_tensor(sharded, no_reading):
    first, second, *_ = sorted(sharded.glob("model-*"))

    def add(arrays):
        arrays["model.embed_tokens.weight"] = np.zeros((64, 32), np.float32)

    rewrite(second, add)
    with pytest.raises(ValueError, match=f"in {first.name}, .* in {second.name}: doubled"):
        hub.load(sharded)


@pytest.mark.parametrize("file", ["../model.safetensors", "/model.safetensors", 3, None])
def test_an_index_names_files_of_its_folder_only(sharded, no_reading, file):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.embed_tokens.weight"] = file
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"embed_tokens.weight: expected the name of a file in"):
        hub.load(sharded)


@pytest.mark.parametrize("change", ["overlap", "hole", "no offsets", "a list"])
def test_a_header_whose_tensors_do_not_follow_each_other(folder, no_reading, change):
    path = folder / SINGLE
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = sorted(header.keys() - {"__metadata__"}, key=lambda n: header[n]["data_offsets"])[1]
    begin, stop = header[name]["data_offsets"]
    if change == "no offsets":
        del header[name]["data_offsets"]
    elif change == "a list":
        header = [1]
    else:
        shift = -4 if change == "overlap" else 4
        header[name]["data_offsets"] = [begin + shift, stop + shift]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    wanted = {"no offsets": "unexpected header", "a list": "expected a JSON object"}
    with pytest.raises(ValueError, match=wanted.get(change, "expected its data at byte")):
        hub.load(folder)


def test_an_index_against_the_files(sharded, no_reading):
    first, second, *_ = sorted(path.name for path in sharded.glob("model-*"))
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.embed_tokens.weight"] = second
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"in {first}: the index says {second}"):
        hub.load(sharded)
    del index["weight_map"]["model.embed_tokens.weight"]
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"embed_tokens.weight: expected .*found -: missing"):
        hub.load(sharded)
    for content, message in (
        ("[]", "1: expected a JSON object, found list"),
        ("{}", " weight_map: expected an object, found None"),
        ('{"weight_map": [["a", "b"]]}', " weight_map: expected an object"),
        ('{"weight_map": {"a": "x", "a": "y"}}', ".*a: is there twice"),
        ('{"a":' * 200_000, ".*recursion"),
    ):
        (sharded / INDEX).write_text(content)
        with pytest.raises(ValueError, match=f"{INDEX}:{message}"):
            hub.load(sharded)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(
        reading.absl.logging, "warning", lambda text, *args: said.append(text % args)
    )
    return said


def test_a_single_file_beside_an_index_is_refused(sharded, tmp_path, no_reading):
    """Whichever is the older: nothing says which weights are meant."""
    hub.save(tmp_path / "newer", TINY, params_of(TINY))
    (tmp_path / "newer" / SINGLE).rename(sharded / SINGLE)
    for read in (hub.load, hub.count_stored):
        with pytest.raises(ValueError, match=f"{sharded / SINGLE}: is there beside {INDEX}"):
            read(sharded)


def test_an_index_may_name_the_single_file(folder):
    stored = tensor_files.read_header(folder / SINGLE)
    index = {"weight_map": dict.fromkeys(stored, SINGLE)}
    (folder / INDEX).write_text(json.dumps(index))
    assert_same(hub.load(folder).params, params_of(TINY))


def test_tensors_that_the_index_does_not_name_are_ignored(sharded, warnings):
    first, *_ = sorted(sharded.glob("model-*"))
    count = hub.count_stored(sharded)

    def add(arrays):
        arrays |= {f"model.rotary.{i}": np.zeros(3, np.float32) for i in (2, 1)}

    rewrite(first, add)
    assert_same(hub.load(sharded).params, params_of(TINY))
    (line,) = warnings
    assert line == (
        f"{sharded / INDEX}: ignored 2 tensors that it does not name, such as model.rotary.1"
    )
    assert hub.count_stored(sharded) == count


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_are_not_finite_are_counted(folder, warnings, dtype):
    names = ["model.layers.1.self_attn.q_proj.weight", "model.norm.weight"]

    def change(arrays):
        for name, array in arrays.items():
            arrays[name] = array = array.astype(dtype)
            if name in names:
                array[..., -1] = np.inf if name == names[1] else np.nan

    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch_dtype": dtype}))
    rewrite(folder / SINGLE, change)
    hub.load(folder)
    count = 33  # a column of the matrix, and one of the norm
    assert warnings == [
        f"{folder}: {count} weights of 2 tensors are not finite, the first in {names[0]}"
    ]
    warnings.clear()
    rewrite(folder / SINGLE, lambda arrays: [array.fill(1) for array in arrays.values()])
    hub.load(folder)
    assert warnings == []


def test_float16_is_read_as_float32(folder, tmp_path):
    def halve(arrays):
        arrays |= {name: array.astype(np.float16) for name, array in arrays.items()}

    rewrite(folder / SINGLE, halve)
    path = folder / "config.json"
    raw = json.loads(path.read_text()) | {"torch_dtype": "float16"}
    path.write_text(json.dumps(raw))
    config, params, _ = hub.load(folder)
    assert (config.compute.dtype, config.compute.param_dtype) == ("float32", "float32")
    expected = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params_of(TINY))
    assert_same(params, expected)
    half = hub.load(folder, param_dtype="bfloat16").params
    assert_same(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected))
    hub.save(tmp_path / "again", config, params, source=folder)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "float32"
    path.write_text(json.dumps(raw | {"torch_dtype": "bfloat16"}))
    with pytest.raises(ValueError, match="float16 in .*: wider than bfloat16: choose param_dtype"):
        hub.load(folder)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    hub.save("~/model", TINY, params_of(TINY))
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    config, params, _ = hub.load("~/model")
    assert_same(params, params_of(TINY))
    assert hub.read_config("~/model") == hub.read_config(tmp_path / "model")
    assert hub.count_stored("~/model") > 0
    hub.save("~/copy", config, params, source="~/model")
    assert hub.read_config(tmp_path / "copy") == hub.read_config("~/model")
    assert (tmp_path / "copy" / "tokenizer.json").exists()


def test_missing_files_are_named(sharded, no_reading):
    file = sorted(sharded.glob("model-*"))[1]
    file.rename(sharded / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{INDEX}: names {file.name}, which is not"):
        hub.load(sharded)
    (sharded / INDEX).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected {SINGLE} or {INDEX}, found .*00001"):
        hub.load(sharded)


def header(text):
    return len(text).to_bytes(8, "little") + text


def test_damaged_files_are_named(folder, no_reading):
    path = folder / SINGLE
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], f"truncated: expected {len(whole)} bytes, found {len(whole) - 1}"),
        (whole + b"x", "bytes after the last tensor"),
        (whole[:100], "truncated, or no safetensors file: expected a header"),
        (b"abc", "truncated, or no safetensors file: expected a header"),
        (whole[:8] + b"?" + whole[9:], "not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (header(b'{"a":' * 200_000), "recursion"),
        (
            header(b'{"model.norm.weight": {}, "model.norm.weight": {}}'),
            "model.norm.weight: is there twice",
        ),
        (whole.replace(b'"F32"', b'"F64"', 1), "expected a type among .*, found F64"),
        (whole.replace(b'"F32"', b'"F16"', 1), "expected 4096 bytes for .* float16, found 8192"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            hub.load(folder)
        assert str(path) in str(caught.value)


def test_weights_are_not_rounded_unasked(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"torch_dtype": "bfloat16"}))
    with pytest.raises(ValueError, match="float32 in .*: wider than bfloat16: choose param_dtype"):
        hub.load(folder)
    assert hub.load(folder, param_dtype="bfloat16").params["embedding"].dtype == "bfloat16"
    config, params, _ = hub.load(folder, param_dtype="float32")
    assert (config.compute.dtype, config.compute.param_dtype) == ("bfloat16", "float32")
    assert_same(params, params_of(TINY))


def test_a_tied_output_matrix_must_be_the_embedding(folder):
    def add(arrays):
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()

    rewrite(folder / SINGLE, add)
    assert_same(hub.load(folder).params, params_of(TINY))
    assert hub.count_stored(folder) == sum(x.size for x in jax.tree.leaves(params_of(TINY)))

    def change(arrays):
        arrays["lm_head.weight"][63, 31] *= -1

    rewrite(folder / SINGLE, change)
    with pytest.raises(ValueError, match="lm_head.weight: expected the bits of model.embed_tokens"):
        hub.load(folder)


def test_layers_for_further_tokens_are_skipped_by_name(tmp_path, monkeypatch):
    params = params_of(V3)
    hub.save(tmp_path / "model", V3, params)

    def add(arrays):
        arrays["model.layers.3.eh_proj.weight"] = np.zeros((3, 4), np.float32)

    rewrite(tmp_path / "model" / SINGLE, add)
    with pytest.raises(ValueError, match="eh_proj.weight: expected -, found .*: unknown"):
        hub.load(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    raw = json.loads(path.read_text()) | {"num_nextn_predict_layers": 1}
    path.write_text(json.dumps(raw))
    said = []
    monkeypatch.setattr(reading.absl.logging, "warning", lambda *args: said.append(args))
    loaded = hub.load(tmp_path / "model")
    assert_same(loaded.params, params)
    ((message, *arguments),) = said
    assert "skipped 1 tensors of model.layers.3.*" in message % tuple(arguments)
    assert hub.count_stored(tmp_path / "model") == sum(x.size for x in jax.tree.leaves(params))
    hub.save(tmp_path / "again", *loaded[:2], source=tmp_path / "model")
    copied = json.loads((tmp_path / "again" / "config.json").read_text())
    assert copied == raw | {"num_nextn_predict_layers": 0}


def test_vocabulary_against_the_tokenizer():
    hub.check_vocab(TINY, 64, "somewhere")
    hub.check_vocab(TINY, 60, "somewhere")
    with pytest.raises(ValueError, match="somewhere: tokenizer: expected at most 64 ids.*found 65"):
        hub.check_vocab(TINY, 65, "somewhere")


def test_shardings_must_cover_the_tree(folder):
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: everywhere, params_of(TINY))
    assert_same(hub.load(folder, shardings=shardings).params, params_of(TINY))
    del shardings["layers"]["global"]["mlp"]
    with pytest.raises(ValueError, match="shardings: expected one for layers/global/mlp/gate"):
        hub.load(folder, shardings=shardings)


@pytest.mark.slow
def test_leaves_split_over_devices_are_the_same(tmp_path):
    """Along layers, experts, heads and rotary halves: every shard gets what belongs to it."""
    hub.save(tmp_path / "model", V3, params_of(V3), max_shard_bytes=20_000)
    script = """
        import sys
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from grm_jax.models import hub
        plain = hub.load(sys.argv[1]).params
        mesh = jax.make_mesh((2, 2), ("a", "b"))
        for turn in (0, 3):
            def choose(x):
                axes = [None] * x.ndim
                left = ["a", "b"]
                for i in [(turn + k) % x.ndim for k in range(x.ndim)]:
                    if left and x.shape[i] % 2 == 0:
                        axes[i] = left.pop()
                return NamedSharding(mesh, P(*axes))
            shardings = jax.tree.map(choose, plain)
            split = hub.load(sys.argv[1], shardings=shardings).params
            for a, b, s in zip(*map(jax.tree.leaves, (plain, split, shardings)), strict=True):
                assert b.sharding == s
                np.testing.assert_array_equal(a, b)
        print("same")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "model"],
        cwd=pathlib.Path(__file__).resolve().parents[2],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout == "same\n", done.stderr


# Export.


def test_a_folder_in_use_is_refused(folder):
    before = (folder / SINGLE).read_bytes()
    with pytest.raises(FileExistsError, match="expected no such folder or an empty one"):
        hub.save(folder, TINY, params_of(TINY))
    assert (folder / SINGLE).read_bytes() == before


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    written = []
    write = tensor_files.write

    def break_down(path, specs, make):
        if written:
            raise OSError("no space left")
        write(path, specs, make)
        written.append(path)

    monkeypatch.setattr(tensor_files, "write", break_down)
    with pytest.raises(OSError, match="no space left"):
        hub.save(tmp_path / "model", TINY, params_of(TINY), max_shard_bytes=20_000)
    assert written and list(tmp_path.iterdir()) == []
    # A folder of such a name is somebody else's: it neither disturbs nor disappears.
    monkeypatch.undo()
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "rest").write_text("")
    hub.save(tmp_path / "model", TINY, params_of(TINY))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", SINGLE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.partial"]
    assert (tmp_path / "model.partial" / "rest").exists()


def test_parameters_of_another_shape_are_refused(tmp_path):
    params = params_of(TINY)
    params["final_norm"]["scale"] = params["final_norm"]["scale"][:-1]
    params["layers"]["local"]["mlp"]["bias"] = params["embedding"]
    params["layers"]["global"]["mlp"]["up"] = params["embedding"].astype("bfloat16")
    del params["layers"]["local"]["mlp"]["gate"]
    with pytest.raises(ValueError) as caught:
        hub.save(tmp_path / "model", TINY, params)
    assert str(caught.value).splitlines()[1:] == [
        "  layers/local/mlp/gate: expected (1, 32, 64) float32, found nothing",
        "  layers/global/mlp/up: expected (1, 32, 64) float32, found (64, 32) bfloat16",
        "  final_norm/scale: expected (32,) float32, found (31,) float32",
        "  layers/local/mlp/bias: expected nothing, found (64, 32) float32",
    ]
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_cannot_be_written_are_refused(tmp_path):
    params = jax.tree.map(lambda x: x.astype("float16"), params_of(TINY))
    with pytest.raises(ValueError, match="embedding: expected float32 or bfloat16, found float16"):
        hub.save(tmp_path / "model", TINY, params)
    params = params_of(TINY)
    params["final_norm"]["scale"] = types.SimpleNamespace(
        shape=(32,), dtype=np.dtype("float32"), is_fully_addressable=False
    )
    with pytest.raises(ValueError, match="final_norm/scale: expected all shards here"):
        hub.save(tmp_path / "model", TINY, params)


def test_a_source_of_another_shape_is_refused(folder, tmp_path):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"sliding_window": 9}))
    with pytest.raises(ValueError, match="config.json: model.sliding_window: expected 8, found 9"):
        hub.save(tmp_path / "copy", TINY, params_of(TINY), source=folder)
    assert not (tmp_path / "copy").exists()
