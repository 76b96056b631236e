"""Files named after the sha256 of what is in them, for unfinished work: a damaged one is noticed, not gone on from."""

import hashlib
from pathlib import Path

from dsrg.files import atomic_file


class DamagedError(Exception):
    """A file is not what it was when it was written."""


def write_checksummed(folder: Path, stem: str, content: bytes, *, suffix: str) -> Path:
    """Write folder/STEM.SHA256SUFFIX, atomically -> its path."""
    path = folder / f"{stem}.{hashlib.sha256(content).hexdigest()}{suffix}"
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_checksummed(path: Path) -> bytes:
    """What was written to such a file. Raises DamagedError when it is no more, or no longer, what its name says."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != path.stem.rsplit(".", 1)[-1]:
        raise DamagedError(f"{path}: its content is not what was written (its sha256 is not that of its name)")
    return content
