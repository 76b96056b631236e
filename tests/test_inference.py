"""From networks to label maps, activation maps, seeds and scores."""

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from dsrg.artifacts.model_file import Model, save_model
from dsrg.data.batches import WHOLE, crop_and_resize
from dsrg.data.images import limit_side, read_image
from dsrg.data.index import GroundTruth
from dsrg.evaluation.classification import mean_average_precision, tag_scores
from dsrg.evaluation.scores import (
    Scores,
    best_and_worst,
    enlarge_grid,
    with_ground_truth,
    write_per_class,
    write_per_image,
    write_quality,
)
from dsrg.evaluation.segmentation import evaluate_segmenter
from dsrg.files import sha256
from dsrg.inference import released
from dsrg.inference.cams import activation_maps
from dsrg.inference.gradient_saliency import gradient_saliency
from dsrg.inference.predict import ImageLogits, load_segmenter, merge_scales, merged_labels, postprocess, predict_logits
from dsrg.inference.preprocess import resize_native, scaled_side, warp_to_square
from dsrg.inference.seeding import crf_labels, resumable_seed_rows, saliency_map, saliency_maps, seed_rows
from dsrg.method.crf_pydensecrf import Kernel, mean_field
from dsrg.method.metrics import total_confusion
from dsrg.networks.network import DeepLab
from dsrg.params import CrfKernel, PredictParams, Saliency, SeedParams
from dsrg.runtime import workers
from dsrg.runtime.launcher import WorkShard
from helpers.crf import PAPER
from helpers.data import picture, read_csv, save_index
from helpers.networks import HEAD, classifier
from helpers.project import recipe

KERNEL = CrfKernel(**PAPER, iterations=10, min_prob=1e-5)
ONE_LOOK = PredictParams(**released.PREDICT | {"scales": [1.0]})


