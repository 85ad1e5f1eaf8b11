"""Training data from files: checked as a whole first, then read in one global order.

    workdir/data.json    the result of the check: rows, rows left out, overlaps with benchmarks

The check reads every row of `config.data.train` and `config.data.general` once, validates it, and
compares its prompt with the benchmarks, which refuses by default. It is not repeated as long as the
config and the files (names, sizes, times), those of the benchmarks too, are the same.
"""

import hashlib
import os
import pathlib
from collections import Counter
from collections.abc import Callable

from experiments import sections
from grm_jax import ranges
from grm_jax.benchmarks import SUITES, load_suite
from grm_jax.benchmarks.files import MissingFiles
from grm_jax.data import mixture
from grm_jax.data.comparison import Comparison
from grm_jax.data.contamination import BenchmarkPrompts
from grm_jax.data.training_sets import SETS, Record
from grm_jax.files import read_json, visible_files

SPLITS = ("train", "general")  # the splits that stages train on


class TrainingData:
    """The files of section `data`.

    Attributes:
      report: JSON of the check: "sources", by split and source, "compared", and "overlaps", a list
        of {split, place, uid, suite, row, rule}.
      fresh: whether the check was made now.
    """

    def __init__(
        self,
        config: sections.DataConfig,
        seed: int,
        workdir: pathlib.Path,
        say: Callable[[str], None] = lambda text: None,
    ):
        """Checks the data, unless data.json has the result of an earlier check.

        Args:
          config: section `data`.
          seed: of the order of the rows.
          workdir: the folder of data.json.
          say: prints a line for people.

        Raises:
          ValueError: naming file, line and field of a bad row; or place and benchmark row of a row
            that is in a benchmark.
        """
        self._config, self._seed = config, seed
        path = workdir / "data.json"
        key = self._key()
        known = read_json(path) if path.exists() else {}
        self.fresh = known.get("key") != key
        if self.fresh:
            say("data: reading all of it, and comparing it with the benchmarks")
            self.report = {"key": key, **self._check()}
            for line in self._lines():
                say(line)
        else:
            self.report = known
        overlaps = self.report["overlaps"]
        if overlaps and self._config.overlap == "refuse":
            first = "; ".join(
                f"{o['place']}: {o['rule']} as row {o['row']!r} of {o['suite']}"
                for o in overlaps[:5]
            )
            raise ValueError(
                f"{len(overlaps)} rows of the training data are in a benchmark. {first}"
                f"{' ...' if len(overlaps) > 5 else ''} (config.data.overlap=drop leaves them out)"
            )

    def require_batch(self, rows: int, field: str) -> None:
        """Raises ValueError where `train` has fewer usable rows than `field` takes at once."""
        usable = sum(counts["records"] for counts in self.report["sources"]["train"].values())
        usable -= len(self._left_out("train"))
        if rows > usable:
            raise ValueError(f"{field}: {rows} rows are more than config.data.train has, {usable}")

    def _left_out(self, split: str) -> frozenset[str]:
        uids = frozenset(o["uid"] for o in self.report["overlaps"] if o["split"] == split)
        return uids if self._config.overlap == "drop" else frozenset()

    def take(self, split: str, count: int) -> list[Record]:
        """The first `count` records of a split; the order is the same for every stage."""
        sources = self._config.sources(split)
        if not sources:
            raise ValueError(f"config.data.{split}: no training set is named")
        return mixture.take(sources, count, seed=self._seed, without=self._left_out(split))

    def _lines(self) -> list[str]:
        lines = []
        for split, sources in self.report["sources"].items():
            for source, counts in sources.items():
                left_out = ", ".join(f"{n} {why}" for why, n in counts["unusable"].items())
                lines.append(
                    f"data.{split}: {source}: {counts['records']} records in {counts['rows']} rows"
                    + (f"; left out: {left_out}" if left_out else "")
                )
        compared = self.report["compared"]
        if compared:
            suites = ", ".join(f"{name} ({rows} rows)" for name, rows in compared.items())
            by_suite = Counter(o["suite"] for o in self.report["overlaps"])
            hits = ", ".join(f"{n} with {suite}" for suite, n in sorted(by_suite.items()))
            lines.append(f"data: compared with {suites}: {hits or 'no overlap'}")
        elif lines:
            lines.append("data: not compared with any benchmark (config.data.overlap=allow)")
        return lines

    @property
    def _compares(self) -> bool:
        return self._config.overlap != "allow" and any(map(self._config.sources, SPLITS))

    def _key(self) -> str:
        sources = [source for split in SPLITS for source in self._config.sources(split)]
        paths = [path for source in sources for path in SETS[source.name].paths(source.path)]
        if self._compares:
            folder = os.path.expanduser(self._config.benchmark_dir)
            paths += [path for path in visible_files(folder, "**/*") if path.is_file()]
        parts = [repr(self._config)]
        for path in paths:
            stat = path.stat()
            parts.append(f"{path} {stat.st_size} {stat.st_mtime_ns}")
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()

    def _benchmarks(self) -> dict[str, list[Comparison]]:
        """The benchmarks that `against` names, which must be there, and all others found there."""
        required = ranges.split(self._config.against)
        suites = {}
        for name in dict.fromkeys([*required, *SUITES]):
            if name == "own":  # rows of the user, perhaps the training data itself
                continue
            try:
                suites[name] = load_suite(name, self._config.benchmark_dir)
            except MissingFiles:
                if name in required:
                    raise
        return suites

    def _check(self) -> dict:
        suites = self._benchmarks() if self._compares else {}
        prompts = BenchmarkPrompts(suites)
        overlaps, by_split = [], {}
        for split in SPLITS:
            counts = {source: mixture.Counts() for source in self._config.sources(split)}
            for where, _, record in mixture.read([*counts], counts.__getitem__):
                hit = prompts.find(record.messages) if suites else None
                if hit:
                    overlaps.append(
                        {"split": split, "place": where, "uid": record.uid, "suite": hit.suite,
                         "row": hit.uid, "rule": hit.rule}
                    )  # fmt: skip
            by_split[split] = {
                str(source): {"rows": c.rows, "records": c.records, "unusable": dict(c.unusable)}
                for source, c in counts.items()
            }
        compared = {name: len(rows) for name, rows in suites.items()}
        return {"sources": by_split, "compared": compared, "overlaps": overlaps}
