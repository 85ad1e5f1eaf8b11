"""Makes a tiny random checkpoint in the format of the Hugging Face hub, with transformers.

    python -m tools.make_checkpoint --kind=gemma2 --out=runs/tiny/gemma2
    python -m tools.make_checkpoint --kind=gemma2_reward --out=runs/tiny/gemma2_reward
    python -m tools.make_checkpoint --kind=qwen3 --out=runs/tiny/qwen3

So that every path of the released weights can be walked on a laptop. Needs the extra `parity`. The
tokenizer is the file given by --tokenizer, or a small one trained on the small world.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from grm_jax.data.small_world import SmallWorld, SmallWorldConfig
from grm_jax.models import hub
from grm_jax.text import prompts
from grm_jax.text.tokenizers import (
    DEEPSEEK_CHAT,
    GEMMA_CHAT,
    SentencePieceTokenizer,
    train_sentencepiece,
)
from tools import make_parser, run_program, user_path

_GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_DEEPSEEK_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}User: {{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}"
    "{% else %}{{ m.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

# ChatML. The piece of the beginning is for tokenizers that have one; that of the end closes a turn.
_CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# With an empty block of thinking where thinking is switched off.
_CHATML_THINKING = _CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)


class _ByteLevel(NamedTuple):
    """A byte-level tokenizer and its chat: control pieces, in the order of their ids from 0."""

    template: str
    pieces: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str

    def write(self, out: pathlib.Path, given: str) -> int:
        """Writes its files, with the tokenizer.json that is given or a trained one; its size."""
        import tokenizers

        if given:
            shutil.copy(given, out / "tokenizer.json")
            backend = tokenizers.Tokenizer.from_file(given)
        else:
            backend = tokenizers.Tokenizer(tokenizers.models.BPE())
            backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = tokenizers.decoders.ByteLevel()
            backend.train_from_iterator(_lines(), tokenizers.trainers.BpeTrainer(
                vocab_size=800, special_tokens=list(self.pieces), show_progress=False,
                initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            ))  # fmt: skip
            backend.save(str(out / "tokenizer.json"))
        _write_json(out / "tokenizer_config.json", {
            "bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad,
            "chat_template": self.template,
        })  # fmt: skip
        return 1 + max(backend.get_vocab().values())


def _lines():
    world = SmallWorld(SmallWorldConfig())
    for comparison in world.comparisons("train", 100):
        yield prompts.grm_prompt(comparison.messages, comparison.responses, form="full")


def _gemma_tokenizer(out: pathlib.Path, given: str) -> int:
    if given:
        shutil.copy(given, out / "tokenizer.model")
        size = SentencePieceTokenizer.from_file(out / "tokenizer.model").vocab_size
    else:
        size = train_sentencepiece(_lines(), out / "tokenizer.model", vocab_size=800).vocab_size
    _write_json(out / "tokenizer_config.json", {
        "bos_token": GEMMA_CHAT.bos, "eos_token": GEMMA_CHAT.eos, "pad_token": GEMMA_CHAT.pad,
        "chat_template": _GEMMA_TEMPLATE,
    })  # fmt: skip
    return size


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_COMMON = {
    "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 8192, "dtype": "float32",
}  # fmt: skip
_GEMMA2 = _COMMON | {
    "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 512,
    "query_pre_attn_scalar": 16, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
_DEEPSEEK = _COMMON | {
    "num_hidden_layers": 3, "num_key_value_heads": 4, "moe_intermediate_size": 32,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": None, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "n_group": 1, "topk_group": 1,
    "routed_scaling_factor": 1.0, "bos_token_id": 0, "eos_token_id": 1,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0,
        "original_max_position_embeddings": 2048, "beta_fast": 32, "beta_slow": 1,
        "mscale": 0.707, "mscale_all_dim": 0.707,
    },
}  # fmt: skip
_LLAMA = _COMMON | {
    "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False,
    "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 0,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 1024,
    },
}  # fmt: skip
_QWEN = _LLAMA | {
    "bos_token_id": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}  # fmt: skip
_QWEN3_MOE = _QWEN | {
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}  # fmt: skip
# A group of two local layers and a global one, and a local layer that is left.
_GEMMA3 = _GEMMA2 | {
    "num_hidden_layers": 4, "num_key_value_heads": 1, "sliding_window_pattern": 3,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
}  # fmt: skip
_PIECES = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_CHATML_BOS = _ByteLevel(_CHATML, _PIECES, _PIECES[0], _PIECES[2], _PIECES[0])
_CHATML_PLAIN = _ByteLevel(_CHATML, _PIECES, None, _PIECES[2], _PIECES[0])
_CHATML_THINKS = _ByteLevel(_CHATML_THINKING, _PIECES, None, _PIECES[2], _PIECES[0])
_DEEPSEEK_CHAT = _ByteLevel(
    _DEEPSEEK_TEMPLATE, (DEEPSEEK_CHAT.bos, DEEPSEEK_CHAT.eos), DEEPSEEK_CHAT.bos,
    DEEPSEEK_CHAT.eos, DEEPSEEK_CHAT.pad,
)  # fmt: skip
_CAUSAL, _REWARD = "ForCausalLM", "ForSequenceClassification"
# Architecture of transformers, fields of its config, and who writes the tokenizer.
KINDS = {
    "gemma2": ("Gemma2" + _CAUSAL, _GEMMA2, _gemma_tokenizer),
    "gemma2_reward": ("Gemma2" + _REWARD, _GEMMA2 | {"num_labels": 1}, _gemma_tokenizer),
    "gemma3": ("Gemma3" + _CAUSAL, _GEMMA3, _gemma_tokenizer),
    "deepseek_v2": (
        "DeepseekV2" + _CAUSAL, _DEEPSEEK | {"topk_method": "greedy"}, _DEEPSEEK_CHAT.write
    ),
    "deepseek_v3": ("DeepseekV3" + _CAUSAL, _DEEPSEEK, _DEEPSEEK_CHAT.write),
    "llama": ("Llama" + _CAUSAL, _LLAMA, _CHATML_BOS.write),
    "mistral": (
        "Mistral" + _CAUSAL,
        _LLAMA | {"sliding_window": 512, "rope_parameters": _QWEN["rope_parameters"]},
        _CHATML_BOS.write,
    ),
    "qwen2": ("Qwen2" + _CAUSAL, _QWEN, _CHATML_PLAIN.write),
    "qwen3": ("Qwen3" + _CAUSAL, _QWEN, _CHATML_THINKS.write),
    "qwen3_moe": ("Qwen3Moe" + _CAUSAL, _QWEN3_MOE, _CHATML_THINKS.write),
    "qwen3_reward": ("Qwen3" + _REWARD, _QWEN | {"num_labels": 1}, _CHATML_THINKS.write),
}  # fmt: skip


def make(kind: str, out: pathlib.Path, *, tokenizer: str = "", seed: int = 0) -> None:
    """Writes the folder `out`: weights, config.json, tokenizer and chat template.

    Raises:
      FileExistsError: if `out` exists and is not empty.
    """
    import torch
    import transformers

    architecture, fields, write_tokenizer = KINDS[kind]
    with hub.new_folder(out) as partial:
        vocab_size = write_tokenizer(partial, tokenizer)
        model_class = getattr(transformers, architecture)
        config = model_class.config_class(vocab_size=vocab_size, **fields)
        torch.manual_seed(seed)
        model_class(config).save_pretrained(partial)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes one."""
    parser = make_parser(__doc__)
    parser.add_argument("--kind", default="gemma2", choices=KINDS, help="architecture")
    parser.add_argument("--out", required=True, type=user_path, help="new folder")
    parser.add_argument(
        "--tokenizer", default="", type=os.path.expanduser,
        help="tokenizer.model (Gemma) or tokenizer.json (the others) to copy in",
    )  # fmt: skip
    parser.add_argument("--seed", default=0, type=int, help="of the weights")
    args = parser.parse_args(argv)
    make(args.kind, args.out, tokenizer=args.tokenizer, seed=args.seed)
    print(f"written: {args.out}")


if __name__ == "__main__":
    run_program(main)
