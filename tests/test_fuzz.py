"""Broken, odd and evil files for everything that reads files: is each read or refused, in time and in little memory?

Hypothesis spoils sound files (flipped bits, false numbers, pieces lost, doubled and mixed) and makes up others in the
manner of each format, with the seals and checksums that a forger would set right. A reader may answer with a result, or
with this program's own InputError or RunError. All else fails: another exception, more than SECONDS, more than MEMORY,
a process that dies. A few inputs run always, 1000 for each reader with `make fuzz`, other ones each time.
"""

import io
import json
import pickle
import pickletools
import resource
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from zipfile import ZipFile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from dsrg.artifacts.cues import CONFLICTS, read_cues, write_cues
from dsrg.artifacts.label_folder import CHECKSUMS, PLACES, LabelFolder, written_labels
from dsrg.artifacts.model_file import FORMAT, Model, _digest, load_model, save_model
from dsrg.artifacts.safe_pickle import _ArrayUnpickler
from dsrg.artifacts.seeds_h5 import HEAD, SeedRow, read_seeds, sealed, write_seeds
from dsrg.data.images import check_image, mask_from, read_gray, read_image
from dsrg.data.index import read_index, write_index
from dsrg.data.palette import label_png
from dsrg.errors import InputError, RunError
from dsrg.files import read_yaml
from dsrg.inspect.import_points import read_exports
from dsrg.params import load_params
from dsrg.runtime.checksummed import write_checksummed
from dsrg.runtime.launcher import WorkShard
from dsrg.runtime.resumable import resumable_rows
from dsrg.sources.coco import scan_coco
from dsrg.sources.folder import scan_folder
from dsrg.sources.points import PointReader, read_point_rows
from dsrg.sources.validation import Scan, check_records
from dsrg.sources.voc import scan_voc
from dsrg.training.checkpoints import Checkpoints
from helpers import ROOT
from helpers.data import encoded, index_of, save_voc, write

SECONDS = 10  # of the processor that one input may take
PATIENCE = 600  # seconds on the clock, on a busy machine
MEMORY = 256 * 2**20  # bytes by which the process may grow
ADDRESSES = 4 * 2**30  # bytes of addresses that it may ask for besides those it starts with; threads reserve many
PIXELS_MAX = 10**6
CLASSES = ["cat", "dog", "cow"]
GRID = 5


class Target(NamedTuple):
    """What is read, and the inputs for it."""

    inputs: st.SearchStrategy[bytes]
    read: Callable[[bytes], object]


def of_file(path: Path, inputs: st.SearchStrategy[bytes], read: Callable[[], object]) -> Target:
    """Each input is the whole content of one file."""

    def write_and_read(content: bytes) -> object:
        path.write_bytes(content)
        return read()

    return Target(inputs, write_and_read)


# Inputs: sound files spoiled


NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
FRACTIONS = st.integers(0, 2**20).map(lambda number: number / (2**20 + 1))
TEXT = st.text(st.sampled_from([*"ab,|\";:\t\n\r\0/\\.. <>&'{}[]", *"\ufeff\u0130\u202e\ud7ff😀"]), max_size=8)


def spoiled(valid: Sequence[bytes], *, tokens: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """One of the valid contents after one to five edits."""

    @st.composite
    def spoil(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(valid)))
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 5]))):
            start = int(draw(FRACTIONS) * len(content))
            stop = min(len(content), start + draw(st.sampled_from([1, 2, 4, 16, 64, 512])))
            match draw(st.integers(0, 7)):
                case 0 if content:
                    content[start] ^= 1 << draw(st.integers(0, 7))
                case 1:
                    order = draw(st.sampled_from("<>"))
                    content[start : start + 4] = struct.pack(f"{order}I", draw(st.sampled_from(NUMBERS)))
                case 2:
                    del content[start:]
                case 3:
                    del content[start:stop]
                case 4:
                    content[stop:stop] = content[start:stop]
                case 5:
                    other = draw(st.sampled_from(valid))
                    place = int(draw(FRACTIONS) * len(other))
                    content[start:stop] = other[place : place + stop - start]
                case 6:
                    content[start:stop] = draw(st.binary(max_size=16))
                case 7 if tokens:
                    content[start:start] = draw(st.sampled_from(tokens)) * draw(st.sampled_from([1, 1, 1, 2, 5000]))
        return bytes(content)

    return spoil()


