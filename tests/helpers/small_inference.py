"""Seeds, pseudo labels and scores of a few images, as the stages make them. As a script: IMAGES OUT."""

import json
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsrg.artifacts.label_folder import written_labels
from dsrg.artifacts.seeds_h5 import write_seeds
from dsrg.data.index import read_index, write_index
from dsrg.evaluation.segmentation import evaluate_segmenter
from dsrg.inference.label_maps import resumable_labels
from dsrg.inference.predict import predictions
from dsrg.inference.preprocess import read_images
from dsrg.inference.seeding import resumable_seed_rows
from dsrg.method.grid import grid_size
from dsrg.networks.network import CamClassifier, DeepLab
from dsrg.networks.weights import initial_network
from dsrg.params import Params
from dsrg.runtime.distributed import shard_work
from dsrg.runtime.launcher import SINGLE_PROCESS, LaunchConfig, topology
from dsrg.training.fit import set_up_torch
from helpers.data import picture, save_index
from helpers.project import recipe

COUNT, SIZE, CLASSES = 40, 33, ["a", "b"]  # three files of kept work, of which one is not full


def save_images(folder: Path) -> None:
    """Pictures of different sizes with tags, and their index."""
    pictures = {f"im{k:02d}": picture(24 + k % 5, 30 + k % 7, seed=k) for k in range(COUNT)}
    write_index(folder / "index.csv", save_index(folder, pictures, [[k % 2, k % 3 > 0] for k in range(COUNT)]), CLASSES)


def generate(images: Path, out: Path, *, topology: LaunchConfig = SINGLE_PROCESS) -> None:
    """Fill the folder `out`, and leave what is kept meanwhile in its scratch."""
    index, params = read_index(images / "index.csv", CLASSES, images), Params(**recipe())
    share = shard_work(topology, out / "scratch")
    set_up_torch(0)
    network = params.network.model_dump(exclude={"weights"}) | {"head_channels": 8, "init_std": 1.0}
    shared = {key: network[key] for key in ("backbone", "output_stride", "input", "init_std")}
    options = {"classes": len(CLASSES), "weights": None}
    classifier = initial_network(CamClassifier, **options, **shared, dropout=0.0).eval()
    segmenter = initial_network(DeepLab, **options, **network).eval()
    kernel = params.crf.test
    told = {"size": SIZE, "seeds": params.seeds, "saliency": params.saliency}
    rows = resumable_seed_rows(classifier, index, share=replace(share, folder=share.folder / "seeds"), **told)

    def predict(rows: np.ndarray):
        some = index.pick(rows)
        wanted = {"size": SIZE, "kernel": kernel}
        return predictions(segmenter, read_images(some), some.present, params.pseudo_labels, **wanted)

    labels = resumable_labels(predict, replace(share, folder=share.folder / "labels"), total=COUNT)
    if share.is_rank_zero:
        write_seeds(out / "seeds.h5", rows, count=COUNT, grid=grid_size(SIZE), classes=CLASSES, params="{}")
        with written_labels(out / "labels", format="shards") as add:
            for image_id, one in zip(index.ids, labels, strict=True):
                add(image_id, one.png)
    else:
        deque(rows, maxlen=0)
        deque(labels, maxlen=0)
    sizes = zip(index.heights, index.widths, strict=True)
    masks = [np.full(size, row % 3, np.uint8) for row, size in enumerate(sizes)]
    told = {"classes": CLASSES, "size": SIZE, "kernel": kernel}
    share = replace(share, folder=share.folder / "evaluate")
    scores, _ = evaluate_segmenter(segmenter, index, masks, params.evaluate, share=share, **told)
    if share.is_rank_zero:
        (out / "metrics.json").write_text(json.dumps([scores.metrics(), scores.images]))


if __name__ == "__main__":
    generate(Path(sys.argv[1]), Path(sys.argv[2]), topology=topology())
