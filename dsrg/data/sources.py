"""Where data comes from: each source reads one layout into a Scan."""

from pathlib import Path

from dsrg.data.check import Scan
from dsrg.data.voc import scan_voc

SOURCES = {"voc": scan_voc}


def scan(source: str, root: Path, *, train: str, val: str) -> Scan:
    """Read the lists `train` and `val` of the data under `root`; all that is wrong is in the scan's problems."""
    return SOURCES[source](root, train=train, val=val)
