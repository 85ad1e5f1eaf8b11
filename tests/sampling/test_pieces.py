"""Pieces of a comparison for judges of pairs and of single responses, and their sums."""

import dataclasses

import pytest
from builders import comparison, trajectory
from hypothesis import given
from hypothesis import strategies as st

from grm_jax.sampling.pieces import check_uids, merge, pieces, shown_together


def test_pairs_of_a_list_are_a_circle():
    assert shown_together(4, "pair") == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert shown_together(3, "single") == [(0,), (1,), (2,)]
    whole = comparison(n=4, best=2, reference="right", principles="fair")
    pairs = pieces(whole, "pair")
    assert [pair.uid for pair in pairs] == ["c [1, 2]", "c [2, 3]", "c [3, 4]", "c [4, 1]"]
    assert pairs[3].responses == ("c 3", "c 0") and pairs[3].rewards == (0.0, 0.0)
    assert [pair.winners for pair in pairs] == [(0, 1), (1,), (0,), (0, 1)]
    singles = pieces(whole, "single")
    assert [piece.responses for piece in singles] == [("c 0",), ("c 1",), ("c 2",), ("c 3",)]
    assert [piece.label for piece in singles] == [0, 0, 1, 0]
    assert all((p.reference, p.principles) == ("right", "fair") for p in pairs + singles)


@pytest.mark.parametrize(("n", "mode"), [(1, "list"), (5, "list"), (2, "pair"), (1, "single")])
def test_what_a_judge_reads_at_once_stays_as_it_is(n, mode):
    whole = comparison(n=n)
    drawn = [trajectory(sample=s, scores=(s,) * n, order=tuple(range(n))[::-1]) for s in range(2)]
    assert pieces(whole, mode) == [whole]
    assert merge(whole, mode, [drawn]) == drawn


def test_two_rows_share_no_uid_of_a_piece():
    rows = [comparison("x [2, 3]", n=2), comparison("y", n=3), comparison("x", n=3)]
    check_uids(rows, "list")
    check_uids(rows, "single")
    with pytest.raises(ValueError, match=r"'x \[2, 3\]' and 'x' both have a prompt that is stored"):
        check_uids(rows, "pair")


SCORES = st.sampled_from([(1, 0), (0, 1), (0.5, 0.5), (7, 3.25), None])


@given(st.data(), st.integers(2, 6), st.sampled_from(["pair", "single"]), st.integers(1, 3))
def test_samples_add_up_what_their_pieces_say(data, n, mode, k):
    whole = comparison(n=n, best=data.draw(st.integers(0, n - 1)))
    drawn = []
    for piece in pieces(whole, mode):
        own = []
        for s in range(k):
            strict, lenient = (data.draw(SCORES) for _ in range(2))
            order = tuple(data.draw(st.permutations(range(piece.n))))
            own.append(trajectory(
                piece.uid, s, strict and strict[: piece.n], order=order,
                lenient_scores=lenient and lenient[: piece.n], correct=None,
            ))  # fmt: skip
        drawn.append(own)
    if mode == "pair" and n == 2:
        assert merge(whole, mode, drawn) == drawn[0]
        return
    merged = merge(whole, mode, drawn)
    assert [t.sample for t in merged] == list(range(k))
    for s, got in enumerate(merged):
        for name in ("scores", "lenient_scores"):
            points, unread = dict.fromkeys(whole.responses, 0), False
            for piece, own in zip(pieces(whole, mode), drawn, strict=True):
                said = getattr(own[s], name)
                if said is None:
                    unread = True
                    continue
                for place, j in enumerate(own[s].order):
                    points[piece.responses[j]] += said[place]
            wanted = None if unread else tuple(points[response] for response in whole.responses)
            assert getattr(got, name) == wanted
        best = whole.responses[whole.best]
        if got.scores is None:
            assert not got.correct and got.parse_reason.endswith("no_box")
        else:
            by_name = dict(zip(whole.responses, got.scores, strict=True))
            rest = [by_name[name] for name in whole.responses if name != best]
            assert got.correct == (by_name[best] > max(rest))


def test_a_winner_of_both_of_its_pairs_has_two_votes():
    whole = comparison(n=3, best=1)
    drawn = [
        [trajectory("c [1, 2]", scores=(1, 0), order=(1, 0), text="second")],
        [trajectory("c [2, 3]", scores=(1, 0), text="first", truncated=True)],
        [trajectory("c [3, 1]", scores=(0.5, 0.5), text="both", finish="length")],
    ]
    (got,) = merge(whole, "pair", drawn)
    assert got.scores == (0.5, 2, 0.5) and got.correct and got.parse_reason == "ok"
    assert (got.uid, got.order, got.token_ids, got.logprobs) == ("c", (0, 1, 2), (), ())
    assert got.finish == "length" and got.truncated and got.thinking == ""
    assert got.text == (
        "[Responses 2 and 1]\nsecond\n\n[Responses 2 and 3]\nfirst\n\n[Responses 3 and 1]\nboth"
    )


def test_a_piece_without_scores_leaves_its_sample_without():
    whole = comparison(n=3)
    silent = trajectory("c [2, 3]", scores=None, lenient_scores=(0, 1), thinking="well")
    drawn = [[trajectory("c [1, 2]")], [silent], [trajectory("c [3, 1]")]]
    (got,) = merge(whole, "pair", drawn)
    assert got.scores is None and got.correct is False
    assert got.parse_reason == "responses 2 and 3: no_box"
    assert got.lenient_scores == (7 + 3, 3 + 0, 1 + 7)
    assert "[Responses 2 and 3]\nwell" in got.thinking


def test_ties_of_people_have_no_correct_sample():
    whole = comparison(n=3, rewards=(1.0, 1.0, 0.0), several_best=True)
    drawn = [[trajectory(piece.uid)] for piece in pieces(whole, "pair")]
    assert merge(whole, "pair", drawn)[0].correct is None
    single = dataclasses.replace(whole, rewards=(1.0, 1.0, 1.0))
    assert [piece.label for piece in pieces(single, "single")] == [1, 1, 1]
