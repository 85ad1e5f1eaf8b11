"""UniRRM-8B (Qwen3-8B), a released judge, measured with its own prompt and with votes.

Claim (its authors', one pass, own protocol; with votes none is published):

    RewardBench 90.7    JudgeBench 68.3    RewardBench 2, lists of four 75.3

Hardware: weights in bfloat16 take 16 GB; one GPU of 24 GB.
Wall time: not measured.

    python -m experiments.benchmark --config=configs/unirrm_8b.py --workdir=runs/unirrm_8b \
        --config.released.model=DIR --config.template.file=FILE --config.benchmark.data_dir=DATA

DIR is the folder as downloaded. FILE is a template with the judge's prompt for lists, which
docs/judges.md shows how to write: its words are not part of this repository. Its answers name the
best response in a JSON object. The judge thinks before it answers, so answers are long.

Variants:
    (none)      the released weights
    runlocal    the same path in minutes on a laptop, over a tiny random checkpoint:
                python -m tools.make_checkpoint --kind=qwen3 --out=runs/tiny/qwen3
                python -m experiments.benchmark --config=configs/unirrm_8b.py:runlocal \
                    --workdir=runs/unirrm_8b_local --config.template.file=FILE
"""

from ml_collections import ConfigDict

from configs.deepseek_grm_27b import VARIANTS, released_benchmark, run_locally


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = released_benchmark("checkpoints/UniRRM-8B", meta_rm="")
    del c.meta_rm
    c.template.verdict = "json:best_id"
    c.benchmark.update(
        {
            "suites": "judgebench,rewardbench2", "ks": "1,2,4,8", "meta_rm": False,
            "draw": {"k": 8, "temperature": 0.6, "max_new_tokens": 4096},
            "buckets": {"output_lengths": "4096", "samples_per_unit": 16},
        }
    )  # fmt: skip
    if variant == "runlocal":
        run_locally(c, "runs/tiny/qwen3", meta_rm="")
        del c.meta_rm
        c.benchmark.suites = "judgebench"
    return c
