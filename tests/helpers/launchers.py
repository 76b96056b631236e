"""The environment as launchers set it, and none of it."""

import os
import sys
from pathlib import Path

from helpers import ROOT

TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
    **{"GROUP_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
}
SRUN = {
    **{"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "dsrg", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0"},
    **{"SLURM_NTASKS_PER_NODE": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"},
}
CHILD = {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}

OF_LAUNCHERS = {*TORCHRUN, *SRUN, *CHILD, "DSRG_DEVICES", "DSRG_NODES"}


def environment(**more: str) -> dict[str, str]:
    """That of a shell in this Python's environment: its tools come first, dvc has set nothing."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return clean | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | more


def without_launcher() -> dict[str, str]:
    """The environment of a process that nothing but a shell started, and that finds the helpers."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_LAUNCHERS}
    return kept | {"PYTHONPATH": str(ROOT / "tests")}
