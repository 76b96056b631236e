"""Reading images and masks: one way for all, and a clear reason for each file that is refused."""

import hashlib
import os
import struct
from pathlib import Path
from tempfile import NamedTemporaryFile

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from dsrg.data import images
from dsrg.data.images import (
    CMYK,
    DARK,
    DEEP,
    FRAMES,
    METADATA_MAX,
    MISNAMED,
    TRANSPARENT,
    check_image,
    limit_side,
    mask_from,
    read_image,
    read_mask,
    read_sized,
)
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError, RunError
from helpers.data import encoded, huge_png, picture, write
from helpers.refusals import assert_problems, refusals

QUARTERS = np.zeros((16, 24, 3), np.uint8)  # red, blue / green, black
QUARTERS[:8, :12, 0] = QUARTERS[:8, 12:, 2] = QUARTERS[8:, :12, 1] = 255
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]  # that keep EXIF data
LABELS = np.array([[0, 1, 15], [20, 255, 3]], np.uint8)


def noise(file_format) -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), file_format)


@pytest.fixture
def put(tmp_path):
    """Write bytes, or an image as PNG, under a name -> its path."""

    def put(content, name="a.png"):
        write(tmp_path / name, content if isinstance(content, bytes) else encoded(content, "PNG"))
        return tmp_path / name

    return put


def palette_image(labels) -> Image.Image:
    image = Image.fromarray(labels, "P")
    image.putpalette(voc_palette().tobytes())
    return image


def test_palette_is_vocs():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {k: tuple(palette[k].tolist()) for k in expected} == expected
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", FORMATS)
def test_exif_orientation_is_applied(put, file_format, orientation):
    path = put(encoded(QUARTERS, file_format, turned=orientation), "picture.bin")  # the ending plays no part
    image = read_image(path)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert image.dtype == np.uint8 and image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= 2  # decoders round differently
    facts = check_image(path, pixels_max=16 * 24)
    assert (facts.height, facts.width) == image.shape[:2] == ((24, 16) if orientation > 4 else (16, 24))
    assert facts.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.integers(1, 8),
    st.sampled_from([100, 101, 250]),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.booleans(),
)
def test_a_jpeg_decoded_small_is_the_picture_made_small(shape, orientation, max_side, mode, progressive):
    """Of the same size to the pixel, upright, and as it is when decoded whole, but for few gray levels."""
    image = Image.fromarray(picture(*shape, seed=sum(shape))).convert(mode)
    with NamedTemporaryFile(suffix=".jpg") as file:
        write(Path(file.name), encoded(image, "JPEG", quality=95, turned=orientation, progressive=progressive))
        whole, small = read_image(file.name), read_sized(file.name, max_side)
    expected = limit_side(whole, max_side)
    assert small.shape == whole.shape[:2] and small.pixels.shape == expected.shape
    assert small.pixels.flags.c_contiguous
    off = np.abs(small.pixels.astype(int) - expected)
    assert off.mean() < 8 and (max(shape) > max_side or not off.any())


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_png_becomes_rgb(put, mode):
    gray = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    wide = Image.fromarray(gray.astype(np.uint16) * 257)
    picture = wide if mode == "I;16" else Image.fromarray(gray).convert("RGB").convert(mode, dither=0)
    expected = np.repeat(gray[:, :, None], 3, axis=2) if mode not in ("P", "1") else np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_image(put(picture)), expected)


def test_cmyk_jpeg_becomes_rgb(put):
    image = Image.fromarray(QUARTERS).convert("CMYK")
    path = put(encoded(image, "JPEG", quality=100, subsampling=0), "cmyk.jpg")
    assert check_image(path, pixels_max=1000).remarks == (CMYK,)
    assert np.abs(read_image(path).astype(int) - QUARTERS).max() < 40


def frames(file_format, *, first) -> bytes:
    """Two frames or pages, the second white."""
    white = Image.new("RGB", (24, 16), "white")
    return encoded(first, file_format, save_all=True, append_images=[white], **LOSSLESS.get(file_format, {}))


