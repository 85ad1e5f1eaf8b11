"""How parameters change: supervised fine-tuning, GRPO, the meta RM, and checkpoints."""
