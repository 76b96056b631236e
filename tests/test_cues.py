"""dsrg.artifacts.cues: the authors' seeds in, our seeds out, and back; every fault named at once."""

import pickle
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dsrg.artifacts.cues import CONFLICTS, Cues, label_map, read_cues, write_cues
from dsrg.artifacts.seeds_h5 import read_seeds, write_seeds
from dsrg.data.classes import VOC_CLASSES, write_classes
from dsrg.data.index import write_index
from dsrg.errors import InputError
from dsrg.figures.overlays import panels, seed_pictures
from dsrg.figures.seeds import write_seed_overlays
from dsrg.inference.seeding import cue_seed_rows, ready_cues, saliency_maps
from dsrg.method.grid import UNLABELED
from dsrg.params import load_params
from helpers import REAL_CUES, ROOT
from helpers.command import run_dsrg
from helpers.data import index_of, picture, save_index
from helpers.project import tiny_project
from helpers.refusals import assert_problems, refusals

CLASSES = ["cat", "dog", "cow"]
GRID = 5
CUES = {
    "0_labels": np.array([2]),
    "0_cues": np.array([[0, 0, 2], [0, 0, 4], [0, 1, 3]]),
    "7_labels": np.array([1, 3]),
    "7_cues": np.array([[0, 1, 3, 3], [1, 2, 3, 3], [1, 2, 3, 4]]),
    "2_labels": np.array([3]),
    "2_cues": np.zeros((3, 0), np.int64),
}
LIST = "b.jpg 0\na.jpg 7\nc.jpg 2\n"
TAGS = {"a": [1, 0, 1], "b": [0, 1, 0], "c": [0, 0, 1]}
SEEDS = {
    "a": [
        [255, 255, 255, 255, 255],
        [255, 0, 255, 255, 255],
        [255, 255, 1, 255, 255],
        [255, 255, 255, 3, 3],
        [255, 255, 255, 255, 255],
    ],
    "b": [[0, 0, 255, 255, 255], *3 * [[255] * 5], [255, 255, 255, 2, 255]],
    "c": 5 * [[255] * 5],
}


@pytest.fixture
def files(tmp_path):
    return tmp_path / "cues.pickle", tmp_path / "input_list.txt"


def read(files, *, cues=CUES, lines=LIST, tags=TAGS, grid=GRID, conflict="highest"):
    path, list_path = files
    path.write_bytes(pickle.dumps(cues, protocol=2))
    list_path.write_text(lines, encoding="utf-8", newline="")
    return read_cues(path, list_path, index_of(tags), grid=grid, classes=CLASSES, conflict=conflict)


def problems(files, **changes) -> list[str]:
    return [line.removeprefix(f"{files[0].parent}/") for line in refusals(read, files, **changes)]


