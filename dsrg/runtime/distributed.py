"""The processes of one stage: how they find each other, and how they part."""

import os
import warnings
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

from dsrg.errors import InputError
from dsrg.runtime.launcher import LaunchConfig, WorkShard

ENVIRONMENTS = {
    None: LightningEnvironment,
    "parent": LightningEnvironment,
    "torchrun": TorchElasticEnvironment,
    "srun": SLURMEnvironment,
}


def init_fabric(topology: LaunchConfig, *, precision: str = "32-true") -> Fabric:
    """Join the processes of `topology`, after starting those of this machine where no launcher did.

    Those started here run this process's command from the beginning. precision: as Fabric calls it. Raises InputError
    where a machine has too few GPUs.
    """
    gpus = torch.cuda.device_count()
    devices = topology.devices or max(gpus, 1)
    if 0 < gpus < devices:
        raise InputError(
            f"{devices} processes on a machine need {devices} GPUs, and {gpus} can be seen; set DSRG_DEVICES, or let "
            "every process see all GPUs of its machine (SLURM: --gpus-per-node instead of --gpus-per-task)"
        )
    if devices * topology.nodes == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision)
    cores = len(os.sched_getaffinity(0)) // (1 if topology.launcher == "srun" else devices)  # srun deals them out
    os.environ.setdefault("DSRG_WORKERS", str(max(cores, 1)))
    # the name that takes its place came after the oldest torch that will do
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
    fabric = Fabric(
        accelerator="cuda" if gpus else "cpu",
        devices=devices,
        num_nodes=topology.nodes,
        strategy=DDPStrategy(broadcast_buffers=False),  # no network here has buffers that change
        plugins=[ENVIRONMENTS[topology.launcher]()],
        precision=precision,
    )
    fabric.launch()
    if (found := distributed.get_world_size()) != devices * topology.nodes:
        raise InputError(f"{found} processes came together, expected {topology.nodes} machines with {devices} each")
    return fabric


def destroy_processes() -> None:
    """End what `init_fabric` began; nothing passes between the processes any more."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def shard_work(topology: LaunchConfig, folder: Path) -> WorkShard:
    """This process's share of work on many images, which all processes of `topology` keep in the first one's `folder`.

    Starts them where no launcher did, gives each its GPU, then leaves them alone. Errors: see `init_fabric`.
    """
    fabric = init_fabric(topology)
    share = WorkShard(Path(fabric.broadcast(str(folder))), fabric.global_rank, fabric.world_size)
    fabric.barrier()
    destroy_processes()
    return share
