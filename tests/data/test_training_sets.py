"""Readers of training sets: rows that we make in the published forms, and what is refused."""

import gzip
import itertools
import json
from collections import Counter

import pytest

from grm_jax.data.comparison import FieldError
from grm_jax.data.training_sets import SETS
from grm_jax.data.training_sets.math_answers import final_answer, same_answer
from grm_jax.data.training_sets.rows import PARTS, part_of
from grm_jax.text.prompts import Hint, Message, grm_prompt

NAN = float("nan")


def completion(response, score, **other):
    return {"model": f"m-{response}", "response": response, "fine-grained_score": score,
            "overall_score": 3.0, **other}  # fmt: skip


def genrm_prompt(context, first, second, word="Begin"):
    return (
        f"You judge.\n\n#### Conversation Context ####\n{context}\n\n"
        "#### Responses to be Scored ####\n"
        f"[The {word} of Response 1]\n{first}\n[The End of Response 1]\n\n"
        f"[The {word} of Response 2]\n{second}\n[The End of Response 2]\n\n"
        "#### Evaluation Plan ####\nBe fair.\n"
    )


def turns(*texts, last="assistant"):
    roles = ["user", "assistant"] * len(texts)
    start = 0 if roles[len(texts) - 1] == last else 1
    return [
        {"content": text, "role": role} for text, role in zip(texts, roles[start:], strict=False)
    ]


def in_part(question, part="train"):
    """The question with an ending that puts it into a part of the sets without splits."""
    endings = (f"{question} {i}" for i in itertools.count())
    return next(q for q in endings if part_of("here", {"question": q}, "question") == part)


EVOUNA = {
    "question": in_part("Which soup?"), "golden_answer": "pea soup/pea", "improper": False,
    "answer_fid": "leek", "judge_fid": False, "answer_gpt35": "a pea", "judge_gpt35": True,
    "answer_chatgpt": "It is pea.", "judge_chatgpt": True, "answer_gpt4": "tea",
    "judge_gpt4": False, "answer_newbing": None, "judge_newbing": None,
}  # fmt: skip
QA_FEEDBACK = {
    "question": in_part("Which soup?"), "passages": [["t", "s"]], "gold": "Pea soup.",
    "prediction 1": "leek", "prediction 2": "pea", "prediction 3": "tea", "prediction 4": "ink",
    "feedback": {"errors": []}, "preference": [2, 1, 1, 1, 1, 0],
}  # fmt: skip

# A good row of each set, its file below the folder, and what it is read as.
ROWS = {
    "ultrafeedback": (
        "flan.jsonl",
        {"source": "flan", "instruction": "Which soup?", "models": ["a", "b", "c", "d"],
         "completions": [completion("leek", 4.25), completion("pea", 4.5),
                         completion("tea", None), completion("ink", 1)]},
    ),
    "offsetbias": (
        "train.jsonl",
        {"instruction": "Which soup?", "output_1": "leek", "output_2": "pea", "label": 2},
    ),
    "skywork": (
        "train.jsonl",
        {"chosen": turns("Hello", "Hi", "Which soup?", "pea"),
         "rejected": turns("Hello", "Hi", "Which soup?", "leek"), "source": "offsetbias"},
    ),
    "helpsteer2": (
        "preference/preference.jsonl.gz",
        {"split": "train", "prompt": "Hello\n<extra_id_1>Assistant\nHi\n<extra_id_1>User\nSoup?",
         "response_1": "leek", "response_2": "pea", "preference_strength": 3,
         "preference_statement": "@Response 2 is much better", "preference_elaboration": ""},
    ),
    "helpsteer3": (
        "preference/train.jsonl.gz",
        {"domain": "code", "language": "python", "context": turns("Which soup?", last="user"),
         "response1": "leek", "response2": "pea", "overall_preference": -1,
         "individual_preference": []},
    ),
    "math": (
        "problems.jsonl",
        {"problem": "1/2 + 1/2?", "level": "Level 1", "type": "Algebra",
         "solution": r"Add: $\boxed{1}$.",
         "responses": [r"\boxed{2}", r"So \boxed{1.0}.", "one", r"\boxed{\frac{2}{2}}",
                       r"\boxed{\frac22}"]},
    ),
    "nemotron_genrm": (
        "data/train.jsonl",
        {"messages": [[{"role": "user", "content": genrm_prompt(
            "User: Hello\n\nAssistant: Hi\n\nUser: Which\n\nsoup?", "leek\n\nor so", "pea")}]],
         "uuid": "e-1", "num_responses": 2, "score_1": None, "score_2": None, "ranking": 5,
         "license": "cc-by-4.0", "used_in": ["x"]},
    ),
    **{f"evouna_{form}": ("NQ.json", EVOUNA) for form in ("pairs", "lists", "singles")},
    "evouna_development": (
        "NQ.json", {**EVOUNA, "question": in_part("Which soup?", "development")}
    ),
    "qa_feedback": ("dev_feedback.json", QA_FEEDBACK),
    "qa_feedback_development": (
        "dev_feedback.json", {**QA_FEEDBACK, "question": in_part("Which soup?", "development")}
    ),
    "comparisons": (
        "rows.jsonl",
        {"uid": "u", "prompt": "Which soup?", "responses": ["leek", "pea"], "rewards": [0, 1]},
    ),
    "messages": (
        "general.jsonl",
        {"id": 3, "messages": [{"role": "system", "content": "Be brief."},
                               *turns("Hello", "Hi", "Which soup?", "Pea soup.")]},
    ),
}  # fmt: skip


