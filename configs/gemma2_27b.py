"""DeepSeek-GRM-27B from Gemma-2-27B: rejective fine-tuning, GRPO, meta RM.

Claim (arXiv 2504.02495, Tables 2 and 3, overall accuracy):

    RFT, greedy 68.8    GRPO, greedy 69.9    one sample 67.9
    Voting@8 70.6       Voting@32 71.0       MetaRM@8 72.0       MetaRM@32 72.8

Hardware: 64 TPU v5p chips, by plan; the paper had 128 A100 (RFT 19.2 h, RL 15.6 h).
Wall time: not measured; tools.plan estimates it.

    python -m experiments.spct --config=configs/gemma2_27b.py --workdir=runs/gemma2_27b \
        --config.released.model=DIR --config.benchmark.data_dir=DATA \
        --config.data.benchmark_dir=DATA

DIR is the folder of google/gemma-2-27b-it.
Folders of training data, filled by tools.download, are named by --config.data.train and
--config.data.general. The paper's own sets are not public, so rows may differ from the claim.

Variants:
    (none)         every parameter trained
    lora           adapters on one host of 8 devices
    runlocal       every stage in minutes on a laptop, over a tiny random checkpoint:
                   python -m tools.make_checkpoint --kind=gemma2 --out=runs/tiny/gemma2
                   python -m tools.make_training_data --out=runs/tiny/data
                   python -m experiments.spct --config=configs/gemma2_27b.py:runlocal \
                       --workdir=runs/local
"""

from ml_collections import ConfigDict

from configs import recipes
from configs.recipes import sampled

VARIANTS = ("", "lora", "runlocal")

NUMBERS = {
    # 1,256K examples, 1,070K of them general; batches of 1,024. Examples have 1,000 tokens or so,
    # so 256 packed rows hold about as many; choice. The teacher is the model itself, not
    # DeepSeek-V2.5, whose weights few can run; choice. Warm-up and schedules: choice.
    "rft": {
        "num_samples": 3, "num_hinted": 1,
        "data": {"comparisons": 100_000, "general": 1_070_000, "micro_batches": 2},
        **sampled(1024, samples="1", samples_per_unit=256),
        "packing": {"row_length": 4096, "batch_size": 256},
        "optimizer": {"learning_rate": 5e-6, "steps": 900, "warmup_steps": 27},
    },
    # "Batch size 512" is read as trajectories, 128 groups of 4: the time of a step favours that.
    "grpo": {
        "group_size": 4, "kl_coef": 0.08, "micro_batches": 2,
        "loop": {"comparisons": 237_000, "prompts_per_step": 128, "checkpoint_every": 20,
                 "easy_for": "rft"},
        **sampled(1024, samples="4", samples_per_unit=512),
        "optimizer": {"learning_rate": 4e-7, "steps": 900, "schedule": "constant",
                      "warmup_steps": 10},
    },
    # Steps, samples and balance of the meta RM are not published; choice.
    "meta_rm": {
        "micro_batches": 4,
        "loop": {"comparisons": 40_000, "batch_size": 512, "row_length": 4096,
                 "checkpoint_every": 50},
        **sampled(1024, samples="8", samples_per_unit=512, k=8, temperature=0.5),
        "optimizer": {"learning_rate": 1e-5, "steps": 600, "warmup_steps": 20},
    },
    # On the comparisons of GRPO. Steps and rates of the baselines are not published; choice.
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
    c = recipes.recipe("checkpoints/gemma-2-27b-it", "gemma2_27b", NUMBERS)
    c.mesh.fsdp, c.mesh.tensor = 32, 2  # by tools.plan on 64 v5p chips
    if variant == "lora":
        recipes.adapters(c, devices=8)
    if variant == "runlocal":
        recipes.run_locally(c, "gemma2")
    return c
