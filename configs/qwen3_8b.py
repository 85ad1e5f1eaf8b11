"""A GRM of 8B from Qwen3-8B, for one GPU: adapters, rejective fine-tuning, GRPO, meta RM.

Claim (arXiv 2504.02495, which has no model of this base):

    none published; expect less than 27B (greedy 69.9 overall), and voting above one sample

Hardware: one GPU of 80 GB or one TPU chip as large (not planned yet: gemma2_9b.py, which is larger,
fits); for `full` eight chips (v5p:2x2x2; by plan, 90.8 of 95.7 GiB).
Wall time: not measured; tools.plan estimates it.

    python -m experiments.spct --config=configs/qwen3_8b.py --workdir=runs/qwen3_8b \
        --config.released.model=DIR --config.benchmark.data_dir=DATA \
        --config.data.benchmark_dir=DATA

DIR is the folder of Qwen/Qwen3-8B.
Folders of training data, filled by tools.download, are named by --config.data.train and
--config.data.general. The paper's own sets are not public, so rows may differ from the claim.

Variants:
    (none)         adapters of frozen bfloat16 weights
    full           every parameter trained, on a slice of eight chips
    runlocal       every stage in minutes on a laptop, over a tiny random checkpoint:
                   python -m tools.make_checkpoint --kind=qwen3 --out=runs/tiny/qwen3
                   python -m tools.make_training_data --out=runs/tiny/data
                   python -m experiments.spct --config=configs/qwen3_8b.py:runlocal \
                       --workdir=runs/local
"""

from ml_collections import ConfigDict

from configs import recipes
from configs.recipes import sampled

VARIANTS = ("", "full", "runlocal")

# As configs/gemma2_27b.py, where the choices are explained; adapters learn at 20 times the rate, in
# smaller batches.
NUMBERS = {
    "rft": {
        "num_samples": 3, "num_hinted": 1,
        "data": {"comparisons": 100_000, "general": 1_070_000, "micro_batches": 2},
        **sampled(1024, samples="1", samples_per_unit=256),
        "packing": {"row_length": 4096, "batch_size": 256},
        "optimizer": {"learning_rate": 5e-6, "steps": 900, "warmup_steps": 27},
    },
    "grpo": {
        "group_size": 4, "kl_coef": 0.08, "micro_batches": 2,
        "loop": {"comparisons": 237_000, "prompts_per_step": 128, "checkpoint_every": 20,
                 "easy_for": "rft"},
        **sampled(1024, samples="4", samples_per_unit=512),
        "optimizer": {"learning_rate": 4e-7, "steps": 900, "schedule": "constant",
                      "warmup_steps": 10},
    },
    "meta_rm": {
        "micro_batches": 4,
        "loop": {"comparisons": 40_000, "batch_size": 512, "row_length": 4096,
                 "checkpoint_every": 50},
        **sampled(1024, samples="8", samples_per_unit=512, k=8, temperature=0.5),
        "optimizer": {"learning_rate": 1e-5, "steps": 600, "warmup_steps": 20},
    },
    "baseline": {
        "kind": "bradley_terry", "k": 8, "micro_batches": 4,
        "loop": {"comparisons": 237_000, "batch_size": 512, "row_length": 4096,
                 "checkpoint_every": 50},
        "optimizer": {"learning_rate": 5e-6, "steps": 900, "warmup_steps": 27},
    },
}  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = recipes.recipe("checkpoints/Qwen3-8B", "qwen3_8b", NUMBERS)
    # The principles and the critique are the thinking; choice.
    c.template.thinking = "off"
    c.mesh.fsdp, c.mesh.tensor = 8, 1
    if variant != "full":
        recipes.adapters(c, devices=1)
        # By tools.plan, for rollouts with the weights in 80 GB: a prompt of 4,096 tokens takes
        # 1.3 GiB and each of its samples 0.3. The fewer samples a prompt has, the more prompts.
        for name, samples in (("rft", 16), ("grpo", 64), ("meta_rm", 64), ("benchmark", 16)):
            c[name].buckets.samples_per_unit = samples
    if variant == "runlocal":
        recipes.run_locally(c, "qwen3")
    return c
