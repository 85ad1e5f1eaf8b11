"""The numbers of the paper agree with each other, except where the paper does not."""

import numpy as np
import pytest

from grm_jax.evaluation import paper

# Rows whose printed mean is not that of its cells, as their notes say.
SLIPS = {
    ("table4", "RFT without hinted sampling"), ("table8", "BTRM-27B"), ("table8", "PairRM-27B"),
    ("table8", "CLoud"), ("table15", "GRM-27B without MATH"),
}  # fmt: skip
MEANS = {"table2": 4, "table3": 4, "table4": 4, "table8": 4, "table9": 5, "table10": 4,
         "table15": 4}  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_means_of_rows(name):
    slips = set()
    for row in paper.TABLES[name].rows:
        mean = np.mean(row.values[: MEANS[name]])
        if abs(mean - row.values[-1]) > 0.1 + 1e-9:
            slips.add((name, row.label))
            assert row.note, row.label
    assert slips == {slip for slip in SLIPS if slip[0] == name}


def test_rows_and_columns_fit():
    for table in paper.TABLES.values():
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels)
        for row in table.rows:
            assert len(row.values) == len(table.columns), (table.name, row.label)
            assert row.filled_by == paper.THEIRS or "python -m" in row.filled_by


def test_the_same_number_in_two_tables():
    at = {(t.name, r.label): r.values for t in paper.TABLES.values() for r in t.rows}
    for label in ("GRM-27B", "GRM-27B-RFT", "GRM-27B, Voting@32", "GRM-27B, MetaRM@32",
                  "BTRM-27B", "PairRM-27B", "CLoud"):  # fmt: skip
        rewardbench, _, correctness, rmb, _ = at["table2", label]
        assert at["table8", label][-1] == rewardbench
        assert at["table9", label][-1] == correctness
        assert at["table10", label][-1] == rmb
    for k in (8, 32):
        for method in ("Voting", "MetaRM"):
            row = at["table3", f"GRM-27B, {method}@{k}"]
            curve = {"Voting": "voting", "MetaRM": "guided"}[method]
            assert at["figure1", f"GRM-27B, {curve}, k = {k}"] == (row[-1],)
            assert at["figure4", f"GRM-27B, {curve}, k = {k}"] == (row[0],)


def test_what_popular_articles_get_wrong_is_said_where_the_value_is():
    notes = {row.label: row.note for row in paper.TABLES["table2"].rows}
    assert "69.12" in notes["GRM-27B"] and "not @8" in notes["GRM-27B, Voting@32"]
    (about,) = paper.TABLES["table2"].notes
    for text in ("128 A100 (not 228)", "4e-7", "Nemotron-4"):
        assert text in about
