"""Where data comes from: each source reads one layout into a Scan."""

import hashlib
from pathlib import Path

from dsrg.sources.coco import scan_coco
from dsrg.sources.folder import scan_folder
from dsrg.sources.validation import Record, Scan, ValidatedData, check_records
from dsrg.sources.voc import scan_voc

SOURCES = {"voc": scan_voc, "folder": scan_folder, "coco": scan_coco}


def read_source(
    root: Path, *, pixels_max: int, on_bad: str, untagged: str, masks_to: Path | None = None, **layout: object
) -> tuple[list[str], ValidatedData]:
    """`scan` and `check_records` in one: the classes, and the data under `root` once it may be trusted.

    Keywords are params `data`, without its root and size. Raises InputError with all that is wrong.
    """
    found, rules = scan(root, **layout), {"pixels_max": pixels_max, "on_bad": on_bad, "untagged": untagged}
    return found.classes, check_records(found, **rules, masks_to=masks_to)


def scan(
    root: Path,
    *,
    source: str,
    train: str,
    val: str | None,
    tags: str | None,
    separator: str,
    val_share: float,
    split_seed: int,
) -> Scan:
    """Read the splits `train` and `val` of the data under `root`; all that is wrong is in the scan's problems.

    Without `val`, the share `val_share` of the images is drawn for evaluation. What `train` and `val` name, see the
    source's own module; the table `tags` and `separator` are for source `folder` alone.
    """
    table = {"table": tags, "separator": separator} if source == "folder" else {}
    found = SOURCES[source](root, train=train, val=val, **table)
    if val is None:
        found.records = draw_val(found.records, val_share, seed=split_seed)
    trained_on = [record for record in found.records if record.split == "train"]
    if trained_on and not found.problems and not any(record.tags for record in trained_on):
        lacks = f"no tag on any of {len(trained_on)} training images, so nothing to learn"
        found.problems.append(f"{found.root}: {lacks}; tag them")
    return found


def draw_val(records: list[Record], share: float, *, seed: int) -> list[Record]:
    """The same records, some of them moved to the split "val": `share` of all, rounded, but never the last to train on.

    Drawn are those whose id has the lowest checksum together with the seed, so a set that grows keeps its split but for
    a few images. Where some images have masks, only those are drawn: others cannot be evaluated.
    """

    def order(record: Record) -> str:
        return hashlib.sha256(f"{seed}/{record.id}".encode()).hexdigest()

    eligible = [record for record in records if record.mask is not None] or records
    count = min(round(share * len(records)), len(records) - 1)
    drawn = {record.id for record in sorted(eligible, key=order)[: max(count, 0)]}
    return [record._replace(split="val") if record.id in drawn else record for record in records]
