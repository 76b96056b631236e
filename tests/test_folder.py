"""A folder of images and a table of tags: whatever names people give, and one line for each thing that is wrong."""

import os
import re
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrg.data.ids import id_fault, image_ids
from dsrg.errors import InputError
from dsrg.sources import table as table_module
from dsrg.sources.folder import Names, scan_folder
from dsrg.sources.scan import scan
from dsrg.sources.validation import check_records
from helpers.data import save_flat, write
from helpers.refusals import assert_problems, problems_of

TABLE = "tags.csv"


def look(root, *, train="train", val=None, table=TABLE, separator="|"):
    return scan_folder(root, train=train, val=val, table=table, separator=separator)


@pytest.fixture
def root(tmp_path):
    """A sound folder: subfolders, formats and spellings mixed, masks of the evaluation part."""
    root = tmp_path / "mine"
    save_flat(root, "images/cats/one.jpg", "images/cats/two.PNG", "images/dogs/one.webp", "three.tiff")
    write(
        root / TABLE, "image,tags,split\ncats/one.jpg,cat,train\ntwo,cat|dog,train\ndogs/one,dog,val\nthree.tiff,,val\n"
    )
    return root


def test_sound_folder(root):
    found = look(root, val="val")
    assert problems_of(found) == [] and found.warnings == []
    assert found.classes == ["cat", "dog"]
    assert [tuple(record) for record in found.records] == [
        ("cats__one", "train", "images/cats/one.jpg", ("cat",), None),
        ("cats__two", "train", "images/cats/two.PNG", ("cat", "dog"), None),
        ("dogs__one", "val", "images/dogs/one.webp", ("dog",), None),
        ("three", "val", "three.tiff", (), None),
    ]
    index = check_records(found, pixels_max=24, on_bad="fail", untagged="background").index
    assert index.ids == ["cats__one", "cats__two", "dogs__one", "three"]


def test_tables_and_lists_may_be_as_long_as_the_folder_has_images(root, monkeypatch):
    """Their limits are against endless ones; those of a million images are long."""
    monkeypatch.setattr(table_module, "TABLE_LINES", 2)
    monkeypatch.setattr(table_module, "TABLE_BYTES", 50)
    write(root / "train.txt", "one.webp\nthree\n")
    assert problems_of(look(root, val="val")) == problems_of(look(root, train="train.txt")) == []
    write(root / TABLE, (root / TABLE).read_text() + "\n" * 4)
    assert problems_of(look(root)) == [f"{root / TABLE}: 9 lines; expected at most 8, one for each image"]
    write(root / TABLE, "x" * 201)
    assert problems_of(look(root)) == [f"{root / TABLE}: 201 bytes; expected at most 200 bytes of text"]


@pytest.mark.parametrize(
    ("table", "separator"),
    [
        (b"\xef\xbb\xbf Image ;TAGS; Split ;note\r\none.jpg; dog , cat,;train;x\r\n\r\n", ","),
        (b'image,tags,split\none.jpg,"dog,cat,dog",train', ","),
        (b'image, tags, split\none.jpg, "dog, cat", train\n', ","),
        (b"split\ttags\timage\ntrain\tdog cat\t.\\images\\cats\\one.jpg\n", " "),
    ],
    ids=["semicolons, a mark, spaces", "quoted cell", "quoted after a space", "tabs and backslashes"],
)
def test_tables_of_any_editor(root, table, separator):
    (root / "images/dogs/one.webp").unlink()
    write(root / TABLE, table)
    found = look(root, separator=separator)
    assert problems_of(found) == []
    assert [(record.image, record.tags) for record in found.records] == [("images/cats/one.jpg", ("dog", "cat"))]


def test_lists_tell_the_splits(root):
    write(root / "a.txt", "cats/one\r\n\nthree.tiff\n")
    write(root / "lists/b.txt", "dogs/one.webp")
    found = look(root, train="a.txt", val="lists/b.txt")
    assert problems_of(found) == []
    assert [(r.id, r.split) for r in found.records] == [
        ("cats__one", "train"),
        ("three", "train"),
        ("dogs__one", "val"),
    ]
    assert found.warnings == ["1 tagged images are in no list, so not used: images/cats/two.PNG"]


