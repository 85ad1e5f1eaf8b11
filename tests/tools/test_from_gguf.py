"""Hub folders of GGUF files.

Tiny ones are compared with what they were written from and with the reader of transformers; a real
one too, where GRM_JAX_MODELS names a folder of them.
"""

import json
import math
import os
import pathlib
import struct

import gguf
import numpy as np
import pytest
import tiny_gguf

from grm_jax.models import hub
from grm_jax.models.hub import tensor_files
from grm_jax.text.chat_templates import load_tokenizer
from grm_jax.text.prompts import Message
from tools import from_gguf
from tools.gguf_files import models, rope
from tools.gguf_files.reading import GGUF, readable_types

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def convert(path, model, *flags, **options):
    """Writes a GGUF file and converts it; the folder."""
    tiny_gguf.write(path / "tiny.gguf", model, **options)
    from_gguf.main([f"--source={path / 'tiny.gguf'}", f"--out={path / 'folder'}", *flags])
    return path / "folder"


def tensors(folder):
    return {
        name: np.array(tensor_files.open_tensor(stored))
        for file in sorted(folder.glob("*.safetensors"))
        for name, stored in tensor_files.read_header(file).items()
    }


def config(folder):
    return json.loads((folder / "config.json").read_text())


# --- Weights and shapes -----------------------------------------------------------------------


@pytest.mark.parametrize("architecture", tiny_gguf.KEYS)
def test_every_weight_comes_back(architecture, tmp_path, capsys):
    model = tiny_gguf.content(architecture, tied=architecture != "qwen3")
    folder = convert(tmp_path, model)
    found = tensors(folder)
    assert found.keys() == model.weights.keys()
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)
    printed = capsys.readouterr().out
    assert f"{len(found)} tensors, {sum(x.size for x in found.values()):,} parameters" in printed
    assert f"{len(model.tensors)} F32" in printed and str(folder) in printed
    loaded = hub.load(folder)  # the library reads it, every field of config.json included
    assert loaded.config.tied_embeddings is (architecture != "qwen3")
    np.testing.assert_array_equal(
        loaded.params["embedding"], model.weights["model.embed_tokens.weight"]
    )


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_rows(kind, tmp_path):
    """Rows are quantised one by one, so that their order does not matter."""
    model = tiny_gguf.content("llama")
    found = tensors(convert(tmp_path, model, kind=kind))
    number = gguf.GGMLQuantizationType[kind]
    for name, weight in model.weights.items():
        if weight.ndim > 1:
            weight = gguf.dequantize(gguf.quantize(weight, number), number)
        np.testing.assert_array_equal(found[name], weight, err_msg=name)


def test_bfloat16_rounds_and_shards_are_indexed(tmp_path):
    model = tiny_gguf.content("qwen2", tied=False)
    folder = convert(tmp_path, model, "--dtype=bfloat16", "--max_shard_gb=0.00003")
    found = tensors(folder)
    assert config(folder)["torch_dtype"] == "bfloat16"
    assert len([*folder.glob("model-*.safetensors")]) > 2
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(found[name], weight.astype(found[name].dtype), err_msg=name)
        assert str(found[name].dtype) == "bfloat16"
    assert hub.load(folder).config.qkv_bias


