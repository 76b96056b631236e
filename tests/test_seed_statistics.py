"""What the stage `make_seeds` says about its seeds: tables, metrics and the contact sheet."""

import cv2
import numpy as np
import pytest
import torch

from dsrg.artifacts.seeds_h5 import SeedRow, read_seeds, write_seeds
from dsrg.evaluation.seed_statistics import ImageCount, SeedCounts, best_worst_random
from dsrg.figures import overlays
from dsrg.figures.overlays import CAPTION, GAP, captioned, panels
from dsrg.figures.seeds import SHEET_COLUMNS, SHEET_ROWS, write_contact_sheet
from dsrg.method.seeds import make_seeds
from dsrg.params import SeedParams
from helpers.data import picture, read_csv, save_index
from helpers.project import recipe

CLASSES = ["cat", "dog", "cow"]


def made_row(image_id: str, saliency: list[str], maps: dict[int, list[str]], *, conflict: str) -> SeedRow:
    """Saliency and activation maps drawn as digits, tenths, of the tagged classes, and the seeds made from them."""
    salient, tagged = tenths(saliency), np.array(list(maps), np.uint8)
    present = np.isin(np.arange(4), [0, *maps])
    cams = np.zeros((3, *salient.shape), np.float32)
    cams[tagged - 1] = [tenths(rows) for rows in maps.values()] or 0
    inputs = torch.from_numpy(cams)[None], torch.from_numpy(salient)[None], torch.from_numpy(present)[None]
    seeds = make_seeds(*inputs, fg_thresh=0.5, bg_thresh=0.25, conflict=conflict)[0].numpy()
    return SeedRow(image_id, present, seeds, salient, cams[tagged - 1], tagged)


def tenths(rows: list[str]) -> np.ndarray:
    return np.array([[int(digit) for digit in row] for row in rows], np.float32) / 10


def counted(rows: list[SeedRow]) -> SeedCounts:
    counts = SeedCounts(CLASSES, SeedParams(**recipe()["seeds"] | {"fg_thresh": 0.5, "bg_thresh": 0.25}))
    assert list(counts.watch(iter(rows), name="make_seeds", total=len(rows))) == rows, "every row is passed on"
    return counts


@pytest.fixture
def rows() -> list[SeedRow]:
    """Claims, a b: 0CC.  00..  with C over D in one cell and over background in another; d: an empty map for cow."""
    return [
        made_row("a", ["0099", "0999"], {1: ["0990", "0000"], 2: ["0099", "0000"]}, conflict="unlabeled"),
        made_row("b", ["0099", "0099"], {3: ["0000", "0000"]}, conflict="unlabeled"),
    ]


# Tables


