"""What a training step sees: pure functions of (seed, step, image id), images and labels aligned."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrg.data.batches import (
    PAD_COLOR,
    WHOLE,
    Batches,
    CropWindow,
    batch_indices,
    color_jitter,
    crop_and_resize,
    crop_labels,
    draw_window,
    sample_rng,
)
from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.method.grid import UNLABELED
from dsrg.params import Augment
from helpers.data import picture, save_index

MIRRORED = CropWindow(0.0, 0.0, 1.0, 1.0, True)


def drawn_window(rng: np.random.Generator, *, image: tuple[int, int], size: int, **augment) -> CropWindow:
    return draw_window(rng, image=image, size=size, augment=Augment(color=0, **augment))


class TestOrder:
    @settings(max_examples=50, deadline=None)
    @given(images=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 2**32 - 1))
    def test_every_epoch_sees_every_image_once(self, images, batch, seed):
        steps = -(-3 * images // batch)
        stream = np.concatenate([batch_indices(step, images=images, batch=batch, seed=seed) for step in range(steps)])
        for epoch in range(3):
            assert sorted(stream[epoch * images : (epoch + 1) * images]) == list(range(images))

    def test_order_changes_with_the_epoch_and_the_seed(self):
        epochs = [tuple(batch_indices(step, images=20, batch=20, seed=seed)) for step in (0, 1) for seed in (0, 1)]
        assert len(set(epochs)) == 4

    def test_batch_size_cuts_the_same_stream(self):
        small = [batch_indices(step, images=7, batch=2, seed=3) for step in range(9)]
        large = [batch_indices(step, images=7, batch=6, seed=3) for step in range(3)]
        np.testing.assert_array_equal(np.concatenate(small), np.concatenate(large))

    def test_random_numbers_of_a_sample_are_its_own(self):
        draws = {sample_rng(seed=seed, sample=sample).random() for seed in (0, 1) for sample in (0, 1, 2**33)}
        draws |= {np.random.default_rng([seed, epoch]).random() for seed in (0, 1) for epoch in (0, 1)}
        assert len(draws) == 10, "and the order of the images has others"
        assert sample_rng(seed=1, sample=2).random() == sample_rng(seed=1, sample=2).random()


class TestCutting:
    @pytest.mark.parametrize("shape", [(40, 60), (100, 30), (65, 65), (1, 7), (2, 2)])
    @pytest.mark.parametrize("window", [WHOLE, MIRRORED])
    def test_whole_image_is_an_aligned_corners_resize(self, shape, window):
        image = picture(*shape, seed=1)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        expected = F.interpolate(pixels, (65, 65), mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()
        if window.flip:
            expected = expected[:, ::-1]
        assert np.abs(crop_and_resize(image, window, size=65) - expected).max() <= 1

    def test_a_square_of_the_right_size_is_itself(self):
        image = np.random.default_rng(0).integers(0, 256, (65, 65, 3), dtype=np.uint8)
        np.testing.assert_array_equal(crop_and_resize(image, WHOLE, size=65), image)
        np.testing.assert_array_equal(crop_and_resize(image, MIRRORED, size=65), image[:, ::-1])
        labels = image[..., 0]
        np.testing.assert_array_equal(crop_labels(labels, WHOLE, size=65), labels)
        np.testing.assert_array_equal(crop_labels(labels, MIRRORED, size=65), labels[:, ::-1])

    @pytest.mark.parametrize("size", [65, 161, 241, 321, 401])
    def test_labels_on_the_grid_are_every_eighth_pixel(self, size):
        """Released code: Interp with shrink factor 8."""
        labels = np.random.default_rng(0).integers(0, 22, (size, size), dtype=np.uint8)
        np.testing.assert_array_equal(crop_labels(labels, WHOLE, size=(size - 1) // 8 + 1), labels[::8, ::8])

    def test_quarter_and_surroundings_by_hand(self):
        labels = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 4]], np.uint8)
        assert crop_labels(labels, CropWindow(0.5, 0.5, 0.5, 0.5, False), size=2).tolist() == [[1, 2], [3, 4]]
        assert crop_labels(labels, CropWindow(-0.5, 0.0, 1.0, 1.0, True), size=3).tolist() == [
            [255, 255, 255],
            [2, 1, 1],
            [2, 1, 1],
        ]
        image = np.repeat(labels[..., None], 3, axis=2)
        around = crop_and_resize(image, CropWindow(-1.0, -1.0, 3.0, 3.0, False), size=7)
        assert around[2:5, 2:5, 0].tolist() == labels.tolist()
        outside = np.ones((7, 7), bool)
        outside[2:5, 2:5] = False
        assert (around[outside] == PAD_COLOR).all()

    @settings(max_examples=80, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        shape=st.tuples(st.integers(20, 90), st.integers(20, 90)),
        grid_shape=st.sampled_from([None, (9, 9), (41, 41)]),
        scales=st.sampled_from([(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (0.7, 1.6)]),
        what=st.sampled_from(["square", "native"]),
    )
    def test_image_and_labels_stay_aligned(self, seed, shape, grid_shape, scales, what):
        """The color of a pixel tells its label: a grid cell's label is the color at its place in the cut image.

        Labels may be as large as the image or on a grid of their own; then the place may be half a cell off.
        """
        rows, columns = (np.linspace(0, 1, n) for n in shape)
        image = np.zeros((*shape, 3), np.uint8)
        image[..., 0] = np.rint(rows * 200)[:, None]
        image[..., 1] = np.rint(columns * 200)[None]
        own = grid_shape or shape
        label_rows, label_columns = (np.rint(np.linspace(0, 200, n)).astype(np.uint8) for n in own)
        scale_range = {"scale_min": scales[0], "scale_max": scales[1]}
        rng = np.random.default_rng(seed)
        window = drawn_window(rng, image=shape, size=65, shape=what, flip=True, **scale_range)
        colors = crop_and_resize(image, window, size=65)[::8, ::8].astype(int)
        across = np.linspace(0, 1, 9)
        y = window.top + window.height * across
        x = window.left + window.width * (across[::-1] if window.flip else across)
        for labels, channel, at in ((label_rows[:, None], 0, y[:, None]), (label_columns[None], 1, x[None])):
            cut = crop_labels(np.broadcast_to(labels, own), window, size=9).astype(int)
            labeled, painted = cut != UNLABELED, colors[..., 2] == 0
            assert painted.any()
            tolerance = 100 / (own[channel] - 1) + 3
            assert (np.abs(cut - colors[..., channel])[labeled & painted] <= tolerance).all()
            assert labeled[painted].all()  # what shows the image has a label
            beyond = np.broadcast_to(np.abs(at - 0.5) - 0.5, cut.shape)  # how far outside, in sides of the image
            assert not labeled[beyond > 0.51 / (own[channel] - 1)].any()
            assert (colors[beyond > 1.01 / (shape[channel] - 1)] == PAD_COLOR).all()

    @settings(max_examples=80, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        low=st.floats(0.3, 1.5),
        more=st.floats(0, 1),
        flip=st.booleans(),
        what=st.sampled_from(["square", "native"]),
    )
    def test_windows_lie_within_the_image_or_around_it(self, seed, low, more, flip, what):
        rng = np.random.default_rng(seed)
        scale_range = {"scale_min": low, "scale_max": low + more}
        window = drawn_window(rng, image=(81, 41), size=65, shape=what, flip=flip, **scale_range)
        # pixels of the square at scale 1: warped, or 65 of the image's own
        sides = (64 / 80, 64 / 40) if what == "native" else (1, 1)
        for start, extent, side in zip((window.top, window.left), (window.height, window.width), sides, strict=True):
            assert side / (low + more) - 1e-9 <= extent <= side / low + 1e-9
            if extent <= 1:
                assert -1e-9 <= start and start + extent <= 1 + 1e-9
            else:
                assert start <= 1e-9 and start + extent >= 1 - 1e-9
        assert flip or not window.flip

    def test_native_at_scale_1_copies_pixels(self):
        """Released `layer.py`: a crop of the image itself, padded where the image is smaller."""
        image = picture(90, 40, seed=3)
        options = {"image": (90, 40), "size": 65, "shape": "native", "scale_min": 1.0, "scale_max": 1.0}
        window = drawn_window(np.random.default_rng(0), flip=False, **options)
        top, left = round(window.top * 89), round(window.left * 39)
        # snapped to whole pixels, for the drawn place lies between them
        window = replace(window, top=top / 89, left=left / 39)
        cut = crop_and_resize(image, window, size=65)
        np.testing.assert_array_equal(cut[:, -left : 40 - left], image[top : top + 65])
        assert (cut[:, :-left] == PAD_COLOR).all() and (cut[:, 40 - left :] == PAD_COLOR).all()


class TestColor:
    def test_strength_bounds_the_change_and_zero_is_none(self):
        image = picture(30, 40, seed=2)
        assert color_jitter(image, np.random.default_rng(0), strength=0) is image
        varied = [color_jitter(image, np.random.default_rng(seed), strength=0.2).mean() for seed in range(30)]
        assert 0.79 < min(varied) / image.mean() < 0.95 and 1.05 < max(varied) / image.mean() < 1.21

    def test_gray_stays_gray(self):
        gray = np.repeat(picture(30, 40, seed=2)[..., :1], 3, axis=2)
        varied = color_jitter(gray, np.random.default_rng(0), strength=0.5)
        assert np.ptp(varied.astype(int), axis=2).max() <= 1 and not np.array_equal(varied, gray)


class TestBatches:
    @pytest.fixture
    def make(self, tmp_path):
        sizes = [(40, 50), (33, 60), (70, 30), (65, 65), (50, 50)]
        pictures = {f"im{k}": picture(*size, seed=k) for k, size in enumerate(sizes)}
        index = save_index(tmp_path, pictures, [[1, 0], [0, 1], [1, 1], [1, 0], [0, 1]])
        rng = np.random.default_rng(0)
        labels = [rng.integers(0, 3, size, dtype=np.uint8) for size in sizes]

        def make(**changes) -> Batches:
            options = {"size": 65, "batch": 3, "seed": 5, "labels": labels}
            augment = {"shape": "square", "flip": True, "scale_min": 0.7, "scale_max": 1.5, "color": 0.2}
            augment |= {key: changes.pop(key) for key in [*changes] if key in augment}
            return Batches(index, augment=Augment(**augment), **options | changes)

        return make

    @staticmethod
    def content(batch) -> tuple:
        labels = None if batch.labels is None else batch.labels.numpy().tobytes()
        return tuple(batch.ids), batch.images.numpy().tobytes(), labels, batch.present.numpy().tobytes()

    def test_an_image_that_comes_twice_in_a_batch_is_seen_in_two_ways(self, make):
        batches = make(batch=10)
        images, labels = batches[0].images, batches[0].labels
        pairs = [[k for k, own in enumerate(batches.ids(0)) if own == image_id] for image_id in batches.index.ids]
        assert all(len(pair) == 2 for pair in pairs)
        assert not any(torch.equal(images[one], images[two]) for one, two in pairs)
        assert not any(torch.equal(labels[one], labels[two]) for one, two in pairs)

    def test_no_image_at_all_is_an_error(self, make):
        index = make().index
        augment = Augment(shape="square", flip=True, scale_min=1.0, scale_max=1.0, color=0.2)
        with pytest.raises(InputError, match="no image to learn from: .*; run the stage `prepare`"):
            Batches(index.pick([]), labels=None, size=65, batch=3, seed=5, augment=augment)

    def test_large_images_are_kept_and_cut_smaller(self, make, tmp_path):
        """... as if they were files of that size: but for the labels, whose size is their own."""
        batches = make()
        batches.index = replace(batches.index, max_side=40)
        pictures = {f"im{row}": batches.index.image(row) for row in range(5)}
        assert {max(image.shape) for image in pictures.values()} == {40}
        (tmp_path / "small").mkdir()
        small = make()
        small.index, small.root = (
            save_index(tmp_path / "small", pictures, batches.index.present[:, 1:]),
            tmp_path / "small",
        )
        for step in range(3):
            assert self.content(batches[step]) == self.content(small[step])
        assert sorted(image.shape for image in batches._cache.values()) == sorted(p.shape for p in pictures.values())

    def test_content_without_augmentation(self, make):
        batches = make(flip=False, scale_min=1.0, scale_max=1.0, color=0.0)
        batch = batches[2]
        for place, row in enumerate(batch_indices(2, images=5, batch=3, seed=5)):
            assert batch.ids[place] == f"im{row}"
            np.testing.assert_array_equal(batch.present[place], batches.index.present[row])
            expected = crop_and_resize(batches._image(row), WHOLE, size=65)
            np.testing.assert_array_equal(batch.images[place].permute(1, 2, 0), expected)
            np.testing.assert_array_equal(batch.labels[place], crop_labels(batches.labels[row], WHOLE, size=9))

    def test_threads_the_start_and_the_cache_change_nothing(self, make):
        expected = [self.content(make()[step]) for step in range(8)]
        for threads, start, room in [(1, 0, 2**30), (2, 0, 2**30), (4, 0, 0), (2, 3, 9000), (3, 7, 0), (8, 5, 2**30)]:
            ahead = make(cache_bytes=room).ahead(start, 8, threads=threads)
            assert [self.content(batch) for batch in ahead] == expected[start:]
        assert list(make().ahead(8, 8)) == []
        assert len(set(expected)) == 8 and self.content(make(seed=6)[0]) != expected[0]

    def test_an_image_does_not_depend_on_its_neighbors_in_the_batch(self, make):
        """One step, other batch size: the image that both steps share is the same."""
        large, small = make(batch=5)[0], make(batch=2)[0]
        for image_id in small.ids:
            here, there = large.ids.index(image_id), small.ids.index(image_id)
            assert torch.equal(large.images[here], small.images[there])
            assert torch.equal(large.labels[here], small.labels[there])

    @pytest.mark.parametrize("room", [0, 6000, 20000, 10**6])
    def test_cache_stays_within_its_limit_and_saves_reading(self, make, monkeypatch, room):
        batches = make(cache_bytes=room)
        list(batches.ahead(0, 12, threads=4))
        held = sum(image.nbytes for image in batches._cache.values())
        assert held <= room and batches._room == room - held
        read = []
        whole = Index.image
        monkeypatch.setattr(Index, "image", lambda own, row: read.append(row) or whole(own, row))
        for row in range(5):
            batches._image(row)
        assert read == [row for row in range(5) if row not in batches._cache]
        assert {0: len(read) == 5, 10**6: not read}.get(room, 0 < len(read) < 5)

    def test_threads_that_decode_the_same_image_take_its_room_once(self, make, monkeypatch):
        both, whole = threading.Barrier(2), Index.image
        monkeypatch.setattr(Index, "image", lambda *row: (both.wait(timeout=10), whole(*row))[1])
        batches = make(cache_bytes=10**6)
        threads = [threading.Thread(target=batches._image, args=(0,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert batches._room == 10**6 - batches._cache[0].nbytes

    @pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
    def test_parts_put_together_are_the_batch(self, make, parts):
        whole = make(batch=5)
        mine = [whole.part(number, parts) for number in range(parts)]
        lengths = [part.stop - part.first for part in mine]
        assert max(lengths) - min(lengths) <= 1 and sum(lengths) == 5
        for step in range(3):
            expected, found = whole[step], [part[step] for part in mine]
            assert whole.ids(step) == expected.ids == [image_id for batch in found for image_id in batch.ids]
            for name in ("images", "labels", "present"):
                joined = torch.cat([getattr(batch, name) for batch in found])
                assert torch.equal(joined, getattr(expected, name)), name
            assert all(part.ids(step) == expected.ids for part in mine)

    def test_more_parts_than_images_are_refused(self, make):
        with pytest.raises(InputError, match="batch of 3 images has no part for each of 4 processes"):
            make().part(0, 4)

    def test_an_unreadable_image_raises_in_the_training_loop(self, make, tmp_path):
        (tmp_path / "im3.png").write_bytes(b"broken")
        with pytest.raises(InputError, match="im3.png"):
            list(make().ahead(0, 4))
