"""Shared by all tests: one thread each, because tests run side by side, and where real images may be found."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DSRG_WORKERS", "1")
os.environ.setdefault("DSRG_DEVICES", "1")
os.environ.setdefault("DSRG_CHECKPOINT_SECONDS", "100000")  # by steps alone, however slow the machine is

import cv2
import hypothesis
import pytest
import torch

from dsrg.runtime import workers

# in the background or under nohup these are ignored, also by the programs that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)
cv2.setNumThreads(1)
hypothesis.settings.register_profile("steady", deadline=None)  # no test may fail because the machine is busy
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def processes(monkeypatch):
    """Sets the number of worker processes; the pool that a test starts ends with the test."""
    workers.pool.cache_clear()
    yield lambda count: monkeypatch.setenv("DSRG_WORKERS", str(count))
    if workers.pool.cache_info().currsize:
        workers.pool().shutdown()
    workers.pool.cache_clear()