class Colors(nn.Module):
    """A segmenter or classifier to foresee: the logits at a place are its red, green and blue, over `scale`."""

    output_stride, later = 8, ()

    def __init__(self, scale: float = 60.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return images[:, :, ::8, ::8].float() / self.scale

    maps = forward


class Uneven(Colors):
    """The same, tilted to the left, so that a mirror image is seen otherwise."""

    def forward(self, images):
        logits = super().forward(images)
        return logits + torch.linspace(2, 0, logits.shape[3]) * torch.tensor([1.0, 0, -1]).view(3, 1, 1)

    maps = forward


class TestSquares:
    @given(st.integers(1, 200), st.floats(0.1, 4))
    def test_sides_are_8k_plus_1_and_nearest(self, k, scale):
        size = 8 * k + 1
        side = scaled_side(size, scale)
        assert side % 8 == 1 and abs(side - scale * size) <= 4 + 1e-6

    def test_pictures_of_any_shape(self):
        images = [picture(30, 50, seed=0), picture(70, 20, seed=1)]
        batch = warp_to_square(images, 17)
        assert batch.shape == (2, 3, 17, 17) and batch.dtype == torch.uint8
        for image, square in zip(images, batch, strict=True):
            for row, column in ((0, 0), (-1, -1), (0, -1)):  # corners stay corners
                assert (square[:, row, column].numpy() == image[row, column]).all()


class TestPrediction:
    IMAGES = [picture(40, 60, seed=3), picture(33, 20, seed=4)]
    # sides of each image at each scale: squares; released `test-ms-f.py`: scales of its own size, sides brought to 8k+1
    SIDES = {"square": [[25, 33, 49]] * 2, "native": [[(33, 49), (41, 57), (57, 89)], [(25, 17), (33, 17), (49, 33)]]}

    @pytest.mark.parametrize("classes", [3, 7, 8, 21])
    @pytest.mark.parametrize("shape", SIDES)
    @pytest.mark.parametrize(("merge", "flip"), [("sum", True), ("mean", False)])
    def test_against_a_plain_transcription(self, shape, merge, flip, classes):
        network = Uneven() if classes == 3 else nn.Sequential(Uneven(), nn.Conv2d(3, classes, 1)).eval()
        settings = PredictParams(shape=shape, scales=[0.75, 1.0, 1.5], flip=flip, merge=merge, max_side=1024)
        found = predict_logits(network, self.IMAGES, None, settings, size=33)
        for image, sides, one in zip(self.IMAGES, self.SIDES[shape], found, strict=True):
            logits = []
            for side in sides:
                pixels = crop_and_resize(image, WHOLE, size=side) if shape == "native" else None
                seen = warp_to_square([image], side) if pixels is None else torch.tensor(pixels).permute(2, 0, 1)[None]
                grids = [network(seen), *([network(seen.flip(3)).flip(3)] if flip else [])]
                logits += [F.interpolate(g, image.shape[:2], mode="bilinear", align_corners=True)[0] for g in grids]
            merged = sum(logits) if merge == "sum" else sum(logits) / len(logits)
            torch.testing.assert_close(one.scores, merged)

    def test_native_sides_are_never_too_small(self):
        assert resize_native(picture(1, 100, seed=0), 0.5).shape == (1, 3, 9, 49)


class TestMergedLabels:
    @given(
        st.integers(1, 9),
        st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3),
        st.tuples(st.integers(1, 90), st.integers(1, 90)),
        st.integers(0, 2**32 - 1),
        st.floats(0, 3),
    )
    def test_they_are_the_highest_merged_scores(self, classes, sizes, shape, seed, apart):
        """Scores of each class around its own mean: the further apart these are, the more classes never win."""
        rng = np.random.default_rng(seed)
        means = apart * rng.standard_normal((classes, 1, 1), np.float32)
        grids = [torch.from_numpy(means + rng.standard_normal((classes, *size), np.float32)) for size in sizes]
        scores = merge_scales(grids, shape, ONE_LOOK)
        found = torch.from_numpy(merged_labels(grids, shape)).long()
        behind = scores.amax(dim=0) - scores.gather(0, found[None])[0]
        assert found.shape == shape and behind.max() < 1e-4  # the roundings of another order of sums

    def test_scores_are_computed_only_where_classes_meet(self, monkeypatch):
        pixels, plain = [], F.embedding_bag
        monkeypatch.setattr(F, "embedding_bag", lambda at, *a, **k: pixels.append(len(at)) or plain(at, *a, **k))
        left = torch.tensor([3.0, 3, 3, -3, -3]).expand(5, 5)
        grids = [torch.stack([left, -left, left - 9])]
        labels = merged_labels(grids, (80, 81))
        assert (labels[:, :50] == 0).all() and (labels[:, 51:] == 1).all()
        assert pixels == [80 * 20]  # one column of cells
        assert (merged_labels([grids[0][:1], grids[0][2:]], (80, 81)) == 0).all() and len(pixels) == 1


