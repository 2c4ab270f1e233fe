"""The one-time work of a first step: loading the libraries of torch and compiling the kernels of `gn`."""

import torch

from worker.architecture import IMAGE_CHANNELS, IMAGE_SIZE
from worker.normalizations.batch import BatchNormalization
from worker.normalizations.group import GroupNormalization
from worker.numerics.precision import choose_precision, numeric_settings
from worker.spec import TrainingSpec
from worker.training.static_step import StaticStep

BATCH_SIZE = 8


def warm_up(device: str) -> None:
    """Take one step of resnet20 with batch normalization and one with group normalization.

    They are those of a training with the default settings on this device: on a GPU they compile the kernels for the
    precision `auto`, in which jobs train there.
    """
    chosen = torch.device(device)
    for normalization in (BatchNormalization(), GroupNormalization()):
        spec = TrainingSpec(normalization=normalization, batch_size=BATCH_SIZE)
        with numeric_settings(spec, chosen):
            step = StaticStep(spec, chosen, choose_precision(spec, chosen))
            images = torch.zeros(BATCH_SIZE, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE, device=chosen)
            labels = torch.zeros(BATCH_SIZE, dtype=torch.int64, device=chosen)
            step.fill([(images, labels)], [0.0])
            step.run()
            step.results()
