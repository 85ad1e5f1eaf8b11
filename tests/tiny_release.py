"""A tiny random checkpoint in hub format with a tokenizer of its own, made without PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from grm_jax.data.small_world import SmallWorld, SmallWorldConfig
from grm_jax.models import hub, transformer
from grm_jax.models.variants import VARIANTS
from grm_jax.text.tokenizers import train_sentencepiece

COMPARISONS = SmallWorld(SmallWorldConfig()).comparisons("development", 3)


def write_release(folder, variant="tiny", *, reward=False, seed=0, lines=(), vocab_size=400):
    """Writes `folder`; the parameters and the head, which is only saved for a reward model.

    `lines` are further texts that the tokenizer is trained on.
    """
    source = folder.with_name(f"{folder.name}_tokenizer")
    source.mkdir(parents=True)
    lines = [*lines, *(text for c in COMPARISONS for text in c.responses), *[str(seed)] * 3]
    tokenizer = train_sentencepiece(lines, source / "tokenizer.model", vocab_size=vocab_size + seed)
    model = VARIANTS[variant]
    model = type(model)(**{**vars(model), "vocab_size": tokenizer.vocab_size})
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        transformer.abstract_params(model),
    )
    head = {"kernel": jnp.asarray(rng.normal(size=model.embed_dim), jnp.float32)}
    (source / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
    }))  # fmt: skip
    hub.save(folder, model, params, head=head if reward else None)
    hub.copy_small_files(source, folder)
    return params, head
