"""Deep seeded region growing: seeds spread into the pixels that the network is already sure of.

Paper section 3.3; released code `pylayers.py`, `generate_seed_step` and `DSRGLayer`.
"""

from functools import reduce

import cv2
import numpy as np
import torch
from torch import Tensor

from dsrg.method.grid import UNLABELED


def grow(seeds: Tensor, probs: Tensor, present: Tensor, *, fg_thresh: float, bg_thresh: float) -> Tensor:
    """Grow every seed into the 8-connected region of confident pixels of its class.

    A pixel is confident of class c when c has its highest probability among the present classes (as in the released
    code; in the paper, among all) and that probability is above `fg_thresh` (background: above `bg_thresh` too).
    Confident pixels take their class, the other seed pixels keep theirs; a connected region of one class becomes
    labeled when it holds a seed of that class. The paper visits pixels one by one; all connected regions of
    a batch are found here at once. A GPU is waited for once. Of classes that tie for the highest probability the lowest
    wins.

    Seeds are never lost or relabeled. A seed that the network is confident is another class stays what it is, yet
    while growing it counts as that other class: it connects the other's region, and cuts and does not start its own
    (as in the released code). Without such seeds it is the paper's visiting, and lower thresholds can only add labels.

    Args:
        seeds: uint8 (B, h, w) label map, 0 background, 1..C classes, 255 unlabeled.
        probs: float (B, C+1, h, w), 0..1: what decides confidence; the network's own (paper) or the CRF's (released).
        present: bool (B, C+1), the image's classes; column 0, background, is true.
        fg_thresh: probability above which (strictly) a pixel is confident; paper 0.85.
        bg_thresh: the same for background; paper 0.99.

    Returns:
        uint8 (B, h, w) label map that contains every seed unchanged.

    >>> seeds = torch.tensor([[[1, 255, 255, 255]]], dtype=torch.uint8)
    >>> probs = torch.tensor([[[[0.5, 0.1, 0.1, 0.9]], [[0.5, 0.9, 0.9, 0.1]]]])
    >>> grow(seeds, probs, torch.tensor([[True, True]]), fg_thresh=0.85, bg_thresh=0.99).tolist()
    [[[1, 1, 1, 255]]]
    """
    classes = _tagged_classes(present)
    rows = torch.arange(len(probs), device=probs.device)[:, None]
    highest, place = probs[rows, classes].max(dim=1)
    winner = classes.to(torch.uint8).gather(1, place.flatten(1)).view_as(place)
    confident = (highest > fg_thresh) & ((winner != 0) | (highest > bg_thresh))
    region = torch.where(confident, winner, seeds)
    reached = _seeded_regions(region, seeds, classes)
    return torch.where(reached & (seeds == UNLABELED), region, seeds)


def _tagged_classes(present: Tensor) -> Tensor:
    """The numbers of each image's classes in order, int64 (B, K), filled up with 0, which is background.

    K is the most that an image has, so that probabilities of absent classes are not even read. A GPU would have to be
    asked for it; there it is the number of all classes.
    """
    tagged, classes = present.sort(dim=1, descending=True, stable=True)
    most = present.shape[1] if present.is_cuda else max([1, *present.sum(dim=1).tolist()])
    return (classes * tagged)[:, :most]


def _seeded_regions(region: Tensor, seeds: Tensor, classes: Tensor) -> Tensor:
    """The pixels, bool (B, h, w), whose 8-connected region of one of the image's classes holds a seed of that class.

    OpenCV numbers the regions of all images and classes at once, in one picture with a place for each class of each
    image. It does so on the host, in about the time in which a GPU would start all the operations that this takes.
    """
    if not len(region):
        return torch.zeros_like(region, dtype=torch.bool)
    batch, height, width = region.shape
    needed = torch.cat([part.flatten() for part in (region, seeds, classes.to(torch.uint8))])
    needed = needed.cpu().numpy()  # the one thing for which a GPU is waited
    regions, labels = needed[: 2 * region.numel()].reshape(2, *region.shape)
    numbers = needed[2 * region.numel() :].reshape(batch, -1)
    numbers = numbers[:, : 1 + np.count_nonzero(numbers, axis=1).max()]
    places = np.zeros((*numbers.shape, height + 1, width), bool)  # an empty row between two
    np.equal(regions[:, None], numbers[:, :, None, None], out=places[:, :, :height])
    count, found = cv2.connectedComponents(places.view(np.uint8).reshape(-1, width), connectivity=8)
    found = reduce(np.maximum, found.reshape(places.shape)[:, :, :height].swapaxes(0, 1))
    seeded = np.zeros(count, bool)
    seeded[found[regions == labels]] = True
    seeded[0] = False  # pixels of no class
    return torch.from_numpy(seeded.take(found)).to(region.device, non_blocking=True)
