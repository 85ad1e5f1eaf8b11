"""The parity check passes for a faithful decoder and fails for another."""

import dataclasses
import os

import jax
import pytest
from tiny_params import random_params

from grm_jax.models import heads, hub, transformer
from grm_jax.models.variants import VARIANTS
from tools import check_parity

pytestmark = pytest.mark.slow  # PyTorch and transformers

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("torch")
pytest.importorskip("transformers")

CONFIG = VARIANTS["tiny"]


@pytest.mark.parametrize("reward", [False, True], ids=["decoder", "reward"])
def test_exit_code_and_table(reward, tmp_path, capsys, monkeypatch):
    params = random_params(CONFIG)
    head = heads.scalar_init(CONFIG, jax.random.key(1)) if reward else None
    hub.save(tmp_path / "model", CONFIG, params, head=head)
    arguments = [f"--checkpoint={tmp_path / 'model'}", "--length=12"]
    assert check_parity.main(arguments) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert "max |diff|" in header
    if not reward:
        assert rows.pop().startswith(
            "64 greedy tokens after 4 prompts of 8 to 12 tokens: 4 equal, "
        )
    assert [row[:20].strip() for row in rows] == ["random tokens", "padded on the left"]
    assert all(row.endswith("100.00%") for row in rows)

    apply = transformer.apply
    wrong = dataclasses.replace(CONFIG, sliding_window=7)
    jax.clear_caches()  # a patched decoder must not meet an old trace
    monkeypatch.setattr(transformer, "apply", lambda config, *rest: apply(wrong, *rest))
    assert check_parity.main(arguments) == 1
    assert "beyond the limit" in capsys.readouterr().out
