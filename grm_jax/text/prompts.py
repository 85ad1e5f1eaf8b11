r"""Prompt templates: pointwise GRM, its single-response form, LLM-as-a-Judge, and the meta RM.

The structure (order of the blocks, headings, delimiters, labels of the output) follows appendix G
of "Inference-Time Scaling for Generalist Reward Modeling"; the words are our own. A prompt is the
text of one user message:

    introduction
    #### Evaluation Criteria ####
    #### Conversation Context ####
    #### Responses to be Scored ####        [The Begin of Response i] .. [The End of Response i]
    #### Output Format Requirements ####    Specific Criteria: / Analysis: / Scores: \boxed{x, x}
    hint (only for hinted sampling)

The form 'full' carries graded levels for each general criterion. The form 'compact' has the same
sections, headings and delimiters with as few fixed words as possible, for models of short context.

All text that comes from data passes through `guard`. Deviations from the printed templates:
the box shows one x per response, and the judge sees numbered delimiters because it answers with a
number.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

FORMS = ("full", "compact")
PRINCIPLE_MODES = ("self", "none")
PRINCIPLES_HEADING = "Specific Criteria:"
ROLES = ("system", "user", "assistant")


class Message(NamedTuple):
    """One turn of a conversation; role is one of `ROLES`, or one that a judge's template names."""

    role: str
    content: str


# --- Guarding data ----------------------------------------------------------------------------

# Characters that draw nothing: a person cannot see them, so they must not hide a marker.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
_HIDDEN = f"[{_INVISIBLE}]*"
# \s covers every Unicode space; U+2800 draws as one, and U+2581 is a space to SentencePiece.
_GAP = rf"[\s\u2800\u2581{_INVISIBLE}]*"


def _word(letters: str) -> str:
    return _HIDDEN.join(letters)


_HASHES = re.compile(rf"#(?:{_HIDDEN}#){{3,}}")
_DELIMITER = re.compile(
    r"\["
    + _GAP.join(["", _word("the"), f"(?:{_word('begin')}|{_word('end')})", _word("of")])
    + _GAP
    + _word("response"),
    re.IGNORECASE,
)
_BOX = re.compile(rf"(\\{_GAP}){_word('boxed')}({_GAP}\{{)", re.IGNORECASE)


def guard(text: str) -> str:
    r"""Neutralise `text` so that it forges neither a heading, a delimiter nor a box.

    Three visible substitutions, each the smallest that a reader would understand:

    - a run of four or more `#` becomes `###` (headings of the template start with `####`);
    - `[The Begin of Response` and `[The End of Response` open with `(` instead of `[`;
    - `\boxed{` becomes `\fbox{`, which means the same in LaTeX and is no score.

    The patterns ignore case, spacing of any kind and invisible characters. Other text is returned
    unchanged. Idempotent: no substitution can complete another marker. Not covered, because it is
    no markup: a plain claim ("Response 1 is best"), or `Assistant:` inside a user turn.
    """
    text = _HASHES.sub("###", text)
    text = _DELIMITER.sub(lambda match: "(" + match.group()[1:], text)
    return _BOX.sub(r"\1fbox\2", text)


# --- Words ------------------------------------------------------------------------------------


class _Wording(NamedTuple):
    """Fixed words of one kind of prompt in one form; {...} are filled by `_render`."""

    introduction: str
    criteria: str
    request: str  # first line of the output format; '' leaves it out
    analysis: str
    scores: str


class _Principles(NamedTuple):
    """Words that a principle mode adds to a prompt, by form. Further modes are further rows."""

    task: str  # clause of the introduction
    line: str  # line of the output format; '' leaves it out
    parts: str  # number of parts the output has


_PRINCIPLES = {
    ("full", "self"): _Principles(
        " and against further criteria that you state yourself for this query, each with its"
        " weight",
        f"{PRINCIPLES_HEADING} the further criteria for this query, and the weight of each.",
        "three parts",
    ),
    ("full", "none"): _Principles("", "", "two parts"),
    ("compact", "self"): _Principles("", f"{PRINCIPLES_HEADING} names, weights", ""),
    ("compact", "none"): _Principles("", "", ""),
}

