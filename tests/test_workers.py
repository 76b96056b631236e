"""Work over processes: the order, the errors and the results are those of a plain loop."""

import os
import platform
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsrg.errors import InputError
from dsrg.runtime import workers
from helpers import ROOT

WORK = """
    import os, sys, time
    from dsrg.runtime.workers import ordered_map

    def work(number):
        time.sleep(0.02 * (number % 3 == 0))  # the first of three is the last to be done
        if number == STOP:
            STOP_HOW
        return number * number, os.getpid()

    if __name__ == "__main__":
        MAIN
"""


def program(tmp_path, text: str, *, workers: int = 2, typed: bool = False) -> subprocess.CompletedProcess:
    """Run a program of its own, as a stage is, from a file or typed in."""
    path = tmp_path / "program.py"
    path.write_text(text)
    environment = os.environ | {"DSRG_WORKERS": str(workers), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = {"input": text if typed else None, "cwd": tmp_path, "env": environment, "text": True, "timeout": 400}
    return subprocess.run([sys.executable, "-" if typed else path], **options, capture_output=True)


def script(tmp_path, *, main: str, workers: int, stop: int = -1, how: str = "pass") -> subprocess.CompletedProcess:
    """Run WORK."""
    lines = textwrap.dedent(WORK).replace("STOP_HOW", how).replace("STOP", str(stop))
    lines = lines.replace("MAIN", textwrap.indent(textwrap.dedent(main), "    ").strip())
    return program(tmp_path, lines, workers=workers)


PRINT = """
    results = list(ordered_map(work, range(20)))
    print([square for square, _ in results])
    print(len({pid for _, pid in results} - {os.getpid()}))
"""


def test_results_and_order_do_not_depend_on_the_number_of_workers(tmp_path):
    expected = str([number * number for number in range(20)])
    alone, pair = (script(tmp_path, main=PRINT, workers=workers) for workers in (1, 2))
    assert alone.stdout.splitlines() == [expected, "0"], alone.stderr
    assert pair.stdout.splitlines() in ([expected, "1"], [expected, "2"]), pair.stderr  # other processes did it


LISTEN = """
    try:
        for square, _ in ordered_map(work, range(20)):
            print(square)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_comes_over_after_the_results_before_it(tmp_path, workers):
    run = script(tmp_path, main=LISTEN, workers=workers, stop=3, how="raise KeyError('three')")
    assert run.stdout.splitlines() == ["0", "1", "4", "KeyError 'three'"], run.stderr


def test_input_errors_come_over_with_all_their_problems(tmp_path):
    how = "from dsrg.errors import InputError; raise InputError(['a: bad', 'b: bad'])"
    run = script(tmp_path, main=LISTEN, workers=2, stop=0, how=how)
    assert run.stdout.splitlines() == ["InputError a: bad", "b: bad"], run.stderr


def test_a_worker_that_dies_is_an_error_and_no_endless_wait(tmp_path):
    run = script(tmp_path, main=LISTEN, workers=2, stop=5, how="os._exit(1)")
    said = run.stdout.splitlines()[-1]
    assert said.startswith("RunError a worker process was killed") and "DSRG_WORKERS, now 2" in said, run.stderr


@pytest.mark.parametrize("typed", [True, False])
def test_a_worker_that_cannot_start_is_an_error_that_names_the_cause(tmp_path, typed):
    """A worker imports the main program: there is none where it was typed in, and without its guard it runs again."""
    text = "from dsrg.runtime.workers import ordered_map\nlist(ordered_map(abs, range(2)))\n"
    said = program(tmp_path, text, typed=typed)
    errors = [line for line in said.stderr.splitlines() if line.startswith("dsrg.errors.RunError: a worker process")]
    assert errors and '`if __name__ == "__main__":`' in errors[-1], said


def test_work_is_taken_only_as_results_are_fetched(monkeypatch):
    monkeypatch.setenv("DSRG_WORKERS", "1")
    taken = []
    results = workers.ordered_map(abs, (taken.append(number) or number for number in range(100)))
    assert taken == [] and next(results) == 0 and taken == [0]


def test_no_more_than_a_few_items_a_worker_are_in_flight(monkeypatch):
    class Now:
        """An executor that computes at once."""

        def submit(self, function, item):
            waiting.append(item)
            return self

        def result(self):
            waiting.pop(0)

        def cancel(self):
            raise AssertionError("all results were fetched")

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


class TestThreads:
    def test_results_come_in_order_from_other_threads_of_this_process(self):
        def work(number: int) -> tuple[int, int, int]:
            time.sleep(0.01 * (number % 3 == 0))  # the first of three is the last to be done
            return number, os.getpid(), threading.get_ident()

        numbers, places, threads = zip(*workers.threaded_map(work, range(20)), strict=True)
        assert numbers == tuple(range(20)) and set(places) == {os.getpid()}
        assert threading.get_ident() not in threads

    def test_an_exception_comes_after_the_results_before_it_and_ends_the_work(self):
        done = []

        def work(number: int) -> int:
            if number == 3:
                raise KeyError("three")
            done.append(number)
            return number

        seen = []
        with pytest.raises(KeyError, match="three"):
            for number in workers.threaded_map(work, range(1000)):
                seen.append(number)
        assert seen == [0, 1, 2] and max(done) < 20

    def test_all_that_was_begun_is_done_when_nobody_wants_more(self):
        begun, done = [], []

        def work(number: int) -> None:
            begun.append(number)
            time.sleep(0.01)
            done.append(number)

        results = workers.threaded_map(work, range(1000))
        next(results)
        results.close()
        assert sorted(begun) == sorted(done) and len(done) < 20


class TestAhead:
    def test_items_come_in_order_from_one_other_thread(self):
        def items() -> Iterator[tuple[int, int]]:
            for number in range(50):
                yield number, threading.get_ident()

        numbers, threads = zip(*workers.ahead(items(), most=3), strict=True)
        assert numbers == tuple(range(50)) and threading.get_ident() not in threads and len(set(threads)) == 1
        assert list(workers.ahead([], most=3)) == []

    @pytest.mark.parametrize("most", [1, 4])
    def test_only_a_few_wait(self, most):
        made = []
        for number in workers.ahead((made.append(one) or one for one in range(100)), most=most):
            assert len(made) <= number + 1 + most

    def test_what_goes_wrong_is_raised_in_its_place(self):
        def items() -> Iterator[int]:
            yield from range(3)
            raise InputError(["c: bad", "d: bad"])

        seen = []
        with pytest.raises(InputError, match="c: bad\nd: bad"):
            for number in workers.ahead(items(), most=5):
                seen.append(number)
        assert seen == [0, 1, 2]

    def test_nothing_goes_on_when_nobody_wants_more(self):
        made = []
        taken = workers.ahead((made.append(one) or one for one in range(1000)), most=3)
        assert next(taken) == 0
        before = threading.active_count()
        taken.close()
        assert threading.active_count() == before - 1 and len(made) <= 5


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


FAULTS = """
    import ctypes, resource
    from dsrg.runtime.workers import ordered_map

    def faults(_):
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        found = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            arrays = [libc.malloc(20 << 20) for _ in range(4)]  # as a CRF does
            for array in arrays:
                ctypes.memset(array, 1, 20 << 20)
            for array in arrays:
                libc.free(array)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return found

    if __name__ == "__main__":
        for first, *others in ordered_map(faults, range(2)):
            print(sum(others))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own way")
def test_a_worker_keeps_the_memory_of_one_image_for_the_next(tmp_path):
    """Pages that the system has to hand out anew: 20480 a round without it."""
    said = program(tmp_path, textwrap.dedent(FAULTS))
    assert len(said.stdout.split()) == 2 and all(int(pages) < 5000 for pages in said.stdout.split()), said
