"""Nothing half-written under a final name, and what JSON and CSV look like."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dsrg import files
from dsrg.errors import InputError
from dsrg.files import atomic_file, atomic_folder, find_in_project, read_text, write_csv, write_json, write_text
from helpers.data import write


class Stop(Exception):
    pass


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def content(path: Path) -> str | dict[str, str] | None:
    return tree(path) if path.is_dir() else path.read_text() if path.exists() else None


@pytest.mark.parametrize("older", [True, False], ids=["older", "new"])
@pytest.mark.parametrize("whole", [atomic_file, atomic_folder])
class TestWholeFile:
    """... or folder: what stands under its name is what was there, or all of the new one."""

    @pytest.fixture
    def path(self, tmp_path, whole, older):
        if older and whole is atomic_folder:
            write(tmp_path / "out/old.txt", "old")
        elif older:
            write(tmp_path / "out", "old")
        return tmp_path / "out"

    @staticmethod
    def fill(temporary: Path, text: str) -> None:
        (temporary / "a.txt" if temporary.is_dir() else temporary).write_text(text)

    def test_an_older_one_is_replaced_when_it_is_complete(self, path, whole):
        before = content(path)
        with whole(path) as temporary:
            self.fill(temporary, "new")
            assert content(path) == before
        assert content(path) == ("new" if whole is atomic_file else {"a.txt": "new"})
        assert os.listdir(path.parent) == ["out"]

    def test_an_exception_leaves_what_was_there(self, path, whole, older):
        before = content(path)
        with pytest.raises(Stop), whole(path) as temporary:
            self.fill(temporary, "half")
            raise Stop
        assert content(path) == before and os.listdir(path.parent) == ["out"] * older


def test_a_failing_disk_leaves_what_was_there(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    write(tmp_path / "a.txt", "old")
    with pytest.raises(InputError, match="a.txt: cannot be written: No space"):
        write_text(tmp_path / "a.txt", "new")
    assert tree(tmp_path) == {"a.txt": "old"}


class TestWholeFolder:
    def test_the_older_one_is_whole_or_gone_at_every_moment(self, tmp_path, monkeypatch):
        """Killed at any of its steps, the final name never holds a part of a folder."""
        seen = []

        def spied(function):
            def spy(*arguments, **options):
                seen.append(tree(tmp_path / "out") if (tmp_path / "out").exists() else None)
                result = function(*arguments, **options)
                seen.append(tree(tmp_path / "out") if (tmp_path / "out").exists() else None)
                return result

            return spy

        old, new = {"1": "old", "2": "old"}, {"1": "new", "2": "new"}
        for name in old:
            write(tmp_path / "out" / name, "old")
        monkeypatch.setattr(os, "unlink", spied(os.unlink))
        monkeypatch.setattr(os, "replace", spied(os.replace))
        with atomic_folder(tmp_path / "out") as temporary:
            for name in new:
                write(temporary / name, "new")
        assert all(state in (old, None, new) for state in seen) and old in seen and new in seen

    @pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "broken link"])
    def test_what_is_no_folder_is_left_and_named(self, tmp_path, make):
        make(tmp_path / "out")
        with pytest.raises(InputError, match="out: cannot be written: Not a directory; a file stands where a folder"):
            with atomic_folder(tmp_path / "out"):
                pytest.fail("nothing should be begun")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_what_a_killed_run_left_is_no_hindrance(self, tmp_path):
        with atomic_folder(tmp_path / "out") as temporary:
            name = temporary.name
        write(tmp_path / name / "rest.txt", "of a killed run")
        with atomic_folder(tmp_path / "out") as temporary:
            (temporary / "a.txt").write_text("new")
        assert tree(tmp_path) == {"out/a.txt": "new"}


def test_json_is_strict_and_short(tmp_path):
    path = tmp_path / "a.json"
    values = {"miou": 0.12345678, "none": float("nan"), "far": [float("inf"), 2.5], "names": ["a"], "n": 3}
    write_json(path, {"deep": values | {"numpy": np.float64("nan")}})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads(path.read_text(), parse_constant=refuse)
    expected = {"miou": 0.123457, "none": None, "far": [None, 2.5], "names": ["a"], "n": 3, "numpy": None}
    assert read == {"deep": expected} and path.read_text().endswith("}\n")


def test_csv(tmp_path):
    write_csv(tmp_path / "a.csv", ["class", "iou"], [["a,b", 0.5], ["c", ""]])
    assert (tmp_path / "a.csv").read_bytes() == b'class,iou\n"a,b",0.5\nc,\n'


def test_text_is_written_to_the_byte_and_read_leniently(tmp_path):
    write_text(tmp_path / "a.txt", "ä\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\r\nb\n"
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "b.txt") == "a\nb\nc\n"


def test_unreadable_text_is_an_input_error(tmp_path):
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="latin1.txt: byte 3 is not UTF-8"):
        read_text(tmp_path / "latin1.txt")
    with pytest.raises(InputError, match="missing.txt: No such file"):
        read_text(tmp_path / "missing.txt")


class TestPathsOfParams:
    def test_as_given_where_it_is_there(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
        Path("weights.pt").touch()
        assert find_in_project("weights.pt") == Path("weights.pt")
        assert find_in_project(str(tmp_path / "nowhere")) == tmp_path / "nowhere"

    def test_of_the_project_when_dvc_runs_in_a_copy(self, tmp_path, monkeypatch):
        (tmp_path / "project").mkdir()
        (tmp_path / "copy").mkdir()
        (tmp_path / "project" / "weights.pt").touch()
        monkeypatch.chdir(tmp_path / "copy")
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
        assert find_in_project("weights.pt") == tmp_path / "project" / "weights.pt"
        assert find_in_project("missing.pt") == Path("missing.pt")
