"""What dvc.lock notes, and what a stage looks at before it works: places to write to, and room as last time."""

import json
from pathlib import Path

import pytest

from dsrg.errors import InputError
from dsrg.runtime.dvc_lock import LockedFile, read_lock
from dsrg.stage import load_stage
from helpers.project import tiny_project

LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: python -m stages.prepare
    outs:
    - path: data/index.csv
      hash: md5
      md5: 900150983cd24fb0d6963f7d28e17f72
      size: 3
    - path: data/masks
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 7
      nfiles: 2
  audit:
    cmd: python -m stages.audit
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The stage train_cam with inputs made up."""
    folder = tiny_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    (folder / "data/index.csv").write_bytes(b"abc")
    (folder / "data/classes.txt").write_bytes(b"cat\n")
    (folder / "dvc.lock").write_text(LOCK)
    return folder


def test_what_is_noted(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    found = read_lock(tmp_path / "dvc.lock")
    assert list(found) == ["prepare", "audit"] and not found["audit"].outs
    assert found["prepare"].outs == [
        LockedFile(path="data/index.csv", md5="900150983cd24fb0d6963f7d28e17f72", size=3),
        LockedFile(path="data/masks", md5="0123456789abcdef0123456789abcdef.dir", size=7),
    ]
    assert read_lock(tmp_path / "none.lock") == {}


@pytest.mark.parametrize(
    "text",
    ["", "stages: [", "stages: {a: {outs: [{md5: x}]}}", "stages: {a: {outs: 3}}", "schema: 1", LOCK[:200], "\0",
     "- 1", "stages: {a: {outs: [{path: x, md5: a, size: much}]}}", "stages: " + "[" * 5000],
    ids=range(10),
)  # fmt: skip
def test_a_damaged_one_is_an_input_error(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(InputError, match="dvc.lock: (not valid YAML|no lock of DVC).*; restore it: git checkout"):
        read_lock(tmp_path / "dvc.lock")


def test_all_places_that_cannot_be_written_are_named_before_the_work(project):
    (project / "results").write_text("a file in the way")
    (project / ".scratch").write_text("a file in the way")
    with pytest.raises(InputError) as refused:
        load_stage("train_cam").preflight()
    first, second = refused.value.problems
    assert first.startswith(".scratch: cannot be written") and second.startswith("results/train_cam: cannot be")


def test_room_is_asked_for_as_last_time(project):
    size = 2**60
    lock = {"stages": {"train_cam": {"outs": [{"path": "data/cam.safetensors", "md5": "0" * 32, "size": size}]}}}
    (project / "dvc.lock").write_text(json.dumps(lock))
    with pytest.raises(InputError, match=r"needs about 1048576\.0 TiB.*make room"):
        load_stage("train_cam").preflight()