def plain_values(leaves: st.SearchStrategy) -> st.SearchStrategy:
    """None, numbers, text, what `leaves` gives, and lists and dicts of them."""
    numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 2**63])
    inner = st.none() | st.booleans() | numbers | TEXT | leaves
    return st.recursive(
        inner, lambda deep: st.lists(deep, max_size=3) | st.dictionaries(TEXT, deep, max_size=3), max_leaves=6
    )


# Annotations and tables


def put_images(folder: Path) -> None:
    """a.png and b.png, into which files of tags are put."""
    for number, name in enumerate("ab"):
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(folder / f"{name}.png")


def checked(scan: Scan) -> object:
    return check_records(scan, pixels_max=PIXELS_MAX, on_bad="fail", untagged="background")


def annotations(folder: Path) -> Target:
    """XML of VOC's annotations."""
    save_voc(folder, {"a": "cat"}, train="a\n")
    write(folder / "classes.txt", "\n".join(CLASSES))
    thing = "<object><name>{}</name><difficult>1</difficult><part><name>head</name></part></object>"
    valid = [f"<annotation>{''.join(thing.format(name) for name in names)}</annotation>" for names in (CLASSES, "x")]
    valid.append(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- c --><annotation>{thing.format("&#99;at")}</annotation>'
    )
    tags = st.sampled_from(["annotation", "object", "name", "part", "a:b", "?", "!--", "![CDATA[", "!DOCTYPE x"])
    nested = st.recursive(
        TEXT | st.sampled_from(CLASSES), lambda deep: st.tuples(tags, st.lists(deep, max_size=3)), max_leaves=8
    )

    def xml(node: str | tuple) -> str:
        return node if isinstance(node, str) else f"<{node[0]}>{''.join(map(xml, node[1]))}</{node[0]}>"

    made = st.tuples(st.just("annotation"), st.lists(nested, max_size=4)).map(xml)
    encoded = st.tuples(made, st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32"]))
    tokens = [b"<a>", b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"&x;", b"&#0;", b"&#x110000;", b"9", b"<name>", b"]]>", b"\0"]
    contents = [text.encode() for text in valid] + [valid[0].encode("utf-16")]
    inputs = spoiled(contents, tokens=tokens) | encoded.map(lambda pair: pair[0].encode(pair[1]))
    path = folder / "Annotations" / "a.xml"
    return of_file(path, inputs, lambda: checked(scan_voc(folder, train="train", val=None)))


def table_target(folder: Path, name: str, valid: Sequence[bytes], made: st.SearchStrategy[bytes]) -> Target:
    def read() -> object:
        return checked(scan_folder(folder, train="train", val="val", table=name, separator="|"))

    tokens = [b"|", b",", b'"', b"\n", b"\0", b"a.png", b"../", b"9", b"[", b"\xef\xbb\xbf", b"image", b"split"]
    put_images(folder)
    return of_file(folder / name, spoiled(valid, tokens=tokens) | made, read)


def csv_tables(folder: Path) -> Target:
    """Tables of tags."""
    valid = [b"image,tags\na.png,cat|dog\nb.png,cow\n", b"split;image;tags\r\ntrain;a;cat\r\nval;b;'dog\r\n"]
    cell = TEXT | st.sampled_from(["a.png", "b", "cat", "cat|dog", "train", "val", '"q"', "9" * 5000])
    rows = st.lists(st.lists(cell, min_size=1, max_size=4), max_size=5)
    header = st.permutations(["image", "tags", "split"]).flatmap(
        lambda names: st.integers(1, 3).map(lambda count: names[:count])
    )
    joined = st.tuples(header, rows, st.sampled_from(",;\t")).map(
        lambda drawn: "\n".join(drawn[2].join(row) for row in [drawn[0], *drawn[1]]).encode()
    )
    return table_target(folder, "tags.csv", valid, joined)


def jsonl_tables(folder: Path) -> Target:
    """Tables of tags as JSON Lines."""
    valid = [
        b'{"image": "a.png", "tags": ["cat", "dog"]}\n{"image": "b", "tags": "cow|cat"}\n',
        b'{"image": "a.png", "tags": [], "split": "train"}\n{"image": "b", "tags": ["\\u00fc"], "split": "val"}',
    ]
    values = plain_values(st.sampled_from(["a.png", "b", "cat", ["cat", "dog"], "train", "9" * 5000]))
    line = st.dictionaries(st.sampled_from(["image", "tags", "split", "x"]), values, max_size=4) | values
    lines = st.lists(line, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    return table_target(folder, "tags.jsonl", valid, lines)


def coco_files(folder: Path) -> Target:
    """COCO's JSON."""
    outlines = [[[0, 0, 3, 0, 3, 3]], {"size": [4, 6], "counts": [4, 8, 12]}, {"size": [4, 6], "counts": "4886"}]
    sound = {
        "images": [{"id": k, "file_name": f"{name}.png", "height": 4, "width": 6} for k, name in enumerate("ab")],
        "annotations": [
            {"image_id": k % 2, "category_id": 7, "segmentation": outline} for k, outline in enumerate(outlines)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    }

    put_images(folder)
    tokens = [b"[", b"9", b"-", b"1e999", b"NaN", b"null", b'"', b"{", b"\\ud800"]
    inputs = spoiled([json.dumps(sound).encode()], tokens=tokens) | changed(sound)
    return of_file(folder / "train.json", inputs, lambda: checked(scan_coco(folder, train="train.json", val=None)))


def changed(sound: object) -> st.SearchStrategy[bytes]:
    """Nested values with one to three of them replaced by any others, as JSON."""

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        values = json.loads(json.dumps(sound))
        for _ in range(draw(st.integers(1, 3))):
            inner, place = [values], 0
            while (
                isinstance(inner[place], dict | list)
                and inner[place]
                and (inner == [values] or draw(st.integers(0, 3)))
            ):
                inner = inner[place]
                place = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            inner[place] = draw(plain_values(st.nothing()))
        return json.dumps(values).encode()

    return change()


def point_reader(folder: Path) -> PointReader:
    put_images(folder)
    sizes = {"heights": np.full(2, 4, np.int32), "widths": np.full(2, 6, np.int32)}
    return PointReader(replace(index_of({"a": [1, 0, 1], "b": [0, 0, 0]}), **sizes), CLASSES, tags="add")


def point_tables(folder: Path) -> Target:
    """points.csv."""
    reader, path = point_reader(folder), folder / "points.csv"
    valid = [
        b"image,x,y,class\na,1,2,cat\nb.png,3,4,background\n",
        b"image;x;y;class;radius;stroke\r\na;1;2;erase;2;\r\na;0;0;dog;;1\r\na;6;4;dog;;1\r\n",
    ]
    tokens = [b",", b"-", b"9", b"1e9", b"nan", b"\n", b'"', b"\0", b"a", b"stroke", b"\xef\xbb\xbf"]
    return of_file(path, spoiled(valid, tokens=tokens), lambda: reader.read(read_point_rows(path)))


def export_target(folder: Path, name: str, inputs: st.SearchStrategy[bytes]) -> Target:
    reader, path = point_reader(folder), folder / name

    def read() -> object:
        found = read_exports([path], reader)
        if found.problems:
            raise InputError(found.problems)
        return reader.read(found.rows)

    return of_file(path, inputs, read)


def export_jsons(folder: Path) -> Target:
    """Exports of Label Studio and labelme."""
    code = [0, 0, 0, 96, 57, 27, 254, 95, 255]  # 6 x 4 pixels, all painted
    drawn = {"original_width": 6, "original_height": 4, "image_rotation": 0}
    brush = {"type": "brushlabels", "value": {"format": "rle", "rle": code, "brushlabels": ["dog"]}} | drawn
    point = {"id": "x", "type": "keypoint", "value": {"x": 50, "y": 1.5, "width": 1}}
    label = {"id": "x", "type": "labels", "value": {"labels": ["cat"]}}
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [brush, point, label]}], "predictions": []}
    short = {"image": "b.png", "kp": [{"x": 1, "y": 2, "keypointlabels": ["background"]} | drawn]}
    shape = {"label": "cat", "points": [[1, 2], [3, 4.5]], "shape_type": "linestrip"}
    labelme = {"shapes": [shape], "imagePath": "a.png", "imageWidth": 6, "imageHeight": 4}
    sound = [[task], [short], labelme]
    tokens = [b"[", b"9", b"-", b"1e999", b"NaN", b"null", b'"', b"{", b"255,", b"\\ud800"]
    whole = spoiled([json.dumps(one).encode() for one in sound], tokens=tokens)
    return export_target(folder, "a.json", whole | st.one_of(*map(changed, sound)))


