"""Facts from the text of a compiled program: collectives, estimated cycles, copies in loops.

Everything inside the body of a loop counts as often as it turns, which its condition says if that
compares a counter with a constant. A loop whose turns depend on data, such as decoding, counts
once: its figures are of one turn. Of a conditional the costlier branch counts: the one of more
estimated cycles, or of more bytes in collectives and copies where the compiler estimates none.
"""

import dataclasses
import math
import re
from collections import Counter
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r" while\(.*condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = s32\[\][^ ]* constant\((\d+)\)")
_BELOW = re.compile(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLER = re.compile(r" (while|conditional|call)\(")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute)"
    r"(-start)?\("
)
# On TPU a reduce-scatter is a fusion, which holds an all-reduce of the whole.
_FUSED = re.compile(r" fusion\(.*calls=%?all-reduce-scatter")
# On GPU one of these may be a kernel, which is a fusion of nothing else.
_COPY = re.compile(r" (?:copy|transpose)\(| fusion\(.*calls=%?wrapped_(?:copy|transpose)")
_ARRAY = re.compile(r"\b(pred|[subf]\d+|bf16|f8\w*|s4|u4)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2, "s4": 1, "u4": 1}


class Collective(NamedTuple):
    """All collectives of one kind. Bytes are those of their results on one device."""

    count: int
    bytes: int


class Facts(NamedTuple):
    """Facts of a program.

    Attributes:
      collectives: by kind.
      cycles: estimated by the compiler, for ranking programs only; 0 if it says nothing.
      copies: bytes that copies and transposes write in one turn of an outermost loop, of the loop
        with most of them. Loops inside it count with all their turns.
    """

    collectives: dict[str, Collective]
    cycles: int
    copies: int


@dataclasses.dataclass
class _Sum:
    """Sums over one run of a computation; `copies` as in `Facts`, `copied` in all lines."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    sizes: Counter[str] = dataclasses.field(default_factory=Counter)
    cycles: int = 0
    copied: int = 0
    copies: int = 0

    def collect(self, kind: str, size: int) -> None:
        self.counts[kind] += 1
        self.sizes[kind] += size

    def add(self, other: "_Sum", turns: int) -> None:
        for kind, count in other.counts.items():
            self.counts[kind] += turns * count
            self.sizes[kind] += turns * other.sizes[kind]
        self.cycles += turns * other.cycles
        self.copied += turns * other.copied
        self.copies = max(self.copies, other.copies)

    def price(self) -> tuple[int, int]:
        return self.cycles, self.sizes.total() + self.copied


def read(text: str) -> Facts:
    """The facts of the text of a compiled program (`jax.stages.Compiled.as_text`).

    Raises:
      ValueError: if there is no such program in it.
    """
    lines_of, entry = _computations(text)
    whole = _sum(entry, lines_of)
    kinds = sorted(whole.counts)
    collectives = {kind: Collective(whole.counts[kind], whole.sizes[kind]) for kind in kinds}
    return Facts(collectives, whole.cycles, whole.copies)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry = name = None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif line == "}":  # kernels spread their text over lines, some of which begin with one
            name = None
        elif name is not None:
            computations[name].append(line)
    if entry is None:
        raise ValueError("no ENTRY computation in the text of a program")
    return computations, entry


def _sum(name: str, lines_of: dict[str, list[str]]) -> _Sum:
    """Sums of a computation and of all that it calls."""
    result = _Sum()
    for line in lines_of[name]:
        collective, cycles, caller = (
            pattern.search(line) for pattern in (_COLLECTIVE, _CYCLES, _CALLER)
        )
        if collective:
            result.collect(collective[1], _result_bytes(line, collective))
        elif _FUSED.search(line):
            result.collect("reduce-scatter", _array_bytes(line.split(" fusion(")[0]))
        if cycles:
            result.cycles += int(cycles[1])
        copy = _COPY.search(line)
        if copy:
            result.copied += _array_bytes(line[: copy.start()])
        if not caller:
            continue
        called = [_sum(name, lines_of) for name in _called(line) if name in lines_of]
        if caller[1] == "conditional":
            called = [max(called, key=_Sum.price)]
        turns = _turns(line, lines_of) if caller[1] == "while" else 1
        for part in called:
            result.add(part, turns)
        if caller[1] == "while":
            result.copies = max(result.copies, sum(part.copied for part in called))
    return result


def _called(line: str) -> list[str]:
    """Names of the computations that a line calls."""
    groups = [single or several for single, several in _CALLED.findall(line)]
    return [name.strip().lstrip("%") for names in groups for name in names.split(",")]


def _turns(line: str, lines_of: dict[str, list[str]]) -> int:
    """Turns of the loop of a line; 1 where only data decide."""
    known = _TRIPS.search(line)
    if known:
        return int(known[1])
    condition = lines_of.get((_CONDITION.search(line) or ["", ""])[1], [])
    constants = dict(match.groups() for match in map(_CONSTANT.search, condition) if match)
    bounds = [match[1] for match in map(_BELOW.search, condition) if match]
    return int(constants.get(bounds[0], 1)) if bounds else 1


def _result_bytes(line: str, collective: re.Match) -> int:
    """Bytes of the results of a collective, one or several."""
    head = line[: collective.start()].split(" = ", 1)[1]
    # What starts an asynchronous one gives (operands, results, ..), but for an all-reduce.
    if collective[2] and collective[1] != "all-reduce":
        head = _parts(head)[1]
    return _array_bytes(head)


def _parts(tuple_type: str) -> list[str]:
    """The members of "(a, (b, c), d)", which have commas and brackets of their own."""
    parts, depth = [""], 0
    for letter in tuple_type[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _array_bytes(head: str) -> int:
    total = 0
    for dtype, shape in _ARRAY.findall(head):
        width = _BYTES.get(dtype) or (1 if dtype.startswith("f8") else int(dtype[1:]) // 8)
        total += width * math.prod(map(int, filter(None, shape.split(","))))
    return total
