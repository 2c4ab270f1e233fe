"""The optimizer and the learning rate of each step."""

import math

import torch
from torch import nn

from worker.spec import SGD, ConstantSchedule, MultistepSchedule, TrainingSpec


def build_optimizer(spec: TrainingSpec, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over all parameters of `model`; `learning_rate` gives the rate of each step."""
    optimizer = spec.optimizer
    parameters = list(model.parameters())
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(
            parameters,
            lr=optimizer.learning_rate,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(
        parameters,
        lr=optimizer.learning_rate,
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        fused=True,
    )


def learning_rate(spec: TrainingSpec, step: int) -> float:
    """Return the learning rate of optimizer step `step` (from 0): scaled rate × schedule × warm-up.

    The schedule extends over the whole training, `spec.total_steps`. The warm-up multiplies it by 1/w, 2/w, ..., 1 in
    the first w = `warmup_epochs` × steps per epoch steps (Goyal et al. 2017, section 2.2).
    """
    warmup_steps = spec.schedule.warmup_epochs * spec.steps_per_epoch
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return spec.scaled_learning_rate * _schedule(spec, step) * warmup


def _schedule(spec: TrainingSpec, step: int) -> float:
    schedule, total_steps = spec.schedule, spec.total_steps
    if isinstance(schedule, ConstantSchedule):
        return 1.0
    if isinstance(schedule, MultistepSchedule):
        passed = sum(step >= round(milestone * total_steps) for milestone in schedule.milestones)
        return float(schedule.gamma**passed)
    cosine = (1 + math.cos(math.pi * step / total_steps)) / 2
    return schedule.final_fraction + (1 - schedule.final_fraction) * cosine