def export_xmls(folder: Path) -> Target:
    """Exports of CVAT."""
    shapes = '<points label="cat" points="1,2;3.5,0"/><polyline label="dog" points="0,0;6,4"/><box xtl="1"/>'
    image = f'<image id="0" name="a.png" width="6" height="4">{shapes}</image>'
    valid = [f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{image}</annotations>'.encode()]
    tokens = [b"<a>", b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"&x;", b"&#0;", b"9", b";", b",", b"e999", b"<image>", b"\0"]
    return export_target(folder, "a.xml", spoiled([*valid, valid[0].decode().encode("utf-16")], tokens=tokens))


def index_files(folder: Path) -> Target:
    """index.csv."""
    index = index_of({"a": [1, 0, 1], "b": [0, 0, 0]})
    path = folder / "index.csv"
    write_index(path, replace(index, splits=["train", "val"], paths=["a.png", "x/b.png"]), CLASSES)
    inputs = spoiled([path.read_bytes()], tokens=[b",", b'"', b"|", b"../", b"9", b"\0", b"\n", b"\xff"])
    return of_file(path, inputs, lambda: read_index(path, CLASSES))


def params(folder: Path) -> Target:
    """params.yaml."""
    sound, path = read_yaml(ROOT / "recipes/shapes.yaml"), folder / "params.yaml"
    sections = [json.dumps(sound | {"shapes": {"train": 3}}).encode(), b"seed: 0\ngrow: {on: crf, fg_thresh: 1e-5}\n"]
    tokens = [b"&a ", b"*a", b"!!python/name:os.system ", b"- ", b"? ", b": ", b"<<: ", b"[", b"{", b"|", b"'", b"%",
              b"\t", b"1_0:3", b"2001-99-99", b"0b2", b"!!binary ", b"!!timestamp x", b"1e999", b"9"]  # fmt: skip
    return of_file(path, spoiled(sections, tokens=tokens) | changed(sound), lambda: load_params(path))


# Pictures


def png_forged(content: bytes) -> bytes:
    """A PNG's chunks with the checksums that belong to them, as far as they can be told apart."""
    fixed, place = bytearray(content), 8
    while place + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, place)
        end = place + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[place + 4 : end]))
        place = end + 4
    return bytes(fixed)