class TestLabels:
    PRESENT = np.isin(np.arange(9), [0, 4, 7])

    def opinion(self, seed: int = 0, **changes) -> ImageLogits:
        image = picture(12, 15, seed=5)
        probs = np.random.default_rng(seed).dirichlet([1, 1, 1], (12, 15)).transpose(2, 0, 1).astype(np.float32)
        return ImageLogits(image, self.PRESENT, torch.from_numpy(probs).log() + 3, (12, 15))._replace(**changes)

    def test_most_probable_of_the_classes_in_question(self):
        opinion = self.opinion()
        (found,) = postprocess([opinion], kernel=None)
        assert found.labels.dtype == np.uint8 and found.probs is None
        scores = opinion.scores.numpy()
        expected = [[(0, 4, 7)[int(np.argmax(scores[:, y, x]))] for x in range(15)] for y in range(12)]
        np.testing.assert_array_equal(found.labels, expected)
        np.testing.assert_array_equal(found.network_labels, expected)

    def test_crf_gets_the_image_and_minus_log_probabilities(self):
        opinion = self.opinion()
        energies = -np.log(np.maximum(opinion.scores.softmax(dim=0).numpy(), KERNEL.min_prob))
        kernel = Kernel(**KERNEL.kernel)
        refined = mean_field(opinion.image.transpose(2, 0, 1), energies, kernel)
        (found,) = postprocess([opinion], kernel=KERNEL, probabilities=True)
        np.testing.assert_array_equal(found.labels, np.array([0, 4, 7])[refined.argmax(axis=0)])
        np.testing.assert_allclose(found.probs[[0, 4, 7]], refined, atol=1e-6)
        assert not found.probs[~self.PRESENT].any() and (found.labels != found.network_labels).any()

    @pytest.mark.parametrize("kernel", [None, KERNEL])
    def test_background_alone(self, kernel):
        alone = self.opinion(scores=torch.full((1, 12, 15), -3.0), present=np.arange(9) == 0)
        (found,) = postprocess([alone], kernel=kernel, unsure_below=0.9)
        assert (found.labels == 0).all()

    @pytest.mark.parametrize("kernel", [None, KERNEL.model_copy(update={"iterations": 0})])
    def test_unsure_pixels_become_255(self, kernel):
        opinion = self.opinion()
        (found,) = postprocess([opinion], kernel=kernel, unsure_below=0.6)
        unsure = opinion.scores.softmax(dim=0).amax(dim=0).numpy() < 0.6
        assert 0 < unsure.sum() < unsure.size
        np.testing.assert_array_equal(found.labels, np.where(unsure, 255, found.network_labels))

    @pytest.mark.parametrize("in_flight", [1, 3])
    def test_results_come_in_order(self, monkeypatch, in_flight):
        def several(function, items):
            """What `ordered_map` does with several workers: it takes items ahead of the results fetched."""
            items = iter(items)
            while taken := list(islice(items, in_flight)):
                yield from map(function, taken)

        monkeypatch.setattr(workers, "ordered_map", several)
        several_opinions = [self.opinion(seed) for seed in range(4)]
        found = list(postprocess(iter(several_opinions), kernel=KERNEL))
        assert len(found) == 4 and not list(postprocess([], kernel=KERNEL))
        for opinion, together in zip(several_opinions, found, strict=True):
            (alone,), (plain,) = postprocess([opinion], kernel=KERNEL), postprocess([opinion], kernel=None)
            np.testing.assert_array_equal(together.labels, alone.labels)
            np.testing.assert_array_equal(together.network_labels, plain.labels)

    def test_present_classes_far_below_an_absent_one_are_told_apart(self):
        """Logits summed over scales can be so far apart that a softmax over all holds nothing of the present ones."""
        blue = np.full((20, 30, 3), (10, 20, 250), np.uint8)
        present = np.array([[True, True, False]])
        (opinion,) = predict_logits(Colors(scale=1.0), [blue], present, ONE_LOOK, size=33)
        (found,) = postprocess([opinion], kernel=None, probabilities=True)
        assert (found.labels == 1).all() and np.allclose(found.probs.sum(axis=0), 1) and not found.probs[2].any()


class TestLoading:
    @pytest.mark.parametrize("backbone", ["vgg_mini", "mobilenet_v2"])
    def test_no_weight_is_drawn_to_be_replaced(self, tmp_path, backbone):
        keywords = {"backbone": backbone, "output_stride": 8, **HEAD}
        torch.manual_seed(0)
        network = DeepLab(classes=2, **keywords).eval()
        save_model(tmp_path / "m.pt", Model("segmenter", ["a", "b"], keywords, 65, network.state_dict()))
        before = torch.random.get_rng_state()
        loaded, _ = load_segmenter(tmp_path / "m.pt", stage_name="train_dsrg")
        assert torch.equal(torch.random.get_rng_state(), before) and not loaded.training
        everything = [dict([*one.named_parameters(), *one.named_buffers()]) for one in (loaded, network)]
        assert everything[0].keys() == everything[1].keys()
        assert all(torch.equal(everything[0][name].cpu(), value) for name, value in everything[1].items())
        DeepLab(classes=2, **keywords)
        assert not torch.equal(torch.random.get_rng_state(), before), "others are drawn as ever"


