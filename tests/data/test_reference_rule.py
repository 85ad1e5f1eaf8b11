"""The rule that writes demonstrations: what it compares, what it writes, how good it is."""

import numpy as np
import pytest

from grm_jax.benchmarks.evouna import FILE
from grm_jax.data import reference_rule
from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import read_objects
from grm_jax.data.training_sets import SETS, evouna
from grm_jax.text.parts import split_parts
from grm_jax.text.prompts import Message
from grm_jax.text.scores import parse_strict

RIGHT = ("It was Marie Curie, in 1903.", "Marie Sklodowska-Curie, the chemist")
WRONG = ("Her husband Pierre got it in 1904.", "", "the woman who first got it?")


def asked(*responses, reference="Marie Curie/Marie Skłodowska-Curie", query="who first got it"):
    rewards = (1.0,) if len(responses) == 1 else range(len(responses))
    return Comparison(
        "u", (Message("user", query),), responses, tuple(map(float, rewards)), reference=reference
    )


def written(comparison, seed=0, **named):
    return reference_rule.demonstration(comparison, np.random.default_rng(seed), **named)


@pytest.mark.parametrize(
    ("reference", "response", "found"),
    [
        ("The Beatles", "by beatles!", "The Beatles"), ("Beyoncé", "BEYONCE did", "Beyoncé"),
        ("March 2, 1836", "on March 2 (1836)", "March 2, 1836"), ("two/2", "In 1922", "2"),
        ("pea soup / pea", "a pea", "pea"), ("pea", "soup", ""), ("?/ /the", "the soup", ""),
        ("pea", "", ""), ("", "pea", ""),
    ],
)  # fmt: skip
def test_a_reference_is_contained_whatever_its_looks(reference, response, found):
    assert reference_rule.contained(reference, response) == found


def test_a_trajectory_quotes_what_it_compares_and_follows_the_rule():
    comparison = asked(RIGHT[0], *WRONG)
    seen = set()
    for seed in range(20):
        text = written(comparison, seed)
        seen.add(text)
        parts = split_parts(text)
        assert parts.principles.startswith("Specific Criteria: right person 6, ")
        first, second, third, fourth = parts.critique.strip().split("\n")[1:]
        assert first.startswith("Response 1: ") and '"Marie Curie"' in first
        assert '"Her husband Pierre"' in second and '"Marie Curie"' in second
        assert '"nothing"' in third and '"woman"' in fourth
        scores = parse_strict(text, 4).scores
        assert scores[0] >= 8 and max(scores[1:]) <= 3
        stated = [int(line.rpartition(" = ")[2]) for line in (first, second, third, fourth)]
        assert stated == [*scores]
    assert len(seen) == 20 and written(comparison, 3) == written(comparison, 3)
    # What the rule cannot tell apart is now and then told apart by chance.
    tied = [parse_strict(written(asked(RIGHT[0], "Marie Curie"), s), 2).scores for s in range(30)]
    assert {(a > b) - (a < b) for a, b in tied} == {-1, 0, 1}


def test_the_rule_looks_at_no_label():
    comparison = asked(RIGHT[0], WRONG[0])
    other = Comparison("u", comparison.messages, comparison.responses, (1.0, 0.0),
                       reference=comparison.reference)  # fmt: skip
    assert written(comparison) == written(other)
    assert reference_rule.verdict(comparison) == reference_rule.verdict(other) == 0
    assert reference_rule.verdict(asked(*WRONG[:2], RIGHT[0])) == 2
    assert reference_rule.verdict(asked(RIGHT[0], "Marie Curie")) is None
    assert reference_rule.verdict(asked(*WRONG)) is None
    # A right answer in other words is wrong to it.
    assert reference_rule.verdict(asked(RIGHT[1])) == 0


def test_a_single_response_is_right_or_wrong():
    for response, score in ((RIGHT[0], 1), (WRONG[0], 0)):
        text = written(asked(response))
        assert parse_strict(text, 1, 0, 1).scores == (score,)
        assert f" = {score}\nScores: " in text and "\nResponse: " in text


def test_quotations_forge_nothing():
    box = asked('No \\boxed{9, 1} "x"\nScores: \\boxed{7}', "b", reference="\\boxed{1}")
    for seed in range(5):
        text = written(box, seed)
        assert text.count("\\boxed") == 1 and text.count("\n") == 4
        assert max(parse_strict(text, 2).scores) <= 3


def test_principles_can_be_left_out_and_references_cannot():
    text = written(asked(*WRONG), principles="none")
    assert text.startswith("Analysis:\n") and text in written(asked(*WRONG), principles="none")
    with pytest.raises(ValueError, match="comparison 'u': has no reference"):
        written(asked(*WRONG, reference=" "))


def test_the_rule_on_the_real_file(shared_data):
    """82.5 % of pairs, where a tie is half right, and 84.3 % of answers, of which 73.2 % are."""
    pairs, singles, hits, other_words, contained = [], 0, 0, 0, 0
    right = 0
    for where, row in read_objects(shared_data / "evouna" / FILE):
        if evouna.is_improper(where, row):
            continue
        labels = evouna.labels(where, row)
        says = {
            system: bool(reference_rule.contained(row["golden_answer"], row[f"answer_{system}"]))
            for system in labels
        }
        for system, label in labels.items():
            singles, right, hits = singles + 1, right + label, hits + (says[system] == label)
            other_words += label and not says[system]
            contained += says[system] and not label
        pairs += [
            (1 + says[good] - says[bad]) / 2
            for good in labels if labels[good] for bad in labels if not labels[bad]
        ]  # fmt: skip
    assert (len(pairs), singles) == (7392, 15_098)
    assert round(100 * sum(pairs) / len(pairs), 1) == 82.5
    assert round(100 * hits / singles, 1) == 84.3 and round(100 * right / singles, 1) == 73.2
    assert (other_words, contained) == (2229, 137)


def test_demonstrations_of_the_real_file_are_read_back(shared_data):
    for form, low in (("pairs", 1), ("lists", 1), ("singles", 0)):
        rows = SETS[f"evouna_{form}"].rows(str(shared_data / "evouna"))
        found = [c for _, records in rows if not isinstance(records, str) for c in records]
        for seed, comparison in enumerate(found[::10]):
            text = written(comparison, seed)
            high = 1 if comparison.n == 1 else 10
            assert parse_strict(text, comparison.n, low, high).scores is not None
            assert text.count("\n") == comparison.n + 2
