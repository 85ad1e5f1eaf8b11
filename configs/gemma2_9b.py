"""A GRM of 9B from Gemma-2-9B, for one GPU: adapters, rejective fine-tuning, GRPO, meta RM.

Claim (arXiv 2504.02495, which has no model of this size):

    none published; expect less than 27B (greedy 69.9 overall), and voting above one sample

Hardware: one GPU of 80 GB or one TPU chip as large, by plan; for `full` eight of them.
Wall time: not measured; tools.plan estimates it.

    python -m experiments.spct --config=configs/gemma2_9b.py --workdir=runs/gemma2_9b \
        --config.released.model=DIR --config.benchmark.data_dir=DATA \
        --config.data.benchmark_dir=DATA

DIR is the folder of google/gemma-2-9b-it.
Folders of training data, filled by tools.download, are named by --config.data.train and
--config.data.general. The paper's own sets are not public, so rows may differ from the claim.

Variants:
    (none)         adapters beside frozen bfloat16 weights
    full           every parameter trained, on eight devices
    runlocal       every stage in minutes on a laptop, over a tiny random checkpoint:
                   python -m tools.make_checkpoint --kind=gemma2 --out=runs/tiny/gemma2
                   python -m tools.make_training_data --out=runs/tiny/data
                   python -m experiments.spct --config=configs/gemma2_9b.py:runlocal \
                       --workdir=runs/local
"""

from ml_collections import ConfigDict

from configs import recipes

VARIANTS = ("", "full", "runlocal")


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = recipes.recipe("checkpoints/gemma-2-9b-it", "gemma2_9b")
    c.mesh.fsdp, c.mesh.tensor = 8, 1
    if variant != "full":
        recipes.adapters(c, devices=1)
        # By tools.plan, for rollouts beside the weights in 80 GB: a prompt of 4,096 tokens takes
        # 1.3 GiB and each of its samples 0.3. The fewer samples a prompt has, the more prompts.
        for name, samples in (("rft", 16), ("grpo", 64), ("meta_rm", 64), ("benchmark", 16)):
            c[name].buckets.samples_per_unit = samples
    if variant == "runlocal":
        recipes.run_locally(c, "gemma2")
    return c
