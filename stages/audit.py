"""Hold seeds and pseudo labels against the training masks, where there are any. Nothing depends on this stage."""

from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.seeds_h5 import read_seeds
from dsrg.data.index import Masks, read_ground_truth
from dsrg.evaluation.scores import enlarge_grid, with_ground_truth, write_quality
from dsrg.files import write_json
from dsrg.method.metrics import label_quality, total_confusion
from dsrg.stage import Stage, run_stage


def audit(stage: Stage) -> None:
    classes = stage.classes
    truth = read_ground_truth(stage.paths.ground_truth)
    index = with_ground_truth(stage.project.index().split("train"), truth)
    seeds = read_seeds(stage.paths.seeds, classes=classes).in_order(index.ids)
    shapes = zip(index.heights, index.widths, strict=True)
    label_maps = {
        "seeds": (enlarge_grid(row, shape) for row, shape in zip(seeds, shapes, strict=True)),
        "pseudo_labels": LabelFolder(stage.paths.pseudo_labels, index.ids, stage_name="make_pseudo_labels"),
    }
    metrics = {}
    for name, maps in label_maps.items():
        masks = Masks(truth, index.ids, folder=stage.paths.masks)
        confusion = total_confusion(masks, maps, classes=len(classes))
        metrics[name] = label_quality(confusion)
        write_quality(stage.results / f"{name}.csv", confusion, classes)
    write_json(stage.results / "metrics.json", metrics)


if __name__ == "__main__":
    run_stage(audit)