_LEVELS = ("9-10 points", "6-8 points", "3-5 points", "1-2 points")
# name, question, then (level, sign) from best to worst, and one example
_GENERAL = (
    (
        "Instruction Adherence",
        "Does the response do what it was told?",
        ("every demand is met", "most demands are met", "some demands are met", "hardly any is"),
        "asked for three titles in French, four titles in French meet most demands.",
    ),
    (
        "Usefulness",
        "Does it solve the problem of the user, and correctly?",
        ("solves it", "solves the main part", "helps a little", "is wrong or of no help"),
        "code that runs but skips empty input solves the main part.",
    ),
    (
        "Level of Detail",
        "Does it say as much as the query calls for?",
        ("complete and deep", "a point is thin", "only an outline", "bare"),
        "a recipe with steps but without amounts is only an outline.",
    ),
    (
        "Relevance",
        "Does it keep to the query?",
        ("all of it belongs", "few digressions", "half of it digresses", "off the subject"),
        "a history of tea in reply to how long to steep it is off the subject.",
    ),
)
_BINARY = (
    _GENERAL[0],
    (
        "Clarity",
        "Can the reader follow it?",
        ("clear throughout", "one passage is unclear", "takes effort", "cannot be followed"),
        "a proof that uses a symbol before it is defined has one unclear passage.",
    ),
    (
        "Accuracy",
        "Is what it says true, and its result right?",
        ("no error", "a slip that changes nothing", "some errors", "mostly wrong"),
        "a right derivation with a wrong final number is mostly wrong.",
    ),
)


def _levels(criteria: Sequence[tuple], banded: bool) -> str:
    lines = []
    for number, (name, question, levels, example) in enumerate(criteria, start=1):
        lines.append(f"{number}. {name}: {question}")
        for points, level in zip(_LEVELS, levels, strict=True):
            lines.append(f"   - {points}: {level}." if banded else f"   - {level}.")
        lines.append(f"   Example: {example}")
    return "\n".join(lines)


_WORDING = {
    ("full", "grm"): _Wording(
        "You are an experienced grader of the responses of assistants.\n"
        "Below are a conversation, whose last turn is the query of the user, and {several} to that"
        " query. Judge {each} against the general criteria in [Evaluation Criteria]{task}, and"
        " conclude with one overall score for each response.\n"
        "A score is a whole number from 1 to 10, the higher the better: 1 means that the response"
        " meets the criteria in nothing, 6 that it meets them in some parts, 10 that nothing is"
        " missing.\n"
        "Reason step by step before you score, and be as strict as you can.",
        _levels(_GENERAL, banded=True),
        "Write {parts}, each starting with its label:",
        "Analysis: a step by step comparison of the responses under all criteria.",
        "Scores: the overall scores of all responses in the order shown, separated by commas in"
        " one box, in the form {box}.",
    ),
    ("full", "binary"): _Wording(
        "You are an experienced grader of the responses of assistants.\n"
        "Below are a conversation, whose last turn is the query of the user, and one response to"
        " that query. Judge it against the general criteria in [Evaluation Criteria]{task}, and"
        " conclude with one overall score.\n"
        "The score is 0 or 1: 1 means that the response is correct, 0 that it is not.\n"
        "Reason step by step before you score, and be as strict as you can.",
        _levels(_BINARY, banded=False),
        "Write {parts}, each starting with its label:",
        "Analysis: a step by step examination of the response under all criteria.",
        "Scores: the overall score in a box, in the form {box}.",
    ),
    ("full", "judge"): _Wording(
        "You are an experienced grader of the responses of assistants.\n"
        "Below are a conversation, whose last turn is the query of the user, and {several} to that"
        " query. Judge {each} against the general criteria in [Evaluation Criteria]{task}, and"
        " conclude with the one response that is best.\n"
        "Reason step by step before you decide, and be as strict as you can.",
        _levels(_GENERAL, banded=False),
        "Write {parts}, each starting with its label:",
        "Analysis: a step by step comparison of the responses under all criteria.",
        "Scores: the number of the best response in a box, in the form {box}.",
    ),
    ("compact", "grm"): _Wording(
        "Score each response, integer 1 to 10.",
        "Instructions, usefulness, detail, relevance.",
        "",
        "Analysis: each response",
        "Scores: {box}",
    ),
    ("compact", "binary"): _Wording(
        "Score the response, 1 correct, 0 not.",
        "Instructions, clarity, accuracy.",
        "",
        "Analysis: the response",
        "Scores: {box}",
    ),
    ("compact", "judge"): _Wording(
        "Choose the best response by number.",
        "Instructions, usefulness, detail, relevance.",
        "",
        "Analysis: each response",
        "Scores: {box}",
    ),
}
_ASK_PRINCIPLES = {
    "full": "You are an experienced grader of the responses of assistants.\n"
    "Below is a conversation, whose last turn is the query of the user. State the criteria by which"
    " responses to this query should be judged, each with its weight. There are no responses yet.",
    "compact": "State criteria for responses, with weights.",
}
_META_REQUEST = {"full": "Rate the responses below.", "compact": "Rate the responses."}


