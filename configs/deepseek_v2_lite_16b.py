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

VARIANTS = ("", "runlocal")


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = recipes.recipe("checkpoints/DeepSeek-V2-Lite-Chat", "deepseek_v2_lite_16b", kl_coef=0.002)
    c.mesh.fsdp, c.mesh.tensor, c.mesh.expert = 8, 1, 8
    # One row a device at a time: 16 GB do not hold more.
    c.rft.data.micro_batches, c.grpo.micro_batches, c.meta_rm.micro_batches = 4, 8, 8
    c.baseline.micro_batches = 8
    if variant == "runlocal":
        recipes.run_locally(c, "deepseek_v2")
    return c
