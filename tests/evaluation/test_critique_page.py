"""critiques.html: its verdicts are those of the tables, and it works in a real Chromium."""

import dataclasses
import json
import re
import socket
import types

import numpy as np
import pytest

from grm_jax.data.comparison import Comparison
from grm_jax.evaluation import report
from grm_jax.evaluation.critique_page import RESULTS, critique_page, suite_items
from grm_jax.evaluation.lines import CountingRules, Drawn, Suite, count, group
from grm_jax.text.prompts import Message
from grm_jax.text.scores import is_correct
from tests.harness.browser import Browser, executable
from tools.bench.harness import judge

K = 4
RULES = CountingRules(
    ks=(1, 2, 4), k_metas=(1, 1, 2), num_subsets=4, aggregation="sum", tie_policy="uniform",
    parse_policy="wrong", parse="strict", stratified=True, num_samples=K, seed=0,
)  # fmt: skip
HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'><!-- {{script}}"
    " \u2028\u2029 \u202e right to left \x00 \\boxed{1, 10} \"quoted\" 'too' &lt; 請 🦜"
)


def comparisons(count, prefix, n=2):
    found = []
    for i in range(count):
        rewards = [0.0] * n
        rewards[i % n] = 1.0
        texts = tuple(f"answer {j} to {prefix} {i}" for j in range(n))
        found.append(
            Comparison(f"{prefix}/{i}", (Message("user", f"question {prefix} {i}"),), texts,
                       tuple(rewards), f"part {i % 3}")
        )  # fmt: skip
    return found


def suite_of(name, rows, accuracy=0.5, k=K):
    drawn = []
    for greedy in (True, False):
        own = judge(rows, "greedy" if greedy else "sampled", 1 if greedy else k, accuracy, 1)
        groups = group(rows, own)
        rng = np.random.default_rng(3)
        meta = None if greedy else [rng.normal(size=len(own)).tolist() for own in groups]
        drawn.append(Drawn("grpo", "self", greedy, groups, meta))
    return Suite(name, "", rows, tuple(drawn))


def changed(suite, c, s, **fields):
    """The suite with other fields of the s-th sample of a comparison."""
    groups = [list(group) for group in suite.drawn[1].groups]
    groups[c][s] = dataclasses.replace(groups[c][s], **fields)
    drawn = suite.drawn[1]._replace(groups=groups)
    return dataclasses.replace(suite, drawn=(suite.drawn[0], drawn))


def written(tmp_path, suites, counting=RULES):
    report.write_pages(types.SimpleNamespace(path=tmp_path.joinpath), suites, counting)
    return tmp_path / "critiques.html"


def records(path):
    (text,) = re.findall(
        r'<script type="application/json" id="records">(.*?)</script>', path.read_text(), re.S
    )
    return json.loads(text)


@pytest.mark.parametrize("parse", ["strict", "lenient"])
def test_verdicts_are_those_of_the_tables(parse):
    counting = dataclasses.replace(RULES, parse=parse)
    suite = suite_of("small_world", comparisons(60, "s", n=3))
    for c in range(10):  # some without scores, for one parser or for both
        silent = {"scores": None, "parse_reason": "no_box", "correct": False}
        suite = changed(suite, c, c % K, **silent)
        suite = changed(suite, c, (c + 1) % K, **silent, lenient_scores=None)
    for s in range(K):
        suite = changed(suite, 20, s, **silent, lenient_scores=None)
        suite = changed(suite, 21, s, scores=(5, 5, 5), lenient_scores=(5, 5, 5))
    items, note = suite_items(suite, counting, 10_000)
    assert note == "small_world: 60 of 60 comparisons; texts of 4 of 4 samples"
    credits = {line.label: line.credits_C for line in count(suite, counting)}
    seen = set()
    for c, item in enumerate(items):
        votes = {}
        for one in item.drawn.values():
            votes |= one.votes
        assert list(votes) == ["Voting@4", "MetaRM@4", "GRPO, greedy"]
        for label, vote in votes.items():
            credit = credits[label][c]
            seen.add(vote.result)
            assert {"right": credit == 1, "wrong": credit == 0, "tie": 0 < credit < 1,
                    "none": credit == 0}[vote.result]  # fmt: skip
        drawn = item.drawn["GRPO, 4 samples"]
        silent = sum(sample.scores is None for sample in drawn.samples)
        assert votes["Voting@4"].voters == K - silent
        kept = [sample for sample in drawn.samples if sample.kept]
        assert len(kept) == min(2, K - silent)
        if kept:
            rest = [s.meta for s in drawn.samples if not s.kept and s.scores]
            assert min(s.meta for s in kept) > max(rest, default=-9)
        for sample, own in zip(drawn.samples, suite.drawn[1].groups[c], strict=True):
            if own.scores is not None:
                assert sample.scores == own.original_scores()
                correct = is_correct(own.original_scores(), suite.comparisons[c].rewards)
                assert (sample.result == "right") == correct
            assert "".join(sample.parts) == own.text
    assert seen == {"right", "wrong", "tie", "none"} <= {*RESULTS}


