"""Whatever people put into a folder: one line that says what is wrong or odd; no traceback, no hang, no lack of memory.

Each case spoils one thing of a sound folder, project or call; `dsrg check` must then say what stands beside it, and end
with code 2, or, where nothing has to be fixed, with 0.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dsrg.sources.table import TABLE_BYTES, TABLE_LINES
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.data import encoded, huge_png, picture, write
from helpers.memory import memory_within
from helpers.project import changed_params

CLASSES, TABLE = "cat\ndog\n", "image,tags\na.png,cat\nb.png,dog\nc.png,cat|dog\n"
PIXELS = picture(24, 40, seed=1)


def mask(values: list[int], *, size: tuple[int, int] = (24, 40)) -> bytes:
    return encoded(np.resize(np.array(values, np.uint8), size), "PNG")


PNG, JPEG, WEBP, TIFF, GIF = (encoded(PIXELS, form) for form in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"))
TURNED = encoded(PIXELS, "JPEG", turned=6)
PRINTED = encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG")
DEEP = cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)[1].tobytes()
GLASS_MASK = np.zeros((24, 40, 4), np.uint8)
GLASS = encoded(np.dstack([PIXELS, PIXELS[:, :, :1]]), "PNG")


def huge_jpeg(width: int, height: int) -> bytes:
    start = JPEG.index(b"\xff\xc0") + 5  # of the frame's header
    return JPEG[:start] + struct.pack(">HH", height, width) + JPEG[start + 4 :]


def huge_tiff(width: int, height: int) -> bytes:
    """A little-endian TIFF whose directory speaks of more pixels than there are."""
    content, (directory,) = bytearray(TIFF), struct.unpack_from("<I", TIFF, 4)
    for entry in range(struct.unpack_from("<H", TIFF, directory)[0]):
        place = directory + 2 + 12 * entry
        if (tag := struct.unpack_from("<H", TIFF, place)[0]) in (256, 257):
            struct.pack_into("<HII", content, place + 2, 4, 1, width if tag == 256 else height)
    return bytes(content)


def two_frames(form: str, **options) -> bytes:
    return encoded(PIXELS, form, save_all=True, append_images=[Image.new("RGB", (40, 24))], **options)


# name: (the content of b.png, what is said). The name's ending is not always true.
IMAGES = {
    "empty": (b"", "b.png: the file is empty; restore or remove it"),
    "text": (b"this is no image\n" * 50, "b.png: not an image of a known format"),
    "web page": (b"<!DOCTYPE html><html></html>", "b.png: a web page or other text under an image's name"),
    "zip archive": (b"PK\3\4" + bytes(100), "b.png: not an image of a known format"),
    "random bytes": (np.random.default_rng(0).bytes(5000), "b.png: not an image of a known format"),
    "GIF": (GIF, "warning: 1 images are of another format than their names say"),
    "first bytes alone": (PNG[:8], "b.png: "),
    "PNG's header alone": (PNG[:33], "b.png: "),
    "truncated PNG": (PNG[: len(PNG) // 2], "b.png: broken image"),
    "truncated JPEG": (JPEG[: len(JPEG) * 3 // 4], "b.png: broken image"),
    "truncated WebP": (WEBP[: len(WEBP) // 2], "b.png: broken image"),
    "truncated TIFF": (TIFF[: len(TIFF) // 2], "b.png: broken image"),
    "a flipped bit in PNG": (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "b.png: broken image"),
    "PNG bomb": (huge_png(PNG, 32767, 32767), "b.png: more than 100,000,000 pixels (data.pixels_max); scale the image"),
    "PNG of 2^31 pixels a side": (huge_png(PNG, 2**31 - 1, 2**31 - 1), "b.png: "),
    "PNG of no width": (huge_png(PNG, 0, 24), "b.png: "),
    "JPEG bomb": (huge_jpeg(65500, 65500), "b.png: more than 100,000,000 pixels"),
    "TIFF bomb": (huge_tiff(10**6, 10**6), "b.png: more than 100,000,000 pixels"),
    "TIFF that lies a little": (huge_tiff(9000, 9000), "b.png: "),
    "ICO": (encoded(PIXELS, "ICO"), "expected a JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC image"),
    "HEIC of no content": (b"\0\0\0\x18ftypheic" + bytes(99), "b.png: "),
    "JPEG without its last bytes": (JPEG[:-20], "truncated"),
    "PNG without its end": (PNG[:-12], "truncated, its last chunk is missing"),
    "a TIFF of five bands": (
        TIFF.replace(b"\x15\x01\3\0\1\0\0\0\3", b"\x15\x01\3\0\1\0\0\0\5"),
        "b.png: a TIFF of bands, bits",
    ),
    "32-bit floats": (encoded(PIXELS[:, :, 0].astype(np.float32), "TIFF"), "b.png: a TIFF of 32 bits a channel"),
    "JPEG called PNG": (JPEG, "warning: 1 images are of another format than their names say"),
    "bytes behind the end": (PNG + bytes(1000), "fine: 3 training images"),
    "animated PNG": (two_frames("PNG"), "warning: 1 images have several frames or pages, of which the first"),
    "animated WebP": (two_frames("WEBP"), "warning: 1 images have several frames or pages, of which the first"),
    "TIFF of two pages": (two_frames("TIFF"), "warning: 1 images have several frames or pages, of which the first"),
    "16 bits": (DEEP, "warning: 1 images have 16 bits a channel, of which the upper 8 are used: b"),
    "CMYK": (
        encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
        "warning: 1 images are CMYK, turned into RGB without their color profile: b",
    ),
    "transparent": (GLASS, "warning: 1 images are transparent in places, where the colors beneath are used: b"),
    "gray": (encoded(PIXELS[:, :, 0], "PNG"), "fine: 3 training images"),
    "black and white": (encoded(PIXELS[:, :, 0] > 99, "PNG"), "fine: 3 training images"),
    "turned by EXIF": (TURNED, "fine: 3 training images"),
    "1 x 1": (encoded(PIXELS[:1, :1], "PNG"), "fine: 3 training images"),
    "3 x 2000": (encoded(picture(3, 2000, seed=0), "PNG"), "fine: 3 training images"),
    "2000 x 3": (encoded(picture(2000, 3, seed=0), "JPEG"), "fine: 3 training images"),
}

# name: (the content of tags.csv, what is said)
TABLES = {
    "nothing": ("", "tags.csv:1: no column 'image'; expected image and tags"),
    "the header alone": ("image,tags\n", "tags.csv: a table without rows; expected one image a row"),
    "no header": ("a.png,cat\nb.png,dog\n", "tags.csv:1: no column 'image'; expected image and tags, perhaps split"),
    "a column twice": ("image,tags,tags\na.png,cat,dog\n", "tags.csv:1: more than one column 'tags'"),
    "a byte order mark": ("\ufeff" + TABLE, "fine: 3 training images"),
    "UTF-16": (TABLE.encode("utf-16"), "fine: 3 training images"),
    "UTF-16 without a mark": (TABLE.encode("utf-16-le"), "tags.csv:1: no column 'image'"),
    "Latin-1": (TABLE.replace("cat", "k\xe4fer").encode("latin-1"), "is not UTF-8 text; save the file as UTF-8"),
    "a binary file": (PNG, "tags.csv: byte 0 is not UTF-8 text"),
    "line ends of old Macs": (TABLE.replace("\n", "\r"), "fine: 3 training images"),
    "line ends of Windows": (TABLE.replace("\n", "\r\n"), "fine: 3 training images"),
    "semicolons": (TABLE.replace(",", ";"), "fine: 3 training images"),
    "colons": (TABLE.replace(",", ":"), "tags.csv:1: no column 'image'; expected image and tags, perhaps split"),
    "another separator of tags": (TABLE.replace("|", ";"), "tag 'cat;dog': it is made of 'cat' and 'dog'; if"),
    "a cell too many": (TABLE + "a.png,cat,dog\n", "tags.csv:5: 3 cells under 2 columns; quote a name or tags that"),
    "a cell too few": (TABLE + "a.png\n", "tags.csv:5: 1 cells under 2 columns"),
    "an open quote": (TABLE + '"a.png,cat\n', "tags.csv:5: unexpected end of data"),
    "an endless cell": (TABLE + "x" * 200_000 + ",cat\n", "tags.csv:5: field larger than field limit (131072)"),
    "an endless header": ("x" * 200_000, "tags.csv:1: field larger than field limit (131072)"),
    "a NUL": (TABLE + "a\0.png,cat\n", "tags.csv:5: no image 'a\\x00.png'"),
    "control characters": (TABLE + "\x1b[31mred,cat\n", "tags.csv:5: no image '\\x1b[31mred'"),
    "a class of control characters": (TABLE + "a.png,\x1b[31m\n", "tags.csv:5: '\\x1b[31m' must not hold '|', control"),
    "a row twice": (TABLE + "a.png,cat\n", "tags.csv:5: id 'a' is listed twice (p/tags.csv:2); put all"),
    "a row twice, otherwise written": (TABLE + "./a,dog\n", "tags.csv:5: id 'a' is listed twice"),
    "a missing image": (TABLE + "d.png,cat\n", "tags.csv:5: no image 'd.png'; expected its path below data.root"),
    "another case": (TABLE + "A.PNG,cat\n", "tags.csv:5: no image 'A.PNG'; did you mean 'a.png'?"),
    "another ending": (TABLE + "A.jpg,cat\n", "tags.csv:5: no image 'A.jpg'; did you mean 'a.png'?"),
    "another folder": (TABLE + "home/p/a.png,cat\n", "tags.csv:5: no image 'home/p/a.png'; did you mean 'a.png'?"),
    "no name": (TABLE + ",cat\n", "tags.csv:5: no image ''; expected its path below data.root"),
    "no name but a slash": (TABLE + "/,cat\n", "tags.csv:5: no image '/'; expected its path below data.root"),
    "a way out of the folder": (TABLE + "../p/a.png,cat\n", "tags.csv:5: no image '../p/a.png'"),
    "an absolute path": (TABLE + "/etc/passwd,cat\n", "tags.csv:5: no image '/etc/passwd'"),
    "an address": (TABLE + "https://example.org/z.png,cat\n", "tags.csv:5: no image 'https://example.org/z.png'"),
    "no tags at all": ("image,tags\na.png,\nb.png,\n", "tags.csv: no tag in any row, so no class to learn; tag the"),
    "some rows without tags": (TABLE + "d,\n", "tags.csv:5: no image 'd'"),
    "empty tags": (TABLE.replace("cat|dog", "|cat||dog|"), "fine: 3 training images"),
    "a class in two cases": (TABLE.replace("|dog", "|Dog"), "'dog' differs only in case from 'Dog'"),
    "the class background": (TABLE.replace("|dog", "|Background"), "tags.csv:4: background is always class 0; leave"),
    "255 classes": (TABLE + "a.png," + "|".join(map(str, range(255))), "257 names; expected 1 to 254 classes"),
    "too many lines": (TABLE + "\n" * TABLE_LINES, "tags.csv: 200,004 lines; expected at most 200,000"),
    "a split in some rows": (TABLE.replace("tags\n", "tags,split\n", 1), "tags.csv:2: 2 cells under 3 columns"),
    "no row of data.train": ("image,tags,split\na.png,cat,test\n", "no row has the split 'train'"),
}  # fmt: skip

# name: (files below p, None = removed, what is said)
FILES = {
    "a tag that is no class": ({"classes.txt": "cats\ndog\n"}, "tag 'cat' is none of the 2 classes (cats ... dog)"),
    "another separator of tags": ({"classes.txt": CLASSES, "tags.csv": TABLE.replace("|", ";")},
                                  "tag 'cat;dog' is none of the 2 classes (cat ... dog); it is made of 'cat' and"),
    "a number for a tag": ({"classes.txt": CLASSES, "tags.csv": TABLE.replace("|dog", "|2")}, "tags are names of"),
    "UTF-16 in it": ({"classes.txt": CLASSES.encode("utf-16")}, "fine: 3 training images"),
    "a class that never occurs": ({"classes.txt": "cat\ndog\nemu\n"}, "warning: 1 classes have no training image"),
    "a large classes.txt": ({"classes.txt": "x" * 2**21}, "classes.txt: 2.0 MiB; expected at most 1.0 MiB of text"),
    "no table": ({"tags.csv": None}, "tags.csv: no such file; expected a table of tags (data.tags)"),
    "another table": ({"tags.csv": None, "labels.csv": TABLE}, "set data.tags to one of those there: labels.csv"),
    "no images": ({f"{name}.png": None for name in "abc"}, "p: no image in this folder or below it; expected .jpg"),
    "images in no row": ({"d.png": PNG}, "warning: 1 images are in no row of the table, so not used: d.png"),
    "files that a Mac hides": ({"._tags.csv": b"\0\5\x16\7\xff", "._a.png": b"\0\5"}, "fine: 3 training images"),
    "spaces around names": ({" x /  d .png": JPEG, "tags.csv": TABLE + " x /  d .png,cat\n x /d,dog\n"},
                            "tags.csv:6: id ' x __  d ' is listed twice"),
    "two images of one name": ({"x/a.png": JPEG}, "fine: 3 training images"),
    "two images that may be meant": ({"x/q.png": PNG, "y/q.png": JPEG, "tags.csv": TABLE + "q,cat\n"},
                                     "tags.csv:5: image 'q' may be any of x/q.png, y/q.png; name more of its path"),
    "names in two cases": ({"A.PNG": JPEG, "tags.csv": TABLE + "A.PNG,cat\n"}, "fine: 4 training images"),
    "odd names": ({"ö ?*:|\n<>.png": JPEG, "😀.png": WEBP}, "warning: 2 images are in no row of the table"),
    "names of devices": ({"CON.png": JPEG, "nul.x.png": WEBP, "tags.csv": TABLE + "CON,cat\nnul.x.png,cat\n"},
                         "fine: 5 training images"),
    "a copy": ({"b.png": (PNG)}, "warning: 1 images are byte for byte copies of others, but have other tags: b = a"),
    "a mask of another size": ({"masks/a.png": mask([0, 1], size=(9, 9)), "classes.txt": CLASSES},
                               "masks/a.png: 9 x 9 pixels, but its image has 40 x 24"),
    "a mask not turned with its image": ({"a.png": TURNED, "masks/a.png": mask([0, 1]), "classes.txt": CLASSES},
                                         "40 x 24 pixels, but its image has 24 x 40 (as turned by its EXIF"),
    "a mask of colors": ({"masks/a.png": PNG, "classes.txt": CLASSES}, "masks/a.png: 8-bit RGB PNG; a mask must be"),
    "a mask of 16 bits": ({"masks/a.png": encoded(PIXELS[:, :, 0].astype(np.uint16), "PNG"), "classes.txt": CLASSES},
                          "masks/a.png: 16-bit gray PNG; a mask must be a palette or 8-bit gray PNG"),
    "a transparent mask": ({"masks/a.png": encoded(GLASS_MASK, "PNG"), "classes.txt": CLASSES}, "8-bit RGBA PNG"),
    "a transparent gray mask": ({"masks/a.png": encoded(GLASS_MASK[..., :2], "PNG"), "classes.txt": CLASSES},
                                "gray with alpha"),
    "a mask of 1 bit": ({"masks/a.png": encoded(PIXELS[:, :, 0] > 99, "PNG"), "classes.txt": CLASSES},
                        "masks/a.png: 1-bit gray PNG"),
    "a mask cut within its header": ({"masks/a.png": mask([0, 1])[:20], "classes.txt": CLASSES}, "masks/a.png: "),
    "a mask that is a JPEG": ({"masks/a.png": JPEG, "classes.txt": CLASSES}, "masks/a.png: no PNG; a mask must be"),
    "a mask of other classes": ({"masks/a.png": mask([0, 3, 255]), "classes.txt": CLASSES},
                                "masks/a.png: holds 3; expected 0 (background), 1 to 2 (cat ... dog) or 255"),
    "a truncated mask": ({"masks/a.png": mask([0, 1])[:60], "classes.txt": CLASSES}, "masks/a.png: broken image"),
    "a mask that is a bomb": ({"masks/a.png": huge_png(mask([0]), 32767, 32767), "classes.txt": CLASSES},
                              "masks/a.png: 32767 x 32767 pixels; expected at most 100,000,000 (data.pixels_max)"),
    "a mask of two images": ({"x/a.png": JPEG, "masks/a.png": mask([0]), "classes.txt": CLASSES,
                              "tags.csv": TABLE + "x/a.png,cat\n"}, "masks/a.png: the mask of 2 images: a.png, x"),
    "a mask of no image": ({"masks/z.png": mask([0]), "classes.txt": CLASSES}, "warning: 1 masks belong to no image"),
    "masks without classes": ({"masks/a.png": mask([0, 1])}, "classes.txt: no such file; masks need it: line k names"),
    "masks and classes without a name": ({"masks/a.png": mask([0, 2]), "classes.txt": "\n"},
                                         "classes.txt: line 1: no name; expected one class name on each line"),
    "untagged classes in a mask": ({"masks/a.png": mask([0, 2]), "classes.txt": CLASSES},
                                   "warning: 1 images have a class in their mask that is not among their tags: a"),
}  # fmt: skip


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# name: (what is done to p, what is said)
PLACES = {
    "a pipe for an image": (lambda p: fifo(p / "b.png"), "b.png: a folder or device; expected a file"),
    "a pipe for the table": (lambda p: fifo(p / "tags.csv"), "tags.csv: no such file"),
    "a pipe for the classes": (lambda p: fifo(p / "classes.txt"), "classes.txt: a folder or device; expected a text"),
    "a device for an image": (lambda p: link(p / "b.png", "/dev/zero"), "b.png: a folder or device; expected a file"),
    "a device for the table": (lambda p: link(p / "tags.csv", "/dev/zero"), "tags.csv: no such file"),
    "a link to itself": (lambda p: link(p / "b.png", "b.png"), "b.png: Too many levels of symbolic links"),
    "a link to nothing": (lambda p: link(p / "b.png", "gone.png"), "b.png: No such file or directory"),
    "a link to the folder": (lambda p: link(p / "again", "."), "fine: 3 training images"),
    "links to one another": (lambda p: (link(p / "x", "y"), link(p / "y", "x")), "fine: 3 training images"),
    "a folder for an image": (lambda p: folder(p / "b.png"), "tags.csv:3: no image 'b.png'"),
    "a folder for the table": (lambda p: folder(p / "tags.csv"), "tags.csv: no such file"),
    "a folder for the classes": (lambda p: (p / "classes.txt").mkdir(), "classes.txt: a folder or device"),
    "a file for the folder": (lambda p: (shutil.rmtree(p), write(p, "x")), "p: no such folder; expected one with"),
    "no folder": (shutil.rmtree, "p: no such folder; expected one with"),
    "a file of holes": (lambda p: os.truncate(p / "b.png", 2**33), "b.png: 8,589,934,592 bytes, more than 100,000,000"),
    "a table of holes": (lambda p: os.truncate(p / "tags.csv", 2**33), "tags.csv: 8.0 GiB; expected at most 32.0 MiB"),
}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose data are the folder `p`: three images and their table."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/points.csv", tmp_path / "data")
    params = changed_params(ROOT / "recipes/folder.yaml", {"data": {"root": "p", "val_share": 0.0}})
    write(tmp_path / "params.yaml", params)
    for number, name in enumerate("abc"):
        write(tmp_path / f"p/{name}.png", encoded(np.roll(PIXELS, number, axis=1), "PNG"))
    write(tmp_path / "p/a.png", PNG)
    write(tmp_path / "p/tags.csv", TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(expected: str) -> None:
    """`dsrg check` says so; its code is 0 where that is no problem but a warning, or nothing worth a word."""
    with memory_within(300):  # beside 100 of Python and its libraries
        said = run_dsrg("check", code=0 if expected.startswith(("fine: ", "warning: ")) else 2)
    assert expected in said
    assert all(character.isprintable() for character in said.replace("\n", ""))


def test_the_sound_folder_is_fine(project):
    check("fine: 3 training images, 0 evaluation images, 0 masks")


@pytest.mark.parametrize(("content", "expected"), IMAGES.values(), ids=IMAGES)
def test_odd_image(project, content, expected):
    write(project / "p/b.png", content)
    check(expected)


@pytest.mark.parametrize(("content", "expected"), TABLES.values(), ids=TABLES)
def test_odd_table(project, content, expected):
    write(project / "p/tags.csv", content)
    check(expected)


@pytest.mark.parametrize(("files", "expected"), FILES.values(), ids=FILES)
def test_odd_files(project, files, expected):
    for name, content in files.items():
        (project / "p" / name).unlink() if content is None else write(project / "p" / name, content)
    check(expected)


@pytest.mark.parametrize(("spoil", "expected"), PLACES.values(), ids=PLACES)
def test_odd_place(project, spoil, expected):
    spoil(project / "p")
    check(expected)


def test_a_folder_that_may_not_be_opened(project, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    write(project / "p/private/z.png", PNG)
    monkeypatch.setattr(os, "scandir", refuse)
    check("warning: 1 folders cannot be opened: p/private")


def coco(**changes: object) -> str:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 40}],
        "annotations": [{"image_id": 1, "category_id": 7, "segmentation": [[0, 0, 9, 0, 9, 9]]}],
        "categories": [{"id": 7, "name": "cat"}],
    }
    return json.dumps(content | changes)


def annotated(outline: object) -> str:
    return coco(annotations=[{"image_id": 1, "category_id": 7, "segmentation": outline}])


# beside tests/test_coco.py; name: (the JSON file of data.train, what is said)
COCO = {
    "sound": (coco(), "fine: 1 training images"),
    "a number of many digits": ('{"images": ' + "9" * 10_000 + "}", "c.json: no readable JSON"),
    "a list": ("[]", "c.json: Input should be an object; expected COCO's images, annotations and categories"),
    "a class named background": (coco(categories=[{"id": 7, "name": "background"}]), "c.json: 0 names; expected 1 to"),
    "runs beyond the image": (annotated({"size": [24, 40], "counts": [10**12]}), "run lengths must cover 24 x 40"),
    "runs that are no text": (annotated({"size": [24, 40], "counts": "\u00ff"}), "a character that is none of COCO's"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), COCO.values(), ids=COCO)
def test_odd_coco(project, content, expected):
    write(project / "p/c.json", content)
    params = project / "params.yaml"
    write(params, changed_params(params, {"data": {"source": "coco", "train": "c.json"}}))
    check(expected)


# Memory, of a process of its own


RUN = """
import sys
from dsrg.commands import main
try:
    main()
