"""Tables in the user's cache directory: where they are, and what becomes of those that cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from measured_products import cache_in

import nnkernels
from nnkernels import merging, stored


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    return cache_in(tmp_path, monkeypatch)


class TestFolder:
    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({"NNKERNELS_CACHE": "/mine", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/mine"),
            ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/nnkernels"),
            ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/nnkernels"),
            ({"NNKERNELS_CACHE": "", "HOME": "/home/me"}, "/home/me/.cache/nnkernels"),
        ],
        ids=["ours", "xdg", "a relative one", "home"],
    )
    def test_is_the_first_that_is_named(self, monkeypatch, environment, expected):
        for name in ("NNKERNELS_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert stored.folder() == Path(expected)

    def test_nobody_has_a_home(self, monkeypatch):
        def homeless() -> Path:
            raise RuntimeError("could not determine home directory")

        for name in ("NNKERNELS_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", homeless)
        assert stored.folder() is None and stored.read("table.json", {}) == []
        with pytest.raises(OSError, match="no home"):
            merge([])


HEAD = {"format": 1, "gpu": "one"}
merge = partial(merging.merge, "table.json", HEAD, identity=lambda row: row.get("key"))


class TestTable:
    def test_rows_come_back_and_take_the_place_of_those_before(self, cache):
        assert stored.read("table.json", HEAD) == []
        assert merge([{"key": 1, "value": "a"}, {"key": 2, "value": "b"}]) == cache / "table.json"
        merge([{"key": 2, "value": "c"}, {"key": 3, "value": None}])
        found = stored.read("table.json", HEAD)
        assert [(row["key"], row["value"]) for row in found] == [(1, "a"), (2, "c"), (3, None)]
        lines = (cache / "table.json").read_text().splitlines()
        assert sum('"key"' in line for line in lines) == 3 and not list(cache.glob("*.tmp"))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b'{"format": 1, "gpu": "one", "rows": [',
            b"\xff\xfe\x00",
            b"[" * 100_000,
            b"[1, 2]",
            b'{"format": 1, "gpu": "one"}',
            b'{"format": 2, "gpu": "one", "rows": []}',
            b'{"format": 1, "gpu": "another", "rows": []}',
        ],
        ids=["empty", "half", "no text", "deep", "a list", "no rows", "a later format", "another GPU"],
    )
    def test_one_that_cannot_be_used_is_ignored_and_begun_anew(self, cache, content):
        cache.mkdir()
        (cache / "table.json").write_bytes(content)
        with pytest.warns(UserWarning, match=r"table\.json is ignored") as told:
            assert stored.read("table.json", HEAD) == []
        assert len(told) == 1
        merge([{"key": 1}])
        assert stored.read("table.json", HEAD) == [{"key": 1}]

    def test_rows_that_are_none_are_left_out(self, cache):
        cache.mkdir()
        (cache / "table.json").write_text(json.dumps({**HEAD, "rows": [3, {"key": 1}, None]}))
        assert stored.read("table.json", HEAD) == [{"key": 1}]

    def test_two_processes_write_at_the_same_time(self, cache):
        code = """
import sys
from nnkernels.merging import merge
for at in range(25):
    row = {"key": f"{sys.argv[1]} {at}"}
    merge("table.json", {"format": 1, "gpu": "one"}, [row], lambda row: row["key"])
"""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(nnkernels.__file__).parents[1]), *sys.path])}
        running = [subprocess.Popen([sys.executable, "-c", code, name], env=env) for name in ("a", "b")]
        assert [one.wait() for one in running] == [0, 0]
        found = {row["key"] for row in stored.read("table.json", HEAD)}
        assert found == {f"{name} {at}" for name in "ab" for at in range(25)}

    def test_a_folder_that_cannot_be_written_or_read_breaks_nothing(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("NNKERNELS_CACHE", str(tmp_path / "file" / "cache"))
        assert stored.read("table.json", HEAD) == []
        with pytest.raises(OSError):
            merge([{"key": 1}])
