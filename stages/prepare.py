"""Check every image and mask once and write the index that all other stages start from."""

from dsrg.data.check import check_records
from dsrg.data.classes import write_classes
from dsrg.data.index import write_ground_truth, write_index
from dsrg.data.sources import scan
from dsrg.files import whole_folder, write_csv
from dsrg.pipeline import Stage, run_stage


def prepare(stage: Stage) -> None:
    data = stage.params.data
    found = scan(
        data.source,
        stage.data_root,
        train=data.train,
        val=data.val,
        tags=data.tags,
        separator=data.separator,
        val_share=data.val_share,
        split_seed=data.split_seed,
    )
    with whole_folder(stage.file["masks"]) as masks:
        checked = check_records(
            found, pixels_max=data.pixels_max, on_bad=data.on_bad, untagged=data.untagged, masks_to=masks
        )
    for warning in checked.warnings:
        print(f"warning: {warning}")
    write_csv(stage.file["skipped"], ["id", "problem"], checked.skipped)
    write_classes(stage.file["classes"], found.classes)
    write_ground_truth(stage.file["ground_truth"], checked.ground_truth)
    write_index(stage.file["index"], checked.index, found.classes)
    left_out = len({fault.id for fault in checked.skipped})
    counts = f"{len(checked.index)} images, {left_out} left out"
    print(f"{counts}; {len(found.classes)} classes, {len(checked.ground_truth)} masks")


if __name__ == "__main__":
    run_stage(prepare)
