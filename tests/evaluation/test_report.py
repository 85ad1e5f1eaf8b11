"""What a benchmark writes: tables of all suites, their notes, and what stays off pages."""

import dataclasses
import types

import pytest
import rich.console
from answers import EIGHT, K, pairs, suite_of

from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import bias, costs, protocols, report
from grm_jax.evaluation.differences import differences_table
from grm_jax.evaluation.lines import counted
from grm_jax.evaluation.tables import Column, Table
from grm_jax.sampling.config import DrawConfig
from grm_jax.text.prompts import Message


def test_single_responses_have_an_auc_for_the_blind_too():
    comparisons = [
        Comparison(f"s/{i}", (Message("user", "Right?"),), ("x" * (1 + i % 2),), (float(i % 2),),
                   f"t{i % 4 // 2}")
        for i in range(120)
    ]  # fmt: skip
    suite = suite_of("realmistake", comparisons, coverage="120 of 900 rows")
    (suite,) = counted([suite], EIGHT)
    table = report.suite_table(suite, [])
    cells = {row.label: [cell.value for cell in row.cells] for row in table.rows}
    assert cells["random"] == cells["first"] == [0.5, 0.5]
    assert cells["longest"] == [1.0, 1.0] and cells["shortest"] == [0.0, 0.0]
    one, vote = cells["random weights, one sample"], cells["Voting@8"]
    assert abs(one[0] - 0.8) < 0.06 and vote[0] > 0.95
    # Its texts are on no page, and the tables of choices leave it out.
    place = types.SimpleNamespace(path=lambda *_: pytest.fail("a private suite was written"))
    report.write_pages(place, [suite], EIGHT)
    assert not protocols.table([suite], EIGHT, []).rows
    assert not bias.table([suite], EIGHT, []).rows


def test_partial_rows_are_told_in_every_table():
    suite = suite_of("llmbar", pairs(20, "Natural") + pairs(8, "Manual"),
                     coverage="28 of 419 rows")  # fmt: skip
    other = suite_of("own", pairs(6), coverage="6 rows")
    suites = suite, other = counted([suite, other], EIGHT)
    notes = report.notes(suites, EIGHT, DrawConfig(k=K))
    tables = [
        report.main_table(suites, notes), differences_table(suites, EIGHT),
        report.suite_table(suite, notes), protocols.table(suites, EIGHT, notes),
        bias.table(suites, EIGHT, notes), costs.table(suites, EIGHT),
    ]  # fmt: skip
    for table in tables:
        texts = [table.title, *table.notes, *(row.section for row in table.rows)]
        assert any("28 of 419 rows" in text for text in texts), table.title
    few = report.notes(suites, EIGHT, DrawConfig(k=K, order_policy="balanced", max_orders=1))
    assert "orders of 28 comparisons are not balanced" in few[0]
    assert not any("not balanced" in note for note in notes)
    assert report.suite_table(other, notes) is None
    said = " ".join(tables[0].notes)
    for word in ("'sum'", "'uniform'", "'strict'", "'chance'", "'random'"):
        assert word in said
    # Sets that are missing have no number.
    (row,) = (row for row in tables[2].rows if row.label == "Voting@8")
    by_name = dict(zip([c.name for c in tables[2].columns], row.cells, strict=True))
    assert by_name["Natural"].value is not None and by_name["GPTOut"].value is None


def test_unclosed_thinking_has_a_name_of_its_own():
    suite = suite_of("own", pairs(6))
    (drawn,) = suite.drawn
    groups = [list(group) for group in drawn.groups]
    for group in groups[:3]:
        group[0] = dataclasses.replace(
            group[0], text="", scores=None, lenient_scores=None, correct=None,
            parse_reason="unclosed_thinking", thinking="Perhaps \\boxed{9, 1}",
        )  # fmt: skip
    thinking = dataclasses.replace(suite, drawn=(drawn._replace(groups=groups),))
    for one, share in ((suite, None), (thinking, 3 / (6 * K))):
        lines = counted([one], EIGHT)
        table = report.main_table(lines, report.notes(lines, EIGHT, DrawConfig(k=K)))
        names = [column.name for column in table.columns]
        assert ("unclosed" in names) is any("unclosed:" in note for note in table.notes)
        assert ("unclosed" in names) is (share is not None)
        (row,) = (row for row in table.rows if row.label.endswith("one sample"))
        if share is not None:
            assert row.cells[names.index("unclosed")].value == pytest.approx(share)
            (said,) = report.failure_lines(lines)
            assert f"one sample, {share:.1%} in unclosed thinking" in said


def test_samples_md_counts_by_the_rules_of_the_tables(tmp_path):
    """Three samples, two of them for the second response, whose sum is the smaller one."""
    suite = suite_of("own", pairs(1), k=3)
    (drawn,) = suite.drawn
    scores = [(9, 1), (4, 5), (4, 5)]
    groups = [
        [
            dataclasses.replace(
                t,
                scores=None,
                lenient_scores=tuple(own[i] for i in t.order),
                parse_reason="not_integer",
                correct=None,
            )  # fmt: skip
            for t, own in zip(drawn.groups[0], scores, strict=True)
        ]
    ]
    suite = dataclasses.replace(suite, drawn=(drawn._replace(groups=groups),))
    place = types.SimpleNamespace(path=tmp_path.joinpath)
    counting = dataclasses.replace(EIGHT, ks=(1, 3), k_metas=(1, 1), num_samples=3)
    for change, want in (
        ({}, "Voting@3: **no verdict**"),
        ({"parse": "lenient"}, "Voting@3: **Response 1**"),
        ({"parse": "lenient", "aggregation": "majority"}, "Voting@3: **Response 2**"),
    ):
        own = dataclasses.replace(counting, **change)
        report.write_pages(place, [suite], own)
        assert want in (tmp_path / "samples.md").read_text()


def test_tables_are_all_written_before_one_is_printed(tmp_path, monkeypatch, capsys):
    console = rich.console.Console()
    tables = {name: Table(f"a − {name}", (Column("n", "count"),), (), ()) for name in "bc"}

    def closed(*_, **__):
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", closed)
        with pytest.raises(BrokenPipeError):
            report.show(tables, tmp_path / "tables", console)
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"b", "c"}
    report.show(tables, tmp_path / "tables", console)
    out = capsys.readouterr().out
    assert 0 <= out.find("a − b") < out.find("a − c")
