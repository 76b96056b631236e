"""Reading images and masks: every part of the program sees a picture through these functions, so in one way only.

Pillow alone decodes, and `_header` alone says how large a picture is and how its pixels are turned. So what is checked,
what the index says and what is trained on are the same picture, whatever its format.
"""

import hashlib
import struct
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError, features

from dsrg.errors import InputError, RunError, few, one_line

with suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener()

ENDINGS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
NEEDS = {  # formats that are not in every installation, and how to get them
    "WEBP": (features.check("webp"), "needs a Pillow built with WebP"),
    "JPEG2000": (features.check("jpg_2000"), "needs a Pillow built with OpenJPEG"),
    "AVIF": (features.check("avif"), "needs a Pillow built with AVIF"),
    "HEIF": ("HEIF" in Image.OPEN, "run: pip install pillow-heif"),
}
FORMATS = [kind for kind in ENDINGS_OF if NEEDS.get(kind, (True,))[0]]  # known by their first bytes, not their names
ENDINGS = {ending: kind for kind in FORMATS for ending in ENDINGS_OF[kind]}  # of the files that are read
HOW_TO_READ = {ending: how for kind, (there, how) in NEEDS.items() if not there for ending in ENDINGS_OF[kind]}
READ = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC"  # as people call them
METADATA_MAX = 16 * 1024**2  # bytes that a file may hold besides 4 for each pixel
LARGE = 8_000_000  # pixels from which on memory is thought of
SUBFILE, BITS_PER_SAMPLE, ORIENTATION = 254, 258, 274  # TIFF tags, the last of EXIF too
TIFF_SIGNATURES = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
DEFLATE_MOST = 1032  # bytes that one byte of a PNG's compressed pixels can stand for
PNG_COLORS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGBA"}
DARK_MAX = 63  # of 255: what the upper 8 bits of 16 hold at most, where 14 are used
_ONE_AT_A_TIME = Lock()
Image.MAX_IMAGE_PIXELS = None  # the limit is data.pixels_max
warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file


# What is odd about an image, yet read by the rule stated
MISNAMED = "are of another format than their names say, and read as what they are"
FRAMES = "have several frames or pages, of which the first is used"
TRANSPARENT = "are transparent in places, where the colors beneath are used"
DEEP = "have 16 bits a channel, of which the upper 8 are used"
DARK = "have 16 bits a channel but use 14 of them at most, so come out dark or black; scale them to the full range"
CMYK = "are CMYK, turned into RGB without their color profile"
REMARKS = (MISNAMED, FRAMES, TRANSPARENT, DEEP, DARK, CMYK)


class ImageFacts(NamedTuple):
    """What the index keeps of an image, and what people should know of it."""

    height: int
    width: int
    checksum: str  # sha256 of the file, hexadecimal
    remarks: tuple[str, ...] = ()  # of REMARKS


class ExpectedChecksum(NamedTuple):
    """The sha256 that a file must have, hexadecimal, and the stage that noted it."""

    checksum: str
    stage: str


class SizedImage(NamedTuple):
    """pixels uint8 (h, w, 3), RGB, of an image whose own size is shape (H, W): the same, or it was scaled down."""

    pixels: np.ndarray
    shape: tuple[int, int]


def read_image(path: str | Path, *, expected: ExpectedChecksum | None = None) -> np.ndarray:
    """Read an image -> uint8 (H, W, 3) RGB.

    Turned as its EXIF orientation says; gray, CMYK, palette and 16-bit pictures become RGB of 8 bits, transparency is
    dropped, and of several frames or pages the first is read.
    Raises InputError if there is no readable image at `path`, or not the one that was `expected`.
    """
    return read_sized(path, None, expected=expected).pixels


def read_sized(path: str | Path, max_side: int | None, *, expected: ExpectedChecksum | None = None) -> SizedImage:
    """Read an image as `read_image` does, scaled down where its longer side is more than `max_side`.

    A JPEG is decoded at a half, a quarter or an eighth of its size where that is still `max_side` or more, in a
    fraction of the time: its pixels are nearly those of `limit_side(read_image(path), max_side)`, not quite.
    """
    with _decoder(BytesIO(read_bytes(path, expected)), path) as image:
        shape, orientation = _header(image, path)
        if max_side is not None and image.format in ("JPEG", "MPO"):
            short = 16  # pixels at least: a block beyond the edge counts for little then
            image.draft(None, (max_side, short) if image.width > image.height else (short, max_side))
        pixels = np.ascontiguousarray(_turned(_rgb(image), orientation))
        return SizedImage(limit_side(pixels, max_side, shape), shape)


