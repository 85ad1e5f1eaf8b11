"""Self-Principled Critique Tuning on the small world, from random parameters to a measured table.

Claim: the shape of the paper's results in miniature, by the full config. RFT and GRPO teach
principles that were nowhere in the text, voting beats one sample, and without principles votes are
far behind. The numbers of one seed are directions, not evidence; those of the demo are less.

    python -m experiments.spct --config=configs/small_world.py:demo --workdir=runs/demo

Variants:
    (none)         the full run: 1,000 held-out comparisons, k = 32; time: docs/results.md
    demo           the same loop in 10 to 25 minutes on 2 CPU cores
    ci             the same loop in a minute; its numbers mean nothing
    runlocal       the same as ci
    gemma_tokens   real benchmark rows through the Gemma tokenizer and a random-weight model

Stages: *base* = random parameters + general data (verdicts on named criteria, no audience);
*cold start* = base + noisy, biased demonstrations (stands for the prompted teacher of the paper);
*RFT* from the cold start; *GRPO* from RFT with RFT as the reference policy; *meta RM* from base.
"""

from ml_collections import ConfigDict

from configs.recipes import group_arms

VARIANTS = ("", "demo", "ci", "runlocal", "gemma_tokens")
ARMS = {
    "without_principles": "template.principles=none; benchmark.principles=",
    # A model of this size forgets the form without trajectories: then GRPO starts at once.
    "without_rejective_sampling": "grpo.loop.start=cold_start",
    "without_hinted_sampling": "rft.use_hinted=False",
    "without_non_hinted_sampling": "rft.use_non_hinted=False",
    "without_general_data": "rft.data.general=0",
    "kl_0": "grpo.kl_coef=0.0",
    "kl_0_02": "grpo.kl_coef=0.02",
    "kl_0_32": "grpo.kl_coef=0.32",
    "random_orders": "benchmark.draw.order_policy=random",
    "both_orders": "benchmark.draw.order_policy=both",
    # Principles that are given to the same policy: content against form.
    "own_principles_given": "benchmark.principles=own",
    "shuffled_principles": "benchmark.principles=shuffled",
    "true_principles": "benchmark.principles=given",
    # Verdicts by name, in the order of the query: is it the format or the content?
    "verdicts_by_name": "cold_start.data.verdicts=query",
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    config = _full()
    if variant == "demo":
        _demo(config)
    elif variant in ("ci", "runlocal"):
        _ci(config)
    elif variant == "gemma_tokens":
        return _gemma_tokens(config)
    return config


def _full() -> ConfigDict:
    # Many small steps: at this size the number of updates decides, not the size of a batch.
    packing = {"row_length": 344, "batch_size": 4}
    # Prompts of a stage that samples have up to 240 tokens, trajectories up to 96.
    shape = {"prompt_lengths": "240", "output_lengths": "96"}
    c = ConfigDict(
        {
            "seed": 0,
            # One device: at this size a second one costs more in waiting than its core brings.
            "mesh": {"data": 1},
            "template": {"form": "compact", "principles": "self"},
            "tokenizer": {"path": "", "vocab_size": 1024},
            "sampling": {"chunk": 96},  # 96: trajectories are equally long, so no look-ups
            "model": {
                "num_layers": 2, "embed_dim": 64, "num_heads": 4, "num_kv_heads": 2,
                "head_dim": 16, "ffn_dim": 128, "query_scale": 16**-0.5,
                "sliding_window": 32,  # longer than a response, so that its words see their number
            },
            # Stages that train low-rank adapters instead of all parameters, such as "rft,grpo".
            "lora": {"stages": "", "rank": 8, "alpha": 16.0},
            "small_world": {
                "world_seed": 0, "num_audiences": 12, "bias": 0.5, "noise": 0.7,
                "verdict_flips": 0.03, "hinted": 0.12, "single": 0.1,
            },
            "base": {
                "data": {"demonstrations": 0, "general": 28_000, "checkpoint_every": 200},
                "packing": {**packing},
                "optimizer": {"learning_rate": 4e-3, "steps": 3500, "warmup_steps": 50},
            },
            "cold_start": {
                "data": {"demonstrations": 20_000, "general": 5000, "checkpoint_every": 200},
                "packing": {**packing},
                "optimizer": {"learning_rate": 4e-3, "steps": 4000, "warmup_steps": 50},
            },
            # Rejective fine-tuning: 3 non-hinted samples, 1 hinted.
            "rft": {
                "num_samples": 3, "num_hinted": 1,
                "data": {"comparisons": 2000, "general": 500},
                "draw": {"max_new_tokens": 96},
                "buckets": {**shape, "samples": "1"},
                "packing": {**packing},
                "optimizer": {"learning_rate": 1e-3, "steps": 400, "warmup_steps": 20},
            },
            # GRPO. At 140 thousand parameters the learning rate is far above the paper's 4e-7.
            "grpo": {
                "group_size": 4, "kl_coef": 0.08, "micro_batches": 48,
                "loop": {"comparisons": 6000, "prompts_per_step": 48},
                "draw": {"max_new_tokens": 96},
                "buckets": {**shape, "samples": "4", "samples_per_unit": 192},
                "optimizer": {"learning_rate": 8e-4, "steps": 120, "schedule": "constant"},
            },
            # Meta RM: non-hinted trajectories of the cold start (drawn for RFT) and of GRPO.
            "meta_rm": {
                "loop": {"comparisons": 4000, "batch_size": 32, "row_length": 320,
                         "checkpoint_every": 200},
                "draw": {"k": 8, "max_new_tokens": 96},
                "buckets": {**shape, "samples": "1,2,4,8"},
                "optimizer": {"learning_rate": 2e-3, "steps": 1500, "warmup_steps": 50},
            },
            # Trained baselines; equal numbers of comparisons are the very ones of GRPO.
            "baseline": {
                "kind": "bradley_terry", "k": 8,
                "loop": {"comparisons": 6000, "batch_size": 16, "row_length": 256,
                         "checkpoint_every": 200},
                "optimizer": {"learning_rate": 2e-3, "steps": 1500, "warmup_steps": 50},
            },
            "benchmark": {
                "suites": "small_world", "data_dir": "", "split": "test", "limit": 1000,
                "greedy_stages": "cold_start,rft,grpo", "sampled_stages": "rft,grpo",
                "arms": "without_principles", "arm_k": 8,
                "ks": "1,2,4,8,16,32",
                "draw": {"k": 32, "order_policy": "balanced", "temperature": 0.5,
                         "max_new_tokens": 96, "max_truncated": 1.0},
                # Longer prompts are those of real suites, spelt out in this vocabulary; what is
                # longer is cut.
                "buckets": {"prompt_lengths": "240,2048", "output_lengths": "96",
                            "samples": "1,8,16,32"},
            },
            # What `experiments.ablate` runs: seeds (of the world too), and arms, each one entry.
            "ablate": {
                "seeds": "11,12,13,14,15", "development_seeds": "0,1,2,3,7",
                "opened": "4,5,6,8,9,10",
                "only": "",  # such as "kl_0,group_2"; all arms
                # The lines with a bar on the held-out seeds, named with the first two of them.
                "listed": "Voting@8 − GRPO, greedy; Voting@32 − Voting@8; GRPO − RFT, one sample; "
                "full − without principles: Voting@8",
                "arms": ARMS,
            },
        }
    )  # fmt: skip
    group_arms(c)
    return c


def _demo(c: ConfigDict) -> None:
    c.base.data.general = 8000
    c.base.optimizer.steps = 1000
    c.cold_start.data.demonstrations = 8000
    c.cold_start.data.general = 2000
    c.cold_start.optimizer.steps = 1200
    c.rft.data.comparisons = 400
    c.rft.data.general = 100
    c.rft.optimizer.steps = 150
    c.rft.optimizer.learning_rate = 5e-4
    c.grpo.loop.comparisons = 2000
    c.grpo.loop.prompts_per_step = 24
    c.grpo.buckets.samples_per_unit = 96
    c.grpo.micro_batches = 24
    c.grpo.optimizer.steps = 25
    c.grpo.optimizer.learning_rate = 3e-4  # 24 prompts a step are noisier than 48
    group_arms(c)
    c.meta_rm.loop.comparisons = 240
    c.meta_rm.optimizer.steps = 120
    c.baseline.loop.comparisons = 2000
    c.baseline.optimizer.steps = 400
    c.benchmark.limit = 180
    c.benchmark.sampled_stages = "rft,grpo"
    c.benchmark.split = "development"


def _ci(c: ConfigDict) -> None:
    _demo(c)
    c.model.embed_dim = c.model.ffn_dim = 16
    c.model.head_dim, c.model.query_scale = 8, 8**-0.5
    c.model.attention_kernel = "reference"  # compiles in less time
    c.base.data.general = 200
    c.base.optimizer.steps = 4
    c.base.optimizer.warmup_steps = 2
    c.cold_start.data.demonstrations = 200
    c.cold_start.data.general = 50
    c.cold_start.optimizer.steps = 8
    c.cold_start.optimizer.warmup_steps = 2
    c.rft.data.comparisons = 16
    c.rft.data.general = 16
    c.rft.data.min_kept = 0  # nothing is learned in so few steps
    c.rft.optimizer.steps = 2
    c.rft.optimizer.warmup_steps = 1
    c.grpo.loop.comparisons = 32
    c.grpo.loop.prompts_per_step = 4
    c.grpo.loop.checkpoint_every = 1
    c.grpo.micro_batches = 1
    c.grpo.optimizer.steps = 3
    group_arms(c)
    c.meta_rm.loop.comparisons = 8
    c.meta_rm.loop.batch_size = 8
    c.meta_rm.only_mixed = False
    c.meta_rm.optimizer.steps = 3
    c.meta_rm.optimizer.warmup_steps = 1
    c.meta_rm.draw.k = 2
    c.baseline.k = 4
    c.baseline.loop.comparisons = 16
    c.baseline.loop.batch_size = 8
    c.baseline.optimizer.steps = 3
    c.baseline.optimizer.warmup_steps = 1
    c.benchmark.limit = 8
    c.benchmark.ks = "1,2,4,8"
    c.benchmark.draw.k = 8
    c.benchmark.buckets.prompt_lengths = "240"
    c.benchmark.arm_k = 4
    c.benchmark.num_subsets = 8
    c.benchmark.max_unparsed = c.benchmark.max_cut = 1.0  # nothing is learned in so few steps
    for section in (c.rft, c.grpo, c.meta_rm, c.benchmark):
        section.draw.max_new_tokens = 12
        section.buckets.samples, section.buckets.samples_per_unit = "4", 16  # one shape for all


def _gemma_tokens(c: ConfigDict) -> ConfigDict:
    """Real rows, real tokenizer, random weights: the path of the 27B model at the size of a toy."""
    for name in ("lora", "small_world", "base", "cold_start", "rft", "grpo", "meta_rm",
                 "baseline", "ablate"):  # fmt: skip
        del c[name]
    c.mesh.data = 1
    c.template.form = "full"
    c.tokenizer.path = "data/tokenizers/gemma2/tokenizer.model"
    c.model.sliding_window = 512
    c.sampling.chunk = 16
    c.benchmark.suites = "judgebench,llmbar,rmb_bon"
    c.benchmark.data_dir = "data"
    c.benchmark.limit = 50
    c.benchmark.greedy_stages = "random_weights"
    c.benchmark.sampled_stages = "random_weights"
    c.benchmark.ks = "1,2,4"
    c.benchmark.arms = ""
    c.benchmark.meta_rm = False
    c.benchmark.draw.k = 4
    c.benchmark.draw.max_orders = 2  # 2 prompts and one shape a comparison, whatever its n
    c.benchmark.draw.temperature = 0.5
    # Random weights write no scores at any length; each token costs a pass over 256,000 logits.
    c.benchmark.draw.max_new_tokens = 16
    c.benchmark.draw.binary_singles = False
    c.benchmark.draw.max_truncated = 0.2
    c.benchmark.max_unparsed = c.benchmark.max_cut = 1.0
    c.benchmark.buckets.prompt_lengths = "1024,2048,4096"
    c.benchmark.buckets.output_lengths = "16"
    c.benchmark.buckets.samples = "1,2"
    c.benchmark.buckets.samples_per_unit = 8
    return c