def write(folder, name, *rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    data = (json.dumps(rows) if name.endswith(".json") else text).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read(name, folder):
    return [found for _, found in SETS[name].rows(str(folder))]


def one(tmp_path, name, **changes):
    """What the good row of a set, changed, is read as: its records, or why it has none."""
    file, row = ROWS[name]
    path = write(tmp_path, file, {**row, **changes})
    (found,) = read(name, path)
    return found


def asked(*texts):
    roles = ["user", "assistant"] * len(texts)
    return tuple(Message(role, text) for role, text in zip(roles, texts, strict=False))


def test_ultrafeedback_is_a_list_of_what_was_rated(tmp_path):
    (got,) = one(tmp_path, "ultrafeedback")
    assert got.uid == "ultrafeedback/flan.jsonl/0" and got.subset == "ultrafeedback"
    assert got.messages == asked("Which soup?")
    assert got.responses == ("leek", "pea", "ink") and got.rewards == (4.25, 4.5, 1.0)
    assert got.meta == {"source": "flan", "models": ["m-leek", "m-pea", "m-ink"]}


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([4, 5, 5, 3], [0, 1, 3]),  # of two best ones the first stays
        ([5, 5, 5, NAN], "no single best response"),
        ([5, None, NAN, None], "fewer than two rated completions"),
        ([2, 2, 3, 2], [0, 1, 2, 3]),
        ([], "fewer than two rated completions"),
    ],
)
def test_ultrafeedback_has_one_best(tmp_path, scores, kept):
    completions = [completion(f"r{i}", score) for i, score in enumerate(scores)]
    found = one(tmp_path, "ultrafeedback", completions=completions)
    if isinstance(kept, str):
        assert found == kept
    else:
        assert found[0].responses == tuple(f"r{i}" for i in kept)
        assert found[0].rewards == tuple(float(scores[i]) for i in kept)


def test_pairs(tmp_path):
    (got,) = one(tmp_path, "offsetbias")
    assert (got.uid, got.responses, got.best) == ("offsetbias/train.jsonl/0", ("leek", "pea"), 1)
    (got,) = one(tmp_path, "offsetbias", label=1)
    assert got.best == 0 and got.hint_note == ""
    (got,) = one(tmp_path, "skywork")
    assert got.messages == asked("Hello", "Hi", "Which soup?")
    assert got.responses[got.best] == "pea" and got.meta == {"source": "offsetbias"}


def test_strengths_go_into_the_note_of_the_hint(tmp_path):
    (got,) = one(tmp_path, "helpsteer2")
    assert got.uid == "helpsteer2/preference.jsonl.gz/0"
    assert got.messages == asked("Hello", "Hi", "Soup?")
    assert got.best == 1 and got.hint_note == "It is much better than the other response."
    (got,) = one(tmp_path, "helpsteer2", preference_strength=-1)
    assert got.best == 0 and got.hint_note == "It is slightly better than the other response."
    text = grm_prompt(got.messages, got.responses, hint=Hint(got.best, got.hint_note))
    assert text.endswith(f"The best response is: Response 1\n{got.hint_note}")
    (got,) = one(tmp_path, "helpsteer3")
    assert got.best == 0 and got.hint_note == "It is slightly better than the other response."
    assert got.meta == {"domain": "code", "language": "python"}
    (got,) = one(tmp_path, "helpsteer3", overall_preference=2)
    assert got.best == 1 and got.hint_note == "It is better than the other response."


