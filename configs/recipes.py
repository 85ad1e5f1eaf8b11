"""The parts that the recipes share: data, lengths, arms, adapters, and the run on a laptop.

The numbers of a recipe (batches, rates, steps) stand in its own file. They are the paper's (arXiv
2504.02495, section 4 and appendix C) unless a comment says "choice". The paper's own data are not
public: the sets below are the public ones among those it names, and HelpSteer3, which came later.
"""

from ml_collections import ConfigDict

from configs.deepseek_grm_27b import released_benchmark

# Weights by size, no share is published. choice
TRAIN = (
    "ultrafeedback:data/ultrafeedback,offsetbias:data/offsetbias,skywork:data/skywork,"
    "helpsteer2:data/helpsteer2,helpsteer3:data/helpsteer3,math:data/math"
)

TRAINED = ("rft", "grpo", "meta_rm", "baseline")
ARMS = {
    "without_principles": "template.principles=none; benchmark.principles=",
    "without_rejective_sampling": "rft.use_hinted=False; rft.use_non_hinted=False",
    "without_hinted_sampling": "rft.use_hinted=False",
    "without_non_hinted_sampling": "rft.use_non_hinted=False",
    "without_general_data": "rft.data.general=0",
    "kl_0": "grpo.kl_coef=0.0",
    "kl_0_02": "grpo.kl_coef=0.02",
    "kl_0_32": "grpo.kl_coef=0.32",
    "balanced_orders": "benchmark.draw.order_policy=balanced",
    "both_orders": "benchmark.draw.order_policy=both",
    # Not in the paper: the same policy, given principles; `grm_jax.sampling.given`.
    "own_principles_given": "benchmark.principles=own",
    "shuffled_principles": "benchmark.principles=shuffled",
    "principles_of_query": "benchmark.principles=query",
}


def recipe(model: str, variant: str, numbers: dict) -> ConfigDict:
    """SPCT of a model that follows instructions, every parameter trained.

    Args:
      model: folder of its weights, as downloaded.
      variant: name of its shape.
      numbers: the sections of the trained stages. Without GRPO the recipe is RFT and a benchmark.
    """
    c = released_benchmark(model, meta_rm="")
    c.released.variant = variant
    # A rollout keeps parameters whole along their width, which an update would have to gather at
    # each token. By tools.plan that is half of the traffic (docs/lab/2026-11.md).
    c.mesh.rollout_rules = "embed="
    # Stages that train low-rank adapters; `adapters` names them.
    c.lora = ConfigDict({"stages": "", "rank": 64, "alpha": 128.0})
    c.data = ConfigDict(
        {"train": TRAIN, "development": "", "test": "", "general": "messages:data/general",
         "benchmark_dir": c.benchmark.data_dir, "overlap": "drop"}
    )  # fmt: skip
    c.model.param_dtype = "float32"  # so that an update of 4e-7 is not rounded away; choice
    c.model.remat = "full"
    del c.meta_rm
    c.update(numbers)
    # The second beta is not published; choice.
    for name in TRAINED:
        if name in c:
            c[name].optimizer.b2 = 0.95

    c.benchmark.draw.max_new_tokens = 1024
    c.benchmark.buckets.output_lengths = "1024"
    c.benchmark.buckets.samples = "1,8"
    c.benchmark.buckets.samples_per_unit = 512
    c.benchmark.split, c.benchmark.arms, c.benchmark.arm_k = "test", "", 8
    if "grpo" not in c:
        c.benchmark.greedy_stages, c.benchmark.sampled_stages = "released,rft", "rft"
        c.benchmark.buckets.samples_per_unit = 2048  # 256 prompts of 8, one a device
        c.benchmark.meta_rm = False
        return c
    c.benchmark.greedy_stages, c.benchmark.sampled_stages = "released,rft,grpo", "rft,grpo"
    # Arms as in Table 4 of the paper: rejective sampling is left out by learning from general data
    # only. One seed, as there.
    c.ablate = ConfigDict({"seeds": "0", "development_seeds": "", "only": "", "arms": ARMS})
    group_arms(c)
    return c


def group_arms(c: ConfigDict) -> None:
    """Arms of other group sizes, with as many trajectories a step."""
    trajectories = c.grpo.group_size * c.grpo.loop.prompts_per_step
    for size in (2, 8):
        c.ablate.arms[f"group_{size}"] = (
            f"grpo.group_size={size}; grpo.loop.prompts_per_step={trajectories // size}; "
            f"grpo.buckets.samples={size}"
        )


