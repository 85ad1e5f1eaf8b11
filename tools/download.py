"""Downloads training sets and benchmarks, at one revision, with checksums.

    python -m tools.download --set=helpsteer2 --out=DATA      # DATA/helpsteer2/preference/..
    python -m tools.download --suite=judgebench --out=DATA    # DATA/judgebench/..

Configs then say "helpsteer2:DATA/helpsteer2", and DATA is the folder of the benchmarks. A set of
the Hugging Face hub needs `pip install 'grm_jax[data]'`; its terms are accepted there, and a token
for gated ones is in HF_TOKEN. Read the licence of a set before you train on it: some benchmarks
have none.

Known revisions are pinned: of a benchmark in its file of grm_jax/benchmarks, of a training set
here. Otherwise the newest one is taken. Either way it is written, with the
SHA-256 of each file, to manifest.json next to the files; a later run with another revision or
another file is refused. Files that are there already are checked, not fetched again, and each file
is checked against the checksum of its host.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import pathlib
import shutil
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Protocol

from grm_jax import benchmarks
from grm_jax.data.source import Source
from grm_jax.data.training_sets import evouna, qa_feedback
from grm_jax.files import read_json, write_atomically
from tools import make_parser, run_program, user_path

MANIFEST = "manifest.json"
# Revisions: of UltraFeedback, the one that HuggingFaceH4/ultrafeedback_binarized was made from; of
# HelpSteer3, one that others pin; of the rest, the newest that was seen, or none.
SETS = {
    "ultrafeedback": Source(
        "openbmb/UltraFeedback", ("*.jsonl",), "40b436560ca83a8dba36114c22ab3c66e43f6d5e"
    ),
    "offsetbias": Source("NCSOFT/offsetbias", ("train.jsonl",), "6518fef"),
    "skywork": Source(
        "Skywork/Skywork-Reward-Preference-80K-v0.2", ("data/*.parquet",),
        "196326738b67b9c3e6aa6829cab639d8401ad385",
    ),
    "helpsteer2": Source(
        "nvidia/HelpSteer2", ("preference/preference.jsonl.gz",),
        "990b2711a36180dd19d9c94b8627844866f8982a",
    ),
    "helpsteer3": Source(
        "nvidia/HelpSteer3", ("preference/train.jsonl.gz",),
        "f6d145777bcbde96137596340fab89793acd1031",
    ),
    "nemotron_genrm": Source("nvidia/Nemotron-RLHF-GenRM-v1", ("data/train.jsonl",)),
    # The problems alone: samples have to be added, see grm_jax/data/training_sets/math_answers.py.
    "math": Source("EleutherAI/hendrycks_math", ("*/train-*.parquet",), "21a5633"),
    # Sets of one file, which a benchmark reads too.
    **dict.fromkeys(evouna.READERS, benchmarks.evouna.SOURCES["evouna"]),
    **dict.fromkeys(qa_feedback.READERS, benchmarks.qa_feedback.SOURCES["qa_feedback"]),
}  # fmt: skip
SUITES = {name: one for suite in benchmarks.SUITES.values() for name, one in suite.sources.items()}


class Host(Protocol):
    """A host of repositories."""

    def commit(self, repository: str, revision: str) -> str:
        """Full name of the commit that a revision is the beginning of; "" is the newest one."""

    def files(self, repository: str, commit: str) -> dict[str, str]:
        """Paths and checksums, as "sha256:<hex>" or "git:<hex>" (the id of a git blob)."""

    def fetch(self, repository: str, commit: str, path: str, folder: pathlib.Path) -> pathlib.Path:
        """Downloads one file into a scratch folder and says where it is."""


class Hub:
    """Data sets of the Hugging Face hub."""

    def __init__(self):
        try:
            import huggingface_hub
        except ModuleNotFoundError:
            raise ValueError("the hub needs huggingface_hub: pip install 'grm_jax[data]'") from None
        self._hub = huggingface_hub
        self._api = huggingface_hub.HfApi()

    def commit(self, repository: str, revision: str) -> str:
        if len(revision) == 40:
            return revision
        if not revision:
            return self._api.dataset_info(repository).sha
        commits = self._api.list_repo_commits(repository, repo_type="dataset")
        matching = [commit.commit_id for commit in commits if commit.commit_id.startswith(revision)]
        if len(matching) != 1:
            raise ValueError(f"{repository}: {len(matching)} commits begin with {revision!r}")
        return matching[0]

    def files(self, repository: str, commit: str) -> dict[str, str]:
        info = self._api.dataset_info(repository, revision=commit, files_metadata=True)
        return {
            file.rfilename: f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}"
            for file in info.siblings
        }

    def fetch(self, repository: str, commit: str, path: str, folder: pathlib.Path) -> pathlib.Path:
        return pathlib.Path(
            self._hub.hf_hub_download(
                repository, path, repo_type="dataset", revision=commit, local_dir=folder
            )
        )


class GitHub:
    """Files in repositories of GitHub, through its public interface."""

    def commit(self, repository: str, revision: str) -> str:
        return self._get(f"{repository}/commits/{revision or 'HEAD'}")["sha"]

    def files(self, repository: str, commit: str) -> dict[str, str]:
        tree = self._get(f"{repository}/git/trees/{commit}?recursive=1")
        if tree["truncated"]:
            raise ValueError(f"{repository}: has too many files to list them")
        return {
            entry["path"]: f"git:{entry['sha']}"
            for entry in tree["tree"] if entry["type"] == "blob"
        }  # fmt: skip

    def fetch(self, repository: str, commit: str, path: str, folder: pathlib.Path) -> pathlib.Path:
        target = folder / "file"
        address = f"https://raw.githubusercontent.com/{repository}/{commit}/"
        with (
            urllib.request.urlopen(address + urllib.parse.quote(path), timeout=60) as reply,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(reply, file)
        return target

    def _get(self, what: str) -> dict:
        address = f"https://api.github.com/repos/{what}"
        with urllib.request.urlopen(address, timeout=60) as reply:
            return json.load(reply)


def download(name: str, source: Source, out: pathlib.Path, host: Host) -> dict:
    """Fetches missing files of a set from its host, and checks those that are there.

    The folder is `out`/`name`, unless the source names another.

    Returns:
      The manifest: "repository", "revision", and "files", {path: {"bytes", "sha256"}}.

    Raises:
      ValueError: another revision or repository than in the manifest, a file with another
        checksum, or no file that matches.
      OSError: the host cannot be reached.
    """
    folder = out / (source.folder or name)
    path = folder / MANIFEST
    manifest = {"repository": source.repository, "revision": "", "files": {}}
    if path.exists():
        manifest |= read_json(path)
    commit = host.commit(source.repository, source.revision)
    before = (manifest["repository"], manifest["revision"] or commit)
    if before != (source.repository, commit):
        raise ValueError(
            f"{path}: the files are of {' at '.join(before)}, and {name} is now "
            f"{source.repository} at {commit}; give another --out"
        )
    manifest["revision"] = commit
    wanted = {
        file: checksum
        for file, checksum in sorted(host.files(source.repository, commit).items())
        if any(fnmatch.fnmatchcase(file, pattern) for pattern in source.files)
    }
    if not wanted:
        raise ValueError(f"{source.repository} at {commit}: no file matches {source.files}")
    scratch = folder / ".partial"
    for file, checksum in wanted.items():
        inside = file.removeprefix(source.root)
        target = folder / inside
        if not target.exists():
            scratch.mkdir(parents=True, exist_ok=True)
            fetched = host.fetch(source.repository, commit, file, scratch)
            _check(fetched, checksum, f"{source.repository}: {file}")
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(fetched, target)
        _check(target, checksum, str(target))
        entry = {"bytes": target.stat().st_size, "sha256": _digest(target, "sha256")}
        if manifest["files"].setdefault(inside, entry) != entry:
            raise ValueError(f"{target}: is not the file of {path}: {entry}")
        write_atomically(path, (json.dumps(manifest, indent=2) + "\n").encode())
    shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _check(path: pathlib.Path, checksum: str, name: str) -> None:
    kind, _, expected = checksum.partition(":")
    actual = _digest(path, kind)
    if actual != expected:
        raise ValueError(f"{name}: its {kind} checksum is {actual}, and should be {expected}")


def _digest(path: pathlib.Path, kind: str) -> str:
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1()
    if kind == "git":  # the id of a blob
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = make_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--set", choices=SETS, help="a training set")
    what.add_argument("--suite", choices=SUITES, help="a benchmark")
    parser.add_argument("--out", required=True, type=user_path, help="folder of all sets")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Downloads one set."""
    args = parse(argv)
    name = args.set or args.suite
    source = SETS[name] if args.set else SUITES[name]
    manifest = download(name, source, args.out, Hub() if source.host == "hub" else GitHub())
    size = sum(file["bytes"] for file in manifest["files"].values())
    print(
        f"{args.out / (source.folder or name)}: {len(manifest['files'])} files, "
        f"{size / 1e6:.1f} MB, {manifest['repository']} at {manifest['revision']}"
    )


if __name__ == "__main__":
    run_program(main)
