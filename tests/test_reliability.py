"""docs/reliability.md names tests that exist."""

import ast
import re

import pytest

from helpers import ROOT

TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(test_\w+)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file, name):
    nodes = ast.walk(ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")))
    assert name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_there_are_such_promises():
    assert len(NAMED) > 20


def test_each_of_the_25_faults_has_a_line_with_a_test():
    rows = [row for row in TEXT.splitlines() if row.startswith("| ") and "`test_" in row]
    numbered = {int(number) for row in rows for number in re.findall(r"\d+", row.split("|")[1])}
    assert numbered == set(range(1, 26))
