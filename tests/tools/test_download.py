"""Downloads from hosts that we make up; the real ones are not reached."""

import hashlib
import io
import json
import subprocess
import types

import pytest

from grm_jax.data import training_sets
from tools import download
from tools.download import GitHub, Hub, Source

COMMIT = "a" * 40
FILES = {"data/x.jsonl": b"one\n", "data/deep/y.jsonl": b"two\n", "README.md": b"three\n"}
SOURCE = Source("owner/name", ("data/*.jsonl",), root="data/")


def blob(data):
    """The id that git itself gives."""
    done = subprocess.run(
        ["git", "hash-object", "--stdin"], input=data, capture_output=True, check=True
    )
    return f"git:{done.stdout.decode().strip()}"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class FakeHost:
    def __init__(self, contents=FILES, commit=COMMIT):
        self.contents, self.head, self.fetched = dict(contents), commit, []

    def commit(self, repository, revision):
        return revision or self.head

    def files(self, repository, commit):
        sums = {path: f"sha256:{sha256(data)}" for path, data in self.contents.items()}
        return sums | {"data/x.jsonl": blob(self.contents["data/x.jsonl"])}

    def fetch(self, repository, commit, path, folder):
        self.fetched.append(path)
        target = folder / "some" / "where"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(self.contents[path])
        return target


def test_files_come_with_a_manifest_and_are_not_fetched_twice(tmp_path):
    host = FakeHost()
    manifest = download.download("soups", SOURCE, tmp_path, host)
    assert host.fetched == ["data/deep/y.jsonl", "data/x.jsonl"]
    folder = tmp_path / "soups"
    assert (folder / "x.jsonl").read_bytes() == b"one\n"
    assert (folder / "deep" / "y.jsonl").read_bytes() == b"two\n"
    assert sorted(p.name for p in folder.iterdir()) == ["deep", "manifest.json", "x.jsonl"]
    assert json.loads((folder / "manifest.json").read_text()) == manifest == {
        "repository": "owner/name", "revision": COMMIT,
        "files": {
            "deep/y.jsonl": {"bytes": 4, "sha256": sha256(b"two\n")},
            "x.jsonl": {"bytes": 4, "sha256": sha256(b"one\n")},
        },
    }  # fmt: skip
    (folder / "x.jsonl").unlink()
    assert download.download("soups", SOURCE, tmp_path, host) == manifest
    assert host.fetched[2:] == ["data/x.jsonl"]


def test_a_download_that_was_cut_off_goes_on(tmp_path):
    class Failing(FakeHost):
        def fetch(self, repository, commit, path, folder):
            if path == "data/x.jsonl":
                raise OSError("gone")
            return super().fetch(repository, commit, path, folder)

    with pytest.raises(OSError, match="gone"):
        download.download("soups", SOURCE, tmp_path, Failing())
    host = FakeHost()
    download.download("soups", SOURCE, tmp_path, host)
    assert host.fetched == ["data/x.jsonl"]


def test_what_differs_is_refused(tmp_path):
    download.download("soups", SOURCE, tmp_path, FakeHost())
    moved = FakeHost(commit="b" * 40)
    with pytest.raises(ValueError, match=r"manifest\.json: .* of owner/name at aaa.*bbb"):
        download.download("soups", SOURCE, tmp_path, moved)
    other = SOURCE._replace(repository="owner/other")
    with pytest.raises(ValueError, match="is now owner/other"):
        download.download("soups", other, tmp_path, FakeHost())
    (tmp_path / "soups" / "x.jsonl").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"x\.jsonl: its git checksum"):
        download.download("soups", SOURCE, tmp_path, FakeHost())
    # The host itself changes a file under the same commit.
    (tmp_path / "soups" / "x.jsonl").write_bytes(b"new\n")
    with pytest.raises(ValueError, match=r"x\.jsonl: is not the file of"):
        download.download("soups", SOURCE, tmp_path, FakeHost({**FILES, "data/x.jsonl": b"new\n"}))
    with pytest.raises(ValueError, match="no file matches"):
        download.download("none", SOURCE._replace(files=("*.csv",)), tmp_path, FakeHost())


def test_a_broken_transfer_is_refused(tmp_path):
    class Broken(FakeHost):
        def fetch(self, *args):
            target = super().fetch(*args)
            target.write_bytes(target.read_bytes()[:-1])
            return target

    with pytest.raises(ValueError, match=r"owner/name: data/deep/y\.jsonl: its sha256 checksum"):
        download.download("soups", SOURCE, tmp_path, Broken())
    assert not (tmp_path / "soups" / "deep" / "y.jsonl").exists()