finally:
    with open("/proc/self/status") as status, open("peak.txt", "w") as peak:
        peak.writelines(line for line in status if line.startswith("VmHWM"))
"""


def run_apart(*arguments: str, megabytes: int = 500) -> str:
    """What `dsrg ...` says: it must be a refusal that needed little memory."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process its peak of memory")
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stdout[-2000:]
    peak = int(Path("peak.txt").read_text().split()[1]) / 1000
    assert peak < megabytes, f"{peak:.0f} MB"
    return done.stdout


def test_all_that_is_dangerous_at_once(project):
    """Decompression bombs, large images of every format side by side, devices, pipes, terabytes of nothing."""
    large = Image.new("RGB", (8000, 6000), "white")
    options = {
        "l.png": {},
        "l.jpg": {"progressive": True},
        "l.webp": {"method": 0},
        "l.tif": {"compression": "tiff_lzw"},
    }
    for name, how in options.items():
        large.save(project / "p" / name, **how)
    Image.new("1", (10_000, 10_000)).save(project / "p/white.png")
    bombs = {
        "bomb.png": huge_png(PNG, 32767, 32767),
        "bomb.jpg": huge_jpeg(65500, 65500),
        "bomb.tif": huge_tiff(10**6, 10**6),
    }
    for name, content in bombs.items():
        write(project / "p" / name, content)
    write(project / "p/holes.png", PNG)
    os.truncate(project / "p/holes.png", 2**40)
    link(project / "p/zero.png", "/dev/zero")
    fifo(project / "p/pipe.png")
    names = [*options, "white.png", *bombs, "holes.png", "zero.png", "pipe.png"]
    write(project / "p/tags.csv", TABLE + "".join(f"{name},cat\n" for name in names))
    said = run_apart("check", megabytes=1000)  # WebP's decoder keeps two canvases beside the image
    assert said.count("more than 100,000,000 pixels") == 4
    assert said.count("a folder or device") == 2
    assert said.endswith("6 problems\n")


def test_a_table_that_is_wrong_all_over(project):
    write(project / "p/tags.csv", "image,tags\n" + "".join(f"nothing{k}.jpg,cat\n" for k in range(TABLE_LINES - 1)))
    assert run_apart("check").endswith(f"{TABLE_LINES - 1} problems\n")


def test_a_table_of_one_line(project):
    write(project / "p/tags.csv", "x" * TABLE_BYTES)
    assert "field larger than field limit" in run_apart("check")
