"""What `dsrg doctor` looks at: the machine, the project, its data and DVC's cache, a finding a line.

Nothing is changed here. A finding says what could be removed to fix it; the command does that when it is told to.
"""

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from dsrg.errors import InputError, few, one_line
from dsrg.files import human_bytes, read_text, sha256
from dsrg.params import load_params
from dsrg.project import Project
from dsrg.runtime.dvc_lock import md5, read_lock

FINE, NOTE, ERROR = "fine", "note", "wrong"
MEMORY = 4 * 2**30  # bytes; the demo and the small recipes take up to 3.2 GiB (docs/results.md)
LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0"}  # that OpenCV loads: Debian's package
LEFTOVER = re.compile(r"\..+\.(\d+)\.(tmp|old)")  # of dsrg.files, with the pid of the process that was writing
DVC_LOCKS = Path(".dvc/tmp/rwlock")


class Finding(NamedTuple):
    """One line: what was looked at, how it is, what is to be said, and what could be removed to fix it."""

    what: str
    state: str
    said: str
    remove: tuple[Path, ...] = ()


class Object(NamedTuple):
    """One file that DVC tracks: what it is in the workspace, its md5, and where the cache keeps it."""

    path: Path
    md5: str
    cached: Path


def _found(what: str, *, fine: str, wrong: str = "", note: str = "", remove: Iterable[Path] = ()) -> Finding:
    """What is wrong, or else to be noted, or else fine."""
    state = ERROR if wrong else NOTE if note else FINE
    return Finding(what, state, wrong or note or fine, tuple(remove))


# The machine


def look_at_machine(constraints: Path) -> Iterator[Finding]:
    """Python and packages against the pinned ones, compiler, libraries, disk, memory, GPU."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield _found("python", fine=python, wrong="" if supported else f"{python}; expected 3.11 to 3.13")
    pins = read_pins(constraints) if constraints.is_file() else {}
    required = _required()
    installed = {name: version for name in {*pins, *required} if (version := _installed(name))}
    yield packages(pins, installed, required=required)
    compiler = os.environ.get("CXX", "g++")
    lacks = f"no {compiler}: only needed to install pydensecrf; run: apt-get install g++"
    yield _found("compiler", fine=compiler, note="" if shutil.which(compiler) else lacks)
    yield libraries(LIBRARIES, ctypes.CDLL)
    yield disk(shutil.disk_usage(".").free)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = human_bytes(memory)
    little = f"{said}; small recipes take up to {human_bytes(MEMORY)}"
    yield _found("memory", fine=said, note=little if memory < MEMORY else "")
    yield gpu()


def packages(pins: dict[str, str], installed: dict[str, str], *, required: Iterable[str]) -> Finding:
    """Installed versions against constraints.txt: a missing one that is required is wrong, another version a note."""
    missing = sorted(name for name in required if name not in installed)
    changed = sorted(name for name in installed if installed[name] != pins.get(name, installed[name]))
    other = [f"{name} {installed[name]} (pinned {pins[name]})" for name in changed]
    return _found(
        "packages",
        fine=f"{len(installed)} as pinned in constraints.txt",
        wrong=f"missing: {few(missing)}; run: make env" if missing else "",
        note=f"other versions than the tested ones: {few(other)}" if other else "",
    )


def read_pins(constraints: Path) -> dict[str, str]:
    """Versions of constraints.txt by name, lower case with `-`."""
    pins = re.findall(r"^([\w.-]+)==(\S+)$", read_text(constraints), re.MULTILINE)
    return {_normal(name): version for name, version in pins}


def libraries(wanted: dict[str, str], load: Callable[[str], object]) -> Finding:
    """Shared libraries that the system must have: name -> Debian's package."""
    missing = []
    for name, package in wanted.items():
        try:
            load(name)
        except OSError:
            missing.append(f"{name} (apt-get install {package})")
    return _found("libraries", fine=", ".join(wanted), wrong=f"OpenCV needs {few(missing)}" if missing else "")


def disk(free: int) -> Finding:
    """Free bytes against what all outs took last time, twice: DVC keeps a copy."""
    outs = []
    with suppress(InputError):  # reported among DVC's lines
        outs = [out for stage in read_lock().values() for out in stage.outs]
    needed, said = 2 * sum(out.size for out in outs), f"{human_bytes(free)} free"
    wrong = f"{said}; the outs took {human_bytes(needed)} with DVC's copies" if free < needed else ""
    return _found("disk", fine=said, wrong=wrong)


def gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", NOTE, "none that torch can use; everything runs on the CPU")
    properties = torch.cuda.get_device_properties(0)
    return Finding("GPU", FINE, f"{properties.name}, {human_bytes(properties.total_memory)}")


def _installed(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)


def _required() -> list[str]:
    """Names of the packages that this one cannot do without."""
    lines = metadata.requires("dsrg") or [] if _installed("dsrg") else []
    return [_normal(re.match(r"[\w.-]+", line)[0]) for line in lines if "extra ==" not in line]


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


