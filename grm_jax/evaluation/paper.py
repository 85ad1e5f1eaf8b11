"""The numbers of the paper (arXiv 2504.02495, version 3), for the tables that stand beside ours.

Accuracy in per cent unless a table says otherwise. Curves of the figures were read from the vector
graphics of version 2, which give the values of its tables. Where the paper contradicts itself a
footnote says so, and so it does of what popular articles get wrong.
"""

from typing import NamedTuple

GREEDY, SAMPLED = "greedy", "k samples"
WITHOUT = "without principles"  # sections of arms
QUARTER = "k_meta: k/4"
REJECTIVE, GENERAL = "without rejective sampling", "without general data"
HINTED, NON_HINTED = "without hinted sampling", "without non hinted sampling"
THEIRS = "published by others"
WEIGHTS = "needs the released weights"

# Which of our lines a row is: (section, label with its stage), the first that a run has.
Lines = tuple[tuple[str, str], ...]
GRM: Lines = ((GREEDY, "GRPO, greedy"), (GREEDY, "released, greedy"))
RFT: Lines = ((GREEDY, "RFT, greedy"),)
ONE: Lines = ((SAMPLED, "GRPO, one sample"), (SAMPLED, "released, one sample"))
RFT_ONE: Lines = ((SAMPLED, "RFT, one sample"),)
NO_PRINCIPLES: Lines = ((WITHOUT, "GRPO, greedy"),)
JUDGE: Lines = ((GREEDY, "LLM-as-a-Judge, greedy"),)
BRADLEY_TERRY: Lines = ((GREEDY, "Bradley-Terry RM"),)
CLOUD: Lines = ((GREEDY, "CLoud, greedy"),)
PAIR_RM: Lines = ((GREEDY, "PairRM"),)
JUDGE_8: Lines = ((SAMPLED, "LLM-as-a-Judge, Voting@8"),)
TOKEN_PROB_8: Lines = ((SAMPLED, "TokenProb, Voting@8"),)
CLOUD_8: Lines = ((SAMPLED, "CLoud, Voting@8"),)
RFT_8: Lines = ((SAMPLED, "RFT, Voting@8"),)

# SUITES stands for those of the table.
_SUITES = "--config.benchmark.suites=SUITES --config.benchmark.data_dir=DATA"
MEASURE = (
    "python -m experiments.benchmark --config=configs/deepseek_grm_{size}.py --workdir=W "
    f"--config.released.model=DIR {_SUITES}"
)
_DATA = f"--config.released.model=DIR --config.data.benchmark_dir=DATA {_SUITES}"
TRAIN = f"python -m experiments.spct --config=configs/gemma2_27b.py --workdir=W {_DATA}"
RFT_ONLY = (
    f"python -m experiments.rft --config=configs/{{config}}.py --workdir=W {_DATA}"
    "  (then experiments.benchmark with the same flags)"
)
BASELINE = (
    f"python -m experiments.baseline --config=configs/gemma2_27b.py --workdir=W {_DATA} "
    "--config.baseline.kind=KIND  (bradley_terry, pairrm, cloud, llm_judge, token_prob)"
)
ABLATE = (
    f"python -m experiments.ablate --config=configs/gemma2_27b.py --workdir=A {_DATA}"
    "  (then W is A/seed_0)"
)


def voting(k: int) -> Lines:
    """The lines of Voting@k."""
    return ((SAMPLED, f"GRPO, Voting@{k}"), (SAMPLED, f"released, Voting@{k}"))


def guided(k: int, section: str = SAMPLED) -> Lines:
    """The lines of MetaRM@k."""
    return ((section, f"GRPO, MetaRM@{k}"), (section, f"released, MetaRM@{k}"))


class Column(NamedTuple):
    """A column: its heading, and the numbers of our results that it is a mean of.

    Attributes:
      name: the heading.
      parts: (suite, column of its results, weight).
      unit, digits: see `tables.Column`.
    """

    name: str
    parts: tuple[tuple[str, str, float], ...]
    unit: str = "percent"
    digits: int = 1