def test_genrm_prompts_are_taken_apart(tmp_path):
    (got,) = one(tmp_path, "nemotron_genrm")
    assert got.uid == "nemotron_genrm/e-1"
    assert got.messages == asked("Hello", "Hi", "Which\n\nsoup?")
    assert got.responses == ("leek\n\nor so", "pea") and got.best == 1
    assert got.hint_note == "It is better than the other response."
    other = genrm_prompt("System: Be brief.\n\nUser: Soup?", "", "pea", word="Start")
    (got,) = one(tmp_path, "nemotron_genrm", ranking=3,
                 messages=[[{"role": "user", "content": other}]])  # fmt: skip
    assert got.messages == (Message("system", "Be brief."), Message("user", "Soup?"))
    assert got.responses == ("", "pea") and got.best == 0
    notes = [one(tmp_path, "nemotron_genrm", ranking=r)[0].hint_note for r in (1, 2, 3, 4, 5, 6)]
    assert notes == notes[::-1] and len(set(notes)) == 3


def shown(records):
    return sorted(sorted(zip(c.responses, c.rewards, strict=True)) for c in records)


def test_evouna_has_one_right_answer_a_list(tmp_path):
    pairs, lists, singles = (
        one(tmp_path, f"evouna_{form}") for form in ("pairs", "lists", "singles")
    )
    right, wrong = [("It is pea.", 1.0), ("a pea", 1.0)], [("leek", 0.0), ("tea", 0.0)]
    assert shown(pairs) == sorted(sorted([r, w]) for r in right for w in wrong)
    assert shown(lists) == sorted(sorted([r, *wrong]) for r in right)
    assert shown(singles) == sorted([x] for x in right + wrong)
    assert {c.reference for c in (*pairs, *lists, *singles)} == {"pea soup/pea"}
    assert {c.subset for c in lists} == {"evouna_lists"} and len({c.uid for c in pairs}) == 4
    both = one(tmp_path, "evouna_development")
    assert shown(both) == sorted(shown(pairs) + shown(lists) + shown(singles))
    # With one wrong answer a list would be a pair.
    none = "no right answer beside enough wrong ones"
    assert one(tmp_path, "evouna_lists", judge_gpt4=True) == none
    assert len(one(tmp_path, "evouna_pairs", judge_gpt4=True)) == 3
    assert len(one(tmp_path, "evouna_singles", answer_fid=None)) == 3


def test_qa_feedback_is_a_list_with_a_share_of_wins(tmp_path):
    (got,) = one(tmp_path, "qa_feedback")
    assert shown([got]) == [[("ink", 0.5), ("leek", 2.0), ("pea", 3.0), ("tea", 0.5)]]
    assert got.reference == "Pea soup." and got.responses[got.best] == "pea"
    assert one(tmp_path, "qa_feedback", preference=[0] * 6) == "no single best response"


@pytest.mark.parametrize(
    ("name", "sizes", "left_out"),
    [
        ("evouna_pairs", {2: 4254},
         {"improper question": 590, "another part": 1220, "equal responses": 3,
          "no right answer beside enough wrong ones": 919}),
        ("evouna_lists", {3: 660, 4: 302, 5: 126},
         {"improper question": 590, "another part": 1220, "equal responses": 2,
          "no right answer beside enough wrong ones": 1301}),
        ("evouna_singles", {1: 8999}, {"improper question": 590, "another part": 1220}),
        ("evouna_development", {1: 1534, 2: 808, 3: 108, 4: 60, 5: 28},
         {"improper question": 590, "another part": 2712, "equal responses": 1}),
        ("qa_feedback", {4: 255}, {"another part": 188, "no single best response": 57}),
        ("qa_feedback_development", {4: 33}, {"another part": 461, "no single best response": 6}),
    ],
)  # fmt: skip
def test_the_real_files(shared_data, name, sizes, left_out):
    found = read(name, shared_data / ("evouna" if name.startswith("evouna") else "qa_feedback"))
    reasons = [records for records in found if isinstance(records, str)]
    assert Counter(reasons) == left_out
    assert Counter(c.n for records in found if records not in reasons for c in records) == sizes


