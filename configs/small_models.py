"""Three small pretrained models as judges, measured on two cores: real weights, no judge training.

Claim (none published; these models were never trained to judge):

    most answers have no readable score; where they have one, accuracy is that of chance

Hardware: two cores and 8 GB.
Wall time: about 10 minutes to an hour by the size of the model.

    python -m experiments.benchmark --config=configs/small_models.py --workdir=runs/smollm2 \
        --config.released.model=DIR --config.benchmark.data_dir=DATA

DIR is the folder of SmolLM2-135M-Instruct, Qwen2.5-Coder-0.5B-Instruct or Gemma-3-270m, as
downloaded or made by tools.from_gguf. 40 rows: 20 of LLMBar and 20 of RewardBench, evenly spread.

Variants:
    (none)      the weights in DIR
    runlocal    the same path over a tiny random checkpoint:
                python -m tools.make_checkpoint --kind=gemma2 --out=runs/tiny/gemma2
                python -m experiments.benchmark --config=configs/small_models.py:runlocal \
                    --workdir=runs/small_models_local
"""

from ml_collections import ConfigDict

from configs.deepseek_grm_27b import VARIANTS, released_benchmark, run_locally


def get_config(variant: str = "") -> ConfigDict:
    """The config of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {VARIANTS}")
    c = released_benchmark("checkpoints/SmolLM2-135M-Instruct", meta_rm="")
    del c.meta_rm
    c.model.dtype = c.model.param_dtype = "float32"
    c.sampling.chunk = 32
    c.template.form = "compact"  # two cores; choice
    c.benchmark.update(
        {
            "suites": "llmbar,rewardbench", "limit": 20, "ks": "1,2,4", "meta_rm": False,
            # Answers without a score are what is measured.
            "max_unparsed": 1.0, "max_cut": 1.0,
            "draw": {"k": 4, "max_new_tokens": 256, "max_truncated": 1.0},
            "buckets": {"prompt_lengths": "512,768,1024,2048", "output_lengths": "256",
                        "samples": "1,2", "samples_per_unit": 8},
        }
    )  # fmt: skip
    if variant == "runlocal":
        run_locally(c, "runs/tiny/gemma2", meta_rm="")
        del c.meta_rm
    return c
