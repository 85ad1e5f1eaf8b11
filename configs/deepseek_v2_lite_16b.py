"""DeepSeek-GRM-16B from DeepSeek-V2-Lite: rejective fine-tuning and GRPO (KL 0.002), meta RM.

Claim (arXiv 2504.02495, Figure 4, RewardBench):

    RFT, greedy 81.5    GRPO, greedy 82.9    one sample 82.4    Voting@8 84.9
    (the paper has no meta RM for this size; here one is trained as for 27B)

Hardware: 64 TPU v5e chips or more, by plan; the paper's is not published.
Wall time: not measured; tools.plan estimates it.

    python -m experiments.spct --config=configs/deepseek_v2_lite_16b.py --workdir=runs/grm_16b \
        --config.released.model=DIR --config.benchmark.data_dir=DATA \
        --config.data.benchmark_dir=DATA

DIR is the folder of deepseek-ai/DeepSeek-V2-Lite-Chat.
Folders of training data, filled by tools.download, are named by --config.data.train and
--config.data.general. The paper's own sets are not public, so rows may differ from the claim.

Variants:
    (none)         every parameter trained
    runlocal       every stage in minutes on a laptop, over a tiny random checkpoint:
                   python -m tools.make_checkpoint --kind=deepseek_v2 --out=runs/tiny/deepseek_v2
                   python -m tools.make_training_data --out=runs/tiny/data
                   python -m experiments.spct --config=configs/deepseek_v2_lite_16b.py:runlocal \
                       --workdir=runs/local
"""

from ml_collections import ConfigDict

from configs import recipes
from configs.recipes import sampled

VARIANTS = ("", "runlocal")

# As configs/gemma2_27b.py, where the choices are explained, but for beta. One row a device at a
# time: 16 GB do not hold more.
NUMBERS = {
    "rft": {
        "num_samples": 3, "num_hinted": 1,
        "data": {"comparisons": 100_000, "general": 1_070_000, "micro_batches": 4},
        **sampled(1024, samples="1", samples_per_unit=256),
        "packing": {"row_length": 4096, "batch_size": 256},
        "optimizer": {"learning_rate": 5e-6, "steps": 900, "warmup_steps": 27},
    },
    "grpo": {
        "group_size": 4, "kl_coef": 0.002, "micro_batches": 8,
        "loop": {"comparisons": 237_000, "prompts_per_step": 128, "checkpoint_every": 20,
                 "easy_for": "rft"},
        **sampled(1024, samples="4", samples_per_unit=512),
        "optimizer": {"learning_rate": 4e-7, "steps": 900, "schedule": "constant",
                      "warmup_steps": 10},
    },
    "meta_rm": {
        "micro_batches": 8,
        "loop": {"comparisons": 40_000, "batch_size": 512, "row_length": 4096,
                 "checkpoint_every": 50},
        **sampled(1024, samples="8", samples_per_unit=512, k=8, temperature=0.5),
        "optimizer": {"learning_rate": 1e-5, "steps": 600, "warmup_steps": 20},
    },
    "baseline": {
        "kind": "bradley_terry", "k": 8, "micro_batches": 8,
        "loop": {"comparisons": 237_000, "batch_size": 512, "row_length": 4096,
                 "checkpoint_every": 50},
        "optimizer": {"learning_rate": 5e-6, "steps": 900, "warmup_steps": 27},
    },
}  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = recipes.recipe("checkpoints/DeepSeek-V2-Lite-Chat", "deepseek_v2_lite_16b", NUMBERS)
    c.mesh.fsdp, c.mesh.tensor, c.mesh.expert = 8, 1, 8
    if variant == "runlocal":
        recipes.run_locally(c, "deepseek_v2")
    return c