def test_the_config_of_gemma3(tmp_path):
    model = tiny_gguf.content("gemma3")
    model.metadata["gemma3.rope.scaling.type"] = "linear"
    model.metadata["gemma3.rope.scaling.factor"] = 8.0
    found = config(convert(tmp_path, model))
    assert found["layer_types"] == [
        *["sliding_attention"] * 5,
        "full_attention",
        "sliding_attention",
    ]
    assert found["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (1e6, 1e4)
    assert (found["query_pre_attn_scalar"], found["sliding_window"]) == (256, 8)
    assert found["rms_norm_eps"] == 1e-5  # the decimal, not the float32 nearest to it


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_gemma_27b_scales_queries_by_its_width(architecture, layers, tmp_path):
    model = tiny_gguf.content(architecture)
    small = config(convert(tmp_path, model))
    model.metadata[f"{architecture}.block_count"] = layers
    blocks = tiny_gguf.KEYS[architecture]["block_count"]
    for name, x in [*model.tensors.items()]:
        if name.startswith("blk.0."):
            for layer in range(blocks, layers):
                model.tensors[name.replace("blk.0.", f"blk.{layer}.")] = x
    (tmp_path / "large").mkdir()
    large = config(convert(tmp_path / "large", model))
    assert (small["query_pre_attn_scalar"], large["query_pre_attn_scalar"]) == (256, 16)


def test_a_window_makes_a_llama_a_mistral(tmp_path):
    model = tiny_gguf.content("llama")
    model.metadata["llama.attention.sliding_window"] = 4096
    folder = convert(tmp_path, model)
    assert config(folder)["architectures"] == ["MistralForCausalLM"]
    assert hub.load(folder).config.sliding_window == 4096


def test_heads_of_another_width(tmp_path):
    model = tiny_gguf.content("qwen3moe")
    assert config(convert(tmp_path, model))["head_dim"] == 32
    (tmp_path / "llama").mkdir()
    assert "head_dim" not in config(convert(tmp_path / "llama", tiny_gguf.content("llama")))


def naive_divisors(factor, theta, count):
    """Llama-3's rule by wavelength, a frequency at a time."""
    for i in range(count):
        wave = 2 * math.pi * theta ** (i / count)
        if wave < 8192 / 4:
            yield 1.0
        elif wave > 8192:
            yield factor
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            yield 1 / ((1 - smooth) / factor + smooth)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_setting_of_llama3_is_recovered(factor, tmp_path):
    model = tiny_gguf.content("llama")
    model.metadata["llama.rope.freq_base"] = 500_000.0
    divisors = np.array([*naive_divisors(factor, 500_000.0, 8)])
    assert 1 < divisors[4] < factor and divisors[0] == 1 and divisors[-1] == factor
    model.tensors["rope_freqs.weight"] = divisors.astype(np.float32)
    setting = config(convert(tmp_path, model))["rope_scaling"]
    assert setting == {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    np.testing.assert_allclose(rope.llama3_divisors(setting, 5e5, 8), divisors, rtol=1e-12)
    assert hub.load(tmp_path / "folder").config.llama3_rope.factor == factor


def test_yarn(tmp_path):
    model = tiny_gguf.content("qwen2")
    model.metadata.update({
        "qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 128,
        "qwen2.rope.scaling.yarn_beta_fast": 16.0,
    })  # fmt: skip
    folder = convert(tmp_path, model)
    assert config(folder)["rope_scaling"] == {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
        "beta_fast": 16.0,
    }  # fmt: skip
    yarn = hub.load(folder).config.yarn
    assert (yarn.factor, yarn.beta_fast, yarn.beta_slow) == (4.0, 16.0, 1.0)


# --- Vocabularies -----------------------------------------------------------------------------


def test_a_byte_level_vocabulary(tmp_path):
    model = tiny_gguf.content("qwen2")
    model.metadata["tokenizer.chat_template"] = TEMPLATE
    folder = convert(tmp_path, model)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 262  # without the unused ones
    text = "the  theory <|im_end|> <think> \u00e9\n\n12"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("he he") == [256, 257]
    assert tokenizer.stop_ids == (260, 258)
    assert tokenizer.chat([Message("user", "he")])[0] == 259  # no bos: the file says so
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert backend.encode("<think>").ids == [261]
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 258, "eos_token_id": [260, 258], "pad_token_id": 258
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("qwen2", "a\n\n 12", ["a", "ĊĊ", "Ġ", "1", "2"]),
        ("llama-bpe", "a\n\n 1234", ["a", "ĊĊ", "Ġ", "123", "4"]),
        ("smollm", "a\n\n12", ["a", "ĊĊ", "1", "2"]),
        ("gpt-2", "a\n\n12", ["a", "Ċ", "Ċ", "12"]),
    ],
)
def test_how_text_is_split(pre, text, pieces, tmp_path):
    import tokenizers

    model = tiny_gguf.content("llama", vocabulary=tiny_gguf.byte_level(pre))
    folder = convert(tmp_path, model)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == pieces