def read_mask(path: str | Path, *, expected: ExpectedChecksum | None = None) -> np.ndarray:
    """Read a label map -> uint8 (H, W), from a palette PNG (its indices; colors play no part) or an 8-bit gray PNG.

    Turned as its EXIF orientation says, as its image is.
    Raises InputError for anything else, RGB above all: what its colors mean is not in the file; and for a file that is
    not the one `expected`.
    """
    return mask_from(read_bytes(path), path, expected=expected)


def mask_from(
    data: bytes, path: str | Path, *, pixels_max: int | None = None, expected: ExpectedChecksum | None = None
) -> np.ndarray:
    """The label map in the bytes of a file, which errors call `path`; see `read_mask`.

    With `pixels_max`, a larger one is refused before it is decoded.
    """
    _refuse_changed(data, path, expected)
    if (head := _png_head(data)) is None:
        raise InputError(f"{path}: no PNG; a mask must be a palette or 8-bit gray PNG")
    width, height, depth, color = head
    if color != 3 and (color, depth) != (0, 8):
        kind = f"{depth}-bit {PNG_COLORS.get(color, 'unknown')}"
        raise InputError(f"{path}: {kind} PNG; a mask must be a palette or 8-bit gray PNG whose values are classes")
    if pixels_max is not None and width * height > pixels_max:
        raise InputError(f"{path}: {width} x {height} pixels; expected at most {pixels_max:,} (data.pixels_max)")
    return _decode_png(data, path)


def read_gray(path: str | Path) -> np.ndarray:
    """Read a gray PNG of 8 or 16 bits -> uint8 or uint16 (H, W). Raises InputError for anything else."""
    data = read_bytes(path)
    _, _, depth, color = _png_head(data) or (0, 0, 0, -1)
    if color != 0 or depth not in (8, 16):
        raise InputError(f"{path}: expected a gray PNG of 8 or 16 bits")
    return _decode_png(data, path).astype(np.uint8 if depth == 8 else np.uint16)


def check_image(path: str | Path, *, pixels_max: int, key: str = "data.pixels_max") -> ImageFacts:
    """Check an image strictly, to its last byte -> its size as `read_image` returns it, its checksum, what is odd.

    The size in the header is compared with `pixels_max`, the value of the param or option `key`, before anything is
    decoded. Raises InputError for a file that is too large, empty, truncated, of another format, or no image. Of images
    with more than LARGE pixels one is decoded at a time, so that 100 million take 400 MB (800 as a TIFF in one strip,
    1600 as a WebP).
    """
    with _opened(path) as file:
        if (size := file.seek(0, 2)) > 4 * pixels_max + METADATA_MAX:
            raise InputError(f"{path}: {size:,} bytes, more than {pixels_max:,} pixels ({key}) can need")
        file.seek(0)
        with _decoder(file, path) as image:
            if (pixels := image.width * image.height) > pixels_max:
                raise InputError(f"{path}: more than {pixels_max:,} pixels ({key}); scale the image down")
            remarks = _header_remarks(image, path)
            heavy = pixels > (4 * LARGE if image.format == "JPEG" else LARGE)
            with _ONE_AT_A_TIME if heavy else nullcontext():
                shape, _ = _header(image, path)
                _decode_strictly(image)
            remarks |= {TRANSPARENT} if _is_transparent(image) else set()
            if DEEP in remarks and _highest(image) <= DARK_MAX:
                remarks = remarks - {DEEP} | {DARK}
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return ImageFacts(*shape, checksum, tuple(one for one in REMARKS if one in remarks))