def test_parts_are_by_the_words_of_a_question():
    parts = [part_of("here", {"q": f"Soup {i}?"}, "q") for i in range(2000)]
    assert parts == [part_of("here", {"q": f" soup,  {i}"}, "q") for i in range(2000)]
    assert parts != [part_of("here", {"q": f"soup {i + 1}"}, "q") for i in range(2000)]
    shares = [parts.count(part) / 2000 for part in PARTS]
    assert all(abs(s - p) < 0.045 for s, p in zip(shares, (0.6, 0.1, 0.3), strict=True))


def test_samples_of_a_problem_are_pairs_and_singles(tmp_path):
    found = one(tmp_path, "math")
    assert [c.uid for c in found] == [f"math/problems.jsonl/0/{i}" for i in range(3)]
    assert found[0].responses == (r"So \boxed{1.0}.", r"\boxed{2}") and found[0].best == 0
    assert found[1].responses == (r"\boxed{\frac{2}{2}}", "one") and found[1].best == 0
    assert found[2].responses == (r"\boxed{\frac22}",) and found[2].label == 1
    wrong = one(tmp_path, "math", answer="7")
    assert [(c.n, c.label) for c in wrong] == [(1, 0)] * 5
    assert one(tmp_path, "math", solution="no box") == "no final answer"
    assert one(tmp_path, "math", responses=[]) == "no samples"


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("5", "5.0", True), ("1{,}000", "1000", True), ("1,000", "1000", True),
        ("(1,000)", "(1000)", False), (r"\frac12", "0.5", True), ("1/2", r"\dfrac{1}{2}", True),
        (r"-\frac{1}{2}", "-.5", True), (r"\frac{-3}{6}", "-1/2", True), ("1/3", "0.333", False),
        (r"90^\circ", "90", True), (r"50\%", "50", True), (r"\$3.50", "3.5", True),
        (r"5\text{ cm}", "5", True), (r"5 \text{ cm}^2", "5", True), ("x = 7", "7", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", True),
        (r"2\sqrt3", r"2\sqrt{3}", True), (r"\text{Even}", "even", True), ("A", "a", False),
        (r"\text{(B)}", "(B)", True), ("12", "21", False), ("", "0", False), ("3.", "3", True),
        (r"\frac{1}{0}", r"\frac{1}{0}", True), ("1/0", "2/0", False),
        (r"\frac{n+1}{2}", r"\tfrac{n+1}{2}", True), ("x+1", "1+x", False),
        ("\N{MINUS SIGN}5", "-5", True), ("A", "(A)", True), ("(A)", "(B)", False),
        (r"3\frac12", "3.5", True), (r"-3\frac{1}{2}", r"-\frac72", True), ("x=5", "y=5", False),
        ("x = 5", "$x=5.0$", True), ("y=1,000", "1000", True), ("1" * 5000, "1" * 5000, False),
        (r"\{1, 2\}", r"\{1,2\}", True), ("1.0e3", "1000", False), ("٣", "3", False),
    ],
)  # fmt: skip
def test_answers_are_the_same_by_form_or_as_numbers(answer, gold, same):
    assert same_answer(answer, gold) is same
    assert same_answer(gold, answer) is same


def test_the_last_box_is_the_answer():
    assert final_answer(r"\boxed{1} then \boxed{\frac{1}{\sqrt{2}}} done") == r"\frac{1}{\sqrt{2}}"
    assert final_answer(r"\boxed{1} then \boxed{2") is None
    assert final_answer(r"so $\boxed 5$.") == "5" and final_answer(r"\boxed 1, \boxed{2}") == "2"
    assert final_answer("1") is None and not same_answer(None, "1")


