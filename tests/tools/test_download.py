"""Downloads from a hub that is a folder of the test: revisions, checksums, resuming."""

import json

import pytest

from grm_jax.data.training_sets import READERS
from tools import download
from tools.download import Hub, Source

OLD, NEW = "a" * 40, "b" * 40
SOURCE = Source("who/what", ("data/*.jsonl",))


class Fake:
    """A repository of two commits, of which the newer has other contents."""

    def __init__(self):
        self.fetched, self.broken = [], None
        self.hub = Hub(self.commit, self.names, self.fetch)

    def commit(self, repository, revision):
        return {None: NEW, "aaaa": OLD}.get(revision, revision)

    def names(self, repository, commit):
        return ["README.md", "data/b.jsonl", "data/a.jsonl", "other.jsonl"]

    def fetch(self, repository, commit, name, folder):
        if name == self.broken:
            raise OSError("connection lost")
        self.fetched.append((commit, name))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{commit} {name}")


def test_files_and_a_manifest(tmp_path):
    fake = Fake()
    assert download.download(SOURCE, tmp_path, fake.hub) == ["data/a.jsonl", "data/b.jsonl"]
    record = json.loads((tmp_path / "manifest.json").read_text())
    assert (record["repository"], record["revision"]) == ("who/what", NEW)
    assert sorted(record["sha256"]) == ["data/a.jsonl", "data/b.jsonl"]
    assert download.download(SOURCE, tmp_path, fake.hub) == []
    assert len(fake.fetched) == 2


def test_a_recorded_revision_stays(tmp_path):
    fake = Fake()
    download.download(SOURCE, tmp_path, fake.hub, "aaaa")
    (tmp_path / "data" / "a.jsonl").unlink()
    assert download.download(SOURCE, tmp_path, fake.hub) == ["data/a.jsonl"]
    assert {commit for commit, _ in fake.fetched} == {OLD}
    with pytest.raises(ValueError, match=f"holds revision {OLD}, not {NEW}"):
        download.download(SOURCE, tmp_path, fake.hub, NEW)
    with pytest.raises(ValueError, match="holds who/what, not who/else"):
        download.download(SOURCE._replace(repository="who/else"), tmp_path, fake.hub)


def test_a_file_that_changed_is_named(tmp_path):
    fake = Fake()
    download.download(SOURCE, tmp_path, fake.hub)
    (tmp_path / "data" / "b.jsonl").write_text("changed")
    with pytest.raises(ValueError, match=r"b\.jsonl: SHA-256 .*, but .*manifest\.json says"):
        download.download(SOURCE, tmp_path, fake.hub)


def test_a_broken_download_goes_on(tmp_path):
    fake = Fake()
    fake.broken = "data/b.jsonl"
    with pytest.raises(OSError, match="connection lost"):
        download.download(SOURCE, tmp_path, fake.hub)
    fake.broken = None
    assert download.download(SOURCE, tmp_path, fake.hub) == ["data/b.jsonl"]


def test_what_does_not_fit_is_an_error(tmp_path):
    fake = Fake()
    with pytest.raises(ValueError, match=r"no file like \('\*\.zip',\)"):
        download.download(SOURCE._replace(files=("*.zip",)), tmp_path, fake.hub)
    with pytest.raises(ValueError, match="'main' is no commit"):
        download.download(SOURCE, tmp_path, fake.hub, "main")


def test_every_set_has_a_reader_and_is_listed(capsys):
    assert set(READERS) - set(download.SOURCES) == {"math"}  # its samples are the user's own
    download.main(["--list"])
    printed = capsys.readouterr().out
    assert all(source.repository in printed for source in download.SOURCES.values())