class TestActivationMaps:
    IMAGES = [picture(40, 60, seed=6), picture(33, 20, seed=7)]

    def test_mean_over_scales_and_mirror_images_by_hand(self):
        network = Uneven(-60.0)  # negative evidence for the most part
        found = activation_maps(network, self.IMAGES, size=33, scales=[1.0, 1.5], flip=True)
        expected = 0
        for side in (33, 49):
            square = warp_to_square(self.IMAGES, side)
            for maps in (network(square), network(square.flip(3)).flip(3)):
                expected += F.interpolate(maps.clamp(min=0), (5, 5), mode="bilinear", align_corners=True) / 4
        torch.testing.assert_close(found, expected)
        assert (found == 0).any() and (found > 0).any()

    def test_maps_at_stride_16_lie_where_those_at_stride_8_do(self):
        class Coarse(Colors):
            output_stride = 16

            def maps(self, images):
                return images[:, :, ::16, ::16].float() / self.scale

        slope = [np.repeat(np.tile(np.arange(73, dtype=np.uint8), (73, 1))[..., None], 3, axis=2)]
        fine, coarse = (activation_maps(net(), slope, size=73, scales=[1.0], flip=False) for net in (Colors, Coarse))
        torch.testing.assert_close(fine[..., :9], coarse[..., :9])  # 73 = 8 * 9 + 1: the last cell has no counterpart


