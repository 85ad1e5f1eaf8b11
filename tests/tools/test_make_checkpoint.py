"""The tiny checkpoints of tools.make_checkpoint are read by what reads the released ones."""

import pytest

from grm_jax.models import hub
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message
from tools import check_parity, make_checkpoint

pytestmark = pytest.mark.slow  # PyTorch and transformers

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """The trained tokenizer of a Gemma kind; training takes most of the time of making one."""
    folder = tmp_path_factory.mktemp("tokenizer") / "gemma2"
    make_checkpoint.make("gemma2", folder)
    return str(folder / "tokenizer.model")


@pytest.mark.parametrize("kind", make_checkpoint.KINDS)
def test_every_kind_is_read_and_speaks(kind, sentencepiece, tmp_path):
    folder = tmp_path / kind
    make_checkpoint.make(kind, folder, tokenizer=sentencepiece if "gemma" in kind else "")
    config, _, head = hub.load(folder)
    assert (head is not None) is kind.endswith("reward")
    assert (config.mla is not None) is kind.startswith("deepseek")
    tokenizer = load_tokenizer(folder)
    hub.check_vocab(config, tokenizer.vocab_size, folder)
    ids = tokenizer.chat([Message("user", "<bos> write about boats")])
    if kind.startswith("qwen"):
        assert tokenizer.bos_id is None
    else:
        assert ids.count(tokenizer.bos_id) == 1 and ids[0] == tokenizer.bos_id
    assert "write about boats" in tokenizer.decode(ids)
    assert check_parity.main([f"--checkpoint={folder}", "--length=12"]) == 0
    with pytest.raises(FileExistsError):
        make_checkpoint.make(kind, folder)


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_checkpoint.make("gemma2", tmp_path / "out", tokenizer="nowhere")
    assert not list(tmp_path.iterdir())
