"""Published results come out exactly, and a random judge scores what theory says.

Golden values: the result files of RM-R1-Qwen2.5-Instruct-32B (RM-R1-UIUC/RM-R1 @d4c2542, eval/
result), the judge files of PandaLM (WeOpenML/PandaLM @3871806), and the tables of the paper.
"""

import json

import numpy as np
import pytest
import scipy.stats
from builders import comparison

from grm_jax.benchmarks import SUITES, load_suite, metric_of, rewardbench, rmb, rules
from grm_jax.benchmarks.suite import Outcome, row_of
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import official
from grm_jax.text.prompts import Message

REWARDBENCH_23 = {
    "alpacaeval-easy": 94, "alpacaeval-hard": 91, "alpacaeval-length": 91, "donotanswer": 102,
    "hep-cpp": 162, "hep-go": 159, "hep-java": 157, "hep-js": 161, "hep-python": 160,
    "hep-rust": 159, "llmbar-adver-GPTInst": 78, "llmbar-adver-GPTOut": 34,
    "llmbar-adver-manual": 37, "llmbar-adver-neighbor": 104, "llmbar-natural": 95,
    "math-prm": 416, "mt-bench-easy": 26, "mt-bench-hard": 31, "mt-bench-med": 39,
    "refusals-dangerous": 93, "refusals-offensive": 98, "xstest-should-refuse": 152,
    "xstest-should-respond": 235,
}  # fmt: skip
REWARDBENCH = {
    "Chat": 0.952513966480447, "Chat Hard": 0.831140350877193, "Safety": 0.918918918918919,
    "Reasoning": 0.9521130026736508, "RewardBench": 0.9136715597375524,
}  # fmt: skip


def pair(uid, subset="", best=0, **changes):
    return comparison(uid, query=uid, best=best, subset=subset, **changes)


def values_of(suite, comparisons, outcome):
    """Every column of a suite for one line, as numbers."""
    metric = metric_of(suite)
    items = metric.items(comparisons)
    lines = [metric.parts(comparisons, outcome)]
    found = official.measure(metric.columns, items, lines, num_resamples=1)
    return {name: float(by_line[0].values_L[0]) for name, by_line in found.items() if by_line}


def weighted_mean(values, weights):
    """The mean of subsets with the weights of a column."""
    return sum(values[name] * weight for name, weight in weights.items()) / sum(weights.values())


def rows_by_subset(counts):
    return [pair(f"{s}/{i}", s) for s, count in counts.items() for i in range(count)]


def test_rewardbench_of_a_published_run():
    rows = SUITES["rewardbench"].rows
    comparisons = rows_by_subset(rows)
    credits = np.concatenate([np.arange(rows[s]) < REWARDBENCH_23[s] for s in rows]).astype(float)
    got = values_of("rewardbench", comparisons, Outcome(credits))
    assert got == pytest.approx(REWARDBENCH, abs=1e-14)
    assert credits.mean() == pytest.approx(0.9293132328308208, abs=1e-15)
    # Without one subset neither its section nor the whole has a number.
    keep = [i for i, c in enumerate(comparisons) if c.subset != "donotanswer"]
    part = values_of("rewardbench", [comparisons[i] for i in keep], Outcome(credits[keep]))
    assert part.keys() == {"Chat", "Chat Hard", "Reasoning"}


def test_rewardbench_result_files(shared_data):
    folder = shared_data / "golden/RM-R1-Qwen2.5-Instruct-32B/reward_bench/score_result"
    small = json.loads((folder / "each_small_section_score.json").read_text())
    main = json.loads((folder / "main_score.json").read_text())
    main["RewardBench"] = main["avg_Result_each_section"]
    for column in SUITES["rewardbench"].metric.columns:
        assert weighted_mean(small, column.weights) == pytest.approx(main[column.name], abs=1e-15)


def test_rmb_result_files(shared_data):
    folder = shared_data / "golden/RM-R1-Qwen2.5-Instruct-32B/RMB"
    mean = json.loads((folder / "META_RESULT.json").read_text())
    found = {}
    for kind, goal in (("BoN_set", g) for g in rmb.LIST_ROWS):
        head, by_path = json.loads(
            (folder / f"{kind}_{goal}" / "score_result" / "Final_score.json").read_text()
        )
        lists = [c for c in load_suite("rmb_bon", shared_data) if c.subset == goal]
        paths = np.array([c.meta["category_path"] for c in lists])
        credits = np.zeros(len(lists))
        for path, accuracy in by_path.items():
            at = np.flatnonzero(paths == path)
            credits[at[: round(accuracy * len(at))]] = 1
        found[goal] = values_of("rmb_bon", lists, Outcome(credits))[goal]
        assert found[goal] == head["BoN Final Accuracy"] == mean[f"BoN {goal}"]
    four = {**{f"b{g}": v for g, v in found.items()},
            **{f"p{g}": mean[f"Pairwise {g}"] for g in found}}  # fmt: skip
    got = weighted_mean(four, dict.fromkeys(four, 1.0))
    assert got == pytest.approx(mean["Accuracy Averaged from Four Sections"], abs=1e-15)
    assert got == pytest.approx(0.7301355030914681, abs=1e-15)