def test_a_line_for_every_class_by_hand(rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DSRG_PROGRESS_SECONDS", "0")
    counts = counted(rows)
    assert rows[0].seeds.tolist() == [[0, 255, 255, 2], [0, 255, 255, 255]]
    counts.write_classes(tmp_path / "classes.csv")
    table = {line.pop("class"): line for line in read_csv(tmp_path / "classes.csv")}
    columns = ("images", "images_seeded", "images_unseeded", "pixels", "conflicts")
    found = {name: tuple(int(line[column]) for column in columns) for name, line in table.items()}
    assert found == {
        "background": (2, 2, 0, 6, 1),
        "cat": (1, 0, 1, 0, 2),  # one cell with background, one with the dog
        "dog": (1, 1, 0, 1, 1),
        "cow": (1, 0, 1, 0, 0),
    }
    assert [float(line["coverage"]) for line in table.values()] == [0.375, 0, 0.0625, 0]
    assert "make_seeds: 2/2" in capsys.readouterr().err


def test_a_line_for_every_image_by_hand(rows, tmp_path):
    counted(rows).write_images(tmp_path / "images.csv")
    assert (tmp_path / "images.csv").read_text().splitlines() == [
        "id,coverage,clear,conflicts,unseeded",
        "a,0.375,0.375,0.25,cat",
        "b,0.5,0.5,0.0,cow",
    ]


def test_where_the_smaller_class_wins_disputed_seeds_are_labeled_but_not_clear(rows):
    smaller = made_row("a", ["0099", "0999"], {1: ["0990", "0000"], 2: ["0099", "0000"]}, conflict="smaller")
    (image,) = counted([smaller]).images
    assert (image.coverage, image.clear, image.conflicts) == (0.625, 0.375, 0.25)


def test_metrics(rows):
    assert counted(rows).metrics() == {
        "coverage": 7 / 16,
        "foreground": 1 / 16,
        "background": 6 / 16,
        "conflicts": 2 / 16,
        "tags_seeded": 1 / 3,
        "unseeded_classes": ["cat", "cow"],
    }


def test_imported_seeds_without_maps_have_unknown_conflicts(rows, tmp_path):
    nothing = np.full((2, 4), np.nan, np.float32)
    imported = SeedRow("c", rows[0].present, rows[0].seeds, nothing, np.zeros((0, 2, 4)), np.zeros(0, np.uint8))
    counts = counted([imported])
    assert counts.metrics()["conflicts"] is None and counts.images[0].conflicts is None
    assert counts.images[0].clear == counts.images[0].coverage == 0.375
    counts.write_classes(tmp_path / "classes.csv")
    assert [line["conflicts"] for line in read_csv(tmp_path / "classes.csv")] == [""] * 4
    counts.write_images(tmp_path / "images.csv")
    assert read_csv(tmp_path / "images.csv")[0]["conflicts"] == ""


def test_conflicts_equal_literal_loops():
    rng = np.random.default_rng(0)
    several = 0
    for _ in range(20):
        tagged = np.flatnonzero(rng.random(3) < 0.7) + 1
        maps = {int(number): ["".join(map(str, rng.integers(0, 10, 6))) for _ in range(5)] for number in tagged}
        row = made_row("x", ["".join(map(str, rng.integers(0, 10, 6))) for _ in range(5)], maps, conflict="unlabeled")
        expected = np.zeros(4, int)
        for y in range(5):
            for x in range(6):
                claiming = [0] if row.saliency[y, x] < 0.25 else []
                for number, cam in zip(row.cam_class, row.cams, strict=True):
                    if cam[y, x] > 0.5 * cam.max():
                        claiming.append(int(number))
                if len(claiming) > 1:
                    expected[claiming] += 1
                    assert row.seeds[y, x] == 255
        np.testing.assert_array_equal(counted([row]).conflicts, expected)
        several += expected.any()
    assert several > 10


# The contact sheet


def image_count(image_id: str, clear: float, unseeded: int = 0) -> ImageCount:
    return ImageCount(image_id, clear, clear, 0.0, CLASSES[:unseeded])


def test_best_have_most_undisputed_seeds_and_a_tag_without_seeds_weighs_more():
    images = [image_count("low", 0.2), image_count("high", 0.8), image_count("lacks", 0.9, 1), image_count("two", 1, 2)]
    chosen = best_worst_random(images, 3)
    assert [image.id for image in chosen["best"]] == ["high", "low", "lacks"]
    assert [image.id for image in chosen["worst"]] == ["two", "lacks", "low"]


def test_the_draw_is_the_same_whatever_the_seeds_and_the_order():
    images = [image_count(f"im{k}", k / 100) for k in range(100)]
    others = [image_count(f"im{k}", 0.5, 1) for k in reversed(range(100))]
    drawn, again = ([image.id for image in best_worst_random(some, 10)["random"]] for some in (images, others))
    assert drawn == again and len(set(drawn)) == 10
    assert drawn != [f"im{k}" for k in range(10)]


def test_the_sheet_shows_all_kinds(tmp_path):
    pictures = {f"im{k}": picture(24, 30 + k, seed=k) for k in range(12)}
    index = save_index(tmp_path, pictures, [[1]] * 12)
    labels, blank = np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.float32)
    labels[0, 0], labels[2, 2] = 0, 1
    rows = [SeedRow(name, index.present[0], labels, blank, blank[None], np.array([1])) for name in pictures]
    write_seeds(tmp_path / "seeds.h5", rows, count=12, grid=3, classes=["cat"], params="{}")
    images = [image_count(f"im{k}", k / 100) for k in range(12)]
    places = read_seeds(tmp_path / "seeds.h5", classes=["cat"]), index
    write_contact_sheet(tmp_path / "sheet.png", images, *places)
    height, width, _ = cv2.imread(str(tmp_path / "sheet.png")).shape
    assert height == 3 * (CAPTION + 2 * GAP + SHEET_ROWS * (CAPTION + 120 + 2 * GAP))
    assert width >= SHEET_COLUMNS * 120
    before = (tmp_path / "sheet.png").read_bytes()
    write_contact_sheet(tmp_path / "sheet.png", images, *places)
    assert (tmp_path / "sheet.png").read_bytes() == before
    write_contact_sheet(tmp_path / "sheet.png", images[::-1], *places)
    assert (tmp_path / "sheet.png").read_bytes() == before, "the order in which images come does not matter"


def test_a_narrow_picture_still_has_its_whole_caption():
    name = "2010_004183 and more"
    panel = panels([(name, picture(60, 10, seed=0))], height=60)
    alone = captioned(name)
    np.testing.assert_array_equal(panel[:CAPTION], alone)
    assert panel.shape[1] > 100 and (panel[CAPTION:, 10:] == 255).all()


@pytest.mark.parametrize(("shape", "rows", "columns"), [((3, 2000), 1, 240), ((2000, 3), 60, 1), ((30, 60), 60, 120)])
def test_pictures_of_extreme_shapes_stay_small(shape, rows, columns):
    black = np.zeros((*shape, 3), np.uint8)
    panel = panels([("", black)], height=60)
    assert panel.shape == (CAPTION + 60, max(columns, 4), 3)
    assert not panel[CAPTION : CAPTION + rows, :columns].any() and (panel[CAPTION + rows :] == 255).all()


def test_large_images_are_drawn_on_smaller(tmp_path, monkeypatch):
    index = save_index(tmp_path, {"a": np.zeros((1500, 3000, 3), np.uint8)}, [[1]])
    drawn = []
    monkeypatch.setattr(overlays, "panels", lambda pictures: drawn.extend(pictures) or pictures[0][1])
    overlays.write_label_overlays(tmp_path / "out", index, {"x": [np.ones((1500, 3000), np.uint8)]})
    assert [picture.shape for _, picture in drawn] == [(512, 1024, 3)] * 2
