"""Reading images and masks: one way for all, and a clear reason for each file that is refused."""

import hashlib
import io
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

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
    read_image,
    read_mask,
)
from dsrg.data.palette import voc_palette
from dsrg.errors import InputError

QUARTERS = np.zeros((16, 24, 3), np.uint8)  # red, blue / green, black
QUARTERS[:8, :12, 0] = QUARTERS[:8, 12:, 2] = QUARTERS[8:, :12, 1] = 255
LABELS = np.array([[0, 1, 15], [20, 255, 3]], np.uint8)


def encode(image, file_format, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(file_format) -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), file_format)


@pytest.fixture
def put(tmp_path):
    """Write bytes (or save a PIL image as PNG) under a name -> its path."""

    def put(content, name="a.png"):
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
        return path

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
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(put, file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(encode(QUARTERS, file_format, exif=exif), "picture.bin")  # the ending plays no part
    image = read_image(path)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert image.dtype == np.uint8 and image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= 2  # decoders round differently
    facts = check_image(path, pixels_max=16 * 24)
    assert (facts.height, facts.width) == image.shape[:2] == ((24, 16) if orientation > 4 else (16, 24))
    assert facts.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_png_becomes_rgb(put, mode):
    grey = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    picture = wide if mode == "I;16" else Image.fromarray(grey).convert("RGB").convert(mode, dither=0)
    expected = np.repeat(grey[:, :, None], 3, axis=2) if mode not in ("P", "1") else np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_image(put(picture)), expected)


def test_cmyk_jpeg_becomes_rgb(put):
    path = put(b"", "cmyk.jpg")
    Image.fromarray(QUARTERS).convert("CMYK").save(path, quality=100, subsampling=0)
    check_image(path, pixels_max=1000)
    assert np.abs(read_image(path).astype(int) - QUARTERS).max() < 40


def frames(file_format, *, first) -> bytes:
    """Two frames or pages, the second white."""
    white = Image.new("RGB", (24, 16), "white")
    return encode(first, file_format, save_all=True, append_images=[white], **LOSSLESS.get(file_format, {}))


