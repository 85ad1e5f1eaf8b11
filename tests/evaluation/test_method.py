"""Rows by name: where they stand, and what they are called."""

from grm_jax.evaluation.method import Method, title, voter


def test_a_method_has_one_section_and_one_label():
    for method, section, label in (
        (Method("longest", kind="blind"), "content-blind baselines", "longest"),
        (Method("pairrm", kind="scalar"), "greedy", "PairRM"),
        (Method("cold_start", kind="greedy"), "greedy", "cold start, greedy"),
        (Method("grpo"), "k samples", "GRPO, one sample"),
        (Method("grpo", k=8), "k samples", "GRPO, Voting@8"),
        (Method("rft", "kl_0", "guided", 4), "kl 0", "RFT, MetaRM@4"),
        (Method("llm_judge", k=2), "k samples", "LLM-as-a-Judge, Voting@2"),
        (Method("grpo", kind="guided", k=8, rule="k_meta: 1"), "k_meta: 1", "GRPO, MetaRM@8"),
    ):
        assert (method.section, method.label()) == (section, label)
    assert Method("grpo", k=8).label(named=False) == "Voting@8"
    assert Method("grpo").label(named=False) == "GRPO, one sample"
    assert title("kl_0") == "kl 0"


def test_the_last_sampled_stage_of_the_run_votes():
    arm, rule = Method("rft", "kl_0"), Method("base", rule="k_meta: 1")
    own = [Method("rft"), Method("grpo"), Method("base", kind="greedy"), Method("cloud"), arm, rule]
    assert voter(own) == "grpo" and voter([Method("grpo"), Method("rft")]) == "rft"
    assert voter([Method("grpo", kind="greedy"), Method("cloud")]) is None
