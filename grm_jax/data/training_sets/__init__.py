"""The public training sets by name. One file each: which files and columns, and how they are read.

Data sets are never part of this project: a path is a folder of the user's, as downloaded, or one
file of it (`python -m tools.download --set=NAME --out=DIR` fetches the published ones).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grm_jax.data.comparison import Comparison, ContentError
from grm_jax.data.reading import from_row, read_objects
from grm_jax.data.training_sets import (
    evouna,
    helpsteer2,
    helpsteer3,
    instructions,
    math_answers,
    nemotron_genrm,
    offsetbias,
    qa_feedback,
    skywork,
    ultrafeedback,
)
from grm_jax.data.training_sets.instructions import Instruction
from grm_jax.data.training_sets.rows import Unusable, check_usable
from grm_jax.files import visible_files

Record = Comparison | Instruction


@dataclass(frozen=True)
class TrainingSet:
    """A format.

    Attributes:
      name: how configs call it.
      kind: "comparisons", or "instructions" for general data.
      files: patterns of its files below a folder; the first that matches any is the one.
      read: (place, uid, row) -> the records of a row; raises Unusable or FieldError.
    """

    name: str
    kind: str
    files: tuple[str, ...]
    read: Callable[[str, str, dict[str, Any]], Iterator[Record]]

    def paths(self, path: str) -> list[Path]:
        """Files of a folder in the order of their names, or the file that `path` is.

        Raises:
          ValueError: there is none.
        """
        if Path(path).is_file():
            return [Path(path)]
        for pattern in self.files:
            if files := visible_files(path, pattern):
                return files
        raise ValueError(
            f"{self.name}: {path}: no such file, or no {' or '.join(self.files)} in it"
        )

    def rows(self, path: str) -> Iterator[tuple[str, list[Record] | str]]:
        """(place, records) of every row, or (place, reason) where it is not usable.

        A row without a name of its own has uid ``<set>/<file>/<number>``, where the file is named
        as below the folder and rows count from 0.

        Raises:
          ValueError: nothing to read, or a row of another format, as ``path:line: field 'x': ...``.
        """
        for file in self.paths(path):
            inside = file.name if file == Path(path) else file.relative_to(path).as_posix()
            for number, (where, row) in enumerate(read_objects(file)):
                try:
                    records = [*self.read(where, f"{self.name}/{inside}/{number}", row)]
                    for record in records:
                        check_usable(record)
                    yield where, records
                except (Unusable, ContentError) as error:
                    yield where, error.args[-1]


SETS: Mapping[str, TrainingSet] = {
    one.name: one
    for one in (
        # Our own format, see `reading.read_jsonl`, whose rows bring their uid.
        TrainingSet(
            "comparisons", "comparisons", ("*.jsonl", "*.jsonl.gz"),
            lambda where, uid, row: iter([from_row(where, row)]),
        ),
        *(
            TrainingSet(name, "comparisons", module.FILES, module.read)
            for name, module in (
                ("ultrafeedback", ultrafeedback),
                ("offsetbias", offsetbias),
                ("skywork", skywork),
                ("helpsteer2", helpsteer2),
                ("helpsteer3", helpsteer3),
                ("math", math_answers),
                ("nemotron_genrm", nemotron_genrm),
            )
        ),
        *(
            TrainingSet(name, "comparisons", module.FILES, read)
            for module in (evouna, qa_feedback)
            for name, read in module.READERS.items()
        ),
        TrainingSet("messages", "instructions", instructions.FILES, instructions.read),
    )
}  # fmt: skip
