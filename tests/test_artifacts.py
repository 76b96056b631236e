"""What stages hand to each other (model files, seeds.h5, label PNGs): whole, the same bytes, refused when damaged."""

import io
import json
import os
import pickle
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from dsrg.artifacts import label_folder
from dsrg.artifacts.label_folder import CHECKSUMS, PLACES, LabelFolder, written_labels
from dsrg.artifacts.model_file import Model, built, load_model, refuse_misfit, save_model
from dsrg.artifacts.seeds_h5 import HEAD, SeedRow, read_seeds, sealed, write_seeds
from dsrg.data.images import mask_from, read_mask
from dsrg.data.palette import label_png, voc_palette
from dsrg.errors import InputError
from dsrg.files import sha256
from helpers.data import note_checksums
from helpers.memory import files_within
from helpers.pickles import RunsCode
from helpers.refusals import refusals

CLASSES = ["cat", "dög"]


class TestModelFile:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        conv = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        network = {"backbone": "vgg_mini", "rates": [1, 2], "dropout": 0.5}
        return Model("segmenter", CLASSES, network, 321, conv.state_dict())

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "model.safetensors"

    @staticmethod
    def refusal(path, kind="segmenter") -> str:
        (problem,) = refusals(load_model, path, kind=kind, stage_name="train_dsrg")
        assert str(path) in problem and "run the stage `train_dsrg` again" in problem
        return problem

    def test_comes_back_as_it_was(self, path, model):
        save_model(path, model)
        loaded = load_model(path, kind="segmenter", stage_name="train_dsrg")
        assert {**vars(loaded), "weights": 0} == {**vars(model), "weights": 0}
        assert loaded.weights.keys() == model.weights.keys()
        for name, value in model.weights.items():
            assert torch.equal(loaded.weights[name], value)

    def test_same_model_same_bytes_under_any_name(self, tmp_path, model):
        for name in ("a.safetensors", "other name.safetensors"):
            save_model(tmp_path / name, model)
        assert sha256(tmp_path / "a.safetensors") == sha256(tmp_path / "other name.safetensors")

    def test_another_kind(self, path, model):
        save_model(path, model)
        assert "holds a segmenter, expected a classifier" in self.refusal(path, kind="classifier")

    @pytest.mark.parametrize(
        ("about", "said"),
        [
            ('{"version": 1}', "version 1, this program reads 4"),
            ("{}", "version None"),
            ('{"version": 4, "kind": "segmenter"}', "not a complete model"),
            ('{"version": 4, "sha256": "", "surplus": 1}', "not a complete model"),
            ("null", "not a model file of this program"),
            ("[1]", "not a model file of this program"),
            ("{", "not readable as a model"),
            ("[" * 100_000, "not readable as a model"),
            (None, "not a model file of this program"),
        ],
    )
    def test_other_safetensors_files(self, path, about, said):
        path.write_bytes(save({"w": torch.zeros(2)}, metadata={"dsrg": about} if about else None))
        assert said in self.refusal(path)

    def test_garbage(self, path, model):
        assert "no such file" in self.refusal(path)
        save_model(path, model)
        cut = path.read_bytes()[:-100]
        for content in (b"", b"garbage", bytes(8), b"\xff" * 99, b"\xff" * 5 + bytes(3) + b"{}", cut):
            path.write_bytes(content)
            assert "not readable as a model" in self.refusal(path)
        path.unlink()
        path.mkdir()
        assert "not readable as a model" in self.refusal(path)

    def test_one_of_an_earlier_version_names_the_command_that_makes_it_anew(self, tmp_path):
        old = tmp_path / "model.pt"
        torch.save({"format": "dsrg-model", "version": 3}, old)
        for path in (old, tmp_path / "model.safetensors"):  # the old file itself; the new one that is not there yet
            with pytest.raises(InputError, match="model.pt.* earlier version.*; run `dvc repro retrain`"):
                load_model(path, kind="segmenter", stage_name="retrain")

    def test_trained_for_other_classes(self, path, model):
        save_model(path, model)
        assert load_model(path, kind="segmenter", stage_name="x", classes=list(CLASSES)).classes == CLASSES
        with pytest.raises(InputError, match=f"trained for the classes {', '.join(CLASSES)}; expected dog; run the"):
            load_model(path, kind="segmenter", stage_name="train_dsrg", classes=["dog"])

    def test_weights_that_do_not_fit_are_all_named(self, path, model):
        network = torch.nn.ModuleDict({"bias": torch.nn.Linear(2, 3)})
        problems = refusals(refuse_misfit, network, model, path=path, stage_name="retrain")
        assert [problem.removeprefix(f"{path}: ") for problem in problems] == [
            "bias: (4,), the network needs no such weight",
            "bias.bias: missing, the network needs (3,)",
            "bias.weight: missing, the network needs (3, 2)",
            "weight: (4, 3, 3, 3), the network needs no such weight",
            "its weights do not fit the network; run the stage `retrain` again",
        ]

    def test_a_network_too_large_for_any_memory_is_never_built(self, path, model):
        def make(classes: int, **network: object) -> torch.nn.Module:
            return torch.nn.Linear(10**7, 10**7)

        with pytest.raises(InputError, match="the network needs \\(10000000, 10000000\\)"):
            built(make, model, path=path, stage_name="retrain")

    @pytest.mark.parametrize(
        "change",
        [
            {"classes": "ab"},
            {"classes": []},
            {"classes": ["c"] * 255},
            {"classes": [1]},
            {"network": [1]},
            {"size": "321"},
            {"kind": None},
        ],
    )
    def test_content_of_other_kinds(self, path, model, change):
        save_model(path, replace(model, **change))
        assert "not a complete model" in self.refusal(path)

    @pytest.mark.parametrize("sha256", ["0" * 64, None])
    def test_another_checksum(self, path, model, sha256):
        save_model(path, model)
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["dsrg"]) | {"sha256": sha256}
        weights = {name: value.contiguous() for name, value in model.weights.items()}
        path.write_bytes(save(weights, metadata={"dsrg": json.dumps(about)}))
        assert "damaged" in self.refusal(path)

    @pytest.mark.parametrize("archive", [True, False])
    def test_a_file_that_would_run_code_is_refused_before_it_does(self, path, tmp_path, archive):
        content = {"format": "dsrg-model", "version": 3, "weights": RunsCode(tmp_path / "it ran")}
        torch.save(content, path) if archive else path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(InputError, match="earlier version|not readable as a model"):
            load_model(path, kind="segmenter", stage_name="train_dsrg")
        assert not (tmp_path / "it ran").exists()
        content = io.BytesIO(path.read_bytes())
        torch.load(content, weights_only=False) if archive else pickle.load(content)
        assert (tmp_path / "it ran").exists()  # it was a real one


