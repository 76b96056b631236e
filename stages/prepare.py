"""Check every image and mask once and write the index that all other stages start from."""

from dsrg.data.check import check_records
from dsrg.data.classes import write_classes
from dsrg.data.index import write_ground_truth, write_index
from dsrg.data.sources import scan
from dsrg.pipeline import Stage, run_stage


def prepare(stage: Stage) -> None:
    data = stage.params.data
    found = scan(data.source, stage.data_root, train=data.train, val=data.val)
    checked = check_records(found, pixels_max=data.pixels_max)
    for warning in checked.warnings:
        print(f"warning: {warning}")
    write_classes(stage.file["classes"], found.classes)
    write_ground_truth(stage.file["ground_truth"], checked.ground_truth)
    write_index(stage.file["index"], checked.index, found.classes)
    print(f"{len(checked.index)} images, {len(found.classes)} classes, {len(checked.ground_truth)} masks")


if __name__ == "__main__":
    run_stage(prepare)