def files_left_out(names: Iterable[str]) -> list[str]:
    """Lines for people about files that are not read as images, a line a kind: how many, the first, what would help."""
    kinds = defaultdict(list)
    for name in sorted(names):
        kinds[PurePosixPath(name).suffix.lower()].append(name)
    lines = []
    for ending, found in sorted(kinds.items()):
        how = f" ({HOW_TO_READ[ending]})" if ending in HOW_TO_READ else ""
        kind = f"of kind {ending}" if ending else "without an ending"
        lines.append(f"{len(found)} file{'s' * (len(found) > 1)} {kind} left out{how}: {few(found)}")
    return lines


def limit_side(image: np.ndarray, max_side: int | None, shape: tuple[int, int] | None = None) -> np.ndarray:
    """The image (h, w, 3), or, if its longer side is more than `max_side`, scaled down to that (mean of the areas).

    shape: (H, W) of the whole image, if this one was scaled down already; the same size comes out.
    """
    height, width = shape or image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image
    scale = max_side / max(height, width)
    size = tuple(max(1, round(side * scale)) for side in (width, height))
    return image if size == image.shape[1::-1] else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    """A file opened for reading that is a file, not a pipe that would never end, and not empty."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: a folder or device; expected a file")
        with open(path, "rb") as file:
            if not file.read(1):
                raise InputError(f"{path}: the file is empty; restore or remove it")
            file.seek(0)
            yield file
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a file") from None


def read_bytes(path: str | Path, expected: ExpectedChecksum | None = None) -> bytes:
    """The bytes of a file. Raises InputError if it is none, empty, or not the one `expected`."""
    with _opened(path) as file:
        data = file.read()
    _refuse_changed(data, path, expected)
    return data


def _refuse_changed(data: bytes, path: str | Path, expected: ExpectedChecksum | None) -> None:
    if expected is not None and (found := hashlib.sha256(data).hexdigest()) != expected.checksum:
        raise InputError(
            f"{path}: damaged, or changed since the stage `{expected.stage}` (sha256 {found[:12]}..., expected "
            f"{expected.checksum[:12]}...); restore it, or run the stage `{expected.stage}` again"
        )


def _png_head(data: bytes) -> tuple[int, int, int, int] | None:
    """Width, height, bits a channel and color type in the first chunk of a PNG; None of anything else."""
    if not data.startswith(PNG_SIGNATURE) or len(data) < 26:
        return None
    return struct.unpack(">IIBB", data[16:26])


@contextmanager
def _decoder(file: BinaryIO, path: str | Path) -> Iterator[Image.Image]:
    """An image opened, not yet decoded. Whatever a decoder raises on the way becomes an error that names the file."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            image.info.pop("xmp", None)  # Pillow would turn a TIFF as its XMP says too; EXIF alone counts
            yield image
    except (InputError, RunError):
        raise
    except UnidentifiedImageError:
        file.seek(0)
        raise InputError(f"{path}: {_guess(file.read(512))}") from None
    except MemoryError:
        raise RunError(f"{path}: not enough memory for its pixels; scale the image down") from None
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        raise InputError(f"{path}: broken image ({one_line(error)}); restore or remove it") from None