def test_instructions(tmp_path):
    (got,) = one(tmp_path, "messages")
    assert got.uid == "messages/general.jsonl/0" and got.answer == "Pea soup."
    assert got.messages == (Message("system", "Be brief."), *asked("Hello", "Hi", "Which soup?"))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("helpsteer2", {"split": "val"}, "validation part"),
        ("helpsteer2", {"preference_strength": 0}, "no single best response"),
        ("helpsteer3", {"overall_preference": 0}, "no single best response"),
        ("helpsteer2", {"prompt": "a\n<extra_id_1>User\nb"}, "turns that do not alternate"),
        ("helpsteer2", {"prompt": "a\n<extra_id_1>Assistant\nb"}, "no user turn at the end"),
        ("offsetbias", {"instruction": " "}, "blank query"),
        ("offsetbias", {"output_1": "\ud800"}, "text that is not valid Unicode"),
        ("skywork", {"rejected": turns("Bye", "Hi", "Which soup?", "leek")},
         "two different conversations"),
        ("skywork", {"chosen": turns("Hello", last="user")}, "no response at the end"),
        ("messages", {"messages": turns("Hello", last="user")}, "no answer at the end"),
        ("messages", {"messages": [*turns("a", last="user"), *turns("b", "c")]},
         "turns that do not alternate"),
        ("messages", {"messages": [*turns("a", "b"), {"role": "system", "content": "c"},
                                   *turns("d", "e")]}, "turns that do not alternate"),
        ("messages", {"messages": [{"role": "system", "content": "c"},
                                   *turns("e")]}, "turns that do not alternate"),
        ("comparisons", {"prompt": " "}, "blank query"),
        ("comparisons", {"rewards": [1, 1]}, "no single best response"),
        ("comparisons", {"responses": ["\ud800", "x"]}, "text that is not valid Unicode"),
        # Equal responses: what is best is told by nothing.
        ("comparisons", {"responses": ["pea", "pea"]}, "equal responses"),
        ("ultrafeedback", {"completions": [completion("a", 5), completion("a", 1),
                                           completion("b", 2)]}, "equal responses"),
        ("offsetbias", {"output_1": "pea"}, "equal responses"),
        ("skywork", {"rejected": turns("Hello", "Hi", "Which soup?", "pea")}, "equal responses"),
        ("helpsteer2", {"response_1": "pea"}, "equal responses"),
        ("helpsteer3", {"response1": "pea"}, "equal responses"),
        ("nemotron_genrm", {"messages": [[{"role": "user", "content": genrm_prompt(
            "User: a", "x", "x")}]]}, "equal responses"),
        ("messages", {"messages": []}, "no answer at the end"),
        ("messages", {"messages": [{"role": "tool", "content": "4"}]}, "turns of tools"),
        ("evouna_pairs", {"improper": True}, "improper question"),
        ("evouna_singles", {"question": in_part("Which soup?", "test")}, "another part"),
        ("evouna_development", {"question": in_part("Which soup?")}, "another part"),
        ("evouna_pairs", {"judge_fid": True, "judge_gpt4": True},
         "no right answer beside enough wrong ones"),
        ("evouna_lists", {"answer_fid": "a pea"}, "equal responses"),
        ("qa_feedback", {"question": in_part("Which soup?", "test")}, "another part"),
        ("nemotron_genrm", {"messages": [[{"role": "user", "content": genrm_prompt(
            "User: a\n\nUser: b", "x", "y")}]]}, "turns that do not alternate"),
        ("nemotron_genrm", {"messages": [[{"role": "user", "content": genrm_prompt(
            "User: a", "x\n[The End of Response 1]\n", "y")}]]}, "markers inside a text"),
    ],
)  # fmt: skip
def test_rows_without_a_comparison_are_left_out_with_a_reason(tmp_path, name, changes, reason):
    assert one(tmp_path, name, **changes) == reason


def test_equal_responses_that_are_not_the_best_stay(tmp_path):
    (list_of_3,) = one(tmp_path, "comparisons", responses=["x", "y", "x"], rewards=[0, 2, 1])
    assert list_of_3.best == 1
    pairs = [one(tmp_path, name) for name in ("comparisons", "helpsteer3", "skywork")]
    assert [len(found) for found in pairs] == [1, 1, 1]


@pytest.mark.parametrize("name", ["comparisons", "ultrafeedback", "messages"])
def test_linked_folders_are_read_and_hidden_names_are_not(tmp_path, name):
    file, row = ROWS[name]
    write(tmp_path / "real", file, row)
    wanted = [r.uid for records in read(name, tmp_path / "real") for r in records]
    for hidden in (f"._{file}", f".{file}.swp", f".ipynb_checkpoints/{file}"):
        write(tmp_path / "real", hidden).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    for folder in ("real", "linked"):
        found = read(name, tmp_path / folder)
        assert [r.uid for records in found for r in records] == wanted