LOSSLESS = {"WEBP": {"lossless": True}}
GLASS = np.dstack([QUARTERS, np.tile(np.array([[255, 0]], np.uint8).repeat(12, 1), (16, 1))])
DEEP_PNG = cv2.imencode(".png", QUARTERS[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
DEEP_TIFF = cv2.imencode(".tiff", QUARTERS[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
# content, name, what is said of it; all hold QUARTERS
ODD = {
    "plain": (encoded(QUARTERS, "PNG"), "a.png", ()),
    "no ending": (encoded(QUARTERS, "PNG"), "a", ()),
    "PNG called JPEG": (encoded(QUARTERS, "PNG"), "a.JPG", (MISNAMED,)),
    "animated PNG": (frames("PNG", first=QUARTERS), "a.png", (FRAMES,)),
    "animated WebP": (frames("WEBP", first=QUARTERS), "a.webp", (FRAMES,)),
    "pages of a TIFF": (frames("TIFF", first=QUARTERS), "a.tif", (FRAMES,)),
    "transparent": (encoded(GLASS, "PNG"), "a.png", (TRANSPARENT,)),
    "opaque alpha": (encoded(GLASS | np.uint8([0, 0, 0, 255]), "PNG"), "a.png", ()),
    "16-bit PNG": (DEEP_PNG, "a.png", (DEEP,)),
    "16-bit TIFF": (DEEP_TIFF, "a.tiff", (DEEP,)),
    "all at once": (DEEP_TIFF, "a.png", (MISNAMED, DEEP)),
}


@pytest.mark.parametrize(("content", "name", "remarks"), ODD.values(), ids=ODD)
def test_odd_image_is_read_by_one_rule_and_said(put, content, name, remarks):
    path = put(content, name)
    assert check_image(path, pixels_max=1000).remarks == remarks
    np.testing.assert_array_equal(read_image(path), QUARTERS)


def test_a_transparent_color_of_a_palette_is_said(put):
    path = put(encoded(palette_image(LABELS), "PNG", transparency=0))
    assert check_image(path, pixels_max=1000).remarks == (TRANSPARENT,)


@pytest.mark.parametrize("kind", ["gray PNG", "gray TIFF", "RGB PNG", "RGB TIFF"])
@pytest.mark.parametrize(("highest", "remark"), [(4095, DARK), (16383, DARK), (16384, DEEP)])
def test_pictures_that_come_out_dark_are_named(put, highest, remark, kind):
    values = np.linspace(0, highest, 96).reshape(8, 12).round().astype(np.uint16)
    pixels = values if "gray" in kind else np.dstack([values] * 3)
    ending = ".png" if "PNG" in kind else ".tiff"
    path = put(cv2.imencode(ending, pixels)[1].tobytes(), f"a{ending}")
    assert check_image(path, pixels_max=1000).remarks == (remark,)
    assert read_image(path).max() == highest >> 8


@pytest.mark.parametrize("form", ["TIFF", "PNG", "WEBP"])
def test_the_colors_beneath_are_used_where_an_image_is_transparent(put, form):
    opaque = np.linspace(0, 255, QUARTERS[..., 0].size).reshape(QUARTERS[..., 0].shape).astype(np.uint8)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    path = put(encoded(np.dstack([QUARTERS, opaque]), form, **options))
    np.testing.assert_array_equal(read_image(path), QUARTERS)
    assert TRANSPARENT in check_image(path, pixels_max=1000).remarks


SOUND = [encoded(QUARTERS, kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")]


@pytest.mark.parametrize("content", SOUND)
def test_every_format_is_read_whatever_its_name(put, content):
    path = put(content, "a.bin")
    facts = check_image(path, pixels_max=1000)
    assert (facts.height, facts.width) == (16, 24) == read_image(path).shape[:2]


def test_heic_is_read_with_its_extra(put):
    pytest.importorskip("pillow_heif")
    path = put(encoded(QUARTERS, "HEIF", turned=6), "a.heic")
    facts = check_image(path, pixels_max=1000)
    assert (facts.height, facts.width) == (16, 24) == read_image(path).shape[:2]  # HEIC's own turning is the decoder's
    assert facts.remarks == ()


def test_without_its_extra_heic_is_named(put, monkeypatch):
    monkeypatch.setattr(images, "FORMATS", [kind for kind in images.FORMATS if kind != "HEIF"])
    with pytest.raises(InputError, match="a.jpg: a HEIC image; run: pip install pillow-heif"):
        check_image(put(b"\0\0\0\x18ftypheic" + bytes(99), "a.jpg"), pixels_max=1000)


def test_a_raw_files_preview_is_not_the_picture(put):
    path = put(encoded(QUARTERS, "TIFF", tiffinfo={254: 1}), "a.tif")
    for read in (read_image, lambda path: check_image(path, pixels_max=1000)):
        with pytest.raises(InputError, match="a.tif: its first page is a preview"):
            read(path)


@given(
    st.sampled_from([content if isinstance(content, bytes) else content[0] for content in (*SOUND, *ODD.values())]),
    st.data(),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_decoders_failure_comes_without_the_files_name(tmp_path_factory, content, data):
    """Spoiled files: refused by name, or checked and read as one and the same picture."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.sampled_from([0, 1, 4, 999]))
        content[start:end] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"Exif\0\0", b"eXIf", b"\xff\xe1", b"II*\0"])
        )
    path = tmp_path_factory.getbasetemp() / "spoiled.png"
    path.write_bytes(content)
    sizes = []
    for read in (
        lambda: check_image(path, pixels_max=10_000)[:2],
        lambda: read_image(path).shape[:2],
        lambda: read_mask(path),
    ):
        try:
            sizes.append(read())
        except InputError as error:
            assert all(problem.startswith(f"{path}: ") and "\n" not in problem for problem in error.problems)
            if "more than 10,000 pixels" in str(error):
                return  # who reads without a check has to have the memory
            sizes.append(None)
    assert sizes[0] is None or sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "failure",
    [ValueError(), KeyError(3), RuntimeError("x\ny"), OSError(), struct.error("s"), AssertionError(), RecursionError()],
)
def test_any_failure_of_a_decoder_names_the_file(put, monkeypatch, failure):
    def fail(image):
        raise failure

    path = put(noise("PNG"))
    monkeypatch.setattr(PngImageFile, "load", fail)
    for read in (read_image, lambda path: check_image(path, pixels_max=10_000), lambda path: read_mask(path)):
        assert_problems(refusals(read, path), [f"{path}: "])


def test_lack_of_memory_names_the_file(put, monkeypatch):
    monkeypatch.setattr(PngImageFile, "load", lambda image: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(RunError, match="a.png: not enough memory"):
        read_image(put(noise("PNG")))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_is_turned_as_its_image_is(put, orientation):
    path = put(encoded(LABELS, "PNG", turned=orientation))
    np.testing.assert_array_equal(read_mask(path), np.asarray(ImageOps.exif_transpose(Image.open(path))))
    assert read_mask(path).shape == read_image(path).shape[:2]


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"MM\0*", b"II*\0\x08\0\0\0\xff\xff", bytes(40)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_data_harm_no_picture(put, exif, file_format):
    path = put(encoded(QUARTERS, file_format, exif=exif))
    assert check_image(path, pixels_max=1000)[:2] == (16, 24) == read_image(path).shape[:2]


def test_xmp_does_not_turn(put):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for file_format, options in {"JPEG": {"xmp": xmp}, "TIFF": {"tiffinfo": {700: xmp}}, "WEBP": {"xmp": xmp}}.items():
        path = put(encoded(QUARTERS, file_format, **options))
        assert check_image(path, pixels_max=1000)[:2] == (16, 24) == read_image(path).shape[:2], file_format


def test_a_cameras_jpeg_with_a_preview_behind_it_is_a_jpeg(put):
    path = put(encoded(QUARTERS, "MPO", save_all=True, append_images=[Image.new("RGB", (3, 2))]), "a.jpg")
    assert check_image(path, pixels_max=1000).remarks == ()
    assert read_image(path).shape == QUARTERS.shape


@pytest.mark.parametrize("shape", [(24, 60), (24, 24)])
@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("file_format", [*FORMATS, "PNG with EXIF behind"])
def test_large_images_are_what_small_ones_are(put, monkeypatch, file_format, orientation, shape):
    """Size, remarks and every pixel: nothing depends on how much memory is thought of."""
    content = encoded(np.resize(QUARTERS, (*shape, 3)), file_format.split()[0], turned=orientation)
    content = exif_behind(content) if "behind" in file_format else content
    path = put(content, "a.jpg")
    whole, pixels = check_image(path, pixels_max=1800), read_image(path)
    assert pixels.shape[:2] == (whole.height, whole.width)
    monkeypatch.setattr(images, "LARGE", 100)
    assert check_image(path, pixels_max=1800) == whole
    np.testing.assert_array_equal(read_image(path), pixels)
    with pytest.raises(InputError, match="b.jpg: (a )?(broken|not an image)"):
        check_image(put(content[: len(content) * 2 // 3], "b.jpg"), pixels_max=1800)


def exif_behind(png: bytes) -> bytes:
    """The same PNG, its EXIF data moved behind its pixels."""
    start = png.index(b"eXIf") - 4
    length = 12 + int.from_bytes(png[start : start + 4], "big")
    return png[:start] + png[start + length : -12] + png[start : start + length] + png[-12:]


def test_the_users_limit_is_the_only_one(put):
    """Pillow has its own, at 179 million pixels."""
    huge = put(huge_png(encoded(LABELS, "PNG"), 15000, 15000))
    with pytest.raises(InputError, match="more than 200,000,000 pixels"):
        check_image(huge, pixels_max=200_000_000)
    with pytest.raises(InputError, match="15000 x 15000 pixels cannot be in"):
        check_image(huge, pixels_max=10**9)


def test_a_file_larger_than_its_pixels_can_need_is_not_read(put):
    path = put(noise("PNG"))
    with open(path, "r+b") as file:
        file.truncate(METADATA_MAX + 4 * 4800 + 1)  # a hole: takes no room on the disk
    with pytest.raises(InputError, match="16,796,417 bytes, more than 4,800 pixels .data.pixels_max. can need"):
        check_image(path, pixels_max=4800)
    check_image(path, pixels_max=4801)


@pytest.mark.parametrize("read", [read_image, read_mask, lambda path: check_image(path, pixels_max=10)])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png", ""):
        with pytest.raises(InputError, match="a folder or device; expected a file"):
            read(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none.png")


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3)])
def test_extreme_shapes(put, shape):
    path = put(encoded(np.full((*shape, 3), 7, np.uint8), "PNG"))
    facts = check_image(path, pixels_max=6000)
    assert (facts.height, facts.width) == shape == read_image(path).shape[:2]


def test_mask_is_its_indices_not_its_colors(put):
    for image in (palette_image(LABELS), Image.fromarray(LABELS)):
        mask = read_mask(put(image))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, LABELS)


def test_mask_with_fewer_bits_keeps_its_indices(put):
    labels = np.array([[0, 1], [3, 2]], np.uint8)
    path = put(encoded(palette_image(labels), "PNG", bits=2))
    assert path.read_bytes()[24] == 2
    np.testing.assert_array_equal(read_mask(path), labels)


def test_large_mask_is_refused_before_decoding(put):
    path = put(huge_png(encoded(LABELS, "PNG"), 32767, 32767))
    with pytest.raises(InputError, match="32767 x 32767 pixels; expected at most 50,000,000 .data.pixels_max"):
        mask_from(path.read_bytes(), path, pixels_max=50_000_000)
