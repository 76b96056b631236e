"""A bit flips somewhere between two stages: it is named, or changes nothing that is used; nothing is trained on it."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dsrg.artifacts.label_folder import PLACES, LabelFolder, written_labels
from dsrg.artifacts.model_file import Model, load_model, save_model
from dsrg.artifacts.seeds_h5 import SeedRow, read_seeds, write_seeds
from dsrg.data.batches import Batches
from dsrg.data.index import GroundTruth, Index, Masks
from dsrg.data.palette import label_png
from dsrg.errors import InputError
from dsrg.files import sha256
from dsrg.inference.preprocess import image_batches
from dsrg.inference.seeding import saliency_maps
from dsrg.params import Augment, Saliency
from helpers.data import note_checksums, picture, save_index
from helpers.project import recipe


def flips(path: Path, places: Iterable[int]) -> Iterator[None]:
    """Flips one bit of a file after the other, in the bytes at these places; at the end the file is whole again."""
    whole = path.read_bytes()
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        yield
    path.write_bytes(whole)


def flips_all_over(path: Path, drawn: int) -> Iterator[None]:
    """In a file's first and last bytes, and at some places drawn between, each time the same."""
    size = path.stat().st_size
    between = np.random.default_rng(0).integers(0, size, drawn).tolist()
    return flips(path, sorted({0, 1, size - 2, size - 1, *between}))


class TestImages:
    """The index knows every image's checksum; whoever reads one through the index is safe."""

    @pytest.fixture
    def data(self, tmp_path) -> tuple[Index, Path]:
        return save_index(
            tmp_path, {name: picture(20, 30, seed=ord(name)) for name in "abc"}, [[1], [0], [1]]
        ), tmp_path

    def readers(self, index: Index) -> dict[str, Callable]:
        augment = Augment(shape="square", flip=False, scale_min=1, scale_max=1, color=0)
        batches = Batches(index, labels=None, size=17, batch=3, seed=0, augment=augment)
        saliency = Saliency(**recipe()["saliency"] | {"method": "mbd"})
        return {
            "training": lambda: list(batches.ahead(0, 1)),
            "inference": lambda: list(image_batches(index, batch=2)),
            "saliency": lambda: list(saliency_maps(index, saliency=saliency, grid=3)),
        }

    @pytest.mark.parametrize("reader", ["training", "inference", "saliency"])
    def test_a_flipped_bit_is_named(self, data, reader):
        index, root = data
        read, said = self.readers(index)[reader], "damaged, or changed since the stage `prepare`"
        for _ in flips(root / "b.png", [60]):
            with pytest.raises(InputError, match=rf"b\.png: {said} \(sha256 \w{{12}}"):
                read()

    def test_every_place_counts(self, data):
        """Also where no decoder would notice: PNG and JPEG have bytes that are never looked at."""
        index, root = data
        for _ in flips_all_over(root / "b.png", 100):
            with pytest.raises(InputError, match=r"b\.png: "):
                index.image(1)
        np.testing.assert_array_equal(index.image(1), picture(20, 30, seed=ord("b")))


class TestModelFiles:
    def test_a_flipped_bit_is_named_or_changes_nothing(self, tmp_path):
        """Every byte counts: safetensors loads a damaged weight without a word."""
        path = tmp_path / "m.safetensors"
        torch.manual_seed(0)
        weights = {"a": torch.randn(20, 10), "b": torch.randn(50).bfloat16(), "n": torch.tensor(7)}
        save_model(path, Model("segmenter", ["cat", "dog"], {"backbone": "vgg_mini"}, 65, weights))
        refused = 0
        for _ in flips_all_over(path, 400):
            try:
                model = load_model(path, kind="segmenter", stage_name="retrain")
            except InputError as error:
                refused += "run the stage `retrain` again" in str(error)
            else:
                assert (model.kind, model.classes, model.size) == ("segmenter", ["cat", "dog"], 65)
                assert model.weights.keys() == weights.keys()
                assert all(torch.equal(model.weights[name], value) for name, value in weights.items())
        start = path.read_bytes().index(weights["a"].numpy().tobytes())
        for _ in flips(path, range(start, start + 800)):
            with pytest.raises(InputError, match="m.safetensors: damaged"):
                load_model(path, kind="segmenter", stage_name="retrain")
        assert refused > 100


class TestSeeds:
    def test_a_flipped_bit_is_named(self, tmp_path):
        path = tmp_path / "seeds.h5"
        rng = np.random.default_rng(0)
        rows = [
            SeedRow(name, np.ones(3, bool), rng.integers(0, 3, (9, 9)).astype(np.uint8), rng.random((9, 9)),
                    rng.random((2, 9, 9)), np.array([1, 2], np.uint8))
            for name in "abc"
        ]  # fmt: skip
        write_seeds(path, rows, count=3, grid=9, classes=["cat", "dog"], params="{}")
        for _ in flips_all_over(path, 500):
            with pytest.raises(InputError, match="seeds.h5: .*; run the stage `make_seeds` again"):
                read_seeds(path, classes=["cat", "dog"])
        assert read_seeds(path, classes=["cat", "dog"]).ids == ["a", "b", "c"]


class TestPseudoLabels:
    def test_a_flipped_bit_is_named(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(label_png(np.arange(12, dtype=np.uint8).reshape(3, 4)))
        note_checksums(tmp_path)
        folder = LabelFolder(tmp_path, ["a"], stage_name="make_pseudo_labels")
        for _ in flips_all_over(path, 20):
            with pytest.raises(InputError, match=r"a\.png: .* run the stage `make_pseudo_labels` again"):
                list(folder)
        assert folder[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]

    def test_a_damaged_place_in_a_tar_file_is_named_and_asks_for_no_memory(self, tmp_path):
        with written_labels(tmp_path / "out", format="shards") as add:
            add("a", label_png(np.zeros((3, 4), np.uint8)))
        sound = (tmp_path / "out" / PLACES).read_text()
        _, offset, size = sound.split("  ")[1].split()
        for wrong in (f"{offset} {9**17}", f"{9**17} {size}", f"{offset} 0"):
            (tmp_path / "out" / PLACES).write_text(sound.replace(f"{offset} {size}", wrong))
            with pytest.raises(InputError, match=r"00000\.tar/a\.png: "):
                list(LabelFolder(tmp_path / "out", ["a"], stage_name="make_pseudo_labels"))


class TestMasks:
    def test_a_flipped_bit_is_named(self, tmp_path):
        labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
        (tmp_path / "a.png").write_bytes(label_png(labels))
        truth = {"a": GroundTruth("a", "val", "a.png", sha256(tmp_path / "a.png"))}
        masks = Masks(truth, ["a"], folder=tmp_path)
        assert len(masks) == 1
        np.testing.assert_array_equal(masks[0], labels)
        for _ in flips_all_over(tmp_path / "a.png", 20):
            with pytest.raises(InputError, match=r"a\.png: "):
                list(masks)