def masks(folder: Path) -> Target:
    """Label maps and saliency maps, PNGs."""
    path = folder / "a.png"
    labels = (np.arange(63, dtype=np.uint8) % 4).reshape(7, 9)
    kinds = [labels, labels.astype(np.uint16), labels > 1, np.dstack([labels] * 3)]
    valid = [label_png(labels), label_png(np.zeros((999, 999), np.uint8)), *(encoded(kind, "PNG") for kind in kinds)]

    def read() -> object:
        with suppress(InputError):
            read_gray(path)
        return mask_from(path.read_bytes(), path, pixels_max=PIXELS_MAX)

    tokens = [b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"IEND", b"iCCP", b"zTXt", b"acTL", b"fdAT", b"\x89PNG\r\n\x1a\n"]
    broken = spoiled(valid, tokens=tokens)
    return of_file(path, broken | broken.map(png_forged), read)


def label_folders(folder: Path) -> Target:
    """Folders of label maps in both formats; the first byte of an input says which of their files it is."""
    content, files = label_png(np.eye(4, dtype=np.uint8)), {}
    for format in ("png", "shards"):
        with written_labels(folder / format, format=format) as add:
            for name in "ab":
                add(name, content)
        files |= {bytes([64 + len(files) + k]): path for k, path in enumerate(sorted((folder / format).iterdir()))}
    sound = {key: path.read_bytes() for key, path in files.items()}

    def read(content: bytes) -> object:
        path = files[content[:1]]
        path.write_bytes(content[1:])
        try:
            return list(LabelFolder(path.parent, ["a", "b"], stage_name="make_pseudo_labels"))
        finally:
            path.write_bytes(sound[content[:1]])

    tokens = [b"a.png", b"9" * 12, b"00000.tar", b"\n", b" ", b"\xff", b"-"]

    def spoiled_one(key: bytes) -> st.SearchStrategy[bytes]:
        return spoiled([sound[key]], tokens=tokens).map(lambda content: key + content)

    expected = [key for key, path in files.items() if path.name in (CHECKSUMS, PLACES)]
    return Target(st.sampled_from([*files, *expected]).flatmap(spoiled_one), read)


