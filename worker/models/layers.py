"""torch's convolution and linear layer without their initialization; `worker.models.build_model` sets every weight."""

from torch import nn


class Convolution(nn.Conv2d):
    """torch.nn.Conv2d without its own initialization."""

    def reset_parameters(self) -> None:
        """Do nothing, as torch would draw from its global random number generator."""


class Linear(nn.Linear):
    """torch.nn.Linear without its own initialization."""

    def reset_parameters(self) -> None:
        """Do nothing, as torch would draw from its global random number generator."""
