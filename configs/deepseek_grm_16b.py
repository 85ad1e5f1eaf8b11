"""The released DeepSeek-GRM-16B (DeepSeek-V2-Lite), benchmarked as it is. Nothing is trained.

Claim (DeepSeek-GRM, arXiv 2504.02495, Table 8 and Figure 4; RewardBench):

    greedy 82.9    one sample 82.4    Voting@2 82.8    Voting@4 83.4    Voting@8 84.9

The only meta RM that was released is that of the 27B, so guided voting is without a claim here.

Hardware: weights in bfloat16 take 31 GB, those of the meta RM 54 GB, one after the other.
Wall time: not measured.

    python -m experiments.benchmark --config=configs/deepseek_grm_16b.py --workdir=runs/grm_16b \
        --config.benchmark.suites=judgebench,llmbar,rmb_bon --config.benchmark.data_dir=DATA

DIR of the weights: --config.released.model=DIR --config.released.meta_rm=DIR, folders as downloaded
(BBQGOD/DeepSeek-GRM-16B and -27B-MetaRM). About the prompts see configs/deepseek_grm_27b.py.

Variants:
    (none)      the released weights
    runlocal    the same path in minutes on a laptop, over tiny random checkpoints:
                python -m tools.make_checkpoint --kind=deepseek_v2 --out=runs/tiny/deepseek_v2
                python -m tools.make_checkpoint --kind=gemma2_reward --out=runs/tiny/gemma2_reward
                python -m experiments.benchmark --config=configs/deepseek_grm_16b.py:runlocal \
                    --workdir=runs/grm_16b_local
"""

from ml_collections import ConfigDict

from configs.deepseek_grm_27b import VARIANTS, released_benchmark, run_locally


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    config = released_benchmark(
        "checkpoints/DeepSeek-GRM-16B", meta_rm="checkpoints/DeepSeek-GRM-27B-MetaRM"
    )
    if variant == "runlocal":
        run_locally(config, "runs/tiny/deepseek_v2", meta_rm="runs/tiny/gemma2_reward")
    return config