def seed_row(image_id: str, *, tags: list[int], grid: int = 5) -> SeedRow:
    rng = np.random.default_rng(len(image_id))
    present = np.zeros(3, bool)
    present[[0, *tags]] = True
    return SeedRow(
        image_id,
        present,
        rng.choice(np.array([0, *tags, 255], np.uint8), (grid, grid)),
        rng.random((grid, grid)).astype(np.float16),
        rng.random((len(tags), grid, grid)).astype(np.float16),
        np.array(tags, np.uint8),
    )


ROWS = [seed_row("a", tags=[2]), seed_row("bb", tags=[1, 2]), seed_row("ü c", tags=[]), seed_row("dddd", tags=[1])]


def save_rows(path, rows=ROWS, **changes) -> None:
    options = {"count": len(rows), "grid": 5, "classes": CLASSES, "params": "{}", **changes}
    write_seeds(path, iter(rows), **options)


def virtual(path) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((4, 5, 5), "u1")
    layout[:] = h5py.VirtualSource(path, "seeds", (4, 5, 5))
    return layout


class TestSeeds:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "seeds.h5"
        save_rows(path)
        return path

    @staticmethod
    @contextmanager
    def changed(path):
        """A seeds file to change, sealed again afterwards as if the program had written it so."""
        with h5py.File(path, "r+") as file:
            yield file
        path.write_bytes(sealed(path.read_bytes()[HEAD:]))

    @staticmethod
    def refusal(path, classes=CLASSES, grid=5) -> str:
        (problem,) = refusals(read_seeds, path, classes=classes, grid=grid)
        assert str(path) in problem and "run the stage `make_seeds` again" in problem
        return problem

    def test_come_back_as_they_were(self, path):
        seeds = read_seeds(path, classes=CLASSES, grid=5)
        assert seeds.ids == [row.image_id for row in ROWS] and seeds.path == path
        np.testing.assert_array_equal(seeds.present, [row.present for row in ROWS])
        np.testing.assert_array_equal(seeds.seeds, [row.seeds for row in ROWS])
        assert seeds.present.dtype == bool and seeds.seeds.dtype == np.uint8
        for row in ROWS:
            saliency, cams = seeds.maps(row.image_id)
            assert saliency.dtype == np.float32
            np.testing.assert_array_equal(saliency, row.saliency)
            assert list(cams) == row.cam_class.tolist()
            for place, number in enumerate(row.cam_class):
                np.testing.assert_array_equal(cams[number], row.cams[place])

    def test_layout_is_as_documented(self, path):
        with h5py.File(path) as file:
            layout = {name: (data.shape, data.dtype.str) for name, data in file.items()}
            assert layout == {
                "ids": ((4,), "|S4"),
                "present": ((4, 3), "|b1"),
                "seeds": ((4, 5, 5), "|u1"),
                "saliency": ((4, 5, 5), "<f2"),
                "cams": ((4, 5, 5), "<f2"),
                "cam_class": ((4,), "|u1"),
                "cam_row": ((4,), "<i4"),
            }
            assert file["cam_row"][:].tolist() == [0, 1, 1, 3] and file["cam_class"][:].tolist() == [2, 1, 2, 1]
            for name in ("seeds", "saliency", "cams"):
                data = file[name]
                assert data.chunks == (1, 5, 5) and data.compression == "gzip" and data.shuffle and data.fletcher32
            wanted = {"format": "dsrg-seeds", "version": 2, "grid_stride": 8, "params": "{}", "complete": 1}
            assert {key: value for key, value in file.attrs.items() if key != "classes"} == wanted

    def test_same_seeds_same_bytes_a_second_later(self, path, tmp_path):
        time.sleep(1.1)  # HDF5 keeps times in whole seconds, if it is let
        save_rows(tmp_path / "later.h5")
        assert sha256(path) == sha256(tmp_path / "later.h5")

    def test_in_order_of_other_ids(self, path):
        seeds = read_seeds(path, classes=CLASSES)
        np.testing.assert_array_equal(seeds.in_order(["dddd", "a"]), [ROWS[3].seeds, ROWS[0].seeds])
        with pytest.raises(InputError, match="no seeds for x, y; run the stage `make_seeds` again"):
            seeds.in_order(["a", "x", "y"])
        with pytest.raises(InputError, match="no seeds for x; run the stage"):
            seeds.maps("x")

    @pytest.mark.parametrize("limit", [300, 3000, 30_000, 70_000])
    def test_a_disk_that_is_full_at_any_moment(self, tmp_path, limit):
        """HDF5 itself could crash there; the file of the same 99 rows would be larger."""
        rows = [seed_row(f"im{number}", tags=[1, 2]) for number in range(99)]
        with files_within(limit), pytest.raises(InputError, match=r"seeds\.h5: cannot be written: File too large"):
            save_rows(tmp_path / "seeds.h5", rows, grid=5)
        assert list(tmp_path.iterdir()) == []
        save_rows(tmp_path / "seeds.h5", rows, grid=5)
        assert (tmp_path / "seeds.h5").stat().st_size > 70_000

    def test_one_at_a_time_or_all_as_an_array(self, path):
        found = read_seeds(path, classes=CLASSES).in_order(["bb", "a", "bb"])
        assert len(found) == 3
        np.testing.assert_array_equal(found[1], ROWS[0].seeds)
        np.testing.assert_array_equal(np.asarray(found), [ROWS[1].seeds, ROWS[0].seeds, ROWS[1].seeds])
        with pytest.raises(IndexError):
            found[3]
        assert np.asarray(read_seeds(path, classes=CLASSES).in_order([])).shape == (0, 5, 5)

    def test_what_was_opened_is_read_when_another_file_has_taken_its_place(self, path):
        before = read_seeds(path, classes=CLASSES)
        save_rows(path, [replace(row, seeds=row.seeds * 0) for row in ROWS])
        np.testing.assert_array_equal(before.seeds, [row.seeds for row in ROWS])
        assert not read_seeds(path, classes=CLASSES).seeds.any()

    def test_other_classes_and_another_grid(self, path):
        assert "made for the classes cat, dög" in self.refusal(path, classes=["dög", "cat"])
        assert "made for the classes" in self.refusal(path, classes=["cat"])
        assert "seeds of (5, 5) cells, data.size needs (41, 41)" in self.refusal(path, grid=41)

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("complete", None, "incomplete"),
            ("complete", 0, "incomplete"),
            ("version", 1, "not a seeds file of version 2"),
            ("format", "other", "not a seeds file"),
            ("format", None, "not a seeds file"),
            ("classes", None, "not readable"),
        ],
    )
    def test_attributes(self, path, name, value, said):
        with self.changed(path) as file:
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value
        assert said in self.refusal(path)

    @pytest.mark.parametrize("name", ["ids", "seeds", "present"])
    def test_a_missing_column(self, path, name):
        with self.changed(path) as file:
            del file[name]
        assert "not readable as HDF5 seeds" in self.refusal(path)

    @pytest.mark.parametrize("length", [0, 100, 0.5, 0.99])
    def test_truncated(self, path, length):
        content = path.read_bytes()
        path.write_bytes(content[: length if length in (0, 100) else int(length * len(content))])
        assert ("damaged or cut off" if length else "not a seeds file") in self.refusal(path)

    def test_missing_file_and_other_files(self, path, tmp_path):
        assert "no such file" in self.refusal(tmp_path / "none.h5")
        (tmp_path / "text.h5").write_text("no HDF5")
        assert "not a seeds file of version 2" in self.refusal(tmp_path / "text.h5")
        (tmp_path / "text.h5").write_bytes(sealed(b"no HDF5"))
        assert "not readable as HDF5 seeds" in self.refusal(tmp_path / "text.h5")

    @pytest.mark.parametrize("name", ["ids", "seeds", "present", "saliency", "cams", "cam_class", "cam_row"])
    def test_a_flipped_byte_in_a_chunk(self, path, name):
        with h5py.File(path) as file:
            place = file[name].id.get_chunk_info(0)
        with open(path, "r+b") as raw:
            raw.seek(place.byte_offset + place.size // 2)
            byte = raw.read(1)[0]
            raw.seek(-1, os.SEEK_CUR)
            raw.write(bytes([byte ^ 0xFF]))
        assert "damaged or cut off" in self.refusal(path)
        path.write_bytes(sealed(path.read_bytes()[HEAD:]))  # HDF5's own checksums know too, of each chunk
        if name in ("ids", "seeds", "present"):
            assert "not readable as HDF5 seeds" in self.refusal(path)
            return
        seeds = read_seeds(path, classes=CLASSES)  # maps are read when they are asked for
        with pytest.raises(InputError, match="not readable as HDF5 seeds"):
            seeds.maps("a")

    @pytest.mark.parametrize(
        ("name", "data", "said"),
        [
            ("ids", [1, 2, 3, 4], "no text"),
            ("ids", np.array([b"a", b"a", b"b", b"c"]), "an id twice"),
            ("ids", np.array([b"a"]), "present of shape"),
            ("present", np.zeros((4, 5), bool), "present of shape (4, 5)"),
            ("seeds", np.zeros((4, 5, 5), np.int8), "seeds of shape (4, 5, 5) and type int8"),
            ("seeds", np.zeros((4, 25), np.uint8), "of shape"),
            ("seeds", np.full((4, 5, 5), 3, np.uint8), "a label that is no class"),
            ("cam_row", np.zeros((2, 2), np.int32), "too many values"),
            ("saliency", np.zeros((4, 5, 5), np.float64), "saliency of shape (4, 5, 5) and type float64"),
            ("cams", np.zeros((3, 5, 5), np.float16), "cams of shape (3, 5, 5)"),
        ],
    )
    def test_columns_of_other_kinds(self, path, name, data, said):
        with self.changed(path) as file:
            del file[name]
            file.create_dataset(name, data=data, chunks=True, fletcher32=True)
        assert said in self.refusal(path) and "not readable as HDF5 seeds" in self.refusal(path)

    def test_what_lies_in_other_files_is_not_read(self, path, tmp_path):
        """HDF5 files can hold links, and columns whose numbers any other file holds."""
        secret = tmp_path / "secret.h5"
        save_rows(secret)
        for plant in (
            lambda file: file.__setitem__("seeds", h5py.ExternalLink(str(secret), "/seeds")),
            lambda file: file.__setitem__("seeds", h5py.SoftLink("/saliency")),
            lambda file: file.create_dataset("seeds", (4, 5, 5), "u1", external=[(str(secret), 0, 100)]),
            lambda file: file.create_virtual_dataset("seeds", virtual(secret)),
        ):
            with self.changed(path) as file:
                del file["seeds"]
                plant(file)
            assert "a link to another file" in self.refusal(path) or "is not kept as" in self.refusal(path)

    def test_a_small_file_cannot_ask_for_much_memory(self, path):
        with self.changed(path) as file:
            for name, shape in {"ids": (2**40,), "present": (2**40, 3), "seeds": (2**40, 5, 5)}.items():
                del file[name]
                kind = "S1" if name == "ids" else file["cam_class"].dtype
                file.create_dataset(name, shape, kind, chunks=(1, *shape[1:]), fletcher32=True)
        assert path.stat().st_size < 50_000
        assert "ids has parts that were never written" in self.refusal(path)


class TestLabelPng:
    LABELS = np.array([[0, 1, 2], [20, 254, 255]], np.uint8)

    @given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
    def test_any_map_comes_back(self, labels):
        np.testing.assert_array_equal(mask_from(label_png(labels), "a.png"), labels)

    def test_comes_back_with_its_palette(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(label_png(self.LABELS))
        np.testing.assert_array_equal(read_mask(path), self.LABELS)
        with Image.open(path) as image:
            assert image.mode == "P" and image.size == (3, 2)
            np.testing.assert_array_equal(np.array(image.convert("RGB")), voc_palette()[self.LABELS])

    def test_checksums_are_those_of_coreutils(self, tmp_path):
        (tmp_path / "ü a.png").write_bytes(label_png(self.LABELS))
        note_checksums(tmp_path)
        subprocess.run(["sha256sum", "--check", "--strict", CHECKSUMS], cwd=tmp_path, check=True, capture_output=True)
        assert LabelFolder(tmp_path, ["ü a"], stage_name="make_pseudo_labels")[0].shape == (2, 3)

    @pytest.mark.parametrize(
        "text, said",
        [
            (None, "SHA256SUMS: No such file"),
            ("", "SHA256SUMS: 1 of 1 label maps lack"),
            ("no checksum\n", "line 1: expected a sha256"),
        ],
    )
    def test_checksums_that_are_missing_or_malformed(self, tmp_path, text, said):
        (tmp_path / "a.png").write_bytes(label_png(self.LABELS))
        if text is not None:
            (tmp_path / CHECKSUMS).write_text(text)
        with pytest.raises(InputError, match=f"{said}.*run the stage `make_pseudo_labels` again"):
            LabelFolder(tmp_path, ["a"], stage_name="make_pseudo_labels")


class TestLabelFolders:
    """Both formats hold the same maps; each kind of damage is told."""

    IDS = ["b", "ü a, 1", "x" * 150, "a"]  # the third is too long for a tar header of its own

    @pytest.fixture(params=["png", "shards"])
    def folder(self, request, tmp_path, monkeypatch):
        monkeypatch.setattr(label_folder, "MAPS", 3)
        self.write(tmp_path / "labels", request.param)
        return tmp_path / "labels"

    def write(self, folder, format) -> None:
        with written_labels(folder, format=format) as add:
            for number, image_id in enumerate(self.IDS):
                add(image_id, label_png(self.map(number)))

    @staticmethod
    def map(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 4, (30 + number, 40), dtype=np.uint8)

    def test_maps_come_back_in_any_order(self, folder):
        found = LabelFolder(folder, self.IDS[::-1], stage_name="make_pseudo_labels")
        assert len(found) == 4
        for number, labels in enumerate(reversed([*found])):
            np.testing.assert_array_equal(labels, self.map(number))
        (one,) = LabelFolder(folder, ["a"], stage_name="make_pseudo_labels")
        np.testing.assert_array_equal(one, self.map(3))

    def test_any_tar_reads_them(self, folder, tmp_path):
        if (folder / PLACES).exists():
            assert sorted(path.name for path in folder.iterdir()) == ["00000.tar", "00001.tar", PLACES]
            for path in folder.glob("*.tar"):
                subprocess.run(["tar", "-xf", path], cwd=tmp_path, check=True)
        else:
            assert len(list(folder.iterdir())) == 5
        out = tmp_path if (folder / PLACES).exists() else folder
        for number, image_id in enumerate(self.IDS):
            np.testing.assert_array_equal(read_mask(out / f"{image_id}.png"), self.map(number))

    def test_same_maps_same_bytes(self, folder, tmp_path):
        self.write(tmp_path / "again", "shards" if (folder / PLACES).exists() else "png")
        for path in folder.iterdir():
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()

    def test_missing_maps_are_counted(self, folder):
        with pytest.raises(InputError, match=r"2 of 3 label maps .*c\.png, d\.png.*`make_pseudo_labels` again"):
            LabelFolder(folder, ["a", "c", "d"], stage_name="make_pseudo_labels")

    @pytest.mark.parametrize("name", ["00000.tar", "00001.tar"])
    def test_a_damaged_or_missing_tar(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(label_folder, "MAPS", 3)
        self.write(tmp_path / "labels", "shards")
        content = (tmp_path / "labels" / name).read_bytes()
        for harmed in (content[:600] + bytes([content[600] ^ 1]) + content[601:], content[:550]):
            (tmp_path / "labels" / name).write_bytes(harmed)
            found = LabelFolder(tmp_path / "labels", self.IDS, stage_name="make_pseudo_labels")
            with pytest.raises(InputError, match=rf"{name}/.\.png: damaged.*`make_pseudo_labels` again"):
                list(found)
        (tmp_path / "labels" / name).unlink()
        with pytest.raises(InputError, match=f"{name}: no such file; run the stage `make_pseudo_labels` again"):
            LabelFolder(tmp_path / "labels", self.IDS, stage_name="make_pseudo_labels")

    @pytest.mark.parametrize("place", ["", "../1.tar 1 2  ", "00000.tar -1 2  ", "00000.tar 1  "])
    def test_places_that_are_malformed(self, tmp_path, place):
        (tmp_path / PLACES).write_text(f"{'0' * 64}  {place}a.png\n")
        with pytest.raises(InputError, match="PLACES: line 1: expected a sha256"):
            LabelFolder(tmp_path, ["a"], stage_name="make_pseudo_labels")