def test_disagreement_is_the_share_that_would_choose_another():
    suite = suite_of("small_world", comparisons(1, "s"))
    for s, scores in enumerate([(9, 1), (9, 1), (4, 5), (5, 5)]):
        order = (1, 0) if s == 1 else (0, 1)
        shown = tuple(scores[i] for i in order)
        suite = changed(suite, 0, s, order=order, scores=shown, lenient_scores=shown)
    (item,), _ = suite_items(suite, RULES, 100)
    drawn = item.drawn["GRPO, 4 samples"]
    assert drawn.disagreement == 0.25 and drawn.votes["Voting@4"].totals == (27, 12)
    assert [sample.result for sample in drawn.samples] == ["right", "right", "wrong", "tie"]


def test_what_is_left_out_is_told_and_counts():
    suite = suite_of("small_world", comparisons(50, "s"))
    items, note = suite_items(suite, RULES, 20)
    assert note == "small_world: 20 of 50 comparisons; texts of 1 of 4 samples"
    some, _ = suite_items(suite, RULES, 150)
    assert len(some) == 50
    for item in some:
        samples = item.drawn["GRPO, 4 samples"].samples
        shown = [sample.result for sample in samples if sample.parts is not None]
        assert len(shown) == 2 and item.drawn["GRPO, 4 samples"].votes["Voting@4"].voters == K
        mixed = len({sample.result == "right" for sample in samples}) == 2
        assert (len({result == "right" for result in shown}) == 2) == mixed


def test_no_text_of_a_private_suite(tmp_path):
    single = comparisons(3, "secret", n=1)
    path = written(tmp_path, [suite_of("realmistake", single), suite_of("own", single[:1])])
    assert {item["suite"] for item in records(path)["items"]} == {"own"}
    assert "secret 1" not in path.read_text()
    path.unlink()
    written(tmp_path, [suite_of("realmistake", single)])
    assert not path.exists()


def test_equal_records_give_equal_bytes_and_all_is_escaped(tmp_path):
    rows = comparisons(3, "s")
    rows[1] = dataclasses.replace(rows[1], responses=(HOSTILE, "fine"), subset=HOSTILE[:20])
    suite = changed(suite_of("own", rows), 1, 0, text=HOSTILE)
    path = written(tmp_path, [suite])
    first = path.read_bytes()
    assert written(tmp_path, [suite]).read_bytes() == first
    item = records(path)["items"][1]
    assert item["responses"][0] == HOSTILE
    (records_text,) = re.findall(rb'id="records">(.*?)</script>', first, re.S)
    assert b"<" not in records_text and records_text.isascii()
    titled = critique_page([], title=HOSTILE)
    head = re.search("<title>(.*?)</title>", titled)[1]
    assert "<" not in head and "{{" not in head


# In Chromium.

needs_chromium = pytest.mark.skipif(executable() is None, reason="Chromium is not installed")
SETTLED = "new Promise(done => setTimeout(() => done($('count').textContent), 400))"


