"""Training files in experiments: the check before the run, mixing, a teacher, too easy rows."""

import gzip
import json
import os
import re
import types

import pytest
from chat_server import chat_server
from ml_collections import ConfigDict

from configs import small_world
from experiments import schema, sections
from experiments.config import build
from experiments.run import Run
from experiments.stages import benchmark, grpo, order, rft, sft
from experiments.training_data import TrainingData
from grm_jax.benchmarks import judgebench
from grm_jax.data.stores import TrajectoryStore
from grm_jax.files import write_json
from grm_jax.sampling.draw import Drawer, TooLong, WorkList
from grm_jax.text.prompts import Message, grm_prompt
from grm_jax.text.scores import parse_strict
from grm_jax.text.tokenizers import train_sentencepiece

LONG = "tell me in short words how to cook a soup of leek and pea at home"


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def pair(i, prompt):
    return {"uid": f"own/{i}", "prompt": prompt, "responses": ["leek", "pea"], "best": i % 2}


def preference(i, prompt):
    return {"split": "train", "prompt": prompt, "response_1": "leek", "response_2": "pea",
            "preference_strength": (-3, 2)[i % 2]}  # fmt: skip


def instruction(i):
    turns = [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": str(i)}]
    return {"messages": turns}


@pytest.fixture
def files(tmp_path):
    """Rows of three sets, and a benchmark of two rows."""
    write(tmp_path / "own.jsonl", *[pair(i, f"easy soup {i}?") for i in range(8)])
    write(
        tmp_path / "hs2" / "preference" / "preference.jsonl.gz",
        *[preference(i, f"hard soup {i}?") for i in range(8)],
        {**preference(0, "tie?"), "preference_strength": 0},
    )
    write(tmp_path / "general.jsonl", *map(instruction, range(12)))
    write(
        tmp_path / "suites" / "judgebench" / judgebench.FILE,
        *[
            {"pair_id": f"j{i}", "original_id": None, "source": "livebench-math",
             "question": question, "response_model": "m", "response_A": "a", "response_B": "b",
             "label": "A>B"}
            for i, question in enumerate([f"Please {LONG}, thanks", "Which soup?"])
        ],
    )  # fmt: skip
    return tmp_path


def data(folder, **changes):
    fields = {
        "train": f"comparisons:{folder}/own.jsonl,helpsteer2:{folder}/hs2:2",
        "general": f"messages:{folder}/general.jsonl",
        "development": f"comparisons:{folder}/own.jsonl",
        "benchmark_dir": f"{folder}/suites",
        "against": "judgebench",
    }
    return ConfigDict(fields | changes)


def checked(folder, workdir, said=None, **changes):
    section = sections.DataConfig(**data(folder, **changes))
    return TrainingData(section, 0, workdir, ([] if said is None else said).append)


def test_the_check_counts_and_is_not_repeated(files, tmp_path, monkeypatch):
    said = []
    found = checked(files, tmp_path, said)
    assert found.fresh and said[1:] == [
        f"data.train: comparisons:{files}/own.jsonl: 8 records in 8 rows",
        f"data.train: helpsteer2:{files}/hs2: 8 records in 9 rows; "
        "left out: 1 no single best response",
        f"data.general: messages:{files}/general.jsonl: 12 records in 12 rows",
        "data: compared with judgebench (2 rows): no overlap",
    ]
    write_json(tmp_path / "data.json", found.report)
    monkeypatch.setattr(TrainingData, "_check", None)  # to call it would fail
    again = checked(files, tmp_path, said)
    assert not again.fresh and again.report == found.report and len(said) == 5
    assert again.take("train", 5) == found.take("train", 5)
    for file in ("own.jsonl", f"suites/judgebench/{judgebench.FILE}"):
        before = (files / file).stat()
        os.utime(files / file, ns=(1, 1))
        with pytest.raises(TypeError):
            checked(files, tmp_path)
        os.utime(files / file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not checked(files, tmp_path).fresh
    # A benchmark that is fetched later has not been compared.
    write(files / "suites" / "llmbar" / "dataset.json")
    with pytest.raises(TypeError):
        checked(files, tmp_path)


def test_linked_benchmarks_are_compared_and_seen_to_change(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (files / "suites" / "judgebench").rename(tmp_path / "moved")
    (files / "suites" / "judgebench").symlink_to(tmp_path / "moved")
    folder = {"benchmark_dir": "~/suites", "train": "comparisons:~/own.jsonl"}
    found = checked(files, tmp_path, **folder)
    write_json(tmp_path / "data.json", found.report)
    assert not checked(files, tmp_path, **folder).fresh
    path = tmp_path / "moved" / judgebench.FILE
    row = json.loads(path.read_text().splitlines()[0])
    write(path, {**row, "question": "easy soup 3?"})
    with pytest.raises(ValueError, match="1 rows of the training data are in a benchmark"):
        checked(files, tmp_path, **folder)


def test_rows_that_cannot_be_used_are_counted_before_the_run(files, tmp_path):
    equal = {**pair(2, "a?"), "responses": ["x", "x"]}
    write(files / "own.jsonl", pair(0, "fine?"), pair(1, " "), equal)
    turns = [{"role": "user", "content": "a"}, *instruction(1)["messages"]]
    write(files / "general.jsonl", instruction(0), {"messages": turns})
    said = []
    checked(files, tmp_path, said)
    assert said[1].endswith("1 records in 3 rows; left out: 1 blank query, 1 equal responses")
    assert said[3].endswith("1 records in 2 rows; left out: 1 turns that do not alternate")
    write(files / "general.jsonl", instruction(0), {"messages": "Say 1."})
    with pytest.raises(ValueError, match=r"general\.jsonl:2: field 'messages': expected list"):
        checked(files, tmp_path)


def test_what_a_chat_template_refuses_is_known_before_anything_is_drawn(files, tmp_path):
    found, said = checked(files, tmp_path), []

    def chat(messages):
        if refused(messages[0].content):
            raise ValueError("no such turns")
        return [1, 2]

    tokenizer = types.SimpleNamespace(chat=chat, encode_answer=lambda text: [3], end_of_turn_id=4)
    run = types.SimpleNamespace(world=None, data=found, tokenizer=tokenizer, say=said.append)
    write(files / "general.jsonl", *map(instruction, range(40)))
    refused = "Say 7.".__eq__
    examples = sft.general_examples(run, 40, seed=0)
    assert len(examples) == 39 and list(examples[0].token_ids) == [1, 2, 3, 4]
    assert said == ["data.general: 1 conversations cannot be written (first: "
                    "messages/general.jsonl/7: no such turns), dropped"]  # fmt: skip
    refused = "Say".__le__
    with pytest.raises(ValueError, match=r"config\.data\.general: 40 conversations cannot be"):
        sft.general_examples(run, 40, seed=0)


def test_rft_writes_its_general_data_before_it_draws(monkeypatch):
    def fail(*_, **__):
        raise ValueError("general data")

    monkeypatch.setattr(rft.sft, "general_examples", fail)
    c = build(small_world.get_config("ci"))
    run = types.SimpleNamespace(
        config=c, begin=str, comparisons=lambda *_, **__: [], load_cold_start=None
    )  # fmt: skip
    with pytest.raises(ValueError, match="general data"):
        rft.run_stage(run)


def test_a_step_whose_prompts_are_all_too_long_takes_the_next_batch():
    """And counts what it has passed over."""
    long, mixed, after = (
        [types.SimpleNamespace(uid=f"{name}/{i}") for i in range(2)] for name in ("a", "b", "c")
    )

    def plan(batch, *, step):
        assert step == 7
        if batch is long:
            raise TooLong("all 2 comparisons are too long")
        return WorkList([], {}, (batch[1].uid,), (batch[0].uid,), ())

    batches = iter([long, long, mixed, after])
    work = Drawer.plan_next(types.SimpleNamespace(plan=plan), batches, step=7)
    assert work.dropped == ("a/0", "a/1", "a/0", "a/1", "b/1") and work.shortened == ("b/0",)
    assert next(batches) is after


def test_take_is_one_order_of_all_sets(files, tmp_path):
    found = checked(files, tmp_path)
    train = found.take("train", 100)
    assert len(train) == 16 and found.take("train", 3) == train[:3]
    assert {c.subset for c in train} == {"", "helpsteer2"}
    assert [one.answer for one in found.take("general", 100)] != [str(i) for i in range(12)]
    with pytest.raises(ValueError, match=r"config\.data\.test: no training set"):
        found.take("test", 1)


@pytest.mark.parametrize("where", ["train", "general"])
@pytest.mark.parametrize("prompt", [f"Well, {LONG.upper()}!", "which... soup"])
def test_rows_of_a_benchmark_are_refused_or_dropped(files, tmp_path, where, prompt):
    if where == "train":
        write(files / "own.jsonl", pair(0, "fine?"), pair(1, prompt))
        place, dropped = r"own\.jsonl:2: ", "own/1"
    else:
        rows = [instruction(0), instruction(1)]
        rows[1]["messages"][0]["content"] = prompt
        write(files / "general.jsonl", *rows)
        place, dropped = r"general\.jsonl:2: ", "messages/general.jsonl/1"
    row = "judgebench/j0" if "!" in prompt else "judgebench/j1"
    with pytest.raises(ValueError, match=f"1 rows.*{place}.*'{row}' of judgebench"):
        checked(files, tmp_path)
    said = []
    found = checked(files, tmp_path, said, overlap="drop")
    assert said[-1] == "data: compared with judgebench (2 rows): 1 with judgebench"
    uids = {one.uid for one in found.take(where, 100)}
    assert (
        dropped not in uids
        and len(uids) == len(checked(files, tmp_path, overlap="allow").take(where, 100)) - 1
    )
    allowed = checked(files, tmp_path, said, overlap="allow", benchmark_dir="")
    assert dropped in {one.uid for one in allowed.take(where, 100)}
    assert "not compared" in said[-1]


def test_every_benchmark_that_is_there_is_compared(files, tmp_path):
    write(files / "own.jsonl", pair(0, "fine?"), pair(1, "Which stew?"))
    write(
        files / "suites" / "pandalm" / "testset-v1.json",
        [{"idx": 7, "instruction": "Which stew", "input": "", "response1": "a", "response2": "b",
          **dict.fromkeys(("annotator1", "annotator2", "annotator3"), 1), "motivation_app": "m",
          "cmp_key": "x_y"}],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"own\.jsonl:2: the same prompt as row .* of pandalm"):
        checked(files, tmp_path)
    with pytest.raises(ValueError, match="llmbar: expected the "):
        checked(files, tmp_path, against="llmbar")


def test_a_bad_row_is_found_before_the_run(files, tmp_path):
    write(files / "own.jsonl", pair(0, "a?"), {**pair(1, "b?"), "best": 7})
    with pytest.raises(ValueError, match=r"own\.jsonl:2: field 'best'"):
        Run.open(config(files), tmp_path / "w")


@pytest.mark.parametrize("overlap", ["refuse", "drop"])
def test_fewer_rows_than_a_batch_of_grpo_are_told_before_any_work(files, tmp_path, overlap):
    write(files / "own.jsonl", *(pair(i, "Which soup?" if i == 3 else f"{i}?") for i in range(6)))
    c = config(files, train=f"comparisons:{files}/own.jsonl", overlap=overlap)
    c.grpo.loop.comparisons, c.grpo.loop.prompts_per_step = 16, 6
    if overlap == "refuse":
        write(files / "own.jsonl", *(pair(i, f"{i}?") for i in range(5)))
    words = r"config\.grpo\.loop\.prompts_per_step: 6 rows are more than config\.data\.train has, 5"
    with pytest.raises(ValueError, match=words):
        Run.open(c, tmp_path / "w")
    assert not (tmp_path / "w/params").exists()
    c.grpo.loop.prompts_per_step = 4
    Run.open(c, tmp_path / "v")
    c.ablate.arms.wide, c.benchmark.arms = "grpo.loop.prompts_per_step=6", "wide"
    c.benchmark.arm_k = 2
    with pytest.raises(ValueError, match=words):
        Run.open(c, tmp_path / "u")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train": "own.jsonl"}, r"config\.data\.train: .*none of the sets"),
        ({"general": "helpsteer2:x"}, r"config\.data\.general: .*none of the sets"),
        ({"overlap": "ignore"}, "overlap: must be"),
        ({"benchmark_dir": ""}, "benchmark_dir"),
        ({"against": "judgebnch"}, "against"),
        ({"against": ""}, "against"),
        ({"trian": ""}, r"config\.data\.trian: unknown field"),
    ],
)
def test_bad_sections(files, changes, problem):
    with pytest.raises(ValueError, match=problem):
        schema.check(config(files, **changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data.train": ""}, r"config\.data\.train: is not given.*config\.rft\.data"),
        ({"data.general": ""}, r"config\.data\.general: is not given"),
        (
            {"cold_start.data.demonstrations": 3, "data.train": ""},
            r"config\.data\.train: is not given, and config\.cold_start\.data\.demonstrations",
        ),
        ({"rft.engine": "remote"}, r"config\.rft\.engine: must be"),
        ({"rft.engine_url": "localhost"}, r"config\.rft\.engine_url: must start"),
        ({"benchmark.engine": "openai"}, r"config\.benchmark\.greedy_stages: .*'remote'"),
        ({"benchmark.greedy_stages": "remote"}, r"config\.benchmark\.greedy_stages"),
        ({"grpo.engine": "openai"}, r"config\.grpo\.engine: unknown field"),
        ({"grpo.loop.prompts_per_step": 17}, r"config\.grpo\.loop\.prompts_per_step: 17 different"),
        ({"grpo.loop.easy_samples": 0}, r"config\.grpo\.loop\.easy_samples: must be"),
    ],
)
def test_bad_combinations(files, changes, problem):
    c = config(files)
    c.rft.engine, c.rft.engine_url, c.rft.engine_model = "openai", "http://localhost:1", "m"
    c.benchmark.engine_url, c.benchmark.engine_model = "http://localhost:1", "m"
    schema.check(c)
    c.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=problem):
        schema.check(c)
    c = small_world.get_config("ci")
    c.data = data(files)
    with pytest.raises(ValueError, match=r"config\.data: config\.small_world brings its own"):
        schema.check(c)


