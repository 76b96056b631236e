"""Some spoiled and made-up files for every reader, each time the same ones (`python -m benchmarks.fuzz` takes many).

And the fuzzing finds what it looks for.
"""

import json

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from benchmarks import fuzz


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


def test_the_command(tmp_path):
    out = tmp_path / "fuzz.json"
    result = CliRunner().invoke(fuzz.main, ["--inputs", "10", "--only", "index", "--out", str(out)])
    assert result.exit_code == 0 and "10 inputs, 0 findings" in result.output, result.output
    written = json.loads(out.read_text())
    assert written["inputs"] == written["targets"]["index"]["inputs"] == 10