class TestReading:
    def test_every_image_gets_its_own(self, files):
        found = read(files)
        assert found.ids == ["a", "b", "c"]
        assert found.seeds.dtype == np.uint8 and found.present.dtype == bool
        np.testing.assert_array_equal(found.seeds, list(SEEDS.values()))
        np.testing.assert_array_equal(found.present[:, 1:], list(TAGS.values()))
        assert found.present[:, 0].all() and not found.contested.any()

    def test_labels_of_the_file_win(self, files):
        tags = {"a": [1, 1, 1], "b": [1, 0, 0], "c": [0, 0, 1]}
        found = read(files, tags=tags)
        np.testing.assert_array_equal(found.present[:, 1:], list(TAGS.values()))
        assert found.remarks(index_of(tags), CLASSES)[1:] == [
            "tags of the index that the cues' labels lack: in 2 of 3 images, such as a: dog",
            "labels that are no tags in the index: in 1 of 3 images, such as b: dog",
            "labels without a cue: in 1 of 3 images, such as c: cow",
        ]

    def test_what_is_remarked(self, files):
        cues = CUES | {"0_cues": np.array([[0, 1, 3], [0, 0, 0], [0, 0, 0]])}
        remarks = {
            conflict: read(files, cues=cues, conflict=conflict).remarks(index_of(TAGS), CLASSES)
            for conflict in CONFLICTS
        }
        assert remarks["highest"] == [
            "3 images, 6.7% of the cells labeled, 1.3% background",
            "cells with cues of several classes: 1, in 1 of 3 images; the class with the highest number wins",
            "labels without a cue: in 2 of 3 images, such as b: dog",
            "cues of classes that are not among their labels: in 1 of 3 images, such as b: cat, cow",
        ]
        assert remarks["unlabeled"][:2] == [
            "3 images, 5.3% of the cells labeled, 1.3% background",
            "cells with cues of several classes: 1, in 1 of 3 images; they stay unlabeled",
        ]

    def test_of_images_that_are_not_learned_from(self, files):
        """Cues of all of VOC's images, an index of some of them: what is left out is counted, and not looked at."""
        cues = CUES | {"9_labels": np.array([99]), "9_cues": None}
        found = read(files, cues=cues, lines="folder/d.jpg 9\n" + LIST)
        np.testing.assert_array_equal(found.seeds, list(SEEDS.values()))
        remarks = found.remarks(index_of(TAGS), CLASSES)
        assert "cues of 1 more images are left out: the index does not learn from them" in remarks
        assert not any("left out" in line for line in read(files).remarks(index_of(TAGS), CLASSES))

    @pytest.mark.parametrize(
        "lines",
        [
            "b.jpg 0\r\na.jpg 7\r\nc.jpg 2",
            "\n/JPEGImages/b.png   0 \nother/folder/a.jpg\t07\n\nc 2\n",
            "\ufeffb.jpg 0\na.jpg 7\nc.jpg 2\n",
        ],
    )
    def test_lists_as_they_come(self, files, lines):
        np.testing.assert_array_equal(read(files, lines=lines).seeds, list(SEEDS.values()))


def slow_label_map(cues, *, grid: int, conflict: str):
    """As the released code: all cues in one array of planes, their classes written in ascending order."""
    planes = np.zeros((256, grid, grid), bool)
    for number, row, column in cues.T:
        planes[number, row, column] = True
    labels = np.full((grid, grid), 255, np.uint8)
    for number, row, column in zip(*np.where(planes), strict=True):
        labels[row, column] = number
    contested = planes.sum(axis=0) > 1
    if conflict == "unlabeled":
        labels[contested] = 255
    return labels, contested.sum()


@given(cues=arrays(np.int64, st.tuples(st.just(3), st.integers(0, 30)), elements=st.integers(0, 3)))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("conflict", CONFLICTS)
def test_label_map_is_the_slow_one(conflict, cues):
    labels, contested = label_map(cues, grid=4, conflict=conflict)
    slow_labels, slow_contested = slow_label_map(cues, grid=4, conflict=conflict)
    np.testing.assert_array_equal(labels, slow_labels)
    assert contested == slow_contested and labels.dtype == np.uint8