def test_what_is_not_used_is_said(root):
    save_flat(root, "images/extra.jpg", "masks/cats/one.png", "masks/none.png", ".hidden/x.jpg", "images/.y.jpg")
    write(root / "classes.txt", "cat\ndog\n")
    write(root / "notes.md", "no image")
    found = look(root)
    assert problems_of(found) == [] and len(found.records) == 2
    assert found.warnings == [
        "1 images are in no row of the table, so not used: images/extra.jpg",
        "1 other splits are not used: 'val' (2)",
        "1 masks belong to no image that is used: masks/none.png",
    ]


def test_masks_lie_as_their_images_do(root):
    save_flat(root, "masks/cats/one.png", "masks/images/dogs/one.png", "masks/two.png")
    write(root / "classes.txt", "dog\ncat\n")
    found = look(root, val="val")
    assert problems_of(found) == [] and found.classes == ["dog", "cat"]
    masks = {record.id: record.mask for record in found.records}
    assert masks == {
        "cats__one": "masks/cats/one.png",
        "cats__two": "masks/two.png",
        "dogs__one": "masks/images/dogs/one.png",
        "three": None,
    }
    (root / "masks/two.png").rename(root / "masks/ two .png")
    assert look(root, val="val").records[1].mask == "masks/ two .png"
    save_flat(root, "masks/one.png")
    (root / "masks/cats/one.png").unlink()
    (root / "masks/images/dogs/one.png").unlink()
    (problem,) = problems_of(look(root, val="val"))
    assert "masks/one.png: the mask of 2 images: images/cats/one.jpg, images/dogs/one.webp" in problem


def test_a_name_in_other_code_points_is_the_same_name(root):
    composed, decomposed = (unicodedata.normalize(form, "Bär Ängste.jpg") for form in ("NFC", "NFD"))
    save_flat(root, f"images/{decomposed}")
    write(root / TABLE, f"image,tags\n{composed},{unicodedata.normalize('NFD', 'Vögel')}\n")
    found = look(root)
    assert problems_of(found) == []
    assert (found.records[0].id, found.classes) == ("Bär Ängste", ["Vögel"])


def test_links_are_followed_and_circles_end(root):
    save_flat(root.parent, "elsewhere/linked.jpg")
    (root / "link").symlink_to(root.parent / "elsewhere")
    (root / "circle").symlink_to(root)
    (root / "again").symlink_to("images")
    write(root / TABLE, "image,tags\nlinked.jpg,cat\nimages/dogs/one.webp,dog\n")
    assert [record.image for record in look(root).records] == ["link/linked.jpg", "images/dogs/one.webp"]


def test_a_name_that_is_no_text_is_said(root):
    path = os.fsencode(root / "images") + b"/caf\xe9.jpg"
    try:
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    found = look(root, val="val")
    assert problems_of(found) == []
    assert found.warnings == [r"1 files have names that are not UTF-8, so are not used: images/caf\udce9.jpg"]


# beside tests/test_odd_inputs.py; name: (file to write, its content, what each problem says)
BAD = {
    "in both splits": (TABLE, "image,tags,split\nthree,cat,train\nthree.tiff,cat,val\n", ["'three' is in both splits"]),
    "no such split": (TABLE, "image,tags,split\nthree,cat,test\n", ["'train' (data.train); there are test", "'val'"]),
    "no column split": (TABLE, "image,tags\nthree,cat\n", ["no column 'split', so data.val: 'val' names nothing"]),
    "a class in another case": ("classes.txt", "Cat\ndog\n", ["did you mean 'Cat'?"] * 2),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), BAD.values(), ids=BAD)
