"""Label maps of many images in a folder, in one of two formats, both with a checksum of each map.

png     ID.png of each image; SHA256SUMS, as `sha256sum -c SHA256SUMS` reads it
shards  00000.tar, 00001.tar, ...: ID.png of MAPS images each, for a million small files are slow in DVC and in object
        stores; PLACES, a line a map: its sha256, the tar file, its offset and size there in bytes, ID.png
"""

import hashlib
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.data.images import ExpectedChecksum, mask_from, read_mask
from dsrg.errors import InputError, advised, few
from dsrg.files import atomic_folder, opened_text

CHECKSUMS, PLACES = "SHA256SUMS", "PLACES"
CHECKSUM = re.compile(r"([0-9a-f]{64})  (.+)\.png\n")
PLACE = re.compile(r"([0-9a-f]{64})  (\d{5,9})\.tar (\d{1,18}) (\d{1,18})  (.+)\.png\n")
MAPS = 4096  # in a tar file: some 10 MB of maps the size of photographs


@contextmanager
def written_labels(path: Path, *, format: str) -> Iterator[Callable[[str, bytes], None]]:
    """Fill the folder `path`, atomically: yields a function of an id and its label map's PNG.

    The same maps in the same order give the same bytes.
    """
    notes_name = PLACES if format == "shards" else CHECKSUMS
    with atomic_folder(path) as folder, open(folder / notes_name, "w", encoding="utf-8", newline="") as notes:
        with ExitStack() as opened:
            count, tar = 0, None

            def add(image_id: str, png: bytes) -> None:
                nonlocal count, tar
                name, where = f"{image_id}.png", ""
                if format == "shards":
                    shard = f"{count // MAPS:05d}.tar"
                    if count % MAPS == 0:
                        opened.close()
                        tar = opened.enter_context(tarfile.open(folder / shard, "w"))
                    info = tarfile.TarInfo(name)
                    info.size = len(png)
                    tar.addfile(info, BytesIO(png))
                    offset = tar.offset - tarfile.BLOCKSIZE * math.ceil(info.size / tarfile.BLOCKSIZE)
                    where = f"{shard} {offset} {info.size}  "
                else:
                    (folder / name).write_bytes(png)
                count += 1
                notes.write(f"{hashlib.sha256(png).hexdigest()}  {where}{name}\n")

            yield add


class LabelFolder:
    """The label map of each id in a folder of either format, read when asked for: folder[row] -> uint8 (H, W).

    In memory some 250 bytes an image. Raises InputError at once when maps or checksums are missing, and for a map that
    is not the one noted.
    """

    def __init__(self, folder: Path, ids: Iterable[str], *, stage_name: str) -> None:
        self.folder, self.stage_name = folder, stage_name
        self.ids = list(ids)
        self.in_tars = (folder / PLACES).is_file()
        listing = folder / (PLACES if self.in_tars else CHECKSUMS)
        with advised(f"run the stage `{stage_name}` again"):
            if not self.in_tars:
                missing = [image_id for image_id in self.ids if not (folder / f"{image_id}.png").is_file()]
                self._refuse(missing, f"{folder}: ", "are missing")
            self._read(listing)
            lacking = [image_id for image_id, checksum in zip(self.ids, self._sums, strict=True) if not checksum]
            self._refuse(lacking, f"{listing}: ", "lack")
            tars = (self._tar(number) for number in np.unique(self._places[:, 0]) if self.in_tars)
            if gone := [path for path in tars if not path.is_file()]:
                raise InputError(f"{path}: no such file" for path in gone)

    def _read(self, listing: Path) -> None:
        """Find the checksums, and in shards the places, int64 (N, 3): the tar file's number, offset, size."""
        line_is, row_of = PLACE if self.in_tars else CHECKSUM, {image_id: row for row, image_id in enumerate(self.ids)}
        self._sums, self._places = [""] * len(self.ids), np.zeros((len(self.ids), 3), np.int64)
        with opened_text(listing) as file:
            for number, line in enumerate(file, 1):
                if (match := line_is.fullmatch(line)) is None:
                    raise InputError(f"{listing}: line {number}: expected a sha256 and a file's name")
                found, *place, image_id = match.groups()
                if (row := row_of.get(image_id)) is not None:
                    self._sums[row] = found
                    self._places[row] = [int(one) for one in place] or 0

    def _refuse(self, ids: list[str], where: str, what: str) -> None:
        if ids:
            named = few(f"{image_id}.png" for image_id in ids)
            raise InputError(f"{where}{len(ids)} of {len(self.ids)} label maps {what} ({named})")

    def _tar(self, number: int) -> Path:
        return self.folder / f"{number:05d}.tar"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        expected, name = ExpectedChecksum(self._sums[row], self.stage_name), f"{self.ids[row]}.png"
        if not self.in_tars:
            return read_mask(self.folder / name, expected=expected)
        number, offset, size = self._places[row].tolist()
        with open(self._tar(number), "rb") as tar:
            most = os.fstat(tar.fileno()).st_size  # damaged numbers may lead anywhere and ask for any memory
            tar.seek(min(offset, most))
            return mask_from(tar.read(min(size, most)), self._tar(number) / name, expected=expected)
