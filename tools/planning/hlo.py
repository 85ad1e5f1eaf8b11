"""What the text of a compiled program says: collectives, estimated cycles, copies in loops.

Everything inside the body of a loop counts as often as it turns, which its condition says if that
compares a counter with a constant. A loop whose turns depend on data, such as decoding, counts
once: its figures are of one turn.
"""

import re
from collections import Counter
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r" while\(.*condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = s32\[\][^ ]* constant\((\d+)\)")
_BELOW = re.compile(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
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
_ARRAY = re.compile(r"\b(pred|[subf]\d+|bf16|f8\w*|s4|u4)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2, "s4": 1, "u4": 1}


class Collective(NamedTuple):
    """All collectives of one kind. Bytes are those of their results on one device."""

    count: int
    bytes: int


class Facts(NamedTuple):
    """What was read.

    Attributes:
      collectives: by kind.
      cycles: estimated by the compiler, for ranking programs only; 0 if it says nothing.
      copies: bytes of the largest copy or transpose inside a loop, of one turn.
    """

    collectives: dict[str, Collective]
    cycles: int
    copies: int


def read(text: str) -> Facts:
    """The facts of the text of a compiled program (`jax.stages.Compiled.as_text`)."""
    lines_of, entry = _computations(text)
    times: Counter[str] = Counter()
    in_loop: set[str] = set()
    _walk(entry, 1, False, lines_of, times, in_loop)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    cycles = copies = 0
    for name, turns in times.items():
        for line in lines_of[name]:
            found = _COLLECTIVE.search(line)
            if found:
                counts[found[1]] += turns
                sizes[found[1]] += turns * _result_bytes(line, found)
            elif _FUSED.search(line):
                counts["reduce-scatter"] += turns
                sizes["reduce-scatter"] += turns * _array_bytes(line.split(" fusion(")[0])
            estimate = _CYCLES.search(line)
            if estimate:
                cycles += turns * int(estimate[1])
            if name in in_loop and re.search(r" (copy|transpose)\(", line):
                copies = max(copies, _array_bytes(line.split("(")[0]))
    collectives = {kind: Collective(counts[kind], sizes[kind]) for kind in sorted(counts)}
    return Facts(collectives, cycles, copies)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    found: dict[str, list[str]] = {}
    entry = name = None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name = head[2]
            found[name] = []
            entry = name if head[1] else entry
        elif line == "}":  # kernels spread their text over lines, some of which begin with one
            name = None
        elif name is not None:
            found[name].append(line)
    if entry is None:
        raise ValueError("no ENTRY computation in the text of a program")
    return found, entry


def _walk(name, turns, looping, lines_of, times, in_loop) -> None:
    times[name] += turns
    if looping:
        in_loop.add(name)
    for line in lines_of[name]:
        loop = " while(" in line
        inner = turns * _turns(line, lines_of) if loop else turns
        for one, several in _CALLED.findall(line):
            for called in [one, *(part.strip().lstrip("%") for part in several.split(","))]:
                if called in lines_of and " fusion(" not in line and "reduce" not in line:
                    _walk(called, inner, looping or loop, lines_of, times, in_loop)


def _turns(line: str, lines_of: dict[str, list[str]]) -> int:
    """Of the loop of a line; 1 where only data decide."""
    known = _TRIPS.search(line)
    if known:
        return int(known[1])
    condition = lines_of.get((_CONDITION.search(line) or ["", ""])[1], [])
    constants = dict(match.groups() for match in map(_CONSTANT.search, condition) if match)
    bounds = [match[1] for match in map(_BELOW.search, condition) if match]
    return int(constants.get(bounds[0], 1)) if bounds else 1


def _result_bytes(line: str, found: re.Match) -> int:
    """Of the result; the start of an asynchronous one lists its operands first."""
    arrays = [_one(*array) for array in _ARRAY.findall(line[: found.start()])]
    return max(arrays, default=0) if found[2] else sum(arrays)


def _array_bytes(head: str) -> int:
    return sum(_one(*array) for array in _ARRAY.findall(head))


def _one(dtype: str, shape: str) -> int:
    width = _BYTES.get(dtype) or (1 if dtype.startswith("f8") else int(dtype[1:]) // 8)
    size = 1
    for part in filter(None, shape.split(",")):
        size *= int(part)
    return size * width
