"""The paper's tables with ours beside them, and two runs compared."""

import json
import re

import numpy as np
import pytest
from builders import read_table

from configs import small_world
from grm_jax.benchmarks import SUITES, rewardbench, rules
from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import paper, results, statistics
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite, counted, group
from grm_jax.evaluation.method import Method
from grm_jax.models.variants import VARIANTS
from grm_jax.text.prompts import Message
from tools import tables
from tools.bench.harness import judge

K = 4
DOMAINS = [column.name for column in paper.TABLES["table9"].columns[:5]]
RULES = CountingRules(
    ks=(1, 2, 4), k_metas=(1, 1, 2), num_subsets=8, aggregation="sum", tie_policy="strict",
    parse_policy="wrong", parse="strict", stratified=True, num_samples=K, seed=0,
)  # fmt: skip


def rows_of(suite, subsets, count):
    found = []
    for subset in subsets:
        for i in range(count):
            rewards = (1.0, 0.0) if i % 2 else (0.0, 1.0)
            query = f"{subset}: question {i // 2}"  # two rows a query
            found.append(
                Comparison(f"{suite}/{subset}/{i}", (Message("user", query),), ("a", "b"),
                           rewards, subset)
            )  # fmt: skip
    return found


def measured(folder, name, comparisons, accuracy, seed, *, model="gemma2_27b", coverage="",
             of="grpo"):  # fmt: skip
    """Writes results of a stub judge, greedy and with K samples; returns the lines."""
    drawn = []
    for greedy in (True, False):
        stage = f"{name}-{accuracy}-{seed}-{greedy}"
        groups = group(comparisons, judge(comparisons, stage, 1 if greedy else K, accuracy, seed))
        drawn.append(Drawn(of, "self", greedy, groups, model=VARIANTS[model]))
    suite = Suite(name, coverage, comparisons, tuple(drawn))
    (suite,) = counted([suite], RULES)
    results.write_results(folder.joinpath, [suite], {"tie_policy": "strict"}, config="c", arms={})
    return suite.at


@pytest.fixture
def suites():
    subsets = list(rewardbench.ROWS)
    return {
        "rewardbench": rows_of("rewardbench", subsets, 4),
        "ppe_preference": rows_of("ppe", ["all"], 60),
    }


def test_ours_stands_beside_the_papers(tmp_path, suites, capsys):
    lines = measured(tmp_path / "run", "rewardbench", suites["rewardbench"], 0.8, 1,
                     coverage="92 of 2985 rows")  # fmt: skip
    tables.main(["--table=table8", f"--workdirs={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"])
    table = read_table(tmp_path / "out/table8.json")
    names = [(column.group, column.name) for column in table.columns]
    at = {row.label: dict(zip(names, row.cells, strict=True)) for row in table.rows}
    own = lines[Method("grpo", kind="greedy")]
    for section in (*rewardbench.SECTIONS, "RewardBench"):
        cell, expected = at["GRM-27B"][section, "run (27.2B)"], own.interval(section)
        assert (cell.value, cell.low, cell.high) == expected
        gap = at["GRM-27B"][section, "run − paper"].value
        stated = at["GRM-27B"][section, "paper"].value
        assert gap == pytest.approx(expected.value - stated)
    assert at["GRM-27B"]["RewardBench", "paper"].value == 0.86
    # Of other models the paper's values stand alone; the one of 16B is none of 27B.
    for label in ("DeepSeek-R1-0120 *", "GRM-16B", "GRM-671B *", "GRM-27B, Voting@32 *"):
        assert at[label]["RewardBench", "run (27.2B)"].value is None
    notes = " ".join(table.notes)
    assert "run, rewardbench: 92 of 2985 rows" in notes and "needs the released weights" in notes
    assert "--config=configs/deepseek_grm_16b.py" in notes and "swapped" in notes
    shown = capsys.readouterr().out
    assert "Table 8: RewardBench" in shown and "86.0" in shown


@pytest.mark.parametrize("of", ["rft", "grpo"])
def test_votes_stand_in_the_row_of_the_stage_that_voted(tmp_path, suites, of):
    """The last stage of a run votes without its name: of RFT alone these are no votes of GRPO."""
    lines = measured(tmp_path / "run", "rewardbench", suites["rewardbench"], 0.8, 1, of=of)
    workdir = tables.read("run", tmp_path / "run")
    column = paper.TABLES["table8"].columns[-1]
    votes = lines[Method(of, k=4)].interval("RewardBench")
    for stage in ("rft", "grpo"):
        row = paper.Row("-", (), (Method(stage, k=4),))
        assert tables.our_value(column, row, workdir) == (votes if stage == of else None)


