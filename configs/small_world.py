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
            # Trained baselines; equal numbers of comparisons are the same as those of GRPO.
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
                # Rows of real suites are long in this vocabulary, and shortened to 2,048 tokens.
                "buckets": {"prompt_lengths": "240,2048", "output_lengths": "96",
                            "samples": "1,8,16,32"},
            },
            # Seeds (of the world too) and arms of `experiments.ablate`.
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
    c.update(
        {
            "base": {"data": {"general": 8000}, "optimizer": {"steps": 1000}},
            "cold_start": {
                "data": {"demonstrations": 8000, "general": 2000}, "optimizer": {"steps": 1200},
            },
            "rft": {
                "data": {"comparisons": 400, "general": 100},
                "optimizer": {"learning_rate": 5e-4, "steps": 150},
            },
            "grpo": {
                "micro_batches": 24,
                "loop": {"comparisons": 2000, "prompts_per_step": 24},
                "buckets": {"samples_per_unit": 96},
                # 24 prompts a step are noisier than 48.
                "optimizer": {"learning_rate": 3e-4, "steps": 25},
            },
            "meta_rm": {"loop": {"comparisons": 240}, "optimizer": {"steps": 120}},
            "baseline": {"loop": {"comparisons": 2000}, "optimizer": {"steps": 400}},
            "benchmark": {"split": "development", "limit": 180},
        }
    )  # fmt: skip
    group_arms(c)


def _ci(c: ConfigDict) -> None:
    _demo(c)
    # One shape for all stages.
    sampled = {"draw": {"max_new_tokens": 12}, "buckets": {"samples": "4", "samples_per_unit": 16}}
    c.update(
        {
            "model": {
                "embed_dim": 16, "ffn_dim": 16, "head_dim": 8, "query_scale": 8**-0.5,
                "attention_kernel": "reference",  # compiles in less time
            },
            "base": {"data": {"general": 200}, "optimizer": {"steps": 4, "warmup_steps": 2}},
            "cold_start": {
                "data": {"demonstrations": 200, "general": 50},
                "optimizer": {"steps": 8, "warmup_steps": 2},
            },
            # Nothing is learned in so few steps, so nothing may be kept.
            "rft": {
                "data": {"comparisons": 16, "general": 16, "min_kept": 0}, **sampled,
                "optimizer": {"steps": 2, "warmup_steps": 1},
            },
            "grpo": {
                "micro_batches": 1,
                "loop": {"comparisons": 32, "prompts_per_step": 4, "checkpoint_every": 1},
                **sampled, "optimizer": {"steps": 3},
            },
            "meta_rm": {
                "only_mixed": False, "loop": {"comparisons": 8, "batch_size": 8}, **sampled,
                "optimizer": {"steps": 3, "warmup_steps": 1},
            },
            "baseline": {
                "k": 4, "loop": {"comparisons": 16, "batch_size": 8},
                "optimizer": {"steps": 3, "warmup_steps": 1},
            },
            "benchmark": {
                "limit": 8, "ks": "1,2,4,8", "arm_k": 4, "num_subsets": 8, "max_unparsed": 1.0,
                "max_cut": 1.0, **sampled,
            },
        }
    )  # fmt: skip
    c.meta_rm.draw.k, c.benchmark.draw.k, c.benchmark.buckets.prompt_lengths = 2, 8, "240"
    group_arms(c)


def _gemma_tokens(c: ConfigDict) -> ConfigDict:
    """Real rows, real tokenizer, random weights: the path of the 27B model at the size of a toy."""
    for name in ("lora", "small_world", "base", "cold_start", "rft", "grpo", "meta_rm",
                 "baseline", "ablate"):  # fmt: skip
        del c[name]
    c.update(
        {
            "template": {"form": "full"},
            "tokenizer": {"path": "data/tokenizers/gemma2/tokenizer.model"},
            "model": {"sliding_window": 512},
            "sampling": {"chunk": 16},
            "benchmark": {
                "suites": "judgebench,llmbar,rmb_bon", "data_dir": "data", "limit": 50,
                "greedy_stages": "random_weights", "sampled_stages": "random_weights",
                "ks": "1,2,4", "arms": "", "meta_rm": False, "max_unparsed": 1.0, "max_cut": 1.0,
                # Two orders a comparison make two prompts and one shape, whatever its n. Random
                # weights write no scores at any length; each token costs 256,000 logits.
                "draw": {"k": 4, "max_orders": 2, "temperature": 0.5, "max_new_tokens": 16,
                         "binary_singles": False, "max_truncated": 0.2},
                "buckets": {"prompt_lengths": "1024,2048,4096", "output_lengths": "16",
                            "samples": "1,2", "samples_per_unit": 8},
            },
        }
    )  # fmt: skip
    return c