def choose(browser, **values):
    """Sets fields as a person does, and returns the line that counts."""
    for name, value in values.items():
        event = "input" if name == "search" else "change"
        browser.run(f"$('{name}').value = {json.dumps(value)};"
                    f"$('{name}').dispatchEvent(new Event('{event}'))")  # fmt: skip
    return browser.run(SETTLED)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A page of two suites in a browser, with its records."""
    if executable() is None:
        pytest.skip("Chromium is not installed")
    rows = comparisons(40, "alpha", n=3)
    rows[7] = dataclasses.replace(rows[7], responses=(HOSTILE, "fine", "Bänke"))
    hostile = changed(suite_of("own", rows), 7, 0, text=f"Analysis: {HOSTILE}\nScores: none")
    one = [Comparison("beta/0", (Message("user", "is it so?"),), ("It is.",), (1.0,), "single")]
    path = written(tmp_path_factory.mktemp("page"), [hostile, suite_of("small_world", one)])
    with Browser() as browser:
        browser.open(path.as_uri())
        yield browser, records(path)["items"], path


@pytest.mark.slow
def test_every_filter_narrows_to_what_it_names(opened):
    browser, items, _ = opened
    assert choose(browser).startswith("41 of 41 comparisons")
    votes = [item["drawn"]["GRPO, 4 samples"] for item in items]
    for result in ("right", "wrong", "tie", "single"):
        count = sum(one["votes"]["Voting@4"][0] == result for one in votes)
        assert choose(browser, result=result).startswith(f"{count} of 41"), result
    choose(browser, result="")
    greedy = sum(item["drawn"]["GRPO, greedy"]["votes"]["GRPO, greedy"][0] == "wrong"
                 for item in items)  # fmt: skip
    assert choose(browser, method="2", result="wrong").startswith(f"{greedy} of 41")
    choose(browser, method="0", result="")
    part = sum(item["subset"] == "part 1" for item in items)
    assert choose(browser, suite="own", subset="part 1").startswith(f"{part} of 41")
    assert choose(browser, suite="small_world").startswith("1 of 41")
    choose(browser, suite="", subset="")
    shares = [one["disagreement"] for one in votes]
    for value, least in (("0.01", 0.01), ("0.25", 0.25), ("0.5", 0.5)):
        count = sum(share is not None and share >= least for share in shares)
        assert choose(browser, disagreement=value).startswith(f"{count} of 41")
    none = sum(share == 0 for share in shares)
    assert choose(browser, disagreement="0").startswith(f"{none} of 41")
    choose(browser, disagreement="", order="most")
    first = browser.run("state.shown.map(item => item.drawn['GRPO, 4 samples'].disagreement ?? -1)")
    assert first == sorted(first, reverse=True)
    assert choose(browser, order="data", search="BÄNKE fine").startswith("1 of 41")
    assert browser.run("document.querySelectorAll('#detail mark').length") >= 2
    assert choose(browser, search="no such words").startswith("0 of 41")
    assert "Nothing is left" in browser.run("document.querySelector('#detail').innerText")
    choose(browser, search="")


@pytest.mark.slow
def test_a_comparison_is_shown_whole(opened):
    browser, items, _ = opened
    browser.run("select(7)")
    text = browser.run("document.querySelector('#detail').textContent")
    item = items[7]
    for part in (item["uid"], *item["responses"], item["messages"][0][1]):
        assert part in text
    for sample in item["drawn"]["GRPO, 4 samples"]["samples"]:
        assert f"Sample {sample[0]}" in text and sample[4][2] in text
    tables = browser.run("[...document.querySelectorAll('#detail tbody')].map(t => t.rows.length)")
    assert tables == [K, 1]
    # Words of models stay words.
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelectorAll('img, iframe, object, link').length") == 0
    assert browser.run("document.scripts.length") == 2
    browser.run("select(40)")
    single = browser.run("document.querySelector('#detail').textContent")
    assert "In truth: correct" in single and "mean score" in single


@pytest.mark.slow
def test_keys_and_links(opened):
    browser, items, path = opened
    browser.run("select(0); document.activeElement.blur()")
    for key, at in (("j", 1), ("ArrowDown", 2), ("k", 1)):
        browser.run(f"document.body.dispatchEvent(new KeyboardEvent('keydown', "
                    f"{{key: '{key}', bubbles: true}}))")  # fmt: skip
        assert browser.run("state.at") == at
    assert browser.run("location.hash") == "#own%2Falpha%2F1"
    browser.run("location.hash = '#own%2Falpha%2F12'")
    assert browser.run("new Promise(r => setTimeout(() => r(state.at), 100))") == 12
    browser.run("$('search').focus(); $('search').dispatchEvent(new KeyboardEvent('keydown', "
                "{key: 'j', bubbles: true}))")  # fmt: skip
    assert browser.run("state.at") == 12, "letters that are typed move nothing"
    browser.run("$('search').blur()")
    assert items[12]["uid"] in browser.run("document.querySelector('h2').textContent")


@pytest.mark.slow
def test_nothing_is_loaded_and_no_code_but_its_own_runs(opened):
    browser, _, path = opened
    assert browser.requests == [path.as_uri()]
    assert browser.errors == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        browser.run("document.body.insertAdjacentHTML('beforeend', "
                    f"'<b onclick=\"window.hacked=2\" id=bad></b><img src=\"{address}\">');"
                    "document.querySelector('#bad').click()")  # fmt: skip
        server.settimeout(0.3)
        with pytest.raises(TimeoutError):
            server.accept()
    assert browser.run("window.hacked") is None
    assert any("Content Security Policy" in text for text in browser.errors)


@pytest.mark.slow
@needs_chromium
def test_ten_thousand_trajectories(tmp_path):
    rows = comparisons(1250, "many", n=4)
    suite = suite_of("own", rows, k=7)
    counting = dataclasses.replace(RULES, num_samples=7)
    long = "word " * 300
    groups = [[dataclasses.replace(t, text=f"Analysis: {long}{t.uid} {t.sample}\n{t.text}")
               for t in group] for group in suite.drawn[1].groups]  # fmt: skip
    suite = dataclasses.replace(
        suite, drawn=(suite.drawn[0], suite.drawn[1]._replace(groups=groups))
    )
    path = written(tmp_path, [suite], counting)
    assert (
        sum(
            sample[4] is not None
            for item in records(path)["items"]
            for drawn in item["drawn"].values()
            for sample in drawn["samples"]
        )
        == 10_000
    )
    with Browser() as browser:
        assert browser.open(path.as_uri()) < 10  # 0.3 s on an idle machine
        assert choose(browser).startswith("1,250 of 1,250")
        milliseconds = browser.run(
            "(() => { const began = performance.now(); $('search').value = 'many/1249 6'; "
            "update(); return performance.now() - began; })()"
        )
        assert milliseconds < 3000  # 100 on an idle machine
        assert choose(browser).startswith("1 of 1,250")
        choose(browser, search="")
        assert browser.run("document.querySelectorAll('.row').length") < 40
        browser.run("$('list').scrollTop = 1e6")
        browser.run("new Promise(r => setTimeout(r, 200))")
        assert "many/1249" in browser.run("$('space').textContent")
        assert browser.errors == []