def test_means_of_several_suites_want_all_of_them(tmp_path, suites):
    folder = tmp_path / "run"
    parts = {"rewardbench": suites["rewardbench"], "ppe_preference": suites["ppe_preference"],
             "ppe_correctness": rows_of("ppe_correctness", DOMAINS, 10),
             "rmb_bon": rows_of("bon", ["Helpfulness", "Harmlessness"], 20)}  # fmt: skip
    lines = {name: measured(folder, name, rows, 0.7, 2) for name, rows in parts.items()}
    greedy = Method("grpo", kind="greedy")
    table = paper.TABLES["table2"]

    def value():
        workdir = tables.Workdir("run", results.read_results(folder))
        return tables.our_value(table.columns[-1], table.row(greedy), workdir)

    assert value() is None
    rows = rows_of("pairwise", ["Helpfulness", "Harmlessness"], 30)
    lines["rmb_pairwise"] = measured(folder, "rmb_pairwise", rows, 0.6, 3)
    one = {
        name: own[greedy].interval(column)
        for (name, own), column in zip(
            lines.items(), ("RewardBench", "accuracy", "mean", "mean", "mean"), strict=True
        )
    }
    rmb = (one["rmb_bon"].value + one["rmb_pairwise"].value) / 2
    four = [one[name].value for name in ("rewardbench", "ppe_preference", "ppe_correctness")]
    found = value()
    assert found.value == pytest.approx(np.mean([*four, rmb]))
    halves = [one[name].half_width * (1 if "rmb" not in name else 0.5) / 4 for name in one]
    assert found.half_width == pytest.approx(np.sqrt(np.sum(np.square(halves))))


def test_two_runs_are_compared_item_by_item(tmp_path, suites, capsys):
    rows = suites["ppe_preference"]
    for seed, name in ((1, "one"), (2, "two")):
        measured(tmp_path / name, "ppe_preference", rows, 0.5 if seed == 1 else 0.9, seed)
    a, b = (tables.Workdir(n, results.read_results(tmp_path / n)) for n in ("one", "two"))
    (table,) = tables.compared(a, b).values()
    clusters = rules.numbered([c.messages for c in rows])
    for row in table.rows:
        x, y = (
            line.credits_C for w in (a, b)
            for method, line in w.results["ppe_preference"].lines.items()
            if (method.section, line.label) == (row.section, row.label)
        )  # fmt: skip
        expected = statistics.paired_difference(x, y, clusters=clusters)
        mine, theirs, difference, p, exact = row.cells
        assert (mine.value, theirs.value) == (x.mean(), y.mean())
        assert (difference.value, difference.low, difference.high) == expected[:3]
        assert p.value == expected.p_value
        if row.label == "GRPO, greedy":
            assert exact.value == statistics.mcnemar(x, y) < 0.05
        if row.label == "GRPO, one sample":
            assert exact.value is None, "means over samples are no outcomes"
    tables.main([f"--workdirs={tmp_path / 'one'},{tmp_path / 'two'}"])
    shown = capsys.readouterr().out
    assert "one (27.2B)" in shown and "McNemar" in shown and "without a value" in shown


def test_what_cannot_be_compared_is_said(tmp_path, suites):
    rows = suites["ppe_preference"]
    for name, own in (("a", rows), ("b", rows[:-1]), ("c", rows[::-1])):
        measured(tmp_path / name, "ppe_preference", own, 0.5, 1)
    measured(tmp_path / "d", "rewardbench", suites["rewardbench"], 0.5, 1)

    def message(argv):
        with pytest.raises(ValueError) as error:
            tables.main(argv)
        return str(error.value)

    folder = str(tmp_path)
    shorter = message([f"--workdirs={folder}/a,{folder}/b"])
    assert f"{rows[-1].uid!r}, are in a and not in b" in shorter
    assert "in other orders" in message([f"--workdirs={folder}/a,{folder}/c"])
    assert "a has results on ['ppe_preference']" in message([f"--workdirs={folder}/a,{folder}/d"])
    assert "'table99' is none of" in message(["--table=table99"])
    assert "takes two, got 1" in message(["--table=compare", f"--workdirs={folder}/a"])
    assert "no results/*.json" in message([f"--workdirs={folder}/nothing"])
    assert "--workdirs is missing" in message(["--suites=rewardbench"])
    assert "is named twice" in message([f"--workdirs={folder}/a,{folder}/../{tmp_path.name}/a"])