def test_bad_folder(root, name, content, expected):
    write(root / name, content)
    assert_problems(problems_of(look(root, val="val")), expected, start=f"{root}/")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "not list"),
        ("{", "Expecting"),
        ('{"image": "three"}', "no 'tags'"),
        ('{"image": 3, "tags": []}', "are text"),
        ('{"image": "three", "tags": [3]}', "tags are text, not [3]"),
        ('{"image": "three", "tags": {"a": 1}}', "tags are text, not 1"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_bad_json_lines(root, line, reason):
    write(root / "t.jsonl", f'{{"image": "two", "tags": []}}\n{line}\n')
    (problem,) = problems_of(look(root, table="t.jsonl"))
    assert problem.startswith(f'{root}/t.jsonl:2: expected {{"image": "a.jpg"') and reason in problem


def test_bad_lists(root):
    write(root / "a.txt", "two\ntwo\nnope\n")
    write(root / "b.txt", "\n")
    save_flat(root, "images/untold.jpg")
    reasons = ["b.txt: no image in this list", "a.txt:2: id 'cats__two' is listed twice", "a.txt:3: no image 'nope'"]
    assert_problems(problems_of(look(root, train="a.txt", val="b.txt")), reasons)
    write(root / "a.txt", "untold\n")
    write(root / TABLE, "image,tags\nthree,cat|dog\nthree,dog\n")
    reasons = [
        "val: No such file or directory; expected a list of images (data.val)",
        "tags.csv:2: three.tiff has another row",
        "tags.csv:3: three.tiff has another row",
        "a.txt:1: images/untold.jpg has no row in the table of tags",
    ]
    assert_problems(problems_of(look(root, train="a.txt", val="val")), reasons)


def test_wrong_roots(root, tmp_path):
    (problem,) = problems_of(look(root, table="labels.csv"))
    assert "labels.csv: no such file; set data.tags to one of those there: tags.csv" in problem
    write(root / "tags.xlsx", "")
    assert "expected a table of tags, .csv, .tsv, .jsonl or .json" in problems_of(look(root, table="tags.xlsx"))[0]
    write(tmp_path / "none/tags.csv", "image,tags\na,b\n")
    assert "no image in this folder" in problems_of(look(tmp_path / "none"))[0]
    both = problems_of(look(root, train="train", val="train"))
    assert any("both name 'train'" in problem for problem in both)


def test_no_training_image_has_a_tag(root):
    write(root / "classes.txt", "cat\ndog\n")
    write(root / TABLE, "image,tags,split\ncats/one.jpg,,train\ntwo,,train\ndogs/one,dog,val\n")
    layout = {"source": "folder", "train": "train", "val": "val", "tags": TABLE, "separator": "|"}
    assert problems_of(scan(root, **layout, val_share=0.2, split_seed=0)) == [
        f"{root}: no tag on any of 2 training images, so nothing to learn; tag them"
    ]


# Ids


def derived(*paths: str) -> list[str]:
    return list(image_ids({path: path for path in paths}).values())


def test_ids_that_would_collide_are_kept_apart():
    for pair in [
        ("a/x.jpg", "a__x.jpg"),
        ("x.jpg", "x.png"),
        ("a.jpg", "A.jpg"),
        ("a?.jpg", "a*.jpg"),
        ("\u00e4.jpg", "a\u0308.jpg"),
    ]:
        one, other = derived(*pair)
        assert one.casefold() != other.casefold() and one[-9] == other[-9] == "-"
        assert derived(*reversed(pair)) == [other, one]
    assert derived("a/x.jpg", "b/x.jpg") == ["a__x", "b__x"]
    assert derived("a.b.jpg", ".x", " .jpg") == ["a.b", "_x", " "]


path_parts = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=100)
path_parts = path_parts.filter(lambda part: part not in (".", ".."))  # no file has such a name


@given(st.sets(st.lists(path_parts, min_size=1, max_size=4).map("/".join), max_size=6))
def test_ids_are_safe_and_unique_for_any_paths(paths):
    found = derived(*paths)
    assert all(id_fault(image_id) is None for image_id in found)
    assert len({unicodedata.normalize("NFC", image_id).casefold() for image_id in found}) == len(paths)


