"""Reading images and masks: every part of the program sees a picture through these functions, so in one way only."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from dsrg.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")  # told by their first bytes, whatever the file is called
ENDINGS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
METADATA_MAX = 16 * 1024**2  # bytes that a file may hold besides 4 for each pixel
LARGE = 8_000_000  # pixels from which on memory is thought of
BITS_PER_SAMPLE, ORIENTATION = 258, 274  # TIFF tags, the latter of EXIF too
DARK_MAX = 63  # of 255: what the upper 8 bits of 16 hold at most, where 14 are used
TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEFLATE_MOST = 1032  # bytes that one byte of a PNG's compressed pixels can stand for
_ONE_AT_A_TIME = Lock()
Image.MAX_IMAGE_PIXELS = None  # the limit is data.pixels_max
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with a file is said once, by us
PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


# What is odd about an image, yet read by the rule stated
MISNAMED = "are of another format than their names say, and read as what they are"
FRAMES = "have several frames or pages, of which the first is used"
TRANSPARENT = "are transparent in places, where the colours beneath are used"
DEEP = "have 16 bits a channel, of which the upper 8 are used"
DARK = "have 16 bits a channel but use 14 of them at most, so come out dark or black; scale them to the full range"
CMYK = "are CMYK, turned into RGB without their colour profile"
REMARKS = (MISNAMED, FRAMES, TRANSPARENT, DEEP, DARK, CMYK)


class ImageFacts(NamedTuple):
    """What the index keeps of an image, and what people should know of it."""

    height: int
    width: int
    checksum: str  # sha256 of the file, hexadecimal
    remarks: tuple[str, ...] = ()  # of REMARKS


class Noted(NamedTuple):
    """The sha256 that a file must have, hexadecimal, and the stage that noted it."""

    checksum: str
    stage: str


def read_image(path: str | Path, *, noted: Noted | None = None) -> np.ndarray:
    """Read an image -> uint8 (H, W, 3) RGB.

    Turned as its EXIF orientation says; grey, CMYK, palette and 16-bit pictures become RGB of 8 bits, transparency is
    dropped, and of several frames or pages the first is read.
    Raises InputError if there is no readable image at `path`, or not the one that was `noted`.
    """
    return _decode(_read_bytes(path, noted), path)


def read_mask(path: str | Path, *, pixels_max: int | None = None, noted: Noted | None = None) -> np.ndarray:
    """Read a label map -> uint8 (H, W), from a palette PNG (its indices; colours play no part) or an 8-bit grey PNG.

    Raises InputError for anything else, RGB above all: what its colours mean is not in the file. With `pixels_max`, a
    larger one is refused before it is decoded; so is a file that is not the one `noted`.
    """
    return mask_from(_read_bytes(path), path, pixels_max=pixels_max, noted=noted)


def mask_from(
    data: bytes, path: str | Path, *, pixels_max: int | None = None, noted: Noted | None = None
) -> np.ndarray:
    """The label map in the bytes of a file, which errors call `path`; see `read_mask`."""
    _refuse_changed(data, path, noted)
    if not data.startswith(PNG_SIGNATURE):
        raise InputError(f"{path}: no PNG; a mask must be a palette or 8-bit grey PNG")
    depth, colour = (data[24:26] + b"\0\0")[:2]  # of the IHDR chunk, which always comes first
    if colour != 3 and (colour, depth) != (0, 8):
        kind = f"{depth}-bit {PNG_COLOURS.get(colour, 'unknown')}"
        raise InputError(f"{path}: {kind} PNG; a mask must be a palette or 8-bit grey PNG whose values are classes")
    width, height = _png_size(data)
    if pixels_max is not None and width * height > pixels_max:
        raise InputError(f"{path}: {width} x {height} pixels; expected at most {pixels_max:,} (data.pixels_max)")
    return _decode_png(data, path)  # not with OpenCV: it turns palette indices into the brightness of their colours


def read_grey(path: str | Path) -> np.ndarray:
    """Read a grey PNG of 8 or 16 bits -> uint8 or uint16 (H, W). Raises InputError for anything else."""
    data = _read_bytes(path)
    depth, colour = (data[24:26] + b"\0\0")[:2]  # of the IHDR chunk, which always comes first
    if not data.startswith(PNG_SIGNATURE) or colour != 0 or depth not in (8, 16):
        raise InputError(f"{path}: expected a grey PNG of 8 or 16 bits")
    return _decode_png(data, path).astype(np.uint8 if depth == 8 else np.uint16)


def check_image(path: str | Path, *, pixels_max: int, key: str = "data.pixels_max") -> ImageFacts:
    """Check an image strictly, to its last byte -> its size as `read_image` returns it, its checksum, what is odd.

    The size in the header is compared with `pixels_max`, the value of the param or option `key`, before anything is
    decoded. Raises InputError for a file that
    is too large, empty, truncated, of another format, or no image. Of images with more than LARGE pixels one is decoded
    at a time, and to an eighth of its sides, so that 100 million take 400 MB (800 as a TIFF in one strip); whether it
    is transparent is not looked at.
    """
    with _opened(path) as file:
        if (size := file.seek(0, 2)) > 4 * pixels_max + METADATA_MAX:
            raise InputError(f"{path}: {size:,} bytes, more than {pixels_max:,} pixels ({key}) can need")
        file.seek(0)
        try:
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > pixels_max:
                    limit = f"more than {pixels_max:,} pixels ({key})"
                    raise InputError(f"{path}: {limit}; scale the image down")
                heavy = width * height > (4 * LARGE if image.format == "JPEG" else LARGE)
                with _ONE_AT_A_TIME if heavy else nullcontext():
                    height, width, remarks = _decode_strictly(image, file, path)
        except InputError:
            raise
        except UnidentifiedImageError:
            file.seek(0)
            raise InputError(f"{path}: {_guess(file.read(512))}; expected a JPEG, PNG, WebP or TIFF image") from None
        except Exception as error:  # a broken file can raise nearly anything in a decoder
            raise InputError(f"{path}: broken image ({_one_line(error)}); restore or remove it") from None
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return ImageFacts(height, width, checksum, remarks)


def shrunk(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """The image (H, W, 3), or, if its longer side is more than `max_side`, scaled down to that (mean of the areas)."""
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image
    scale = max_side / max(height, width)
    size = tuple(max(1, round(side * scale)) for side in (width, height))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


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


def _read_bytes(path: str | Path, noted: Noted | None = None) -> bytes:
    with _opened(path) as file:
        data = file.read()
    _refuse_changed(data, path, noted)
    return data


def _refuse_changed(data: bytes, path: str | Path, noted: Noted | None) -> None:
    if noted is not None and (found := hashlib.sha256(data).hexdigest()) != noted.checksum:
        raise InputError(
            f"{path}: damaged, or changed since the stage `{noted.stage}` (sha256 {found[:12]}..., expected "
            f"{noted.checksum[:12]}...); restore it, or run the stage `{noted.stage}` again"
        )


def _decode_strictly(image: Image.Image, file: BinaryIO, path: str | Path) -> tuple[int, int, tuple[str, ...]]:
    """Decode with Pillow, which is stricter, and with OpenCV as `read_image` does -> height, width, what is odd.

    Large images are decoded at an eighth of their sides, which is a matter of memory. Only JPEGs profit from that in
    Pillow, and only they need it: of the others OpenCV notices a missing end.
    """
    if image.mode in ("F", "I"):
        raise InputError(f"{path}: a {image.format} of 32 bits a channel; save it with 8 or 16")
    remarks, (width, height) = _header_remarks(image, path), image.size
    large = width * height > LARGE
    turned = large and _is_turned(image)
    if not large or image.format == "JPEG":
        image.draft("L", (1, 1))  # a JPEG is still read to its end, but few pixels are computed: 3 times faster
        image.load()
    file.seek(0)
    data = file.read()
    if large:
        pixels = _decode(data, path, cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION)
        height, width = (width, height) if turned else (height, width)
    else:
        pixels = _decode(data, path)
        height, width, _ = pixels.shape
        remarks += [TRANSPARENT] * _is_transparent(image)
    if DEEP in remarks and pixels.max() <= DARK_MAX:
        remarks[remarks.index(DEEP)] = DARK
    return height, width, tuple(remarks)


def _header_remarks(image: Image.Image, path: str | Path) -> list[str]:
    """What is odd about an image, as far as its header tells."""
    kind = "JPEG" if image.format == "MPO" else image.format  # a camera's JPEG with its preview behind it
    odd = {
        MISNAMED: ENDINGS.get(Path(path).suffix.lower(), kind) != kind,
        FRAMES: image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
        DEEP: _bits(image) == 16,
        CMYK: image.mode == "CMYK",
    }
    return [remark for remark, is_so in odd.items() if is_so]


def _is_turned(image: Image.Image) -> bool:
    """Will an image be turned by a quarter when it is read, and is not yet in Pillow's eyes?"""
    image.info.setdefault("exif", b"")  # or Pillow decodes a PNG for what may stand behind the pixels
    return image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) >= 5


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
    return 8