def images(folder: Path) -> Target:
    """Images of every known format."""
    path = folder / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    valid = [encoded(pixels, form) for form in ("PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")]
    valid += [encoded(pixels, "JPEG", turned=6), encoded(pixels, "JPEG", progressive=True),
              encoded(pixels, "TIFF", compression="tiff_lzw"), encoded(pixels, "WEBP", lossless=True),
              encoded(pixels[:, :, 0], "PNG"), encoded(np.dstack([pixels, pixels[:, :, :1]]), "PNG"),
              encoded(pixels, "PNG", save_all=True, append_images=[Image.new("RGB", (14, 9))])]  # fmt: skip

    def read() -> object:
        facts = check_image(path, pixels_max=PIXELS_MAX)
        image = read_image(path)
        if image.shape != (facts.height, facts.width, 3):
            raise AssertionError(f"{image.shape} was said to be {facts}")
        return image

    broken = spoiled(valid, tokens=[b"Exif\0\0", b"\xff\xd8", b"\xff\xc0", b"\xff\xda", b"RIFF", b"II*\0", b"VP8X"])
    return of_file(path, broken | broken.map(png_forged), read)


# Cues, seeds, models, unfinished work


WILD_ARRAYS = st.builds(
    lambda kind, shape, seed: np.random.default_rng(seed).integers(-1, 6, shape).astype(kind),
    st.sampled_from(["i8", "u1", "f4", "?", ">i4", "O", "U3", "c16", "M8[s]"]),
    st.one_of(st.tuples(st.just(3), st.integers(0, 9)), st.lists(st.integers(0, 3), max_size=4).map(tuple)),
    st.integers(0, 99),
)


class Evil:
    """Unpickled, it would end the process."""

    def __reduce__(self) -> tuple:
        return sys.exit, (77,)