def sampled(max_new_tokens: int, *, samples: str, samples_per_unit: int, **draw) -> dict:
    """Lengths and shapes of a stage that samples: up to 4,096 prompt tokens; choice."""
    return {
        "draw": {"max_new_tokens": max_new_tokens, "max_truncated": 0.05, **draw},
        "buckets": {
            "prompt_lengths": "1024,2048,4096", "output_lengths": str(max_new_tokens),
            "samples": samples, "samples_per_unit": samples_per_unit,
        },
    }  # fmt: skip


def adapters(c: ConfigDict, *, devices: int) -> None:
    """Adapters of frozen bfloat16 weights, on one host. Not in the paper; rates are choices."""
    c.lora.stages = ",".join(name for name in TRAINED if name in c)
    c.model.param_dtype = "bfloat16"
    c.mesh.fsdp, c.mesh.tensor = devices, 1
    # Frozen weights do not fit into one device, so a rollout splits heads and widths among all.
    c.mesh.rollout_rules = "embed=,heads=fsdp,kv_heads=fsdp,mlp=fsdp,vocab=fsdp,batch=data+expert"
    for name in c.lora.stages.split(","):
        c[name].optimizer.learning_rate *= 20
    c.rft.packing.batch_size, c.rft.data.micro_batches = 64, 64 // devices
    if "grpo" in c:
        c.grpo.loop.prompts_per_step, c.grpo.micro_batches = 32, 128 // devices
        c.grpo.buckets.samples_per_unit = 128
        c.meta_rm.loop.batch_size, c.meta_rm.micro_batches = 64, 64 // devices
        c.meta_rm.buckets.samples_per_unit = 128
        c.baseline.loop.batch_size, c.baseline.micro_batches = 64, 64 // devices
        group_arms(c)
    c.rft.buckets.samples_per_unit = 32
    c.benchmark.buckets.samples_per_unit = 128


def run_locally(c: ConfigDict, kind: str) -> None:
    """Every stage on a tiny random checkpoint and a few made-up rows, in minutes on two cores."""
    sets = ("ultrafeedback", "offsetbias", "skywork", "helpsteer2", "helpsteer3", "math")
    sampled = {
        "draw": {"max_new_tokens": 16, "max_truncated": 1.0},
        "buckets": {"prompt_lengths": "512", "output_lengths": "16", "samples_per_unit": 8},
    }
    scalar = {"comparisons": 8, "batch_size": 4, "row_length": 544}
    stages = {
        "rft": {  # of random weights nothing is kept
            "data": {"comparisons": 8, "general": 16, "micro_batches": 2, "min_kept": 0},
            "packing": {"row_length": 544, "batch_size": 4}, **sampled,
        },
        "grpo": {
            "micro_batches": 2, **sampled,
            "loop": {"comparisons": 8, "prompts_per_step": 2, "checkpoint_every": 1},
        },
        "meta_rm": {"micro_batches": 2, "only_mixed": False, "loop": scalar, **sampled},
        "baseline": {"k": 2, "micro_batches": 2, "loop": scalar},
    }  # fmt: skip
    c.update(
        {
            "released": {"model": f"runs/tiny/{kind}", "variant": ""},
            "mesh": {"fsdp": 1, "tensor": 1, "expert": 1, "rollout_rules": ""},
            # The reference kernel compiles in less time.
            "model": {"dtype": "float32", "attention_kernel": "reference"},
            "template": {"form": "compact"},
            "sampling": {"chunk": 8},
            "data": {
                "train": ",".join(f"{name}:runs/tiny/data/{name}" for name in sets),
                "test": "helpsteer2:runs/tiny/data/helpsteer2",
                "general": "messages:runs/tiny/data/general", "overlap": "allow",
            },
            **{name: stage for name, stage in stages.items() if name in c},
            "benchmark": {
                "suites": "data", "split": "test", "limit": 4, "ks": "1,2", "num_subsets": 4,
                "max_unparsed": 1.0, "max_cut": 1.0,  # nothing is learned in so few steps
                "arm_k": 2, **sampled,
            },
        }
    )  # fmt: skip
    if not c.lora.stages:
        c.model.param_dtype = "float32"
    for name in TRAINED:
        if name in c:
            c[name].optimizer.update({"steps": 2, "warmup_steps": 1})
    c.benchmark.draw.k, c.benchmark.buckets.samples = 2, "1,2"
    if "grpo" in c:
        c.meta_rm.draw.k, c.meta_rm.buckets.samples = 2, "2"
    if "ablate" in c:  # of random weights nothing is kept, so something must be left to learn from
        c.ablate.arms.without_general_data = "rft.data.general=4"
        group_arms(c)
