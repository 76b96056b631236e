"""Work over processes or threads: the order, the errors and the results are those of a plain loop."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dsrg.errors import InputError, RunError
from dsrg.runtime import workers
from helpers import ROOT

WAYS = ["one process", "two processes", "threads", "ahead"]


@pytest.fixture
def spread(processes, request) -> Callable[[Callable, Iterable], Iterator]:
    """A way to map a function over items, of those of `WAYS`."""
    processes(2 if request.param == "two processes" else 1)
    if request.param == "ahead":
        return lambda function, items: workers.ahead(map(function, items), most=3)
    return workers.threaded_map if request.param == "threads" else workers.ordered_map


def work(number: int, *, fails: str = "") -> tuple[int, int, int]:
    time.sleep(0.01 * (number % 3 == 0))  # the first of three is the last to be done
    if fails and number == 3:
        if fails == "dies":
            os._exit(1)
        raise InputError(["a: bad", "b: bad"]) if fails == "input" else KeyError("three")
    return number * number, os.getpid(), threading.get_ident()


@pytest.mark.parametrize("spread", WAYS, indirect=True)
def test_results_come_in_order(spread, request):
    squares, places, threads = zip(*spread(work, range(20)), strict=True)
    assert squares == tuple(number * number for number in range(20))
    way = request.node.callspec.params["spread"]
    assert (os.getpid() in places) == (way != "two processes")
    if way in ("threads", "ahead"):
        assert threading.get_ident() not in threads and len(set(threads)) <= (2 if way == "threads" else 1)
    assert list(spread(work, [])) == []


@pytest.mark.parametrize("fails", ["key", "input"])
@pytest.mark.parametrize("spread", WAYS, indirect=True)
def test_an_exception_comes_after_the_results_before_it_and_ends_the_work(spread, fails):
    seen = []
    with pytest.raises(KeyError if fails == "key" else InputError, match="three|a: bad\nb: bad"):
        for square, *_ in spread(partial(work, fails=fails), range(1000)):
            seen.append(square)
    assert seen == [0, 1, 4]


def test_a_worker_that_dies_is_an_error_and_no_endless_wait(processes):
    processes(2)
    with pytest.raises(RunError, match=r"^a worker process was killed.*DSRG_WORKERS, now 2"):
        list(workers.ordered_map(partial(work, fails="dies"), range(20)))


@pytest.mark.parametrize("typed", [True, False])
def test_a_worker_that_cannot_start_is_an_error_that_names_the_cause(tmp_path, typed):
    """A worker imports the main program: there is none where it was typed in, and without its guard it runs again."""
    text = "from dsrg.runtime.workers import ordered_map\nlist(ordered_map(abs, range(2)))\n"
    path = tmp_path / "program.py"
    path.write_text(text)
    environment = os.environ | {"DSRG_WORKERS": "2", "PYTHONPATH": str(ROOT)}
    options = {"input": text if typed else None, "cwd": tmp_path, "env": environment, "text": True}
    said = subprocess.run([sys.executable, "-" if typed else path], **options, capture_output=True).stderr
    errors = [line for line in said.splitlines() if line.startswith("dsrg.errors.RunError: a worker process")]
    assert errors and '`if __name__ == "__main__":`' in errors[-1], said


@pytest.mark.parametrize(("spread", "most"), [("one process", 0), ("ahead", 5), ("threads", 7)], indirect=["spread"])
def test_work_is_taken_only_as_results_are_fetched(spread, most):
    """What was begun is done when nobody wants more, and nothing goes on."""
    taken, before = [], threading.active_count()
    results = spread(lambda number: taken.append(number) or number, range(1000))
    assert taken == [] and next(results) == 0
    results.close()
    assert len(taken) <= most + 1 and threading.active_count() == before


def test_no_more_than_a_few_items_a_worker_are_in_flight(monkeypatch):
    class Now:
        """An executor that computes at once."""

        def submit(self, function, item):
            waiting.append(item)
            return self

        def result(self):
            waiting.pop(0)

    waiting, most = [], 0
    monkeypatch.setenv("DSRG_WORKERS", "2")
    monkeypatch.setattr(workers, "pool", Now)
    for _ in workers.ordered_map(abs, range(100)):
        most = max(most, len(waiting))
    assert 2 <= most <= 8 and not waiting


def add_row(job: tuple[workers.Shared, int]) -> int:
    place, row = job
    place.array()[row] += row
    return os.getpid()


@pytest.mark.parametrize("count", [1, 2])
def test_workers_change_a_shared_array_in_place_and_nothing_of_it_is_left(processes, count):
    processes(count)
    before = set(os.listdir("/proc/self/fd"))
    with workers.shared_array((3, 2)) as place:
        mine = place.array()
        assert mine.dtype == np.float32 and mine.tolist() == [[0, 0]] * 3
        mine[:] = np.arange(6).reshape(3, 2)
        where = set(workers.ordered_map(add_row, [(place, row) for row in range(3)]))
        assert (os.getpid() in where) == (count == 1)
    assert mine.tolist() == [[0, 1], [3, 4], [6, 7]]
    assert not Path(place.path).exists()
    del mine
    if count == 1:
        assert set(os.listdir("/proc/self/fd")) == before


def test_number_of_workers(monkeypatch):
    monkeypatch.setenv("DSRG_WORKERS", "3")
    assert workers.worker_count() == 3
    monkeypatch.setenv("DSRG_WORKERS", "0")
    assert workers.worker_count() == 1
    monkeypatch.delenv("DSRG_WORKERS")
    assert workers.worker_count() == len(os.sched_getaffinity(0))
    for wrong in ("two", "-1", "1.5"):
        monkeypatch.setenv("DSRG_WORKERS", wrong)
        with pytest.raises(InputError, match="DSRG_WORKERS"):
            workers.worker_count()


def page_faults(_: int) -> int:
    """Pages that the system hands out anew while memory is taken as a CRF takes it, for the second and third image."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    for image in range(3):
        arrays = [libc.malloc(20 << 20) for _ in range(4)]
        for array in arrays:
            ctypes.memset(array, 1, 20 << 20)
        for array in arrays:
            libc.free(array)
        if image == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own way")
def test_a_worker_keeps_the_memory_of_one_image_for_the_next(processes):
    """40960 pages without it."""
    processes(2)
    assert all(pages < 5000 for pages in workers.ordered_map(page_faults, range(2)))


def test_work_that_is_given_up_leaves_nothing_pending(processes):
    """Else Python 3.11.2 waits forever when the pool ends."""
    processes(2)
    results = workers.ordered_map(time.sleep, [0.2] * 100)
    next(results)
    results.close()
    left = list(workers.pool()._pending_work_items.values())
    assert not any(item.future.cancelled() for item in left)
