"""Files from elsewhere: they may be as they like, and reach no other file, fill no memory, run nothing."""

import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsrg.data.images import check_image, read_gray, read_mask
from dsrg.errors import InputError
from dsrg.files import linked_elsewhere
from dsrg.params import load_params
from dsrg.sources.download import _unpack_voc
from dsrg.sources.sbd import MASK_MAX, read_sbd_mask
from dsrg.sources.validation import Record, Scan, check_records
from dsrg.sources.voc import ANNOTATION_MAX, scan_voc
from helpers.data import encoded, huge_png, save_voc, write
from helpers.matlab import mat
from helpers.memory import peak_of_refusal
from helpers.project import recipe

# Links


@pytest.fixture
def root(tmp_path) -> Path:
    """A sound VOC tree of one image."""
    root = tmp_path / "voc"
    save_voc(root, {"a": "cat"}, train="a\n")
    write(root / "SegmentationClass/a.png", encoded(np.full((4, 6), 8, np.uint8), "PNG"))
    return root


@pytest.fixture
def outside(tmp_path, root) -> Path:
    """Its files once more, beside the data, not in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("JPEGImages/a.jpg", "SegmentationClass/a.png", "Annotations/a.xml"):
        shutil.copy(root / name, folder)
    return folder


def checked(root: Path) -> list[str]:
    found = check_records(scan_voc(root, train="train", val=None), pixels_max=100, on_bad="fail", untagged="background")
    return found.index.ids


@pytest.mark.parametrize("name", ["JPEGImages/a.jpg", "SegmentationClass/a.png", "Annotations/a.xml", "JPEGImages"])
def test_a_link_out_of_the_data_is_followed_and_counted(root, outside, name):
    assert checked(root) == ["a"]
    shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    if name == "JPEGImages":
        (outside / "a.png").unlink()
    (root / name).symlink_to(outside if name == "JPEGImages" else outside / Path(name).name)
    assert checked(root) == ["a"]
    scan = scan_voc(root, train="train", val=None)
    warnings = check_records(scan, pixels_max=100, on_bad="fail", untagged="background").warnings
    linked = [line for line in warnings if line.startswith(f"1 files lie outside of {root}; links lead to them")]
    assert len(linked) == (name != "Annotations/a.xml")


def test_links_within_the_data_and_to_the_data_are_fine(root, tmp_path):
    (root / "JPEGImages/a.jpg").rename(root / "a.jpg")
    (root / "JPEGImages/a.jpg").symlink_to("../a.jpg")
    (tmp_path / "link").symlink_to(root)
    assert checked(tmp_path / "link") == ["a"]


def test_dvc_may_keep_the_files_in_its_cache(tmp_path):
    """With `cache.type symlink` each file that DVC tracks is a link."""
    cached = tmp_path / "cache/files/md5/ab" / ("c" * 30)
    cached.parent.mkdir(parents=True)
    cached.touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jpg").symlink_to(cached)
    (tmp_path / "data/b.jpg").symlink_to(cached.with_name("short"))
    assert linked_elsewhere(["a.jpg", "b.jpg"], tmp_path / "data") == ["b.jpg"]


@pytest.mark.parametrize("path", ["../outside/a.jpg", "x/../../outside/a.jpg"])
def test_a_source_cannot_name_a_file_elsewhere(root, outside, path):
    """COCO's JSON and tables name files as they like."""
    record = Record("a", "train", path, ("cat",), None)
    (root / "x").mkdir()
    with pytest.raises(InputError, match="leads out of"):
        check_records(Scan(root, ["cat"], [record], []), pixels_max=100, on_bad="fail", untagged="background")


# Annotations

LAUGHS = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
EVIL_XML = {
    "entities of entities": f'<!DOCTYPE a [<!ENTITY l0 "lol">{LAUGHS}]><annotation>&l9;</annotation>',
    "another file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    "another machine": '<!DOCTYPE a SYSTEM "http://example.com/a.dtd"><annotation/>',
    "deep": "<annotation>" + "<a>" * 100_000,
    "undeclared": "<annotation>&nbsp;</annotation>",
}


@pytest.mark.parametrize("text", EVIL_XML.values(), ids=EVIL_XML.keys())
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_annotation_reads_no_other_file_and_does_not_grow(root, text, encoding):
    (root / "Annotations/a.xml").write_bytes(text.encode(encoding))
    assert peak_of_refusal(lambda: checked(root)) < 100 * 2**20


def test_a_huge_annotation_is_not_read(root):
    with open(root / "Annotations/a.xml", "r+b") as file:
        file.truncate(ANNOTATION_MAX + 1)
    with pytest.raises(InputError, match=r"a.xml: no readable annotation \(more than 16.0 MiB\)"):
        checked(root)


# Pictures


@pytest.mark.parametrize("read", [read_gray, read_mask, lambda path: check_image(path, pixels_max=10**8)])
def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(tmp_path, read):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((2000, 20_000), np.uint8)).save(path)
    path.write_bytes(huge_png(path.read_bytes(), 20_000, 20_000))
    assert path.stat().st_size < 100_000 and peak_of_refusal(lambda: read(path)) < 2**20


@pytest.mark.parametrize("mode", ["", "RGB", "cut"])
def test_no_gray_png(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.new("RGB" if mode == "RGB" else "L", (4, 4)).save(path)
    path.write_bytes(path.read_bytes()[: {"": 0, "RGB": None, "cut": 50}[mode]])
    with pytest.raises(InputError, match="a.png: "):
        read_gray(path)


# YAML


def test_what_a_message_quotes_of_params_is_short(tmp_path):
    params = recipe()
    params["seed"] = "x" * 100_000
    (tmp_path / "params.yaml").write_text(str(params).replace("None", "null").replace("True", "true"))
    with pytest.raises(InputError, match="seed") as error:
        load_params(tmp_path / "params.yaml")
    assert max(map(len, error.value.problems)) < 1000


# Archives


@pytest.mark.parametrize(
    "member",
    [
        {"name": "../evil"},
        {"name": "/tmp/evil"},
        {"name": "VOCdevkit/../../evil"},
        {"name": "link", "type": tarfile.SYMTYPE, "linkname": "/etc"},
        {"name": "link", "type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"},
        {"name": "device", "type": tarfile.CHRTYPE},
        {"name": "pipe", "type": tarfile.FIFOTYPE},
    ],
)
def test_an_archive_that_leads_out_of_its_folder_is_not_unpacked(tmp_path, member):
    path = tmp_path / "deep" / "voc.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(member["name"])
        for key, value in member.items():
            setattr(info, key, value)
        archive.addfile(info)
    with pytest.raises(InputError, match=f"voc.tar: {member['name']}: leads out of the folder"):
        _unpack_voc(path, tmp_path / "voc", None)
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["deep", "voc.tar"]


def test_a_packed_mask_does_not_grow():
    packed = zlib.compress(bytes(MASK_MAX + 1))
    data = mat(np.zeros((2, 2), np.uint8))[:128] + struct.pack("<II", 15, len(packed)) + packed
    assert len(data) < 100_000 and peak_of_refusal(lambda: read_sbd_mask(data, "a.mat")) < 3 * MASK_MAX
