"""A stage as a process: one at a time, stopped in good order, nothing half-written left, an exit code that says why."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from dsrg.errors import InputError, RunError
from dsrg.runtime.durations import NAME
from dsrg.stage import load_stage
from helpers.launchers import CHILD, TORCHRUN, environment
from helpers.project import tiny_project

BUSY = """
    import time
    from dsrg.errors import InputError, RunError
    from dsrg.files import atomic_file
    from dsrg.stage import run_stage

    def prepare(stage):
        WORK

    if __name__ == "__main__":
        run_stage(prepare)
"""
WRITE = """
with atomic_file(stage.paths.index) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def project(tmp_path):
    return tiny_project(tmp_path / "project")


def start(project: Path, work: str, *, together: bool = False, **settings: str) -> subprocess.Popen:
    """Start the stage `prepare` with `work` for its work; a stage that imports little starts quickly."""
    source = textwrap.dedent(BUSY).replace("WORK", textwrap.indent(work.strip(), " " * 4).strip())
    source = source.replace("run_stage(prepare)", f"run_stage(prepare, together={together})")
    (project / "stages" / "prepare.py").write_text(source)
    command = [sys.executable, "-m", "stages.prepare"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=project, env=environment(PYTHONPATH=".", **settings), **pipes)


def files(project: Path) -> list[str]:
    """What a run has left, but for the note of its time; points.csv is a person's."""
    found = (path for name in ("data", ".scratch") for path in (project / name).rglob("*"))
    return sorted(str(path.relative_to(project)) for path in found if path.name not in (NAME, "points.csv"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_stopped_by_a_signal(project, number, code):
    process = start(project, WRITE)
    process.stdout.readline()
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code
    assert said == f"prepare: stopped by {number.name}; the same command starts it again\n"
    assert files(project) == []


def test_ctrl_c_while_python_shuts_down(project):
    """It would be lost there; the exit code is what tells `dvc`, which ignores the signal while a stage runs."""
    wait = "import atexit; atexit.register(lambda: (print('ready', flush=True), time.sleep(60)))"
    process = start(project, wait)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait() == -signal.SIGINT


def test_stopped_with_something_kept(project):
    process = start(project, "print(stage.scratch, flush=True); time.sleep(60)")
    scratch = process.stdout.readline().strip()
    process.terminate()
    assert f"the same command goes on with what is in {scratch}" in process.communicate()[1]


def test_a_second_run_is_refused_with_the_pid_of_the_first_which_goes_on(project):
    first = start(project, WRITE)
    first.stdout.readline()
    second = start(project, "pass")
    said = second.communicate()[1]
    assert second.returncode == 1
    assert f"the stage `prepare` is being run by another process (pid {first.pid}); wait for it or stop it" in said
    assert first.poll() is None
    first.kill()
    first.communicate()


def test_killed_by_force_the_next_run_clears_its_leftovers_away(project):
    killed = start(project, WRITE)
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    (project / "data" / ".masks.123.tmp").mkdir()
    (project / "data" / ".masks.123.tmp" / "a.png").touch()
    (project / "data" / ".mine.tmp").touch()
    assert any(name.startswith("data/.index.csv.") for name in files(project))
    again = start(project, "pass")
    assert (again.communicate()[1], again.returncode) == ("", 0)
    assert files(project) == ["data/.mine.tmp"]


@pytest.mark.parametrize(
    ("work", "code", "message"),
    [
        ("pass", 0, ""),
        ("raise InputError(['a: bad', 'b: bad'])", 2, "prepare: 2 problems\na: bad\nb: bad\n"),
        ("e = RunError('no'); e.add_note('but'); raise e", 1, "prepare: no\nbut\n"),
    ],
    ids=["done", "input", "run"],
)
def test_exit_codes(project, work, code, message):
    process = start(project, work)
    assert (process.communicate()[1], process.returncode) == (message, code)
    assert files(project) == []
    assert (project / ".scratch" / NAME).exists() == (code == 0), "of work that was not done there is no time"


DRAW = """
    import os, time
    from pathlib import Path
    from dsrg.stage import run_stage

    def draw_shapes(stage):
        if not Path("go").exists():
            print("ready", os.getpid(), flush=True)
            time.sleep(60)
        stage.paths.shapes.mkdir(parents=True)
        (stage.paths.shapes / "a.jpg").touch()

    if __name__ == "__main__":
        run_stage(draw_shapes)
"""


def test_with_dvc_itself(project):
    """A second `dvc repro` is refused with the pid of the first; killed by force, the first takes its stage along; the
    next one does the work.
    """
    (project / "stages" / "draw_shapes.py").write_text(textwrap.dedent(DRAW))
    options = {"cwd": project, "env": environment(PYTHONPATH="."), "stdout": subprocess.PIPE, "text": True}
    options["stderr"] = subprocess.STDOUT
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], **options, check=True)
    with subprocess.Popen([*dvc, "repro", "draw_shapes"], **options) as first:
        pid = next(int(line.split()[1]) for line in first.stdout if line.startswith("ready"))
        second = subprocess.run([*dvc, "repro", "draw_shapes"], **options)
        assert second.returncode != 0 and str(first.pid) in second.stdout and "busy" in second.stdout
        assert first.poll() is None and psutil.pid_exists(pid)
        first.kill()
        assert "draw_shapes: stopped by SIGTERM; the same command starts it again" in first.stdout.read()
    assert files(project) == []
    (project / "go").touch()
    third = subprocess.run([*dvc, "repro", "draw_shapes"], **options)
    assert third.returncode == 0, third.stdout
    assert files(project) == ["data/shapes", "data/shapes/a.jpg"]


