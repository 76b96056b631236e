"""The set-up files agree with each other, and the checks before an installation say what is missing."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dsrg.commands import main
from helpers import ROOT


def pins() -> dict[str, str]:
    """Exact version of each package in constraints.txt, by canonical name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines)}


def direct_requirements() -> list[Requirement]:
    """What setup.cfg asks for, extras included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    blocks = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for block in blocks for line in block.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


class TestVersions:
    def test_every_requirement_is_pinned_within_its_range(self):
        pinned = [(wanted, pins().get(canonicalize_name(wanted.name), "no pin")) for wanted in direct_requirements()]
        outside = [
            f"{wanted}: constraints.txt has {pin}"
            for wanted, pin in pinned
            if pin == "no pin" or not wanted.specifier.contains(pin, prereleases=True)
        ]
        assert not outside

    def test_every_constraint_is_one_exact_version(self):
        inexact = {name: pin for name, pin in pins().items() if not re.fullmatch(r"[0-9][0-9a-z.]*", pin)}
        assert not inexact


def imported_modules(*folders: str) -> dict[str, str]:
    """Top-level name of each module imported anywhere in the folders, with a file that imports it."""
    names = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            else:
                continue
            names.update({module.partition(".")[0]: str(path.relative_to(ROOT)) for module in modules})
    return names


def test_every_imported_package_is_asked_for_in_setup_cfg():
    declared = {canonicalize_name(requirement.name) for requirement in direct_requirements()}
    distributions = packages_distributions()
    undeclared = [
        f"{path} imports {module}: add it to setup.cfg and constraints.txt"
        for module, path in imported_modules("dsrg", "stages").items()
        if module not in sys.stdlib_module_names | {"dsrg", "stages"}
        and not declared & {canonicalize_name(name) for name in distributions.get(module, [module])}
    ]
    assert not undeclared


# Imports every module below the packages it is given, with dvc and pydensecrf out of reach.
IMPORT_ALL = """
import importlib, pkgutil, sys
for blocked in ("dvc", "dvclive", "pydensecrf"):
    sys.modules[blocked] = None