def cues(folder: Path) -> Target:
    """Pickles of localization cues and their lists; the first byte of an input says which of both it is."""
    path, list_path = folder / "cues.pickle", folder / "list.txt"
    present = np.array([[1, 1, 0, 0], [1, 0, 1, 1]], bool)
    labels = np.array([0, 1, 2, 3, 255], np.uint8)[np.arange(2 * GRID * GRID) % 5].reshape(2, GRID, GRID)
    write_cues(path, list_path, SimpleNamespace(ids=["a", "b"], present=present, seeds=labels))
    sound, lines = path.read_bytes(), list_path.read_bytes()
    arrays = {f"{k}_{kind}": value for k in (0, 1) for kind, value in
              (("labels", np.array([1])), ("cues", np.array([[0, 1], [0, 2], [0, 3]])))}  # fmt: skip
    index = index_of({"a": [1, 0, 0], "b": [0, 1, 1]})

    def read(content: bytes) -> object:
        of_list = content[:1] == b"l"
        path.write_bytes(sound if of_list else content[1:])
        list_path.write_bytes(content[1:] if of_list else lines)
        for conflict in CONFLICTS:
            read_cues(path, list_path, index, grid=GRID, classes=CLASSES, conflict=conflict)

    dumped = [pickle.dumps(arrays, protocol) for protocol in range(6)]
    known = [*_ArrayUnpickler.NAMES, ("os", "system"), ("builtins", "eval")]
    names = [f"c{module}\n{name}\n".encode() for module, name in known]
    codes = [instruction.code.encode("latin-1") for instruction in pickletools.opcodes]
    operands = st.sampled_from(
        [b"\0", b"\x01", b"1\n", b"'a'\n", b"\x02\0\0\0ab", b"\xff" * 4, b"\xff" * 8, b"9" * 5000]
    )
    steps = st.sampled_from(codes) | st.sampled_from(names) | operands
    program = st.lists(steps, max_size=40).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")
    values = plain_values(WILD_ARRAYS | st.just(Evil()) | st.binary(max_size=9))
    wild = st.tuples(st.dictionaries(st.sampled_from([*arrays, "2_cues"]), values, max_size=4), st.integers(0, 5)).map(
        lambda drawn: pickle.dumps(arrays | drawn[0], drawn[1])
    )
    pickles = spoiled([sound, *dumped], tokens=[*names, b"R", b"b", b"(", b"q\xff", b"h\0", b"9"]) | program | wild
    of_lists = spoiled([lines, b"x/b.png 1\r\na.jpg 0\r\n"], tokens=[b" ", b"9", b"\0", b"-", b"\n", b"a"])
    return Target(pickles.map(lambda content: b"p" + content) | of_lists.map(lambda content: b"l" + content), read)


def seeds(folder: Path) -> Target:
    """seeds.h5: spoiled, or made with other columns and attributes and sealed."""
    path = folder / "seeds.h5"
    rng = np.random.default_rng(0)
    rows = [
        SeedRow(name, np.ones(4, bool), rng.integers(0, 4, (GRID, GRID)).astype(np.uint8), rng.random((GRID, GRID)),
                rng.random((3, GRID, GRID)), np.array([1, 2, 3], np.uint8))
        for name in "ab"
    ]  # fmt: skip
    write_seeds(path, rows, count=2, grid=GRID, classes=CLASSES, params="{}")
    sound = path.read_bytes()

    def read() -> object:
        found = read_seeds(path, classes=CLASSES, grid=GRID)
        for image_id in found.ids:
            found.maps(image_id)
        return found.in_order(["a", "b"]), found.tags_in_order(["a", "b"])

    @st.composite
    def forged(draw: st.DrawFn) -> bytes:
        content = io.BytesIO(sound[HEAD:])
        with h5py.File(content, "r+") as file:
            for name in draw(st.lists(st.sampled_from([*file, "other"]), min_size=1, max_size=3, unique=True)):
                if name in file:
                    del file[name]
                match draw(st.integers(0, 4)):
                    case 0:
                        file[name] = h5py.ExternalLink("/etc/passwd", "/")
                    case 1:
                        file.create_dataset(name, draw(st.tuples(*[st.integers(1, 10**6)] * 3)), "u1", chunks=(1, 1, 1))
                    case 2:
                        file.create_group(name)
                    case _:
                        array = draw(WILD_ARRAYS.filter(lambda array: array.dtype.kind in "iufbc"))
                        options = draw(st.sampled_from([{}, {"fletcher32": True, "chunks": True}]))
                        file.create_dataset(name, data=array, **(options if array.size and array.ndim else {}))
            for name in draw(st.lists(st.sampled_from(list(file.attrs)), max_size=2, unique=True)):
                file.attrs[name] = draw(st.integers(-9, 9) | st.text("ab", max_size=3) | st.just(CLASSES))
        return sealed(content.getvalue())

    return of_file(path, spoiled([sound]) | forged(), read)


