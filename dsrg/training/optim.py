"""Optimizer, parameter groups and learning-rate schedule."""

from torch import nn, optim

from dsrg.params import Optimizer


def parameter_groups(network: nn.Module, settings: Optimizer) -> list[dict]:
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
        rate = settings.lr * (settings.head_lr if is_fast else 1) * (settings.bias_lr if is_bias else 1)
        decay = 0.0 if is_bias else settings.weight_decay
        group = {"params": [], "lr": rate, "peak_lr": rate, "weight_decay": decay}
        groups.setdefault((is_fast, is_bias), group)["params"].append(parameter)
    return list(groups.values())


def build_optimizer(network: nn.Module, settings: Optimizer) -> optim.Optimizer:
    """SGD with momentum (the paper's) or AdamW, whose first beta is the momentum, on the `parameter_groups`."""
    groups = parameter_groups(network, settings)
    if settings.name == "sgd":
        return optim.SGD(groups, momentum=settings.momentum)
    return optim.AdamW(groups, betas=(settings.momentum, settings.beta2))


def lr_factor(step: int, *, steps: int, settings: Optimizer) -> float:
    """What the learning rate is multiplied by at `step` (from 0): linear warm-up, then the schedule.

    "step": step_factor ** (step // step_every) (paper: 0.1 every 2000). "poly": (1 - step / steps) ** poly_power.
    """
    factor = min(1.0, (step + 1) / (settings.warmup + 1))
    if settings.schedule == "step":
        factor *= settings.step_factor ** (step // settings.step_every)
    elif settings.schedule == "poly":
        factor *= (1 - step / steps) ** settings.poly_power
    return factor