@given(st.sets(st.lists(st.sampled_from("abA"), min_size=1, max_size=3).map("/".join), min_size=1), st.data())
def test_an_end_finds_the_only_path_that_has_it(paths, data):
    wanted = data.draw(st.sampled_from(sorted(paths)))
    assert Names(paths).find(wanted) == wanted
    end = wanted.split("/", data.draw(st.integers(0, wanted.count("/"))))[-1]
    sharing = [path for path in paths if path == end or path.endswith(f"/{end}")]
    if len(sharing) == 1:
        assert Names(paths).find(end) == sharing[0]
    elif end not in sharing:
        with pytest.raises(InputError, match="may be any of"):
            Names(paths).find(end)


@pytest.mark.parametrize(
    "name", ["50%20off.jpg", "50 off.jpg", "100%.jpg", "100%25.jpg", "a+b.jpg", "what?.jpg", "a%2Fb.jpg"]
)
@pytest.mark.parametrize(
    "place", ["/home/me/{}", "file:///home/me/dogs/{}", "C:\\me\\{}", "/data/local-files/?d=me%2Fdogs%2F{}"]
)
def test_signs_of_addresses_in_names(name, place):
    """A path is taken as it is, or with its percent signs decoded, once; only what a query holds is always decoded."""
    names = Names([f"dogs/{name}", "dogs/other.jpg"])
    assert names.find(place.format(quote(name, safe=""))) == f"dogs/{name}"
    if "?d=" not in place:
        assert names.find(place.format(name)) == f"dogs/{name}"
    with pytest.raises(InputError, match=re.escape(f"did you mean 'dogs/{name.lower()}'")):
        Names([f"dogs/{name.lower()}"]).find(f"me/{quote(name, safe='')}")


def test_uploads_that_label_studio_renamed():
    names = Names(["x/Rex & Lili.jpg", "x/Rex.jpg", "a b.png", "c/a b.png", "a_b.jpg"])
    assert names.find("/data/upload/1/0a1b2c3d-Rex__Lili.jpg") == "x/Rex & Lili.jpg"
    assert names.find("https://me.org/data/upload/1/0a1b2c3d-a_b.jpg?x=1") == "a_b.jpg"
    with pytest.raises(InputError, match="may be any of a b.png, c/a b.png"):
        names.find("/data/upload/1/0a1b2c3d-a_b.png")
    with pytest.raises(InputError, match="no image"):
        names.find("/home/me/Rex__Lili.jpg")


# Splits drawn at random


def draw(root, share, *, seed=0):
    layout = {"source": "folder", "train": "all", "val": None, "tags": TABLE, "separator": "|"}
    found = scan(root, **layout, val_share=share, split_seed=seed)
    assert problems_of(found) == []
    return {record.id for record in found.records if record.split == "val"}


def test_a_drawn_split_is_of_the_size_asked_for_and_stable(tmp_path):
    names = [f"{k:02d}.png" for k in range(40)]
    save_flat(tmp_path, *names)
    write(tmp_path / TABLE, "image,tags\n" + "".join(f"{name},cat\n" for name in names))
    assert [len(draw(tmp_path, share)) for share in (0, 0.01, 0.25, 0.5, 1)] == [0, 0, 10, 20, 39]
    assert draw(tmp_path, 0.25) == draw(tmp_path, 0.25) != draw(tmp_path, 0.25, seed=1)
    write(tmp_path / TABLE, "image,tags\n" + "".join(f"{name},cat\n" for name in reversed(names)))
    whole = draw(tmp_path, 0.25)
    write(tmp_path / TABLE, "image,tags\n" + "".join(f"{name},cat\n" for name in names[:-4]))
    assert len(draw(tmp_path, 0.25) - whole) <= 4  # fewer images hardly change it


def test_masked_images_are_drawn_first(root):
    write(root / TABLE, "image,tags\ncats/one,cat\ntwo,cat\nthree,dog\n")
    write(root / "classes.txt", "cat\ndog\n")
    save_flat(root, "masks/cats/two.png")
    assert draw(root, 0.9) == {"cats__two"}
