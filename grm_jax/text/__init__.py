"""The language of a GRM: prompts, score extraction and tokenizers. Never imports jax."""
