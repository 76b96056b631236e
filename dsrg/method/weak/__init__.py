"""Losses by which other weakly supervised methods learn from tags, one file each; docs/new-method.md adds one.

Every one is `loss(logits, *, present, seeds, images, step, **settings) -> (B,)`, one value an image:

    logits   float32 (B, C+1, h, w), the network's; gradients pass through them
    present  bool (B, C+1), the image's tags; column 0, background, is true
    seeds    uint8 (B, h, w) label map, 255 unlabeled
    images   uint8 (B, 3, S, S) RGB, S = 8 (h - 1) + 1
    step     int, the training's step: the only source of a choice that is not the data's
    settings params `weak.NAME`; a loss that has a parameter `crf` is given the training CRF: images and
             probabilities (B, C+1, h, w) to probabilities

Losses wait for nothing on the device, and touch no random state.
"""

from dsrg.method.weak import bfbp, ccnn, em_adapt, mil, mil_lse, psl, sec

LOSSES = {
    "sec": sec.loss,
    "mil": mil.loss,
    "mil_lse": mil_lse.loss,
    "ccnn": ccnn.loss,
    "em_adapt": em_adapt.loss,
    "bfbp": bfbp.loss,
    "psl": psl.loss,
}
