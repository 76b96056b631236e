"""VOC 2012 and what SBD adds to it, from archives of a few files and a network that is made up."""

import base64
import hashlib
import io
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dsrg.data.images import read_mask
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError
from dsrg.sources import download
from dsrg.sources.download import Archive, Release, download_voc2012
from dsrg.sources.sbd import read_sbd_mask, trainaug_ids, write_trainaug
from dsrg.sources.validation import check_records
from dsrg.sources.voc import scan_voc
from helpers.command import run_dsrg
from helpers.data import annotation, encoded, write
from helpers.matlab import mat
from helpers.refusals import assert_problems, refusals

A, B, C, D, E, F = (f"2008_00000{k}" for k in range(1, 7))  # a: VOC train; b: VOC val; the others: no mask in VOC
LISTS = "ImageSets/Segmentation"
SBD = "benchmark_RELEASE/dataset"
MASK = np.array([[0, 0, 1], [0, 20, 20]], np.uint8)
JPEG = encoded(np.zeros((*MASK.shape, 3), np.uint8), "JPEG")

# MATLAB's format as scipy.io.savemat wrote it, compressed, for MASK: with sparse Boundaries and CategoriesPresent
# beside Segmentation, as in SBD's files.
SCIPY_MAT = base64.b64decode(
    "TUFUTEFCIDUuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IFN1biBOb3YgMjIgMTc6MDQ6NDMgMjAyNgAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0PAAAA0wAAAHic7ZXBCoJAEIZnNrW8"
    "iISHHiSiW1KHrkIdukotIpSC2nv3CI3u1o5LEF1jB4Zfx3++GbxMBACLGUBASgICVPj6HVn2tf3xfG2HZw/mur6i3Nb36pI3pWw1"
    "AA6yuMmqy7uyrlRll3eyqHtP1siWvlEtooynZj5a8xM2H7Q/A+P3hdnttf9kxPHevBjGgYMfB/2da9TmAvuPjuu4juu4jvt/3JPF"
    "FV+4/J7afNQ9or9IqPhrxg8tjs0X2kuRYKL6U9YffOjndzUc7fPYKF2mT1+FImg="
)