class TestProblems:
    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (LIST + "d.jpg\n", "input_list.txt:4: expected `ID.jpg NUMBER`, found 'd.jpg'"),
            (LIST + "d.jpg -1\n", "input_list.txt:4: expected `ID.jpg NUMBER`, found 'd.jpg -1'"),
            (LIST + "d.jpg ٣\n", "input_list.txt:4: expected `ID.jpg NUMBER`, found 'd.jpg ٣'"),
            (LIST + "a.png 7\n", "input_list.txt:4: id 'a' is on line 2 already; remove one"),
            (LIST + "a.png 7\n", "input_list.txt:4: number 7 is on line 2 already; fix one"),
            ("\n", "input_list.txt: an empty list; expected `ID.jpg NUMBER` a line"),
            (LIST + "d.jpg 9\n", "cues.pickle: no entry '9_labels' for "),
            (LIST + "d.jpg 9\n", "cues.pickle: no entry '9_cues' for "),
            ("b.jpg 0\na.jpg 7\n", "input_list.txt: no line for the training image 'c'; data.train may only name"),
            ("b.jpg 0\na.jpg 7\n", "cues.pickle: entry '2_cues' belongs to no line of "),
        ],
    )
    def test_of_the_list(self, files, lines, said):
        assert any(line.startswith(said) for line in problems(files, lines=lines))

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("0_labels", [2], "expected whole numbers of shape (n,), found no array but list"),
            ("0_labels", np.array([2.0]), "expected whole numbers of shape (n,), found float64 of shape (1,)"),
            ("0_labels", np.array([[2]]), "expected whole numbers of shape (n,), found int64 of shape (1, 1)"),
            ("0_labels", np.array([True]), "expected whole numbers of shape (n,), found bool of shape (1,)"),
            ("0_labels", np.array(2), "expected whole numbers of shape (n,), found int64 of shape ()"),
            ("0_labels", np.array([0, 4]), "class 0, 4; expected 1 to 3, the lines of classes.txt"),
            ("7_cues", None, "expected whole numbers of shape (3, K), found no array but NoneType"),
            ("7_cues", np.zeros((2, 3), int), "expected whole numbers of shape (3, K), found int64 of shape (2, 3)"),
            ("7_cues", np.zeros((3, 1)), "expected whole numbers of shape (3, K), found float64 of shape (3, 1)"),
            ("7_cues", np.array([[-1], [0], [0]]), "class -1; expected 0 to 3"),
            ("7_cues", np.array([[4], [0], [0]]), "class 4; expected 0 to 3"),
            ("7_cues", np.array([[1], [5], [0]]), "row 5; expected 0 to 4, the grid of 33 pixels"),
            ("7_cues", np.array([[1], [-1], [0]]), "row -1; expected 0 to 4"),
            ("7_cues", np.array([[1], [0], [5]]), "column 5; expected 0 to 4"),
            ("7_cues", np.array([[1] * 5, [0] * 5, [5, 9, 8, 7, 6]]), "column 5, 6, 7 and 2 more; expected 0 to 4"),
            ("7_cues", np.array([[1], [0], [2**64 - 1]], np.uint64), "column 18446744073709551615; expected"),
        ],
    )
    def test_of_one_entry(self, files, key, value, said):
        (line,) = problems(files, cues=CUES | {key: value})
        assert line.startswith(f"cues.pickle: {key} ({'b' if key[0] == '0' else 'a'}): {said}")

    def test_all_at_once(self, files):
        cues = {key: value for key, value in CUES.items() if key != "2_labels"}
        cues |= {"0_labels": np.array([9]), "7_cues": np.full((3, 1), 7), "more": None}
        beginnings = ["input_list.txt:5: expected"]
        entries = ("'2_labels'", "'3_labels'", "'3_cues'")
        beginnings += [*(f"cues.pickle: no entry {name}" for name in entries), "cues.pickle: entry 'more' belongs"]
        beginnings += ["cues.pickle: 0_labels (b): class 9"]
        beginnings += [f"cues.pickle: 7_cues (a): {name} 7" for name in ("class", "row", "column")]
        assert_problems(problems(files, cues=cues, lines=LIST + "d 3\n?\n"), beginnings)

    def test_no_pickle_and_no_files(self, files):
        path, list_path = files
        for missing in (list_path, path):
            with pytest.raises(InputError, match=missing.name):
                read_cues(path, list_path, index_of(TAGS), grid=GRID, classes=CLASSES, conflict="highest")
            missing.write_text(LIST)
        with pytest.raises(InputError, match="expected an undamaged pickle"):
            read_cues(path, list_path, index_of(TAGS), grid=GRID, classes=CLASSES, conflict="highest")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return folder / "cues.pickle", folder / "input_list.txt"