def config(folder, **changes):
    """The loop of the small world at its smallest, on files."""
    c = small_world.get_config("ci")
    del c["small_world"]
    c.data = data(folder, **changes)
    query = Message("user", "easy hard soup 0123456789?")
    text = grm_prompt([query], ["leek", "pea"], form="compact")
    path = folder / "tokenizer.model"
    if not path.exists():
        train_sentencepiece([text + " Say."] * 4, path, vocab_size=400)
    c.tokenizer.path = str(path)
    c.base.data.general, c.base.optimizer.steps = 10, 2
    c.cold_start.data = ConfigDict({"demonstrations": 0, "general": 5})
    c.cold_start.optimizer.steps = 2
    c.rft.data.comparisons, c.rft.data.general = 16, 4
    c.rft.buckets.prompt_lengths = "320"  # hints with a note
    c.grpo.loop = ConfigDict(
        {"comparisons": 16, "prompts_per_step": 4, "checkpoint_every": 1, "easy_for": "",
         "easy_samples": 3}
    )  # fmt: skip
    c.grpo.draw.max_new_tokens, c.grpo.buckets.output_lengths = 8, "8"
    c.grpo.optimizer.steps = 1
    c.benchmark.suites = "data"
    c.benchmark.meta_rm, c.benchmark.arms = False, ""
    c.benchmark.ks, c.benchmark.draw.k, c.benchmark.buckets.samples = "1,2", 2, "1,2"
    return c