def _is_transparent(image: Image.Image) -> bool:
    if image.getbands()[-1] == "A":
        return image.getchannel("A").getextrema()[0] < 255
    return "transparency" in image.info


def _png_size(data: bytes) -> tuple[int, int]:
    """Width and height in the first chunk of a PNG."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _decode_png(data: bytes, path: str | Path) -> np.ndarray:
    """Decode a PNG with Pillow as it is, unless it speaks of more pixels than so many bytes can hold."""
    width, height = _png_size(data)
    try:
        if width * height * data[24] > 8 * DEFLATE_MOST * len(data):
            raise ValueError(f"{width} x {height} pixels cannot be in {len(data):,} bytes")
        return np.array(Image.open(BytesIO(data), formats=("PNG",)))
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        raise InputError(f"{path}: broken PNG ({_one_line(error)}); restore the file") from None


def _decode(data: bytes, path: str | Path, flags: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray:
    if data[:4] in TIFF_SIGNATURES and (image := _colors_beneath(data)) is not None:
        return image
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path}: cannot be read as an image; restore or remove it")
    return image


def _colors_beneath(data: bytes) -> np.ndarray | None:
    """A TIFF's pixels, uint8 (H, W, 3), if it is transparent: OpenCV would darken what is. None for all else."""
    try:
        with Image.open(BytesIO(data), formats=("TIFF",)) as image:
            return np.array(image.convert("RGBA"))[:, :, :3] if image.getbands()[-1] == "A" else None
    except Exception:  # a broken file can raise nearly anything in a decoder; OpenCV's answer is given
        return None


def _guess(data: bytes) -> str:
    if data.lstrip()[:1] == b"<":
        return "a web page or other text under an image's name (a failed download?)"
    return "not an image of a known format, or its first bytes are broken"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
