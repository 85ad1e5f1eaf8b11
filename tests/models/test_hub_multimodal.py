"""Gemma-3 with vision, made by transformers: refused as it is, and its text model taken out."""

import json
import os

import numpy as np
import pytest

from grm_jax.models import hub
from tools import convert
from tools.outputs import outputs

pytestmark = pytest.mark.slow  # PyTorch and transformers

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

TEXT = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8,
    "sliding_window_pattern": 3, "query_pre_attn_scalar": 16, "num_labels": 1,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
IMAGES = {
    "mm_tokens_per_image": 4, "image_token_index": 96, "boi_token_index": 95, "eoi_token_index": 94,
}  # fmt: skip
KINDS = {"Generation": "ForConditionalGeneration", "Reward": "ForSequenceClassification"}


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    """A random model and its folder, in the names of tensors that published files have."""
    model_class = getattr(transformers, f"Gemma3{KINDS[request.param]}")
    config = transformers.Gemma3Config(
        text_config=TEXT, vision_config=VISION, **IMAGES, num_labels=1
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    folder = tmp_path_factory.mktemp("multimodal") / "saved"
    model.save_pretrained(folder)
    return model, folder


def renamed(folder, target):
    """The same with the names that transformers has in memory."""
    target.mkdir()
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    stored = safetensors_torch.load_file(folder / "model.safetensors")
    later = {}
    for name, tensor in stored.items():
        name = name.replace("language_model.model.", "model.language_model.", 1)
        if name.startswith(("vision_tower.", "multi_modal_projector.")):
            name = f"model.{name}"
        later[name.replace("language_model.lm_head.", "lm_head.", 1)] = tensor
    assert later.keys().isdisjoint(name for name in stored if name != "score.weight")
    safetensors_torch.save_file(later, target / "model.safetensors")
    return target


@pytest.mark.parametrize("later", [False, True], ids=["published names", "later names"])
def test_the_text_model_of_a_multimodal_one(saved, later, tmp_path):
    model, folder = saved
    folder = renamed(folder, tmp_path / "renamed") if later else folder
    with pytest.raises(ValueError, match=r"tensors of vision, such as .*tools\.convert --to=text"):
        hub.load(folder)
    target = tmp_path / "text"
    convert.main(["--to=text", f"--source={folder}", f"--target={target}"])
    raw = json.loads((target / "config.json").read_text())
    assert raw["model_type"] == "gemma3_text" and "vision_config" not in raw
    checkpoint = hub.load(target)
    assert hub.count_stored(folder) == hub.count_stored(target)

    tokens = np.random.default_rng(0).integers(3, 90, (2, 20))
    reward = checkpoint.head is not None
    kind = transformers.AutoModelForSequenceClassification if reward else (
        transformers.AutoModelForCausalLM)  # fmt: skip
    text, info = kind.from_pretrained(target, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        want, again = (m(torch.tensor(tokens)).logits.numpy() for m in (model, text))
    np.testing.assert_allclose(again, want, rtol=0, atol=1e-6)
    got = outputs(checkpoint, tokens, np.ones_like(tokens))
    np.testing.assert_allclose(got[:, -1] if reward else got, want, rtol=0, atol=1e-5)