WILD = st.one_of(
    st.none(),
    st.lists(st.integers(), max_size=3),
    arrays(
        st.sampled_from([np.int64, np.uint8, np.float32, np.bool_]),
        st.one_of(st.tuples(st.just(3), st.integers(0, 4)), st.lists(st.integers(0, 3), max_size=3).map(tuple)),
        fill=st.nothing(),
    ),
    arrays(np.int64, st.tuples(st.just(3), st.integers(0, 9)), elements=st.integers(-1, 5)),
    arrays(np.int64, st.integers(0, 3), elements=st.integers(0, 4)),
)


@given(changes=st.dictionaries(st.sampled_from([*CUES, "3_cues", "x"]), WILD, max_size=3))
@settings(max_examples=80, deadline=None)
def test_any_content_is_read_right_or_refused(fuzzed, changes):
    try:
        found = read(fuzzed, cues=CUES | changes)
    except InputError as error:
        assert error.problems
        return
    assert found.seeds.shape == (3, GRID, GRID) and set(np.unique(found.seeds)) <= {0, 1, 2, 3, 255}
    for image_id, number in (("a", 7), ("b", 0), ("c", 2)):
        row, cues = found.ids.index(image_id), (CUES | changes)[f"{number}_cues"]
        np.testing.assert_array_equal(found.seeds[row], slow_label_map(cues, grid=GRID, conflict="highest")[0])


def seeds_of(ids: list[str], present, seeds) -> SimpleNamespace:
    present = np.concatenate([np.ones((len(ids), 1), bool), present], axis=1)
    return SimpleNamespace(ids=ids, present=present, seeds=np.asarray(seeds, np.uint8))


class TestWriting:
    @given(
        seeds=arrays(np.uint8, (3, GRID, GRID), elements=st.sampled_from([0, 1, 2, 3, 255])),
        present=arrays(bool, (3, 3)),
    )
    @settings(max_examples=60, deadline=None)
    def test_there_and_back(self, fuzzed, seeds, present):
        write_cues(*fuzzed, seeds_of(["b", "ü c.d", "a"], present, seeds))
        order = index_of({"a": [0, 0, 0], "b": [0, 0, 0], "ü c.d": [0, 0, 0]})
        found = read_cues(*fuzzed, order, grid=GRID, classes=CLASSES, conflict="unlabeled")
        np.testing.assert_array_equal(found.seeds, seeds[[2, 0, 1]])
        np.testing.assert_array_equal(found.present[:, 1:], present[[2, 0, 1]])

    def test_the_format(self, files):
        seeds = seeds_of(["b", "c"], np.array([[0, 1, 0], [1, 0, 1]], bool), [SEEDS["b"], SEEDS["a"]])
        write_cues(*files, seeds)
        assert files[1].read_bytes() == b"b.jpg 0\nc.jpg 1\n"
        raw = files[0].read_bytes()
        content = pickle.loads(raw, encoding="latin1")
        wanted = {"0_labels": "0_labels", "0_cues": "0_cues", "1_labels": "7_labels", "1_cues": "7_cues"}
        assert list(content) == list(wanted)
        for key, values in content.items():
            np.testing.assert_array_equal(values, CUES[wanted[key]])
            assert values.dtype == np.int64
        # names and texts are those of Python 2: no module that its NumPy lacks, no text but byte strings
        assert b"numpy._core" not in raw and b"_codecs" not in raw
        assert set(pickle.loads(raw, encoding="bytes")) == {key.encode() for key in wanted}


