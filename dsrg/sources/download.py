"""Fetching PASCAL VOC 2012 with the images and masks that SBD adds to it, as one tree in VOC's layout.

ROOT/VOCtrainval_11-May-2012.tar, ROOT/benchmark.tgz       what torchvision.datasets names; not needed afterwards
ROOT/VOCdevkit/VOC2012/                                    VOC's own tree (see `dsrg.sources.voc`)
    ImageSets/Segmentation/trainaug.txt                    10,582 ids (see `dsrg.sources.sbd`)
    SegmentationClassAug/ID.png                            SBD's masks of training images that have none in VOC

Every step is done atomically, and not again where its result is in place: a run that was stopped goes on.
"""

import re
import tarfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torchvision.datasets import SBDataset
from torchvision.datasets.utils import calculate_md5, check_integrity, download_url, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from dsrg.data.palette import label_png
from dsrg.errors import InputError, collecting, few, one_line
from dsrg.files import atomic_file, read_text
from dsrg.runtime.progress import track
from dsrg.sources.sbd import TRAINAUG, list_ids, read_sbd_mask, write_trainaug
from dsrg.sources.voc import list_path

SBD_LIST = re.compile(r"(?:\./)?benchmark_RELEASE/dataset/(train|val)\.txt")
SBD_MASK = re.compile(r"(?:\./)?benchmark_RELEASE/dataset/cls/(\d{4}_\d{6})\.mat")


class Archive(NamedTuple):
    """A file to fetch and the checksum it must have."""

    url: str
    name: str
    md5: str


@dataclass(frozen=True)
class Release:
    """The archives, and the numbers of files and ids by which a tree is known to be complete."""

    voc: Archive
    sbd: Archive
    folders: dict[str, int]  # VOC's folder: files, at least (those of the test split may lie there too)
    lists: dict[str, int]  # VOC's list: ids
    trainaug: int


VOC2012 = Release(
    voc=Archive(*(DATASET_YEAR_DICT["2012"][key] for key in ("url", "filename", "md5"))),
    sbd=Archive(SBDataset.url, SBDataset.filename, SBDataset.md5),
    folders={"JPEGImages": 17_125, "Annotations": 17_125, "SegmentationClass": 2_913},
    lists={"train": 1_464, "val": 1_449},
    trainaug=TRAINAUG,
)


def download_voc2012(root: Path, *, release: Release) -> Path:
    """Fetch, check and unpack what is not in place below `root` yet -> the folder VOC2012, for `data.root`.

    Raises InputError for every archive that cannot be fetched, with its address and the place to put it by hand; for a
    VOC2012 that is there but incomplete, which is left as it is; and when the lists do not add up to `trainaug`.
    """
    voc = root / "VOCdevkit" / "VOC2012"
    if voc.exists() and (faults := voc_faults(voc, release)):
        raise InputError([*faults, f"{voc}: incomplete; move it out of the way and run this again"])
    problems = []
    with collecting(problems):
        if not voc.exists():
            _unpack_voc(_fetch(release.voc, root), voc, release)
    if problems or trainaug_faults(voc, release):
        with collecting(problems):
            sbd = _fetch(release.sbd, root)
            if not problems:
                _add_sbd(sbd, voc, release)
    if problems := problems or trainaug_faults(voc, release):
        raise InputError(problems)
    return voc


def voc_faults(voc: Path, release: Release) -> list[str]:
    """What a tree lacks of VOC's own files, as far as counting shows."""
    faults = []
    for name, expected in release.folders.items():
        if (found := len(_stems(voc / name))) < expected:
            faults.append(f"{voc / name}: {found:,} files; expected {expected:,}")
    for name, expected in release.lists.items():
        path = list_path(voc, name)
        if (found := len(_ids(path))) != expected:
            faults.append(f"{path}: {found:,} ids; expected {expected:,}")
    return faults


