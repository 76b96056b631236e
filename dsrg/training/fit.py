"""The training loop, one for the classifier, the DSRG network and retraining."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from dsrg.data.batches import Batch, Batches
from dsrg.data.index import Index
from dsrg.networks.heads import share_dropout
from dsrg.params import Params, Training
from dsrg.runtime.distributed import destroy_processes, init_fabric
from dsrg.runtime.launcher import SINGLE_PROCESS, LaunchConfig
from dsrg.runtime.progress import track
from dsrg.runtime.signals import uninterrupted
from dsrg.training.checkpoints import Checkpoints, random_state, set_random_state
from dsrg.training.collectives import all_reduce_mean, collective_timeout
from dsrg.training.curves import Curves, NotFiniteError, check_finite
from dsrg.training.optim import build_optimizer, lr_factor

# (network, batch, step) -> the loss, and the named values worth a curve, still on the device: scalars, and where the
# criterion knows classes, vectors of one number a class; each a mean over the images of the batch, which is a part of a
# larger one where several processes train together
Criterion = Callable[[nn.Module, Batch, int], tuple[Tensor, dict[str, Tensor]]]

LOG_EVERY = 10  # steps between points of the curves
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def set_up_torch(seed: int) -> None:
    """Seed torch and choose its deterministic algorithms: same params, same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # finds bugs, and takes up to a tenth of a step
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def batches_of(params: Params, training: str, index: Index, **supervision: Sequence[NDArray] | None) -> Batches:
    """What a training ("cam", "dsrg" or "retrain") learns from; supervision: `labels` or `erased` of `Batches`."""
    settings = getattr(params, training)
    shown = {"size": params.data.size, "batch": settings.batch, "seed": params.seed, "augment": settings.augment}
    return Batches(index, **shown, **{"labels": None} | supervision)


def fit(
    network: nn.Module,
    criterion: Criterion,
    batches: Batches,
    settings: Training,
    *,
    name: str,
    scratch: Path,
    fingerprint: str,
    curves: Path,
    classes: list[str] | None = None,
    on_step_end: Callable[[nn.Module, int], None] | None = None,
    topology: LaunchConfig = SINGLE_PROCESS,
) -> nn.Module | None:
    """Train `network` and return it, in evaluation mode, on its device.

    Resumes from the checkpoint in `scratch`, where there is one. A step is a function of the state before it and of
    the step's number, so the weights come out the same to the bit (on CPU) however often it was interrupted.

    With several processes each step is what it would be in one, up to the rounding of sums. The first of them alone
    reads and writes files and returns the network, the others None.

    Args:
        settings: params of the training's section: steps, precision, optimizer, skip_bad_steps.
        scratch, fingerprint: where unfinished work is kept, and what it belongs to, see `Checkpoints`.
        curves: TSV of the loss, other values and the gradient's norm; values a class need `classes`, see `Curves`.
        on_step_end: called with the network and the number of steps done after every step.

    Raises:
        NotFiniteError: when the loss, another value or the gradient is not finite once too often.
        RunError: when memory runs out, with the params to lower; when another process is lost.
        Stopped: when told to stop; the last whole step is kept.
    """
    fabric = init_fabric(topology, precision=PRECISIONS[settings.precision])
    first, steps = fabric.is_global_zero, settings.steps
    checkpoints = Checkpoints(scratch, fingerprint=fingerprint)
    lines = Curves(scratch / "growing.tsv" if first else None, classes)
    loop = _Loop(fabric, network, criterion, batches, settings, lines, name)
    if (saved := fabric.broadcast(checkpoints.load() if first else None)) is not None:
        loop.restore(saved)
        loop.say(f"going on from step {loop.done} of {steps} ({scratch})")
    kept = checkpoints.kept_when_stopped(loop.state) if first else nullcontext()
    with track(name, steps, start=loop.done, shown=first) as tracker, kept, collective_timeout(loop.images):
        for batch in loop.batches.ahead(loop.done, steps):
            values = loop.backward(batch.to(fabric.device))
            with uninterrupted():  # a step is done or not done
                loop.update(values)
                if on_step_end is not None and first:
                    on_step_end(loop.network, loop.done)
                note = loop.log()
                if first and loop.done < steps and checkpoints.due(loop.done):
                    checkpoints.save(loop.state())
            tracker.advance(note)
    destroy_processes()
    if not first:
        return None
    lines.finish(curves)
    if checkpoints.saves:
        loop.say(checkpoints)
    return loop.network.module.eval()