class TestTogether:
    """What a process does that is not the first of several."""

    SHOW = "print(stage.scratch, stage.topology, flush=True)"

    @pytest.fixture(autouse=True)
    def any_number(self, monkeypatch):
        monkeypatch.delenv("DSRG_DEVICES", raising=False)

    def test_work_that_cannot_be_shared_is_left_to_the_first(self, project):
        other = start(project, self.SHOW, **TORCHRUN)
        assert (*other.communicate(), other.returncode) == ("", "", 0)
        first = start(project, self.SHOW, **TORCHRUN | {"RANK": "0"})
        said = first.communicate()[0]
        assert "is_rank_zero=True" in said and str(project / ".scratch" / "prepare-") in str(project / said)

    def test_it_needs_no_lock_and_has_no_scratch(self, project):
        first = start(project, WRITE, together=True, **TORCHRUN | {"RANK": "0"})
        first.stdout.readline()
        other = start(project, self.SHOW, together=True, **TORCHRUN)
        said, complaint = other.communicate()
        assert said.startswith("/dev/null LaunchConfig(launcher='torchrun'") and not complaint and first.poll() is None
        first.kill()
        first.communicate()

    def test_the_one_that_started_it_answers_the_keyboard(self, project):
        """Else it would be gone before the first has saved its work."""
        child = start(project, "print(1, flush=True); time.sleep(60)", together=True, **CHILD)
        child.stdout.readline()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            child.send_signal(number)
        assert "stopped by SIGTERM" in child.communicate()[1] and child.returncode == 143


@pytest.mark.parametrize("text", ["[1]", "3", "{", ""])
def test_a_damaged_note_of_times_stops_nothing(project, text):
    note = project / ".scratch" / NAME
    note.parent.mkdir()
    note.write_text(text)
    process = start(project, "pass")
    assert (process.communicate()[1], process.returncode) == ("", 0)
    assert list(json.loads(note.read_text())[str(project)]) == ["prepare"]


def test_times_are_noted_in_the_scratch_folder_by_several_at_once(project, tmp_path):
    scratch = tmp_path / "scratch"
    stages = [start(project, "pass", DSRG_SCRATCH=str(scratch))]
    stages[0].communicate()
    for name in ("audit", "evaluate"):
        work = (project / "stages" / "prepare.py").read_text().replace("prepare", name)
        (project / "stages" / f"{name}.py").write_text(work)
        settings = environment(PYTHONPATH=".", DSRG_SCRATCH=str(scratch))
        stages.append(subprocess.Popen([sys.executable, "-m", f"stages.{name}"], cwd=project, env=settings))
    assert [stage.wait() for stage in stages] == [0, 0, 0]
    assert sorted(json.loads((scratch / NAME).read_text())[str(project)]) == ["audit", "evaluate", "prepare"]
    assert not (project / ".scratch").exists()


@pytest.mark.parametrize("text", ["", "- 1", "stages: {", "stages: {}", None])
def test_a_damaged_dvc_yaml_is_an_input_error(project, monkeypatch, text):
    monkeypatch.chdir(project)
    Path("dvc.yaml").unlink() if text is None else Path("dvc.yaml").write_text(text)
    with pytest.raises(InputError, match="dvc.yaml: (not found in|not valid YAML|expected `vars:` and `stages:`)"):
        load_stage("prepare")


class TestScratch:
    @pytest.fixture(autouse=True)
    def here(self, project, monkeypatch):
        """A project whose stage make_seeds has its inputs."""
        monkeypatch.chdir(project)
        for name in ("index.csv", "classes.txt", "cam.safetensors"):
            (project / "data" / name).write_text(name)

    def test_the_same_for_the_same_inputs(self):
        first = load_stage("make_seeds").scratch
        assert load_stage("make_seeds").scratch == first
        Path("data/cam.safetensors").write_text("another")
        assert load_stage("make_seeds").scratch != first

    def test_it_says_what_it_is_made_from(self):
        origin = json.loads((load_stage("make_seeds").scratch / "origin.json").read_text())
        assert origin["seeds.fg_thresh"] == 0.15 and len(origin["data/cam.safetensors"]) == 64
        assert len(origin["dsrg/method/seeds.py"]) == 64 and "torch" in origin
        assert not [name for name in origin if "runtime" in name or "__pycache__" in name]

    def test_two_at_once_do_not_share_it(self):
        """Two experiments, each in a folder of its own, may need the same classifier at the same time."""
        first, second = load_stage("make_seeds"), load_stage("make_seeds")
        beside = first.scratch.with_name(f"{first.scratch.name}.1")
        assert second.scratch == beside
        first.discard_scratch()
        assert not first.scratch.exists() and second.scratch.exists()

    def test_unfinished_work_of_other_inputs_is_named_with_what_differs(self, capsys):
        old = load_stage("make_seeds").scratch
        assert capsys.readouterr().out == ""
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(text.replace("fg_thresh: 0.15", "fg_thresh: 0.25"))
        Path("data/cam.safetensors").write_text("another")
        load_stage("make_seeds").scratch  # noqa: B018
        said = capsys.readouterr().out
        other = "data/cam.safetensors, seeds.fg_thresh"
        assert f"unfinished work in {old} is left alone, because of other {other}\n" in said


def test_alone_counts_for_one_folder(project, tmp_path, monkeypatch):
    """Experiments in temporary copies run beside each other."""
    monkeypatch.setenv("DSRG_SCRATCH", str(tmp_path / "scratch"))
    other = tiny_project(tmp_path / "other")
    monkeypatch.chdir(project)
    with load_stage("prepare").exclusive():
        with pytest.raises(RunError, match=str(os.getpid())), load_stage("prepare").exclusive():
            pass
        with load_stage("make_seeds").exclusive():
            pass
        monkeypatch.chdir(other)
        with load_stage("prepare").exclusive():
            pass