def test_llama3_takes_whole_tokens_and_starts_with_bos(tmp_path):
    import tokenizers

    model = tiny_gguf.content("llama", vocabulary=tiny_gguf.byte_level("llama-bpe"))
    model.metadata["tokenizer.ggml.merges"] = ["h e"]  # none makes the last token of text
    del model.metadata["tokenizer.ggml.add_bos_token"]
    folder = convert(tmp_path, model)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert backend.encode("he he").ids == [258, 256, 257]
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is True


def test_a_sentencepiece_vocabulary(tmp_path):
    folder = convert(tmp_path, tiny_gguf.content("gemma3", vocabulary=tiny_gguf.sentencepiece()))
    tokenizer = load_tokenizer(folder)
    text = "ab  ab\n\u00e9 <start_of_turn>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("ab  ab ab") == [264, 7, 264, 265]
    assert tokenizer.encode("\u00e9") == [8 + 0xC3, 8 + 0xA9]
    ids = tokenizer.chat([Message("user", "ab")])
    assert ids[:2] == [2, 4] and tokenizer.eos_id == 1


def test_a_dummy_prefix_is_kept(tmp_path):
    import sentencepiece

    vocabulary = tiny_gguf.sentencepiece(prefix=True)
    folder = convert(tmp_path, tiny_gguf.content("llama", vocabulary=vocabulary))
    model = str(folder / "tokenizer.model")
    assert sentencepiece.SentencePieceProcessor(model_file=model).encode("ab") == [265]


# --- What is refused --------------------------------------------------------------------------


def set_(**changes):
    return lambda model: model.metadata.update(
        {key.replace("__", "."): value for key, value in changes.items()}
    )


def without(key):
    return lambda model: (model.metadata.pop(key, None), model.tensors.pop(key, None))


def tensor(name, x):
    return lambda model: model.tensors.update({name: x})


def swap(key, place, value):
    return lambda model: model.metadata[key].__setitem__(place, value)