def trainaug_faults(voc: Path, release: Release) -> list[str]:
    """What a tree lacks of `trainaug`: its list, and an image, an annotation and a mask for every id."""
    path = list_path(voc, "trainaug")
    ids = _ids(path)
    if len(ids) != release.trainaug or ids & _ids(list_path(voc, "val")):
        return [f"{path}: {len(ids):,} ids; expected {release.trainaug:,}, none of them in val.txt"]
    files = {name: _stems(voc / name) for name in ("JPEGImages", "Annotations")} | {"SegmentationClassAug": _masks(voc)}
    lacks = {name: sorted(ids - stems) for name, stems in files.items()}
    return [
        f"{voc / name}: no file for {len(missing):,} ids of trainaug ({few(missing)})"
        for name, missing in lacks.items()
        if missing
    ]


def _fetch(archive: Archive, folder: Path) -> Path:
    path = folder / archive.name
    if check_integrity(path, archive.md5):
        return path
    try:
        with atomic_file(path) as temporary:
            download_url(archive.url, folder, temporary.name, archive.md5)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: what came has another checksum
        there = f"; the file there has md5 {calculate_md5(path)}" if path.is_file() else ""
        raise InputError(
            f"{path}: cannot be fetched ({one_line(error)}){there}; fetch {archive.url} where there is a "
            f"network (md5 {archive.md5}), put it at this path, and run this again"
        ) from None
    return path


def _unpack_voc(archive: Path, voc: Path, release: Release) -> None:
    with TemporaryDirectory(dir=archive.parent, prefix=".VOC2012.") as folder:
        try:
            with tarfile.open(archive) as members:
                odd = [member.name for member in members if not _is_harmless(member)]
            if odd:
                raise InputError(f"{archive}: {name}: leads out of the folder it is unpacked into" for name in odd)
            extract_archive(archive, folder)
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{archive}: cannot be unpacked ({error})") from None
        unpacked = Path(folder) / "VOCdevkit" / "VOC2012"
        if faults := voc_faults(unpacked, release):
            raise InputError(faults)
        voc.parent.mkdir(parents=True, exist_ok=True)
        unpacked.rename(voc)


def _is_harmless(member: tarfile.TarInfo) -> bool:
    """A file or folder that comes to lie where the archive is unpacked; links could lead anywhere."""
    path = PurePosixPath(member.name)
    return (member.isfile() or member.isdir()) and not path.is_absolute() and ".." not in path.parts


def _add_sbd(archive: Path, voc: Path, release: Release) -> None:
    """Write SBD's masks of images that have none yet, then `trainaug.txt`.

    Masks come first and one by one, straight out of the archive: no order of its members is taken for granted, and
    the 1.4 GB need not be unpacked.
    """
    lists, problems, masks = {}, [], _masks(voc)
    total = release.trainaug - len(_ids(list_path(voc, "train")))
    already = len(masks & _stems(voc / "SegmentationClassAug"))
    with tarfile.open(archive) as members, track("masks of SBD", total, start=already) as tracker:
        for member in members:
            if match := SBD_LIST.fullmatch(member.name):
                lists[match[1]] = list_ids(members.extractfile(member).read().decode())
            elif (match := SBD_MASK.fullmatch(member.name)) and match[1] not in masks:
                with collecting(problems):
                    mask = read_sbd_mask(members.extractfile(member).read(), f"{archive}: {member.name}")
                    with atomic_file(voc / "SegmentationClassAug" / f"{match[1]}.png") as temporary:
                        temporary.write_bytes(label_png(mask))
                    tracker.advance()
    if missing := {"train", "val"} - lists.keys():
        problems.append(f"{archive}: no list {' nor '.join(sorted(missing))}; fetch it again")
    if problems:
        raise InputError(problems)
    write_trainaug(voc, sbd_train=lists["train"], sbd_val=lists["val"], expected=release.trainaug)


def _masks(voc: Path) -> set[str]:
    return _stems(voc / "SegmentationClass") | _stems(voc / "SegmentationClassAug")


def _stems(folder: Path) -> set[str]:
    """Names of the files in a folder without their endings; hidden ones, such as unfinished files, do not count."""
    return {path.stem for path in folder.glob("[!.]*")}


def _ids(path: Path) -> set[str]:
    return list_ids(read_text(path)) if path.is_file() else set()