def test_foreground_of_cues_and_background_of_saliency(files, tmp_path):
    index = save_index(tmp_path, {name: picture(30, 40, seed=0) for name in TAGS}, list(TAGS.values()))
    cues, params = read(files), load_params(ROOT / "params.yaml")
    salient = list(saliency_maps(index, saliency=params.saliency, grid=GRID))
    settings = {"size": 8 * GRID - 7, "saliency": params.saliency}

    def labels(**changes):
        seeds = params.seeds.model_copy(update=changes)
        return [row.seeds for row in cue_seed_rows(cues, index, seeds=seeds, **settings)]

    np.testing.assert_array_equal(labels(cues_use="all"), list(SEEDS.values()))
    made = labels(cues_use="foreground", bg_thresh=0.5, conflict="smaller")
    for seeds, values, theirs in zip(made, salient, SEEDS.values(), strict=True):
        theirs = np.array(theirs)
        foreground = (theirs != 0) & (theirs != UNLABELED)
        np.testing.assert_array_equal(seeds, np.where(foreground, theirs, np.where(values < 0.5, 0, UNLABELED)))
    assert (np.array(made) == 0).any()


@given(data=st.data(), theirs=st.integers(2, 50), ours=st.integers(2, 50))
def test_resampled_cells_are_the_nearest(data, theirs, ours):
    """No cell of the cues' grid is nearer to ours, with corners on corners; the same grid stays as it is."""
    seeds = data.draw(arrays(np.uint8, (1, theirs, theirs), elements=st.integers(0, 20)))
    cues = Cues(["a"], np.ones((1, 21), bool), seeds, np.ones((1, 21), bool), np.zeros(1), "highest", 0)
    found = cues.resampled(ours).seeds[0]
    row, column = (data.draw(st.integers(0, ours - 1)) for _ in range(2))
    distance = [np.abs(np.arange(theirs) / (theirs - 1) - place / (ours - 1)) for place in (row, column)]
    nearest = (np.flatnonzero(np.isclose(values, values.min())) for values in distance)
    assert found[row, column] in seeds[0][np.ix_(*nearest)]
    np.testing.assert_array_equal(cues.resampled(theirs).seeds, seeds)


def test_cues_of_another_grid(files):
    """The authors' cues are of squares of 321 pixels; `seeds.cues_size` says so where data.size is another."""
    read(files)
    params = load_params(ROOT / "params.yaml").seeds
    params = params.model_copy(update={"cues": str(files[0]), "cues_list": str(files[1])})
    with pytest.raises(InputError, match="seeds.cues_size"):
        ready_cues(params, index_of(TAGS), size=17, classes=CLASSES)
    params = params.model_copy(update={"cues_size": 8 * GRID - 7})
    found = ready_cues(params, index_of(TAGS), size=17, classes=CLASSES)
    np.testing.assert_array_equal(found.seeds, np.array([*SEEDS.values()])[:, ::2, ::2])


@pytest.mark.skipif(not REAL_CUES.is_file(), reason="SEC's cues are not at hand")
def test_of_secs_authors_on_some_of_their_images():
    """The real Python 2 pickle: precision and recall on 2,500 images are in the data's README."""
    ids = ["2007_000032", "2007_000039", "2007_000063"]
    tags = {name: [0] * 20 for name in ids}
    cues = read_cues(
        *(REAL_CUES, REAL_CUES.with_name("input_list.txt")),
        index_of(tags),
        **{"grid": 41, "classes": [*VOC_CLASSES], "conflict": "highest"},
    )
    assert cues.left_out == 10582 - len(ids)
    assert [[VOC_CLASSES[k - 1] for k in np.flatnonzero(row)[1:]] for row in cues.present[:2]] == [
        ["aeroplane", "person"],
        ["tvmonitor"],
    ]
    assert all(0.05 < (seeds != UNLABELED).mean() < 0.9 for seeds in cues.seeds)


