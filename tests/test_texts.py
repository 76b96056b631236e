"""Many texts in one array: a sequence like a list of them, and far smaller."""

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrg.data import texts as module
from dsrg.data.texts import GrowingTexts, Texts

# NumPy takes "" and "\0" for the same; ids and paths have no such character
characters = st.characters(codec="utf-8", exclude_characters="\0")
texts = st.lists(st.text(characters, max_size=20), max_size=12)


@given(texts, st.data())
def test_like_a_list(values, data):
    found = Texts(values)
    assert found == values and values == found and list(found) == values and len(found) == len(values)
    assert found != [*values, "more"] and (not values or found != [*values[:-1], values[-1] + "x"])
    rows = data.draw(st.lists(st.sampled_from(range(len(values))), max_size=5)) if values else []
    assert found.pick(np.array(rows, np.int64)) == [values[row] for row in rows]
    assert found[1:3] == values[1:3] and all(found[row] == values[row] for row in rows)
    assert all(type(text) is str for text in found)
    assert found.repeated() == [row for row, text in enumerate(values) if text in values[:row]]
    assert pickle.loads(pickle.dumps(found)) == values
    if values:
        assert values[-1] in found and found.index(values[-1]) == values.index(values[-1])


@given(texts)
def test_one_by_one(values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 3)
        growing = GrowingTexts()
        for text in values:
            growing.append(text)
        assert growing.done() == values


def test_not_equal_to_a_text_nor_to_be_changed():
    found = Texts(["a", "b"])
    assert found != "ab" and repr(found) == "Texts(['a', 'b'])"
    with pytest.raises(TypeError):
        found[0] = "c"


def test_smaller_than_objects():
    values = [f"train2014_{number:012d}" for number in range(1000)]
    found = Texts(values)
    objects = sys.getsizeof(values) + sum(map(sys.getsizeof, values))
    assert len(pickle.dumps(found)) < 0.6 * objects and found._array.nbytes == 16 * 1000


short = st.text(characters, max_size=3)


@given(st.lists(short, unique=True), st.lists(short), st.integers(1, 5))
def test_places_are_those_of_a_dictionary(mine, wanted, hashes):
    """Also where many texts have one hash."""
    place = {text: number for number, text in enumerate(mine)}
    expected = [place.get(text, -1) for text in [*wanted, *mine]]
    assert Texts(mine).places(Texts([*wanted, *mine])).tolist() == expected
    assert Texts(mine).places(Texts(mine)).tolist() == list(range(len(mine)))
    assert [Texts(mine).places(Texts([text])).tolist() for text in [*wanted, *mine]] == [[row] for row in expected]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "hash", lambda text: len(text) % hashes, raising=False)
        assert Texts(mine).places(Texts([*wanted, *mine])).tolist() == expected
