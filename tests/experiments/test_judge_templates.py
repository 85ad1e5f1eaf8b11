"""Judges by templates of their own, behind a server: from the file to the table."""

import dataclasses
import re

import pytest
from builders import comparison, read_table, write_comparisons
from chat_server import chat_server
from ml_collections import ConfigDict
from tiny_release import write_release

from configs import deepseek_grm_27b, small_world
from experiments import measurement, schema
from experiments.config import build
from experiments.measurement import Measurement
from experiments.run import Run
from experiments.stages import benchmark, drawing, order
from grm_jax.data.stores import TrajectoryStore
from grm_jax.evaluation.lines import counted
from grm_jax.evaluation.method import Method
from grm_jax.sampling.prompt import given_beginning, make_prompt
from grm_jax.text.tokenizers import SentencePieceTokenizer, train_sentencepiece

PAIR = """\
{% set mode = "pair" %}
{% call message("system") %}Which is better, [[A]] or [[B]]? {{ messages[-1].content }}{% endcall %}
{% call message("user") %}{{ responses[0] }} or {{ responses[1] }}?{% endcall %}
"""
SINGLE = '{% set mode = "single" %}\n{{ messages[-1].content }}\n\n{{ response }}'
KINDS = {"pair": "letters", "single": "last_number:1-10"}
# Of the query of each comparison, what its judge does, and its number of responses.
ROWS = [("easy", 2), ("easy", 4), ("wrong", 2), ("wrong", 3), ("loose", 2), ("loose", 3)]


def rows():
    """The last response but one is best, by the numbers that are in them."""
    return [
        comparison(
            f"own/{i}", n, query=f"{kind} {i}?", best=n - 2,
            responses=[f"worth {9 if j == n - 2 else j + 1}" for j in range(n)],
        )
        for i, (kind, n) in enumerate(ROWS)
    ]  # fmt: skip


def answer(body):
    """Knows the numbers; "wrong" turns them round, and "loose" has another form."""
    text = "\n".join(message["content"] for message in body["messages"])
    worth = [int(number) for number in re.findall("worth ([0-9]+)", text)]
    if "wrong" in text:
        worth = [10 - number for number in worth]
    if len(worth) == 1:
        return f"It is worth {worth[0]}{'/10' if 'loose' in text else ''}", "stop"
    best = "ab"[worth[1] > worth[0]]
    return f"[[{best if 'loose' in text else best.upper()}]]", "stop"


@pytest.fixture
def config(tmp_path):
    write_comparisons(tmp_path / "rows.jsonl", rows())
    train_sentencepiece([PAIR, "worth 9 easy wrong loose"] * 9, tmp_path / "model", vocab_size=320)
    c = small_world.get_config("ci")
    for name in ("base", "cold_start", "rft", "grpo", "meta_rm", "baseline", "ablate"):
        del c[name]
    c.small_world = None
    c.tokenizer.path = str(tmp_path / "model")
    c.data = ConfigDict({"development": f"comparisons:{tmp_path}/rows.jsonl"})
    c.benchmark.suites, c.benchmark.meta_rm = "data", False
    c.benchmark.greedy_stages = c.benchmark.sampled_stages = "remote"
    c.benchmark.ks, c.benchmark.draw.k = "1,3", 3
    c.benchmark.engine, c.benchmark.engine_model = "openai", "judge"
    c.benchmark.engine_url = "http://localhost:1"
    c.benchmark.arms, c.benchmark.arm_k = "", 1
    c.benchmark.max_unparsed, c.benchmark.parse_policy = 1.0, "wrong"
    c.benchmark.buckets.prompt_lengths = "512"
    return c


def use(config, folder, mode, source=None):
    (folder / f"{mode}.jinja").write_text(source or {"pair": PAIR, "single": SINGLE}[mode])
    config.template.file = str(folder / f"{mode}.jinja")
    config.template.verdict = KINDS[mode]


@pytest.mark.parametrize("mode", KINDS)
def test_a_judge_votes_in_both_ways_of_reading(config, tmp_path, mode):
    use(config, tmp_path, mode)
    with chat_server(answer) as server:
        config.benchmark.engine_url = server.url
        run = Run.open(config, tmp_path / "w", requires=("benchmark",))
        section = measurement.read_config(run)
        loaded = measurement.load_comparisons(run, section)
        for _ in range(2):  # nothing is drawn twice
            on_suites = Measurement(run, loaded.comparisons)
            drawn = [on_suites.draw(run, "remote", k=k) for k in (None, 3)]
    # One prompt for each pair or response, and sample.
    pieces = sum(n if mode == "single" or n > 2 else 1 for _, n in ROWS)
    assert len(server.requests) == pieces * (1 + 3)
    roles = {tuple(message["role"] for message in body["messages"]) for _, body in server.requests}
    assert roles == {("system", "user") if mode == "pair" else ("user",)}
    for parse, right in (("strict", 2), ("lenient", 4)):
        rules = dataclasses.replace(benchmark.counting_rules(run, section), parse=parse)
        (suite,) = counted(benchmark.to_suites(loaded, drawn), rules)
        for kind, k in (("greedy", 1), ("voting", 1), ("voting", 3)):
            line = suite.at[Method("remote", kind=kind, k=k)]
            assert line.interval("accuracy").value == pytest.approx(right / len(ROWS))
        assert suite.at[Method("remote")].unparsed == 2 / len(ROWS)
    # Scores are by response: 1 for each pair that it wins, or what its judge says it is worth.
    by_uid = {own[0].uid: own[0] for own in drawn[1]["data"].groups}
    wanted = {"pair": (0, 1, 2, 1), "single": (1, 2, 9, 4)}[mode]
    assert by_uid["own/1"].original_scores() == wanted
    assert "responses" in by_uid["own/5"].parse_reason
    orders = {own[0].order for own in drawn[1]["data"].groups if len(own[0].order) == 2}
    assert len(orders) == (2 if mode == "pair" else 1)  # pairs are shuffled