def test_the_hub(tmp_path, monkeypatch):
    hub_module = pytest.importorskip("huggingface_hub")
    lfs = types.SimpleNamespace(sha256="5" * 64)
    file = types.SimpleNamespace
    siblings = [file(rfilename="a", lfs=lfs, blob_id="1" * 40),
                file(rfilename="b", lfs=None, blob_id="2" * 40)]  # fmt: skip

    class Api:
        def dataset_info(self, repository, revision=None, files_metadata=False):
            assert repository == "o/n"
            if revision is None:
                return file(sha="c" * 40)
            assert (revision, files_metadata) == (COMMIT, True)
            return file(siblings=siblings)

        def list_repo_commits(self, repository, repo_type):
            assert (repository, repo_type) == ("o/n", "dataset")
            return [file(commit_id=x * 40) for x in "abc"] + [file(commit_id="ab" * 20)]

    monkeypatch.setattr(hub_module, "HfApi", Api)
    hub = Hub()
    assert hub.commit("o/n", COMMIT) == COMMIT and hub.commit("o/n", "") == "c" * 40
    assert hub.commit("o/n", "bbbb") == "b" * 40
    with pytest.raises(ValueError, match="2 commits begin with 'a'"):
        hub.commit("o/n", "a")
    assert hub.files("o/n", COMMIT) == {"a": "sha256:" + "5" * 64, "b": "git:" + "2" * 40}

    def get(repository, path, *, repo_type, revision, local_dir):
        assert (repository, path, repo_type, revision) == ("o/n", "a", "dataset", COMMIT)
        (local_dir / path).write_bytes(b"x")
        return str(local_dir / path)

    monkeypatch.setattr(hub_module, "hf_hub_download", get)
    assert hub.fetch("o/n", COMMIT, "a", tmp_path).read_bytes() == b"x"


def test_github(tmp_path, monkeypatch):
    tree = [{"path": "d", "type": "tree", "sha": "3" * 40},
            {"path": "d/a b.json", "type": "blob", "sha": "4" * 40}]  # fmt: skip
    pages = {
        "https://api.github.com/repos/o/n/commits/900616b": {"sha": COMMIT},
        "https://api.github.com/repos/o/n/commits/HEAD": {"sha": "b" * 40},
        f"https://api.github.com/repos/o/n/git/trees/{COMMIT}?recursive=1":
            {"tree": tree, "truncated": False},
        f"https://raw.githubusercontent.com/o/n/{COMMIT}/d/a%20b.json": ["x"],
    }  # fmt: skip

    def urlopen(address, timeout):
        return io.BytesIO(json.dumps(pages[address]).encode())

    monkeypatch.setattr(download.urllib.request, "urlopen", urlopen)
    host = GitHub()
    assert host.commit("o/n", "900616b") == COMMIT and host.commit("o/n", "") == "b" * 40
    assert host.files("o/n", COMMIT) == {"d/a b.json": "git:" + "4" * 40}
    assert host.fetch("o/n", COMMIT, "d/a b.json", tmp_path).read_bytes() == b'["x"]'


def test_every_published_set_can_be_fetched_and_lands_where_its_reader_looks(tmp_path):
    read = {n for n, s in training_sets.SETS.items() if n not in ("comparisons", "messages")}
    assert set(download.SETS) == read
    for source in (*download.SETS.values(), *download.SUITES.values()):
        assert all(c in "0123456789abcdef" for c in source.revision)
        assert len(source.revision) in (0, 7, 40)
    for name, source in download.SETS.items():
        if name == "math":  # samples are added to it first
            continue
        folder = tmp_path / (source.folder or name)
        target = folder / source.files[0].removeprefix(source.root).replace("*", "x")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"")
        assert training_sets.SETS[name].paths(str(folder)) == [target]


def test_flags(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        download.parse(["--out=x"])
    with pytest.raises(SystemExit):
        download.parse(["--set=soups", "--out=x"])
    host = FakeHost({"data/x.jsonl": b"", "train.jsonl": b"z"})
    monkeypatch.setattr(download, "Hub", lambda: host)
    download.main(["--set=offsetbias", f"--out={tmp_path}"])
    assert capsys.readouterr().out == (
        f"{tmp_path}/offsetbias: 1 files, 0.0 MB, NCSOFT/offsetbias at 6518fef\n"
    )