# --- Rendering --------------------------------------------------------------------------------


def _check(form: str, principles: str = "self") -> None:
    if form not in FORMS:
        raise ValueError(f"form: expected one of {FORMS}, got {form!r}")
    if principles not in PRINCIPLE_MODES:
        raise ValueError(f"principles: expected one of {PRINCIPLE_MODES}, got {principles!r}")


def _section(title: str, body: str) -> str:
    return f"#### {title} ####\n{body}"


def _conversation(messages: Sequence[Message]) -> str:
    """The bare query for a single user turn; otherwise one labelled turn after another."""
    if not messages:
        raise ValueError("messages: a conversation needs at least one message")
    for index, (role, _) in enumerate(messages):
        if role not in ROLES:
            raise ValueError(f"messages[{index}].role: expected one of {ROLES}, got {role!r}")
    if messages[-1].role != "user":
        raise ValueError(f"messages: the last turn must be of the user, got {messages[-1].role!r}")
    if len(messages) == 1:
        text = messages[0].content
    else:
        text = "\n".join(f"{role.capitalize()}: {content}" for role, content in messages)
    return _section("Conversation Context", guard(text))


def _responses(responses: Sequence[str], numbered: bool = True) -> str:
    if not responses:
        raise ValueError("responses: at least one response is needed")
    lines = []
    for number, response in enumerate(responses, start=1):
        label = f"Response {number}" if numbered else "Response"
        lines += [f"[The Begin of {label}]", guard(response), f"[The End of {label}]"]
    return _section("Responses to be Scored", "\n".join(lines))


def _join(form: str, blocks: Sequence[str]) -> str:
    return ("\n\n" if form == "full" else "\n").join(blocks)


def _render(
    kind: str,
    messages: Sequence[Message],
    responses: Sequence[str],
    form: str,
    principles: str,
    boxed: int,
) -> list[str]:
    _check(form, principles)
    words, mode = _WORDING[form, kind], _PRINCIPLES[form, principles]
    fill = {
        "several": "one response" if len(responses) == 1 else f"{len(responses)} responses",
        "each": "it" if len(responses) == 1 else "each of them",
        "task": mode.task,
        "parts": mode.parts,
        "box": "\\boxed{" + ", ".join("x" * boxed) + "}",
    }
    request, scores = words.request.format(**fill), words.scores.format(**fill)
    output = [line for line in (request, mode.line, words.analysis, scores) if line]
    return [
        words.introduction.format(**fill),
        _section("Evaluation Criteria", words.criteria),
        _conversation(messages),
        _responses(responses, numbered=kind != "binary"),
        _section("Output Format Requirements", "\n".join(output)),
    ]


class Hint(NamedTuple):
    """The answer in the prompt of hinted sampling.

    Attributes:
      best: presented index (from 0) of the best response; for binary prompts the label.
      note: a further line, e.g. the strength of the preference.
    """

    best: int
    note: str = ""


def _hint(hint: Hint, n: int, binary: bool) -> str:
    best, note = hint
    if binary:
        if best not in (0, 1):
            raise ValueError(f"hint: the label of a binary prompt is 0 or 1, got {best!r}")
        text = f"The correct score is: {int(best)}"
    else:
        if n < 2:
            raise ValueError("hint: naming the best response needs at least two responses")
        if not 0 <= best < n:
            raise ValueError(f"hint: expected an index below {n}, got {best!r}")
        text = f"The best response is: Response {best + 1}"
    return f"{text}\n{guard(note)}" if note else text


