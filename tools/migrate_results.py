"""Results of workdirs from before the typed config, so that later seeds can be reported with them.

    python -m tools.migrate_results --workdirs=runs/ablation/seed_11,runs/ablation/seed_12

`results/<suite>.json` names the config that it was measured with by a digest. Until version 0.1 the
digest was of the fields that a config file spelled out, today it is of those that differ from their
defaults. The config is in `config.json` of the workdir, or in `opened.json` of a held-out seed.
Nothing else of a result changes; a file whose digest is right already stays as it is.
"""

import json
import pathlib
from collections.abc import Sequence

from experiments import arms
from grm_jax.files import read_json, visible_files, write_atomically
from grm_jax.ranges import split
from tools import make_parser, run_program, user_path


def migrate(workdir: pathlib.Path) -> int:
    """Writes today's digest into the results of one workdir; how many files changed.

    Raises:
      ValueError: there is no config, or a file does not read.
    """
    sources = [workdir / name for name in ("config.json", "opened.json")]
    opened = next((read_json(path) for path in sources if path.exists()), None)
    if opened is None:
        raise ValueError(f"{workdir}: neither config.json nor opened.json says how it was measured")
    digest = arms.comparable(opened.get("config", opened))
    changed = 0
    for path in visible_files(workdir / "results", "*.json"):
        record = read_json(path)
        if record.get("config") != digest:
            text = json.dumps({**record, "config": digest}, separators=(",", ":"), allow_nan=False)
            write_atomically(path, f"{text}\n".encode())
            changed += 1
    return changed


def main(argv: Sequence[str] | None = None) -> None:
    """Migrates and counts."""
    parser = make_parser(__doc__)
    parser.add_argument("--workdirs", required=True, help="comma-separated, each with results/")
    for workdir in map(user_path, split(parser.parse_args(argv).workdirs)):
        print(f"{workdir}: {migrate(workdir)} files of results changed")


if __name__ == "__main__":
    run_program(main)