LOSSLESS = {"WEBP": {"lossless": True}}
GLASS = np.dstack([QUARTERS, np.tile(np.array([[255, 0]], np.uint8).repeat(12, 1), (16, 1))])
DEEP_PNG = cv2.imencode(".png", QUARTERS[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
DEEP_TIFF = cv2.imencode(".tiff", QUARTERS[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
# content, name, what is said of it; all hold QUARTERS
ODD = {
    "plain": (encode(QUARTERS, "PNG"), "a.png", ()),
    "no ending": (encode(QUARTERS, "PNG"), "a", ()),
    "PNG called JPEG": (encode(QUARTERS, "PNG"), "a.JPG", (MISNAMED,)),
    "animated PNG": (frames("PNG", first=QUARTERS), "a.png", (FRAMES,)),
    "animated WebP": (frames("WEBP", first=QUARTERS), "a.webp", (FRAMES,)),
    "pages of a TIFF": (frames("TIFF", first=QUARTERS), "a.tif", (FRAMES,)),
    "transparent": (encode(GLASS, "PNG"), "a.png", (TRANSPARENT,)),
    "opaque alpha": (encode(GLASS | np.uint8([0, 0, 0, 255]), "PNG"), "a.png", ()),
    "16-bit PNG": (DEEP_PNG, "a.png", (DEEP,)),
    "16-bit TIFF": (DEEP_TIFF, "a.tiff", (DEEP,)),
    "all at once": (DEEP_TIFF, "a.png", (MISNAMED, DEEP)),
}


@pytest.mark.parametrize(("content", "name", "remarks"), ODD.values(), ids=ODD)
def test_odd_image_is_read_by_one_rule_and_said(put, content, name, remarks):
    path = put(content, name)
    assert check_image(path, pixels_max=1000).remarks == remarks
    np.testing.assert_array_equal(read_image(path), QUARTERS)


def test_grey_transparent_palette_and_cmyk(put):
    assert check_image(put(encode(LABELS, "PNG")), pixels_max=1000).remarks == ()
    for highest, remark in ((2**16 - 1, DEEP), (2**14 - 1, DARK), (2**12 - 1, DARK)):
        deep = np.linspace(0, highest, LABELS.size).reshape(LABELS.shape).astype(np.uint16)
        assert check_image(put(encode(deep, "PNG")), pixels_max=1000).remarks == (remark,)
    path = put(b"", "a.png")
    palette_image(LABELS).save(path, transparency=0)
    assert check_image(path, pixels_max=1000).remarks == (TRANSPARENT,)
    Image.fromarray(QUARTERS).convert("CMYK").save(path.with_suffix(".jpg"))
    assert check_image(path.with_suffix(".jpg"), pixels_max=1000).remarks == (CMYK,)


@pytest.mark.parametrize("form", ["TIFF", "PNG", "WEBP"])
def test_the_colors_beneath_are_used_where_an_image_is_transparent(put, form):
    opaque = np.linspace(0, 255, QUARTERS[..., 0].size).reshape(QUARTERS[..., 0].shape).astype(np.uint8)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    path = put(encode(np.dstack([QUARTERS, opaque]), form, **options))
    np.testing.assert_array_equal(read_image(path), QUARTERS)
    assert TRANSPARENT in check_image(path, pixels_max=1000).remarks


def test_a_cameras_jpeg_with_a_preview_behind_it_is_a_jpeg(put):
    path = put(b"", "a.jpg")
    Image.fromarray(QUARTERS).save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (3, 2))])
    assert check_image(path, pixels_max=1000).remarks == ()
    assert read_image(path).shape == QUARTERS.shape


BAD_IMAGES = {
    "empty": (b"", "the file is empty"),
    "HTML saved as an image": (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
    "text": (b"hello", "not an image"),
    "GIF": (encode(QUARTERS, "GIF"), "expected a JPEG, PNG, WebP or TIFF image"),
    "truncated JPEG": (noise("JPEG")[:-500], "truncated"),
    "JPEG without its last bytes": (noise("JPEG")[:-20], "truncated"),
    "truncated PNG": (noise("PNG")[:-500], "truncated"),
    "PNG without its end": (noise("PNG")[:-12], "cannot be read as an image"),
    "truncated WebP": (noise("WEBP")[:-50], "broken image"),
    "truncated TIFF": (noise("TIFF")[:-50], "truncated"),
    "only a header": (noise("PNG")[:33], "its first bytes are broken"),
    "32-bit integers": (encode(LABELS.astype(np.int32), "TIFF"), "a TIFF of 32 bits a channel; save it with 8 or 16"),
    "floats": (encode(LABELS.astype(np.float32), "TIFF"), "a TIFF of 32 bits a channel"),
    "too large": (noise("PNG"), "more than 4,799 pixels (data.pixels_max)"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_image_is_refused_in_one_line(put, content, reason):
    path = put(content, "a.jpg")
    with pytest.raises(InputError) as error:
        check_image(path, pixels_max=60 * 80 - (reason.startswith("more")))
    (problem,) = error.value.problems
    assert problem.startswith(f"{path}: ") and reason in problem and "\n" not in problem


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (24, 30), (30, 24), (24, 24)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_large_images_are_checked_alike_in_less_memory(put, monkeypatch, file_format, orientation, shape):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(np.resize(QUARTERS, (*shape, 3)), file_format, exif=exif)
    path = put(content, "a.jpg")
    whole = check_image(path, pixels_max=1800)
    monkeypatch.setattr(images, "LARGE", 100)
    decode, decoded = images._decode, []
    monkeypatch.setattr(images, "_decode", lambda *arguments: decoded.append(decode(*arguments).size))
    assert check_image(path, pixels_max=1800) == whole
    assert decoded == [3 * (shape[0] // 8) * (shape[1] // 8)] or file_format == "JPEG", "an eighth of either side"
    cut = put(content[: len(content) * 2 // 3], "b.jpg")
    with pytest.raises(InputError, match="b.jpg: (broken image|cannot be read as an image)"):
        check_image(cut, pixels_max=1800)


def test_the_users_limit_is_the_only_one(put):
    """Pillow has its own, at 179 million pixels."""
    path = put(encode(LABELS, "PNG"))
    huge = bytearray(path.read_bytes())
    huge[16:24] = (15000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    with pytest.raises(InputError, match="more than 200,000,000 pixels"):
        check_image(put(bytes(huge)), pixels_max=200_000_000)
    with pytest.raises(InputError, match="cannot be read as an image"):
        check_image(put(bytes(huge)), pixels_max=10**9)


def test_pixel_limit_is_checked_before_decoding(put):
    bomb = bytearray(noise("PNG"))
    bomb[16:24] = b"\0\0\x7f\xff" * 2  # width and height in the header: a thousand million pixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(InputError, match="more than 50,000,000 pixels"):
        check_image(put(bytes(bomb)), pixels_max=50_000_000)


def test_a_file_larger_than_its_pixels_can_need_is_not_read(put):
    path = put(noise("PNG"))
    with open(path, "r+b") as file:
        file.truncate(METADATA_MAX + 4 * 4800 + 1)  # a hole: takes no room on the disk
    with pytest.raises(InputError, match="16,796,417 bytes, more than 4,800 pixels .data.pixels_max. can need"):
        check_image(path, pixels_max=4800)
    check_image(path, pixels_max=4801)


@pytest.mark.parametrize("read", [read_image, read_mask, lambda path: check_image(path, pixels_max=10)])
def test_a_pipe_is_refused_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="a folder or device; expected a file"):
        read(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(Path("/dev/zero"))
    with pytest.raises(InputError, match="a folder or device; expected a file"):
        read(tmp_path / "b.png")


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3)])
def test_extreme_shapes(put, shape):
    path = put(encode(np.full((*shape, 3), 7, np.uint8), "PNG"))
    facts = check_image(path, pixels_max=6000)
    assert (facts.height, facts.width) == shape == read_image(path).shape[:2]


@pytest.mark.parametrize("read", [read_image, read_mask, lambda path: check_image(path, pixels_max=10)])
def test_missing_file_and_folder(tmp_path, read):
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none.png")
    with pytest.raises(InputError, match="expected a file"):
        read(tmp_path)


def test_read_image_refuses_what_is_no_image(put):
    for content, reason in [(b"hello", "cannot be read as an image"), (b"", "the file is empty")]:
        with pytest.raises(InputError, match=reason):
            read_image(put(content))


def test_mask_is_its_indices_not_its_colours(put):
    for picture in (palette_image(LABELS), Image.fromarray(LABELS)):
        mask = read_mask(put(picture))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, LABELS)


def test_mask_with_fewer_bits_keeps_its_indices(tmp_path):
    labels = np.array([[0, 1], [3, 2]], np.uint8)
    palette_image(labels).save(tmp_path / "m.png", bits=2)
    assert (tmp_path / "m.png").read_bytes()[24] == 2
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), labels)


def test_large_mask_is_refused_before_decoding(put):
    bomb = bytearray(encode(LABELS, "PNG"))
    bomb[16:24] = b"\0\0\x7f\xff" * 2
    path = put(bytes(bomb))
    with pytest.raises(InputError, match="32767 x 32767 pixels; expected at most 50,000,000 .data.pixels_max"):
        read_mask(path, pixels_max=50_000_000)


BAD_MASKS = {
    "RGB": (encode(QUARTERS, "PNG"), "8-bit RGB PNG"),
    "RGBA": (encode(np.zeros((2, 2, 4), np.uint8), "PNG"), "8-bit RGBA PNG"),
    "16-bit": (encode(LABELS.astype(np.uint16), "PNG"), "16-bit grey PNG"),
    "1-bit": (encode(LABELS > 1, "PNG"), "1-bit grey PNG"),
    "grey with alpha": (encode(np.zeros((2, 2, 2), np.uint8), "PNG"), "grey with alpha"),
    "JPEG": (encode(LABELS, "JPEG"), "no PNG"),
    "truncated": (encode(np.resize(LABELS, (99, 99)), "PNG")[:-40], "broken PNG"),
    "cut within its header": (encode(LABELS, "PNG")[:20], "PNG"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_bad_mask_is_refused_in_one_line(put, content, reason):
    path = put(content)
    with pytest.raises(InputError) as error:
        read_mask(path)
    (problem,) = error.value.problems
    assert problem.startswith(f"{path}: ") and reason in problem and "\n" not in problem