ONES = np.ones(8, np.float32)
GGML = "tokenizer.ggml."
REFUSED = {
    "architecture": (set_(general__architecture="mamba"), "architecture: expected one of llama, q"),
    "adapter": (set_(general__type="adapter"), "general.type: expected 'model', found 'adapter'"),
    "split": (set_(split__count=3), "split.count: expected 0 or 1, found 3"),
    "key": (set_(llama__attention__scale=0.1), "llama.attention.scale: expected no key that"),
    "experts": (set_(llama__expert_count=8), "llama.expert_count: expected 0, found 8"),
    "missing": (without("llama.context_length"), "llama.context_length: expected a number"),
    "zero": (set_(llama__attention__head_count=0), "head_count: expected 1 or more, found 0"),
    "by_layer": (set_(llama__feed_forward_length=[96, 96]), "forward_length: expected a number"),
    "values": (set_(llama__attention__value_length=8), "value_length: expected 16, found 8"),
    "rotated": (set_(llama__rope__dimension_count=8), "dimension_count: expected 16, found 8"),
    "rows": (set_(llama__vocab_size=7), "llama.vocab_size: expected 264, found 7"),
    "longrope": (set_(llama__rope__scaling__type="longrope"), "scaling.type: expected 'none'"),
    "yarn": (set_(llama__rope__scaling__type="yarn"), "context_length: expected a number"),
    "theta": (set_(llama__rope__freq_base=0.0), "freq_base: expected a number above 0"),
    "eps": (
        set_(llama__attention__layer_norm_rms_epsilon=-1e-5),
        "rms_epsilon: expected a number above 0, found -1e-05",
    ),
    "yarn_attn": (set_(llama__rope__scaling__attn_factor=2.0), "attn_factor: expected no key that"),
    "rope_freqs": (tensor("rope_freqs.weight", ONES * 3), "rope_freqs.weight: expected the div"),
    "no_tensor": (without("blk.1.ffn_up.weight"), "blk.1.ffn_up.weight: expected a tensor"),
    "new_tensor": (tensor("blk.0.attn_q.bias", ONES), "attn_q.bias: expected no tensor that"),
    "shape": (tensor("output_norm.weight", ONES), r"output_norm.weight: expected .*\(64,\), found"),
    "no_embedding": (without("token_embd.weight"), "token_embd.weight: expected a tensor"),
    "type": (tensor("output_norm.weight", np.ones(64, np.int64)), "output_norm.*found I64"),
    "no_vocabulary": (without(GGML + "model"), "ggml.model: expected gpt2 or llama, found nothing"),
    "wordpiece": (set_(tokenizer__ggml__model="bert"), "ggml.model: expected gpt2 or llama"),
    "pre": (set_(tokenizer__ggml__pre="tekken"), "ggml.pre: expected one of gpt-2, .*found tekken"),
    "no_pre": (without(GGML + "pre"), "ggml.pre: expected one of gpt-2, .*found nothing"),
    "vocabulary_key": (set_(tokenizer__ggml__new=1), "tokenizer.ggml.new: expected no key that is"),
    "add_eos": (set_(tokenizer__ggml__add_eos_token=True), "add_eos_token: expected False"),
    "types": (set_(tokenizer__ggml__token_type=[1]), "token_type: expected a list of 264 int"),
    "tokens": (set_(tokenizer__ggml__tokens=[1, 2]), "tokens: expected a list of str"),
    "twice": (swap(GGML + "tokens", 0, "he"), "tokens: expected at most 264 tokens, each once"),
    "id": (set_(tokenizer__ggml__eos_token_id=264), "eos_token_id: expected an id below 264"),
    "merge": (swap(GGML + "merges", 1, "h q"), r"merges\[1\]: expected two tokens .*found 'h q'"),
    "merges": (without(GGML + "merges"), "merges: expected a list of str, found NoneType"),
    "no_bos": (
        lambda model: (without(GGML + "bos_token_id")(model),
                       set_(tokenizer__ggml__add_bos_token=True)(model)),
        "bos_token_id: expected an id, as bos is added",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case, tmp_path):
    change, message = REFUSED[case]
    model = tiny_gguf.content("llama")
    change(model)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'tiny.gguf'}: .*{message}") as caught:
        convert(tmp_path, model)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]  # no folder, whole or not


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(GGML + "unknown_token_id"), "unknown_token_id: expected an id, found nothing"),
        (without(GGML + "scores"), "scores: expected a list of 275 float"),
        (
            swap(GGML + "token_type", 9, 7),
            r"token_type\[9\]: expected a number from 1 to 6, found 7",
        ),
        (set_(gemma3__attention__sliding_window_pattern=4), "sliding_window_pattern: expected 6"),
        (without("gemma3.attention.sliding_window"), "sliding_window: expected a number"),
    ],
)
def test_refused_of_gemma(change, message, tmp_path):
    model = tiny_gguf.content("gemma3", vocabulary=tiny_gguf.sentencepiece())
    change(model)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, model)


