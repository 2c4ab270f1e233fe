"""Convolution and linear layer as torch's, but left uninitialized: `worker.models.build_model` decides every weight."""

from torch import nn


class Convolution(nn.Conv2d):
    """torch.nn.Conv2d without its own initialization."""

    def reset_parameters(self) -> None:
        """Nothing: torch would draw from its global generator."""


class Linear(nn.Linear):
    """torch.nn.Linear without its own initialization."""

    def reset_parameters(self) -> None:
        """Nothing: torch would draw from its global generator."""