class TestSeeding:
    @pytest.fixture
    def data(self, tmp_path):
        """A red, a green and a blue spot on gray, tagged as classes 1, 2 and 3 as far as the colors go."""
        pictures, tagged = {}, []
        for k, name in enumerate(("red", "green", "none")):
            pixels = np.full((65, 80, 3), 30, np.uint8)
            if name != "none":
                pixels[20:50, 25:55, k] = 250
            pictures[name] = pixels
            tagged.append([name == "red", name == "green", False])
        return save_index(tmp_path, pictures, tagged), tmp_path

    @staticmethod
    def sections(**saliency) -> tuple[SeedParams, Saliency]:
        values = recipe()
        seeds = values["seeds"] | {"scales": [1.0, 1.5], "fg_thresh": 0.2, "bg_thresh": 0.1, "conflict": "smaller"}
        seeds["crf"]["use"] = "none"
        return SeedParams(**seeds), Saliency(**(values["saliency"] | saliency))

    @pytest.mark.parametrize("method", ["mbd", "rbd", "combined", "cam", "maps"])
    def test_rows(self, data, method, tmp_path):
        index, root = data
        folder = tmp_path / "maps"
        folder.mkdir()
        for image_id in index.ids:
            cv2.imwrite(str(folder / f"{image_id}.png"), np.full((65, 80), 40, np.uint8))
        seeds, saliency = self.sections(method=method, maps=str(folder), with_cam=False)
        rows = list(seed_rows(Colors(), index, size=65, seeds=seeds, saliency=saliency, batch=2))
        assert [row.image_id for row in rows] == index.ids
        for row, present in zip(rows, index.present, strict=True):
            assert row.seeds.shape == row.saliency.shape == (9, 9) and row.seeds.dtype == np.uint8
            assert row.cam_class.tolist() == [k for k in (1, 2, 3) if present[k]]
            assert row.cams.shape == (len(row.cam_class), 9, 9) and 0 <= row.cams.min(initial=0)
            assert set(np.unique(row.seeds)) <= {0, 255, *row.cam_class.tolist()}
            assert ((0 <= row.saliency) & (row.saliency <= 1)).all()
            for values in (row.saliency, row.cams):  # the file loses nothing
                np.testing.assert_array_equal(values, values.astype(np.float16))
        assert rows[0].seeds[4, 4] == 1 and rows[1].seeds[4, 4] == 2
        if method == "maps":
            np.testing.assert_allclose(rows[0].saliency, 40 / 255, atol=1e-3)

    def test_killed_and_gone_on_they_are_the_same(self, tmp_path):
        """Every image again in the same company, and none again that was kept."""
        pictures = {f"im{k:02d}": np.full((40, 50 + k, 3), 5 * k, np.uint8) for k in range(20)}
        index = save_index(tmp_path, pictures, [[k % 3 == c for c in range(3)] for k in range(20)])
        seeds, saliency = self.sections(method="cam", with_cam=False)
        settings = {"size": 33, "seeds": seeds, "saliency": saliency}

        class Killed(Exception):
            pass

        class Seeing(Colors):
            """Remembers what it saw, and dies when it sees fewer than `least` images at once."""

            def __init__(self, least: int = 0) -> None:
                super().__init__()
                self.least, self.seen = least, []

            def maps(self, images):
                if len(images) < self.least:
                    raise Killed
                self.seen.append(images)
                return self(images)

        whole, killed, resumed = Seeing(), Seeing(least=8), Seeing()
        expected = list(seed_rows(whole, index, **settings))
        kept = {"share": WorkShard(tmp_path / "scratch"), **settings}
        with pytest.raises(Killed):  # at the last four, after the file of the first sixteen
            list(resumable_seed_rows(killed, index, **kept))
        rows = list(resumable_seed_rows(resumed, index, **kept))
        assert [len(images) for images in whole.seen] == [8] * 8 + [4] * 4  # two scales, two mirror images
        assert all(map(torch.equal, resumed.seen, whole.seen[8:])) and len(resumed.seen) == 4
        assert len(rows) == 20
        for row, other in zip(rows, expected, strict=True):
            assert row.image_id == other.image_id and isinstance(row.image_id, str)
            for name in ("present", "seeds", "saliency", "cams", "cam_class"):
                ours, theirs = getattr(row, name), getattr(other, name)
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)

    def test_gradients_of_the_classifier_give_a_tenth_of_the_cells_as_background(self, data):
        index, root = data
        network = classifier(classes=3)
        seeds, saliency = self.sections(method="gradient", with_cam=False)
        rows = list(seed_rows(network, index, size=65, seeds=seeds, saliency=saliency, batch=2))
        images = [read_image(root / path) for path in index.paths]
        expected = gradient_saliency(network, images, size=65).numpy()
        for row, salient in zip(rows, expected, strict=True):
            np.testing.assert_allclose(row.saliency, salient, atol=1e-3)
        assert rows[2].seeds.size == 81 and (rows[2].seeds == 0).sum() in (8, 9)  # no tag: no seed is in the way

    def test_crf_takes_away_the_seeds_that_it_disagrees_with(self, data):
        index, _ = data
        seeds, saliency = self.sections(method="mbd", with_cam=False)
        plain, agreed, replaced = (
            np.stack([row.seeds for row in seed_rows(Colors(), index, size=65, seeds=how, saliency=saliency)])
            for how in (
                # so low a threshold that seeds cover the background
                seeds.model_copy(update={"fg_thresh": 0.05, "crf": seeds.crf.model_copy(update={"use": use})})
                for use in ("none", "agree", "replace")
            )
        )
        np.testing.assert_array_equal(agreed, np.where(plain == replaced, plain, 255))
        assert (replaced != 255).all() and plain[0, 0, 0] == 1 and agreed[0, 0, 0] == 255
        assert agreed[0, 4, 4] == 1 and agreed[1, 4, 4] == 2 and (agreed[2] == 0).all()

    def test_crf_sees_every_eighth_pixel_of_the_square_and_the_tagged_classes(self):
        images = [picture(40, 60, seed=0), picture(70, 30, seed=1)]
        cams, saliency = torch.rand(2, 3, 9, 9), torch.rand(2, 9, 9)
        present = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
        crf = self.sections()[0].crf
        kernel = Kernel(**crf.model_dump(exclude={"use", "background", "min_prob"}))
        found = list(crf_labels(images, cams, saliency, present, crf=crf))
        for row, tagged in enumerate([[0, 2, 3], [0, 1]]):
            scores = [crf.background * (1 - saliency[row]), *(cams[row, k - 1] for k in tagged[1:])]
            scores = torch.stack(scores).clamp(min=crf.min_prob)
            energies = -(scores / scores.sum(dim=0)).log().numpy()
            refined = mean_field(warp_to_square(images, 65)[row, :, ::8, ::8].numpy(), energies, kernel)
            np.testing.assert_array_equal(found[row], np.array(tagged)[refined.argmax(axis=0)])
            assert (refined.argmax(axis=0) != energies.argmin(axis=0)).any()

    def test_with_cam_takes_the_higher_of_both(self, data):
        index, root = data
        untagged = np.full((65, 80, 3), 30, np.uint8)
        untagged[20:50, 25:55] = 200  # salient, yet of no class
        cv2.imwrite(str(root / "none.png"), untagged)
        index = replace(index, checksums=[sha256(root / path) for path in index.paths])
        seeds, alone = self.sections(method="mbd", with_cam=False)
        both, cam = (self.sections(method=method, with_cam=True)[1] for method in ("mbd", "cam"))
        found = [
            np.stack([row.saliency for row in seed_rows(Colors(), index, size=65, seeds=seeds, saliency=how)])
            for how in (alone, cam, both)
        ]
        np.testing.assert_array_equal(np.maximum(found[0], found[1]), found[2])
        assert (found[0] != found[2]).any() and (found[1] != found[2]).any()

    def test_cam_as_saliency_is_the_highest_tagged_map(self, data):
        index, root = data
        seeds, saliency = self.sections(method="cam")
        for row in seed_rows(Colors(), index, size=65, seeds=seeds, saliency=saliency):
            np.testing.assert_array_equal(row.saliency, row.cams.max(axis=0, initial=0))

    @pytest.mark.parametrize(("kind", "highest"), [(np.uint8, 255), (np.uint16, 65535)])
    def test_ready_maps_of_8_and_16_bit(self, tmp_path, kind, highest):
        values = np.full((20, 30), highest, kind)
        values[:, :15] = highest // 5
        cv2.imwrite(str(tmp_path / "a.png"), values)
        _, saliency = self.sections(method="maps", maps=str(tmp_path))
        found = saliency_map(tmp_path / "a.png", saliency=saliency, grid=10)
        assert found.shape == (10, 10) and found.dtype == np.float32
        np.testing.assert_allclose(found[:, [0, 4, 5, 9]], [[0.2, 0.2, 1, 1]] * 10, atol=1e-4)

    def test_a_large_image_is_looked_at_smaller(self, tmp_path):
        pictures = {"a": picture(60, 90, seed=1), "b": picture(40, 40, seed=2)}
        index = save_index(tmp_path, pictures, [[1], [1]])
        (tmp_path / "small").mkdir()
        small = save_index(tmp_path / "small", pictures | {"a": limit_side(pictures["a"], 45)}, [[1], [1]])
        settings = {"saliency": self.sections(method="mbd")[1], "grid": 7}
        found = list(saliency_maps(replace(index, max_side=45), **settings))
        np.testing.assert_array_equal(found, list(saliency_maps(small, **settings)))
        assert not np.array_equal(found[0], next(saliency_maps(index, **settings)))

    def test_saliency_is_brought_to_the_grid_with_aligned_corners(self, tmp_path):
        """Released: `scipy.ndimage.zoom`, order 1; written out here."""
        values = np.random.default_rng(0).integers(0, 256, (19, 28), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "a.png"), values)
        _, saliency = self.sections(method="maps", maps=str(tmp_path))
        found = saliency_map(tmp_path / "a.png", saliency=saliency, grid=7)
        for row in range(7):
            for column in range(7):
                y, x = row * 18 / 6, column * 27 / 6
                top, left = min(int(y), 17), min(int(x), 26)
                corners = values[top : top + 2, left : left + 2].astype(float)
                across = corners[:, 0] + (x - left) * (corners[:, 1] - corners[:, 0])
                expected = across[0] + (y - top) * (across[1] - across[0])
                assert found[row, column] == pytest.approx(expected / 255, abs=1e-5)


def literal_average_precision(scores, tagged) -> float:
    """Recall steps times precision, threshold by threshold."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = [t for s, t in zip(scores, tagged, strict=True) if s >= threshold]
        precision, recall = sum(called) / len(called), sum(called) / sum(tagged)
        total += precision * (recall - recall_before)
        recall_before = recall
    return total


class TestTags:
    @settings(max_examples=100, deadline=None)
    @given(
        scores=arrays(np.float32, (12, 3), elements=st.sampled_from([-50, -1, 0, 0.5, 2, 40, 41])),
        tagged=arrays(bool, (12, 3)),
    )
    def test_against_the_definition(self, scores, tagged):
        expected = [literal_average_precision(s, t) for s, t in zip(scores.T, tagged.T, strict=True) if t.any()]
        present = np.concatenate([np.ones((12, 1), bool), tagged], axis=1)
        found = mean_average_precision(torch.from_numpy(scores), torch.from_numpy(present))
        assert found == pytest.approx(np.mean(expected), abs=1e-6) if expected else np.isnan(found)

    def test_scores_of_every_image_in_order(self, tmp_path):
        pictures = {f"im{k}": picture(30 + k, 40, seed=k) for k in range(5)}
        index = save_index(tmp_path, pictures, [[1, 0]] * 5)
        network = classifier(classes=2)
        scores = tag_scores(network, index, size=33, batch=2)
        one_by_one = torch.cat([network(warp_to_square([pixels], 33)) for pixels in pictures.values()])
        torch.testing.assert_close(scores, one_by_one, check_device=False)
        assert scores.shape == (5, 2) and not scores.requires_grad


class TestScoring:
    CLASSES = ["cat", "dog", "owl"]
    TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    PLAIN = np.array([[0, 1, 1, 1], [0, 0, 2, 2]], np.uint8)
    REFINED = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.uint8)

    @pytest.fixture
    def scores(self):
        scores = Scores(self.CLASSES)
        scores.add(self.TRUTH, labels=self.PLAIN, labels_crf=self.REFINED)
        scores.add(self.TRUTH.T, labels=self.PLAIN.T, labels_crf=self.REFINED.T)
        return scores

    def test_metrics_by_hand(self, scores):
        metrics = scores.metrics()
        # plain: background 3/4, cat 2/4, dog 0 (called, never there); with CRF: background 4/5, cat 2/3
        assert metrics["miou"] == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
        assert metrics["miou_crf"] == pytest.approx((4 / 5 + 2 / 3) / 2)
        assert metrics["miou_of_hits"] == pytest.approx((3 / 4 + 2 / 4) / 2)  # the released script drops the dog
        assert metrics["miou_of_hits_crf"] == pytest.approx((4 / 5 + 2 / 3) / 2)
        assert metrics["pixel_accuracy"] == pytest.approx(5 / 7)
        assert metrics["pixel_accuracy_crf"] == pytest.approx(6 / 7)
        assert metrics["absent"] == ["dog", "owl"]

    def test_per_class_leaves_out_what_nobody_saw(self, scores, tmp_path):
        write_per_class(tmp_path / "a.csv", {"dsrg": scores, "retrain": scores})
        table = read_csv(tmp_path / "a.csv")
        assert list(table[0]) == ["class", "dsrg", "dsrg_crf", "retrain", "retrain_crf"]
        assert [line["class"] for line in table] == ["background", "cat", "dog"]
        assert table[0]["dsrg"] == "0.75" and [*table[2].values()] == ["dog", "0.0", "", "0.0", ""]

    def test_each_image_has_an_iou_of_its_own_with_crf(self, scores, tmp_path):
        void = np.full_like(self.TRUTH, 255)
        scores.add(void, labels=self.PLAIN, labels_crf=self.REFINED)
        alone = (4 / 5 + 2 / 3) / 2
        assert scores.images[:2] == pytest.approx([alone, alone]) and np.isnan(scores.images[2])
        write_per_image(tmp_path / "a.csv", ["x", "y", "z"], {"dsrg": scores, "retrain": scores})
        table = read_csv(tmp_path / "a.csv")
        assert list(table[0]) == ["id", "dsrg_crf", "retrain_crf"]
        assert [line["id"] for line in table] == ["x", "y", "z"]
        assert float(table[0]["dsrg_crf"]) == pytest.approx(alone, abs=1e-6) and table[2]["retrain_crf"] == ""

    @given(st.lists(st.one_of(st.integers(0, 4), st.just(float("nan"))), max_size=30), st.integers(0, 4))
    def test_best_and_worst_are_the_same_when_seen_one_by_one(self, values, count):
        """Ties and images without a score included: what falls out on the way is never missed later."""
        whole = best_and_worst(dict(enumerate(values)), count)
        kept = []
        for row in range(len(values)):
            kept = best_and_worst({key: values[key] for key in [*kept, row]}, count)
        assert set(kept) == set(whole)
        known = sorted(value for value in values if value == value)
        assert sorted(values[row] for row in whole[:count]) == known[len(known) - min(count, len(known)) :]
        assert set(known[:count]) <= {values[row] for row in whole}

    def test_label_maps_of_the_first_and_of_the_best_and_worst_images_are_kept(self, tmp_path):
        pictures = {f"im{k}": picture(24, 30, seed=k) for k in range(6)}
        index = save_index(tmp_path, pictures, [[1, 1]] * 6)
        segmenter, settings = Colors(), ONE_LOOK
        told = {"classes": ["a", "b"], "size": 33, "kernel": KERNEL}
        blank = [np.zeros((24, 30), np.uint8)] * 6
        _, found = evaluate_segmenter(segmenter, index, blank, settings, keep=6, **told)
        assert list(found) == list(range(6))
        shares = [0.3, 1.0, 0.7, 0.0, 0.9, 0.5]  # of an image that are as predicted
        masks = [
            np.where(np.arange(30) < 30 * share, found[row], (found[row] + 1) % 3).astype(np.uint8)
            for row, share in enumerate(shares)
        ]
        scores, kept = evaluate_segmenter(segmenter, index, masks, settings, keep=1, ends=2, **told)
        assert set(kept) == {0, 1, 4, 3} and len(scores.images) == 6
        assert best_and_worst(dict(enumerate(scores.images)), 2) == [1, 4, 3, 0]
        for row, labels in kept.items():
            np.testing.assert_array_equal(labels, found[row])

    def test_confusion_gives_shares_of_what_is_there(self, scores, tmp_path):
        scores.write_confusion(tmp_path / "a.csv")
        table = {(line["actual"], line["predicted"]): float(line["share"]) for line in read_csv(tmp_path / "a.csv")}
        assert {actual for actual, _ in table} == {"background", "cat"}
        assert table["cat", "background"] == pytest.approx(1 / 3, abs=1e-6) and table["background", "background"] == 1
        assert table["cat", "owl"] == 0 and len(table) == 8

    def test_quality_of_partial_labels(self, tmp_path):
        seeds = np.array([[0, 255, 1, 255], [0, 0, 0, 1]], np.uint8)
        write_quality(tmp_path / "a.csv", total_confusion([self.TRUTH], [seeds], classes=3), self.CLASSES)
        table = {line["class"]: line for line in read_csv(tmp_path / "a.csv")}
        assert list(table) == ["background", *self.CLASSES]
        assert float(table["background"]["precision"]) == 3 / 4 and float(table["background"]["recall"]) == 3 / 4
        assert float(table["cat"]["precision"]) == 1 and float(table["cat"]["recall"]) == pytest.approx(1 / 3, abs=1e-6)
        assert table["owl"] == {"class": "owl", "precision": "", "recall": "", "iou": ""}

    def test_images_with_a_mask(self, tmp_path):
        index = save_index(tmp_path, {name: picture(5, 5, seed=0) for name in "abc"}, [[1]] * 3)
        truth = {name: GroundTruth(name, "val", f"{name}.png", "") for name in "xca"}
        assert with_ground_truth(index, truth).ids == ["a", "c"]

    @pytest.mark.parametrize("shape", [(41, 41), (100, 333), (20, 7), (1, 1)])
    def test_grid_enlarged_to_the_nearest_cell(self, shape):
        labels = np.random.default_rng(0).integers(0, 255, (9, 9), dtype=np.uint8)
        found = enlarge_grid(labels, shape)
        assert found.shape == shape
        for y in range(shape[0]):
            for x in (0, shape[1] // 3, shape[1] - 1):
                near = [at * 8 / (n - 1) if n > 1 else 0 for at, n in zip((y, x), shape, strict=True)]
                cells = [{int(np.floor(v)), int(np.ceil(v))} for v in near]
                nearest = [{c for c in both if abs(c - v) <= 0.5 + 1e-9} for both, v in zip(cells, near, strict=True)]
                assert found[y, x] in {labels[row, column] for row in nearest[0] for column in nearest[1]}
