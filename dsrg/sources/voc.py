"""Data in the layout of PASCAL VOC 2012.

ROOT/JPEGImages/ID.jpg                    the images (or of other kinds, see data.images)
ROOT/Annotations/ID.xml                   the tags: the name of each <object>, <difficult> ones too
ROOT/SegmentationClass/ID.png             masks, where there are any
ROOT/SegmentationClassAug/ID.png          masks of images that have none there (SBD's: no unlabeled borders)
ROOT/ImageSets/Segmentation/SPLIT.txt     one id a line
ROOT/classes.txt                          one class name a line; without this file, VOC's twenty
"""

from collections import defaultdict
from collections.abc import Container, Iterable
from pathlib import Path

from dsrg.data.classes import VOC_CLASSES, read_classes
from dsrg.data.ids import ListEntry, id_fault, id_problems, normal
from dsrg.data.images import ENDINGS, HOW_TO_READ
from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.files import parse_xml, read_text
from dsrg.sources.validation import ImageProblem, Record, Scan, check_records, tag_faults

FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Segmentation")
ANNOTATION_MAX = 16 * 1024**2  # bytes; VOC's own have less than 20,000, and reading one takes 20 times its size
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")  # a mask is looked for in the first one first


def scan_voc(root: str | Path, *, train: str, val: str | None) -> Scan:
    """Read lists and tags, and find images and masks; opens no image.

    `train` and `val` name the lists (`trainaug`, `val`); without `val` there are training images only. Never raises for
    bad data: all problems are in the scan.
    """
    scan = Scan(Path(root), VOC_CLASSES, problems=_layout_problems(Path(root), FOLDERS))
    if not scan.problems and (own := scan.root / "classes.txt").exists():
        with scan.collecting():
            scan.classes = read_classes(own)
    if scan.problems:
        return scan

    listed: list[ListEntry] = []
    for split, name in {"train": train, "val": val}.items():
        with scan.collecting():
            listed += _read_list(scan.root, name, split, key=f"data.{split}") if name is not None else []
    listed, images = _find_images(scan, listed)
    annotations, tags = _files(scan.root, "Annotations", {".xml"}), {}
    for image_id in dict.fromkeys(entry.id for entry in listed):
        path = scan.root / annotations.get(image_id, [f"Annotations/{image_id}.xml"])[0]
        with scan.collecting(image_id):
            tags[image_id] = _read_tags(path)
            scan.faults += tag_faults([(image_id, str(path), tags[image_id])], scan.classes)
    masks: dict[str, str] = {}
    for folder in MASK_FOLDERS:
        for image_id, found in _files(scan.root, folder, ENDINGS).items():
            masks.setdefault(image_id, min(found, key=lambda path: not path.lower().endswith(".png")))
    scan.warn("masks belong to no image", sorted(mask for image_id, mask in masks.items() if image_id not in images))
    scan.records = [
        Record(entry.id, entry.split, images[entry.id], tags.get(entry.id, ()), masks.get(entry.id))
        for entry in listed
        if entry.id in images
    ]
    return scan


def untagged_index(root: str | Path, name: str, classes: list[str], *, key: str, pixels_max: int) -> Index:
    """The images of one list as an index to predict on, without tags: `present` is background alone, split is "val".

    Needs neither annotations nor masks (the test split has none) and opens every image once. `key` is where the person
    named the list. Raises InputError with all problems at once, as `check_records` does.
    """
    scan = Scan(Path(root), classes)
    if problems := _layout_problems(scan.root, ("JPEGImages", "ImageSets/Segmentation")):
        raise InputError(problems)
    listed, images = _find_images(scan, _read_list(scan.root, name, "val", key=key))
    scan.records = [Record(entry.id, "val", images[entry.id], (), None) for entry in listed if entry.id in images]
    return check_records(scan, pixels_max=pixels_max, on_bad="fail", untagged="background").index


def list_path(root: Path, name: str) -> Path:
    """Where a list is kept."""
    return root / "ImageSets" / "Segmentation" / f"{name}.txt"


def _layout_problems(root: Path, folders: Iterable[str]) -> list[str]:
    missing = [root / folder for folder in folders if not (root / folder).is_dir()]
    if not missing:
        return []
    inside = next((sets.parent for depth in ("*", "*/*") for sets in root.glob(f"{depth}/ImageSets")), None)
    hint = f"did you mean {inside}?" if inside else f"expected {', '.join(folders)} in the data root"
    return [f"{folder}: no such folder; {hint} (data.root)" for folder in ([root] if not root.is_dir() else missing)]


def _read_list(root: Path, name: str, split: str, *, key: str) -> list[ListEntry]:
    path = list_path(root, name)
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        raise InputError(f"{path}: no such list; set {key} to one of those there: {others}")
    lines = enumerate(read_text(path).split("\n"), start=1)
    listed = [ListEntry(normal(line.strip()), split, f"{path}:{number}") for number, line in lines if line.strip()]
    if not listed:
        raise InputError(f"{path}: an empty list; expected one image id a line")
    return listed


def _find_images(scan: Scan, listed: list[ListEntry]) -> tuple[list[ListEntry], dict[str, str]]:
    """Entries with sound ids, and images by id, relative to the root; an id with none or several is a fault."""
    images = _files(scan.root, "JPEGImages", {*ENDINGS, *HOW_TO_READ})  # reading one of these says what it needs
    scan.problems += id_problems(listed)
    listed = [entry for entry in listed if not id_fault(entry.id)]
    for entry in listed:
        if len(found := images.get(entry.id, [])) != 1:
            what = f"has {len(found)} images: {', '.join(found)}; keep one" if found else "has no image"
            problem = f"{entry.where}: id {entry.id!r} {what}; expected JPEGImages/{entry.id}.jpg (or .png ...)"
            scan.faults.append(ImageProblem(entry.id, problem))
    return listed, {image_id: found[0] for image_id, found in images.items()}


def _files(root: Path, folder: str, endings: Container[str]) -> dict[str, list[str]]:
    """The files of a folder that end so, by their names without that; paths are relative to the root."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((root / folder).glob("[!.]*")):
        if path.suffix.lower() in endings:
            found[normal(path.stem)].append(f"{folder}/{path.name}")
    return found


def _read_tags(path: Path) -> tuple[str, ...]:
    """Names of the objects in one annotation, each once."""
    try:
        annotation = parse_xml(path, most=ANNOTATION_MAX)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; each listed image needs an annotation with its tags") from None
    except ValueError as error:
        raise InputError(f"{path}: no readable annotation ({error})") from None
    found = annotation.findall("object")
    objects = [thing.tag for thing in annotation.iter() if thing.tag.casefold() == "object"]
    if annotation.tag != "annotation" or len(objects) > len(found):
        odd = f"{annotation.tag}>" if annotation.tag != "annotation" else f"{min(objects)}> in another place or case"
        raise InputError(f"{path}: expected <annotation> with <object><name> inside, found <{odd}")
    names = [normal((thing.findtext("name") or "").strip()) for thing in found]
    if "" in names:
        raise InputError(f"{path}: object {names.index('') + 1} of {len(names)} has no <name>; name its class")
    return tuple(dict.fromkeys(names))
