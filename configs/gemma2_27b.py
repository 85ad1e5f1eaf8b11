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

VARIANTS = ("", "lora", "runlocal")


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = recipes.recipe("checkpoints/gemma-2-27b-it", "gemma2_27b")
    if variant == "lora":
        recipes.adapters(c, devices=8)
    if variant == "runlocal":
        recipes.run_locally(c, "gemma2")
    return c