def tar(files: dict[str, bytes], mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def voc_files() -> dict[str, bytes]:
    files = {f"{LISTS}/train.txt": f"{A}\n".encode(), f"{LISTS}/val.txt": f"{B}\n".encode()}
    for image_id in (A, B, C, D, E, F):
        files[f"JPEGImages/{image_id}.jpg"] = JPEG
        files[f"Annotations/{image_id}.xml"] = annotation("cat").encode()
    for image_id in (A, B):
        files[f"SegmentationClass/{image_id}.png"] = encoded(np.full(MASK.shape, 8, np.uint8), "PNG")  # cat
    return {f"VOCdevkit/VOC2012/{name}": content for name, content in files.items()}


def sbd_files() -> dict[str, bytes]:
    """SBD knows all images but f; its lists have other line ends, and it has masks of VOC's images too."""
    files = {f"{SBD}/cls/{image_id}.mat": mat(MASK) for image_id in (A, B, C, D, E)}
    lists = {f"{SBD}/train.txt": f"{A}\r\n{B}\r\n{C}".encode(), f"{SBD}/val.txt": f"{D}\r\n{E}\r\n".encode()}
    return {**files, **lists, f"{SBD}/img/{C}.jpg": JPEG, f"{SBD}/cls/._{C}.mat": b"left by a file system"}


class Response(io.BytesIO):
    def __init__(self, url: str, content: bytes) -> None:
        super().__init__(content)
        self.url, self.length = url, len(content)


class Network:
    """Answers for some addresses; remembers what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []

    def open(self, request, *_, **__):
        url = request.full_url
        if url not in self.pages:
            raise urllib.error.URLError("no such host")
        self.asked.append(url)
        return Response(url, self.pages[url])


@pytest.fixture
def network(monkeypatch):
    network = Network()
    monkeypatch.setattr(urllib.request, "urlopen", network.open)
    return network


def serve(network: Network, *, voc: dict[str, bytes], sbd: dict[str, bytes]) -> Release:
    """Put both archives on the network -> the release that describes them."""
    archives = []
    for name, content in (("voc.tar", tar(voc, "w")), ("sbd.tgz", tar(sbd, "w:gz"))):
        network.pages[f"https://data.example/{name}"] = content
        archives.append(Archive(f"https://data.example/{name}", name, hashlib.md5(content).hexdigest()))
    folders = {"JPEGImages": 6, "Annotations": 6, "SegmentationClass": 2}
    return Release(*archives, folders=folders, lists={"train": 1, "val": 1}, trainaug=4)


@pytest.fixture
def release(network):
    return serve(network, voc=voc_files(), sbd=sbd_files())


def below(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# The list


ids = st.sets(st.sampled_from("abcdefgh"))


@given(ids, ids, ids, ids)
def test_trainaug_is_what_its_definition_says(voc_train, voc_val, sbd_train, sbd_val):
    found = trainaug_ids(voc_train=voc_train, voc_val=voc_val, sbd_train=sbd_train, sbd_val=sbd_val)
    slow = []
    for image_id in "abcdefgh":
        if (image_id in voc_train or image_id in sbd_train or image_id in sbd_val) and image_id not in voc_val:
            slow.append(image_id)
    assert found == slow


def test_no_other_list_goes_by_the_name_of_trainaug(tmp_path):
    lists = tmp_path / LISTS
    write(lists / "train.txt", "b\r\na")
    write(lists / "val.txt", "c\r\n")
    (problem,) = refusals(write_trainaug, tmp_path, sbd_train={"c", "e"}, sbd_val={"d"})
    assert problem.startswith(f"{lists / 'trainaug.txt'}: not written, it would hold 4 ids; expected 10,582 ")
    assert "voc train 2, voc val 1, sbd train 2, sbd val 1" in problem
    assert below(lists) == {"train.txt", "val.txt"}


# Masks


def test_a_mask_as_another_program_wrote_it():
    assert np.array_equal(read_sbd_mask(SCIPY_MAT, "x"), MASK)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4)])
def test_a_mask_of_any_size(shape, compressed):
    mask = np.random.default_rng(0).integers(0, 21, shape, dtype=np.uint8)
    read = read_sbd_mask(mat(mask, compressed=compressed), "x")
    assert read.dtype == np.uint8 and np.array_equal(read, mask)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no mask of SBD (StopIteration"),
        (b"<html>not found</html>" * 20, "no mask of SBD"),
        (mat(MASK)[:-9], "no mask of SBD (ValueError"),
        (mat(MASK, compressed=True)[:-9], "no mask of SBD"),
        (mat(MASK, field="Boundaries"), "no mask of SBD (KeyError: 'Segmentation')"),
        (mat(MASK, array_class=1), "an array of class 1, expected a struct"),
        (mat(np.full((2, 2), 21, np.uint8)), "expected values 0 to 20"),
    ],
)
def test_no_mask(data, reason):
    problems = refusals(read_sbd_mask, data, "sbd.tgz: cls/a.mat")
    assert_problems(problems, [reason], start="sbd.tgz: cls/a.mat: no mask of SBD")


# The whole tree


def test_from_nothing_to_a_tree_that_the_pipeline_takes(release, network, tmp_path):
    root = tmp_path / "data"
    voc = download_voc2012(root, release=release)
    assert voc == root / "VOCdevkit" / "VOC2012"
    assert (voc / LISTS / "trainaug.txt").read_text() == f"{A}\n{C}\n{D}\n{E}\n"
    aug = {f"SegmentationClassAug/{image_id}.png" for image_id in (C, D, E)}
    assert below(root) == {"voc.tar", "sbd.tgz", f"VOCdevkit/VOC2012/{LISTS}/trainaug.txt", *voc_files()} | {
        f"VOCdevkit/VOC2012/{name}" for name in aug
    }
    mask = voc / "SegmentationClassAug" / f"{C}.png"
    assert np.array_equal(read_mask(mask), MASK)
    assert Image.open(mask).mode == "P" and Image.open(mask).getpalette() == voc_palette().ravel().tolist()
    checked = check_records(
        scan_voc(voc, train="trainaug", val="val"), pixels_max=100, on_bad="fail", untagged="background"
    )
    assert [row.mask for row in checked.ground_truth] == [
        f"SegmentationClass/{A}.png",
        *sorted(aug),
        f"SegmentationClass/{B}.png",
    ]


def test_what_is_in_place_is_not_fetched_again(release, network, tmp_path):
    voc = download_voc2012(tmp_path, release=release)
    (tmp_path / "voc.tar").unlink()
    (tmp_path / "sbd.tgz").unlink()
    network.pages.clear()
    before = {path: path.stat().st_mtime_ns for path in voc.rglob("*")}
    download_voc2012(tmp_path, release=release)
    assert {path: path.stat().st_mtime_ns for path in voc.rglob("*")} == before


def test_a_run_that_was_stopped_goes_on(release, network, tmp_path):
    voc = download_voc2012(tmp_path, release=release)
    (tmp_path / "voc.tar").unlink()
    (tmp_path / "sbd.tgz").unlink()
    (voc / LISTS / "trainaug.txt").unlink()
    (voc / "SegmentationClassAug" / f"{D}.png").unlink()
    kept = voc / "SegmentationClassAug" / f"{C}.png"
    kept.write_bytes(b"whole already")
    network.asked.clear()
    download_voc2012(tmp_path, release=release)
    assert set(network.asked) == {release.sbd.url}
    assert kept.read_bytes() == b"whole already"
    assert np.array_equal(read_mask(voc / "SegmentationClassAug" / f"{D}.png"), MASK)
    assert (voc / LISTS / "trainaug.txt").read_text() == f"{A}\n{C}\n{D}\n{E}\n"


@pytest.mark.parametrize("text", [f"{A}\n{C}\n", f"{A}\n{C}\n{D}\n{B}\n"])
def test_a_list_that_is_not_trainaug_is_made_anew(release, tmp_path, text):
    voc = download_voc2012(tmp_path, release=release)
    (voc / LISTS / "trainaug.txt").write_text(text)
    download_voc2012(tmp_path, release=release)
    assert (voc / LISTS / "trainaug.txt").read_text() == f"{A}\n{C}\n{D}\n{E}\n"


def test_without_network_both_archives_are_asked_for(release, network, tmp_path, monkeypatch):
    network.pages.clear()
    monkeypatch.setattr(download, "VOC2012", release)
    lines = run_dsrg("download", "voc2012", "--root", tmp_path / "data", code=2).splitlines()
    assert len(lines) == 2
    for line, archive in zip(lines, (release.voc, release.sbd), strict=True):
        assert line.startswith(f"{tmp_path / 'data' / archive.name}: cannot be fetched (<urlopen error no such host>)")
        assert archive.url in line and archive.md5 in line and "put it at this path" in line
    assert below(tmp_path) == set()


def test_archives_brought_along_need_no_network(release, network, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "VOC2012", release)
    root = tmp_path / "data"
    write(root / release.voc.name, network.pages[release.voc.url])
    brought_later = network.pages[release.sbd.url]
    network.pages.clear()
    said = run_dsrg("download", "voc2012", "--root", root, code=2)
    assert said.startswith(f"{root / 'sbd.tgz'}: cannot be fetched")
    assert (root / "VOCdevkit/VOC2012/JPEGImages").is_dir()  # one step further

    (root / "sbd.tgz").write_bytes(brought_later)
    said = run_dsrg("download", "voc2012", "--root", root)
    assert f"fine: {root / 'VOCdevkit/VOC2012'}: 4 images in trainaug, 1 in val\n" in said


def test_an_archive_with_another_checksum(release, network, tmp_path):
    network.pages[release.voc.url] = b"<html>moved</html>"
    (tmp_path / "sbd.tgz").write_bytes(b"half")
    del network.pages[release.sbd.url]
    moved, half = refusals(download_voc2012, tmp_path, release=release)
    assert moved.startswith(f"{tmp_path / 'voc.tar'}: cannot be fetched (File not found or corrupted.)")
    assert f"the file there has md5 {hashlib.md5(b'half').hexdigest()}" in half
    assert below(tmp_path) == {"sbd.tgz"} and (tmp_path / "sbd.tgz").read_bytes() == b"half"


def test_an_incomplete_tree_is_left_alone(release, network, tmp_path):
    voc = download_voc2012(tmp_path, release=release)
    (voc / "JPEGImages" / f"{F}.jpg").rename(voc / "JPEGImages" / f".{F}.jpg.1.tmp")  # unfinished, so none
    (voc / LISTS / "val.txt").write_text("")
    before = below(tmp_path)
    network.asked.clear()
    assert refusals(download_voc2012, tmp_path, release=release) == [
        f"{voc / 'JPEGImages'}: 5 files; expected 6",
        f"{voc / LISTS / 'val.txt'}: 0 ids; expected 1",
        f"{voc}: incomplete; move it out of the way and run this again",
    ]
    assert below(tmp_path) == before and network.asked == []


def test_an_archive_of_too_few_files_leaves_no_tree(network, tmp_path):
    files = voc_files()
    del files[f"VOCdevkit/VOC2012/Annotations/{A}.xml"]
    release = serve(network, voc=files, sbd=sbd_files())
    with pytest.raises(InputError, match="Annotations: 5 files; expected 6"):
        download_voc2012(tmp_path, release=release)
    assert below(tmp_path) == {"voc.tar", "sbd.tgz"}


def test_every_fault_of_the_sbd_archive_comes_at_once(network, tmp_path):
    files = sbd_files()
    del files[f"{SBD}/val.txt"]
    files |= {f"{SBD}/cls/{image_id}.mat": b"broken" for image_id in (C, E)}
    release = serve(network, voc=voc_files(), sbd=files)
    reasons = [f": {SBD}/cls/{C}.mat: ", f": {SBD}/cls/{E}.mat: ", ": no list val; fetch it again"]
    assert_problems(refusals(download_voc2012, tmp_path, release=release), reasons)
    assert not (tmp_path / "VOCdevkit/VOC2012" / LISTS / "trainaug.txt").exists()


def test_names_that_start_at_the_folder_itself(network, tmp_path):
    """`tar czf FILE .` writes them so."""
    release = serve(network, voc=voc_files(), sbd={f"./{name}": content for name, content in sbd_files().items()})
    voc = download_voc2012(tmp_path, release=release)
    assert (voc / LISTS / "trainaug.txt").read_text() == f"{A}\n{C}\n{D}\n{E}\n"


def test_ids_without_image_annotation_or_mask_are_named(network, tmp_path):
    voc, masks = voc_files(), sbd_files()
    for name in (f"JPEGImages/{C}.jpg", f"Annotations/{D}.xml"):
        voc[f"VOCdevkit/VOC2012/{name}".replace("2008", "2009")] = voc.pop(f"VOCdevkit/VOC2012/{name}")
    del masks[f"{SBD}/cls/{E}.mat"]
    release = serve(network, voc=voc, sbd=masks)
    tree = tmp_path / "VOCdevkit" / "VOC2012"
    assert refusals(download_voc2012, tmp_path, release=release) == [
        f"{tree / folder}: no file for 1 ids of trainaug ({image_id})"
        for folder, image_id in [("JPEGImages", C), ("Annotations", D), ("SegmentationClassAug", E)]
    ]
