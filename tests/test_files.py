"""Files are whole or not there."""

import pytest

from grm_jax import files


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
    names = [
        path.relative_to(plain).as_posix() for path in files.visible_files(plain, "**/*.json")
    ]
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
