"""Stops by signal and by the death of the one who started it all: what is half done is undone, and nothing outlives."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest

from dsrg.runtime.signals import Stopped, starter, stoppable, uninterrupted
from helpers import ROOT

WAIT = 60  # seconds after which a test gives up


def program(folder: Path, source: str, **environment: str) -> subprocess.Popen:
    """Start a Python program in `folder`; its standard output is a pipe of text."""
    (folder / "program.py").write_text(textwrap.dedent(source))
    settings = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environment
    return subprocess.Popen([sys.executable, "program.py"], cwd=folder, env=settings, stdout=subprocess.PIPE, text=True)


@pytest.fixture(autouse=True)
def handlers_put_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_an_exception_where_the_program_is(number):
    undone = []
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stop, stoppable():
        try:
            signal.raise_signal(number)
        finally:
            undone.append(True)
    assert stop.value.number == number and undone == [True]


def test_no_handler_for_errors_takes_it():
    with pytest.raises(Stopped), stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            raise AssertionError("a stop is no error") from None


def test_it_waits_for_the_end_of_what_must_not_be_torn_apart():
    done = []
    with pytest.raises(Stopped), stoppable():
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            done.append(True)
        done.append("never")
    assert done == [True]


def test_an_error_in_such_a_block_comes_first():
    with pytest.raises(KeyError), stoppable(), uninterrupted():
        signal.raise_signal(signal.SIGTERM)
        raise KeyError


def test_only_the_first_signal_counts_but_for_a_second_ctrl_c():
    with pytest.raises(KeyboardInterrupt), stoppable():
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("then", [uninterrupted, nullcontext], ids=["in the next block", "at the end"])
def test_a_stop_that_was_swallowed_is_raised_again(then):
    """Python ignores exceptions in finalizers, among other places."""
    with pytest.raises(Stopped), stoppable():
        with suppress(Stopped):
            signal.raise_signal(signal.SIGTERM)
        with then():
            pass


def test_nothing_is_left_of_a_stop_for_the_next_program_part():
    with pytest.raises(Stopped), stoppable():
        signal.raise_signal(signal.SIGTERM)
    with stoppable(), uninterrupted():
        pass


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_stops_with_the_one_who_started_it_even_through_a_shell(tmp_path):
    """A killed `dvc` must not leave a stage behind that writes beside that of the next `dvc`."""
    (tmp_path / "stage.py").write_text(
        textwrap.dedent("""
        import os, time
        from dsrg.runtime.signals import Stopped, starter, stop_with, stoppable

        try:
            with stoppable():
                stop_with(starter())
                print(os.getpid(), flush=True)
                time.sleep(60)
        except Stopped as stop:
            print(stop, flush=True)
        """)
    )
    # the shell has something to do afterwards, so it stays between the two
    starts = f"import subprocess; subprocess.run(['sh', '-c', '{sys.executable} stage.py; true'])"
    parent = program(tmp_path, starts)
    pid = int(parent.stdout.readline())
    assert psutil.Process(pid).parent().pid != parent.pid
    parent.kill()
    assert parent.stdout.readline() == "stopped by SIGTERM\n"
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=WAIT)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_starter_is_the_next_process_up():
    assert starter() == os.getppid()


def test_workers_end_with_the_process_they_work_for(tmp_path):
    """Killed by force it cannot tell them; they would wait for work for ever."""
    source = """
        import os, time
        from dsrg.runtime.workers import ordered_map

        def pid(_):
            time.sleep(0.1)
            return os.getpid()

        if __name__ == "__main__":
            print(*set(ordered_map(pid, range(8))))
            time.sleep(60)
        """
    main = program(tmp_path, source, DSRG_WORKERS="2")
    workers = [psutil.Process(int(pid)) for pid in main.stdout.readline().split()]
    assert workers and os.getpid() not in workers
    main.kill()
    main.wait()
    _, alive = psutil.wait_procs(workers, timeout=WAIT)
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []
