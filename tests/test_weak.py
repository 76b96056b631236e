"""dsrg.method.weak: laws that every loss obeys, and each against a slow, literal reading of its paper."""

from inspect import signature
from math import exp, floor, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dsrg.data.batches import Batch
from dsrg.inference.predict import predictions
from dsrg.method.crf import clamped, dense_crf
from dsrg.method.grid import STRIDE
from dsrg.method.grid import UNLABELED as U
from dsrg.method.pooling import pooled_scores
from dsrg.method.weak import LOSSES, bfbp, ccnn, em_adapt, sec
from dsrg.params import Dsrg, Evaluate, Params
from dsrg.training.weak import build_criterion
from helpers.crf import PAPER_IN_TRAINING
from helpers.project import recipe


def crf(images: Tensor, probs: Tensor) -> Tensor:
    """Two updates of the training CRF."""
    refined = dense_crf(images[:, :, ::STRIDE, ::STRIDE], -probs.log(), **PAPER_IN_TRAINING, iterations=2)
    return clamped(refined, min_prob=1e-4)


WEAK = Params(**recipe()).weak
CONSTRAINTS, EM_ADAPT = WEAK.ccnn.model_dump(), WEAK.em_adapt.model_dump()
SHARES = {key: EM_ADAPT[key] for key in ("bg_share", "fg_share", "passes")}


def settings_of(name: str) -> dict:
    """Those of params.yaml, and the CRF of those that have it."""
    wanted = {"crf": crf} if "crf" in signature(LOSSES[name]).parameters else {}
    return getattr(WEAK, name).model_dump() | wanted


# Laws. Exceptions:
LOOKS_AT_IMAGES = {"sec"}  # so pixels cannot be moved about
POOLS_LOGITS = {"mil_lse"}  # what is added to a pixel counts, so the sum over classes vanishes for all pixels together
MAY_RAISE_ABSENT = {"sec", "bfbp"}  # pushing one absent class down lifts the others
NAMED = LOOKS_AT_IMAGES | POOLS_LOGITS | MAY_RAISE_ABSENT


def call(name: str, logits: Tensor, present: Tensor, seeds: Tensor, *, step: int = 3) -> Tensor:
    batch, _, height, width = logits.shape
    generator = torch.Generator().manual_seed(0)
    sides = 8 * (height - 1) + 1, 8 * (width - 1) + 1
    images = torch.randint(0, 256, (1, 3, *sides), generator=generator, dtype=torch.uint8).expand(batch, -1, -1, -1)
    return LOSSES[name](logits, present=present, seeds=seeds, images=images, step=step, **settings_of(name))


def problem(seed: int, *, shape: tuple[int, ...] = (3, 4, 5, 6), scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, tags (of none, some, all classes) and seeds of the tags, some unlabeled."""
    generator = torch.Generator().manual_seed(seed)
    batch, classes, *grid = shape
    logits = scale * torch.randn(shape, generator=generator)
    present = torch.rand(batch, classes, generator=generator) < torch.linspace(0, 1.01, batch)[:, None]
    present[:, 0] = True
    drawn = torch.rand(batch, classes, *grid, generator=generator) * present[:, :, None, None]
    unlabeled = torch.rand(batch, *grid, generator=generator) < 0.4
    return logits, present, drawn.argmax(dim=1).masked_fill(unlabeled, U).to(torch.uint8)


def gradient(name: str, logits: Tensor, *others: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(call(name, logits, *others).sum(), logits)[0]


def law_finite(name: str) -> None:
    for scale in (0, 1, 30):
        for shape in ((3, 4, 5, 6), (2, 4, 1, 1), (2, 21, 3, 3), (2, 2, 3, 3)):
            logits, present, seeds = problem(0, shape=shape, scale=scale)
            for tags in (present, torch.ones_like(present), present & (torch.arange(shape[1]) == 0)):
                own = seeds.masked_fill(~tags.gather(1, seeds.flatten(1).long() % shape[1]).view(seeds.shape), U)
                values = call(name, logits, tags, own)
                assert values.shape == (shape[0],) and values.isfinite().all() and (values >= -1e-6).all()
                assert gradient(name, logits, tags, own).isfinite().all()


def law_images_alone(name: str) -> None:
    whole = problem(1)
    parts = [call(name, *(tensor[row : row + 1] for tensor in whole)) for row in range(3)]
    torch.testing.assert_close(call(name, *whole), torch.cat(parts), rtol=1e-5, atol=1e-6)


def law_pixels_have_no_place(name: str) -> None:
    logits, present, seeds = problem(2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    moved = logits.flatten(2)[:, :, order].view(logits.shape), present, seeds.flatten(1)[:, order].view(seeds.shape)
    same = torch.allclose(call(name, logits, present, seeds), call(name, *moved), rtol=1e-5, atol=1e-6)
    assert same != (name in LOOKS_AT_IMAGES)


def law_only_differences_of_logits_count(name: str) -> None:
    found = gradient(name, *problem(3)).flatten(2)
    assert found.abs().max() > 1e-3
    each = torch.allclose(found.sum(dim=1), torch.zeros(()), atol=1e-6)
    assert each != (name in POOLS_LOGITS) and found.sum(dim=(1, 2)).abs().max() < 1e-5


def law_nothing_asks_for_an_absent_class(name: str) -> None:
    logits, present, seeds = problem(4, shape=(4, 21, 5, 6), scale=3)
    absent = gradient(name, logits, present, seeds).movedim(1, 3)[~present[:, None, None].expand(-1, 5, 6, -1)]
    assert (absent.min() >= -1e-8) != (name in MAY_RAISE_ABSENT)


def law_names_of_classes_mean_nothing(name: str) -> None:
    logits, _, _ = problem(5)
    present = torch.tensor([[True, True, False, False]]).expand(3, -1)
    seeds = torch.tensor([0, 1, U], dtype=torch.uint8).repeat(30).view(3, 5, 6)
    renamed = [0, 3, 1, 2]  # class 3 is called 1 now, and 1 is called 2
    others = logits[:, renamed], present[:, renamed], torch.where(seeds == 1, 2, seeds)
    torch.testing.assert_close(gradient(name, logits, present, seeds)[:, renamed], gradient(name, *others))


def law_no_state(name: str) -> None:
    before = torch.random.get_rng_state()
    first, second = (call(name, *problem(6), step=17) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(before, torch.random.get_rng_state())


def law_waits_for_nothing_on_the_device(name: str) -> None:
    """Tensors of the device `meta` have no numbers, so whatever asked for one would fail."""
    logits, present, seeds = (tensor.to("meta") for tensor in problem(9))
    images = torch.empty(3, 3, 33, 41, dtype=torch.uint8, device="meta")
    given = settings_of(name)
    given |= {"crf": lambda images, probs: probs} if "crf" in given else {}
    logits.requires_grad_()
    value = LOSSES[name](logits, present=present, seeds=seeds, images=images, step=3, **given)
    value.sum().backward()
    assert value.shape == (3,) and logits.grad.shape == logits.shape


def law_descent(name: str) -> None:
    logits, _, _ = problem(7, shape=(2, 6, 7, 7))
    present = torch.tensor([[True, True, True, False, False, False]]).expand(2, -1)
    seeds = torch.full((2, 7, 7), U, dtype=torch.uint8)
    seeds[:, :2], seeds[:, 3, :3], seeds[:, 5:, :4] = 0, 1, 2
    logits, losses = logits.clone().requires_grad_(), []
    optimizer = torch.optim.SGD([logits], lr=8.0)
    for step in range(60):
        loss = call(name, logits, present, seeds, step=step).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    if name in ("ccnn", "em_adapt"):
        winners = logits.argmax(dim=1)
        shares = [(winners == number).float().mean() for number in range(6)]
        assert winners.max() <= 2 and 0.25 < shares[0] < 0.75 and min(shares[1:3]) > 0.04


LAWS = [law for name, law in globals().items() if name.startswith("law_")]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_obeys(name, law):
    law(name)


def test_training_by_a_loss_is_its_mean_and_no_seed_grows():
    logits, present, seeds = problem(8)
    images = torch.zeros(3, 3, 33, 41, dtype=torch.uint8)
    params = Params(**recipe())
    dsrg = Dsrg(**(recipe()["dsrg"] | {"objective": "psl"}))
    assert params.grow.enabled
    objective, supervisor = build_criterion(dsrg, params.weak, grow=params.grow, crf=params.crf.train)
    batch = Batch(images, seeds, present, ["a", "b", "c"])
    value, values = objective(lambda images: logits, batch, 99)
    torch.testing.assert_close(value, call("psl", logits, present, seeds).mean())
    assert torch.equal(values["grown"], values["seeds"])
    probs = logits.softmax(dim=1)
    assert torch.equal(supervisor(images, probs, seeds, present, step=99).labels, seeds)


def test_each_loss_has_its_settings_and_exceptions_are_losses():
    assert {*LOSSES} == {*type(WEAK).model_fields} >= NAMED


# MIL


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 10.0]))
def test_mil_teaches_one_pixel_a_class(seed, scale):
    logits, present, seeds = problem(seed, scale=scale)
    probs = logits.double().softmax(dim=1)
    values = call("mil", logits, present, seeds)
    touched = gradient("mil", logits, present, seeds).abs().amax(dim=1).flatten(1) > 0
    for row, tags in enumerate(present):
        best = [max(probs[row, number].flatten().tolist()) for number in np.flatnonzero(tags)]
        assert float(values[row]) == pytest.approx(-sum(map(log, best)) / len(best), rel=1e-4, abs=1e-5)
        assert touched[row].sum() <= tags.sum()


# Log-sum-exp


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 1.0, 5.0, 50.0]))
def test_pooled_scores_lie_between_mean_and_maximum(seed, sharpness):
    scores, _, _ = problem(seed, scale=3)
    flat = scores.double().flatten(2)
    pooled = pooled_scores(scores.double(), sharpness=sharpness)
    mean, highest = flat.mean(dim=2), flat.amax(dim=2)
    below = (flat - highest[:, :, None]).tolist()  # exp(50 * 15) is more than a float holds
    literal = [[log(sum(exp(sharpness * v) for v in row) / 30) / sharpness for row in image] for image in below]
    torch.testing.assert_close(pooled, highest + torch.tensor(literal, dtype=torch.float64))
    assert (pooled >= mean - 1e-9).all() and (pooled <= highest + 1e-9).all()
    assert (highest - pooled <= log(30) / sharpness + 1e-9).all()
    assert (pooled_scores(scores.double(), sharpness=2 * sharpness) >= pooled - 1e-9).all()
    torch.testing.assert_close(pooled_scores(scores.double() + 7, sharpness=sharpness), pooled + 7)


def test_pooling_log_probabilities_is_the_power_mean():
    """So shifts of a pixel's logits change nothing; pooled raw, they do."""
    logits, _, _ = problem(0)
    pooled = pooled_scores(logits.log_softmax(dim=1), sharpness=1)
    torch.testing.assert_close(pooled.exp(), logits.softmax(dim=1).mean(dim=(2, 3)))
    shifted = logits + torch.randn(3, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooled_scores(shifted.log_softmax(dim=1), sharpness=1), pooled)
    assert not torch.allclose(pooled_scores(shifted, sharpness=1), pooled_scores(logits, sharpness=1))


# CCNN


def crowd(seed: int, *, images: int, pixels: int = 60, classes: int = 21) -> tuple[Tensor, Tensor]:
    """Logits of any scale, with favored classes, and from none to all tags."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    scale = 10 ** (2 * torch.rand(images, 1, 1, generator=generator) - 0.5)  # 0.3 to 30
    logits = scale * (draw(images, classes, pixels) + draw(images, 1, 1).abs() * draw(images, classes, 1))
    present = torch.rand(images, classes, generator=generator) < torch.rand(images, 1, generator=generator)
    present[:, 0] = True
    return logits[:, :, None], present


def assert_nearest(logits: Tensor, present: Tensor, found: ccnn.Projection) -> None:
    """Constraints to 1e-4 of the pixels, complementary slackness to 1e-3, and the form of the solution."""
    probs = (logits.double() + found.biases[:, :, None, None]).masked_fill(~present[:, :, None, None], -torch.inf)
    probs = probs.softmax(dim=1)
    torch.testing.assert_close(found.log_probs.exp().double(), probs, rtol=0, atol=2e-5)
    shares, biases, tags = probs.mean(dim=(2, 3)), found.biases, present[:, 1:]
    some = tags.any(dim=1)
    assert not shares[~present].any() and not biases[~present].any() and not biases[~some].any()
    background, bias = shares[some, 0], biases[some, 0]
    assert (background >= 0.3 - 1e-4).all() and (background <= 0.7 + 1e-4).all()
    assert ((background - 0.3).abs()[bias > 0] <= 1e-3).all() and ((background - 0.7).abs()[bias < 0] <= 1e-3).all()
    shares, biases = shares[:, 1:][tags], biases[:, 1:][tags]
    assert (biases >= 0).all() and (biases <= 2).all()
    assert (shares[biases < 2] >= 0.05 - 1e-4).all() and (shares[biases > 0] <= 0.05 + 1e-3).all()


@pytest.mark.parametrize("seed", range(5))
def test_ccnn_finds_the_optimum(seed):
    """The dual is convex, so its conditions say all; 500 images in all."""
    logits, present = crowd(seed, images=100)
    assert_nearest(logits, present, ccnn.project(logits, present, **CONSTRAINTS))


def literal_projection(logits: np.ndarray, tags: list[int]) -> np.ndarray:
    """Biases (K,) of one image (K, N), one class after the other by bisection, over and over."""
    scores, biases = logits[tags], np.zeros(len(tags))

    def share(number: int, bias: float) -> float:
        raised = scores + np.where(np.arange(len(tags)) == number, bias, biases)[:, None]
        probs = np.exp(raised - raised.max(axis=0))
        return float((probs / probs.sum(axis=0))[number].mean())

    def reaching(number: int, target: float, low: float, high: float) -> float:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if share(number, middle) < target else (low, middle)
        return high

    for _ in range(60 if len(tags) > 1 else 0):
        for number in range(len(tags)):
            own = share(number, 0.0)
            if number == 0:
                biases[0] = reaching(0, 0.3, 0, 99) if own < 0.3 else reaching(0, 0.7, -99, 0) if own > 0.7 else 0
            else:
                biases[number] = reaching(number, 0.05, 0, 2) if own < 0.05 else 0
    return biases


def test_ccnn_agrees_with_bisection_class_by_class():
    """Of biases that differ by a constant over all tags the distributions are the same."""
    logits, present = crowd(9, images=12, pixels=20, classes=5)
    found = ccnn.project(logits, present, **CONSTRAINTS)
    for row, tags in enumerate(present):
        numbers = np.flatnonzero(tags).tolist()
        scores = logits[row, :, 0].double().numpy()
        expected = scores[numbers] + literal_projection(scores, numbers)[:, None]
        expected = np.exp(expected - expected.max(axis=0))
        np.testing.assert_allclose(found.log_probs[row, numbers, 0].exp(), expected / expected.sum(axis=0), atol=1e-4)


def test_ccnn_learns_towards_its_projection():
    logits, present = crowd(3, images=6)
    target = ccnn.project(logits, present, **CONSTRAINTS).log_probs.exp()
    found = gradient("ccnn", logits, present, torch.zeros(6, 1, 60, dtype=torch.uint8))
    torch.testing.assert_close(found, (logits.softmax(dim=1) - target) / 60, rtol=1e-4, atol=1e-7)


# EM-Adapt


def literal_labels(logits: np.ndarray, order: list[int], *, bg_share, fg_share, passes) -> np.ndarray:
    """Labels (N,) of one image's logits (K, N), pixel by pixel and sorted by Python."""
    scores = {number: [float(value) for value in logits[number]] for number in order}
    pixels = logits.shape[1]
    for number in order * passes:
        share = fg_share if number else bg_share
        best = [max(scores[k][u] for k in order) for u in range(pixels)]
        gaps = sorted(best[u] - scores[number][u] for u in range(pixels))
        bias = gaps[min(floor(round(share * pixels, 6)), pixels - 1)]
        scores[number] = [value + bias for value in scores[number]]
    return np.array([max(sorted(order), key=lambda k: scores[k][u]) for u in range(pixels)])


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 50), st.sampled_from([0.0, 1.0, 30.0]))
def test_em_adapt_labels_are_the_literal_ones(seed, step, scale):
    logits, present, _ = problem(seed, scale=scale)
    found = em_adapt.adapted_labels(logits, present, step=step, **SHARES).flatten(1)
    orders = em_adapt.visiting_order(present, step=step)
    for row, tags in enumerate(present):
        order = orders[row, : int(tags.sum())].tolist()
        assert sorted(order) == np.flatnonzero(tags).tolist() and order[0] == 0
        assert found[row].tolist() == literal_labels(logits[row].flatten(1).numpy(), order, **SHARES).tolist()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.29, 0.7, 1.0]))
def test_em_adapt_counts_are_exact(seed, share):
    """The class visited last wins its share of the pixels, or a tie's one fewer, or more that it had."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 2, 10, 10, generator=generator) - torch.tensor([0.0, 5.0]).view(2, 1, 1)
    labels = em_adapt.adapted_labels(
        logits, torch.tensor([[True, True]]), step=seed, bg_share=0.0, fg_share=share, passes=1
    )
    had = int((logits[:, 1] > logits[:, 0]).sum())
    wanted = min(round(100 * share), 99)
    assert int((labels == 1).sum()) == max(wanted, had)


def test_em_adapt_tags_take_turns():
    present = torch.tensor([[True, True, False, True, True]])
    orders = [em_adapt.visiting_order(present, step=step)[0, 1:4].tolist() for step in range(4)]
    assert orders == [[1, 3, 4], [4, 1, 3], [3, 4, 1], [1, 3, 4]]


def test_em_fixed_adds_its_biases():
    logits = torch.tensor([[5.0, 5.0], [0.0, 4.0], [9.0, 9.0]]).view(1, 3, 1, 2)
    present, nothing = torch.tensor([[True, True, False]]), torch.zeros(1, 1, 2, dtype=torch.uint8)
    settings = {"images": None, "step": 0, **SHARES, "bg_bias": 3.0, "fg_bias": 5.0}  # 8 against 5, then 9
    found = em_adapt.loss(logits, present=present, seeds=nothing, **settings)
    log_probs = logits.log_softmax(dim=1)
    torch.testing.assert_close(found, -(log_probs[:, 0, 0, 0] + log_probs[:, 1, 0, 1]) / 2)


# BFBP


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_bfbp_equals_the_literal_loops(seed):
    logits, present, seeds = problem(seed)
    probs = (logits.double().softmax(dim=1) + 1e-4) / (1 + 4e-4)

    def pooled(row: int, number: int, region: Tensor) -> float:
        values = probs[row, number][region].tolist()
        return log(sum(exp(5 * value) for value in values) / len(values)) / 5

    for row, value in enumerate(call("bfbp", logits, present, seeds).tolist()):
        outside = seeds[row] == 0
        tags = [number for number in range(1, 4) if present[row, number]]
        absent = [number for number in range(1, 4) if not present[row, number]]
        expected = 0.0
        if tags and not outside.all():
            expected -= sum(log(pooled(row, number, ~outside)) for number in tags) / len(tags)
        if outside.any():
            expected -= log(pooled(row, 0, outside))
        if absent:
            expected -= sum(log(1 - pooled(row, number, outside | True)) for number in absent) / len(absent)
        assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("label", [0, U], ids=["mask of nothing", "mask of all"])
def test_bfbp_leaves_out_a_term_over_no_pixel(label):
    present, seeds = torch.tensor([[True, True]]), torch.full((1, 2, 2), label, dtype=torch.uint8)
    found = bfbp.loss(torch.zeros(1, 2, 2, 2), present=present, seeds=seeds, images=None, step=0, **settings_of("bfbp"))
    assert float(found) == pytest.approx(log(2))


# SEC's expansion loss


def expansion(probs: Tensor, present: Tensor, **decays: float) -> Tensor:
    return sec.expansion_loss(probs, present, **decays).mean()


def literal_expansion_loss(probs: Tensor, present: Tensor, *, fg_decay: float, bg_decay: float) -> float:
    """The released `ExpandLossLayer` for any number of classes and pixels: ascending sort, weights q^(n-1) .. q^0."""

    def score(values, decay):
        weights = [decay**i for i in range(len(values) - 1, -1, -1)]
        return sum(weight * value for weight, value in zip(weights, sorted(values), strict=True)) / sum(weights)

    total = 0.0
    for image, tags in zip(probs.flatten(2).tolist(), present.tolist(), strict=True):
        tagged = [c for c in range(1, len(tags)) if tags[c]]
        others = [c for c in range(1, len(tags)) if not tags[c]]
        if tagged:
            total -= sum(log(score(image[c], fg_decay)) for c in tagged) / len(tagged)
        if others:
            total -= sum(log(1 - max(image[c])) for c in others) / len(others)
        total -= log(score(image[0], bg_decay))
    return total / len(present)


DECAYS = [0.0, 0.5, 0.996, 0.999, 1.0]  # from the maximum to the mean


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), *[st.sampled_from(DECAYS)] * 2)
def test_expansion_loss_is_the_literal_one_and_knows_no_places(classes, height, width, seed, fg_decay, bg_decay):
    probs = problem(seed, shape=(2, classes + 1, height, width), scale=2)[0].double().softmax(dim=1)
    present = torch.rand(2, classes + 1, generator=torch.Generator().manual_seed(seed)) < 0.5
    present[:, 0] = True
    options = {"fg_decay": fg_decay, "bg_decay": bg_decay}
    loss = expansion(probs, present, **options)
    assert float(loss) == pytest.approx(literal_expansion_loss(probs, present, **options), rel=1e-9)
    turned = probs.flip(2).transpose(2, 3)
    torch.testing.assert_close(expansion(turned, present, **options), loss)


def test_a_tagged_class_may_be_certain_and_an_untagged_one_impossible():
    """Their logarithms of zero belong to the other term."""
    probs = torch.tensor([[0.5, 0.5], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64).view(1, 3, 1, 2).requires_grad_()
    loss = expansion(probs, torch.tensor([[True, True, False]]), fg_decay=0.5, bg_decay=0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-log(0.5)) and probs.grad.isfinite().all()


# Image-level prior at test time


class Fixed(nn.Module):
    """A network that says the same of every image: logits (K, h, w)."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1, -1, -1)


def predicted(logits: Tensor, **changes) -> np.ndarray:
    settings = Evaluate(**(recipe()["evaluate"] | {"scales": [1.0], "flip": False} | changes))
    images = [np.zeros((17, 17, 3), np.uint8)]
    return next(iter(predictions(Fixed(logits), images, None, settings, size=17, kernel=None))).labels[
        ::STRIDE, ::STRIDE
    ]


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_the_prior_weighs_pixels_by_what_the_image_shows(seed):
    logits = problem(seed, shape=(1, 4, 3, 3), scale=3)[0][0]
    whole = F.interpolate(logits[None], (17, 17), mode="bilinear", align_corners=True)[0].double()
    shown = pooled_scores(whole, sharpness=2.0).softmax(dim=0)
    weighed = (whole.softmax(dim=0) * shown[:, None, None])[:, ::STRIDE, ::STRIDE].argmax(dim=0).numpy()
    assert (predicted(logits, prior="lse", prior_sharpness=2.0) == weighed).all()


def test_a_prior_that_is_sure_leaves_one_class():
    logits = torch.tensor([[0.0, 50.0, 0.0], [1.0, 1.0, 1.0]]).view(2, 1, 3).expand(-1, 3, -1).contiguous()
    assert predicted(logits)[0].tolist() == [1, 0, 1]
    assert not predicted(logits, prior="lse", prior_sharpness=5.0).any()
