"""Locks: one holder, its pid for the others, freed by its death."""

import errno
import fcntl
import os
import subprocess
import sys
from threading import Timer

import pytest

from dsrg.errors import InputError
from dsrg.runtime.lock import one_writer, try_lock
from helpers import ROOT

HOLD = """
import sys, time
from pathlib import Path
from dsrg.runtime.lock import one_writer

with one_writer(Path(sys.argv[1]), "the stage"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "stage.lock"


@pytest.fixture
def holder(path):
    """Another process that has the lock."""
    settings = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", HOLD, path], env=settings, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_death_by_force_frees_it(path, holder):
    assert try_lock(path) is None
    holder.kill()
    holder.wait()
    with one_writer(path, "the stage"):
        assert path.read_text() == str(os.getpid())
    assert not path.exists()


def test_it_is_gone_afterwards_and_can_be_had_again(path):
    for _ in range(2):
        with pytest.raises(KeyError), one_writer(path, "the stage"):
            raise KeyError
        assert not path.exists()


def test_one_that_ends_soon_is_waited_for(path, holder):
    Timer(0.3, holder.kill).start()
    with one_writer(path, "the stage"):
        assert path.read_text() == str(os.getpid())


def test_a_lock_on_a_file_that_was_removed_does_not_count(path, monkeypatch):
    """Between opening it and locking it, its owner may have finished and removed it: others lock a new file then."""
    opened, first = [], fcntl.flock

    def flock(file, operation):
        opened.append(file)
        if len(opened) == 1:
            path.unlink()
        return first(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = try_lock(path, patience=1)
    assert len(opened) == 2 and lock.is_locked and try_lock(path) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(path, monkeypatch, number):
    def refuse(file, operation):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match="deep: this file system cannot lock files .*DSRG_SCRATCH"):
        try_lock(path)