def _header(image: Image.Image, path: str | Path) -> tuple[tuple[int, int], int]:
    """Height and width of an image as it is shown, and the EXIF orientation, 1 to 8, by which its pixels are turned.

    The image is opened and not yet decoded; this is the one place that says them.
    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # a PPM's 16 bits come as 32
        raise InputError(f"{path}: a {image.format} of 32 bits a channel, or signed; save it with 8 or 16, unsigned")
    if image.format == "TIFF" and image.tag_v2.get(SUBFILE, 0) & 1:
        raise InputError(f"{path}: its first page is a preview, as in a camera's raw file; save the picture itself")
    if image.format == "PNG":
        _load_png(image)
    orientation = 1 if image.format == "TIFF" else _exif_orientation(image.info.get("exif"))
    width, height = image.size  # of a TIFF, and of what HEIC and AVIF say beside EXIF, Pillow sees to it itself
    return ((width, height) if orientation > 4 else (height, width)), orientation


def _exif_orientation(exif: bytes | None) -> int:
    """1 to 8; 1, upright, where there is none or it cannot be read, as every viewer takes it."""
    found = Image.Exif()
    with suppress(Exception):  # of broken EXIF data, which harms no pixel
        found.load(exif)
    orientation = found.get(ORIENTATION)
    return orientation if orientation in range(1, 9) else 1


def _load_png(image: Image.Image) -> None:
    """Decode a PNG whose EXIF data may stand behind the pixels. ValueError if it cannot be whole."""
    file = image.fp
    before, size = file.tell(), file.seek(0, 2)
    if image.width * image.height * _bits(image) > 8 * DEFLATE_MOST * size:
        raise ValueError(f"{image.width} x {image.height} pixels cannot be in {size:,} bytes")
    file.seek(0)
    if PNG_END not in file.read():
        raise ValueError("truncated, its last chunk is missing")
    file.seek(before)
    image.load()


def _load(image: Image.Image) -> None:
    """Decode an image. ValueError if it comes out in another size than it said."""
    size = image.size
    image.load()
    if image.size != size:
        raise ValueError(f"decoded to {image.width} x {image.height} pixels")


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, ...) as an EXIF orientation, 1 to 8, says they are to be shown; a view."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    vertically = -1 if orientation in (3, 4, 7, 8) else 1
    horizontally = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::vertically, ::horizontally]


def _rgb(image: Image.Image) -> np.ndarray:
    """The decoder's pixels, uint8 (H, W, 3) RGB; large ones are converted in strips, a matter of memory."""
    _load(image)
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, LARGE // width)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        if image.mode[0] == "I":  # 16 bits
            pixels[top : top + rows] = (np.asarray(strip) >> 8).astype(np.uint8)[:, :, None]
        else:
            pixels[top : top + rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels


def _decode_strictly(image: Image.Image) -> None:
    """Decode an image to its end. Of a JPEG few pixels are computed on the way, which takes a third of the time."""
    if image.format in ("JPEG", "MPO"):
        image.draft("L", (1, 1))
    _load(image)
    _rgb(image.crop((0, 0, 1, 1)))  # can be turned into RGB


def _highest(image: Image.Image) -> int:
    """The highest value of a decoded image of 16 bits a channel, 0..255."""
    if image.mode[0] == "I":
        return image.getextrema()[1] >> 8
    return max(high for _, high in image.convert("RGB").getextrema())


def _header_remarks(image: Image.Image, path: str | Path) -> set[str]:
    """What is odd about an image, as far as its header tells."""
    kind = "JPEG" if image.format == "MPO" else image.format  # a camera's JPEG with its preview behind it
    odd = {
        MISNAMED: ENDINGS.get(Path(path).suffix.lower(), kind) != kind,
        FRAMES: image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
        DEEP: _bits(image) == 16,
        CMYK: image.mode == "CMYK",
    }
    return {remark for remark, is_so in odd.items() if is_so}


def _bits(image: Image.Image) -> int:
    """Bits of a channel in the file; Pillow itself may already have reduced them to 8."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if image.format == "PNG":
        position = image.fp.tell()
        image.fp.seek(24)
        depth = image.fp.read(1)[0]
        image.fp.seek(position)
        return depth
    return 16 if image.mode[0] == "I" else 8


def _is_transparent(image: Image.Image) -> bool:
    if image.getbands()[-1] == "A":
        return image.getextrema()[-1][0] < 255
    return "transparency" in image.info


def _decode_png(data: bytes, path: str | Path) -> np.ndarray:
    """A PNG's values as they are, a palette's indices too, unless it speaks of more pixels than its bytes can hold."""
    with _decoder(BytesIO(data), path) as image:
        _, orientation = _header(image, path)
        return np.ascontiguousarray(_turned(np.array(image), orientation))


def _guess(data: bytes) -> str:
    """What a file is that no decoder knows, and what to do."""
    if data.lstrip()[:1] == b"<":
        what = "a web page or other text under an image's name (a failed download?)"
    elif data[:4] in TIFF_SIGNATURES:
        what = "a TIFF of bands, bits or compression that are not read; save it as RGB with 8 or 16 bits a channel"
    elif data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"avi"):
        kind = "AVIF" if data[8:11] == b"avi" else "HEIF"
        if kind not in FORMATS:
            return f"a{'n AVIF' if kind == 'AVIF' else ' HEIC'} image; {NEEDS[kind][1]}"
        what = f"a broken {kind} image"
    else:
        what = "not an image of a known format, or its first bytes are broken"
    return f"{what}; expected a {READ} image"