class Row(NamedTuple):
    """A row: its label, the values of the paper, and which of our lines stands beside it.

    Attributes:
      label, values: of the paper; None where it has none.
      ours: see `Lines`; () for models that are not ours to measure.
      size: billions of parameters; only 27 may stand beside a run of another size.
      filled_by: the command that makes our value, or who published theirs.
      note: footnote.
    """

    label: str
    values: tuple[float | None, ...]
    ours: Lines = ()
    size: int = 27
    filled_by: str = THEIRS
    note: str = ""


class PaperTable(NamedTuple):
    """A table or figure of the paper."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


RB = Column("RewardBench", (("rewardbench", "RewardBench", 1.0),))
PREF = Column("PPE Preference", (("ppe_preference", "accuracy", 1.0),))
CORR = Column("PPE Correctness", (("ppe_correctness", "mean", 1.0),))
RMB = Column("RMB", (("rmb_bon", "mean", 0.5), ("rmb_pairwise", "mean", 0.5)))
OVERALL = Column("Overall", (*RB.parts, *PREF.parts, *CORR.parts, *RMB.parts))
MAIN = (RB, PREF, CORR, RMB, OVERALL)
SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning")
SINGLE_PASS = "one pass is 69.9 greedy and 67.9 sampled; 69.12, which articles have, is neither"
AT_32 = "88.5 on RewardBench is Voting@32, not @8, and is compared with 88.4 of the 671B model"
REFERENCE = "not ours to fill: no file that was read here has the reference answers"
RUNS = (
    "the paper's runs: 128 A100 (not 228), learning rate of RL 4e-7 (5e-6 is that of RFT); the "
    "340B model is Nemotron-4"
)


def _released(size: str = "27b") -> str:
    return f"{MEASURE.format(size=size)}  ({WEIGHTS})"


def _theirs(text: str) -> tuple[Row, ...]:
    rows = []
    for line in text.strip().splitlines():
        label, values = line.rsplit("|", 1)
        rows.append(Row(label.strip(), tuple(map(float, values.split()))))
    return tuple(rows)


def _grm(label: str, values, ours: Lines, filled_by: str = "", note: str = "", size: int = 27):
    command = filled_by or _released("16b" if size == 16 else "27b")
    return Row(label, tuple(values), ours, size, command, note)


TABLE_2 = PaperTable(
    "table2", "Table 2: main results", MAIN,
    (
        *_theirs("""
            Skywork-Reward-Gemma-2-27B (scalar) | 94.1 56.6 56.6 60.2 66.9
            DeepSeek-V2.5-0905                  | 81.5 62.8 58.5 65.7 67.1
            Gemini-1.5-Pro                      | 86.8 66.1 59.8 56.5 67.3
            ArmoRM-8B-v0.1 (scalar)             | 90.4 60.6 61.2 64.6 69.2
            InternLM2-20B-Reward (scalar)       | 90.2 61.0 63.0 62.9 69.3
            LLaMA-3.1-70b-Instruct              | 84.1 65.3 59.2 68.9 69.4
            Claude-3.5-sonnet                   | 84.2 65.3 58.8 70.6 69.7
            Nemotron-4-340B-Reward (scalar)     | 92.0 59.3 60.8 69.9 70.5
            GPT-4o                              | 86.7 67.1 57.6 73.8 71.3
        """),
        _grm("LLM-as-a-Judge", (83.4, 64.2, 58.8, 64.8, 67.8), JUDGE, BASELINE),
        _grm("BTRM-27B", (81.7, 68.3, 66.7, 57.9, 68.6), BRADLEY_TERRY, BASELINE),
        _grm("CLoud", (82.0, 67.1, 62.4, 63.4, 68.7), CLOUD, BASELINE),
        _grm("PairRM-27B", (87.1, 65.8, 64.8, 58.2, 69.0), PAIR_RM, BASELINE),
        _grm("GRM-27B-RFT", (84.5, 64.1, 59.6, 67.0, 68.8), RFT, TRAIN),
        _grm("GRM-27B", (86.0, 64.7, 59.8, 69.0, 69.9), GRM, note=SINGLE_PASS),
        _grm("GRM-27B, Voting@32", (88.5, 65.3, 60.4, 69.7, 71.0), voting(32),
             note=f"{AT_32}; version 2 prints 69.0 for RMB, which its row mean contradicts"),
        _grm("GRM-27B, MetaRM@32", (90.4, 67.2, 63.2, 70.3, 72.8), guided(32)),
    ),
    (RUNS,),
)  # fmt: skip
TABLE_3 = PaperTable(
    "table3", "Tables 3 and 6: scaling at inference time, temperature 0.5", MAIN,
    (
        _grm("LLM-as-a-Judge, one sample", (83.0, 63.4, 57.4, 64.3, 67.0),
             ((SAMPLED, "LLM-as-a-Judge, one sample"),), BASELINE),
        _grm("CLoud, one sample", (82.0, 67.0, 62.0, 63.2, 68.5),
             ((SAMPLED, "CLoud, one sample"),), BASELINE),
        _grm("GRM-27B-RFT, one sample", (84.0, 62.2, 59.4, 65.8, 67.8), RFT_ONE, TRAIN),
        _grm("GRM-27B, one sample", (85.2, 62.4, 59.5, 64.4, 67.9), ONE, note=SINGLE_PASS),
        _grm("LLM-as-a-Judge, Voting@8", (83.4, 63.8, 58.2, 65.2, 67.6), JUDGE_8, BASELINE),
        _grm("LLM-as-a-Judge, TokenProb@8", (83.8, 64.6, 58.8, 65.2, 68.1), TOKEN_PROB_8, BASELINE),
        _grm("CLoud, Voting@8", (82.4, 67.3, 62.4, 63.2, 68.8), CLOUD_8, BASELINE),
        _grm("GRM-27B-RFT, Voting@8", (85.3, 64.5, 59.7, 67.7, 69.3), RFT_8, TRAIN),
        _grm("GRM-27B, Voting@8", (87.7, 64.9, 60.3, 69.5, 70.6), voting(8)),
        _grm("GRM-27B, MetaRM@8", (89.8, 66.4, 63.0, 68.8, 72.0), guided(8)),
        _grm("GRM-27B, Voting@32", (88.5, 65.3, 60.4, 69.7, 71.0), voting(32), note=AT_32),
        _grm("GRM-27B, MetaRM@32", (90.4, 67.2, 63.2, 70.3, 72.8), guided(32)),
    ),
    ("one sample is 2.0 below greedy; against greedy, Voting@8 is +0.7, Voting@32 +1.1, "
     "MetaRM@32 +2.9",),
)  # fmt: skip
TABLE_4 = PaperTable(
    "table4", "Tables 4 and 7: ablations", MAIN,
    (
        _grm("GRM-27B", (86.0, 64.7, 59.8, 69.0, 69.9), GRM),
        _grm("without principle generation", (82.0, 62.8, 58.2, 67.1, 67.5), NO_PRINCIPLES, ABLATE),
        _grm("without rejective sampling", (84.0, 63.2, 59.4, 68.0, 68.7),
             ((REJECTIVE, "GRPO, greedy"),), ABLATE),
        _grm("GRM-27B-RFT", (84.5, 64.1, 59.6, 67.0, 68.8), RFT, TRAIN),
        _grm("RFT without hinted sampling", (83.0, 63.8, 58.2, 65.8, 68.0),
             ((HINTED, "RFT, greedy"),), ABLATE, "the cells average 67.7"),
        _grm("RFT without non-hinted sampling", (82.5, 63.4, 58.6, 65.2, 67.4),
             ((NON_HINTED, "RFT, greedy"),), ABLATE),
        _grm("RFT without rejective sampling", (81.5, 61.8, 57.8, 63.1, 66.1),
             ((REJECTIVE, "RFT, greedy"),), ABLATE),
        _grm("RFT without general instruction data", (79.1, 59.2, 51.5, 63.2, 63.3),
             ((GENERAL, "RFT, greedy"),), ABLATE),
        _grm("GRM-27B, Voting@8", (87.7, 64.9, 60.3, 69.5, 70.6), voting(8)),
        _grm("without principle generation, Voting@8", (83.0, 63.2, 58.6, 67.1, 68.0),
             ((WITHOUT, "GRPO, Voting@8"),), ABLATE),
        _grm("GRM-27B, Voting@32", (88.5, 65.3, 60.4, 69.7, 71.0), voting(32)),
        _grm("MetaRM@32, k_meta = 1", (88.5, 67.1, 65.2, 65.2, 71.5),
             guided(32, "k_meta: 1"), ABLATE),
        _grm("MetaRM@32, k_meta = 8", (89.7, 67.2, 64.7, 69.1, 72.7), guided(32, QUARTER), ABLATE),
        _grm("MetaRM@32, k_meta = 16", (90.4, 67.2, 63.2, 70.3, 72.8), guided(32)),
    ),
    ("other k_meta: --config.benchmark.k_meta of a run on the same workdir",),
)  # fmt: skip
SWAPPED = "subset cells of BTRM and PairRM look swapped: their means are 87.1 and 81.7"
TABLE_8 = PaperTable(
    "table8", "Table 8: RewardBench",
    (
        *(Column(name, (("rewardbench", name, 1.0),)) for name in SECTIONS),
        Column("Prior Sets", (("rewardbench", "Prior Sets", 1.0),)), RB,
    ),
    (
        Row("DeepSeek-R1-0120", (97.1, 73.7, 73.3, 95.6, None, 84.9),
            note="on 300 evenly spread rows"),
        _grm("GRM-16B", (90.8, 74.3, 84.7, 81.8, 62.5, 82.9), GRM, size=16),
        Row("GRM-236B, RFT", (96.5, 72.5, 87.8, 84.3, None, 85.3), RFT, 236,
            RFT_ONLY.format(config="deepseek_v2_236b"),
            "printed as 230B"),
        Row("GRM-671B", (95.8, 82.9, 88.3, 86.6, None, 88.4), RFT, 671,
            RFT_ONLY.format(config="deepseek_v3_671b"),
            "drawn on the line of RL, but the appendix says that it had RFT only"),
        _grm("LLM-as-a-Judge", (96.7, 69.3, 83.5, 84.3, None, 83.4), JUDGE, BASELINE),
        _grm("BTRM-27B", (96.7, 86.2, 75.7, 89.8, 68.5, 81.7), BRADLEY_TERRY, BASELINE, SWAPPED),
        _grm("CLoud", (96.7, 69.3, 83.5, 84.3, None, 82.0), CLOUD, BASELINE,
             "cells of LLM-as-a-Judge, printed twice: their mean is 83.5"),
        _grm("PairRM-27B", (95.5, 86.8, 52.3, 92.0, 67.6, 87.1), PAIR_RM, BASELINE, SWAPPED),
        _grm("GRM-27B-RFT", (94.7, 77.2, 87.0, 79.2, 65.9, 84.5), RFT, TRAIN),
        _grm("GRM-27B", (94.1, 78.3, 88.0, 83.8, 66.7, 86.0), GRM),
        _grm("LLM-as-a-Judge, Voting@8", (95.0, 70.0, 83.5, 85.0, None, 83.4), JUDGE_8, BASELINE),
        _grm("LLM-as-a-Judge, TokenProb@8", (95.8, 71.3, 83.3, 84.8, None, 83.8),
             TOKEN_PROB_8, BASELINE),
        _grm("CLoud, Voting@8", (96.7, 85.8, 56.2, 91.0, None, 82.4), CLOUD_8, BASELINE),
        _grm("GRM-27B-RFT, Voting@8", (94.7, 79.0, 87.3, 80.2, None, 85.3), RFT_8, TRAIN),
        _grm("GRM-27B, Voting@8", (95.3, 80.9, 89.3, 85.4, 66.8, 87.7), voting(8)),
        _grm("GRM-27B, MetaRM@8", (95.5, 85.7, 88.5, 89.5, 69.4, 89.8), guided(8)),
        _grm("GRM-27B, Voting@32", (95.5, 81.8, 90.0, 86.9, 68.1, 88.5), voting(32), note=AT_32),
        _grm("GRM-27B, MetaRM@32", (95.3, 85.7, 89.5, 91.0, 69.4, 90.4), guided(32)),
    ),
    ("RewardBench: mean of four sections, without prior sets",),
)  # fmt: skip
DOMAINS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
TABLE_9 = PaperTable(
    "table9", "Table 9: PPE Correctness",
    (
        *(Column(name, (("ppe_correctness", name, 1.0),)) for name in DOMAINS),
        Column("mean", CORR.parts),
    ),
    (
        _grm("LLM-as-a-Judge", (66.0, 68.0, 52.8, 50.2, 56.8, 58.8), JUDGE, BASELINE),
        _grm("BTRM-27B", (68.8, 73.2, 56.8, 68.8, 66.0, 66.7), BRADLEY_TERRY, BASELINE),
        _grm("CLoud", (68.7, 68.8, 53.5, 59.0, 62.0, 62.4), CLOUD, BASELINE),
        _grm("PairRM-27B", (68.3, 74.7, 55.0, 63.1, 62.9, 64.8), PAIR_RM, BASELINE),
        _grm("GRM-27B-RFT", (64.8, 68.7, 55.5, 49.0, 60.2, 59.6), RFT, TRAIN),
        _grm("GRM-27B", (64.8, 68.8, 55.6, 50.1, 59.8, 59.8), GRM),
        Row("GRM-27B with reference", (98.2, 97.5, 99.8, 86.6, 75.9, 91.6), note=REFERENCE),
        _grm("LLM-as-a-Judge, Voting@8", (66.2, 66.4, 51.9, 49.9, 56.8, 58.2), JUDGE_8, BASELINE),
        _grm("LLM-as-a-Judge, TokenProb@8", (66.4, 68.1, 53.0, 49.5, 57.0, 58.8),
             TOKEN_PROB_8, BASELINE),
        _grm("CLoud, Voting@8", (68.7, 68.9, 53.5, 59.0, 62.0, 62.4), CLOUD_8, BASELINE),
        _grm("GRM-27B-RFT, Voting@8", (64.8, 68.7, 55.5, 49.5, 60.2, 59.7), RFT_8, TRAIN),
        _grm("GRM-27B, Voting@8", (65.7, 68.7, 55.5, 50.0, 61.6, 60.3), voting(8)),
        _grm("GRM-27B, MetaRM@8", (68.0, 68.7, 57.3, 51.3, 69.9, 63.0), guided(8)),
        _grm("GRM-27B, Voting@32", (65.5, 69.4, 56.0, 49.9, 61.0, 60.4), voting(32)),
        _grm("GRM-27B, MetaRM@32", (68.1, 70.0, 56.9, 50.8, 70.4, 63.2), guided(32)),
    ),
)  # fmt: skip
TABLE_10 = PaperTable(
    "table10", "Table 10: RMB",
    (
        Column("best of N, helpful", (("rmb_bon", "Helpfulness", 1.0),)),
        Column("pairs, helpful", (("rmb_pairwise", "Helpfulness", 1.0),)),
        Column("best of N, harmless", (("rmb_bon", "Harmlessness", 1.0),)),
        Column("pairs, harmless", (("rmb_pairwise", "Harmlessness", 1.0),)),
        Column("mean", RMB.parts),
    ),
    (
        _grm("LLM-as-a-Judge", (55.8, 78.5, 50.8, 73.9, 64.8), JUDGE, BASELINE),
        _grm("BTRM-27B", (64.0, 83.0, 33.6, 51.0, 57.9), BRADLEY_TERRY, BASELINE),
        _grm("CLoud", (64.7, 81.1, 41.7, 66.1, 63.4), CLOUD, BASELINE),
        _grm("PairRM-27B", (59.9, 83.3, 34.1, 55.5, 58.2), PAIR_RM, BASELINE),
        _grm("GRM-27B-RFT", (58.4, 79.3, 54.2, 76.0, 67.0), RFT, TRAIN),
        _grm("GRM-27B", (62.3, 80.5, 57.0, 76.1, 69.0), GRM),
        _grm("LLM-as-a-Judge, Voting@8", (56.0, 78.5, 52.5, 73.8, 65.2), JUDGE_8, BASELINE,
             "printed with the same cells for TokenProb"),
        _grm("CLoud, Voting@8", (63.8, 82.1, 40.9, 66.1, 63.2), CLOUD_8, BASELINE),
        _grm("GRM-27B-RFT, Voting@8", (59.2, 80.1, 54.8, 76.5, 67.7), RFT_8, TRAIN),
        _grm("GRM-27B, Voting@8", (63.9, 79.5, 57.6, 77.1, 69.5), voting(8)),
        _grm("GRM-27B, MetaRM@8", (63.4, 80.5, 56.8, 74.6, 68.8), guided(8)),
        _grm("GRM-27B, Voting@32", (63.9, 79.8, 58.0, 77.0, 69.7), voting(32)),
        _grm("GRM-27B, MetaRM@32", (64.2, 81.6, 58.0, 77.4, 70.3), guided(32)),
    ),
)  # fmt: skip
TABLE_11 = PaperTable(
    "table11", "Table 11: RMB best of N, as pairs and as one list",
    (
        Column("list, helpful", (("rmb_bon", "Helpfulness", 1.0),)),
        Column("pairs, helpful", (("rmb_pairs", "Helpfulness", 1.0),)),
        Column("list, harmless", (("rmb_bon", "Harmlessness", 1.0),)),
        Column("pairs, harmless", (("rmb_pairs", "Harmlessness", 1.0),)),
    ),
    (_grm("GRM-27B", (62.3, 62.1, 57.0, 57.5), GRM),),
)
TABLE_12 = PaperTable(
    "table12", "Table 12: PPE Correctness, what closes the gap to scalar models",
    (Column("PPE Correctness", CORR.parts),),
    (
        _grm("GRM-27B", (59.8,), GRM), _grm("Voting@32", (60.4,), voting(32)),
        _grm("MetaRM@32", (64.7,), guided(32, QUARTER), ABLATE,
             "with k_meta = 8; the default, 16, has 63.2 in Table 9"),
        Row("with reference", (91.6,), note=REFERENCE),
    ),
)  # fmt: skip
TABLE_13 = PaperTable(
    "table13", "Table 13: ReaLMistake, ROC-AUC in per cent",
    (Column("ROC-AUC", (("realmistake", "AUC", 1.0),)),),
    (
        Row("DeepSeek-V2.5-0905", (69.4,)), Row("GPT-4o-2024-08-06", (74.3,)),
        Row("DeepSeek-V2-Lite-Chat", (61.9,)),
        _grm("GRM-16B", (64.9,), GRM, size=16),
        Row("Gemma-2-27B-it", (65.8,)),
        _grm("BTRM-27B", (69.3,), BRADLEY_TERRY, BASELINE),
        _grm("GRM-27B", (72.2,), GRM), _grm("GRM-27B, Voting@8", (74.4,), voting(8)),
    ),
    ("pooled over the six tasks; the paper does not say how it averages",),
)  # fmt: skip
TABLE_15 = PaperTable(
    "table15", "Table 15: without the training data made of MATH, on RewardBench",
    (*(Column(name, (("rewardbench", name, 1.0),)) for name in SECTIONS), RB),
    (
        _grm("GRM-27B", (94.1, 78.3, 88.0, 83.8, 86.0), GRM),
        _grm("GRM-27B without MATH", (96.1, 70.4, 85.3, 82.5, 83.0), (), TRAIN,
             "the cells average 83.6"),
        _grm("GRM-16B", (90.8, 74.3, 84.7, 81.8, 82.9), GRM, size=16),
        _grm("GRM-16B without MATH", (95.0, 63.4, 76.9, 74.3, 77.4), (),
             TRAIN.replace("gemma2_27b", "deepseek_v2_lite_16b"), size=16),
    ),
    ("a run without MATH leaves the source `math` out of config.data.train",),
)  # fmt: skip

KS = (1, 2, 4, 8, 16, 32)


def _curves(name: str, title: str, column: Column, curves: dict, notes=()) -> PaperTable:
    rows = []
    for label, values, kind, stage, command, size in curves:
        for k, value in zip(KS, values, strict=False):
            ours = kind(k) if k > 1 else stage
            rows.append(_grm(f"{label}, k = {k}", (value,), ours, command, size=size))
    return PaperTable(name, title, (column,), tuple(rows), notes)


def _of(kind: str):
    return lambda k: ((SAMPLED, f"{kind}, Voting@{k}"),)


def _one(kind: str) -> Lines:
    return ((SAMPLED, f"{kind}, one sample"),)


FIGURE_1 = _curves(
    "figure1", "Figures 1 and 6: all benchmarks against k", OVERALL,
    [
        ("GRM-27B, voting", (67.9, 69.2, 69.9, 70.6, 70.9, 71.0), voting, ONE, "", 27),
        ("GRM-27B, guided", (67.9, 70.7, 71.5, 72.0, 72.2, 72.8), guided, ONE, "", 27),
        ("CLoud", (68.5, 68.7, 68.8, 68.8), _of("CLoud"), _one("CLoud"), BASELINE, 27),
        ("LLM-as-a-Judge, TokenProb", (67.0, 67.7, 68.0, 68.1), _of("TokenProb"),
         _one("TokenProb"), BASELINE, 27),
    ],
)  # fmt: skip
FIGURE_4 = _curves(
    "figure4", "Figure 4: RewardBench against k, and against size", RB,
    [
        ("GRM-27B, voting", (85.2, 85.4, 86.4, 87.7, 88.1, 88.5), voting, ONE, "", 27),
        ("GRM-27B, guided", (85.2, 88.2, 89.7, 89.8, 90.0, 90.4), guided, ONE, "", 27),
        ("GRM-16B, voting", (82.4, 82.8, 83.4, 84.9), voting, ONE, "", 16),
        ("CLoud", (82.0, 82.4, 82.4, 82.4), _of("CLoud"), _one("CLoud"), BASELINE, 27),
        ("LLM-as-a-Judge, TokenProb", (83.0, 83.4, 83.8, 83.8), _of("TokenProb"),
         _one("TokenProb"), BASELINE, 27),
    ],
    ("greedy, by size: RFT 16B 81.5, 27B 84.5, 236B 85.3; RL 16B 82.9, 27B 86.0; 671B 88.4", AT_32),
)  # fmt: skip
FIGURE_7 = PaperTable(
    "figure7", "Figure 7: mean output tokens on RewardBench",
    tuple(
        Column(name, (("rewardbench", f"tokens of {name}", 1.0),), "plain", 0)
        for name in SECTIONS
    ),
    (
        _grm("GRM-27B-RFT", (241, 259, 245, 260), RFT, TRAIN),
        _grm("GRM-27B", (265, 259, 218, 376), GRM),
        Row("DeepSeek-R1", (1690, 4405, 4210, 5224)),
    ),
    ("each model by its own tokenizer",),
)
TABLES = {
    table.name: table
    for table in (TABLE_2, TABLE_3, TABLE_4, TABLE_8, TABLE_9, TABLE_10, TABLE_11, TABLE_12,
                  TABLE_13, TABLE_15, FIGURE_1, FIGURE_4, FIGURE_7)
}  # fmt: skip
ALIASES = {"table6": "table3", "table7": "table4", "figure6": "figure1"}


def overall(line: tuple[str, str]) -> float | None:
    """Overall accuracy that the paper has where one of our lines would stand, in per cent.

    Args:
      line: (section, label), with the stage in the labels of votes.
    """
    for table in (TABLE_2, TABLE_3, TABLE_4):
        for row in table.rows:
            if row.size == 27 and line in row.ours:
                return row.values[-1]
    return None
