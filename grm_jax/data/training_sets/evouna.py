"""EVOUNA (wangcunxiang/QA-Eval): answers of five systems to questions, called right or wrong.

``NQ.json`` has 3,610 questions of Natural Questions. Keys read: `question`, `golden_answer` (right
answers, parted by "/", which become the reference), `improper`, and for each of `SYSTEMS` the text
`answer_<system>` and `judge_<system>`, whether people called it right. 590 questions are improper
and are left out; answers without a text or a label, 2 of the other 15,100, are absent.

The set has no splits: `rows.part_of` makes them. The systems stand in an order by hash, because in
the file the place of an answer tells how good its system is.
"""

import functools
from collections.abc import Iterator, Mapping

from grm_jax.data.comparison import Comparison
from grm_jax.data.reading import located, one_turn, require
from grm_jax.data.training_sets import rows

FILES = ("NQ.json",)
SYSTEMS = ("fid", "gpt35", "chatgpt", "gpt4", "newbing")


def is_improper(where: str, row: rows.Row) -> bool:
    """Whether the authors left the question out, such as one whose answer has changed since."""
    return require(where, row, "improper", bool)


def labels(where: str, row: rows.Row) -> dict[str, bool]:
    """Which systems are right, of those with an answer and a label, in their hashed order."""
    found = {}
    for system in rows.shuffled(require(where, row, "question", str), SYSTEMS):
        names = {f"answer_{system}": str, f"judge_{system}": bool}
        # A key that is missing, and not null, is an error of `require`.
        values = [
            None if row.get(name, "") is None else require(where, row, name, kind)
            for name, kind in names.items()
        ]
        if None not in values:
            found[system] = values[1]
    return found


def pairs(right: Mapping[str, bool]) -> Iterator[list[str]]:
    """The systems of every pair of a right and a wrong answer."""
    for good in filter(right.__getitem__, right):
        for bad in right:
            if not right[bad]:
                yield [system for system in right if system in (good, bad)]


def lists(right: Mapping[str, bool]) -> Iterator[list[str]]:
    """The systems of every list of one right answer and all wrong ones, if these are several."""
    if list(right.values()).count(False) > 1:
        for good in filter(right.__getitem__, right):
            yield [system for system in right if system == good or not right[system]]


def singles(right: Mapping[str, bool]) -> Iterator[list[str]]:
    """Each answer alone."""
    for system in right:
        yield [system]


FORMS = {"pairs": pairs, "lists": lists, "singles": singles}


def comparison(
    where: str, uid: str, row: rows.Row, shown: list[str], subset: str = "", **named
) -> Comparison:
    """The comparison of the answers of some systems, with the right ones best."""
    responses = [require(where, row, f"answer_{system}", str) for system in shown]
    rewards = [float(require(where, row, f"judge_{system}", bool)) for system in shown]
    reference = require(where, row, "golden_answer", str)
    return located(
        where, uid, one_turn(where, row, "question"), responses, rewards, subset,
        query="question", reference=reference, **named,
    )  # fmt: skip


def _read(
    forms: tuple[str, ...], wanted: str, where: str, uid: str, row: rows.Row
) -> rows.Comparisons:
    """The comparisons of a question in these forms, if it is in the wanted part."""
    if is_improper(where, row):
        raise rows.Unusable("improper question")
    if rows.part_of(where, row, "question") != wanted:
        raise rows.Unusable("another part")
    right = labels(where, row)
    chosen = [(form, shown) for form in forms for shown in FORMS[form](right)]
    if not chosen:
        raise rows.Unusable("no right answer beside enough wrong ones")
    for form, shown in chosen:
        yield comparison(where, f"{uid}/{'-'.join(shown)}", row, shown, f"evouna_{form}")


# Three sets for training, so that a mixture can weigh the forms; one of all forms for development.
READERS = {
    **{f"evouna_{form}": functools.partial(_read, (form,), "train") for form in FORMS},
    "evouna_development": functools.partial(_read, tuple(FORMS), "development"),
}
