"""Data in the layout of PASCAL VOC 2012.

ROOT/JPEGImages/ID.jpg                    the images (or of other kinds, see data.images)
ROOT/Annotations/ID.xml                   the tags: the name of each <object>, <difficult> ones too
ROOT/SegmentationClass/ID.png             masks, where there are any
ROOT/SegmentationClassAug/ID.png          masks of images that have none there (SBD's: no unlabelled borders)
ROOT/ImageSets/Segmentation/SPLIT.txt     one id a line
ROOT/classes.txt                          one class name a line; without this file, VOC's twenty
"""

from collections.abc import Iterable
from pathlib import Path

from dsrg.data.classes import VOC_CLASSES, read_classes
from dsrg.data.ids import ListEntry, id_fault, id_problems
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
    root = Path(root)
    if problems := _layout_problems(root, FOLDERS):
        return Scan(root, [], [], problems)
    try:
        classes = read_classes(root / "classes.txt") if (root / "classes.txt").exists() else VOC_CLASSES
    except InputError as error:
        return Scan(root, [], [], error.problems)

    listed: list[ListEntry] = []
    for split, name in {"train": train, "val": val}.items():
        if name is None:
            continue
        try:
            listed += _read_list(list_path(root, name), split, key=f"data.{split}")
        except InputError as error:
            problems += error.problems
    problems += id_problems(listed)
    listed = [entry for entry in listed if not id_fault(entry.id)]

    images = _images_by_id(root)
    faults = _image_faults(listed, images)

    tags: dict[str, tuple[str, ...]] = {}
    for image_id in dict.fromkeys(entry.id for entry in listed):
        try:
            tags[image_id] = _read_tags(_annotation(root, image_id))
        except InputError as error:
            faults += [ImageProblem(image_id, problem) for problem in error.problems]
    faults += tag_faults(((i, str(_annotation(root, i)), names) for i, names in tags.items()), classes)

    records = [
        Record(entry.id, entry.split, images[entry.id][0], tags.get(entry.id, ()), _mask(root, entry.id))
        for entry in listed
        if entry.id in images
    ]
    return Scan(root, classes, records, problems, faults)


def untagged_index(root: str | Path, name: str, classes: list[str], *, key: str, pixels_max: int) -> Index:
    """The images of one list as an index to predict on, without tags: `present` is background alone, split is "val".

    Needs neither annotations nor masks (the test split has none) and opens every image once. `key` is where the person
    named the list. Raises InputError with all problems at once, as `check_records` does.
    """
    root = Path(root)
    if problems := _layout_problems(root, ("JPEGImages", "ImageSets/Segmentation")):
        raise InputError(problems)
    listed = _read_list(list_path(root, name), "val", key=key)
    images = _images_by_id(root)
    problems = id_problems(listed)
    listed = [entry for entry in listed if not id_fault(entry.id)]
    faults = _image_faults(listed, images)
    records = [Record(entry.id, entry.split, images[entry.id][0], (), None) for entry in listed if entry.id in images]
    scan = Scan(root, classes, records, problems, faults)
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


def _read_list(path: Path, split: str, *, key: str) -> list[ListEntry]:
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        raise InputError(f"{path}: no such list; set {key} to one of those there: {others}")
    lines = enumerate(read_text(path).split("\n"), start=1)
    listed = [ListEntry(line.strip(), split, f"{path}:{number}") for number, line in lines if line.strip()]
    if not listed:
        raise InputError(f"{path}: an empty list; expected one image id a line")
    return listed


def _image_faults(listed: Iterable[ListEntry], images: dict[str, list[str]]) -> list[ImageProblem]:
    """Ids that have no image, or several."""
    faults = []
    for entry in listed:
        if len(found := images.get(entry.id, [])) != 1:
            what = f"has {len(found)} images: {', '.join(found)}; keep one" if found else "has no image"
            problem = f"{entry.where}: id {entry.id!r} {what}; expected JPEGImages/{entry.id}.jpg (or .png ...)"
            faults.append(ImageProblem(entry.id, problem))
    return faults


def _images_by_id(root: Path) -> dict[str, list[str]]:
    """Images by id, their paths relative to the root."""
    images: dict[str, list[str]] = {}
    for path in sorted((root / "JPEGImages").iterdir()):
        if path.suffix.lower() in ENDINGS or path.suffix.lower() in HOW_TO_READ:  # reading one says what it needs
            images.setdefault(path.stem, []).append(f"JPEGImages/{path.name}")
    return images


def _annotation(root: Path, image_id: str) -> Path:
    return root / "Annotations" / f"{image_id}.xml"


def _mask(root: Path, image_id: str) -> str | None:
    masks = (f"{folder}/{image_id}.png" for folder in MASK_FOLDERS)
    return next((mask for mask in masks if (root / mask).exists()), None)


def _read_tags(path: Path) -> tuple[str, ...]:
    """Names of the objects in one annotation, each once."""
    try:
        annotation = parse_xml(path, most=ANNOTATION_MAX)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; each listed image needs an annotation with its tags") from None
    except ValueError as error:
        raise InputError(f"{path}: no readable annotation ({error})") from None
    if annotation.tag != "annotation":
        raise InputError(f"{path}: expected <annotation> with <object><name> inside, found <{annotation.tag}>")
    names = [(thing.findtext("name") or "").strip() for thing in annotation.findall("object")]
    return tuple(dict.fromkeys(names))
