"""What dvc.yaml says."""

import re

from ruamel.yaml import YAML

from helpers import ROOT

DAG = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
STAGES = DAG["stages"]
FILE = DAG["vars"][0]["file"]


def filled(text: str) -> str:
    return re.sub(r"\$\{file\.(\w+)\}", lambda match: FILE[match[1]], text)


def outs(stage: dict) -> set[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return {filled(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries}
