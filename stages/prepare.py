"""Check every image and mask once and write the index that all other stages start from."""

from dsrg.data.classes import write_classes
from dsrg.data.index import write_ground_truth, write_index
from dsrg.files import atomic_folder, write_csv
from dsrg.sources.scan import read_source
from dsrg.stage import Stage, run_stage


def prepare(stage: Stage) -> None:
    with atomic_folder(stage.paths.masks) as masks:
        classes, checked = read_source(stage.data_root, masks_to=masks, **vars(stage.params.data))
    for warning in checked.warnings:
        print(f"warning: {warning}")
    write_csv(stage.paths.skipped, ["id", "problem"], checked.skipped)
    write_classes(stage.paths.classes, classes)
    write_ground_truth(stage.paths.ground_truth, checked.ground_truth)
    write_index(stage.paths.index, checked.index, classes)
    left_out = len({fault.id for fault in checked.skipped})
    counts = f"{len(checked.index)} images, {left_out} left out"
    print(f"{counts}; {len(classes)} classes, {len(checked.ground_truth)} masks")


if __name__ == "__main__":
    run_stage(prepare)
