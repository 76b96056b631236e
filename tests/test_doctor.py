"""`dsrg doctor`: every line with the fault that it is there for."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from dvc.repo import Repo

from dsrg import doctor
from dsrg.artifacts.model_file import Model, load_model, save_model
from dsrg.doctor import ERROR, FINE, NOTE, Finding
from dsrg.errors import InputError
from dsrg.project import Project, load_project
from helpers.command import outcome, run_dsrg
from helpers.project import tiny_project


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file, read-only or not, leaving its times as they were, as rot does."""
    times = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(times.st_mode)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)


def dead_process() -> int:
    """The pid of a process that is no more."""
    with subprocess.Popen(["true"]) as dead:
        return dead.pid


class TestMachine:
    @pytest.mark.parametrize(
        ("installed", "state", "said"),
        [
            ({"numpy": "2.1", "torch": "2.9"}, FINE, "2 as pinned"),
            ({"numpy": "2.2", "torch": "2.9"}, NOTE, "numpy 2.2 (pinned 2.1)"),
            ({"numpy": "2.1"}, ERROR, "missing: torch; run: make env"),
        ],
    )
    def test_packages(self, installed, state, said):
        found = doctor.packages({"numpy": "2.1", "torch": "2.9", "timm": "1"}, installed, required=["numpy", "torch"])
        assert found.state == state and said in found.said

    def test_pins_are_read(self, tmp_path):
        (tmp_path / "constraints.txt").write_text("# of\n\nNumPy==2.1\nflufl.lock==9.2.0\nzc_lock==1\n")
        assert doctor.read_pins(tmp_path / "constraints.txt") == {"numpy": "2.1", "flufl-lock": "9.2.0", "zc-lock": "1"}

    def test_libraries(self):
        def load(name: str) -> None:
            if name == "libGL.so.1":
                raise OSError("cannot open shared object file")

        found = doctor.libraries(doctor.LIBRARIES, load)
        assert found.state == ERROR and found.said == "OpenCV needs libGL.so.1 (apt-get install libgl1)"
        assert doctor.libraries(doctor.LIBRARIES, lambda name: None).state == FINE

    def test_room_is_asked_for_by_the_record(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        out = {"path": "a", "md5": "0" * 32, "size": 2**60}
        Path("dvc.lock").write_text(json.dumps({"stages": {"a": {"outs": [out]}}}))
        states = {found.what: found.state for found in doctor.look_at_machine(tmp_path / "none.txt")}
        assert states["disk"] == ERROR
        Path("dvc.lock").write_text("{")
        assert {found.what: found.state for found in doctor.look_at_machine(tmp_path / "none.txt")}["disk"] == FINE


class TestProject:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def test_git(self, monkeypatch):
        assert doctor.git().said.startswith("no repository")
        git("init", "-q")
        assert doctor.git().said.startswith("no commit yet")
        git("commit", "-q", "--allow-empty", "-m", "a")
        assert doctor.git().state == FINE and "not committed" not in doctor.git().said
        Path("a").touch()
        assert "1 files not committed" in doctor.git().said
        monkeypatch.setenv("PATH", "")
        assert doctor.git().state == NOTE

    def test_without_git_dvc_says_one_thing_with_doctor(self):
        """A ZIP download: DVC stops until `make env` has told it; then both go on."""
        Path(".dvc").mkdir()
        assert doctor.git().state == ERROR and "make env" in doctor.git().said
        assert [(line.what, line.state) for line in doctor.look_at_cache()] == [("DVC", NOTE)]
        Path(".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        assert doctor.git().state == NOTE and "dvc repro works" in doctor.git().said
        assert not doctor.dvc_expects_git()
        git("init", "-q")
        assert doctor.git().state == NOTE and "core.no_scm" in doctor.git().said

    def test_own_pictures_that_nobody_tracks(self):
        def unseen() -> str | None:
            return doctor.unseen_data(Path("pictures"), drawn=Path("data/shapes"))

        Path("pictures").mkdir()
        Path("pictures/a.png").touch()
        assert unseen() is None, "without git there are no experiments"
        git("init", "-q")
        git("commit", "-q", "--allow-empty", "-m", "a")
        assert "run: dvc add pictures" in unseen()
        assert doctor.unseen_data(Path("pictures"), drawn=Path("pictures")) is None, "a stage makes them"
        assert doctor.unseen_data(Path("/"), drawn=Path("data/shapes")) is None, "found wherever DVC runs"
        Path("pictures.dvc").touch()
        assert unseen() is None
        Path("pictures.dvc").unlink()
        git("add", "pictures")
        assert unseen() is None

    @pytest.mark.parametrize(("text", "state"), [("{}", FINE), ("", FINE), ("garbage", ERROR), ("[]", ERROR)])
    def test_locks_of_dvc(self, text, state):
        Path("rwlock").write_text(text)
        found = doctor.locked(Path("rwlock"))
        assert found.state == state and (found.remove == (Path("rwlock"),)) == (state == ERROR)

    def test_leftovers_are_those_of_the_dead(self):
        """Of this process and of the first one, which runs, nothing is touched."""
        dead = dead_process()
        Path("data/deep").mkdir(parents=True)
        names = [f".a.h5.{dead}.tmp", f"deep/.b.{dead}.old", f".c.{os.getpid()}.tmp", ".d.1.tmp", ".e.x.tmp", "f"]
        for name in names:
            Path("data", name).touch()
        found = doctor.leftovers([Path("data"), Path("nowhere")])
        assert found.state == NOTE and sorted(found.remove) == sorted(Path("data", name) for name in names[:2])
        assert doctor.leftovers([Path("nowhere")]).state == FINE


class TestData:
    @pytest.fixture
    def made(self, finished_copy) -> Project:
        """A project in which every stage has run."""
        return load_project()

    @staticmethod
    def wrong(project: Project) -> dict[str, str]:
        return {one.what: one.said for one in doctor.look_at_data(project) if one.state != FINE}

    def test_all_is_well(self, made):
        assert self.wrong(made) == {}
        assert len(list(doctor.look_at_data(made))) == 7

    @pytest.mark.parametrize(
        ("path", "what"),
        [
            ("data/shapes/JPEGImages/train0001.jpg", "images"),
            ("data/masks/train0001.png", "masks"),
            *((path, path) for path in ("data/cam.safetensors", "data/seeds.h5", "data/dsrg.safetensors")),
            ("data/pseudo_labels/train0001.png", "data/pseudo_labels"),
            ("data/retrain.safetensors", "data/retrain.safetensors"),
        ],
    )
    def test_a_flipped_bit_is_in_one_line(self, made, path, what):
        flip(Path(path))
        found = self.wrong(made)
        assert list(found) == [what] and path in found[what]

    @pytest.mark.parametrize("key", ["cam", "seeds", "dsrg", "pseudo_labels", "retrain"])
    def test_what_is_not_made_yet_is_a_note(self, made, key):
        path = getattr(made.paths, key)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert self.wrong(made) == {str(path): "not made yet; run: dvc repro"}

    def test_no_index_and_a_damaged_one(self, made):
        Path("data/index.csv").write_text("no index")
        assert "line 1" in self.wrong(made)["data"]
        Path("data/index.csv").unlink()
        assert "not made yet" in self.wrong(made)["data"]


class TestCache:
    @pytest.fixture
    def repo(self, tmp_path, monkeypatch) -> Path:
        """A folder of two files and a file, tracked by DVC -> where its cache keeps objects."""
        monkeypatch.chdir(tmp_path)
        with Repo.init(no_scm=True) as repo:
            Path("folder/deep").mkdir(parents=True)
            for name in ("folder/a", "folder/deep/b", "c"):
                Path(name).write_text(f"{name} " * 10)
            repo.add(["folder", "c"])
            return Path(repo.cache.local.path)

    @staticmethod
    def look() -> list[Finding]:
        return list(doctor.look_at_cache())

    def test_all_is_well(self, repo):
        assert self.look() == [Finding("DVC's cache", FINE, "4 objects, each of the content that its name says")]

    def test_every_object_is_looked_at(self, repo):
        """Also the list of a folder's files, without which they cannot be known."""
        objects, _ = doctor.tracked_objects()
        assert sorted(map(str, (one.path for one in objects))) == ["c", "folder", "folder/a", "folder/deep/b"]
        for one in objects:
            flip(one.cached)
            found = self.look()[0]
            assert found.state == ERROR and f"({one.path})" in found.said and found.remove == (one.cached,)
            flip(one.cached)
        assert self.look()[0].state == FINE

    def test_what_rots_in_the_workspace_is_told_apart(self, repo):
        flip(Path("folder/a"))
        first, second = self.look()
        assert (
            first.state == FINE and second.state == NOTE and second.said.startswith("folder/a: not as dvc.lock has it")
        )

    def test_a_missing_object_is_a_note(self, repo):
        (one,) = (one for one in doctor.tracked_objects()[0] if one.path == Path("c"))
        one.cached.unlink()
        assert self.look()[0] == Finding(
            "DVC's cache", NOTE, "1 of 4 objects are missing: c; run: dvc commit, dvc fetch or dvc repro"
        )

    def test_only_what_is_damaged_is_removed(self, repo):
        bad = next(one.cached for one in doctor.tracked_objects()[0] if one.path == Path("folder/a"))
        flip(bad)
        found = self.look()
        assert bad.exists()
        assert doctor.fix(found) == [bad] and not bad.exists()
        assert self.look()[0].state == NOTE and Path("folder/a").exists()

    def test_a_damaged_object_that_dvc_hands_out_is_refused_by_who_reads_it(self, repo):
        """DVC trusts a read-only object: it puts the damaged file into the workspace and finds nothing wrong."""
        save_model(Path("m.pt"), Model("segmenter", ["cat"], {}, 65, {"w": torch.ones(1000)}))
        with Repo() as project:
            project.add(["m.pt"])
        (cached,) = (one.cached for one in doctor.tracked_objects()[0] if one.path == Path("m.pt"))
        flip(cached)
        Path("m.pt").unlink()
        with Repo() as project:
            project.checkout()
            assert project.status() == {}
        with pytest.raises(InputError, match="m.pt: damaged"):
            load_model(Path("m.pt"), kind="segmenter", stage_name="retrain")
        assert self.look()[0].remove == (cached,)

    def test_no_project_and_damaged_files_of_dvc(self, repo):
        Path("c.dvc").write_text("outs: [")
        (found,) = self.look()
        assert found.state == ERROR and "c.dvc" in found.said
        Path("dvc.lock").write_text("{")
        assert "dvc.lock: not valid YAML" in self.look()[0].said
        Path("dvc.lock").unlink()
        shutil.rmtree(".dvc")
        assert self.look() == [Finding("DVC", NOTE, "no DVC project here; run: dvc init")]


class TestCommand:
    @pytest.fixture
    def project(self, tmp_path, monkeypatch) -> Path:
        folder = tiny_project(tmp_path / "project")
        monkeypatch.chdir(folder)
        Repo.init(no_scm=True).close()
        return folder

    def test_a_new_project_is_fine(self, project, monkeypatch):
        """It has no constraints.txt, wherever this package is installed."""
        monkeypatch.setattr(doctor, "_required", lambda: ["torch", "numpy"])
        said = run_dsrg("doctor", "--json", "found.json")
        assert "none wrong" in said and "not made yet" in said
        states = {one["what"]: one["state"] for one in json.loads(Path("found.json").read_text())["findings"]}
        assert states["params"] == FINE and states["data"] == NOTE

    def test_what_is_wrong_sets_the_exit_code_and_is_removed_when_told(self, project):
        Path(".dvc/tmp").mkdir(exist_ok=True)
        Path(".dvc/tmp/rwlock").write_text("garbage")
        assert "1 of " in run_dsrg("doctor", code=2) and Path(".dvc/tmp/rwlock").exists()
        said = run_dsrg("doctor", "--fix", code=2)
        assert "removed: .dvc/tmp/rwlock" in said and not Path(".dvc/tmp/rwlock").exists()
        assert "lines were wrong; look again: dsrg doctor" in said
        run_dsrg("doctor")

    def test_each_leftover_is_said_once_and_only_the_projects_own_folders_are_searched(self, project):
        dead = dead_process()
        for folder in ("data/deep", "results/audit", ".venv"):
            Path(folder).mkdir(parents=True)
            Path(folder, f".a.{dead}.tmp").touch()
        _, said = outcome("doctor", "--fix")
        removed = sorted(line.split()[1] for line in said.splitlines() if line.startswith("removed: "))
        assert removed == [f"data/deep/.a.{dead}.tmp", f"results/audit/.a.{dead}.tmp"]

    @pytest.mark.parametrize("name", ["dvc.yaml", "dvc.lock", ".dvc/config"])
    def test_damaged_files_of_dvc_are_lines(self, project, name):
        Path(name).write_text("stages: [")
        assert name.rsplit("/")[-1] in run_dsrg("doctor", code=2)