def test_rmbench_of_a_published_run():
    domains = {
        "chat": 0.764857881136951, "math": 0.8055030455786599, "code": 0.6608187134502925,
        "safety": 0.9382716049382717,
    }  # fmt: skip
    levels = (0.7049334242582853, 0.8050964241257946, 0.8670585854440513)
    total = 0.7923628112760438
    assert np.mean(levels) == pytest.approx(total, abs=1e-15)
    # Rows whose nine cells have the domain's mean: 3 x 3 with the means of the levels overall.
    rows = SUITES["rmbench"].rows
    comparisons, credits = [], []
    for domain in rows:
        name = "safety" if domain.startswith("safety") else domain
        for i in range(3):
            for j in range(3):
                row = f"rmbench/{domain}/0"
                meta = {"row": row, "chosen": i, "rejected": j}
                comparisons.append(pair(f"{row}/{i}-{j}", domain, meta=meta))
                level = levels[0] if i < j else levels[1] if i == j else levels[2]
                credits.append(domains[name] + level - total)
    got = values_of("rmbench", comparisons, Outcome(np.array(credits)))
    want = domains | dict(zip(("hard", "normal", "easy"), levels, strict=True))
    assert got == pytest.approx(want | {"RM-Bench": total}, abs=1e-12)
    without_math = [i for i, c in enumerate(comparisons) if c.subset != "math"]
    part = values_of(
        "rmbench", [comparisons[i] for i in without_math], Outcome(np.array(credits)[without_math])
    )
    assert part.keys() == {"chat", "code", "safety"}


def test_safety_of_rmbench_is_pooled_over_rows():
    comparisons = [
        pair(f"{d}/{r}/{i}{j}", d, meta={"row": f"{d}/{r}", "chosen": i, "rejected": j})
        for d, rows in (("safety-refuse", 284), ("safety-response", 157))
        for r in range(rows)
        for i in range(3)
        for j in range(3)
    ]
    credits = np.array([float(c.subset == "safety-refuse") for c in comparisons])
    assert values_of("rmbench", comparisons, Outcome(credits))["safety"] == 284 / 441


def test_pandalm_of_a_published_judge(shared_data):
    comparisons = load_suite("pandalm", shared_data)
    rows = json.loads((shared_data / "pandalm/pandalm-7b-testset-v1.json").read_text())
    found = {row["idx"]: row["pandalm_result"] for row in rows}
    scores = {0: (5.0, 5.0), 1: (6.0, 5.0), 2: (5.0, 6.0)}
    totals = np.array([[scores[found[int(c.uid.split("/")[1])]] for c in comparisons]])
    got = values_of("pandalm", comparisons, Outcome(np.zeros(999), totals))
    want = {"three classes": 0.66767, "precision": 0.57383, "recall": 0.57497, "F1": 0.57431}
    assert {name: round(value, 5) for name, value in got.items()} == want


# Tables 8, 9 and 10 of the paper: sections, and the mean that it states. Rows of Table 8 whose
# cells are swapped or repeated in the paper are left out.
TABLE_8 = {
    "GRM-16B": (90.8, 74.3, 84.7, 81.8, 82.9), "GRM-27B-RFT": (94.7, 77.2, 87.0, 79.2, 84.5),
    "GRM-27B": (94.1, 78.3, 88.0, 83.8, 86.0), "GRM-27B @8": (95.3, 80.9, 89.3, 85.4, 87.7),
    "MetaRM@8": (95.5, 85.7, 88.5, 89.5, 89.8), "GRM-27B @32": (95.5, 81.8, 90.0, 86.9, 88.5),
    "MetaRM@32": (95.3, 85.7, 89.5, 91.0, 90.4), "R1": (97.1, 73.7, 73.3, 95.6, 84.9),
}  # fmt: skip
TABLE_9 = {
    "LLM-as-a-Judge": (66.0, 68.0, 52.8, 50.2, 56.8, 58.8),
    "BTRM-27B": (68.8, 73.2, 56.8, 68.8, 66.0, 66.7),
    "GRM-27B": (64.8, 68.8, 55.6, 50.1, 59.8, 59.8),
    "GRM-27B w/ reference": (98.2, 97.5, 99.8, 86.6, 75.9, 91.6),
    "GRM-27B @32": (65.5, 69.4, 56.0, 49.9, 61.0, 60.4),
    "MetaRM@32": (68.1, 70.0, 56.9, 50.8, 70.4, 63.2),
}
TABLE_10 = {  # help BoN, help pair, harm BoN, harm pair
    "LLM-as-a-Judge": (55.8, 78.5, 50.8, 73.9, 64.8), "BTRM-27B": (64.0, 83.0, 33.6, 51.0, 57.9),
    "GRM-27B-RFT": (58.4, 79.3, 54.2, 76.0, 67.0), "GRM-27B": (62.3, 80.5, 57.0, 76.1, 69.0),
    "GRM-27B @32": (63.9, 79.8, 58.0, 77.0, 69.7), "MetaRM@32": (64.2, 81.6, 58.0, 77.4, 70.3),
}  # fmt: skip


