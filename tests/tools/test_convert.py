"""Conversion: the way to orbax and back gives the same files, and failures leave nothing."""

import json

import jax
import numpy as np
import pytest
from tiny_params import random_params

from grm_jax.models import heads, hub
from grm_jax.models.variants import VARIANTS
from tools import convert

CONFIG = VARIANTS["tiny"]


@pytest.fixture(params=[False, True], ids=["decoder", "reward"])
def source(request, tmp_path):
    params = random_params(CONFIG)
    head = heads.scalar_init(CONFIG, jax.random.key(1)) if request.param else None
    hub.save(tmp_path / "hf", CONFIG, params, head=head, max_shard_bytes=20_000)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        (tmp_path / "hf" / name).write_text(name)
    return tmp_path / "hf"


def run(to, source, target, *more):
    convert.main([f"--to={to}", f"--source={source}", f"--target={target}", *more])


def test_there_and_back(source, tmp_path, capsys):
    run("orbax", source, tmp_path / "orbax")
    run("hf", tmp_path / "orbax", tmp_path / "again", "--max_shard_gb=0.00002")
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'orbax'}: written", f"{tmp_path / 'again'}: written"
    ]  # fmt: skip
    ours, theirs = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path / "again", source)
    )
    assert ours == theirs


def test_a_reward_model_that_was_trained_here_keeps_an_output_matrix_that_is_left_out(tmp_path):
    config = VARIANTS["tiny_deepseek"]
    assert not config.tied_embeddings
    trained = hub.Checkpoint(
        config, random_params(config), heads.scalar_init(config, jax.random.key(1))
    )
    convert.write_orbax(tmp_path / "stage", trained)
    run("hf", tmp_path / "stage", tmp_path / "hf")
    found = hub.load(tmp_path / "hf")
    kept = {name: leaf for name, leaf in trained.params.items() if name != "lm_head"}
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.head), (kept, trained.head))


def test_another_type(source, tmp_path):
    run("orbax", source, tmp_path / "orbax", "--param_dtype=bfloat16")
    checkpoint = convert.read_orbax(tmp_path / "orbax")
    assert {str(x.dtype) for x in jax.tree.leaves(checkpoint)[1:]} == {"bfloat16"}
    run("hf", tmp_path / "orbax", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    np.testing.assert_array_equal(
        hub.load(tmp_path / "again").params["embedding"], checkpoint.params["embedding"]
    )


@pytest.mark.parametrize("to", ["orbax", "hf"])
def test_a_failed_conversion_leaves_nothing(source, to, tmp_path, monkeypatch):
    run("orbax", source, tmp_path / "orbax")
    before = sorted(path.name for path in tmp_path.iterdir())
    where = source if to == "orbax" else tmp_path / "orbax"

    def fail(*_):
        raise OSError("no space left")

    # The small files come after the weights.
    monkeypatch.setattr(hub.record, "copy_small_files", fail)
    monkeypatch.setattr(hub.writing, "copy_small_files", fail)
    with pytest.raises(OSError, match="no space left"):
        run(to, where, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_that_is_no_orbax_folder(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="model.json"):
        run("hf", source, tmp_path / "target")
    (source / "model.json").write_text('{"model": {"vocab": 3}, "reward": false}')
    with pytest.raises(ValueError, match="model.json: no ModelConfig: .*vocab"):
        run("hf", source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_deepseek_shape_survives_json(tmp_path):
    config = VARIANTS["tiny_deepseek"]
    params = random_params(config)
    convert.write_orbax(tmp_path / "orbax", hub.Checkpoint(config, params, None))
    again = convert.read_orbax(tmp_path / "orbax")
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_help_is_enough(capsys):
    with pytest.raises(SystemExit):
        convert.main(["--help"])
    printed = capsys.readouterr().out
    assert "python -m tools.convert --to=orbax --source=" in printed
    with pytest.raises(SystemExit):
        convert.main(["--to=hf", "--source=a", "--target=b", "--param_dtype=float32"])


@pytest.mark.parametrize("damage", ["bit", "digest"])
def test_damaged_parameters_are_not_exported(tmp_path, damage):
    checkpoint = hub.Checkpoint(CONFIG, random_params(CONFIG), None)
    folder = tmp_path / "orbax"
    convert.write_orbax(folder, checkpoint)
    convert.read_orbax(folder)
    done = folder / convert.DONE
    if damage == "digest":
        done.write_text(json.dumps({"fingerprint": "0" * 16}))
    else:
        file = max(folder.glob("params/**/d/*"), key=lambda path: path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{folder}/params: "):
        convert.main(["--to=hf", f"--source={folder}", f"--target={tmp_path / 'hf'}"])
    assert not (tmp_path / "hf").exists()
    if damage == "digest":  # folders of earlier versions have none
        done.unlink()
        convert.main(["--to=hf", f"--source={folder}", f"--target={tmp_path / 'hf'}"])