names = []
for root in sys.argv[1:]:
    package = importlib.import_module(root)
    names += [root, *(module.name for module in pkgutil.walk_packages(package.__path__, root + "."))]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_method_and_networks_import_without_dvc_and_pydensecrf():
    command = [sys.executable, "-c", IMPORT_ALL, "dsrg.method", "dsrg.networks"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 2


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A copy of the set-up files, and `bin`: a PATH with a usable python3, a compiler in name only, and no more."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    program(tmp_path, "python3", f'exec "{sys.executable}" "$@"')
    program(tmp_path, "g++", "exit 0")
    return tmp_path


def program(machine: Path, name: str, script: str) -> None:
    path = machine / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(machine: Path, *command: str, path: str = "") -> subprocess.CompletedProcess:
    environment = {"PATH": f"{machine}/bin:{path}" if path else f"{machine}/bin", "HOME": str(machine)}
    environment["GIT_CEILING_DIRECTORIES"] = str(machine.parent)
    return subprocess.run(command, cwd=machine, env=environment, capture_output=True, text=True)


def preflight(machine: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run(machine, "/bin/sh", ".ci/preflight.sh", *arguments)


# Stand-ins for python3 that answer preflight.sh: one is too old, one lacks what the question names.
OLD_PYTHON = """case "$2" in *exit*) exit 1;; esac; echo 3.9"""
BARE_PYTHON = f"""case "$2" in *{{}}*) exit 1;; esac; exec "{sys.executable}" "$@" """


class TestPreflight:
    def test_names_the_python_when_nothing_is_missing(self, machine: Path):
        result = preflight(machine)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.strip() == str(machine / "bin" / "python3")
        assert preflight(machine, "--packages").stdout.strip() == ""

    def test_make_stops_without_a_compiler_before_it_makes_anything(self, machine: Path):
        make = shutil.which("make")
        if make is None:
            pytest.skip("make is not installed")
        (machine / "bin" / "g++").unlink()
        result = run(machine, make, "test")
        assert result.returncode != 0
        assert "a C++ compiler (g++): pydensecrf is compiled" in result.stderr
        assert "apt-get install g++\n" in result.stderr
        assert not (machine / ".venv").exists()

    def test_old_python(self, machine: Path):
        program(machine, "python3", OLD_PYTHON)
        result = preflight(machine)
        assert result.returncode == 1
        assert "Python 3.11, 3.12 or 3.13 (python3 is 3.9)" in result.stderr

    def test_a_newer_python_beside_an_old_one_is_found(self, machine: Path):
        (machine / "bin" / "python3").rename(machine / "bin" / "python3.12")
        program(machine, "python3", OLD_PYTHON)
        assert preflight(machine).stdout.strip() == str(machine / "bin" / "python3.12")

    @pytest.mark.parametrize(
        ("lacks", "package"),
        [("ensurepip", r"python3\.\d+-venv"), ("Python.h", r"python3\.\d+-dev"), ("ctypes", "libgl1 libglib2.0-0")],
    )
    def test_what_python_needs(self, machine: Path, lacks: str, package: str):
        program(machine, "python3", BARE_PYTHON.format(lacks))
        result = preflight(machine)
        assert result.returncode == 1
        assert re.search(rf"apt-get install {package}\n", result.stderr)
        assert re.fullmatch(rf"{package}\n", preflight(machine, "--packages").stdout)

    def test_everything_missing_is_said_at_once(self, machine: Path):
        shutil.rmtree(machine / "bin")
        (machine / ".git").mkdir()
        assert preflight(machine).stderr.count("\n  - ") == 3
        assert preflight(machine, "--packages").stdout == "python3 python3-venv python3-dev g++ git\n"


def test_a_folder_without_git_and_a_repository_without_commit(machine: Path):
    shutil.copytree(ROOT / ".dvc", machine / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if shutil.which("git") is None or shutil.which("dvc", path=path) is None:
        pytest.skip("needs git and dvc")
    settings = machine / ".dvc" / "config.local"

    result = run(machine, "/bin/sh", ".ci/repository.sh", path=path)
    assert result.returncode == 0, result.stderr
    assert "Not a git repository" in result.stdout
    assert "no_scm = true" in settings.read_text()

    subprocess.run(["git", "init", "--quiet", machine], check=True)
    result = run(machine, "/bin/sh", ".ci/repository.sh", path=path)
    assert result.returncode == 0, result.stderr
    assert "no commit yet" in result.stdout
    assert "no_scm" not in settings.read_text()


def test_git_ignores_what_dvc_keeps_and_nothing_else():
    """Where git does not ignore an output, DVC writes a .gitignore of its own, and loses it when a stage fails."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        outputs = {os.path.relpath(out.fs_path, ROOT): out.use_cache for out in repo.index.outs if out.is_in_repo}
    command = ["git", "check-ignore", "--no-index", *outputs]
    ignored = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split())
    assert ignored == {path for path, cached in outputs.items() if cached}


def test_plots_page_needs_no_network():
    from dvc_render.html import HTML

    page = HTML((ROOT / ".dvc" / "plots" / "offline.html").read_text(encoding="utf8"))
    filled = page.with_scripts('<script src="https://cdn">').with_element("<p>a plot</p>").embed()
    assert "<body>\n<p>a plot</p>\n</body>" in filled
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=", filled)


def test_the_list_of_commands_says_what_each_does():
    """In a wide terminal; in one of 80 columns click cuts sentences short."""
    listed = CliRunner().invoke(main, ["--help"], terminal_width=120).output.partition("Commands:\n")[2]
    assert len(listed.splitlines()) == len(main.commands) and "..." not in listed