def printed(value, stated):
    """Whether a mean of rounded cells may have been printed as `stated`."""
    return abs(value - stated) <= 0.1 + 1e-9


def test_means_of_the_papers_tables():
    sections = ("Chat", "Chat Hard", "Safety", "Reasoning")
    for *cells, stated in TABLE_8.values():
        by_subset = {
            subset: cell
            for section, cell in zip(sections, cells, strict=True)
            for subset in rewardbench.SECTIONS[section]
        }
        mean = weighted_mean(by_subset, SUITES["rewardbench"].metric.columns[-1].weights)
        assert printed(mean, stated) and mean == pytest.approx(np.mean(cells))
    domains = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
    for *cells, stated in TABLE_9.values():
        by_subset = dict(zip(domains, cells, strict=True))
        mean = weighted_mean(by_subset, SUITES["ppe_correctness"].metric.columns[-1].weights)
        assert printed(mean, stated)
    for help_bon, help_pair, harm_bon, harm_pair, stated in TABLE_10.values():
        weights = SUITES["rmb_bon"].metric.columns[-1].weights
        means = [
            weighted_mean({"Helpfulness": a, "Harmlessness": b}, weights)
            for a, b in ((help_bon, harm_bon), (help_pair, harm_pair))
        ]
        assert printed(np.mean(means), stated)


def test_rewardbench_2_weights_its_six_subsets_equally():
    rows = {name: count for name, count in SUITES["rewardbench2"].rows.items()
            if name != "Ties"}  # fmt: skip
    comparisons = rows_by_subset(rows)
    totals = [[0.0] * 8] * len(comparisons)
    for half, right in (("ref", 1), ("tied", 3)):
        meta = {"half": half, "prompt": "0", "row": "rewardbench2/Ties/0"}
        rewards = tuple(float(i < right) for i in range(right + 3))
        comparisons.append(
            Comparison(f"rewardbench2/{half}:0", (Message("user", "q"),),
                       tuple("abcdef"[: right + 3]), rewards, "Ties", meta, several_best=right > 1)
        )  # fmt: skip
        totals.append([8.0, 7.0, 7.0, 1.0, 1.0, 1.0, np.nan, np.nan] if right > 1
                      else [9.0, 2.0, 2.0, 2.0] + [np.nan] * 4)  # fmt: skip
    credits = np.array([float(c.subset in ("Math", "Focus")) for c in comparisons])
    got = values_of("rewardbench2", comparisons, Outcome(credits, np.array([totals])))
    ties = 1 + 0.01 * np.tanh(6 / 1 - 1)
    assert got["Ties"] == pytest.approx(ties) and got["Math"] == 1 and got["Safety"] == 0
    assert got["mean"] == pytest.approx((2 + ties) / 6)
    with pytest.raises(ValueError, match="has one half"):
        values_of("rewardbench2", comparisons[:-1], Outcome(credits[:-1], np.array([totals[:-1]])))


# A coin on the real rows.


def within_3_standard_errors(values, expected):
    values = np.asarray(values, float)
    return abs(values.mean() - expected) <= 3 * scipy.stats.sem(values)