class TestSeedsFile:
    """Imported seeds in the place of our own."""

    @pytest.fixture
    def path(self, files, tmp_path):
        path = tmp_path / "seeds.h5"
        write_seeds(path, read(files).rows(), count=3, grid=GRID, classes=CLASSES, params="{}")
        return path

    def test_holds_seeds_and_tags_and_knows_no_more(self, path):
        seeds = read_seeds(path, classes=CLASSES, grid=GRID)
        np.testing.assert_array_equal(seeds.in_order(["c", "a", "b"]), [SEEDS["c"], SEEDS["a"], SEEDS["b"]])
        np.testing.assert_array_equal(seeds.present[:, 1:], list(TAGS.values()))
        assert [seeds.maps(image_id) for image_id in "abc"] == 3 * [(None, {})]
        with h5py.File(path) as file:
            assert np.isnan(file["saliency"][:]).all() and file["cams"].shape == (0, GRID, GRID)

    def test_pictures_show_what_there_is(self, path, tmp_path):
        index = save_index(tmp_path, {name: picture(30, 40, seed=0) for name in TAGS}, list(TAGS.values()))
        seeds = read_seeds(path, classes=CLASSES)
        write_seed_overlays(tmp_path / "drawn", seeds, index, classes=CLASSES, count=2)
        assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["a.png", "b.png"]
        image, labels, values = picture(30, 40, seed=0), np.array(SEEDS["a"], np.uint8), np.zeros((GRID, GRID))
        for saliency, cams, captions in [
            (None, {}, ["image", "seeds"]),
            (values, {}, ["image", "saliency", "seeds"]),
            (values, {2: values}, ["image", "CAM dog", "saliency", "seeds"]),
        ]:
            drawn = seed_pictures(image, cams=cams, saliency=saliency, seeds=labels, classes=CLASSES)
            assert [caption for caption, _ in drawn] == captions
            if saliency is None:
                with Image.open(tmp_path / "drawn" / "a.png") as file:
                    np.testing.assert_array_equal(np.array(file), panels(drawn))


class TestCommands:
    @pytest.fixture
    def project(self, tmp_path, monkeypatch):
        tiny_project(tmp_path, data={"size": 8 * GRID - 7})
        monkeypatch.chdir(tmp_path)
        write_classes("data/classes.txt", CLASSES)
        write_index("data/index.csv", index_of(TAGS), CLASSES)
        (tmp_path / "cues.pickle").write_bytes(pickle.dumps(CUES, protocol=2))
        (tmp_path / "list.txt").write_text(LIST)
        return tmp_path

    def test_there_and_back(self, project):
        assert run_dsrg("import-cues", "cues.pickle", "--list", "list.txt").splitlines() == [
            "data/seeds.h5:",
            "3 images, 9.3% of the cells labeled, 4.0% background",
            "labels without a cue: in 1 of 3 images, such as c: cow",
        ]
        np.testing.assert_array_equal(
            read_seeds(project / "data/seeds.h5", classes=CLASSES).seeds, list(SEEDS.values())
        )
        with h5py.File("data/seeds.h5") as file:
            assert '"cues": "cues.pickle"' in file.attrs["params"]

        said = run_dsrg("export-cues", "--list", "out.txt", "--out", "out.pickle")
        assert said == "out.pickle, out.txt: cues of 3 images\n"
        said = run_dsrg("import-cues", "out.pickle", "--list", "out.txt", "--out", "again.h5")
        assert said.startswith("again.h5:\n")
        first, again = (read_seeds(project / name, classes=CLASSES) for name in ("data/seeds.h5", "again.h5"))
        np.testing.assert_array_equal(first.seeds, again.seeds)
        np.testing.assert_array_equal(first.present, again.present)

        run_dsrg("export-cues", "--seeds", "again.h5", "--list", "2.txt", "--out", "2.pickle")
        assert (project / "2.pickle").read_bytes() == (project / "out.pickle").read_bytes()

    def test_refusals_leave_nothing(self, project):
        (project / "list.txt").write_text(LIST + "d.jpg 9\n")
        assert len(run_dsrg("import-cues", "cues.pickle", "--list", "list.txt", code=2).splitlines()) == 2
        assert not (project / "data/seeds.h5").exists()
        said = run_dsrg("export-cues", "--list", "out.txt", "--out", "out.pickle", code=2)
        assert "data/seeds.h5: no such file" in said
        assert not (project / "out.pickle").exists()