def stored_anew(content: bytes, *, inner: bytes) -> bytes:
    """A torch archive with another pickle inside, its checksums right."""
    out = io.BytesIO()
    with ZipFile(io.BytesIO(content)) as archive, ZipFile(out, "w") as copy:
        for member in archive.namelist():
            copy.writestr(member, inner if member.endswith("data.pkl") else archive.read(member))
    return out.getvalue()


def inner_pickle(content: bytes) -> bytes:
    with ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


TENSORS = st.sampled_from(
    [torch.ones(3), torch.zeros(1).expand(2**40), torch.ones(2).to_sparse(), torch.zeros(0, 5), torch.tensor(7)]
)
NAMES = [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"cos\nsystem\n"]
TORCH_TOKENS = [*NAMES, b"R", b"b", b"Q", b"h\0"]


def torch_archives(sound: bytes, values: st.SearchStrategy) -> st.SearchStrategy[bytes]:
    """A torch archive spoiled outside, spoiled inside, or made of other values."""

    def saved(content: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    inside = spoiled([inner_pickle(sound)], tokens=TORCH_TOKENS).map(lambda inner: stored_anew(sound, inner=inner))
    return spoiled([sound], tokens=TORCH_TOKENS) | inside | values.map(saved)


def models(folder: Path) -> Target:
    """Model files."""
    path = folder / "m.safetensors"
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4).bfloat16()}
    model = Model("segmenter", CLASSES, {"backbone": "vgg_mini", "rates": [6]}, 65, weights)
    save_model(path, model)
    sound = path.read_bytes()
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[FORMAT])

    def read() -> object:
        return load_model(path, kind="segmenter", stage_name="retrain", classes=CLASSES)

    def forged(change: dict) -> bytes:
        """Other content under a checksum that is right."""
        told = {**about, **change}
        del told["sha256"]
        told["sha256"] = _digest(told, weights)
        return save(weights, metadata={FORMAT: json.dumps(told)})

    keys = st.sampled_from(["kind", "classes", "network", "size", "version", "x"])
    changes = st.dictionaries(keys, plain_values(st.nothing()), max_size=2)
    tokens = [b"[", b"{", b'"', b"9", b"\\", b"__metadata__", b"F64", b"[0,0]"]
    return of_file(path, spoiled([sound], tokens=tokens) | changes.map(forged), read)


