"""Optimizer, parameter groups and learning-rate schedule."""

from torch import nn, optim


def parameter_groups(
    network: nn.Module, *, lr: float, head_lr: float, bias_lr: float, weight_decay: float
) -> list[dict]:
    """Every trainable parameter in exactly one group: backbone or head, weight or bias.

    Released prototxt: biases learn twice as fast and do not decay, the new last layer ten times as fast (1x, 2x, 10x,
    20x). New is what `network.new_layers` names: the head, but for the layers of it that start from ImageNet weights.
    Vectors (biases, norm scales) count as biases.
    """
    groups = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        is_fast, is_bias = name.startswith(network.new_layers), parameter.ndim == 1
        rate = lr * (head_lr if is_fast else 1) * (bias_lr if is_bias else 1)
        group = {"params": [], "lr": rate, "peak_lr": rate, "weight_decay": 0.0 if is_bias else weight_decay}
        groups.setdefault((is_fast, is_bias), group)["params"].append(parameter)
    return list(groups.values())


def build_optimizer(network: nn.Module, settings: dict) -> optim.Optimizer:
    """SGD with momentum (the paper's) or AdamW, whose first beta is the momentum; settings: params `optimizer`."""
    rates = {key: settings[key] for key in ("lr", "head_lr", "bias_lr", "weight_decay")}
    groups, momentum = parameter_groups(network, **rates), settings["momentum"]
    if settings["name"] == "sgd":
        return optim.SGD(groups, momentum=momentum)
    return optim.AdamW(groups, betas=(momentum, settings["beta2"]))


def lr_factor(
    step: int,
    *,
    steps: int,
    warmup: int,
    schedule: str,
    step_every: int,
    step_factor: float,
    poly_power: float,
) -> float:
    """What the learning rate is multiplied by at `step` (from 0): linear warm-up, then the schedule.

    "step": step_factor ** (step // step_every) (paper: 0.1 every 2000). "poly": (1 - step / steps) ** poly_power.
    """
    factor = min(1.0, (step + 1) / (warmup + 1))
    if schedule == "step":
        factor *= step_factor ** (step // step_every)
    elif schedule == "poly":
        factor *= (1 - step / steps) ** poly_power
    return factor
