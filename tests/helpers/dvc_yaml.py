"""What dvc.yaml says."""

import re
from pathlib import Path

from ruamel.yaml import YAML

from dsrg.files import sha256
from helpers import ROOT

DAG = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
STAGES = DAG["stages"]
FILE = DAG["vars"][0]["file"]


def filled(text: str) -> str:
    return re.sub(r"\$\{file\.(\w+)\}", lambda match: FILE[match[1]], text)


def outs(stage: dict) -> set[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return {filled(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries}


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of every out of every stage in a project's folder, file by file."""
    files = {}
    for path in sorted({out for stage in STAGES.values() for out in outs(stage)}):
        found = sorted(file for file in [folder / path, *(folder / path).rglob("*")] if file.is_file())
        files |= {str(file.relative_to(folder)): sha256(file) for file in found}
    return files
