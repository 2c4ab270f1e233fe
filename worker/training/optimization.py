"""The optimizers, which update all parameters at once, and the learning rate of each step."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worker.spec import SGD, Adam, ConstantSchedule, MultistepSchedule, Optimizer, TrainingSpec
from worker.training.flat_tensors import FlatParameters


class FlatOptimizer:
    """SGD or Adam over flat parameters: one call of torch's fused kernel for all of them.

    The results are those of `torch.optim.SGD` and `torch.optim.Adam`, bit for bit, and so is the state in a checkpoint.

    Args:
        settings: The optimizer of a spec. Its learning rate is not used: `step` takes that of each step.
        parameters: The parameters to update.

    Attributes:
        gradients: float32 (n,), the gradients in the layout of the parameters, which `step` reads.
        gradient_views: The part of `gradients` of each parameter.
        has_state: Whether a step was taken.
    """

    def __init__(self, settings: Optimizer, parameters: FlatParameters) -> None:
        self._settings, self._parameters = settings, parameters
        self.gradients = parameters.zeros()
        self.gradient_views = parameters.views(self.gradients)
        names: tuple[str, ...]
        match settings:
            case Adam():
                names = ("exp_avg", "exp_avg_sq")
            case SGD(momentum=momentum):
                names = ("momentum_buffer",) if momentum else ()
        self._moments = {name: parameters.zeros() for name in names}
        self._parts = [parameters.parts(flat) for flat in (parameters.values, self.gradients, *self._moments.values())]
        self._count = torch.zeros((), device=parameters.values.device)
        self.has_state = False
        # Has the settings of the state in a checkpoint, and the state itself while it is read or written.
        self._template = _torch_optimizer(settings, parameters.parameters)

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors of the state."""
        yield from self._moments.values()
        yield self._count

    def reset(self, learning_rate: float) -> None:
        """Return to the state before the first step, in place."""
        for tensor in self.tensors():
            tensor.zero_()
        self.has_state = False
        self.learning_rate = learning_rate

    def take_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Copy the gradients of the parameters, in their order, unless they are `gradient_views`."""
        if gradients is self.gradient_views:
            return
        # On a GPU one kernel copies all gradients of one dtype.
        for dtype in {gradient.dtype for gradient in gradients}:
            numbers = [number for number, gradient in enumerate(gradients) if gradient.dtype == dtype]
            torch._foreach_copy_([self.gradient_views[n] for n in numbers], [gradients[n] for n in numbers])

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """Update the parameters.

        Args:
            rate: Learning rate, a scalar on the device: float64 on a CPU, float32 on a GPU, as torch's kernels take it.
        """
        settings = self._settings
        values, gradients, *moments = self._parts
        if isinstance(settings, SGD):
            torch._fused_sgd_(
                values,
                gradients,
                moments[0] if moments else [],
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                lr=rate,
                dampening=0.0,
                nesterov=settings.nesterov,
                maximize=False,
                # On a GPU a captured step is the same each time: it adds the first gradient to a momentum of zeros.
                is_first_step=not self.has_state and rate.device.type == "cpu" and bool(moments),
            )
        else:
            self._count.add_(1)
            torch._fused_adam_(
                values,
                gradients,
                moments[0],
                moments[1],
                [],
                [self._count] * len(values),
                lr=rate,
                beta1=settings.betas[0],
                beta2=settings.betas[1],
                weight_decay=settings.weight_decay,
                eps=settings.eps,
                amsgrad=False,
                maximize=False,
            )
        self.has_state = True

    @property
    def learning_rate(self) -> float:
        """Learning rate of the latest step, for the state in a checkpoint."""
        return float(self._template.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._template.param_groups[0]["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Return the state as the `state_dict` of torch's optimizer, in memory of its own."""
        template = self._template
        if self.has_state and self._moments:
            views = {name: self._parameters.views(moment) for name, moment in self._moments.items()}
            for number, parameter in enumerate(self._parameters.parameters):
                count = {"step": self._count.clone()} if isinstance(self._settings, Adam) else {}
                template.state[parameter] = count | {name: of[number].clone() for name, of in views.items()}
        state = template.state_dict()
        template.state.clear()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, in place."""
        template = self._template
        template.load_state_dict(state)
        self.reset(self.learning_rate)
        if template.state:
            for name, moment in self._moments.items():
                saved = [template.state[parameter][name] for parameter in self._parameters.parameters]
                torch._foreach_copy_(self._parameters.views(moment), saved)
            if isinstance(self._settings, Adam):
                self._count.copy_(template.state[self._parameters.parameters[0]]["step"])
        self.has_state = bool(template.state)
        template.state.clear()


def _torch_optimizer(optimizer: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
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
