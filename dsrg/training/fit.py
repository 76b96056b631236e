"""The training loop, one for the classifier, the DSRG network and retraining."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from dsrg.data.batches import Batch, Batches
from dsrg.networks.dropout import share_dropout
from dsrg.runtime.distributed import destroy_processes, init_fabric
from dsrg.runtime.launcher import SINGLE_PROCESS, LaunchConfig
from dsrg.runtime.progress import track
from dsrg.runtime.signals import uninterrupted
from dsrg.training.checkpoints import Checkpoints, random_state, set_random_state
from dsrg.training.collectives import all_reduce_mean, collective_timeout
from dsrg.training.curves import Curves, NotFiniteError, check_finite
from dsrg.training.optim import build_optimizer, lr_factor

# (network, batch, step) -> the loss, and the named values worth a curve, still on the device: scalars, and where the
# objective knows classes, vectors of one number a class; each a mean over the images of the batch, which is a part of a
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


def fit(
    network: nn.Module,
    objective: Criterion,
    batches: Batches,
    *,
    name: str,
    steps: int,
    precision: str,
    optimizer: dict,
    skip_bad_steps: int,
    scratch: Path,
    fingerprint: str,
    curves: Path,
    classes: list[str] | None = None,
    watch: Callable[[nn.Module, int], None] | None = None,
    topology: LaunchConfig = SINGLE_PROCESS,
) -> nn.Module:
    """Train `network` for `steps` steps and return it, in evaluation mode, on its device.

    Goes on from the checkpoint in `scratch`, where there is one. A step is a function of the state before it and of
    the step's number, so the weights come out the same to the bit (on CPU) however often it was interrupted.

    With several processes each step is what it would be in one, up to the rounding of sums. The first of them alone
    reads and writes files, and returns; the others end here.

    Args:
        precision: "fp32", or "bf16" for convolutions in bfloat16 with float32 weights.
        optimizer: params of the section `optimizer`.
        skip_bad_steps: steps with a loss or gradient that is no number are left out, up to so many.
        scratch, fingerprint: where unfinished work is kept, and what it belongs to, see `Checkpoints`.
        curves: TSV to write, of the loss, the other values and the gradient's norm over the steps.
        classes: background and the classes, for an objective that has values a class, see `Curves`.
        watch: called with the network and the number of steps done after every step.
        topology: the processes that train together.

    Raises:
        NotFiniteError: when the loss, another value or the gradient is not finite once too often.
        RunError: when memory runs out, with the params to lower; when another process is lost.
        Stopped: when told to stop; the last whole step is kept.
    """
    fabric = init_fabric(topology, precision=PRECISIONS[precision])
    first, processes = fabric.is_global_zero, fabric.world_size
    batches = batches.part(fabric.global_rank, processes)
    share = (batches.stop - batches.first) / batches.batch
    if processes > 1:
        share_dropout(network, first=batches.first, batch=batches.batch)
    network = network.to(memory_format=torch.channels_last)
    network, optim = fabric.setup(network, build_optimizer(network, optimizer))
    schedule = {key: optimizer[key] for key in ("warmup", "schedule", "step_every", "step_factor", "poly_power")}
    let_stops_through(network, fabric.device)

    done, skipped, random = 0, 0, random_state()
    checkpoints = Checkpoints(scratch, fingerprint=fingerprint)
    # to be watched; in their place only when they are whole
    lines = Curves(scratch / "growing.tsv" if first else None, classes)
    if (saved := fabric.broadcast(checkpoints.load() if first else None)) is not None:
        done, skipped, random = saved["step"], saved["skipped"], saved["random"]
        network.load_state_dict(saved["network"])
        optim.load_state_dict(saved["optimizer"])
        lines.restore(saved["curves"], fabric.device)
        set_random_state(random)
        if first:
            print(f"{name}: going on from step {done} of {steps} ({scratch})", flush=True)

    def state() -> dict:
        """As it was after the last whole step, whatever of the next one has been done."""
        numbers = {"step": done, "skipped": skipped, "random": random, "curves": lines.state()}
        return {**numbers, "network": network.state_dict(), "optimizer": optim.state_dict()}

    def learn(batch: Batch, step: int) -> dict[str, Tensor]:
        """The gradients of a step; the loss and other values, and the norm of the gradients."""
        optim.zero_grad(set_to_none=True)
        loss, values = objective(network, batch, step)
        fabric.backward(loss * (share * processes))  # the processes' gradients come together as their mean
        return {**all_reduce_mean(values, share=share), "gradient": gradient_norm(network)}

    network.train()
    kept = checkpoints.kept_when_stopped(state) if first else nullcontext()
    with track(name, steps, start=done, shown=first) as tracker, kept, collective_timeout(batches.stop - batches.first):
        for step, batch in enumerate(batches.ahead(done, steps), done):
            factor = lr_factor(step, steps=steps, **schedule)
            for group in optim.param_groups:
                group["lr"] = group["peak_lr"] * factor
            values = learn(batch.to(fabric.device), step)
            note = ""
            with uninterrupted():  # a step is done or not done
                try:
                    if skipped < skip_bad_steps:
                        check_finite(values, step + 1, batches.ids(step))
                    optim.step()
                    lines.add(step + 1, batches.ids(step), values)
                except NotFiniteError as error:
                    skipped += 1
                    if first:
                        said = f"step left out, {skipped} of at most {skip_bad_steps}: {error}"
                        print(f"warning: {name}: {said}", flush=True)
                done, random = step + 1, random_state()
                if watch is not None and first:
                    watch(network, done)
                if lines.recent and (done % LOG_EVERY == 0 or done == steps):
                    means = lines.write(done, lr=optim.param_groups[0]["lr"])
                    note = f"loss {means['loss']:.4f}"
                if first and done < steps and checkpoints.due(done):
                    checkpoints.save(state())
            tracker.advance(note)
    destroy_processes()
    if not first:
        sys.exit()
    lines.finish(curves)
    if checkpoints.saves:
        print(f"{name}: {checkpoints}", flush=True)
    return network.module.eval()


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