# The project


def look_at_project(folders: Iterable[Path]) -> Iterator[Finding]:
    """git, DVC's own files, params.yaml, and what killed runs left in `folders`."""
    yield git()
    if DVC_LOCKS.exists():
        yield locked(DVC_LOCKS)
    yield _whole("params", load_params, fine="params.yaml")
    yield leftovers(folders)


def git() -> Finding:
    """git, and whether DVC goes with it or without it as it has to."""
    if not _has_repository():
        if dvc_expects_git():
            return Finding("git", ERROR, "no repository, which DVC does not know: dvc repro stops; run: make env")
        return Finding("git", NOTE, "no repository: dvc repro works, dvc exp does not; run: git init")
    if _goes_without_git():
        said = "a repository, but .dvc/config.local says core.no_scm: dvc exp does not work; run: make env"
        return Finding("git", NOTE, said)
    if (commit := _git("rev-parse", "--short", "--verify", "HEAD")) is None:
        return Finding("git", NOTE, "no commit yet: dvc exp needs one; run: git add -A, git commit")
    changed = len((_git("status", "--porcelain") or "").splitlines())
    return Finding("git", FINE, f"{commit}, {changed} files not committed" if changed else commit)


def dvc_expects_git() -> bool:
    """Would DVC stop here, because there is no git repository and nobody told it so?"""
    return Path(".dvc").is_dir() and not _has_repository() and not _goes_without_git()


def unseen_data(root: Path, *, drawn: Path) -> str | None:
    """What to do if `dvc exp run --temp`, which copies what git or DVC tracks, misses the data; None if it does not.

    drawn: the folder of the demo's images, which a stage makes.
    """
    absolute = Path(os.path.abspath(root))
    seen = (
        absolute == Path(os.path.abspath(drawn))
        or not absolute.is_relative_to(Path.cwd())
        or not root.is_dir()
        or any(Path(f"{folder}.dvc").is_file() for folder in (absolute, *absolute.parents))
        or not _has_repository()
        or _git("rev-parse", "--verify", "HEAD") is None
        or _git("ls-files", "--", str(root))
    )
    if seen:
        return None
    lost = "tracked neither by git nor by DVC, so not found by dvc exp run with --temp or --queue"
    return f"{root}: {lost}; run: dvc add {shlex.quote(str(root))}, then git add what it names, git commit"


def _git(*words: str) -> str | None:
    """What git answers; None where it refuses."""
    result = subprocess.run(["git", *words], capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


def _has_repository() -> bool:
    return shutil.which("git") is not None and _git("rev-parse", "--git-dir") is not None


def _goes_without_git() -> bool:
    configs = (Path(".dvc/config"), Path(".dvc/config.local"))
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in configs if path.is_file())
    return any(re.search(r"^\s*no_scm\s*=\s*true", text, re.MULTILINE | re.IGNORECASE) for text in texts)


