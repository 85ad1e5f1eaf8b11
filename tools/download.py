"""Fetches training sets and benchmarks from the Hugging Face hub, for those who have internet.

    python -m tools.download --set=helpsteer2 --out=data/helpsteer2
    python -m tools.download --list

Writes the files and manifest.json: repository, revision and SHA-256 of each file. A revision is the
one that the table below pins, or --revision; where neither says one, the newest is resolved to its
commit and recorded. A folder with a manifest is only ever completed to exactly what that says, so
a set cannot change under a recipe. Needs huggingface_hub (the extra `data`); sets that ask for a
login or an agreement need its token as usual.
"""

import argparse
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from grm_jax.evaluation.tables import write_atomically
from tools import errors_in_one_line

MANIFEST = "manifest.json"


class Source(NamedTuple):
    """Where a set lies.

    Attributes:
      repository: of data sets on the hub.
      files: patterns of the files that are read.
      revision: a commit, or "" for the newest at the first download.
      note: licence as its card states it, and what is to know.
    """

    repository: str
    files: tuple[str, ...]
    revision: str = ""
    note: str = ""


SOURCES = {
    "ultrafeedback": Source("openbmb/UltraFeedback", ("*.jsonl",), note="MIT"),
    "offsetbias": Source("NCSOFT/offsetbias", ("train.jsonl",), note="BSD-3-Clause"),
    "skywork": Source(
        "Skywork/Skywork-Reward-Preference-80K-v0.2", ("data/*.parquet",),
        note="each part under the licence of its source",
    ),
    "helpsteer2": Source("nvidia/HelpSteer2", ("preference/*.jsonl.gz",), note="CC-BY-4.0"),
    "helpsteer3": Source("nvidia/HelpSteer3", ("preference/train.jsonl.gz",), note="CC-BY-4.0"),
}  # fmt: skip


class Hub(NamedTuple):
    """What is needed of the hub; tests have one of their own.

    Attributes:
      commit: (repository, revision or None) to a commit of 40 hexadecimal digits.
      names: (repository, commit) to the names of its files.
      fetch: (repository, commit, name, folder) puts a file below the folder.
    """

    commit: Callable[[str, str | None], str]
    names: Callable[[str, str], list[str]]
    fetch: Callable[[str, str, str, pathlib.Path], None]


def hugging_face() -> Hub:
    """The real one. ModuleNotFoundError without huggingface_hub."""
    import huggingface_hub

    api, kind = huggingface_hub.HfApi(), "dataset"
    return Hub(
        lambda repo, revision: api.repo_info(repo, repo_type=kind, revision=revision).sha,
        lambda repo, commit: api.list_repo_files(repo, repo_type=kind, revision=commit),
        lambda repo, commit, name, folder: huggingface_hub.hf_hub_download(
            repo, name, repo_type=kind, revision=commit, local_dir=folder
        ),
    )


def download(source: Source, out: pathlib.Path, hub: Hub, revision: str = "") -> list[str]:
    """Fetches what is missing and checks what is there.

    Args:
      source: what.
      out: where; made if need be.
      hub: from where.
      revision: in place of the one of the source.

    Returns:
      The names that were fetched now.

    Raises:
      ValueError: for a folder of another repository or revision, a file that is not what the
        manifest says, or a repository without a file that matches.
    """
    manifest = out / MANIFEST
    known = json.loads(manifest.read_text()) if manifest.exists() else None
    wanted = revision or source.revision
    if known:
        if known["repository"] != source.repository:
            raise ValueError(f"{manifest}: holds {known['repository']}, not {source.repository}")
        if wanted and not known["revision"].startswith(wanted):
            raise ValueError(f"{manifest}: holds revision {known['revision']}, not {wanted}")
        commit, sums = known["revision"], known["sha256"]
    else:
        commit, sums = hub.commit(source.repository, wanted or None), {}
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError(f"{source.repository}: {commit!r} is no commit")
    names = sorted(
        name for name in hub.names(source.repository, commit)
        if any(pathlib.PurePath(name).match(pattern) for pattern in source.files)
    )  # fmt: skip
    if not names:
        raise ValueError(f"{source.repository} at {commit}: no file like {source.files}")
    fetched = []
    for name in names:
        if not (out / name).exists():
            hub.fetch(source.repository, commit, name, out)
            fetched.append(name)
        found = _sha256(out / name)
        if sums.setdefault(name, found) != found:
            raise ValueError(f"{out / name}: SHA-256 {found}, but {manifest} says {sums[name]}")
        record = {"repository": source.repository, "revision": commit, "sha256": sums}
        write_atomically(manifest, (json.dumps(record, indent=2) + "\n").encode())
    return fetched


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    """Downloads one set, or lists all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=sorted(SOURCES), help="what to fetch")
    parser.add_argument("--out", type=pathlib.Path, help="folder")
    parser.add_argument("--revision", default="", help="a commit, in place of the pinned one")
    parser.add_argument("--list", action="store_true", help="the sets, and where they lie")
    args = parser.parse_args(argv)
    if args.list:
        for name, source in SOURCES.items():
            print(f"{name:14} {source.repository:46} {source.note}")
        return
    if not (args.set and args.out):
        parser.error("--set and --out are needed, or --list")
    args.out.mkdir(parents=True, exist_ok=True)
    fetched = download(SOURCES[args.set], args.out, hugging_face(), args.revision)
    print(f"{args.out}: {len(fetched)} files fetched, see {args.out / MANIFEST}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
