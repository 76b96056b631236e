"""Many problems on one screen: ten of a kind, the rest counted, all of them in a file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrg.runtime.problems import KINDS, LINES_OF_A_KIND, kind_of, report_problems
from helpers.command import run_dsrg


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project's folder."""
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_few_problems_are_printed_as_they_come(place):
    problems = ["b.csv:1: no image 'x'", "a.jpg: broken", "b.csv:2: no image 'y'"] * 3
    assert report_problems(problems) == problems
    assert not list(place.glob(".scratch"))


def test_many_are_grouped_and_all_are_in_a_file(place):
    missing = [f"t.csv:{k}: no image 'a{k}.jpg'; did you mean 'b/a{k}.jpg'?" for k in range(1234)]
    broken = [f"images/x y{k}.jpg: broken image ({k} bytes missing)" for k in range(11)]
    problems = [*missing[:600], *broken, *missing[600:], "t.csv: a table without rows"]
    assert report_problems(problems) == [
        *missing[:LINES_OF_A_KIND],
        "... and 1,224 more of this kind",
        *broken[:LINES_OF_A_KIND],
        "... and 1 more of this kind",
        "t.csv: a table without rows",
        "all 1,246 lines: .scratch/problems.txt",
    ]
    assert (place / ".scratch/problems.txt").read_text().splitlines() == problems


def test_outside_of_a_project_the_file_is_a_temporary_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *_, last = report_problems(f"{k}.jpg: broken" for k in range(11))
    path = Path(last.removeprefix("all 11 lines: "))
    assert not path.is_relative_to(tmp_path) and len(path.read_text().splitlines()) == 11
    path.unlink()
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/proc/none")
    assert "not written" in report_problems(f"{k}.jpg: broken" for k in range(11))[-1]


@given(st.lists(st.text(), max_size=60))
def test_no_kind_takes_more_than_ten_lines_and_none_is_lost(problems):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsrg.runtime.problems._write", lambda problems, name: name)
        lines = report_problems(problems)
    kinds = [kind_of(problem) for problem in problems]
    assert len(lines) <= (LINES_OF_A_KIND + 1) * KINDS + 2
    for kind in dict.fromkeys(kinds[:KINDS]):
        shown = [line for line in lines if line in problems and kind_of(line) == kind]
        assert (
            shown[:LINES_OF_A_KIND] == [p for p, own in zip(problems, kinds, strict=True) if own == kind][: len(shown)]
        )


def test_commands_print_no_more(place, tmp_path):
    pictures = [f"{k}.jpg" for k in range(500)]
    for name in pictures:
        (tmp_path / name).write_text("<html>")
    said = run_dsrg("predict", *pictures, "--out", "o", code=2)
    assert len(said.splitlines()) < 20 and said.endswith("problems\n")
