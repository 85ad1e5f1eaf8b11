"""Results of older workdirs get today's digest of their config, and nothing else changes."""

import json

import pytest

from configs import small_world
from experiments import arms
from tools import migrate_results


@pytest.mark.parametrize("source", ["config.json", "opened.json"])
def test_the_digest_is_that_of_the_config(tmp_path, source):
    config = json.loads(small_world.get_config("ci").to_json())
    (tmp_path / source).write_text(
        json.dumps(config if source == "config.json" else {"date": "d", "config": config})
    )
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / "small_world.json"
    path.write_text(json.dumps({"version": 3, "config": "old", "lines": [1.5]}))
    assert migrate_results.migrate(tmp_path) == 1
    wanted = arms.comparable(small_world.get_config("ci"))
    assert json.loads(path.read_text()) == {"version": 3, "config": wanted, "lines": [1.5]}
    before = path.read_bytes()
    assert migrate_results.migrate(tmp_path) == 0 and path.read_bytes() == before


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither config.json nor opened.json"):
        migrate_results.migrate(tmp_path)