def test_suites_that_two_runs_share_are_compared_without_the_others(tmp_path, suites, capsys):
    rows = suites["ppe_preference"]
    for seed, name in ((1, "one"), (2, "two")):
        measured(tmp_path / name, "ppe_preference", rows, 0.7, seed)
        world = rows_of(f"world {seed}", ["all"], 20)
        measured(tmp_path / name, "small_world", world, 0.7, seed)
    both = f"--workdirs={tmp_path / 'one'},{tmp_path / 'two'}"
    with pytest.raises(ValueError, match=r"suite small_world: 20 comparisons.* with --suites"):
        tables.main([both])
    tables.main([both, "--suites=ppe_preference", "--table=compare"])
    shown = capsys.readouterr().out
    assert "one − two: ppe_preference" in shown and "small_world" not in shown
    tables.main([both, "--suites= ppe_preference", "--table=compare", f"--out={tmp_path}/out"])
    assert (tmp_path / "out/compare_ppe_preference.md").exists()
    with pytest.raises(ValueError, match=r"one has results on .*, not on \['rmb_bon'\]"):
        tables.main([both, "--suites=rmb_bon,ppe_preference"])


def test_workdirs_are_called_by_what_tells_them_apart(tmp_path, suites):
    paths = [tmp_path / name for name in ("mine/seed_1", "theirs/seed_1", "theirs/seed_2")]
    for path in paths:
        measured(path, "ppe_preference", suites["ppe_preference"][:4], 0.7, 1)
    for chosen, names in (
        (paths[1:], ["seed_1", "seed_2"]), (paths[:2], ["mine/seed_1", "theirs/seed_1"])
    ):  # fmt: skip
        assert [workdir.name for workdir in tables.open_workdirs(chosen, [])] == names


def test_export_for_the_leaderboard(tmp_path, suites):
    rows = suites["rewardbench"]
    lines = measured(tmp_path / "run", "rewardbench", rows, 0.7, 1)
    common = [f"--workdirs={tmp_path / 'run'}", "--export=rewardbench"]
    tables.main([*common, "--line=Voting@4", f"--out={tmp_path / 'out'}"])
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert [*record][:3] == ["model", "model_type", "chat_template"]
    assert {*record} - {*rewardbench.ROWS} == {"model", "model_type", "chat_template"}
    credits = lines[Method("grpo", k=4)].credits_C
    for subset in rewardbench.ROWS:
        own = [credit for credit, c in zip(credits, rows, strict=True) if c.subset == subset]
        assert record[subset] == pytest.approx(np.mean(own))
    with pytest.raises(ValueError, match="is none of"):
        tables.main([*common, "--line=Voting@64", f"--out={tmp_path / 'out'}"])
    measured(tmp_path / "run", "rewardbench", rows, 0.7, 1, coverage="92 of 2985 rows")
    with pytest.raises(ValueError, match="is not whole"):
        tables.main([*common, "--line=Voting@4", f"--out={tmp_path / 'out'}"])


def test_ranks_are_those_of_the_paper():
    made, count = tables.make("ranks", [])
    table = made["ranks"]
    printed = {row.label: row.cells[0].value for row in table.rows}
    assert count == 0 and printed == {
        "LLM-as-a-Judge": 4.5, "BTRM-27B": 3.5, "CLoud": 3.5, "PairRM-27B": 2.75,
        "GRM-27B-RFT": 4.0, "GRM-27B": 2.75,
    }  # fmt: skip


def test_every_table_is_named_and_printed(capsys):
    tables.main(["--list"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"table2", "table3", "table4", "table8", "table9", "table10", "table11", "table12",
            "table13", "table15", "figure1", "figure4", "figure7"} <= {*names}  # fmt: skip
    tables.main([f"--table={','.join([*paper.TABLES, *paper.ALIASES, 'spread'])}"])
    assert capsys.readouterr().out.count("needs the released weights") >= len(paper.TABLES) - 2


def test_arms_of_the_paper_are_those_of_the_configs():
    ours = [own for table in paper.TABLES.values() for row in table.rows for own in row.ours]
    named = {own.arm for own in ours if own.arm}
    assert len(named) == 5 and named <= {*small_world.get_config().ablate.arms}


@pytest.mark.parametrize("name", paper.TABLES)
def test_the_command_that_fills_a_table_measures_its_suites(name):
    table = paper.TABLES[name]
    filled, _ = tables.filled(table, [])
    commands = [note for note in filled.notes if note.startswith("to fill")]
    assert commands
    for command in commands:
        (suites,) = re.findall(r"--config.benchmark.suites=(\S+)", command)
        assert set(suites.split(",")) == {part[0] for c in table.columns for part in c.parts}
        assert set(suites.split(",")) <= set(SUITES)
