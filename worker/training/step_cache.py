"""The steps of finished trainings, kept for trainings of the same kind.

Only a GPU gains by it: its steps are captured as CUDA graphs, which takes longer than many steps. On a CPU a step is
built as fast as it is reset.
"""

from collections import OrderedDict
from collections.abc import Hashable

import torch

from worker.numerics.precision import Precision
from worker.spec import TrainingSpec
from worker.training.static_step import StaticStep


class StepCache:
    """Keeps steps until they exceed `max_bytes`; the least recently used is released first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._steps: OrderedDict[Hashable, StaticStep] = OrderedDict()

    def take(self, spec: TrainingSpec, device: torch.device, precision: Precision) -> StaticStep:
        """Return a step at the beginning of the training `spec`: one that was kept, or a new one."""
        step = self._steps.pop(_kind(spec, device, precision), None)
        if step is None:
            return StaticStep(spec, device, precision)
        step.reset(spec)
        return step

    def keep(self, spec: TrainingSpec, step: StaticStep) -> None:
        """Keep a step after its training `spec`. One whose training failed is not kept."""
        self._steps[_kind(spec, step.device, step.precision)] = step
        while sum(kept.nbytes for kept in self._steps.values()) > self.max_bytes:
            self._steps.popitem(last=False)

    def clear(self) -> None:
        """Release all steps."""
        self._steps.clear()


def _kind(spec: TrainingSpec, device: torch.device, precision: Precision) -> Hashable:
    """What decides which kernels a step runs; the learning rate is data of each step."""
    optimizer = spec.optimizer.model_copy(update={"learning_rate": 1.0})
    loss = spec.label_smoothing, spec.ema
    return spec.model, spec.normalization, spec.batch_size, precision, spec.deterministic, optimizer, loss, device
