"""The training loop, one for the classifier, the DSRG network and retraining."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dsrg.data.batches import Batch, Batches
from dsrg.progress import track
from dsrg.training.curves import Curves
from dsrg.training.optimisers import build_optimiser, lr_factor, parameter_groups
from dsrg.training.resume import Checkpoints

# (network, batch, step) -> the loss, and the named values worth a curve, still on the device: scalars, and where the
# objective knows classes, vectors of one number a class
Objective = Callable[[nn.Module, Batch, int], tuple[Tensor, dict[str, Tensor]]]

LOG_EVERY = 10  # steps between points of the curves
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


class NotFiniteError(RuntimeError):
    """The loss became NaN or infinite: the message names the steps, the images and the last checkpoint."""


def set_up_torch(seed: int) -> None:
    """Seed torch and choose its deterministic algorithms: same params, same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # finds bugs, and takes up to a tenth of a step
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def fit(
    network: nn.Module,
    objective: Objective,
    batches: Batches,
    *,
    name: str,
    steps: int,
    precision: str,
    optimiser: dict,
    scratch: Path,
    curves: Path,
    classes: list[str] | None = None,
    watch: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Train `network` for `steps` steps and return it, in evaluation mode, on its device.

    Goes on from the checkpoint in `scratch`, where there is one. A step is a function of the state before it and of
    the step's number, so the weights come out the same to the bit (on CPU) however often it was interrupted.

    Args:
        precision: "fp32", or "bf16" for convolutions in bfloat16 with float32 weights.
        optimiser: params of the section `optimiser`.
        curves: TSV to write, of the loss and the other values over the steps.
        classes: background and the classes, for an objective that has values a class, see `Curves`.
        watch: called with the network and the number of steps done after every step.

    Raises:
        NotFiniteError: when the loss is not finite.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=PRECISIONS[precision])
    network = network.to(memory_format=torch.channels_last)
    rates = {key: optimiser[key] for key in ("lr", "head_lr", "bias_lr", "weight_decay")}
    groups = parameter_groups(network, **rates)
    kind = {key: optimiser[key] for key in ("name", "momentum", "beta2")}
    network, optim = fabric.setup(network, build_optimiser(groups, **kind))
    schedule = {key: optimiser[key] for key in ("warmup", "schedule", "step_every", "step_factor", "poly_power")}

    lines = Curves(scratch / "growing.tsv", classes)  # to be watched; in their place only when they are whole
    checkpoints = Checkpoints(scratch, *lines.paths)
    state = checkpoints.load()
    start = 0
    if state is None:
        lines.begin()
    else:
        start = state["step"]
        network.load_state_dict(state["network"])
        optim.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        print(f"{name}: going on from step {start} of {steps} ({scratch})", flush=True)

    network.train()
    recent: list[tuple[dict[str, Tensor], list[str]]] = []
    last_saved, interval = time.monotonic(), float(os.environ.get("DSRG_CHECKPOINT_SECONDS", "60"))
    with track(name, steps, start=start) as tracker:
        for step, batch in enumerate(batches.ahead(start, steps), start):
            factor = lr_factor(step, steps=steps, **schedule)
            for group in optim.param_groups:
                group["lr"] = group["peak_lr"] * factor
            loss, values = objective(network, batch.to(fabric.device), step)
            optim.zero_grad(set_to_none=True)
            fabric.backward(loss)
            optim.step()

            recent.append((values, batch.ids))
            done, note = step + 1, ""
            if watch is not None:
                watch(network, done)
            if done % LOG_EVERY == 0 or done == steps:
                means = _means(recent, done=done, scratch=scratch)
                lines.log(done, {**means, "lr": torch.tensor(optim.param_groups[0]["lr"], dtype=torch.float64)})
                note = f"loss {means['loss']:.4f}"
                recent.clear()
                if time.monotonic() - last_saved > interval and done < steps:
                    checkpoints.save(_state(done, network, optim))
                    last_saved = time.monotonic()
            tracker.advance(note)
    lines.finish(curves)
    return network.module.eval()


def _state(step: int, network: nn.Module, optim: torch.optim.Optimizer) -> dict:
    return {
        "step": step,
        "network": network.state_dict(),
        "optimiser": optim.state_dict(),
        "random": torch.get_rng_state(),
    }


def _means(recent: list, *, done: int, scratch: Path) -> dict[str, Tensor]:
    """Mean of each value over the steps since the last point, fetched from the device at once."""
    first, _ = recent[0]
    flat = [torch.cat([value.float().flatten() for value in values.values()]) for values, _ in recent]
    columns = torch.stack(flat).cpu().split([value.numel() for value in first.values()], dim=1)
    table = {name: column.reshape(-1, *first[name].shape) for name, column in zip(first, columns, strict=True)}
    losses = table["loss"]
    if not losses.isfinite().all():
        row = int((~losses.isfinite()).nonzero()[0])
        raise NotFiniteError(
            f"loss is {losses[row]:.0f} at step {done - len(recent) + row + 1} with the images "
            f"{', '.join(recent[row][1])}; the last good checkpoint, if there is one, is in {scratch}. "
            "A lower learning rate or precision: fp32 usually helps"
        )
    return {name: column.mean(dim=0) for name, column in table.items()}