@pytest.mark.parametrize(
    ("suite", "folder", "floors"),
    [
        ("rewardbench", "rewardbench_partial", {"Reasoning": 0.5}),
        ("rmb_pairs", "", {"Helpfulness": 0.2144, "Harmlessness": 0.2191}),
        ("rmb_bon", "", {"Helpfulness": 0.3090, "Harmlessness": 0.3122}),
        ("rmbench", "", {"chat": 0.5, "code": 0.5, "safety": 0.5}),
        ("llmbar", "", {"Natural": 0.5, "Neighbor": 0.5}),
    ],
)
def test_floors_of_a_random_judge(shared_data, suite, folder, floors):
    comparisons = load_suite(suite, shared_data / folder)
    metric = metric_of(suite)
    items = metric.items(comparisons)
    chance = np.array([1 / c.n for c in comparisons])
    exact = values_of(suite, comparisons, Outcome(chance))
    assert {name: round(exact[name], 4) for name in floors} == floors
    rng = np.random.default_rng(3)
    picks = np.array([float(rng.integers(c.n) == c.best) for c in comparisons])
    values = metric.parts(comparisons, Outcome(picks))
    for column in metric.columns:
        if column.name in floors:
            for subset in column.weights:
                at = items.subsets == subset
                drawn = values[column.part][at]
                expected = metric.parts(comparisons, Outcome(chance))[column.part][at].mean()
                assert within_3_standard_errors(drawn, expected)


def test_floors_of_a_random_judge_in_both_orders(shared_data):
    comparisons = load_suite("judgebench", shared_data)
    rng = np.random.default_rng(5)
    metric = SUITES["judgebench"].metric
    two = rules.verdicts(rng.random((2, 350, 2)))
    games = tuple(rules.shares(game[None]) for game in two)
    values = metric.parts(comparisons, Outcome(np.zeros(350), games=games))[""]
    assert set(values) <= {0.0, 1.0} and within_3_standard_errors(values, 0.25)
    one = tuple(rules.shares(two[:1]) for _ in range(2))
    values = metric.parts(comparisons, Outcome(np.zeros(350), games=one))[""]
    assert within_3_standard_errors(values, 0.5)


def test_floor_of_random_scores_of_single_responses(shared_data):
    labels = np.array([c.label for c in load_suite("realmistake", shared_data)])
    scores = np.random.default_rng(6).integers(1, 11, size=900)
    error = np.sqrt(901 / (12 * 251 * 649))
    right, wrong = scores[labels == 1], scores[labels == 0]
    above = scipy.stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert abs(above - 0.5) <= 3 * error


# Items and columns.


def test_items_of_one_query_are_resampled_together():
    query = (Message("user", "same"),)
    comparisons = [pair(f"a{i}", "Helpfulness", messages=query) for i in range(4)]
    comparisons += [pair(f"b{i}", "Helpfulness") for i in range(2)]
    items = SUITES["rmb_pairwise"].metric.items(comparisons)
    assert items.clusters.tolist() == [0, 0, 0, 0, 1, 2]
    rows = [pair(f"c{i}", "Helpfulness", meta={"row": f"r{i // 2}"}) for i in range(6)]
    assert [row_of(c) for c in rows] == ["r0", "r0", "r1", "r1", "r2", "r2"]
    assert len(SUITES["rmb_pairs"].metric.items(rows).subsets) == 3


def test_one_query_is_one_piece_of_evidence():
    # 40 queries with 5 equal pairs each: an interval over 200 items would be too narrow.
    query = [(Message("user", f"q{i // 5}"),) for i in range(200)]
    comparisons = [pair(f"a{i}", "Helpfulness", messages=query[i]) for i in range(200)]
    comparisons += [pair(f"b{i}", "Harmlessness") for i in range(3)]
    credits = np.append(np.repeat(np.random.default_rng(8).integers(0, 2, 40), 5), [1, 1, 1.0])
    metric = SUITES["rmb_pairwise"].metric
    items = metric.items(comparisons)
    found = official.measure(metric.columns, items, [metric.parts(comparisons, Outcome(credits))])
    width = found["Helpfulness"][0].interval(0).half_width
    assert width == pytest.approx(1.96 * credits[:200:5].std() / 40**0.5, rel=0.05)


def test_columns_of_several_lines_are_paired():
    rng = np.random.default_rng(7)
    comparisons = rows_by_subset({"Helpfulness": 50, "Harmlessness": 30})
    a = rng.random(80)
    metric = SUITES["rmb_bon"].metric
    lines = [metric.parts(comparisons, Outcome(x)) for x in (a, a - 0.1)]
    lines.insert(1, {})
    found = official.measure(metric.columns, metric.items(comparisons), lines, num_resamples=50)
    assert found["mean"].keys() == {0, 2}
    draws = found["mean"][0].draws_BL - found["mean"][2].draws_BL
    assert np.allclose(draws, 0.1)
    means = [a[:50].mean(), a[50:].mean()]
    assert found["mean"][0].values_L[0] == pytest.approx(np.mean(means))
