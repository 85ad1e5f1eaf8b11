"""Files are whole or not there."""

import time

import pytest

from grm_jax import files
from grm_jax.data.reading import read_objects


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "main.md"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_tree_with_links_is_walked_as_one_without(tmp_path):
    plain, linked = tmp_path / "plain", tmp_path / "linked"
    for folder in ("a/b", "c"):
        for name in ("2.json", "1.json", ".3.json", "._1.json", "note.txt"):
            path = plain / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    (plain / "0.json").write_text("0")
    (plain / "d.json").mkdir()
    (plain / ".hidden").mkdir()
    (plain / ".hidden" / "4.json").write_text("4")
    linked.mkdir()
    (linked / "a").symlink_to(plain / "a")
    (linked / "c").mkdir()
    for path in (plain / "c").iterdir():
        (linked / "c" / path.name).symlink_to(path)
    (linked / "0.json").symlink_to(plain / "0.json")
    (linked / "c" / "up").symlink_to("..")  # circles, one by way of another folder
    (plain / "a" / "over").symlink_to(linked / "c")
    (plain / "a" / "over2").symlink_to(plain)
    names = [path.relative_to(plain).as_posix() for path in files.visible_files(plain, "**/*.json")]
    assert names[:3] == ["0.json", "a/b/1.json", "a/b/2.json"] and names[-1] == "c/2.json"
    (plain / "a" / "over").unlink()
    (plain / "a" / "over2").unlink()
    wanted = ["0.json", "a/b/1.json", "a/b/2.json", "c/1.json", "c/2.json"]
    for folder in (plain, linked):
        found = files.visible_files(folder, "**/*.json")
        assert [path.relative_to(folder).as_posix() for path in found] == wanted
        assert files.visible_files(str(folder), "*.json") == [folder / "0.json"]
    assert files.visible_files(tmp_path / "absent", "**/*") == []
    (linked / "gone.json").symlink_to(plain / "gone")  # who reads it will say so
    assert linked / "gone.json" in files.visible_files(linked, "*.json")


@pytest.mark.parametrize("by", ["links", "parents"])
def test_folders_in_circles_are_walked_in_little_time(tmp_path, by):
    """Each links to every other one, or to the folder that all are in."""
    names = [f"{i:02}" for i in range(50 if by == "parents" else 12)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text("{}")
        for other in {*names} - {name} if by == "links" else ():
            (tmp_path / name / other).symlink_to(tmp_path / other)
        if by == "parents":
            (tmp_path / name / "up").symlink_to("..")
    began = time.process_time()
    found = [p.relative_to(tmp_path) for p in files.visible_files(tmp_path, "**/*.json")]
    assert time.process_time() - began < 5
    assert len(set(found)) == len(found) == (144 if by == "links" else 50)
    assert {path.parts[0] for path in found} == {*names}
    # From within, what is reached by a link only is found too.
    assert len(files.visible_files(tmp_path / names[0], "**/*.json")) == len(names)


def test_a_folder_that_two_links_name_is_in_both_places(tmp_path):
    """With a circle inside it too."""
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "x.json").write_text("{}")
    (tmp_path / "store" / "deep" / "up").symlink_to(tmp_path / "store")
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store")
    found = files.visible_files(tmp_path / "data", "**/*.json")
    assert found == [tmp_path / f"data/{name}/deep/x.json" for name in ("a", "b")]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "1: damaged, not JSON: Expecting value"),
        (b"\n", "1: damaged, not JSON: Expecting value"),
        (b"\0" * 40, "1: damaged, not JSON"),
        (b'{"a": 1,\n "b": }\n', "2: damaged, not JSON: Expecting value"),
        (b'{"a": "\xff"}', "1: damaged, not JSON: 'utf-8' codec"),
        (b'{"a":' * 100_000, "1: damaged, not JSON: maximum recursion"),
        (b"[1]", "1: expected a JSON object, found list"),
        (b"null\n", "1: expected a JSON object, found NoneType"),
    ],
)
def test_damaged_json_is_an_error_with_path_and_line(tmp_path, data, problem):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        files.read_json(path)
    assert str(caught.value).startswith(f"{path}:{problem}")


@pytest.mark.parametrize("ending", ["json", "jsonl", "jsonl.gz", "parquet"])
def test_a_pointer_of_git_lfs_says_what_to_do(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for read in (files.read_json, files.read_bytes, lambda path: next(read_objects(path))):
        with pytest.raises(ValueError, match=f"{path}: .*run git lfs pull"):
            read(path)


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_failed_append_leaves_nothing(tmp_path, monkeypatch, failing):
    """A full disk takes a part of a line, or says only at the sync that there is no room."""
    path, write = tmp_path / "metrics.jsonl", files.os.write
    path.write_bytes(b"old\n")
    parts = iter([3])

    def fail(handle, data=b""):
        if failing == "write" and (room := next(parts, 0)):
            return write(handle, data[:room])
        raise OSError("disk full")

    with open(path, "ab") as file:
        monkeypatch.setattr(files.os, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            files.append(file.fileno(), b"a new line\n")
        monkeypatch.undo()
        assert path.read_bytes() == b"old\n"
        files.append(file.fileno(), b"new\n")
    assert path.read_bytes() == b"old\nnew\n"