MISSING = object()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("ultrafeedback", "completions", MISSING),
        ("ultrafeedback", "instruction", 3),
        ("ultrafeedback", "completions[0].response", [{"model": "a", "fine-grained_score": 1}]),
        ("ultrafeedback", "completions[0].fine-grained_score", [completion("a", "4")]),
        ("offsetbias", "label", "1"),
        ("offsetbias", "label", 0),
        ("offsetbias", "output_2", MISSING),
        ("skywork", "rejected[0].role", [{"role": "bot", "content": "a"}]),
        ("skywork", "source", MISSING),
        ("helpsteer2", "split", "test"),
        ("helpsteer2", "preference_strength", -100),
        ("helpsteer2", "response_1", None),
        ("helpsteer3", "overall_preference", 1.0),
        ("helpsteer3", "context", "Which soup?"),
        ("math", "solution", MISSING),
        ("math", "responses[0]", [7]),
        ("nemotron_genrm", "ranking", 7),
        ("nemotron_genrm", "num_responses", 3),
        ("nemotron_genrm", "messages", [{"role": "user", "content": "x"}]),
        ("nemotron_genrm", "messages", [[{"role": "user", "content": "no markers"}]]),
        ("nemotron_genrm", "uuid", MISSING),
        ("evouna_pairs", "improper", None),
        ("evouna_singles", "judge_fid", "true"),
        ("evouna_lists", "golden_answer", MISSING),
        ("evouna_development", "answer_newbing", MISSING),
        ("qa_feedback", "preference", [0, 1, 2]),
        ("qa_feedback", "prediction 3", None),
        ("messages", "messages", MISSING),
        ("messages", "messages[0].content", [{"role": "user", "content": None}]),
    ],
)
def test_rows_of_another_format_are_errors_with_their_place(tmp_path, name, field, value):
    file, good = ROWS[name]
    bad = dict(good)
    if value is MISSING:
        del bad[field]
    else:
        bad[field.partition("[")[0]] = value
    path = write(tmp_path, file, good, bad)
    with pytest.raises(FieldError) as error:
        read(name, path)
    place = f"{path}[1]" if file.endswith(".json") else f"{path}:2"
    assert str(error.value).startswith(f"{place}: field '{field}':"), error.value


@pytest.mark.parametrize("name", ROWS)
def test_a_folder_holds_the_published_files(tmp_path, name):
    file, row = ROWS[name]
    (records,) = read(name, write(tmp_path, file, row))
    (found,) = read(name, tmp_path)
    uids = [record.uid for record in records]
    if name != "nemotron_genrm":  # which has names of its own
        inside = file.rpartition("/")[2]
        uids = [uid.replace(f"/{inside}/", f"/{file}/") for uid in uids]
    assert [record.uid for record in found] == uids
    with pytest.raises(ValueError, match="no such file"):
        read(name, tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ROWS)
def test_parquet_holds_the_same_rows(tmp_path, name):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file, row = ROWS[name]
    path = tmp_path / "0000.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    (found,) = read(name, path)
    (records,) = read(name, write(tmp_path, file, row))
    for got, want in zip(found, records, strict=True):
        assert got.messages == want.messages
        if name == "messages":
            assert got.answer == want.answer
        else:
            fields = ("responses", "rewards", "hint_note", "meta")
            assert all(getattr(got, f) == getattr(want, f) for f in fields)


def test_broken_parquet_rows_and_files_are_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    _, row = ROWS["offsetbias"]
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row, {**row, "label": 5}]), path)
    with pytest.raises(FieldError, match=r"train\.parquet\[1\]: field 'label'"):
        read("offsetbias", path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="damaged Parquet file"):
        read("offsetbias", path)
    for flipped in range(4, len(whole), 7):  # what pyarrow says to it is not always its own error
        path.write_bytes(whole[:flipped] + bytes([whole[flipped] ^ 0xFF]) + whole[flipped + 1 :])
        try:
            read("offsetbias", path)
        except ValueError as error:
            assert str(path) in str(error)


def test_a_cut_archive_is_named(tmp_path):
    file, row = ROWS["helpsteer3"]
    path = write(tmp_path, file, *[{**row, "response1": str(i) * 99} for i in range(2000)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="damaged archive after line"):
        read("helpsteer3", path)
