"""Steps and arms over seeds."""

import numpy as np
import pytest
import scipy.stats

from grm_jax.evaluation import effects, report, statistics
from grm_jax.evaluation.lines import CountingRules
from grm_jax.evaluation.method import Method
from grm_jax.evaluation.results import Measured, Result
from grm_jax.sampling.config import DrawConfig


@pytest.mark.parametrize("kinds", [(None, None), ("cyclic", "cyclic"), (None, "cyclic")])
def test_seeds_whose_balanced_orders_mean_something_else_are_told(tmp_path, kinds):
    (tmp_path / "tables").mkdir()
    method = Method("grpo", kind="greedy")
    lines = {method: Measured("GRPO, greedy", np.array([1.0, 0.0]), {}, {})}
    by_seed = {
        seed: Result("s", "", None, "c", {}, [f"{seed}-0", f"{seed}-1"], [0, 1], ["n2"] * 2,
                     {"ks": [1]} | ({"orders": kind} if kind else {}), lines)
        for seed, kind in enumerate(kinds)
    }  # fmt: skip
    assert effects._write_suite(tmp_path, "s", by_seed, [0, 1], "c", (), False) == {0, 1}
    told = "several kinds: of before or unknown on seeds 0; cyclic on seeds 1"
    for name in ("seeds", "ablation"):
        text = (tmp_path / "tables" / f"{name}.md").read_text()
        assert (told in text) == (len(set(kinds)) > 1)


@pytest.mark.parametrize(
    ("policy", "arms", "told"),
    [("balanced", {}, True), ("random", {}, False), ("both", {"a": "grpo.kl_coef=0"}, False),
     ("random", {"b": "grpo.kl_coef=0; benchmark.draw.order_policy=balanced"}, True)],
)  # fmt: skip
def test_results_say_how_balanced_orders_were_drawn(tmp_path, policy, arms, told):
    draw = DrawConfig(k=2, order_policy=policy)
    place = report.Place(tmp_path.joinpath, print, None, draw, "c", arms, None)
    counting = CountingRules((1,), (1,), 1, "sum", "half", "chance", "strict", True, 2, 0)
    rule = report.stored_rules(place, counting)
    assert rule.get("orders") == ("cyclic" if told else None) and rule["ks"] == (1,)


def test_effects_are_paired_by_seed_and_comparison():
    """Two seeds of 3 and 2 comparisons; every number by hand."""
    greedy, one, vote = Method("grpo", kind="greedy"), Method("grpo"), Method("grpo", k=2)
    arm_greedy, arm_vote = Method("grpo", "kl_0", "greedy"), Method("grpo", "kl_0", k=2)

    def result(seed, of_lines):
        lines = {
            method: Measured(method.label(named=False), np.array(own, np.float64), {}, {})
            for method, own in of_lines.items()
        }
        count = len(next(iter(of_lines.values())))
        return Result("small_world", "", None, "c", {"kl 0": "grpo.kl_coef=0.0"},
                      [f"{seed}-{i}" for i in range(count)],
                      list(range(count)), ["n2"] * count, {"ks": [1, 2], "seed": seed},
                      lines)  # fmt: skip

    nan = float("nan")
    first = result(0, {
        greedy: [1, 0, 0, nan], one: [1, 0.5, 0, nan], vote: [1, 1, 0, nan],
        arm_greedy: [0, 0, 0, nan], arm_vote: [1, 1, 1, nan],
    })  # fmt: skip
    second = result(1, {
        greedy: [1, 1], one: [1, 1], vote: [0, 1], arm_greedy: [0, 1], arm_vote: [1, 1],
    })  # fmt: skip
    lines = effects.over_seeds([first, second])
    difference = lines.difference(vote, greedy)
    assert difference.value == pytest.approx((1 / 3 - 1 / 2) / 2)
    assert difference.low < difference.value < difference.high
    assert lines.seeds_above(vote, greedy) == 1
    listed = ["Voting@2 − GRPO, greedy", "full − kl 0: Voting@2", "never measured"]
    table, shown = effects.ablation_table("small_world", [first, second], ["note"], listed)
    at = {(row.section, row.label): row.cells for row in table.rows}
    assert at["steps", "Voting@2 − GRPO, greedy"][2].value == pytest.approx(-1 / 12)
    full = at["full − kl 0", "GRPO, greedy"]
    assert [full[i].value for i in (0, 1, 2)] == pytest.approx([2 / 3, 1 / 4, 5 / 12])
    assert full[3].value == full[2].low
    assert full[6].value == 2 and full[7].value == pytest.approx(0.699)
    # Both p-values of what was listed; three were, so they are tripled or doubled.
    p_values = {key: (cells[4].value, cells[5].value) for key, cells in at.items()}
    small, large = sorted(
        p_values[key] for key in (("steps", "Voting@2 − GRPO, greedy"), ("full − kl 0", "Voting@2"))
    )
    assert small[1] == pytest.approx(min(1.0, 3 * small[0]))
    assert large[1] == pytest.approx(min(1.0, max(small[1], 2 * large[0])))
    assert p_values["full − kl 0", "GRPO, greedy"][1] is None
    test = scipy.stats.ttest_1samp([1 / 3, 1 / 2], 0.0)
    assert p_values["full − kl 0", "GRPO, greedy"][0] == pytest.approx(test.pvalue)
    notes = " ".join(table.notes)
    assert "config.ablate.listed named in advance, 3;" in notes
    assert "with p counted as 1: never measured" in notes
    plain, _ = effects.ablation_table("small_world", [first, second], [])
    assert any("no p is corrected" in note for note in plain.notes)
    assert at["full − kl 0", "Voting@2"][2].value == pytest.approx((-1 / 3 - 1 / 2) / 2)
    assert len(shown) == len(table.rows) == 4

    # Worlds have comparisons of their own; a benchmark has the same ones for every seed.
    only = second._replace(lines={vote: second.lines[vote]})
    for uids in (["1-0", "1-1"], ["2-0", "2-1"]):
        values = [np.array([[0.0, 1.0]])] * 2
        want = statistics.over_seeds(
            values, clusters=[[0, 1]] * 2, same_items=uids == second.uids
        )  # fmt: skip
        got = effects.over_seeds([only, only._replace(uids=uids)])
        assert got.means.interval(0) == want.interval(0)
        assert (want.interval(0).half_width > 0) == (uids == second.uids)

    other = second._replace(config="d")
    with pytest.raises(ValueError, match="measured with other configs"):
        effects.over_seeds([first, other])
    fewer = second._replace(lines={k: v for k, v in second.lines.items() if k.plain})
    assert effects.missing({0: first, 1: fewer}) == ["kl 0 (seeds 0 only)"]
    assert effects.missing({0: first, 1: second}) == []
    # An arm of this name that changes something else is another arm.
    redefined = second._replace(arms={"kl 0": "grpo.kl_coef=0.01"})
    assert effects.missing({0: first, 1: redefined}) == ["kl 0 (not the same arm on every seed)"]
    assert all(method.plain for method in effects.over_seeds([first, redefined]).at)
