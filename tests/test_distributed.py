"""Several processes train as one would: the same steps, however they were started; and they end together."""

import random
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dsrg.errors import InputError, RunError
from dsrg.networks.heads import BatchDropout, share_dropout
from dsrg.runtime import distributed
from dsrg.runtime.distributed import init_fabric
from dsrg.runtime.launcher import LaunchConfig
from dsrg.training import collectives as training
from helpers import small_training
from helpers.launchers import SRUN, TORCHRUN, without_launcher

SCRIPT = str(Path(small_training.__file__))


def free_port() -> str:
    """None of those that any connection may be given before it is used."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return str(port)
    raise OSError("no free port")


def commands(launcher: str, *arguments: object) -> list[tuple[list[str], dict[str, str]]]:
    """The commands, each with what it needs in the environment, that start two processes."""
    script, port = [SCRIPT, *map(str, arguments)], free_port()
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if launcher == "self":
        return [([sys.executable, *script], {"DSRG_DEVICES": "2"})]
    if launcher == "torchrun, 1 machine":
        return [([*torchrun, "--standalone", "--nproc-per-node=2", *script], {})]
    if launcher == "torchrun, 2 machines":
        where = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}", "--nproc-per-node=1"]
        return [([*torchrun, *where, f"--node-rank={rank}", *script], {}) for rank in range(2)]
    tasks = SRUN | {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = ({"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2))
    return [([sys.executable, *script], tasks | rank) for rank in ranks]


def run(launcher: str, *arguments: object, survivors: int | None = None, **more: str) -> list[tuple[int, str]]:
    """Exit code and output of each command, or of the first `survivors`. Fails when one of them does not end."""
    patient = {"DSRG_TIMEOUT_SECONDS": "300"}  # with whoever has to wait for a busy machine
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [
        subprocess.Popen(command, env=without_launcher() | patient | needs | more, **pipes)
        for command, needs in commands(launcher, *arguments)
    ]
    try:
        return [(process.wait(timeout=400), process.stdout.read()) for process in running[:survivors]]
    finally:
        for process in running:
            process.kill()


@cache
def alone(kind: str) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    """Weights and curves of one process."""
    with tempfile.TemporaryDirectory() as folder:
        network = small_training.train(Path(folder), kind)
        return network.state_dict(), curves(Path(folder))


def curves(folder: Path) -> list[list[float]]:
    header, *lines = (folder / "curves.tsv").read_text().splitlines()
    return [[float(value) for value in line.split("\t")] for line in lines]


def distance(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Length of the difference of all weights, over their length."""
    mine, theirs = (torch.cat([value.double().flatten() for value in part.values()]) for part in (weights, others))
    return float((mine - theirs).norm() / mine.norm())


def stopped_half_way(folder: Path, kind: str) -> None:
    """One process that ends after step 25; its checkpoint is of step 20."""

    def watch(network, step):
        if step == 25:
            raise KeyError

    with pytest.raises(KeyError):
        small_training.train(folder, kind, on_step_end=watch)


@pytest.mark.parametrize(
    ("launcher", "kind", "resumed"),
    [("torchrun, 1 machine", "cross_entropy", False), ("torchrun, 2 machines", "balanced", True)],
)
def test_two_processes_take_the_steps_of_one(tmp_path, monkeypatch, launcher, kind, resumed):
    monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "10")
    if resumed:
        stopped_half_way(tmp_path, kind)
    ends = run(launcher, tmp_path, kind)
    assert [code for code, _ in ends] == [0] * len(ends), ends[0][1]
    said = "".join(output for _, output in ends)
    assert said.count("Starting with 2 processes") == 1
    assert ("going on from step 20 of 50" in said) == resumed
    weights, expected = alone(kind)
    assert distance(weights, torch.load(tmp_path / "weights.pt")) < 1e-5
    found = curves(tmp_path)
    assert len(found) == len(expected) == 5
    for line, other in zip(found, expected, strict=True):
        assert line == pytest.approx(other, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("launcher", "kind", "what"), [("self", "seeds", signal.SIGKILL), ("srun", "tags", signal.SIGSTOP)]
)
def test_a_process_lost_ends_all_and_one_alone_goes_on(tmp_path, monkeypatch, launcher, kind, what):
    """... from the steps of two. Killed, the others know at once; of one that hangs they know after their timeout."""
    monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "10")
    ends = run(launcher, tmp_path, kind, 1, 25, int(what), survivors=1, DSRG_TIMEOUT_SECONDS="5")
    ((code, said),) = ends
    assert code != 0 and "RunError: another process ended or fell silent" in said, said
    assert "Starting with 2 processes" in said and not (tmp_path / "weights.pt").exists()
    network = small_training.train(tmp_path, kind)
    assert distance(alone(kind)[0], network.state_dict()) < 1e-5
    assert [line[0] for line in curves(tmp_path)] == [10, 20, 30, 40, 50]


class TestDropout:
    """What a part of the batch loses is what the whole batch loses there."""

    @pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(("first", "stop"), [(0, 2), (2, 3), (0, 7), (6, 7)])
    def test_parts_of_a_batch(self, format, dtype, first, stop):
        whole = torch.randn(7, 4, 3, 5).to(dtype).contiguous(memory_format=format)
        plain, shared = (nn.Sequential(nn.Conv2d(4, 4, 1), BatchDropout(0.4)) for _ in range(2))
        plain[0] = shared[0] = nn.Identity()
        share_dropout(shared, first=first, batch=7)
        torch.manual_seed(5)
        expected, after = plain(whole), torch.get_rng_state()
        torch.manual_seed(5)
        assert torch.equal(shared(whole[first:stop]), expected[first:stop])
        assert torch.equal(torch.get_rng_state(), after)
        assert torch.equal(shared.eval()(whole), whole)

    def test_gradients_are_those_of_dropout(self):
        inputs = torch.randn(2, 3, requires_grad=True)
        layer = nn.Sequential(BatchDropout(0.5))
        share_dropout(layer, first=0, batch=2)
        torch.manual_seed(1)
        (found,) = torch.autograd.grad(layer(inputs).sum(), inputs)
        torch.manual_seed(1)
        (expected,) = torch.autograd.grad(F.dropout(inputs, 0.5).sum(), inputs)
        assert torch.equal(found, expected) and set(found.unique().tolist()) == {0.0, 2.0}


class TestProcesses:
    def test_a_machine_with_too_few_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(InputError, match="4 processes on a machine need 4 GPUs, and 2 can be seen"):
            init_fabric(LaunchConfig("torchrun", 4, 1, True), precision="32-true")

    def test_what_came_together_is_counted(self, monkeypatch):
        """Should a launcher and Fabric understand each other wrongly, nobody trains a network of his own."""

        class Deaf:
            def __init__(self, **options):
                assert options["devices"] * options["num_nodes"] == 4

            def launch(self):
                pass

        monkeypatch.setattr(distributed, "Fabric", Deaf)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        for name, value in TORCHRUN.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match="2 processes came together, expected 2 machines with 2 each"):
            init_fabric(LaunchConfig("torchrun", 2, 2, True), precision="32-true")

    def test_other_errors_stay_what_they_are(self, monkeypatch):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(training, "set_timeout", lambda timeout: None)
        with pytest.raises(RuntimeError, match="shapes"), training.collective_timeout(4):
            raise RuntimeError("shapes do not fit")
        with pytest.raises(RunError, match="another process ended"), training.collective_timeout(4):
            raise torch.distributed.DistBackendError("NCCL")
        with pytest.raises(RunError, match="out of memory with 4 images"), training.collective_timeout(4):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
