"""Some spoiled and made-up files for every reader, each time the same ones (`python -m benchmarks.fuzz` takes many).

And the fuzzing finds what it looks for.
"""

import json
import os
import signal

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from benchmarks import fuzz
from dsrg.errors import InputError, RunError


@pytest.mark.parametrize("name", fuzz.TARGETS)
@pytest.mark.filterwarnings("ignore")  # of decoders
def test_every_file_is_read_or_refused(name, tmp_path):
    figures = fuzz.fuzz(fuzz.TARGETS[name], tmp_path / "inputs", inputs=25, seed=1)
    assert figures["findings"] == {}
    assert figures["inputs"] == figures["read"] + figures["refused"] >= 25


ANY = st.binary(max_size=2)


def fuzzed(folder, read, *, inputs=ANY) -> dict:
    return fuzz.fuzz(lambda place: fuzz.Target(inputs, read), folder / "inputs", inputs=30, seed=0)


def test_whatever_is_no_refusal_is_found_once_and_kept(tmp_path):
    def read(content: bytes) -> None:
        if len(content) == 2:
            raise ValueError("two")
        if len(content) == 1:
            raise SystemExit

    figures = fuzzed(tmp_path, read)
    assert sorted(figures["findings"]) == ["SystemExit in read", "ValueError in read"]
    found = figures["findings"]["ValueError in read"]
    assert found["said"] == "two" and len((tmp_path / "inputs" / found["input"]).read_bytes()) == 2
    times = sum(finding["times"] for finding in figures["findings"].values())
    assert times > 2 and figures["inputs"] == figures["read"] + times


@pytest.mark.parametrize("error", [InputError("no"), RunError("no")], ids=["input", "run"])
def test_refusals_are_none(tmp_path, error):
    def read(content: bytes) -> None:
        raise error

    figures = fuzzed(tmp_path, read)
    assert figures["findings"] == {} and figures["refused"] == figures["inputs"] > 0


def test_a_reader_that_does_not_end_is_found(tmp_path, monkeypatch):
    def read(content: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 0.01)
    assert list(fuzzed(tmp_path, read, inputs=st.just(b""))["findings"]) == ["TimeoutError in stop"]


def test_memory_is_looked_at(tmp_path, monkeypatch):
    taken = iter(range(0, 10**9, 10**7))
    monkeypatch.setattr(fuzz, "memory", lambda: next(taken))
    monkeypatch.setattr(fuzz, "MEMORY", 10**7 - 1)
    assert list(fuzzed(tmp_path, lambda content: None)["findings"]) == ["memory"]


def deadly(folder) -> fuzz.Target:
    return fuzz.Target(st.just(b"x"), lambda content: os.kill(os.getpid(), signal.SIGKILL))


def test_a_process_that_dies_is_a_finding_with_its_last_input(tmp_path, monkeypatch):
    class Process:
        """Spawned, the target would not be the one made here."""

        def __init__(self, target, args, kwargs):
            self.work, self.exitcode = lambda: target(*args, **kwargs), None

        def start(self):
            if (child := os.fork()) == 0:
                self.work()
                os._exit(0)
            self.exitcode = -os.WTERMSIG(os.waitpid(child, 0)[1])

        def join(self):
            pass

    monkeypatch.setitem(fuzz.TARGETS, "deadly", deadly)
    monkeypatch.setattr(fuzz.multiprocessing, "get_context", lambda way: type("Context", (), {"Process": Process}))
    result = fuzz.apart("deadly", tmp_path / "run", inputs=3, seed=0, keep=tmp_path / "kept")
    assert result["findings"]["died"]["said"] == f"the process ended with {-signal.SIGKILL}"
    assert (tmp_path / "kept" / "deadly-last").read_bytes() == b"x"


def test_the_command(tmp_path):
    out = tmp_path / "fuzz.json"
    result = CliRunner().invoke(fuzz.main, ["--inputs", "10", "--only", "index", "--out", str(out)])
    assert result.exit_code == 0 and "10 inputs, 0 findings" in result.output, result.output
    written = json.loads(out.read_text())
    assert written["inputs"] == written["targets"]["index"]["inputs"] == 10
