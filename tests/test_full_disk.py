"""Nowhere to write: full disks, limits, folders that take nothing. A message, nothing half-written, and then as new."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dvc.exceptions import ReproductionError
from dvc.repo import Repo

from dsrg.artifacts.seeds_h5 import SeedRow, write_seeds
from dsrg.doctor import tracked_objects
from dsrg.errors import InputError
from dsrg.files import atomic_file, atomic_folder, require_room, write_text
from helpers.memory import files_within
from helpers.refusals import refusals


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; the test skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_what_was_there(small_disk):
    write_text(small_disk / "a.txt", "old")
    with pytest.raises(InputError, match=r"a\.txt: cannot be written: No space left on device \(.* free\); make room"):
        write_text(small_disk / "a.txt", "new" * 200_000)
    assert os.listdir(small_disk) == ["a.txt"] and (small_disk / "a.txt").read_text() == "old"
    write_text(small_disk / "a.txt", "new" * 1000)  # room was made
    assert (small_disk / "a.txt").read_text() == "new" * 1000


def test_a_folder_on_a_full_disk(small_disk):
    with pytest.raises(InputError, match="out: cannot be written: No space"), atomic_folder(small_disk / "out") as new:
        for number in range(100):
            (new / str(number)).write_bytes(bytes(8192))
    assert os.listdir(small_disk) == []


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)


def test_seeds_on_a_full_disk_and_again_when_room_was_made(small_disk, tmp_path):
    """Noise, which cannot be packed: saliency and one map would fit, as is guessed before; three maps do not."""
    rng = np.random.default_rng(0)
    shapes = {"seeds": (200, 200), "saliency": (200, 200), "cams": (3, 200, 200)}
    maps = {name: rng.random(shape) if name != "seeds" else rng.integers(0, 4, shape) for name, shape in shapes.items()}
    row = SeedRow("a", np.ones(4, bool), cam_class=np.array([1, 2, 3], np.uint8), **maps)
    options = {"count": 1, "grid": 200, "classes": ["x", "y", "z"], "params": "{}"}
    with pytest.raises(InputError, match=r"seeds\.h5: cannot be written: No space left on device .*; make room, then"):
        write_seeds(small_disk / "seeds.h5", [row], **options)
    assert os.listdir(small_disk) == []
    enlarge(small_disk)
    for folder in (small_disk, tmp_path):
        write_seeds(folder / "seeds.h5", [row], **options)
    assert (small_disk / "seeds.h5").read_bytes() == (tmp_path / "seeds.h5").read_bytes()


def test_dvc_finds_no_room_for_its_copy_and_again_when_room_was_made(small_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = f"{sys.executable} -c \"open('out', 'wb').write(bytes(range(256)) * 4000)\""
    Path("dvc.yaml").write_text(json.dumps({"stages": {"make": {"cmd": made, "outs": ["out"]}}}))
    with Repo.init(no_scm=True) as repo:
        with repo.config.edit() as config:
            config["cache"]["dir"] = str(small_disk / "cache")
    with Repo() as repo, pytest.raises(ReproductionError) as error:
        repo.reproduce()
    assert error.value.__cause__.errno == errno.ENOSPC
    assert not Path("dvc.lock").exists() and Path("out").stat().st_size == 1_024_000
    enlarge(small_disk)
    with Repo() as repo:
        repo.reproduce()
        assert repo.status() == {}
    objects = [one for one in tracked_objects()[0] if one.path == Path("out")]
    assert [one.cached.read_bytes() for one in objects] == [bytes(range(256)) * 4000]


def test_what_is_needed_is_compared_with_what_is_free_before_the_work(small_disk):
    with pytest.raises(InputError, match=r"disk: needs about 1\.0 MiB, 2\d\d\.0 KiB are free; make room"):
        with atomic_file(small_disk / "out", size=2**20):
            raise AssertionError("the work was begun")
    assert os.listdir(small_disk) == []
    require_room(small_disk / "not" / "there" / "yet", 1000)


def test_a_disk_mounted_read_only(small_disk):
    write_text(small_disk / "a.txt", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for path in (small_disk / "a.txt", small_disk / "new" / "b.txt"):
        with pytest.raises(InputError, match=f"{path.name}: cannot be written: Read-only file system; .*mount it"):
            write_text(path, "new")
    assert (small_disk / "a.txt").read_text() == "old"


@pytest.mark.parametrize("whole", [atomic_file, atomic_folder])
def test_a_limit_on_the_size_of_files(tmp_path, whole):
    def write() -> None:
        with whole(tmp_path / "out") as temporary:
            (temporary / "a" if temporary.is_dir() else temporary).write_bytes(bytes(5000))

    with files_within(1000):
        (problem,) = refusals(write)
    assert problem.startswith(f"{tmp_path}/out: cannot be written: File too large; ") and "ulimit -f" in problem
    assert os.listdir(tmp_path) == []
    write()
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("whole", [atomic_file, atomic_folder])
@pytest.mark.parametrize(
    "name, said",
    [
        ("a" * 250, "takes no name so long"),
        ("file/b", "a file stands where"),
        ("file/b/c", "a file stands"),
        ("loop/b/c", "its links lead in a circle"),
        ("/proc/b", "no file can be made there"),
        ("/proc/b/c", "no file can be made there"),
    ],
)
def test_places_where_nothing_can_be(tmp_path, whole, name, said):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=f"cannot be written: .*{said}"), whole(tmp_path / name):
        raise AssertionError("the work was begun")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


@pytest.mark.parametrize("number", ["EACCES", "EPERM", "EDQUOT"])
@pytest.mark.parametrize("whole", [atomic_file, atomic_folder])
def test_what_else_a_system_may_refuse(tmp_path, monkeypatch, whole, number):
    """Root may write anywhere and has no quota, so the refusal is made up."""

    def refuse(*arguments, **options):
        raise OSError(getattr(errno, number), "no")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="out: cannot be written: .*(permissions|quota)"), whole(tmp_path / "out"):
        raise AssertionError("the work was begun")


def test_errors_of_reading_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), atomic_file(tmp_path / "a"):
        raise PermissionError(13, "of another file")