class _Loop:
    """A training under way: `backward` and `update` are a step, `state` is what a checkpoint holds."""

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        criterion: Criterion,
        batches: Batches,
        settings: Training,
        curves: Curves,
        name: str,
    ) -> None:
        self.fabric, self.criterion, self.settings, self.curves, self.name = fabric, criterion, settings, curves, name
        self.batches = batches.part(fabric.global_rank, fabric.world_size)
        self.images = self.batches.stop - self.batches.first
        self.share = self.images / batches.batch
        if fabric.world_size > 1:
            share_dropout(network, first=self.batches.first, batch=batches.batch)
        network = network.to(memory_format=torch.channels_last).train()
        self.network, self.optimizer = fabric.setup(network, build_optimizer(network, settings.optimizer))
        let_stops_through(self.network, fabric.device)
        self.done, self.skipped, self.random = 0, 0, random_state()

    def say(self, message: object) -> None:
        if self.fabric.is_global_zero:
            print(f"{self.name}: {message}", flush=True)

    def state(self) -> dict:
        """As it was after the last whole step, whatever of the next one has been done."""
        numbers = {"step": self.done, "skipped": self.skipped, "random": self.random, "curves": self.curves.state()}
        return {**numbers, "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        self.done, self.skipped, self.random = state["step"], state["skipped"], state["random"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curves.restore(state["curves"], self.fabric.device)
        set_random_state(self.random)

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """The gradients of a step; the loss and other values, and the norm of the gradients."""
        factor = lr_factor(self.done, steps=self.settings.steps, settings=self.settings.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss, values = self.criterion(self.network, batch, self.done)
        # the processes' gradients come together as their mean
        self.fabric.backward(loss * (self.share * self.fabric.world_size))
        return {**all_reduce_mean(values, share=self.share), "gradient": gradient_norm(self.network)}

    def update(self, values: dict[str, Tensor]) -> None:
        """The optimizer's step; with `skip_bad_steps` it is left out where a value is not finite."""
        ids, most = self.batches.ids(self.done), self.settings.skip_bad_steps
        try:
            if self.skipped < most:
                check_finite(values, self.done + 1, ids)
            self.optimizer.step()
            self.curves.add(self.done + 1, ids, values)
        except NotFiniteError as error:
            self.skipped += 1
            if self.fabric.is_global_zero:
                print(f"warning: {self.name}: step left out, {self.skipped} of at most {most}: {error}", flush=True)
        self.done, self.random = self.done + 1, random_state()

    def log(self) -> str:
        """Every few steps a point of the curves; what to show of it."""
        if not self.curves.recent or (self.done % LOG_EVERY and self.done < self.settings.steps):
            return ""
        means = self.curves.write(self.done, lr=self.optimizer.param_groups[0]["lr"])
        return f"loss {means['loss']:.4f}"


def let_stops_through(network: nn.Module, device: torch.device) -> None:
    """Put moments of Python into a long backward pass on the CPU, in which a signal is heard.

    CUDA's backward pass runs in a thread of its own, where they would only cost time.
    """
    if device.type == "cpu":
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda parameter: None)


def gradient_norm(network: nn.Module) -> Tensor:
    """Euclidean norm of all gradients together, a scalar on their device; not finite if any of them is not."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
