"""Tables of tags as people and programs write them give the same tags; names that are no classes are found."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrg.data.classes import composites, doubts_about, name_fault, reads_as_nothing
from dsrg.errors import InputError
from dsrg.sources.detect import _separator
from dsrg.sources.table import read_table

# Names that people give their classes, each with what a hasty rule would stumble over.
HONEST = [
    *("dog", "cat", "traffic light", "bird's nest", "C++", "C", "non-stick pan", "T-shirt", "crane (bird)", "crane"),
    *("7", "\U0001f431", "hot dog", "None of the above", "St. Bernard", "x-ray", '32" TV'),
    *("\u732b", "\u043a\u043e\u0442", "\u0939\u093f\u0928\u094d\u0926\u0940"),
]
TAGS = [("dog",), ("cat", "sofa"), (), ("dog", "cat", "sofa"), ("sofa",)]


def table(tmp_path: Path, text: str, *, name: str = "t.csv", separator: str = "|"):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return read_table(tmp_path / name, separator=separator, images=10)


def tags_of(found) -> dict[str, set[str]]:
    return {row.image: {*row.tags} for row in found.rows}


def written(rows: list[list], *, delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


CELLS = {
    "a sign": "|".join,
    "JSON": lambda tags: json.dumps(list(tags)),
    "JSON in ASCII, spaced": lambda tags: json.dumps(list(tags), indent=1),
    "Python": lambda tags: repr(list(tags)),
    "a tuple": repr,
    "a set": lambda tags: repr({*tags}),
    "NumPy": lambda tags: str(np.array(tags, dtype=object)),
    "Label Studio": lambda tags: json.dumps({"choices": list(tags)}) if len(tags) != 1 else tags[0],
}


@given(st.lists(st.lists(st.sampled_from(HONEST), unique=True, max_size=4), min_size=1, max_size=6), st.data())
def test_lists_are_read_however_they_are_written(tmp_path_factory, rows, data):
    form = CELLS[data.draw(st.sampled_from(sorted(CELLS)))]
    text = written([["image", "tags"], *([f"{k}.jpg", form(tuple(tags))] for k, tags in enumerate(rows))])
    found = table(tmp_path_factory.mktemp("t"), text)
    assert tags_of(found) == {f"{k}.jpg": {*tags} for k, tags in enumerate(rows)}


LONG = [[f"{k}.jpg", tag] for k, own in enumerate(TAGS) for tag in own or [""]]


def flags(yes: str, no: str) -> list[list]:
    names = ("cat", "dog", "sofa")
    return [[f"{k}.jpg", *(yes if name in own else no for name in names)] for k, own in enumerate(TAGS)]


LAYOUTS = {
    "a row a tag": [["filename", "class"], *LONG],
    "boxes": [["filename", "width", "class", "xmin"], *([name, 9, tag, 1] for name, tag in LONG)],
    "a row a class, present or not": [
        ["ImageID", "LabelName", "Confidence"],
        *([f"{k}.jpg", name, int(name in own)] for k, own in enumerate(TAGS) for name in ("cat", "dog", "sofa")),
    ],
    "columns of 0 and 1": [["image", "cat", "dog", "sofa"], *flags("1", "0")],
    "columns of decimal commas": [["image", "cat", "dog", "sofa"], *flags("1,0", "0,0")],
    "columns of two decimals": [["image", "cat", "dog", "sofa"], *flags("1,00", "0.00")],
    "columns of TRUE": [["image", "cat", "dog", "sofa"], *flags("WAHR", "FALSCH")],
    "columns of y and n": [["image", "cat", "dog", "sofa"], *flags("y", "n")],
    "columns of crosses": [["image", "cat", "dog", "sofa"], *flags("x", "")],
    "columns of tags": [
        ["image", "tag1", "tag_2", "Tag 3"],
        *([f"{k}.jpg", *[*own, "", "", ""][:3]] for k, own in enumerate(TAGS)),
    ],
    "empty columns behind": [
        ["image", "tags", "", ""],
        *([f"{k}.jpg", "|".join(own), "", ""] for k, own in enumerate(TAGS)),
    ],
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, rows, delimiter):
    for head in ("", f"sep={delimiter}\r\n"):
        found = table(tmp_path, head + written(rows, delimiter=delimiter))
        assert tags_of(found) == {f"{k}.jpg": {*own} for k, own in enumerate(TAGS)}


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("image,tags,author,day\na,cat,me,1\n", "t.csv: 2 columns are not used: author, day"),
        ("image,tags\na,cat\na,dog\nb,cat\n", "t.csv: 3 rows with a tag each are joined to 2 images"),
        ("image,label,score\na,cat,0.4\nb,cat,1\n", "t.csv: 1 rows have a score below 1, and count as tags"),
        ("image,tags,phase\na,cat,train\nb,cat,dev\n", "t.csv: the splits are those of its column 'phase'"),
        ("image,label_0,label_1\na,1,0\nb,1,1\n", "t.csv: its columns of 0 and 1 are the classes: label_0, label_1"),
        ("image;label;score\na;cat;0,4\nb;cat;1\n", "t.csv: 1 rows have a score below 1, and count as tags"),
        ("image,tags,set\na,cat,rome\nb,cat,paris\n", "t.csv: 1 columns are not used: set"),
        ("image,cat,dog\na,1,0\nb,1,1\n", "t.csv: its columns of 0 and 1 are the classes: cat, dog"),
    ],
)
def test_what_is_joined_chosen_or_not_used_is_noted(tmp_path, text, note):
    assert note in table(tmp_path, text).notes


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("split", ["Train", "VAL"], ["Train", "VAL"]),
        ("is_valid", ["False", "True"], ["train", "val"]),
        ("is_train", ["1", "0"], ["train", "val"]),
        ("validation", ["0", "1"], ["train", "val"]),
        ("fold", ["1", "2"], [None, None]),
        ("Dataset", ["training", "test"], ["training", "test"]),
    ],
)
def test_splits_by_what_a_column_holds(tmp_path, column, values, expected):
    text = written([["image", "tags", column], *([f"{k}.jpg", "cat", value] for k, value in enumerate(values))])
    assert [row.split for row in table(tmp_path, text).rows] == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,cat,dog,cow\na,0,1,1\nb,2,0,0\nc,0,1,0\n", "column 'cat' holds 0 and '2'; expected 0 or 1"),
        ("image,cat,dog\na,1,1\nb,l,0\nc,0,1\n", ":3: column 'cat' holds 0 and 'l'; expected 0 or 1"),
        ("image,cat,dog\na,1,1\nb,-1,0\nc,0,1\n", "column 'cat' holds -1 beside 0 and 1"),
        ("image,cat,cat,dog\na,1,0,0\nb,0,1,1\n", ":1: more than one column 'cat'"),
        ('image,label\na,"[{""x"": 1, ""rectanglelabels"": [""cat""]}]"\n', ":2: .*not .*x.*export them as COCO"),
        ("image,tags,present\na,cat,1\na,cat,0\n", ":2: 'a' has the tag 'cat' here, but not at"),
        ('image,tags\na,"{""cat"": 1}"\n', "expected"),
    ],
)
def test_contradictions_are_refused(tmp_path, text, reason):
    with pytest.raises(InputError, match=f"t.csv.*{reason}"):
        table(tmp_path, text)


# Names


def test_honest_names_are_left_alone():
    names = [name for name in HONEST if name != "None of the above"]
    assert [name for name in names if name_fault(name)] == []
    assert composites(names, names) == {} and doubts_about([name for name in names if name != "7"]) == []


@given(
    st.lists(st.sampled_from(["dog", "traffic light", "\u732b", "C++", "7", "T-shirt"]), min_size=2, max_size=4),
    st.sampled_from([" ", "/", "+", " & ", " and ", "\uff0c", "\u3001", "_", " - ", ";", " \u0438 ", "\n", " with "]),
)
def test_a_name_made_of_others_is_found_with_what_separates_them(parts, gap):
    (name,) = (found := composites([gap.join(parts)], ["dog", "traffic light", "\u732b", "C++", "7", "T-shirt"]))
    assert found[name].parts == parts
    if "C++" not in parts[:-1]:  # whose own signs join those between
        assert found[name].gap == (gap if any(map(str.isalnum, gap)) else gap.strip() or gap)


@pytest.mark.parametrize("gap", [" ", "/", "+", " and ", " - "])
def test_init_takes_what_leaves_nothing_but_tags_for_the_separator(gap):
    cells = {"dog", "cat", "sofa", f"dog{gap}cat", f"cat{gap}sofa{gap}dog"}
    assert _separator(cells).strip() == gap.strip()
    assert _separator(cells | {f"dog{gap}bed"}) == "|", "bed stands nowhere alone"
    assert _separator({"traffic light", "dog"}) == "|"


@pytest.mark.parametrize(
    "name", ["NaN", "none", "NULL", "<NA>", "#N/A", "#NV", "n/a", "-", "?", "...", "#REF!", "No tags"]
)
def test_names_that_read_as_no_value(name):
    assert reads_as_nothing(name) and "leave it" in name_fault(name, instead="leave it")


@pytest.mark.parametrize("name", ["['dog'", "dog]", '"dog"', "{dog}", "(dog", "'dog'", "array([1])", "\u201edog\u201c"])
def test_names_that_are_pieces_of_lists(name):
    assert "brackets or quotes" in name_fault(name)


def test_what_may_be_no_class_is_asked():
    numbers, rest, sentences = (
        ["3", "3.0", "-1"],
        ["other", "No Finding", "no_ship", "False"],
        ["a dog on green grass here"],
    )
    pieces = ["cat bed", "bed bug", "cat bug"]
    scores = ["dog:0.9", "dog:0.75", "dog:1.0"]
    found = dict(doubts_about(["dog", "north", "A320", "A380", *numbers, *rest, *sentences, *scores, *pieces]))
    assert [*found.values()] == [numbers, rest, sentences, scores, pieces]
