"""DeepSeek-GRM-671B from DeepSeek-V3: rejective fine-tuning only, as in the paper.

Claim (arXiv 2504.02495, Table 2 and Figure 4, RewardBench):

    RFT, greedy 88.4    (the figure draws it on the line of RL; appendix C.1 says RFT only)

Hardware: 512 TPU v5p chips or more, by plan; the paper's is not published.
Wall time: not measured; tools.plan estimates it.

    python -m experiments.rft --config=configs/deepseek_v3_671b.py --workdir=runs/grm_671b \
        --config.released.model=DIR --config.benchmark.data_dir=DATA \
        --config.data.benchmark_dir=DATA

DIR is the folder of deepseek-ai/DeepSeek-V3, converted to bfloat16.
Folders of training data, filled by tools.download, are named by --config.data.train and
--config.data.general. The paper's own sets are not public, so rows may differ from the claim.

Variants:
    (none)         every parameter trained
    runlocal       every stage in minutes on a laptop, over a tiny random checkpoint:
                   python -m tools.make_checkpoint --kind=deepseek_v3 --out=runs/tiny/deepseek_v3
                   python -m tools.make_training_data --out=runs/tiny/data
                   python -m experiments.rft --config=configs/deepseek_v3_671b.py:runlocal \
                       --workdir=runs/local
"""

from ml_collections import ConfigDict

from configs import recipes
from configs.recipes import sampled

VARIANTS = ("", "runlocal")

# 50K rejective-sampled examples (appendix C.1); the rest as configs/gemma2_27b.py.
NUMBERS = {
    "rft": {
        "num_samples": 3, "num_hinted": 1,
        "data": {"comparisons": 27_000, "general": 1_070_000},
        **sampled(1024, samples="1", samples_per_unit=256),
        "packing": {"row_length": 4096, "batch_size": 256},
        "optimizer": {"learning_rate": 5e-6, "steps": 900, "warmup_steps": 27},
    },
}  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = recipes.recipe("checkpoints/DeepSeek-V3", "deepseek_v3_671b", NUMBERS)
    c.mesh.fsdp, c.mesh.tensor, c.mesh.expert = 16, 2, 16
    if variant == "runlocal":
        recipes.run_locally(c, "deepseek_v3")
    return c
