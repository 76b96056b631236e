"""Deep seeded region growing: seeds spread into the pixels that the network is already sure of.

Paper section 3.3; released code `pylayers.py`, `generate_seed_step` and `DSRGLayer`.
"""

import torch
from torch import Tensor

from dsrg.method.label_maps import UNLABELLED

GPU_ROUNDS = 4  # of spreading between two looks at whether anything has changed: a look waits for the GPU


def grow(seeds: Tensor, probs: Tensor, present: Tensor, *, fg_thresh: float, bg_thresh: float) -> Tensor:
    """Grow every seed into the 8-connected region of confident pixels of its class.

    A pixel is confident of class c when c has its highest probability among the present classes (as in the released
    code; in the paper, among all) and that probability is above `fg_thresh` (background: above `bg_thresh` too).
    Confident pixels take their class, the other seed pixels keep theirs; a connected region of one class becomes
    labelled when it holds a seed of that class. The paper visits pixels one by one; the fixed point is found here for
    all images at once. Of classes that tie for the highest probability the lowest wins.

    Seeds are never lost or relabelled. A seed that the network is confident is another class stays what it is, yet
    while growing it counts as that other class: it connects the other's region, and cuts and does not start its own
    (as in the released code). Without such seeds it is the paper's visiting, and lower thresholds can only add labels.

    Args:
        seeds: uint8 (B, h, w) label map, 0 background, 1..C classes, 255 unlabelled.
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
    highest, winner = _likeliest(probs, present)
    confident = (highest > fg_thresh) & ((winner != 0) | (highest > bg_thresh))
    region = torch.where(confident, winner.to(torch.uint8), seeds)
    anchors = (region == seeds) & (seeds != UNLABELLED)
    reached = _spread(anchors, region, rounds=GPU_ROUNDS if region.is_cuda else 1)
    return torch.where(seeds != UNLABELLED, seeds, torch.where(reached, region, UNLABELLED))


def _likeliest(probs: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel's highest probability among the present classes (B, h, w) and, int64, the lowest class that has it.

    Absent classes are not even read: an image has few of many.
    """
    tagged, classes = present.sort(dim=1, descending=True, stable=True)
    most = max([1, *present.sum(dim=1).tolist()])
    rows = torch.arange(len(probs), device=probs.device)[:, None]
    among = probs[rows, classes[:, :most]].masked_fill_(~tagged[:, :most, None, None], -1)
    highest, place = among.max(dim=1)
    return highest, classes.gather(1, place.flatten(1)).view_as(place)


def _spread(marked: Tensor, region: Tensor, *, rounds: int) -> Tensor:
    """Marked pixels, bool (B, h, w), spread through 8-connected pixels of equal `region` until nothing changes.

    Runs of equal pixels along rows and columns are filled in one sweep each, so the number of rounds is the number of
    turns and diagonal steps on the longest path, not its length in pixels. Whether anything changed is looked at after
    every so many `rounds`.
    """
    rows, columns = _runs(region, 2), _runs(region, 1)
    falling = region[:, 1:, 1:] == region[:, :-1, :-1]
    rising = region[:, 1:, :-1] == region[:, :-1, 1:]
    while True:
        before = marked
        for _ in range(rounds):
            marked = _fill_runs(_fill_runs(marked, rows, 2), columns, 1)
            marked[:, 1:, 1:] |= falling & marked[:, :-1, :-1]
            marked[:, :-1, :-1] |= falling & marked[:, 1:, 1:]
            marked[:, 1:, :-1] |= rising & marked[:, :-1, 1:]
            marked[:, :-1, 1:] |= rising & marked[:, 1:, :-1]
        if torch.equal(marked, before):
            return marked


def _runs(region: Tensor, dim: int) -> Tensor:
    """Number of each pixel's run of equal values along `dim`, int64, from 0 in every line."""
    change = torch.diff(region, dim=dim) != 0
    first = torch.zeros_like(region.narrow(dim, 0, 1), dtype=torch.bool)
    return torch.cat([first, change], dim=dim).cumsum(dim)


def _fill_runs(marked: Tensor, runs: Tensor, dim: int) -> Tensor:
    """Mark every pixel of a run that holds a marked pixel."""
    return torch.zeros_like(runs).scatter_add_(dim, runs, marked.to(runs.dtype)).gather(dim, runs) > 0