def test_files_that_are_no_whole_gguf_files(tmp_path):
    model, path, out = tiny_gguf.content("llama"), tmp_path / "a.gguf", tmp_path / "out"

    def error(data=None):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ValueError, match=f"^{path}: [^\n]+$") as caught:
            from_gguf.convert(path, out)
        assert not out.exists()
        return str(caught.value)

    tiny_gguf.write(path, model, big_endian=True)
    assert "expected a little-endian file, found a big-endian one" in error()
    tiny_gguf.write(path, model)
    data = path.read_bytes()
    assert "not a GGUF file" in error(b"")
    assert "not a GGUF file" in error(b"PK" + data[2:])
    assert "version of GGUF: expected 2 or 3, found 1" in error(data[:4] + b"\1" + data[5:])
    for size in (8, 20, 100, 3000, 9000, 20_000, len(data) // 2, len(data) - 1000):
        assert "truncated" in error(data[:size])
    place = data.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8
    unknown = data[:place] + struct.pack("<I", 999) + data[place + 4 :]
    message = error(unknown)
    assert "output_norm.weight: expected a type among F32, F16, Q4_0" in message
    assert message.endswith("found type 999")
    with pytest.raises(FileNotFoundError):
        from_gguf.convert(tmp_path / "none.gguf", out)
    path.write_bytes(data)
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(FileExistsError):
        from_gguf.convert(path, out)


@pytest.mark.parametrize(
    ("offset", "message"),
    [(0, "expected bytes from .* on, behind"), (32, "behind"), (33, "a multiple of 32, found 33"),
     (1 << 40, "truncated")],
)  # fmt: skip
def test_tensors_stand_apart(offset, message, tmp_path):
    path = tmp_path / "a.gguf"
    tiny_gguf.write(path, tiny_gguf.content("llama"))
    data = path.read_bytes()
    name = b"blk.1.attn_norm.weight"
    place = data.index(name) + len(name) + 4 + 8 + 4
    path.write_bytes(data[:place] + struct.pack("<Q", offset) + data[place + 8 :])
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        GGUF(path)


@pytest.mark.parametrize(
    ("theta", "context", "warned"),
    [(5e5, 131_072, True), (5e5, 8192, False), (1e4, 131_072, False)],
)
def test_llama3_without_its_divisors_is_told(theta, context, warned, tmp_path, monkeypatch):
    model = tiny_gguf.content("llama")
    set_(llama__rope__freq_base=theta, llama__context_length=context)(model)
    said = []
    monkeypatch.setattr(
        models.absl.logging, "warning", lambda text, *args: said.append(text % args)
    )
    convert(tmp_path, model)
    assert ["tiny.gguf: has no rope_freqs.weight" in text for text in said] == [True] * warned
    model.tensors["rope_freqs.weight"] = np.ones(8, np.float32)
    tiny_gguf.write(tmp_path / "told.gguf", model)
    models.read(GGUF(tmp_path / "told.gguf"))
    assert len(said) == warned


def test_the_types_that_can_be_read():
    assert {"F32", "F16", "BF16", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS"} <= {*readable_types()}
    assert {"Q8_K", "I8", "F64"}.isdisjoint(readable_types())


# --- The reader of transformers ---------------------------------------------------------------


@pytest.mark.slow  # PyTorch and transformers
@pytest.mark.parametrize("kind", ["F16", "Q4_0"])
@pytest.mark.parametrize("architecture", tiny_gguf.KEYS)
def test_transformers_reads_the_same(architecture, kind, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    vocabulary = tiny_gguf.sentencepiece() if architecture.startswith("gemma") else None
    model = tiny_gguf.content(architecture, vocabulary=vocabulary, tied=architecture != "llama")
    folder = convert(tmp_path, model, kind=kind)
    load = transformers.AutoModelForCausalLM.from_pretrained
    theirs = load(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    ours = load(folder, dtype=torch.float32).eval()
    _compare(torch, theirs, ours, torch.arange(40)[None])


def _compare(torch, theirs, ours, ids):
    """Every tensor and the logits of two models of PyTorch, which must be equal."""
    expected, found = theirs.state_dict(), ours.state_dict()
    assert expected.keys() == found.keys() and type(theirs) is type(ours)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, ours(ids).logits)


@pytest.mark.slow  # PyTorch, transformers and a real file
def test_a_real_file(tmp_path):
    """SmolLM2-135M-Instruct in 4 bits, a file in the folder that GRM_JAX_MODELS names."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    source = pathlib.Path(os.environ.get("GRM_JAX_MODELS", "")) / "smollm2-135m-instruct.gguf"
    if not source.is_file():
        pytest.skip("GRM_JAX_MODELS names no folder with smollm2-135m-instruct.gguf")
    from_gguf.convert(source, tmp_path / "folder")
    load = transformers.AutoModelForCausalLM.from_pretrained
    theirs = load(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
    ours = load(tmp_path / "folder", dtype=torch.float32).eval()
    text = pathlib.Path(from_gguf.__file__).read_text()[:2000]
    tokenizer = load_tokenizer(tmp_path / "folder")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    _compare(torch, theirs, ours, torch.tensor([ids]))
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name
    )
    # Their reader does not know this file's way of splitting, each digit on its own.
    from tokenizers import pre_tokenizers

    their_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    assert their_tokenizer(text).input_ids == ids