def checkpoints(folder: Path) -> Target:
    """Checkpoints; the first byte of an input says whether its name has its checksum."""
    scratch = folder / "scratch"
    sound = {"step": 20, "skipped": 0, "random": {"cpu": torch.get_rng_state()[:16]}, "network": {"w": torch.ones(2)}}
    Checkpoints(scratch, fingerprint="f").save(sound)
    (path,) = scratch.iterdir()
    content = path.read_bytes()

    def read(content: bytes) -> object:
        for old in scratch.iterdir():
            old.unlink()
        Checkpoints(scratch, fingerprint="f").save(sound | {"step": 10})
        if content[:1] == b"s":
            write_checksummed(scratch, "step-00000020", content[1:], suffix=".pt")
        else:
            (scratch / path.name).write_bytes(content[1:])
        state = Checkpoints(scratch, fingerprint="f").load()
        if state is None or state["step"] not in (10, 20):
            raise AssertionError(f"gone on from {state}")
        return state

    values = plain_values(TENSORS | st.just(Evil()))
    wild = st.dictionaries(st.sampled_from(["step", "network", "fingerprint"]), values, max_size=3) | values
    broken = torch_archives(content, wild)
    return Target(broken.map(lambda content: b"s" + content) | broken.map(lambda content: b"d" + content), read)


def shards(folder: Path) -> Target:
    """Unfinished seeds and labels; the first byte of an input says whether its name has its checksum."""
    scratch = folder / "scratch"

    def make(rows: np.ndarray) -> Iterator[dict]:
        yield from ({"a": np.full((2, 3), number)} for number in rows)

    list(resumable_rows(make, WorkShard(scratch), total=4, shard=2))
    path = min(scratch.iterdir())
    sound = path.read_bytes()

    def read(content: bytes) -> object:
        for old in scratch.iterdir():
            old.unlink()
        if content[:1] == b"s":
            write_checksummed(scratch, path.name.split(".")[0], content[1:], suffix=".npz")
        else:
            (scratch / path.name).write_bytes(content[1:])
        return list(resumable_rows(make, WorkShard(scratch), total=4, shard=2))

    def saved(arrays: dict) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    wild = st.dictionaries(st.sampled_from(["0/a", "1/a", "5/a", "a", "-1/a"]), WILD_ARRAYS, max_size=3).map(saved)
    broken = spoiled([sound], tokens=[b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\x93NUMPY", b"'descr'", b"9"]) | wild
    return Target(broken.map(lambda content: b"s" + content) | broken.map(lambda content: b"d" + content), read)


OF_FORMATS = (annotations, csv_tables, jsonl_tables, coco_files, point_tables, export_jsons, export_xmls, index_files)
OF_ARTIFACTS = (params, masks, images, label_folders, cues, seeds, models, checkpoints, shards)
TARGETS: dict[str, Callable[[Path], Target]] = {target.__name__: target for target in OF_FORMATS + OF_ARTIFACTS}


# Running them


@contextmanager
def in_bounds() -> Iterator[None]:
    """Raises TimeoutError when what is inside takes longer than SECONDS of the processor, or waits for long; memory
    beyond ADDRESSES is refused, and more than MEMORY that it takes is an AssertionError.
    """

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE)}
    handlers = {number: signal.signal(number, stop) for number in timers}
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESSES, limits[1]))
    before = peak()
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, handlers[number])
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert peak() - before <= MEMORY


def peak() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(target: Target, *, inputs: int, steady: bool) -> None:
    """Give a target so many inputs, the same ones each time if `steady`. Raises what fails, with the smallest input."""

    @settings(max_examples=inputs, derandomize=steady, database=None, deadline=None,
              phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(target.inputs)
    def one(content: bytes) -> None:
        try:
            with in_bounds():
                target.read(content)
        except (InputError, RunError):
            pass
        except SystemExit as error:
            raise AssertionError("a file ended the program") from error

    one()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")  # of decoders
def test_every_file_is_read_or_refused(name, tmp_path):
    run(TARGETS[name](tmp_path), inputs=12, steady=True)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_every_one_of_many_files_is_read_or_refused(name, tmp_path):
    run(TARGETS[name](tmp_path), inputs=1000, steady=False)


def test_what_is_no_refusal_fails(monkeypatch):
    def forever(content: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 0.01)
    for read, error in ((forever, TimeoutError), (sys.exit, AssertionError), (int, ValueError)):
        with pytest.raises(error):
            run(Target(st.just(b"x"), read), inputs=1, steady=True)
