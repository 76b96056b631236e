"""How many processes train together, read from what torchrun, SLURM and people set."""

import pytest

from dsrg.errors import InputError
from dsrg.runtime.launcher import SINGLE_PROCESS, LaunchConfig, topology
from helpers.launchers import CHILD, SRUN, TORCHRUN

BATCH_SCRIPT = {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"} | {"ENVIRONMENT": "BATCH"}
SALLOC = {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"} | {"SLURM_JOB_NAME": "interactive"}
BY_HAND = {"DSRG_NODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "first", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, LaunchConfig(None, None, 1, True)),
        ({"DSRG_DEVICES": "", "DSRG_NODES": ""}, LaunchConfig(None, None, 1, True)),
        ({"DSRG_DEVICES": "3"}, LaunchConfig(None, 3, 1, True)),
        ({"DSRG_DEVICES": "1"}, SINGLE_PROCESS),
        ({"WORLD_SIZE": "1"}, LaunchConfig(None, None, 1, True)),
        (TORCHRUN, LaunchConfig("torchrun", 2, 2, False)),
        (TORCHRUN | {"RANK": "0"}, LaunchConfig("torchrun", 2, 2, True)),
        (
            TORCHRUN | {"LOCAL_WORLD_SIZE": "4", "DSRG_DEVICES": "4", "DSRG_NODES": "1"},
            LaunchConfig("torchrun", 4, 1, False),
        ),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, LaunchConfig("torchrun", 1, 4, False)),
        (TORCHRUN | SRUN, LaunchConfig("torchrun", 2, 2, False)),  # srun torchrun
        (SRUN, LaunchConfig("srun", 2, 2, True)),
        (SRUN | {"SLURM_PROCID": "3"}, LaunchConfig("srun", 2, 2, False)),
        (SRUN | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}, LaunchConfig(None, None, 1, True)),
        (BATCH_SCRIPT, LaunchConfig(None, None, 1, True)),
        (SALLOC, LaunchConfig(None, None, 1, True)),
        (CHILD, LaunchConfig("parent", 4, 1, False)),
        (CHILD | {"LOCAL_RANK": "0"}, LaunchConfig("parent", 4, 1, True)),
        (CHILD | BY_HAND, LaunchConfig("parent", 2, 2, False)),
        (CHILD | BY_HAND | {"LOCAL_RANK": "0", "NODE_RANK": "1"}, LaunchConfig("parent", 2, 2, False)),
        (BY_HAND | {"DSRG_DEVICES": "2"}, LaunchConfig(None, 2, 2, True)),
        (BY_HAND | {"NODE_RANK": "1"}, LaunchConfig(None, None, 2, False)),
    ],
)
def test_who_is_there(environ, expected):
    assert topology(environ) == expected


@pytest.mark.parametrize(
    ("environ", "complaints"),
    [
        (
            {"DSRG_DEVICES": "two", "DSRG_NODES": "0"},
            ["DSRG_DEVICES: expected a whole number from 1 on", "DSRG_NODES: "],
        ),
        # the trap: a launcher's two processes that each believe to be alone
        (TORCHRUN | {"DSRG_NODES": "1"}, ["DSRG_NODES=1, but torchrun started 2"]),
        (TORCHRUN | {"DSRG_DEVICES": "1"}, ["DSRG_DEVICES=1, but torchrun started 2"]),
        (SRUN | {"DSRG_DEVICES": "4", "DSRG_NODES": "1"}, ["DSRG_DEVICES=4, but srun", "DSRG_NODES=1, but srun"]),
        ({"WORLD_SIZE": "2", "RANK": "0"}, ["WORLD_SIZE=2 says that there are other processes"]),
        (TORCHRUN | {"WORLD_SIZE": "3"}, ["WORLD_SIZE=3, LOCAL_WORLD_SIZE=2: as many processes on every machine"]),
        (TORCHRUN | {"RANK": "4"}, ["rank 4 of 4"]),
        (TORCHRUN | {"WORLD_SIZE": "", "RANK": "x"}, ["WORLD_SIZE: missing", "RANK: expected"]),
        (SRUN | {"SLURM_NTASKS_PER_NODE": ""}, ["ask for --ntasks-per-node=2"]),
        (SRUN | {"SLURM_NTASKS": "3"}, ["SLURM_NTASKS=3, SLURM_NNODES=2: ask for --ntasks-per-node"]),
        (CHILD | {"WORLD_SIZE": "3"} | BY_HAND, ["WORLD_SIZE=3: not the same number on each of DSRG_NODES=2 machines"]),
        (CHILD | {"WORLD_SIZE": ""}, ["WORLD_SIZE: missing"]),
        ({"DSRG_NODES": "2"}, ["NODE_RANK: missing", "MASTER_PORT: missing", "MASTER_ADDR: missing"]),
    ],
)
def test_what_does_not_fit_together_is_refused(environ, complaints):
    with pytest.raises(InputError) as error:
        topology(environ)
    for complaint in complaints:
        assert any(line.startswith(complaint) or complaint in line for line in error.value.problems), error.value
    assert len(error.value.problems) == len(complaints)
