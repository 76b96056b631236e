"""What is read from the environment: one reader and one default for each variable."""

import pytest

from dsrg.errors import InputError
from dsrg.runtime.environment import DEFAULTS, env_float


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_number_its_default_and_what_is_none(monkeypatch, name):
    for text, value in {"": DEFAULTS[name], "0": 0, "1.5": 1.5, " 3 ": 3}.items():
        monkeypatch.setenv(name, text)
        assert env_float(name) == value
    monkeypatch.delenv(name)
    assert env_float(name) == DEFAULTS[name]
    for wrong in ("-1", "2 GB", "nan", " "):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(InputError, match=f"^{name}: expected a number, 0 or more, not '{wrong}'$"):
            env_float(name)