@pytest.mark.parametrize("shown", [True, False])
def test_a_rule_demonstrates_on_rows_with_references(files, tmp_path, shown):
    """Without a label: in the prompts, and in hints, stands what the rule says."""
    answers = [["so leek", "pea"], ["pea", "leek 1"], ["the leek"], ["pea"]]
    rows = [
        {"uid": f"own/{i}", "prompt": f"easy soup {i}?", "responses": answers[i % 4],
         "reference": "leek", **({"best": i % 3 % 2} if i % 4 < 2 else {"label": i % 3 % 2})}
        for i in range(200)
    ]  # fmt: skip
    write(files / "own.jsonl", *rows)
    c = config(files, train=f"comparisons:{files}/own.jsonl")
    c.template.reference, c.cold_start.data.demonstrations = shown, 200
    run = Run.open(c, tmp_path / "w")
    assert all(draw.reference is shown for draw in (run.config.rft.draw, run.config.grpo.draw))
    examples = sft.demonstrations(run, 200, seed=0, verdicts="weight")
    hinted = 0
    for tokens, start in examples:
        prompt, answer = (run.tokenizer.decode(ids) for ids in (tokens[:start], tokens[start:]))
        assert ("#### Reference Answer ####\nleek\n" in prompt) is shown
        n = 1 if "[The Begin of Response]" in prompt else 2
        scores = parse_strict(answer, n, *((0, 1) if n == 1 else (1, 10))).scores
        if n == 1:
            assert scores == (int("the leek" in prompt.split("Responses to be Scored")[1]),)
            hint = f"The correct score is: {scores[0]}"
        else:
            first = prompt.partition("[The Begin of Response 1]\n")[2].partition("\n")[0]
            assert (scores[0] > scores[1]) == ("leek" in first)
            hint = f"The best response is: Response {1 + scores.index(max(scores))}"
        hinted += hint in prompt
        assert (hint in prompt) == bool(re.search("(score|best response) is: ", prompt))
    assert 12 <= hinted <= 40  # of 200, for a share of 0.12
    write(files / "own.jsonl", *(pair(i, f"easy soup {i}?") for i in range(8)))
    problem = "config.template.reference: config.data.train" if shown else r"'own/\d':"
    with pytest.raises(ValueError, match=f"{problem} has no reference"):
        sft.demonstrations(Run.open(c, tmp_path / "v"), 1, seed=0, verdicts="weight")


