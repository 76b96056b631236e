"""Reading images and masks: every part of the program sees a picture through these functions, so in one way only."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from dsrg.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")  # told by their first bytes, whatever the file is called
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


class ImageFacts(NamedTuple):
    """What the index keeps of an image."""

    height: int
    width: int
    checksum: str  # sha256 of the file, hexadecimal


def read_image(path: str | Path) -> np.ndarray:
    """Read an image -> uint8 (H, W, 3) RGB.

    Turned as its EXIF orientation says; grey, CMYK, palette and 16-bit pictures become RGB, transparency is dropped.
    Raises InputError if there is no readable image at `path`.
    """
    return _decode(_read_bytes(path), path)


def read_mask(path: str | Path) -> np.ndarray:
    """Read a label map -> uint8 (H, W), from a palette PNG (its indices; colours play no part) or an 8-bit grey PNG.

    Raises InputError for anything else, RGB above all: what its colours mean is not in the file.
    """
    data = _read_bytes(path)
    if not data.startswith(PNG_SIGNATURE):
        raise InputError(f"{path}: no PNG; a mask must be a palette or 8-bit grey PNG")
    depth, colour = (data[24:26] + b"\0\0")[:2]  # of the IHDR chunk, which always comes first
    if colour != 3 and (colour, depth) != (0, 8):
        kind = f"{depth}-bit {PNG_COLOURS.get(colour, 'unknown')}"
        raise InputError(f"{path}: {kind} PNG; a mask must be a palette or 8-bit grey PNG whose values are classes")
    try:
        # Not with OpenCV: it turns palette indices into the brightness of their colours.
        return np.array(Image.open(BytesIO(data), formats=("PNG",)))
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        raise InputError(f"{path}: broken PNG ({_one_line(error)}); restore the file") from None


def check_image(path: str | Path, *, pixels_max: int) -> ImageFacts:
    """Check an image strictly, to its last byte -> its size as `read_image` returns it, and its checksum.

    The size in the header is compared with `pixels_max` before anything is decoded. Raises InputError for a file that
    is too large, empty, truncated, of another format, or no image.
    """
    data = _read_bytes(path)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > pixels_max:
                raise Image.DecompressionBombError
            image.draft("L", (1, 1))  # a JPEG is still read to its end, but few pixels are computed: 3 times faster
            image.load()
    except UnidentifiedImageError:
        raise InputError(f"{path}: {_guess(data)}; expected a JPEG, PNG, WebP or TIFF image") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: more than {pixels_max:,} pixels (data.pixels_max); scale the image down") from None
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        raise InputError(f"{path}: broken image ({_one_line(error)}); restore or remove it") from None
    height, width, _ = _decode(data, path).shape
    return ImageFacts(height, width, hashlib.sha256(data).hexdigest())


def file_checksum(path: str | Path) -> str:
    """sha256 of a file, hexadecimal."""
    return hashlib.sha256(_read_bytes(path)).hexdigest()


def _read_bytes(path: str | Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file") from None
    if not data:
        raise InputError(f"{path}: the file is empty; restore or remove it")
    return data


def _decode(data: bytes, path: str | Path) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path}: cannot be read as an image; restore or remove it")
    return image


def _guess(data: bytes) -> str:
    if data.lstrip()[:1] == b"<":
        return "a web page or other text under an image's name (a failed download?)"
    return "not an image of a known format, or its first bytes are broken"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
