"""How many processes share one training, and which of them this is: as the environment says.

A launcher (torchrun, SLURM's srun) has started all of them, or this process will start the others of its machine
itself: DSRG_DEVICES of them, or one for each GPU. None of this changes a result, so none of it is a parameter.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsrg.errors import InputError


@dataclass(frozen=True)
class LaunchConfig:
    """`devices` processes (None: one a GPU, or one alone) on each of `nodes` machines, started by `launcher`.

    launcher: "torchrun", "srun", "parent" (another process of the same stage), or None: there are no others yet.
    is_rank_zero: whether this process is the one that reads checkpoints and writes files.
    """

    launcher: str | None
    devices: int | None
    nodes: int
    is_rank_zero: bool


SINGLE_PROCESS = LaunchConfig(None, 1, 1, is_rank_zero=True)


@dataclass(frozen=True)
class WorkShard:
    """Part `number` (from 0) of `parts` of work on many images; all parts keep what is done in `folder`."""

    folder: Path
    number: int = 0
    parts: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process puts the parts together."""
        return self.number == 0


def topology(environ: Mapping[str, str] = os.environ) -> LaunchConfig:
    """Read the environment.

    Raises InputError for every variable that is no number, is missing, or contradicts the others: processes that
    disagree about how many they are would each train a network of their own.
    """
    given = _Numbers(environ)
    devices, nodes = given.optional("DSRG_DEVICES"), given.optional("DSRG_NODES")
    if "TORCHELASTIC_RUN_ID" in environ:
        world, local = given.needed("WORLD_SIZE"), given.needed("LOCAL_WORLD_SIZE")
        found = _launched("torchrun", given, world=world, nodes=world // local or 1, rank=given.needed("RANK", least=0))
        if world % local and not given.problems:
            given.problems.append(f"WORLD_SIZE={world}, LOCAL_WORLD_SIZE={local}: as many processes on every machine")
    elif _by_srun(environ):
        world, rank = given.needed("SLURM_NTASKS"), given.needed("SLURM_PROCID", least=0)
        nodes_found = given.optional("SLURM_NNODES") or 1
        found = _launched("srun", given, world=world, nodes=nodes_found, rank=rank)
        if world % nodes_found or given.optional("SLURM_NTASKS_PER_NODE") != found.devices:
            given.problems.append(
                f"SLURM_NTASKS={world}, SLURM_NNODES={nodes_found}: ask for --ntasks-per-node={found.devices}, so that "
                "there are as many processes on every machine"
            )
    elif "LOCAL_RANK" in environ:
        world, rank = given.needed("WORLD_SIZE"), given.needed("LOCAL_RANK", least=0)
        first = rank == 0 and not given.optional("NODE_RANK", least=0)
        found = LaunchConfig("parent", world // (nodes or 1), nodes or 1, first)
        if world % found.nodes:
            given.problems.append(f"WORLD_SIZE={world}: not the same number on each of DSRG_NODES={nodes} machines")
    else:
        found = LaunchConfig(None, devices, nodes or 1, _is_first_machine(given, nodes or 1))
    for name, wanted, there in (("DSRG_DEVICES", devices, found.devices), ("DSRG_NODES", nodes, found.nodes)):
        if wanted not in (None, there):
            given.problems.append(f"{name}={wanted}, but {found.launcher} started {there}; leave {name} out")
    if given.problems:
        raise InputError(given.problems)
    return found


def _is_first_machine(given: "_Numbers", nodes: int) -> bool:
    """Whether this is the first machine, where nothing has started this process."""
    if nodes > 1:
        given.needed("MASTER_PORT")
        if "MASTER_ADDR" not in given.environ:
            needs = "without torchrun or srun, several machines need the first one's name"
            given.problems.append(f"MASTER_ADDR: missing; {needs}")
        return given.needed("NODE_RANK", least=0) == 0
    if (world := given.optional("WORLD_SIZE")) not in (None, 1):
        given.problems.append(
            f"WORLD_SIZE={world} says that there are other processes, but neither torchrun nor srun started this one; "
            "use one of them, or unset it"
        )
    return True


def _launched(launcher: str, given: "_Numbers", *, world: int, nodes: int, rank: int) -> LaunchConfig:
    if rank >= world:
        given.problems.append(f"rank {rank} of {world} processes: they count from 0")
    return LaunchConfig(launcher, max(world // nodes, 1), nodes, rank == 0)


def _by_srun(environ: Mapping[str, str]) -> bool:
    """Is this one of several tasks of srun? A batch script, and a shell that salloc opened, have most variables too."""
    inside = "SLURM_STEP_ID" in environ or environ.get("ENVIRONMENT") != "BATCH"
    interactive = environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    alone = environ.get("SLURM_NTASKS", "1") == "1"
    return "SLURM_PROCID" in environ and inside and not interactive and not alone


class _Numbers:
    """Whole numbers of an environment; what is wrong with them gathers in `problems`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ, self.problems = environ, []

    def optional(self, name: str, *, least: int = 1) -> int | None:
        text = self.environ.get(name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            self.problems.append(f"{name}: expected a whole number from {least} on, not {text!r}")
            return None
        return int(text)

    def needed(self, name: str, *, least: int = 1) -> int:
        if not self.environ.get(name):
            self.problems.append(f"{name}: missing; what starts several processes has to set it")
        found = self.optional(name, least=least)
        return least if found is None else found