def locked(path: Path) -> Finding:
    """DVC's note of who reads and writes what; one that is no JSON stops every command of DVC."""
    try:
        if not isinstance(json.loads(path.read_text(encoding="utf-8") or "{}"), dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        said = f"{path}: damaged ({error}); DVC cannot go on with it, nothing is lost without it"
        return Finding("DVC's locks", ERROR, said, (path,))
    return Finding("DVC's locks", FINE, str(path))


def leftovers(folders: Iterable[Path]) -> Finding:
    """Unfinished files of processes that are no more."""
    named = ((path, LEFTOVER.fullmatch(path.name)) for folder in folders for path in sorted(folder.glob("**/.*")))
    dead = [path for path, match in named if match and not Path(f"/proc/{match[1]}").exists()]
    note = f"unfinished files of killed runs: {few(map(str, dead))}" if dead else ""
    return _found("leftovers", fine="none", note=note, remove=dead)


# Data and artifacts


def look_at_data(project: Project) -> Iterator[Finding]:
    """Images and masks against their checksums, then each artifact as the stages after it read it.

    What has not been made yet is a note.
    """
    from dsrg.artifacts.label_folder import LabelFolder
    from dsrg.artifacts.model_file import load_model
    from dsrg.artifacts.seeds_h5 import read_seeds
    from dsrg.data.index import read_ground_truth

    paths = project.paths
    if unseen := unseen_data(project.data_root, drawn=paths.shapes):
        yield Finding("experiments", NOTE, unseen)
    if not paths.index.is_file():
        yield Finding("data", NOTE, f"{paths.index}: not made yet; run: dvc repro prepare")
        return
    try:
        classes = project.classes
        index, truth = project.index(), read_ground_truth(paths.ground_truth)
    except InputError as error:
        yield Finding("data", ERROR, few(error.problems))
        return
    images = (project.data_root / path for path in index.paths)
    yield checksums("images", dict(zip(images, index.checksums, strict=True)))
    yield checksums("masks", {paths.masks / row.mask: row.checksum for row in truth.values()})
    trained_on = index.split("train").ids

    def model(path: Path, kind: str, stage_name: str) -> Finding:
        return artifact(path, partial(load_model, kind=kind, stage_name=stage_name, classes=classes))

    labels = partial(LabelFolder, ids=trained_on, stage_name="make_pseudo_labels")
    yield model(paths.cam, "classifier", "train_cam")
    yield artifact(paths.seeds, lambda path: read_seeds(path, classes=classes).in_order(trained_on))
    yield model(paths.dsrg, "segmenter", "train_dsrg")
    yield artifact(paths.pseudo_labels, lambda path: deque(labels(path), maxlen=0))
    yield model(paths.retrain, "segmenter", "retrain")


def checksums(what: str, wanted: dict[Path, str]) -> Finding:
    """Files against their sha256."""
    bad = []
    for path, checksum in wanted.items():
        try:
            if sha256(path) != checksum:
                bad.append(f"{path}: damaged or changed")
        except OSError as error:
            bad.append(f"{path}: {error.strerror}")
    wrong = f"{len(bad)} of {len(wanted)}: {few(bad)}; restore them, or run: dvc repro -f prepare" if bad else ""
    return _found(what, fine=f"{len(wanted)}, each as `prepare` checked it", wrong=wrong)


def artifact(path: Path, read: Callable[[Path], object]) -> Finding:
    if not path.exists():
        return Finding(str(path), NOTE, "not made yet; run: dvc repro")
    return _whole(str(path), partial(read, path), fine="whole")


# DVC's cache


def look_at_cache() -> Iterator[Finding]:
    """Every object of DVC's cache that the workspace's dvc.yaml, dvc.lock and .dvc files refer to, and its outs."""
    try:
        read_lock()
    except InputError as error:
        yield Finding("DVC", ERROR, few(error.problems))
        return
    if not Path(".dvc").is_dir():
        yield Finding("DVC", NOTE, "no DVC project here; run: dvc init")
        return
    objects, faults = tracked_objects()
    if dvc_expects_git() and any("not a git repository" in fault for fault in faults):
        yield Finding("DVC", NOTE, "not looked at, as it stops without git (see there)")
    elif faults:
        yield Finding("DVC", ERROR, few(faults))
    else:
        yield from compared(objects)


def tracked_objects() -> tuple[list[Object], list[str]]:
    """Files that DVC tracks with a copy in its cache, folders file by file -> objects, what is wrong with the lists."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    objects = []

    def add(path: Path, name: str) -> None:
        objects.append(Object(path, name, cache / name[:2] / name[2:]))

    try:
        with Repo() as repo:
            cache = Path(repo.cache.local.path)
            for out in repo.index.outs:
                if out.use_cache and out.hash_info and out.hash_info.value:
                    add(Path(out.fs_path).relative_to(Path.cwd()), out.hash_info.value)
    except (DvcException, OSError, ValueError) as error:
        return [], [one_line(error)]
    for folder in [one for one in objects if one.md5.endswith(".dir")]:
        with suppress(OSError, ValueError, KeyError, TypeError):  # reported as a missing or a damaged object
            for entry in json.loads(folder.cached.read_text(encoding="utf-8")):
                add(folder.path / entry["relpath"], entry["md5"])
    return objects, []


def compared(objects: Iterable[Object]) -> Iterator[Finding]:
    """Objects by their content against their names, and the files in the workspace against the objects."""
    objects, missing, damaged, changed = list(objects), [], {}, []
    for one in objects:
        name = one.md5.removesuffix(".dir")
        if not one.cached.is_file():
            missing.append(str(one.path))
        elif md5(one.cached) != name:
            damaged[one.cached] = f"{one.cached} ({one.path})"
        if one.path.is_file() and md5(one.path) != name:
            changed.append(str(one.path))
    wrong = note = ""
    if damaged:
        said = f"{len(damaged)} of {len(objects)} objects are damaged: {few(damaged.values())}"
        wrong = f"{said}; remove them (--fix), then dvc fetch or dvc repro"
    if missing:
        said = f"{len(missing)} of {len(objects)} objects are missing: {few(missing)}"
        note = f"{said}; run: dvc commit, dvc fetch or dvc repro"
    fine = f"{len(objects)} objects, each of the content that its name says"
    yield _found("DVC's cache", fine=fine, wrong=wrong, note=note, remove=damaged)
    if changed:
        said = f"{few(changed)}: not as dvc.lock has it; if you changed nothing, remove it and run: dvc checkout"
        yield Finding("workspace", NOTE, said)


def fix(findings: Iterable[Finding]) -> list[Path]:
    """Remove what findings say could be removed -> what is gone."""
    gone = list(dict.fromkeys(path for finding in findings for path in finding.remove))
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.chmod(0o644)  # DVC keeps its objects read-only
            path.unlink()
    return gone


def _whole(what: str, read: Callable[[], object], *, fine: str) -> Finding:
    try:
        read()
    except InputError as error:
        return Finding(what, ERROR, few(error.problems))
    return Finding(what, FINE, fine)
