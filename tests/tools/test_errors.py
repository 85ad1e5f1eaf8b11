"""What a user can mend ends a tool in one line; what is our own fault keeps its traceback."""

import pytest

from tools import download, errors_in_one_line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bad"), "error: bad"),
        (FileNotFoundError("gone"), "error: gone"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "error: No module named 'torch'; `make install-parity` installs it",
        ),
    ],
)
def test_errors_of_the_user(error, message):
    with pytest.raises(SystemExit) as stopped, errors_in_one_line():
        raise error
    assert stopped.value.code == message


@pytest.mark.parametrize("error", [ModuleNotFoundError("no jax", name="jax"), TypeError("ours")])
def test_errors_of_ours(error):
    with pytest.raises(type(error)), errors_in_one_line():
        raise error


def test_the_home_folder_is_known(monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere")
    args = download.parse(["--set=math", "--out=~/data"])
    assert str(args.out) == "/elsewhere/data"
