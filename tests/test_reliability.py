"""docs/reliability.md names tests that exist."""

import ast
import re

import pytest
from closure import ROOT

NAMED = sorted(set(re.findall(r"`(test_\w+)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file, name):
    nodes = ast.walk(ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")))
    assert name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_there_are_such_promises():
    assert len(NAMED) > 20