@pytest.mark.slow
def test_single_responses_of_a_judge_are_in_the_table(config, tmp_path):
    use(config, tmp_path, "single")
    singles = [
        comparison(f"own/s{i}", 1, query=f"easy s{i}?", responses=[f"worth {2 + 5 * (i % 2)}"],
                   rewards=(float(i % 2),))
        for i in range(4)
    ]  # fmt: skip
    write_comparisons(tmp_path / "rows.jsonl", rows() + singles)
    config.benchmark.limit = len(ROWS) + 4
    with chat_server(answer) as server:
        config.benchmark.engine_url = server.url
        run = Run.open(config, tmp_path / "w", requires=("benchmark",))
        benchmark.run_stage(run)
    table = read_table(tmp_path / "w" / "tables" / "main.json")
    cells = {row.label: [cell.value for cell in row.cells] for row in table.rows}
    assert cells["Voting@3"][:2] == [pytest.approx(2 / 6), 1.0]
    notes = " ".join(table.notes)
    assert "unparsed counts the median" in notes
    assert "template single.jinja, one response a prompt; verdict 'last_number:1-10'" in notes
    assert "It is worth 9" in (tmp_path / "w" / "samples.md").read_text()


def test_another_text_or_verdict_is_another_draw(config, tmp_path):
    use(config, tmp_path, "pair")
    run = Run.open(config, tmp_path / "w", requires=("benchmark",))

    def name(judge):
        draw = dataclasses.replace(run.config.benchmark.draw, judge=judge)
        return drawing.fingerprint(run, "d", draw, (draw,))

    judge = run.config.benchmark.draw.judge
    others = [judge, None, judge._replace(source=PAIR + "\n"),
              judge._replace(verdict=judge.verdict._replace(kind="boxed"))]  # fmt: skip
    assert len(set(map(name, others))) == 4
    assert name(judge) == name(judge._replace(path="moved.jinja"))
    assert "judge" not in repr(run.config.benchmark.draw)  # names of older draws stay
    run.workdir.close()
    config.template.verdict = "boxed"
    with pytest.raises(ValueError, match=r"config\.template\.verdict: 'letters' there"):
        Run.open(config, tmp_path / "w", requires=("benchmark",))


def test_pairs_of_a_long_list_are_balanced(config, tmp_path):
    long = [comparison(n=5)]
    assert build(config).benchmark.draw.unbalanced(long)
    use(config, tmp_path, "pair")
    assert not build(config).benchmark.draw.unbalanced(long)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"template.verdict": "last_number:1-10"},
         r"config\.template\.file: .*jinja:1: the verdict"),
        ({"template.file": "nowhere.jinja"}, r"config\.template\.file: nowhere.jinja: cannot be"),
        ({"benchmark.principles": "given"}, None),  # by a server too
        ({"benchmark.principles": "own"}, r"config\.benchmark\.principles: 'own' are written"),
        ({"template.file": ""}, r"config\.template\.verdict: must be boxed without"),
        ({"template.file": "", "template.verdict": "boxed", "benchmark.principles": "given"},
         r"config\.benchmark\.principles: no principles can be given to a server"),
    ],
)  # fmt: skip
def test_configs_with_a_judge_are_checked_before_a_workdir_is_claimed(
    config, tmp_path, changes, said
):
    use(config, tmp_path, "pair")
    config.update_from_flattened_dict(changes)
    if said is None:
        schema.check_files(schema.check(config))
        return
    with pytest.raises(ValueError, match=said):
        Run.open(config, tmp_path / "w", requires=("benchmark",))
    assert not (tmp_path / "w").exists()


def test_messages_that_the_checkpoint_cannot_take_are_refused_too(config, tmp_path):
    use(config, tmp_path, "pair", PAIR.replace('"system"', '"response_1"'))
    said = r"config\.template\.file: .*pair\.jinja: its messages, .* do not fit .*'response_1'"
    with pytest.raises(ValueError, match=said):
        Run.open(config, tmp_path / "w", requires=("benchmark",))
    assert not (tmp_path / "w").exists()