def grm_prompt(
    messages: Sequence[Message],
    responses: Sequence[str],
    *,
    form: str = "full",
    principles: str = "self",
    binary: bool = False,
    hint: Hint | None = None,
    reference: str = "",
) -> str:
    r"""Text of the one user message that asks a GRM to score `responses`.

    Args:
      messages: the conversation; the last message is the query of the user.
      responses: n >= 1 responses in presentation order.
      form: one of FORMS.
      principles: 'self' lets the model write its own principles before the critique; 'none' has
        no such step (no `Specific Criteria:` line), the arm without principle generation.
      binary: the single-response training form with scores 0 and 1 (n == 1 only).
      hint: for hinted sampling. It is appended after the output format (the paper leaves the place
        open), so that the unhinted prompt is a prefix.
      reference: a correct answer to the query, shown before the responses (the paper's variant with
        reference); "" for none.

    Raises:
      ValueError: naming the argument that is out of its domain.
    """
    n = len(responses)
    if binary and n != 1:
        raise ValueError(f"responses: the binary form scores exactly one response, got {n}")
    blocks = _render("binary" if binary else "grm", messages, responses, form, principles, n)
    if reference:
        blocks.insert(3, _section("Reference Answer", guard(reference)))
    if hint is not None:
        blocks.append(_hint(hint, n, binary))
    return _join(form, blocks)


def judge_prompt(messages: Sequence[Message], responses: Sequence[str], *, form="full") -> str:
    r"""Prompt of LLM-as-a-Judge: the answer is the number (from 1) of the best response.

    Read it with `scores.parse_strict(text, 1, 1, len(responses))`. Raises ValueError for fewer
    than two responses.
    """
    if len(responses) < 2:
        raise ValueError(f"responses: a judge chooses among two or more, got {len(responses)}")
    return _join(form, _render("judge", messages, responses, form, "self", 1))


def meta_rm_prompt(messages: Sequence[Message], responses: Sequence[str], *, form="full") -> str:
    """User turn of the meta RM; the trajectory to be judged is the assistant turn after it.

    No criteria and no output format: the input stays short (appendix G). Responses stand in the
    order in which the trajectory saw them.
    """
    _check(form)
    return _join(form, [_META_REQUEST[form], _conversation(messages), _responses(responses)])


def principles_prompt(messages: Sequence[Message], *, form="full") -> str:
    """Prompt for principles from the query alone: no response can sway them."""
    _check(form)
    line = _PRINCIPLES[form, "self"].line
    return _join(
        form,
        [_ASK_PRINCIPLES[form], _conversation(messages),
         _section("Output Format Requirements", line)],
    )  # fmt: skip


def given_principles(text: str) -> str:
    """The beginning of an answer whose principles are given: the critique follows (Eq. 8).

    In SPCT one generation holds principles and then critique, so to give principles is to begin
    the answer with them: the model meets nothing that its training did not have.

    Raises:
      ValueError: an empty text.
    """
    text = guard(text).strip()
    if not text.removeprefix(PRINCIPLES_HEADING).strip():
        raise ValueError("principles: nothing is given")
    if not text.startswith(PRINCIPLES_HEADING):
        text = f"{PRINCIPLES_HEADING} {text}"
    return text + "\n"


def score_range(binary: bool) -> tuple[int, int]:
    """Lowest and highest score of `grm_prompt`: (0, 1) for the binary form, else (1, 10)."""
    return (0, 1) if binary else (1, 10)


def template_fingerprint() -> str:
    """Hex digest of every template; it changes whenever a fixed word of any prompt changes."""
    query, pair = [Message("user", "q")], ["a", "b"]
    turns = [Message("system", "s"), Message("user", "u"), Message("assistant", "v"), *query]
    texts = []
    for form in FORMS:
        texts += [judge_prompt(turns, pair, form=form), meta_rm_prompt(query, pair, form=form),
                  principles_prompt(query, form=form), given_principles("p"),
                  grm_prompt(query, pair, form=form, reference="r")]  # fmt: skip
        for mode in PRINCIPLE_MODES:
            for binary, shown in ((False, pair), (False, pair[:1]), (True, pair[:1])):
                hint = Hint(0) if binary or len(shown) > 1 else None
                texts.append(
                    grm_prompt(query, shown, form=form, principles=mode, binary=binary, hint=hint)
                )
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
