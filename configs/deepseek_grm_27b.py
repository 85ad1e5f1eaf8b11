"""The released DeepSeek-GRM-27B and its meta RM, benchmarked as they are. Nothing is trained.

Claim (DeepSeek-GRM, arXiv 2504.02495, Tables 2, 3 and 6; overall accuracy over RewardBench, PPE
Preference, PPE Correctness and RMB):

    greedy 69.9    one sample 67.9    Voting@8 70.6    Voting@32 71.0
                                      MetaRM@8 72.0    MetaRM@32 72.8

Hardware: weights in bfloat16 take 54 GB: one H100, H200 or v5p-like chip with 80 GB or more, or
smaller ones that share them (--config.mesh.tensor=2). Wall time: not measured.

    python -m experiments.benchmark --config=configs/deepseek_grm_27b.py --workdir=runs/grm_27b \
        --config.benchmark.suites=judgebench,llmbar,rmb_bon --config.benchmark.data_dir=DATA

DIR of the weights: --config.released.model=DIR --config.released.meta_rm=DIR, folders as downloaded
(BBQGOD/DeepSeek-GRM-27B and -27B-MetaRM). The prompts have the structure of the paper's and our own
words; the weights were trained on the paper's words, so rows may fall short of the claim.

Variants:
    (none)      the released weights
    runlocal    the same path in minutes on a laptop, over tiny random checkpoints:
                python -m tools.make_checkpoint --kind=gemma2 --out=runs/tiny/gemma2
                python -m tools.make_checkpoint --kind=gemma2_reward --out=runs/tiny/gemma2_reward
                python -m experiments.benchmark --config=configs/deepseek_grm_27b.py:runlocal \
                    --workdir=runs/grm_27b_local
"""

from ml_collections import ConfigDict

VARIANTS = ("", "runlocal")


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    config = released_benchmark(
        "checkpoints/DeepSeek-GRM-27B", meta_rm="checkpoints/DeepSeek-GRM-27B-MetaRM"
    )
    if variant == "runlocal":
        run_locally(config, "runs/tiny/gemma2", meta_rm="runs/tiny/gemma2_reward")
    return config


def released_benchmark(model: str, *, meta_rm: str) -> ConfigDict:
    """Greedy, voting up to 32 at T = 0.5 in random orders, and guided voting with k / 2 kept."""
    return ConfigDict(
        {
            "seed": 0,
            "mesh": {"fsdp": 1, "tensor": 1},
            "template": {"form": "full", "principles": "self"},
            "tokenizer": {"path": ""},
            "sampling": {"chunk": 128},
            "released": {"model": model, "meta_rm": meta_rm},
            "model": {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "none"},
            # Only what scoring needs: the meta RM is not trained here.
            "meta_rm": {"loop": {"comparisons": 0, "batch_size": 4, "row_length": 4096}},
            "benchmark": {
                "suites": "judgebench,llmbar,rmb_bon", "data_dir": "data", "limit": 100_000,
                "greedy_stages": "released", "sampled_stages": "released",
                "ks": "1,2,4,8,16,32",
                "draw": {
                    "k": 32, "order_policy": "random", "temperature": 0.5, "max_new_tokens": 2048,
                    # 16 of the 3,786 lists of RMB exceed 8,192 tokens; 33 with DeepSeek's ids.
                    "max_truncated": 0.05, "binary_singles": False,
                },
                "buckets": {"prompt_lengths": "1024,2048,4096,8192", "output_lengths": "2048",
                            "samples": "1,2,4,8", "samples_per_unit": 32},
            },
        }
    )  # fmt: skip


def run_locally(c: ConfigDict, model: str, *, meta_rm: str) -> None:
    """Tiny checkpoints, few rows, few tokens: the same code in minutes on a CPU."""
    c.update(
        {
            "released": {"model": model, "meta_rm": meta_rm},
            "model": {"dtype": "float32", "param_dtype": "float32"},
            "sampling": {"chunk": 8},
            "meta_rm": {"loop": {"row_length": 1024}},
            "benchmark": {
                "limit": 6, "ks": "1,2,4", "num_subsets": 8,
                "max_unparsed": 1.0, "max_cut": 1.0,  # random weights write no scores
                # A small vocabulary makes long prompts.
                "draw": {"k": 4, "max_new_tokens": 16, "max_truncated": 1.0},
                "buckets": {"prompt_lengths": "1024,2048", "output_lengths": "16",
                            "samples": "1,4", "samples_per_unit": 8},
            },
        }
    )  # fmt: skip
