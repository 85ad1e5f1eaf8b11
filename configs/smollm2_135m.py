"""SPCT of a pretrained model of 135M on human labels of real answers, over night on two cores.

Claim (arXiv 2504.02495, which has neither this base nor these data; Table 2 has the effect of a
reference answer):

    none published; expect GRPO above its cold start, greedy and in one sample, and Voting@8 above
    one sample. Whether it passes its teacher, a rule that is right in 82.5 % of pairs, is the
    question.

The data are EVOUNA's: questions, answers of five systems, a human right or wrong for each, and a
reference. *Cold start* learns demonstrations that the rule writes without labels; *RFT* draws from
it, with hints from the labels of the training questions; *GRPO* is rewarded by them, and trains
adapters; *meta RM* and votes as in the paper. The test questions are in no stage.

Hardware: two cores and 8 GB.
Wall time: not measured; sized for one night a seed, by the time of single steps.

    python -m tools.download --set=evouna_pairs --out=data
    python -m experiments.spct --config=configs/smollm2_135m.py --workdir=runs/smollm2_135m \
        --config.released.model=DIR

DIR is the folder of SmolLM2-135M-Instruct (docs/checkpoints.md).

Variants:
    (none)          the whole recipe
    no_reference    the same without references in any prompt
    runlocal        every stage in minutes, over a tiny random checkpoint and made-up rows:
                    python -m tools.make_checkpoint --kind=llama --out=runs/tiny/llama
                    python -m tools.make_training_data --out=runs/tiny/data
                    python -m experiments.spct --config=configs/smollm2_135m.py:runlocal \
                        --workdir=runs/local
"""

from ml_collections import ConfigDict

from configs import recipes

VARIANTS = ("", "no_reference", "runlocal")
FORMS = ("pairs", "lists", "singles")
# By these weights about five rows in ten are pairs, two lists and three singles. choice
TRAIN = "evouna_pairs:{0},evouna_lists:{0}:2,evouna_singles:{0}:0.3"

# All rates, steps and sizes are choices, by the time that two cores take and not by quality yet. A
# training step takes rows as long as the longest prompt and answer, so training shortens what is
# long, and the benchmark does not.
_DRAWN = {
    "draw": {"max_new_tokens": 160, "max_truncated": 0.1},
    "buckets": {"prompt_lengths": "256,384", "output_lengths": "160", "samples_per_unit": 16},
}  # fmt: skip
_SUPERVISED = {"row_length": 640, "batch_size": 4}

NUMBERS = {
    "cold_start": {
        "data": {"demonstrations": 1200, "general": 0, "micro_batches": 4, "checkpoint_every": 20},
        "packing": _SUPERVISED,
        "optimizer": {"learning_rate": 1e-4, "steps": 150, "warmup_steps": 15},
    },
    "rft": {
        "num_samples": 3, "num_hinted": 1,
        "data": {"comparisons": 400, "general": 0, "micro_batches": 4, "checkpoint_every": 20},
        "draw": _DRAWN["draw"], "buckets": {**_DRAWN["buckets"], "samples": "1"},
        "packing": _SUPERVISED,
        "optimizer": {"learning_rate": 3e-5, "steps": 40, "warmup_steps": 4},
    },
    "grpo": {
        "group_size": 4, "kl_coef": 0.02, "micro_batches": 4,
        "loop": {"comparisons": 3000, "prompts_per_step": 4, "checkpoint_every": 5,
                 "easy_for": "rft"},
        "draw": _DRAWN["draw"], "buckets": {**_DRAWN["buckets"], "samples": "4"},
        "optimizer": {"learning_rate": 2e-4, "steps": 120, "schedule": "constant",
                      "warmup_steps": 5},
    },
    "meta_rm": {
        "micro_batches": 4,
        "loop": {"comparisons": 200, "batch_size": 8, "row_length": 640, "checkpoint_every": 20},
        "draw": {**_DRAWN["draw"], "k": 4, "temperature": 0.5},
        "buckets": {**_DRAWN["buckets"], "samples": "1,2,4"},
        "optimizer": {"learning_rate": 3e-5, "steps": 100, "warmup_steps": 10},
    },
    "baseline": {
        "kind": "bradley_terry", "k": 8, "micro_batches": 4,
        "loop": {"comparisons": 2000, "batch_size": 8, "row_length": 384, "checkpoint_every": 20},
        "optimizer": {"learning_rate": 5e-5, "steps": 150, "warmup_steps": 15},
    },
}  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = recipes.recipe("checkpoints/SmolLM2-135M-Instruct", "smollm2_135m", NUMBERS)
    c.model.dtype, c.model.remat = "float32", "none"
    c.mesh.rollout_rules = ""
    c.template.form, c.template.reference = "compact", variant != "no_reference"
    c.sampling.chunk = 16
    c.lora.update({"stages": "grpo", "rank": 16, "alpha": 32.0})
    c.data.update(
        {"train": TRAIN.format("data/evouna"), "development": "evouna_development:data/evouna",
         "general": "", "against": "evouna_pairs"}
    )  # fmt: skip
    c.benchmark.update(
        {
            "suites": ",".join(f"evouna_{form}" for form in FORMS), "limit": 60,
            "reference": c.template.reference, "ks": "1,2,4,8",
            "greedy_stages": "released,cold_start,rft,grpo", "sampled_stages": "cold_start,grpo",
            # The untrained model writes few scores, which is measured too.
            "max_unparsed": 1.0, "max_cut": 1.0,
            "draw": {"k": 8, "order_policy": "balanced", "max_new_tokens": 224,
                     "max_truncated": 0.05, "binary_singles": True},
            "buckets": {"prompt_lengths": "256,384,704", "output_lengths": "224",
                        "samples": "1,2,4,8", "samples_per_unit": 32},
        }
    )  # fmt: skip
    # The three seeds share one test set: seeds are of the training and of the draws.
    c.ablate = ConfigDict(
        {"seeds": "0,1,2", "development_seeds": "3", "only": "",
         "arms": {"reference_hidden": "benchmark.reference=False"}}
    )  # fmt: skip
    if variant == "runlocal":
        recipes.run_locally(c, "llama")
        c.cold_start.data.update({"demonstrations": 16, "general": 0, "micro_batches": 2})
        c.cold_start.packing.row_length = 544
        c.cold_start.optimizer.update({"steps": 2, "warmup_steps": 1})
        c.data.update(
            {"train": TRAIN.format("runs/tiny/data/evouna"), "test": "",
             "development": "evouna_development:runs/tiny/data/evouna"}
        )  # fmt: skip
        c.benchmark.update({"suites": "evouna_pairs,evouna_singles", "data_dir": "runs/tiny/data"})
    return c