def test_a_template_is_tried_with_every_conversation(config, tmp_path):
    """Its own system message and, of data that has one, that of the conversation."""
    source = """\
{% set mode = "pair" %}
{% call message("system") %}{{ responses | join(" or ") }}?{% endcall %}
{% for turn in messages %}
{% call message(turn.role) %}{{ turn.content }}{% endcall %}
{% endfor %}
"""
    use(config, tmp_path, "pair", source)
    said = r"config\.template\.file: .*, with the roles \['system', 'system', 'user'"
    with pytest.raises(ValueError, match=said):
        Run.open(config, tmp_path / "w", requires=("benchmark",))


def test_rows_whose_pieces_would_share_a_uid_are_refused_before_drawing(config, tmp_path):
    use(config, tmp_path, "pair")
    write_comparisons(tmp_path / "rows.jsonl", [comparison("x", 3), comparison("x [1, 2]", 2)])
    run = Run.open(config, tmp_path / "w", requires=("benchmark",))
    with pytest.raises(ValueError, match="suite data: the comparisons .* both") as caught:
        measurement.load_comparisons(run, measurement.read_config(run))
    assert "'x'" in str(caught.value) and "'x [1, 2]'" in str(caught.value)


@pytest.mark.parametrize(
    "requires", [(), ("rft",), order.needed("grpo"), ("baseline", "benchmark")]
)
def test_nothing_is_trained_on_a_template_of_the_user(tmp_path, requires):
    config = small_world.get_config("ci")
    use(config, tmp_path, "pair")
    with pytest.raises(ValueError, match=r"config\.template\.file: only experiments\.benchmark"):
        Run.open(config, tmp_path / "w", requires=requires)
    assert not (tmp_path / "w").exists()
    # A workdir for the benchmark of a judge needs no other config.
    assert build(config).require("benchmark") is None


def test_a_judge_of_several_responses_is_not_asked_about_one(config, tmp_path):
    use(config, tmp_path, "pair")
    write_comparisons(tmp_path / "rows.jsonl", [*rows(), comparison("own/s", 1)])
    run = Run.open(config, tmp_path / "w", requires=("benchmark",))
    with pytest.raises(ValueError, match=r"suite data: 1 comparisons have one response .*'own/s'"):
        benchmark.run_stage(run)


def test_given_principles_and_references_are_in_the_prompt(config, tmp_path):
    source = SINGLE + "\nBy {{ principles }}; right is {{ reference }}."
    use(config, tmp_path, "single", source)
    whole = comparison(n=1, principles="taste", reference="leek")
    draw = build(config).benchmark.draw
    for mode, shown in (("given", True), ("self", False)):
        one = dataclasses.replace(draw, principles=mode, reference=shown)
        assert given_beginning(whole, one) == ""
        tokenizer = SentencePieceTokenizer.from_file(config.tokenizer.path)
        (message,) = make_prompt(whole, (0,), one, tokenizer).messages
        assert message.content.endswith("By taste; right is leek." if shown else "By ; right is .")
    with pytest.raises(ValueError, match="no hint"):
        make_prompt(whole, (0,), draw, tokenizer, hinted=True)


@pytest.mark.slow
def test_a_released_judge_is_guided_by_a_meta_rm(tmp_path):
    """Random weights say nothing; their samples of single responses are scored all the same."""
    write_release(tmp_path / "policy", lines=[SINGLE] * 3)
    write_release(tmp_path / "judge", reward=True, seed=7)
    write_comparisons(tmp_path / "rows.jsonl", rows()[:3])
    c = deepseek_grm_27b.get_config("runlocal")
    c.released = ConfigDict({"model": str(tmp_path / "policy"), "meta_rm": str(tmp_path / "judge")})
    c.data = ConfigDict({"development": f"comparisons:{tmp_path}/rows.jsonl"})
    c.benchmark.suites, c.benchmark.ks, c.benchmark.draw.k = "data", "1,2", 2
    c.benchmark.draw.max_new_tokens, c.benchmark.buckets.output_lengths = 4, "4"
    c.benchmark.buckets.samples = "1,2"
    use(c, tmp_path, "single")
    run = Run.open(c, tmp_path / "w", requires=("benchmark",))
    benchmark.run_stage(run)
    table = read_table(tmp_path / "w" / "tables" / "main.json")
    assert {"released, greedy", "Voting@2", "MetaRM@2"} <= {row.label for row in table.rows}
    path = tmp_path / "w" / "trajectories" / "benchmark_data_released_sampled.jsonl"
    stored = list(TrajectoryStore(path, read_only=True).iterate())
    assert len(stored) == 2 * sum(n for _, n in ROWS[:3])
    assert {t.uid for t in stored} >= {"own/1 [1]", "own/1 [4]"} and stored[0].token_ids
    (scored,) = (tmp_path / "w" / "meta_scores").glob("*.jsonl")
    assert '"uid":"own/1"' in scored.read_text()