def judge(body):
    """Knows the better response of easy queries; of hard ones the first sample says the worse."""
    prompt = body["messages"][0]["content"]
    number = int(prompt.partition("soup ")[2].partition("?")[0])
    right = ("leek", "pea")[number % 2]  # of own.jsonl and, by the sign, of helpsteer2
    if "hard" in prompt and "The best response" not in prompt and body["seed"] % 2:
        right = ("pea", "leek")[number % 2]
    first = "Response 1]\nleek" in prompt
    return f"\\boxed{{{'9, 1' if first == (right == 'leek') else '1, 9'}}}", "stop"


@pytest.mark.slow
def test_a_teacher_draws_rft_and_grpo_leaves_out_what_it_always_gets_right(files, tmp_path):
    c = config(files)
    c.grpo.loop.easy_for = "rft"
    with chat_server(judge) as server:
        c.rft.engine, c.rft.engine_url, c.rft.engine_model = "openai", server.url, "teacher"
        run = Run.open(c, tmp_path / "w")
        order.up_to("grpo")(run)
    assert len(server.requests) == 16 * 4  # 3 samples and a hinted one
    hints = [b["messages"][0]["content"] for _, b in server.requests]
    noted = [text for text in hints if "better than the other response." in text]
    assert len(noted) == 8 and all("hard soup" in text for text in noted)

    with TrajectoryStore(run.workdir.path("trajectories", "rft.jsonl"), read_only=True) as store:
        teacher = [t for t in store.iterate() if not t.hinted]
    right = {t.uid: [] for t in teacher}
    for t in teacher:
        right[t.uid].append(t.correct)
        assert t.token_ids == ()
    easy = {uid for uid, own in right.items() if all(own) and len(own) == 3}
    assert {f"own/{i}" for i in range(8)} <= easy < set(right)
    with TrajectoryStore(run.workdir.path("trajectories", "grpo.jsonl"), read_only=True) as store:
        trained = {t.uid for t in store.iterate()}
    assert len(trained) == 4 and not trained & easy

    # Kept trajectories are learnt from as tokens of their text.
    decisions = run.workdir.path("trajectories", "rft_decisions.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["outcome"] == "kept" for line in decisions) > 0

    # The same file of another run, by its path; and one that judged none of these.
    loop = sections.GRPOLoop(16, 4, easy_for=str(run.workdir.path("trajectories", "rft.jsonl")))
    comparisons = run.comparisons("train", 16)
    assert {x.uid for x in grpo.without_easy(run, comparisons, loop)} == set(right) - easy
    loop = sections.GRPOLoop(16, 4, easy_for="rft", easy_samples=4)
    with pytest.raises(ValueError, match=r"config\.grpo\.loop\.easy_for: .*rft\.jsonl: no 4"):
        grpo.without_easy(run, comparisons, loop)


@pytest.mark.slow
def test_a_remote_judge_is_benchmarked(files, tmp_path):
    c = config(files)
    for name in ("base", "cold_start", "rft", "grpo", "meta_rm", "baseline", "ablate"):
        del c[name]
    c.data = data(files, train="", general="")
    c.benchmark.greedy_stages = c.benchmark.sampled_stages = "remote"
    with chat_server(judge) as server:
        c.benchmark.engine, c.benchmark.engine_url = "openai", server.url
        c.benchmark.engine_model = "judge"
        run = Run.open(c, tmp_path / "w")
        benchmark.run_stage(run)
    assert len(server.requests) == 8 * 3
    assert sorted({body["temperature"] for _, body in server.requests}) == [0.0, 0.5]
    table = (tmp_path / "w" / "tables" / "main.md").read_text()
    assert "| remote, greedy | 100.0" in table and "| Voting@2 | 100.0" in table
    assert "0 tokens" not in (tmp_path / "w" / "samples.md").read_text()
